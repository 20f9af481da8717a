"""What every adapter hands on: prompts, pairs, answers, and the rows it could not use."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Turn = tuple[str, str]  # (role, text); the roles are those of chat templates: system, user, assistant
Turns = tuple[Turn, ...]

LONGEST_TEXT = 1_000_000  # characters; the longest real text here has about 20,000


class Reason(StrEnum):
    """Why a row is set aside."""

    EQUAL = "the two answers are equal"
    EMPTY_ANSWER = "an answer is empty"
    EMPTY_TURN = "a turn of the prompt is empty"
    ROLES = "the roles do not alternate, beginning with the human"
    NO_TURNS = "there is no 'Human:' turn"
    NOT_ANSWERED = "the last turn is not the assistant's"
    DIVERGES = "chosen and rejected differ before their last turn"
    NOT_A_ROW = "the row is not an object"
    MISSING = "a field is missing"
    WRONG_TYPE = "a field has the wrong type"
    OUT_OF_RANGE = "a number is outside its range"
    NO_CHOICE = "the label chooses neither answer"
    REPEATED = "an earlier row is the same"
    UNKNOWN_PROMPT = "the instruction is not in the evaluation set"
    BAD_JSON = "the line is not JSON"
    CUT_JSON = "the JSON line is cut short"
    CUT_GZIP = "the gz file is cut short, the rest is lost"
    NOT_UTF8 = "the line is not UTF-8"
    SURROGATE = "the text has a lone surrogate, which no encoding can hold"
    TOO_LONG = f"the text is longer than {LONGEST_TEXT} characters"


class Unusable(ValueError):
    """Raised while a row is read; `Malformed.collect` turns it into a SetAside."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class SetAside:
    """One row that is not used: the file, its row or line number from 1, and why."""

    where: str
    row: int
    reason: Reason
    detail: str = ""


class Malformed:
    """The tally of rows set aside while a set is read."""

    def __init__(self) -> None:
        self.records: list[SetAside] = []

    def add(self, where: object, row: int, reason: Reason, detail: str = "") -> None:
        """Sets row `row` of `where` aside."""
        self.records.append(SetAside(str(where), row, reason, detail))

    def counts(self) -> Counter[Reason]:
        """Rows set aside, by reason."""
        return Counter(record.reason for record in self.records)

    def collect(self, rows: Iterable[tuple[int, Any]], where: object, build: Callable[[Any], Any]) -> list[Any]:
        """`build(row)` of every (number, row) that it accepts; one that raises Unusable is set aside."""
        kept = []
        for number, row in rows:
            try:
                kept.append(build(row))
            except Unusable as problem:
                self.add(where, number, problem.reason, problem.detail)
        return kept


@dataclass(frozen=True)
class Loaded:
    """What an adapter returns: usable rows, the rows set aside, and where all came from."""

    rows: tuple[Any, ...]
    set_aside: tuple[SetAside, ...]
    source: str

    def counts(self) -> Counter[Reason]:
        """Rows set aside, by reason."""
        return Counter(record.reason for record in self.set_aside)

    def summary(self) -> str:
        """One line for a page: rows kept, rows set aside and why."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.counts().most_common())
        aside = f"; {len(self.set_aside)} set aside ({reasons})" if self.set_aside else ""
        return f"{self.source}: {len(self.rows)} rows{aside}"


def prompt_id(turns: Turns) -> str:
    """16 hex digits of the sha256 of a prompt's turns: the same on every machine and in every run."""
    text = json.dumps([list(turn) for turn in turns], separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer: turns of (role, text), the last one the user's."""

    turns: Turns
    source: str
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def prompt_id(self) -> str:
        """Stable id of the turns."""
        return prompt_id(self.turns)


@dataclass(frozen=True)
class Pair:
    """One comparison: to `prompt`, `chosen` was preferred to `rejected`."""

    prompt: Turns
    chosen: str
    rejected: str
    source: str
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def prompt_id(self) -> str:
        """Stable id of the prompt; pairs that share it are one cluster in an interval."""
        return prompt_id(self.prompt)


@dataclass(frozen=True)
class Answer:
    """What `model` said to the prompt whose id is `prompt_id`."""

    prompt_id: str
    model: str
    text: str
    prompt: Turns
    source: str
    extras: Mapping[str, Any] = field(default_factory=dict, hash=False)


def text_field(row: Any, name: str) -> str:
    """`row[name]` if it is text that can be encoded and is not absurdly long, else Unusable."""
    value = field_of(row, name)
    if not isinstance(value, str):
        raise Unusable(Reason.WRONG_TYPE, f"{name} is {type(value).__name__}, not text")
    return clean_text(value, name)


def clean_text(value: str, name: str) -> str:
    """`value` unchanged; raises Unusable when it is too long or holds a lone surrogate."""
    if len(value) > LONGEST_TEXT:
        raise Unusable(Reason.TOO_LONG, f"{name} has {len(value)} characters")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise Unusable(Reason.SURROGATE, name)
    return value


def field_of(row: Any, name: str) -> Any:
    """`row[name]`, or Unusable when the row is no object or lacks the field."""
    if not isinstance(row, Mapping):
        raise Unusable(Reason.NOT_A_ROW, type(row).__name__)
    if name not in row:
        raise Unusable(Reason.MISSING, name)
    return row[name]


def check_answers(chosen: str, rejected: str) -> None:
    """Raises Unusable when an answer is empty or both say the same."""
    if chosen.strip() == rejected.strip():
        raise Unusable(Reason.EQUAL)
    if not chosen.strip() or not rejected.strip():
        raise Unusable(Reason.EMPTY_ANSWER)
