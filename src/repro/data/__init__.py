"""One adapter per public data set; one schema out."""

from collections.abc import Callable

from repro.data import alpaca_eval, arena_bench, gpt4_llm, hh_rlhf, llmbar, pandalm, pku_saferlhf
from repro.data.schema import Answer, Loaded, Malformed, Pair, Prompt, SetAside
from repro.data.sources import SetStatus, status

ADAPTERS: dict[str, Callable[..., Loaded]] = {
    hh_rlhf.NAME: hh_rlhf.load,
    pku_saferlhf.NAME: pku_saferlhf.load,
    alpaca_eval.NAME: alpaca_eval.load,
    llmbar.NAME: llmbar.load,
    arena_bench.NAME: arena_bench.load,
    gpt4_llm.NAME: gpt4_llm.load,
    pandalm.NAME: pandalm.load,
}

__all__ = ["ADAPTERS", "Answer", "Loaded", "Malformed", "Pair", "Prompt", "SetAside", "SetStatus", "status"]
