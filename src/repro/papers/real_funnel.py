"""p1's prompt filter and response filter over real scores: what GPT-4 gave real answers, 1 to 10, each answer alone.

Arena-bench has eight models' answers to the same 300 questions, so pairs, their 5x5 matrix (p1.table1) and the losses
of steps 1 and 3 (p1.fig3) can be counted, by the very filter of `collection`. No person reviewed these pairs: step 4 has
no counterpart here. GPT-4's scores are r* of p1.eq2 and the filter's levels at once, where the paper has two models.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import pearsonr

from repro.core import inventory
from repro.core.errors import DataError
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import LEVEL, Interval, mean_interval
from repro.data import Pair, arena_bench
from repro.papers.collection_prompts import KEEPS_UP, NO_REWARD
from repro.papers.collection_reviews import LEVELS, cell_of, filter_pairs, mask_of
from repro.papers.collection_rows import STEPS, Tally

STEP1, STEP3, BOTH, TURNED = "step 1 loss (%)", "step 3 loss (%)", "kept after both (%)", "judge turns (%)"
PAPER = "the paper"
UNREAD = "no rating could be read from the judgment"


def levels(scores: ArrayLike, edges: Sequence[float]) -> np.ndarray:
    """Levels 1 to 5 of scores from 1 to 10, any shape; nan stays nan.

    edges: the highest score of each level but the last; 2, 4, 6, 8 make it ceil(score / 2). Raises DataError unless four
    edges rise.
    """
    if len(edges) != LEVELS - 1 or np.any(np.diff(edges) <= 0):
        raise DataError(f"edges {list(edges)}", where="levels", fix="give four rising scores")
    scores = np.asarray(scores, dtype=float)
    found = 1.0 + (scores[..., None] > np.asarray(edges)).sum(-1)
    return np.where(np.isfinite(scores), found, np.nan)


def cells_apart(differences: Sequence[int]) -> np.ndarray:
    """Cells (r+, r-) of p1.table1 whose levels differ by one of the numbers, either way: (5, 5) of bool.

    Raises SettingsError for a difference of 0, which has no direction.
    """
    gap = np.abs(np.subtract.outer(np.arange(LEVELS), np.arange(LEVELS)))
    return mask_of(np.isin(gap, list(differences)).astype(int).tolist())


@dataclass(frozen=True)
class Ratings:
    """Scores (questions, models), nan where none could be read, and answers; the model of the highest mean first."""

    models: tuple[str, ...]
    questions: tuple[str, ...]
    scores: np.ndarray
    answers: tuple[tuple[str, ...], ...]
    tally: dict

    def column(self, model: str) -> np.ndarray:
        """The scores of one model, (questions,). Raises DataError for an unknown one."""
        if model not in self.models:
            raise DataError(f"no scores of {model!r}", where="arena-bench", fix=f"choose from {', '.join(self.models)}")
        return self.scores[:, self.models.index(model)]


def ratings() -> Ratings:
    """Arena-bench's ratings as one array. Raises MissingInput without the data."""
    loaded = arena_bench.load()
    by_place = {(each.question_id, each.model): each for each in loaded.rows}
    questions = tuple(dict.fromkeys(each.question_id for each in loaded.rows))
    found = [[by_place.get((question, model)) for model in arena_bench.MODELS] for question in questions]
    scores = np.array([[each.score if each else None for each in row] for row in found], dtype=float)
    order = np.argsort(-np.nanmean(scores, axis=0), kind="stable")
    answers = tuple(tuple(row[k].answer if row[k] else "" for k in order) for row in found)
    unread = {UNREAD: sum(each.score is None for each in loaded.rows)}
    aside = unread | {str(reason): count for reason, count in loaded.counts().items()}
    tally = {"rows": int(np.isfinite(scores).sum()), "set_aside": aside}
    return Ratings(tuple(arena_bench.MODELS[k] for k in order), questions, scores[:, order], answers, tally)


