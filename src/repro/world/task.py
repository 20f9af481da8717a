"""Tasks: one prompt and all that grading an answer to it needs; and the split that no entity or operand crosses.

Row: {"category": "sums", "turns": [["user", "Mia Reed has 42 apples and buys 15 more. How many apples are there now?"]],
      "facts": {"name": "Mia Reed", "numbers": [42, 15], "signs": ["plus"]}, "difficulty": 1, "split": "train",
      "keys": ["name Mia Reed", "sums 15 42 plus"]}
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from repro.core.errors import DataError
from repro.world import language

Rng = np.random.Generator
Turns = tuple[tuple[str, str], ...]
TRAIN, TEST = "train", "test"
TEST_SHARE = 4  # one entity, operand or phrasing in four is kept for the test side: 225 names, thousands of sums


@dataclass(frozen=True)
class Task:
    """A prompt (turns of role and text, the last the user's), what a good answer to it holds, and where it belongs.

    facts: the category's own, JSON; keys: the entities and operands that the split keeps on one side.
    """

    category: str
    turns: Turns
    facts: Mapping[str, Any]
    difficulty: int
    split: str
    keys: tuple[str, ...]

    def row(self) -> dict[str, Any]:
        """The task as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Task":
        """The task of a row. Raises DataError naming a field that is missing or of the wrong kind."""
        try:
            turns = tuple((str(role), str(text)) for role, text in row["turns"])
            keys = tuple(map(str, row["keys"]))
            return cls(row["category"], turns, dict(row["facts"]), int(row["difficulty"]), row["split"], keys)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no task: {error}", where=str(row)[:80], fix="write it with Task.row()") from error


@dataclass(frozen=True)
class Category:
    """One kind of task: what it measures, its levels, and the four functions that make and read it.

    draw(rng, split, difficulty) -> Task; body(task, rng, wrong, part) -> sentences that answer it, wrong or only in part;
    marks(task, text) -> (correct, complete), each in [0, 1]; slip(task, text, rng) -> the text with one word made wrong.
    """

    name: str
    levels: tuple[int, ...]
    draw: Callable[[Rng, str, int], Task]
    body: Callable[[Task, Rng, bool, bool], list[str]]
    marks: Callable[[Task, str], tuple[float, float]]
    slip: Callable[[Task, str, Rng], str]


def side(key: str) -> str:
    """The side of the split an entity or operand belongs to: by its hash, the same in every run."""
    return TEST if hashlib.sha256(key.encode()).digest()[0] % TEST_SHARE == 0 else TRAIN


def choose(rng: Rng, options: Any) -> Any:
    """One of the options."""
    options = list(options)
    return options[int(rng.integers(len(options)))]


def several(rng: Rng, options: Any, count: int) -> list[Any]:
    """`count` different ones of the options, in a random order."""
    options = list(options)
    return [options[int(place)] for place in rng.permutation(len(options))[:count]]


def on_side(split: str, draw: Callable[[], tuple[Any, str]]) -> tuple[Any, str]:
    """The first (value, key) that `draw` gives whose key lies on that side. Raises DataError if none does."""
    for _ in range(500):
        value, key = draw()
        if side(key) == split:
            return value, key
    raise DataError(f"no key on the {split} side", where=key, fix="give the draw more entities or operands")


def person(rng: Rng, split: str) -> tuple[str, str]:
    """A full name of that side, and its key."""

    def draw() -> tuple[str, str]:
        name = f"{choose(rng, language.PEOPLE_FIRST)} {choose(rng, language.PEOPLE_LAST)}"
        return name, f"name {name}"

    return on_side(split, draw)


def phrase(rng: Rng, split: str, patterns: tuple[str, ...], **words: str) -> str:
    """A request in one of the patterns behind an opening; which goes with which is split as well."""
    combinations = [
        opening + pattern
        for i, opening in enumerate(language.REQUESTS)
        for j, pattern in enumerate(patterns)
        if ((i + j) % TEST_SHARE == 0) == (split == TEST)
    ]
    return choose(rng, combinations).format(**words)


def words(text: str) -> list[str]:
    """The words and numbers of a text in lower case, punctuation left out."""
    return re.findall(r"[a-z]+|[0-9]+", text.lower())


@lru_cache(maxsize=4096)  # grading asks for the same phrases, and many times for the same answer
def _spaced(text: str) -> str:
    return f" {' '.join(words(text))} "


def holds(text: str, phrase: str) -> bool:
    """Whether the words of the phrase stand in the text in a row."""
    return _spaced(phrase) in _spaced(text)


def replaced(text: str, old: str, new: str) -> str:
    """The text with the last whole-word `old` made `new`, its capital kept; unchanged where there is none."""
    for was, now in ((old, new), (old.capitalize(), new.capitalize())):
        if found := [*re.finditer(rf"\b{re.escape(was)}\b", text)]:
            return text[: found[-1].start()] + now + text[found[-1].end() :]
    return text


def listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
