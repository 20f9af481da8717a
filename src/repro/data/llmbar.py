"""LLMBar: two answers to one instruction, and which of them follows it.

Row: {"input": "What does the phrase \"smaller fish to fry\" mean?", "output_1": "The phrase \"bigger fish…",
"output_2": "The phrase \"smaller fish…", "label": 2} → output_2 over output_1.
LLMBAR: 419 pairs whose label is objective, the llmbar-* subsets of RewardBench's Chat Hard. PROCESSED: 466 pairs of
MT-Bench, FairEval and LLMEval2 in the same schema, whose label is the human majority.
Zeng et al. 2024, arXiv 2310.07641; MIT. The hub's princeton-nlp/LLMBar holds only a script that downloads from
GitHub, and data sets' scripts no longer run, so the data folder is the only source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.core.errors import MissingInput, SettingsError
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Pair, Reason, Unusable, check_answers, field_of, text_field

NAME = "llmbar"
HUB_ID = "princeton-nlp/LLMBar"
# The name RewardBench gives each subset, and its file.
LLMBAR = {
    "llmbar-natural": "LLMBar/Natural/dataset.json.gz",
    "llmbar-adver-neighbor": "LLMBar/Adversarial/Neighbor/dataset.json.gz",
    "llmbar-adver-GPTInst": "LLMBar/Adversarial/GPTInst/dataset.json.gz",
    "llmbar-adver-GPTOut": "LLMBar/Adversarial/GPTOut/dataset.json.gz",
    "llmbar-adver-manual": "LLMBar/Adversarial/Manual/dataset.json.gz",
}
PROCESSED = {
    "mt-bench": "Processed/MT-Bench/dataset.json.gz",
    "faireval": "Processed/FairEval/dataset.json.gz",
    "llmeval2": "Processed/LLMEval2/dataset.json.gz",
}
FILES = LLMBAR | PROCESSED


def load(folder: Path | str | None = None, *, subsets: Sequence[str] = tuple(LLMBAR), hub: str = HUB_ID) -> Loaded:
    """Pairs of the named subsets: LLMBAR by default, PROCESSED or any of FILES (Zeng et al. 2024).

    folder: a data folder, None for the project's own; hub: a local copy of the repository's `Dataset` folder.
    `Pair.extras` is {"subset", "label"}, the label (1 or 2) being the place of the chosen answer. Raises
    SettingsError for an unknown subset, MissingInput without the files, DataError if a file is useless.
    """
    if unknown := set(subsets) - set(FILES):
        raise SettingsError(f"unknown subset {min(unknown)!r}", where=NAME, fix=f"choose from {', '.join(FILES)}")
    home, malformed, pairs = folder_with(NAME, folder), Malformed(), []
    if home is None and not Path(hub).is_dir():
        raise MissingInput("is not in a data folder, and the hub has no rows of it", where=NAME, fix=HOW_TO_GET_DATA)
    for subset in subsets:
        where = f"{NAME}/{FILES[subset]}"
        path = file_of(home if home is not None else Path(hub), FILES[subset], False, hub)
        rows = read_rows(path, malformed, where=where)
        pairs += malformed.collect(rows, where, lambda row, subset=subset: pair_from(row, subset))
    return Loaded(tuple(pairs), tuple(malformed.records), f"{NAME} ({', '.join(subsets)})")


def pair_from(row: Any, subset: str) -> Pair:
    """One source row as a Pair; raises Unusable with the reason."""
    prompt = text_field(row, "input")
    answers = text_field(row, "output_1"), text_field(row, "output_2")
    label = field_of(row, "label")
    if type(label) is not int or label not in (1, 2):
        raise Unusable(Reason.NO_CHOICE, f"label is {label!r}")
    if not prompt.strip():
        raise Unusable(Reason.EMPTY_TURN)
    chosen, rejected = answers if label == 1 else answers[::-1]
    check_answers(chosen, rejected)
    return Pair((("user", prompt),), chosen, rejected, f"{NAME}/{subset}", {"subset": subset, "label": label})
