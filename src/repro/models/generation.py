"""Answers of a language model to prompts, n samples each, on transformers (`repro.models.sampling`) or vLLM.

A prompt's samples depend on the prompt, the seed, the sample's number and the model, not on the other prompts, their
order or the batch; `repro.models.sampling` says how far floating-point numbers let that hold.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.models.load import PRECISIONS, find_model, load_model, load_tokenizer
from repro.models.sampling import Drawn, Sampling, check_lengths, key_of, sample_tokens

Turns = tuple[tuple[str, str], ...]  # (role, text), the last turn the user's


@dataclass(frozen=True)
class Sample:
    """One answer. tokens: all that the model drew, its end token included; text: without the end token or stop text.

    finished: ended by itself, not by max_new_tokens. logprob: log-probability of `tokens` in nats, under the model as
    it is (temperature 1, no nucleus), whatever was sampled from.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool
    logprob: float


Engine = Callable[[Sequence[Turns], Sampling], list[list[Sample]]]


def engine(name: str, model: str, *, batch_size: int = 256, precision: str = "fp32", device: str = "auto") -> Engine:
    """The model of a folder or hub id as a function (prompts, sampling) -> n samples a prompt.

    name: `transformers`, or `vllm` (which sets its own batches and device). Raises SettingsError for another name,
    MissingInput if the model or vLLM is missing, DataError for a damaged folder.
    """
    if name not in ("transformers", "vllm"):
        raise SettingsError(f"unknown engine {name!r}", where="engine", fix="choose transformers or vllm")
    if name == "vllm":
        return _vllm(model, precision)
    loaded = load_model(model, task="language", precision=precision, device=device)
    return partial(generate, loaded, load_tokenizer(model), batch_size=batch_size)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    sampling: Sampling,
    *,
    batch_size: int = 256,
) -> list[list[Sample]]:
    """n samples a prompt, (prompts)(n); the same prompt twice has the same samples. Raises as `sample_tokens` does."""
    ids = encode(tokenizer, prompts)
    end = partial(stop_at, tokenizer, sampling.stop) if sampling.stop else None
    ends = end_tokens(model, tokenizer)
    drawn = sample_tokens(model, ids, sampling, ends=ends, end=end, batch_size=batch_size)
    return [[sample_of(tokenizer, each, ends, sampling.stop) for each in samples] for samples in drawn]


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns]) -> list[list[int]]:
    """Token ids of each prompt behind the chat template, open for the assistant; the template sets the only BOS.

    Raises DataError if the tokenizer has no chat template, or a prompt has no turns or does not end with the user's.
    """
    if tokenizer.chat_template is None:
        fix = "save the tokenizer with one, or use a model trained to chat"
        raise DataError("the tokenizer has no chat template", where=tokenizer.name_or_path, fix=fix)
    texts = []
    for index, turns in enumerate(prompts):
        if not turns or turns[-1][0] != "user":
            raise DataError("does not end with a user's turn", where=f"prompt {index}", fix="drop the answer after it")
        chat = [{"role": role, "content": text} for role, text in turns]
        texts.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that end an answer: the tokenizer's end of sequence and those of the model's generation config."""
    stated = getattr(model.generation_config, "eos_token_id", None)
    stated = stated if isinstance(stated, list) else [stated]
    return {token for token in (*stated, tokenizer.eos_token_id) if token is not None}


def stop_at(tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], tokens: Sequence[int]) -> int | None:
    """How many of the tokens the text needs to hold its first stop text; None if it has none."""

    def stopped(count: int) -> bool:
        return any(word in _decode(tokenizer, tokens[:count]) for word in stop)

    return bisect_left(range(len(tokens)), True, key=stopped) if stopped(len(tokens)) else None


def sample_of(tokenizer: PreTrainedTokenizerBase, drawn: Drawn, ends: Collection[int], stop: Sequence[str]) -> Sample:
    """The sample in words: without its end token, cut before its first stop text."""
    last = bool(drawn.tokens) and drawn.tokens[-1] in ends
    text = _decode(tokenizer, drawn.tokens[:-1] if last else drawn.tokens)
    text = text[: min((place for word in stop if (place := text.find(word)) >= 0), default=len(text))]
    return Sample(text, drawn.tokens, drawn.finished, float(sum(drawn.logprobs)))


def _decode(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _vllm(model: str, precision: str) -> Engine:
    """vLLM's engine on this machine's GPUs, all of them holding one model together (tensor parallel)."""
    try:
        import vllm
    except ImportError as error:
        fix = "pip install 'repro[gpu]' on a machine with a GPU, or set the engine to transformers"
        raise MissingInput("vLLM is not installed", where="engine vllm", fix=fix) from error
    import torch

    name, tokenizer = str(find_model(model) or model), load_tokenizer(model)
    parallel = max(torch.cuda.device_count(), 1)
    dtype = str(PRECISIONS[precision]).removeprefix("torch.")
    loaded = vllm.LLM(model=name, tokenizer=name, dtype=dtype, seed=0, tensor_parallel_size=parallel)
    return partial(_generate_vllm, loaded, tokenizer)


def _generate_vllm(
    loaded: object, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Turns], sampling: Sampling
) -> list[list[Sample]]:
    """vLLM seeds sample j of a request with the request's seed + j, so a prompt's own seed makes its samples its own.

    Prompts go as token ids: as text, vLLM would put a second BOS before the template's.
    """
    from vllm import SamplingParams

    ids = encode(tokenizer, prompts)
    check_lengths(ids, sampling.max_new_tokens, loaded.llm_engine.model_config.max_model_len)
    copies = sampling.n if sampling.temperature else 1  # vLLM refuses n greedy answers, which are all the same
    shared = {"n": copies, "temperature": sampling.temperature, "top_p": sampling.top_p, "logprobs": 0}
    shared |= {"max_tokens": sampling.max_new_tokens, "stop": list(sampling.stop)}
    asked = [SamplingParams(seed=key_of(prompt, sampling.seed, 6), **shared) for prompt in ids]
    outputs = loaded.generate([{"prompt_token_ids": prompt} for prompt in ids], asked) if ids else []
    found = []
    for request in outputs:
        samples = [
            Sample(each.text, tuple(each.token_ids), each.finish_reason == "stop", float(each.cumulative_logprob))
            for each in sorted(request.outputs, key=lambda each: each.index)
        ]
        found.append(samples * (sampling.n // copies))
    return found
