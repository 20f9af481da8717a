"""GPT-4-LLM's scores: what GPT-4 gave three models' answers to about 51,000 instructions, 1 to 10, each answer alone.

File: {"text-davinci-003": [9.0, 9.0, …], "icm-1.3b": [4.0, …], "gpt4": [9.0, …]} → three lists of scores.
No texts, no ids, and the lists differ in length: the i-th scores of two models are NOT of one instruction, so no pair
can be read from this file, only how often each model gets each score. A few scores are 0, outside the judge's scale.
Peng et al. 2023, arXiv 2304.03277; GitHub only, so the hub has no rows of it; data CC-BY-NC-4.0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import DataError, MissingInput
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import GET_DATA, read_bytes
from repro.data.schema import Loaded, Malformed, Reason, Unusable

NAME = "gpt-4-llm"
FILE = "cmp_data_scores.json.gz"
LOWEST, HIGHEST = 1, 10


@dataclass(frozen=True)
class ModelScores:
    """One model's usable scores in the file's order, their places from 1 in its list, and how many the list has."""

    model: str
    scores: tuple[float, ...]
    places: tuple[int, ...]
    listed: int


def load(folder: Path | str | None = None) -> Loaded:
    """Three `ModelScores`; scores set aside carry their place in the model's list (Peng et al. 2023).

    folder: a data folder, None for the project's own. Raises MissingInput without the file, DataError if it is no
    object of lists or leaves a model without a score.
    """
    home, malformed, found = folder_with(NAME, folder), Malformed(), []
    if home is None:
        raise MissingInput("is not in a data folder, and the hub has no rows of it", where=NAME, fix=HOW_TO_GET_DATA)
    path = file_of(home, FILE, False, NAME)
    for model, listed in _lists(path).items():
        numbered = [(place, (place, value)) for place, value in enumerate(listed, start=1)]
        scores = dict(malformed.collect(numbered, f"{NAME}/{FILE}, {model}", lambda row: (row[0], score_from(row[1]))))
        if not scores:
            raise DataError(f"{model} has no usable score", where=path, fix=GET_DATA)
        found.append(ModelScores(model, tuple(scores.values()), tuple(scores), len(listed)))
    return Loaded(tuple(found), tuple(malformed.records), f"{NAME} (scores)")


def _lists(path: Path) -> dict[str, list[Any]]:
    content, whole = read_bytes(path)
    try:
        found = json.loads(content.decode("utf-8")) if whole else None
    except (ValueError, RecursionError) as problem:
        raise DataError(f"is not JSON in UTF-8 ({problem})", where=path, fix=GET_DATA) from problem
    if not isinstance(found, dict) or not found or not all(isinstance(each, list) for each in found.values()):
        raise DataError("is no object of lists" if whole else "is cut short", where=path, fix=GET_DATA)
    return found


def score_from(value: Any) -> float:
    """One score from 1 to 10; raises Unusable with the reason."""
    if value is None:
        raise Unusable(Reason.MISSING, "score is null")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(Reason.WRONG_TYPE, f"score is {value!r}")
    if not LOWEST <= value <= HIGHEST:
        raise Unusable(Reason.OUT_OF_RANGE, f"score is {value}")
    return float(value)