def passes(found: Ratings, strong: str, weak: str, epsilon: float) -> np.ndarray:
    """Step 1 (p1.eq2), r* the recorded score: 1.0 where strong - weak > epsilon, nan where a score is missing."""
    gap = found.column(strong) - found.column(weak)
    return np.where(np.isfinite(gap), gap > epsilon, np.nan)


@dataclass(frozen=True)
class Compared:
    """Step 2: pairs, the stronger model's answer presumed better; their levels; the place of each one's question.

    cells: (pairs, 2) levels (r+, r-), nan for a pair that has no cell.
    """

    pairs: list[Pair]
    levels: list[tuple[float, float]]
    question: np.ndarray
    cells: np.ndarray

    def kept(self, mask: np.ndarray) -> np.ndarray:
        """Step 3 pair by pair, (pairs,) of bool. mask: (5, 5) as `mask_of` gives it."""
        has = np.isfinite(self.cells).all(1)
        kept = np.zeros(len(has), dtype=bool)
        kept[has] = mask[tuple(self.cells[has].astype(int).T - 1)]
        return kept

    def tally(self, mask: np.ndarray) -> Tally:
        """Step 3 as `collection` counts it."""
        return filter_pairs(self.pairs, self.levels, mask)[1]

    def matrix(self) -> np.ndarray:
        """Pairs in each cell (r+, r-), (5, 5); those without a cell in none."""
        whole = self.cells[np.isfinite(self.cells).all(1)].astype(int) - 1
        counts = np.zeros((LEVELS, LEVELS))
        np.add.at(counts, tuple(whole.T), 1)
        return counts


def compared(found: Ratings, edges: Sequence[float], questions: np.ndarray, strong: str | None = None) -> Compared:
    """All pairs of models on the chosen questions, or those with `strong`; the model of higher mean is presumed better.

    questions: (questions,) of bool. Every pair counts, which is what drawing one a prompt would give on average.
    """
    places, shown = np.flatnonzero(questions), levels(found.scores, edges)
    couples = [(i, j) for i in range(len(found.models)) for j in range(i + 1, len(found.models))]
    couples = [(i, j) for i, j in couples if strong is None or strong in (found.models[i], found.models[j])]
    pairs, both, cells = [], [], []
    for q in places:
        for i, j in couples:
            prompt, writers = (("user", found.questions[q]),), [found.models[i], found.models[j]]
            pairs.append(Pair(prompt, found.answers[q][i], found.answers[q][j], arena_bench.NAME, {"writers": writers}))
            both.append((float(shown[q, i]), float(shown[q, j])))
            cell = cell_of(pairs[-1], both[-1])
            cells.append((np.nan, np.nan) if isinstance(cell, str) else cell)
    return Compared(pairs, both, np.repeat(places, len(couples)), np.array(cells, dtype=float).reshape(-1, 2))


def after_step1(found: Ratings, settings: Section, edges: Sequence[float], strong: str | None = None) -> Compared:
    """The pairs on the questions that step 1 keeps at the chapter's epsilon."""
    passed = passes(found, settings.real_strong, settings.real_weak, settings.epsilon)
    return compared(found, edges, passed == 1, strong)


def funnel(found: Ratings, settings: Section, strong: str | None = None) -> dict[str, Interval]:
    """Losses of steps 1 and 3, what both keep, and how often the judge turns a kept pair; percent, over questions.

    strong: only pairs with this model, else all. Raises DataError if no pair is left.
    """
    passed = passes(found, settings.real_strong, settings.real_weak, settings.epsilon)
    pool = after_step1(found, settings, settings.real_cuts[0], strong)
    kept = pool.kept(mask_of(settings.mask))
    if not kept.any():
        raise DataError("no pair is left", where="the real funnel", fix="lower epsilon, or keep more cells")
    shares = np.where(passed == 1, 0.0, passed)
    shares[passed == 1] = kept.reshape(int((passed == 1).sum()), -1).mean(1)
    turned = np.where(kept, pool.cells[:, 0] < pool.cells[:, 1], np.nan)
    parts = {
        STEP1: mean_interval(1 - passed),
        STEP3: mean_interval(~kept, groups=pool.question),
        BOTH: mean_interval(shares),
        TURNED: mean_interval(turned, groups=pool.question),
    }
    return {name: part.scaled(100) for name, part in parts.items()}


