"""Steps 3 and 4 of p1's framework: a judge's levels decide what people see, and people decide what is trained on."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from repro.core.errors import SettingsError
from repro.data import Pair
from repro.judges.rubric import RubricJudge
from repro.papers.collection_rows import STEPS, Graded, Tally, own_rng, swapped, task_of, unusable
from repro.world.annotators import FIRST, Panel
from repro.world.sources import annotators
from repro.world.task import Task

MISSING, NOT_A_LEVEL, OUT_OF_RANGE = "score missing", "score does not parse", "score out of range"
EQUAL, EXTREME, OTHER_CELL = "equal scores", "extreme", "cell not kept"
DOUBT, QUALITY, CONTRADICTED = "doubt", "quality", "people contradict the judge"
LEVELS = 5
TURN, DROP = "turn", "drop"
Scorer = Callable[[Sequence[Task], Sequence[str]], Sequence[Any]]  # a score for each answer, or what came instead


# Step 3: filter


def mask_of(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """p1.table1's kept cells, booleans (5, 5): row r+ - 1, column r- - 1. Raises SettingsError for another shape or an equal cell."""
    where, fix = "p1_01_collection.mask", "five rows of five, 1 where a cell is kept, 0 on the diagonal"
    if [len(row) for row in rows] != [LEVELS] * LEVELS or {cell for row in rows for cell in row} - {0, 1}:
        raise SettingsError("the mask is not 5 by 5 of 0 and 1", where=where, fix=fix)
    mask = np.array(rows, dtype=bool)
    if mask.diagonal().any():
        raise SettingsError("equal scores have no direction to keep", where=where, fix=fix)
    return mask


def scores_of(pairs: Sequence[Pair], graded: Graded, judge: Scorer | None = None) -> list[tuple[Any, Any]]:
    """What the judge says of both answers of each pair, as it came; (None, None) where there is nothing to judge."""
    asked = [place for place, pair in enumerate(pairs) if unusable(pair) is None]
    shown = [pairs[place] for place in asked]
    if judge is None:
        who = annotators()["judge"]
        columns = [who.levels(side).tolist() for side in graded.sides(shown)]
    else:
        about = [task_of(pair) for pair in shown]
        columns = [judge(about, [getattr(pair, side) for pair in shown]) for side in ("chosen", "rejected")]
    found: list[tuple[Any, Any]] = [(None, None)] * len(pairs)
    for place, *both in zip(asked, *columns, strict=True):
        found[place] = tuple(both)
    return found


def by_rubric(judge: RubricJudge) -> Scorer:
    """A language model in the judge's place, asked by each category's rubric and examples."""

    def score(asked: Sequence[Task], answers: Sequence[str]) -> Sequence[Any]:
        return judge.score([task.category for task in asked], [task.turns for task in asked], answers)

    return score


def level_of(score: Any) -> int | str:
    """The level 1 to 5 that a judge's score is, or the reason why it is none."""
    if score is None or (isinstance(score, float) and np.isnan(score)):
        return MISSING
    try:
        level = float(score)
    except (TypeError, ValueError):
        return NOT_A_LEVEL
    if not level.is_integer():  # nor is infinity
        return NOT_A_LEVEL if np.isfinite(level) else OUT_OF_RANGE
    return int(level) if 1 <= level <= LEVELS else OUT_OF_RANGE


def cell_of(pair: Pair, scores: tuple[Any, Any]) -> tuple[int, int] | str:
    """The levels (r+, r-) of a pair's answers, or the reason why it has none."""
    if reason := unusable(pair):
        return reason
    levels = [level_of(score) for score in scores]
    wrong = [level for level in levels if isinstance(level, str)]
    return wrong[0] if wrong else (levels[0], levels[1])


