"""Who says which answer is better: people with noise, taste and a liking for length, and judges in GPT-4's and GPT-3.5's place.

A person compares two answers and may say something else the next time. A judge scores one answer by a rubric in five
levels and says the same whenever it is asked again: its error hangs on its seed, the prompt and the answer alone.
Bias (`verbosity`) and noise (temperature, carelessness, taste) are separate dials.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtri

from repro.core.errors import DataError, SettingsError
from repro.world import constants
from repro.world.gold import grade
from repro.world.task import Rng, Task

PARTS = ("correct", "complete", "safe", "polite", "concise")
GOLD = np.array([getattr(constants, name) for name in ("CORRECT", "COMPLETE", "UNSAFE", "POLITE", "CONCISE")])
FIRST, TIE, SECOND = 1.0, 0.5, 0.0  # a label; its mean is a win rate in which a tie counts half


class Reading(NamedTuple):
    """Answers as an annotator sees them: parts (answers, 5) in the order of PARTS, gold and words (answers,)."""

    tasks: Sequence[Task]
    texts: Sequence[str]
    parts: np.ndarray
    gold: np.ndarray
    words: np.ndarray

    def take(self, places: Sequence[int]) -> "Reading":
        """The answers at these places."""
        places = np.asarray(places, dtype=int)
        chosen = ([column[place] for place in places] for column in (self.tasks, self.texts))
        return Reading(*chosen, *(array[places] for array in (self.parts, self.gold, self.words)))


def read(tasks: Sequence[Task], texts: Sequence[str]) -> Reading:
    """Every answer graded once. Raises DataError if there is not one task an answer, or as `grade` does."""
    if len(tasks) != len(texts):
        raise DataError(f"{len(tasks)} tasks but {len(texts)} answers", fix="pass the task of every answer")
    grades = [grade(task, text) for task, text in zip(tasks, texts, strict=True)]
    parts = np.array([[getattr(each, name) for name in PARTS] for each in grades], dtype=float).reshape(-1, len(PARTS))
    gold = np.array([each.gold for each in grades], dtype=float)
    return Reading(tasks, texts, parts, gold, np.array([len(text.split()) for text in texts], dtype=float))


class Annotator:
    """Anyone who labels pairs; `prefer` is each one's own."""

    def label(self, tasks: Sequence[Task], first: Sequence[str], second: Sequence[str], rng: Rng) -> np.ndarray:
        """(pairs,): FIRST, SECOND, or from some judges TIE. Raises DataError if the three do not match in length."""
        return self.prefer(read(tasks, first), read(tasks, second), rng)

    def prefer(self, first: Reading, second: Reading, rng: Rng) -> np.ndarray:
        """The same of answers that are read already."""
        raise NotImplementedError


@dataclass(frozen=True)
class Human(Annotator):
    """One person: a Bradley-Terry choice (p2.def2) by gold, own taste and length; sometimes a coin flip.

    utility = gold + offsets . parts + verbosity * words / 10, in units of gold. Ten words are about one sentence of
    filler, so verbosity 0.1 makes up for what gold takes away for it. P(first) = sigmoid(temperature_inverse * difference);
    an infinite one is a person without noise. offsets: what the weights of PARTS are above or below gold's.
    """

    verbosity: float = constants.HUMAN_VERBOSITY
    temperature_inverse: float = constants.HUMAN_TEMPERATURE_INVERSE
    careless: float = constants.HUMAN_CARELESS
    offsets: tuple[float, ...] = (0.0,) * len(PARTS)

    def utility(self, answers: Reading) -> np.ndarray:
        """(answers,), in units of gold."""
        return answers.gold + answers.parts @ np.array(self.offsets) + self.verbosity * answers.words / 10

    def prefer(self, first: Reading, second: Reading, rng: Rng) -> np.ndarray:
        """(pairs,) of FIRST and SECOND; equal utilities are a coin flip."""
        margin = np.round(self.utility(first) - self.utility(second), 9)  # what is equal on paper is equal
        sure = np.zeros(len(margin))
        np.multiply(self.temperature_inverse, margin, out=sure, where=margin != 0)
        chance = (1 - self.careless) * expit(sure) + self.careless / 2
        return (rng.random(len(margin)) < chance).astype(float)


@dataclass(frozen=True)
class Panel(Annotator):
    """Several people; each pair is labelled by one of them, drawn anew."""

    people: tuple[Human, ...]

    def prefer(self, first: Reading, second: Reading, rng: Rng) -> np.ndarray:
        """(pairs,): the label of the person who got the pair."""
        who = rng.integers(len(self.people), size=len(first.texts))
        labels = np.empty(len(who))
        for number in np.unique(who):
            places = np.flatnonzero(who == number)
            labels[places] = self.people[number].prefer(first.take(places), second.take(places), rng)
        return labels

    def everyone(self, first: Reading, second: Reading, rng: Rng) -> np.ndarray:
        """(people, pairs): what each of them says of every pair."""
        return np.stack([person.prefer(first, second, rng) for person in self.people])