def tallies(found: Ratings, settings: Section) -> list[Tally]:
    """Steps 1 and 3 by reason, all pairs of models."""
    passed = passes(found, settings.real_strong, settings.real_weak, settings.epsilon)
    reasons = {KEEPS_UP: int((passed == 0).sum()), NO_REWARD: int(np.isnan(passed).sum())}
    first = Tally(STEPS[0], len(passed), int((passed == 1).sum()), reasons, {"proxy scores": 2 * len(passed)})
    return [first, after_step1(found, settings, settings.real_cuts[0]).tally(mask_of(settings.mask))]


def published() -> dict[str, float]:
    """The paper's losses of steps 1 and 3 (p1.fig3), and what both keep by them; percent."""
    paper = {name: row["value"] for name, row in (inventory.published("p1.fig3") or {}).items()}
    first, third = paper["step1_loss"], paper["step3_loss"]
    return {STEP1: 100 * first, STEP3: 100 * third, BOTH: 100 * (1 - first) * (1 - third)}


def funnel_records(found: Ratings, settings: Section) -> list[Record]:
    """The real funnel under the paper's: all pairs of models, and those with the strong one only."""
    id = "p1_01.real_funnel"
    rows = [record(id, PAPER, name, value) for name, value in published().items()]
    every = {"all pairs of models": None, f"pairs with {settings.real_strong}": settings.real_strong}
    for name, strong in every.items():
        rows += [record(id, name, part, value) for part, value in funnel(found, settings, strong).items()]
    return rows


def epsilon_records(found: Ratings, settings: Section) -> list[Record]:
    """Step 1's loss against epsilon, each weaker model in the SFT model's place; percent."""
    return [
        record("p1_01.real_epsilon", weak, f"{epsilon:g}", mean_interval(1 - passed).scaled(100))
        for weak in settings.real_weak_models
        for epsilon in settings.real_epsilons
        for passed in [passes(found, settings.real_strong, weak, epsilon)]
    ]


def cut_name(edges: Sequence[float]) -> str:
    """How a cut reads: the highest scores of levels 1 to 4."""
    return "levels end at " + ", ".join(f"{edge:g}" for edge in edges)


def mask_records(found: Ratings, settings: Section) -> list[Record]:
    """Step 3's loss by mask and by cut of the scores into levels, over what step 1 keeps; percent."""
    own = mask_of(settings.mask)
    masks = {"the chapter's mask": own, "of it, where the presumed better is higher": np.tril(own)}
    masks |= {"levels differ by " + ", ".join(map(str, kept)): cells_apart(kept) for kept in settings.real_masks}
    rows = []
    for edges in settings.real_cuts:
        pool = after_step1(found, settings, edges)
        for name, mask in masks.items():
            loss = mean_interval(~pool.kept(mask), groups=pool.question).scaled(100)
            rows.append(record("p1_01.real_masks", cut_name(edges), name, loss))
    return rows


def score_records(found: Ratings) -> list[Record]:
    """Mean score of each model, and its correlation over questions with the strongest model's."""
    id, rows, best = "p1_01.real_scores", [], found.column(found.models[0])
    for model in found.models:
        own = found.column(model)
        rows.append(record(id, model, "mean score", mean_interval(own)))
        if model != found.models[0]:
            rows.append(record(id, model, f"correlation with {found.models[0]}", correlation(own, best)))
    return rows


def correlation(first: ArrayLike, second: ArrayLike) -> Interval:
    """Pearson's correlation of scores in the same place, those with nan left out, with Fisher's interval over places."""
    both = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    both = both[:, np.isfinite(both).all(0)]
    found = pearsonr(*both)
    low, high = found.confidence_interval(LEVEL)
    return Interval(float(found.statistic), float(low), float(high), both.shape[1])