def filter_pairs(
    pairs: Sequence[Pair], scores: Sequence[tuple[Any, Any]], mask: np.ndarray
) -> tuple[list[Pair], Tally]:
    """The pairs whose cell of p1.table1 is kept, the answer of the higher level chosen; the others by reason.

    scores: for each pair what the judge said of both answers; mask: as `mask_of` gives it.
    """
    kept, dropped, calls = [], Counter(), 0
    for pair, both in zip(pairs, scores, strict=True):
        calls += 2 * (unusable(pair) is None)
        cell = cell_of(pair, both)
        if isinstance(cell, str):
            dropped[cell] += 1
        elif not mask[cell[0] - 1, cell[1] - 1]:
            apart = abs(cell[0] - cell[1])
            dropped[EQUAL if apart == 0 else EXTREME if apart == LEVELS - 1 else OTHER_CELL] += 1
        else:
            pair = replace(pair, extras={**pair.extras, "levels": list(cell)})
            kept.append(pair if cell[0] > cell[1] else swapped(pair))
    return kept, Tally(STEPS[2], len(pairs), len(kept), dict(dropped), {"judge calls": calls})


# Step 4: labels


class Reviews(NamedTuple):
    """What each reviewer of a pair says: labels, 1 for chosen and 0 for rejected; worth of the one preferred: (pairs, reviewers)."""

    labels: np.ndarray
    worth: np.ndarray


class _Drawn(NamedTuple):
    """Random numbers drawn beforehand, a pair's own, so that its label does not hang on the other pairs."""

    numbers: np.ndarray

    def random(self, _: int) -> np.ndarray:
        return self.numbers


def reviewed(pairs: Sequence[Pair], graded: Graded, people: Panel, reviewers: int, seed: int) -> Reviews:
    """Each pair compared by several different people of the panel, drawn for it; more of them begin with the same ones.

    worth is in units of gold, as the person sees it. Raises SettingsError if the panel is smaller.
    """
    if not 1 <= reviewers <= len(people.people):
        fix = f"from 1 to {len(people.people)}, as many as the panel has people"
        raise SettingsError(f"{reviewers} reviewers", where="p1_01_collection.reviewers", fix=fix)
    first, second = graded.sides(pairs)
    who = np.empty((len(pairs), reviewers), dtype=int)
    drawn = np.empty((len(pairs), len(people.people)))
    for row, pair in enumerate(pairs):
        rng = own_rng(seed, 61, pair)
        who[row] = rng.permutation(len(people.people))[:reviewers]
        drawn[row] = rng.random(len(people.people))
    labels, worth = np.empty(who.shape), np.empty(who.shape)
    for number, person in enumerate(people.people):
        rows, columns = np.nonzero(who == number)
        sides = first.take(rows), second.take(rows)
        said = person.prefer(*sides, _Drawn(drawn[rows, number]))
        labels[rows, columns] = said
        worth[rows, columns] = np.where(said == FIRST, *(person.utility(side) for side in sides))
    return Reviews(labels, worth)


def label_pairs(
    pairs: Sequence[Pair], reviews: Reviews, quality_floor: float, contradicted: str = TURN
) -> tuple[list[Pair], list[Pair], Tally]:
    """The pairs with what people said of them, those that people keep, in their direction, and the tally.

    Dropped: where people differ (doubt), and where the answer that they prefer is not worth quality_floor to them on
    average. contradicted: whether a pair on which all contradict the judge is turned or dropped. Raises SettingsError
    for another word.
    """
    if contradicted not in (TURN, DROP):
        fix = f"choose {TURN} or {DROP}"
        raise SettingsError(f"{contradicted!r} is no way", where="p1_01_collection.contradicted", fix=fix)
    shown, kept, dropped = [], [], Counter()
    for pair, labels, worth in zip(pairs, *reviews, strict=True):
        reason = None
        if labels.min() != labels.max():
            reason = DOUBT
        elif worth.mean() < quality_floor:
            reason = QUALITY
        elif labels[0] != FIRST and contradicted == DROP:
            reason = CONTRADICTED
        turned = reason is None and bool(labels[0] != FIRST)
        extras = {**pair.extras, "labels": labels.tolist(), "kept": reason is None, "turned": turned}
        shown.append(replace(pair, extras=extras))
        if reason:
            dropped[reason] += 1
        else:
            kept.append(swapped(shown[-1]) if turned else shown[-1])
    return shown, kept, Tally(STEPS[3], len(pairs), len(kept), dict(dropped), {"labels": reviews.labels.size})