def panel(
    size: int = constants.HUMAN_PEOPLE, taste: float = constants.HUMAN_TASTE, seed: int = 0, **dials: float
) -> Panel:
    """People whose weights differ: each of gold's, times exp(N(0, taste^2)), drawn once a person; dials are Human's.

    Raises SettingsError if there is nobody.
    """
    if size < 1:
        raise SettingsError(f"a panel of {size}", where="world.annotators", fix="at least one person")
    own = GOLD * np.expm1(np.random.default_rng(seed).normal(0, 1, (size, len(PARTS))) * taste)
    return Panel(tuple(replace(Human(**dials), offsets=tuple(map(float, row))) for row in own))


@dataclass(frozen=True)
class Judge(Annotator):
    """Scores one answer by its category's rubric, in five levels; wrong at times, and always in the same places.

    view = rubric . parts + verbosity * (words - TYPICAL_WORDS) / 10 + noise * N(0, 1), about 0 to 1. misses: by category,
    the chance to take a wrong answer for a right one. ties: whether equal levels are a tie, or the view decides.
    """

    seed: int = 0
    verbosity: float = constants.JUDGE_VERBOSITY
    noise: float = constants.JUDGE_NOISE
    misses: Mapping[str, float] = field(default_factory=lambda: constants.JUDGE_MISSES)
    ties: bool = False

    def view(self, answers: Reading) -> np.ndarray:
        """(answers,): what the judge thinks before it settles on a level."""
        drawn = np.array(
            [_drawn(self.seed, task, text) for task, text in zip(answers.tasks, answers.texts, strict=True)]
        )
        drawn = drawn.reshape(-1, 2)
        parts = answers.parts.copy()
        missed = drawn[:, 0] < [self.misses.get(task.category, 0.0) for task in answers.tasks]
        missed &= np.array([bool(text.strip()) for text in answers.texts], dtype=bool)  # nobody misses an empty answer
        parts[missed, 0] = 1.0
        rubric = np.array([constants.RUBRICS[task.category] for task in answers.tasks]).reshape(-1, len(PARTS))
        length = self.verbosity * (answers.words - constants.TYPICAL_WORDS) / 10
        return (rubric * parts).sum(1) + length + self.noise * ndtri(drawn[:, 1])

    def levels(self, answers: Reading) -> np.ndarray:
        """(answers,) whole numbers 1 to 5."""
        return np.clip(np.rint(1 + 4 * self.view(answers)), 1, 5).astype(int)

    def score(self, tasks: Sequence[Task], answers: Sequence[str]) -> np.ndarray:
        """(answers,) levels 1 to 5, the same whenever it is asked. Raises DataError as `read` does."""
        return self.levels(read(tasks, answers))

    def prefer(self, first: Reading, second: Reading, rng: Rng) -> np.ndarray:
        """(pairs,): the higher level; between equal levels a tie, or the higher view. Draws nothing from rng."""
        look = self.levels if self.ties else self.view
        return (np.sign(look(first) - look(second)) + 1) / 2


def weak_judge(seed: int = 35, ties: bool = False) -> Judge:
    """The judge in GPT-3.5's place: more noise, more length, and twice as easily deceived."""
    misses = {category: min(2 * chance, 1.0) for category, chance in constants.JUDGE_MISSES.items()}
    return Judge(seed, constants.WEAK_VERBOSITY, constants.WEAK_NOISE, misses, ties)


def _drawn(seed: int, task: Task, text: str) -> tuple[float, float]:
    """Two numbers in (0, 1) that belong to this judge, prompt and answer."""
    digest = blake2b(repr((seed, task.turns, text)).encode(), digest_size=12).digest()
    return tuple((int.from_bytes(digest[at : at + 6], "big") + 0.5) / 2**48 for at in (0, 6))


def agreement(
    tasks: Sequence[Task],
    first: Sequence[str],
    second: Sequence[str],
    annotators: Mapping[str, Annotator],
    rng: Rng,
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, gold and the longer answer first; on what share of pairs two agree, and how many pairs: (names, names) each.

    Pairs of equal gold are left out of all cells, a pair on which either of two sees a tie out of theirs. Each annotator
    labels twice, and the diagonal is the first labelling against the second: of a panel, one person against another.
    """
    left, right = read(tasks, first), read(tasks, second)
    counted = np.round(left.gold - right.gold, 9) != 0
    labels = {"gold": [left.gold > right.gold] * 2, "longer": [(np.sign(left.words - right.words) + 1) / 2] * 2}
    labels |= {name: [each.prefer(left, right, rng) for _ in "12"] for name, each in annotators.items()}
    names, matrix = list(labels), np.full((len(labels), len(labels)), np.nan)
    pairs = np.zeros(matrix.shape, dtype=int)
    for i, one in enumerate(names):
        for j, other in enumerate(names):
            a, b = labels[one][0], labels[other][1 if i == j else 0]
            both = counted & (a != TIE) & (b != TIE)
            pairs[i, j] = both.sum()
            matrix[i, j] = (a == b)[both].mean() if both.any() else np.nan
    return names, matrix, pairs
