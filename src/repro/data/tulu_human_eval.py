"""People's comparisons of four models' answers to the user-oriented tasks of self-instruct, some by several people.

Row: {"instance_id": "user_oriented_task_2", "prompt": "Rewrite the given text and…", "model_a": "tulu_65B", "model_b":
"chatgpt", "completion_a": "If you'd told me…", "completion_b": "If you had told me…", "preference": "a-is-better",
"evaluator": "annotator_13"}; a preference is one of GRADES. → Comparison(prompt, answers, models, people): both orders of
two answers are one comparison, answers in the order of their models' names, verdicts 1, 2 or 0 for a tie.
Nobody but people judged these answers. Wang et al. 2023, arXiv 2306.04751; human_eval/data of allenai/open-instruct;
Apache-2.0. The source is a spreadsheet, of which the data folder holds a conversion with its people renamed; that cannot
be made again from the source, so the set is read only where it is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import MissingInput
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Reason, Turns, Unusable, check_answers, field_of, text_field

NAME = "tulu-human-eval"
FILE = "eval_annotations_tulu_1.jsonl.gz"
GRADES = {"a-is-better": 2, "a-is-slightly-better": 1, "tie": 0, "b-is-slightly-better": -1, "b-is-better": -2}


@dataclass(frozen=True)
class Comparison:
    """Two models' answers to a prompt, and which of them each person preferred: 1, 2 or 0 (a tie), by the person's name."""

    prompt: Turns
    answers: tuple[str, str]
    models: tuple[str, str]
    people: Mapping[str, int]


def load(folder: Path | str | None = None) -> Loaded:
    """Comparisons with the verdict of each person who made them (Wang et al. 2023).

    folder: a data folder, None for the project's own. A person's second verdict on the same comparison is set aside.
    Raises MissingInput without the file, DataError if it is useless.
    """
    home, malformed = folder_with(NAME, folder), Malformed()
    if home is None:
        raise MissingInput("is not in a data folder, and nowhere else as it is here", where=NAME, fix=HOW_TO_GET_DATA)
    where, found = f"{NAME}/{FILE}", {}
    rows = read_rows(file_of(home, FILE, False, NAME), malformed, where=where)
    malformed.collect(rows, where, lambda row: _add(row, found))
    comparisons = [Comparison(prompt, answers, models, people) for (prompt, answers, models), people in found.items()]
    return Loaded(tuple(comparisons), tuple(malformed.records), NAME)


def _add(row: Any, found: dict[tuple, dict[str, int]]) -> None:
    compared, person, verdict = verdict_from(row)
    people = found.setdefault(compared, {})
    if person in people:
        raise Unusable(Reason.REPEATED, f"{person} compared these before")
    people[person] = verdict


def verdict_from(row: Any) -> tuple[tuple[Turns, tuple[str, str], tuple[str, str]], str, int]:
    """What one source row compares (prompt, answers, models), who says it, and the verdict; raises Unusable with the reason."""
    prompt, person = text_field(row, "prompt"), text_field(row, "evaluator")
    models = text_field(row, "model_a"), text_field(row, "model_b")
    answers = text_field(row, "completion_a"), text_field(row, "completion_b")
    said = field_of(row, "preference")
    if not isinstance(said, str) or said not in GRADES:
        raise Unusable(Reason.NO_CHOICE, f"preference is {said!r}")
    if not prompt.strip():
        raise Unusable(Reason.EMPTY_TURN)
    check_answers(*answers)
    grade = GRADES[said]
    if models[0] > models[1]:
        models, answers, grade = models[::-1], answers[::-1], -grade
    return ((("user", prompt),), answers, models), person, (0 if grade == 0 else 1 if grade > 0 else 2)
