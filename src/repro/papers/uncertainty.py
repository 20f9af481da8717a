"""Does an ensemble's variance know where it is wrong? What p3.eq9 selects by, held against gold before anything is selected.

An answer's error is what relabelling by gold would change: the distance between its mean reward and the reward that stands
at gold's place among all (p3.eq13 without its five steps and noise). A pair's error is that the mean orders it against gold.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from repro.core.records import Record, record
from repro.core.statistics import Interval, mean_interval
from repro.objectives.ensemble import MEAN
from repro.papers.ensembles import EVERY, KNOWN, STRANGE, EnsembleStudy
from repro.world import tasks

VARIANCE, MARGIN, LENGTH, RANDOM = "variance", "closeness of the two means", "length", "random"
ANSWER, PAIR = "error of an answer", "wrong order of a pair"
PARTS = 5


def standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks with mean 0 and SD 1 over the last axis, ties shared; 0 throughout where all are equal: the same shape."""
    ranks = rankdata(values, axis=-1)
    centred = ranks - ranks.mean(-1, keepdims=True)
    spread = centred.std(-1, keepdims=True)
    return np.where(spread > 0, centred / np.where(spread > 0, spread, 1), 0.0)


def rank_correlation(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> Interval:
    """Spearman's coefficient over all rows of a seed, as the mean product of ranks, with its interval over prompts and seeds.

    one, other: (seeds, rows); groups: (rows,) the prompt of each. The interval takes the ranks as given.
    """
    return mean_interval(standardised_ranks(one) * standardised_ranks(other), groups=groups)


def answer_errors(mean: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """|mean reward - the reward at gold's rank|, (seeds, rows), in the mean's units; answers of equal gold share a place.

    mean: (seeds, rows); gold: (rows,).
    """
    places = (rankdata(gold) - 0.5) / len(gold)
    return np.stack([np.abs(each - np.quantile(each, places, method="hazen")) for each in mean])


@dataclass(frozen=True)
class Uncertainty:
    """Answers: variance and error, (seeds, rows), with category and prompt; pairs: signals and wrongness, (seeds, pairs).

    A pair of equal gold has no right order and is left out.
    """

    variance: np.ndarray
    errors: np.ndarray
    length: np.ndarray
    prompts: np.ndarray
    members: dict[str, np.ndarray]
    signals: dict[str, np.ndarray]
    wrong: np.ndarray
    pair_prompts: np.ndarray
    pair_members: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    def correlation(self, of: str = ANSWER, by: str = VARIANCE, group: str = EVERY) -> Interval:
        """Spearman's coefficient of a signal with the error of answers or pairs, over prompts and seeds."""
        if of == PAIR:
            rows = self.pair_members[group]
            return rank_correlation(self.signals[by][:, rows], self.wrong[:, rows], self.pair_prompts[rows])
        rows = self.members[group]
        noise = np.random.default_rng(1).random(self.errors.shape)
        signal = {VARIANCE: self.variance, LENGTH: self.length, RANDOM: noise}[by]
        return rank_correlation(signal[:, rows], self.errors[:, rows], self.prompts[rows])

    def correlation_records(self) -> list[Record]:
        """p3_01.uncertainty: by signal and group of prompts, with an answer's and with a pair's error."""
        found = []
        for of, signals in ((ANSWER, (VARIANCE, LENGTH, RANDOM)), (PAIR, (VARIANCE, MARGIN, RANDOM))):
            for by in signals:
                for group in (EVERY, KNOWN, STRANGE):
                    if (self.pair_members if of == PAIR else self.members)[group].any():
                        value = self.correlation(of, by, group)
                        found.append(record("p3_01.uncertainty", f"{by}, {of}", group, value, seeds=self.seeds))
        return found

    def selected(self, share: float) -> Interval:
        """Error of the answers of highest variance, this share of them, less that of all, in SDs of reward (p3.eq9)."""
        count = round(share * self.errors.shape[1])
        order = np.argsort(-self.variance, axis=1, kind="stable")
        chosen = np.full(self.errors.shape, np.nan)
        np.put_along_axis(chosen, order[:, :count], 1.0, axis=1)
        return mean_interval(chosen * (self.errors - self.errors.mean(1, keepdims=True)), groups=self.prompts)

    def part_records(self) -> list[Record]:
        """p3_01.error_by_variance: mean error of answers, and wrong pairs in percent, in five equal parts by variance."""
        found = []
        both = ((ANSWER, self.variance, self.errors, self.prompts, 1.0),)
        both += ((PAIR, self.signals[VARIANCE], self.wrong, self.pair_prompts, 100.0),)
        for name, signal, errors, prompts, factor in both:
            ranks = rankdata(signal, axis=1, method="ordinal") - 1
            parts = (PARTS * ranks / signal.shape[1]).astype(int)
            for part in range(PARTS):
                inside = np.where(parts == part, errors, np.nan)
                if np.isfinite(inside).any():
                    value = mean_interval(inside, groups=prompts).scaled(factor)
                    column = f"part = {part + 1}"
                    found.append(record("p3_01.error_by_variance", name, column, value, seeds=self.seeds))
        return found

    def category_records(self) -> list[Record]:
        """p3_01.disagreement: members' SD and the error of answers, mean by category; those of the pairs are marked."""
        found = []
        for name in tasks.CATEGORIES:
            rows = self.members[name]
            category = f"{name} (in the pairs)" if self.members[KNOWN][rows].any() else name
            for name, values in (("members' SD", np.sqrt(self.variance)), ("error", self.errors)):
                value = mean_interval(values[:, rows], groups=self.prompts[rows])
                found.append(record("p3_01.disagreement", name, category, value, seeds=self.seeds))
        return found


def uncertainty(found: EnsembleStudy) -> Uncertainty:
    """Variance and error of every answer of the pool, and of its answers taken two by two as they were drawn."""
    mean, gold, variance = found.scorers[MEAN], found.answers.gold, found.variance
    seeds, prompts, n = mean.shape
    place = np.repeat(np.arange(prompts), n)
    even = n // 2 * 2
    first, second = slice(0, even, 2), slice(1, even, 2)
    margin, worth = mean[..., first] - mean[..., second], np.round(gold[:, first] - gold[:, second], 9)
    apart = (found.members[..., first] - found.members[..., second]).var(1)
    kept = (worth != 0).ravel()
    wrong = (0.5 - 0.5 * np.sign(margin) * np.sign(worth)).reshape(seeds, -1)[:, kept]
    signals = {VARIANCE: apart, MARGIN: -np.abs(margin), RANDOM: np.random.default_rng(2).random(margin.shape)}
    pair_place = np.repeat(np.arange(prompts), even // 2)[kept]
    length = np.tile(found.answers.characters.ravel().astype(float), (seeds, 1))
    return Uncertainty(
        variance=variance.reshape(seeds, -1),
        errors=answer_errors(mean.reshape(seeds, -1), gold.ravel()),
        length=length,
        prompts=place,
        members={name: rows[place] for name, rows in found.groups.items()},
        signals={name: values.reshape(seeds, -1)[:, kept] for name, values in signals.items()},
        wrong=wrong,
        pair_prompts=pair_place,
        pair_members={name: rows[pair_place] for name, rows in found.groups.items()},
        seeds=found.seeds,
    )
