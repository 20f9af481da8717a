"""PandaLM's test set: two answers to one instruction, compared by three people, by GPT-3.5 and by PandaLM-7B.

Row: {"idx": 0, "cmp_key": "bloom-7b_llama-7b", "instruction": "The sentence…", "input": "If you have…", "response1":
"…", "response2": "…", "annotator1": 2, "annotator2": 2, "annotator3": 2}; 1 and 2 name the better answer, 0 a tie.
A judge's file has, for the same idx, {"gpt_result": "1" | "2" | "Tie" | "garbage"} or {"pandalm_result": 0 | 1 | 2}.
→ Comparison(prompt, answers, people=(2, 2, 2), judges={"GPT-3.5": 1, "PandaLM-7B": 2}); a verdict that is none is None.
Six answers are `true` instead of text, 54 rows hold an empty answer: both are set aside.
Wang et al. 2024, arXiv 2306.05087; the repository WeOpenML/PandaLM; Apache-2.0. No file of it is on the hub.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import MissingInput
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import read_rows
from repro.data.schema import Loaded, Malformed, Pair, Reason, Turns, Unusable, check_answers, field_of, text_field

NAME = "pandalm"
FILE = "testset-v1.json.gz"
GPT, PANDALM = "GPT-3.5", "PandaLM-7B"
JUDGES = {  # the judge's file, the field of its verdict, and what a verdict says: 1, 2, 0 for a tie, None for neither
    GPT: ("gpt-3.5-turbo-testset-v1.json.gz", "gpt_result", {"1": 1, "2": 2, "Tie": 0, "garbage": None}),
    PANDALM: ("pandalm-7b-testset-v1.json.gz", "pandalm_result", {1: 1, 2: 2, 0: 0}),
}
PEOPLE = ("annotator1", "annotator2", "annotator3")


@dataclass(frozen=True)
class Comparison:
    """Two answers to a prompt, and who of people and judges preferred which: 1, 2 or 0 (a tie); None is no verdict."""

    prompt: Turns
    answers: tuple[str, str]
    people: tuple[int, ...]
    judges: Mapping[str, int | None]

    @property
    def majority(self) -> int | None:
        """What more than half of the people say; None where nothing is said so often."""
        verdict, count = Counter(self.people).most_common(1)[0]
        return verdict if 2 * count > len(self.people) else None

    @property
    def unanimous(self) -> bool:
        """Whether all people name the same answer, which a shared tie does not."""
        return len(set(self.people)) == 1 and self.people[0] != 0

    def pair(self, verdict: int) -> Pair:
        """The comparison as a Pair, the answer that the verdict (1 or 2) names as the chosen one."""
        chosen, rejected = self.answers if verdict == 1 else self.answers[::-1]
        return Pair(self.prompt, chosen, rejected, NAME)


def load(folder: Path | str | None = None) -> Loaded:
    """Comparisons with the people's and the judges' verdicts (Wang et al. 2024).

    folder: a data folder, None for the project's own. Raises MissingInput without the files, DataError if one is
    useless.
    """
    home, malformed, verdicts = folder_with(NAME, folder), Malformed(), {}
    if home is None:
        raise MissingInput("is not in a data folder, and the hub has no rows of it", where=NAME, fix=HOW_TO_GET_DATA)
    for judge, (file, field, words) in JUDGES.items():
        where = f"{NAME}/{file}"
        rows = read_rows(file_of(home, file, False, NAME), malformed, where=where)
        said = malformed.collect(rows, where, lambda row, field=field, words=words: _verdict(row, field, words))
        verdicts[judge] = dict(said)
    rows = read_rows(file_of(home, FILE, False, NAME), malformed, where=f"{NAME}/{FILE}")
    found = malformed.collect(rows, f"{NAME}/{FILE}", lambda row: comparison_from(row, verdicts))
    return Loaded(tuple(found), tuple(malformed.records), NAME)


def _verdict(row: Any, field: str, words: Mapping[Any, int | None]) -> tuple[Any, int | None]:
    said = field_of(row, field)
    if isinstance(said, bool) or not isinstance(said, (int, str)):
        raise Unusable(Reason.WRONG_TYPE, f"{field} is {said!r}")
    if said not in words:
        raise Unusable(Reason.NO_CHOICE, f"{field} is {said!r}")
    return field_of(row, "idx"), words[said]


def comparison_from(row: Any, verdicts: Mapping[str, Mapping[Any, int | None]]) -> Comparison:
    """One source row as a Comparison with the judges' verdicts by idx; raises Unusable with the reason."""
    parts = [text_field(row, name).strip() for name in ("instruction", "input")]
    answers = text_field(row, "response1"), text_field(row, "response2")
    people = tuple(field_of(row, name) for name in PEOPLE)
    if any(type(verdict) is not int or verdict not in (0, 1, 2) for verdict in people):
        raise Unusable(Reason.NO_CHOICE, f"annotators say {people!r}")
    if not any(parts):
        raise Unusable(Reason.EMPTY_TURN)
    check_answers(*answers)
    index = field_of(row, "idx")
    judges = {judge: said.get(index) for judge, said in verdicts.items()}
    return Comparison((("user", "\n\n".join(filter(None, parts))),), answers, people, judges)
