"""Arena-bench-v1: GPT-4's ratings, 1 to 10, of eight models' answers to 300 hard prompts; each answer rated alone.

Row: {"question_id": "66c00d…", "model": "gpt-4-0314", "user_prompt": "[Question]\\nWhat is the equation…[The Start
of Assistant's Answer]\\nThe slope…", "judgment": "The assistant's answer is correct…Rating: [[9]]", "score": 9}
→ Rating(question_id, model, answer, 9). The judge also read a GPT-4 answer as reference, which favours models like it.
A score is null (-1 in some versions) where no rating could be read from the judgment: Rating.score is None, and the
answer stays. December 2023, a precursor of Arena-Hard and NOT its protocol or questions; only in the history of
lmarena/arena-hard-auto, so the hub has no rows of it; Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import MissingInput, SettingsError
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Reason, Unusable, field_of, text_field

NAME = "arena-hard"
JUDGMENTS = "arena-bench-v1/model_judgment/{model}.jsonl.gz"
MODELS = (
    "gpt-4-0314",
    "gpt-3.5-turbo-1106",
    "claude-2.1",
    "Mixtral-8x7B-Instruct-v0.1",
    "Starling-LM-7B-alpha",
    "Llama-2-70b-chat",
    "vicuna-33b-v1.3",
    "Mistral-7B-Instruct-v0.1",
)
LOWEST, HIGHEST, UNREAD = 1, 10, -1
BEFORE, AFTER = "[The Start of Assistant's Answer]", "[The End of Assistant's Answer]"


@dataclass(frozen=True)
class Rating:
    """What the judge gave `model`'s answer to a question, from 1 to 10; None where its judgment holds no rating."""

    question_id: str
    model: str
    answer: str
    score: float | None


def load(folder: Path | str | None = None, *, models: Sequence[str] = MODELS) -> Loaded:
    """Ratings of the named models' answers (lmarena/arena-hard-auto, data/arena-bench-v1).

    folder: a data folder, None for the project's own. Raises SettingsError for an unknown model, MissingInput without
    the files, DataError if a file is useless.
    """
    if unknown := set(models) - set(MODELS):
        raise SettingsError(f"unknown model {min(unknown)!r}", where=NAME, fix=f"choose from {', '.join(MODELS)}")
    home, malformed, ratings = folder_with(NAME, folder), Malformed(), []
    if home is None:
        raise MissingInput("is not in a data folder, and the hub has no rows of it", where=NAME, fix=HOW_TO_GET_DATA)
    for model in models:
        file, seen = JUDGMENTS.format(model=model), set()
        rows = read_rows(file_of(home, file, False, NAME), malformed, where=f"{NAME}/{file}")

        def build(row: Any, model: str = model, seen: set[str] = seen) -> Rating:
            rating = rating_from(row, model)
            if rating.question_id in seen:
                raise Unusable(Reason.REPEATED, rating.question_id)
            seen.add(rating.question_id)
            return rating

        ratings += malformed.collect(rows, f"{NAME}/{file}", build)
    return Loaded(tuple(ratings), tuple(malformed.records), f"{NAME} (arena-bench-v1)")


def rating_from(row: Any, model: str) -> Rating:
    """One source row as a Rating under the model's short name; raises Unusable with the reason."""
    question, asked = text_field(row, "question_id"), text_field(row, "user_prompt")
    score = field_of(row, "score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise Unusable(Reason.WRONG_TYPE, f"score is {score!r}")
    if score == UNREAD:
        score = None
    if score is not None and not LOWEST <= score <= HIGHEST:
        raise Unusable(Reason.OUT_OF_RANGE, f"score is {score}")
    if BEFORE not in asked:
        raise Unusable(Reason.MISSING, "the answer within user_prompt")
    answer = asked.rpartition(BEFORE)[2].strip().removesuffix(AFTER).strip()
    return Rating(question, model, answer, None if score is None else float(score))
