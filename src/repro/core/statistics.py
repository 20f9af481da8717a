"""Intervals: bootstrap over prompts, Student's t for seeds, paired where the comparison is paired.

Prompts are many, so they are resampled (Efron & Tibshirani 1993, ch. 13). Seeds are few, and resampling three
numbers covers far less than it says, so their spread enters as a variance with k - 1 degrees of freedom; the two
variances add, since seeds and prompts are drawn independently of each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from repro.core.errors import DataError

LEVEL = 0.95
DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval and the number of prompts it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __post_init__(self) -> None:
        if not (np.isnan(self.value) or self.low <= self.high):
            raise DataError(f"an interval from {self.low} to {self.high} is upside down", where="Interval")

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def scaled(self, factor: float) -> "Interval":
        """The same interval in another unit, such as percent (factor 100)."""
        low, high = sorted((self.low * factor, self.high * factor))
        return Interval(self.value * factor, low, high, self.n)


def _clusters(outcomes: np.ndarray, groups: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and count of the finite outcomes (seeds x rows) per cluster: each (seeds, clusters)."""
    finite = np.isfinite(outcomes)
    filled = np.where(finite, outcomes, 0.0)
    if groups is None:
        return filled, finite.astype(float)
    labels = np.unique(np.asarray(groups), return_inverse=True)[1]
    if labels.shape != outcomes.shape[1:]:
        raise DataError(f"{labels.size} group labels for {outcomes.shape[1]} outcomes", where="mean_interval")
    size = labels.max() + 1
    total = np.stack([np.bincount(labels, row, size) for row in filled])
    count = np.stack([np.bincount(labels, row.astype(float), size) for row in finite])
    return total, count


def _prompt_deviations(total: np.ndarray, count: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Resampled mean minus the mean, over clusters: (draws,)."""
    total, count = total.sum(0), count.sum(0)
    value, n = total.sum() / count.sum(), len(total)
    means = np.empty(draws)
    for start in range(0, draws, 100):  # a hundred at a time keeps the index matrix small
        picked = rng.integers(n, size=(min(100, draws - start), n))
        means[start : start + len(picked)] = total[picked].sum(1) / np.maximum(count[picked].sum(1), 1e-12)
    return means - value


def _seed_variance(total: np.ndarray, count: np.ndarray) -> tuple[float, int]:
    """Variance that few seeds leave in the mean, and the number of seeds; zero for one seed, which says nothing of it."""
    used = count.sum(1) > 0
    means = total.sum(1)[used] / count.sum(1)[used]
    return (float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0), len(means)


def _deviations(total: np.ndarray, count: np.ndarray, rng: np.random.Generator, draws: int) -> np.ndarray:
    """Draws of the error of the mean from prompts and seeds together: (draws,).

    The seeds' variance is itself guessed from k means, so the sum is widened from the normal's to Student's quantile at
    Welch and Satterthwaite's degrees of freedom: k - 1 where seeds are all the noise, infinity where prompts are.
    """
    prompts = _prompt_deviations(total, count, rng, draws)
    seed_variance, seeds = _seed_variance(total, count)
    if not seed_variance:
        return prompts
    freedom = (prompts.var() + seed_variance) ** 2 / (seed_variance**2 / (seeds - 1))
    tail = (1 + LEVEL) / 2
    widening = stats.t.ppf(tail, freedom) / stats.norm.ppf(tail)
    return widening * (prompts + rng.normal(0, np.sqrt(seed_variance), draws))


def mean_interval(
    outcomes: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Mean of outcomes with its 95% interval, over prompts and, where there are several, over seeds.

    outcomes: (prompts,) or (seeds, prompts), nan where a seed did not see a prompt; groups: (prompts,) cluster labels,
    such as the prompt that several pairs share. n counts clusters with at least one outcome.
    Raises DataError if there is no finite outcome or the shapes disagree.
    """
    outcomes = np.atleast_2d(np.asarray(outcomes, dtype=float))
    if outcomes.ndim != 2 or not np.isfinite(outcomes).any():
        raise DataError(
            "no finite outcome to average", where="mean_interval", fix="look at the rows set aside upstream"
        )
    total, count = _clusters(outcomes, groups)
    seen = count.sum(0) > 0
    total, count = total[:, seen], count[:, seen]
    rng = np.random.default_rng(seed)
    deviations = _deviations(total, count, rng, draws)
    value = total.sum() / count.sum()
    low, high = value + np.quantile(deviations, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high), int(seen.sum()))


def difference_interval(
    first: ArrayLike, second: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> Interval:
    """Mean of first - second on the same prompts (and seeds) with its 95% interval, paired.

    first, second: the same shape, (prompts,) or (seeds, prompts). Raises DataError if the shapes differ.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape:
        raise DataError(f"paired outcomes of shapes {first.shape} and {second.shape}", where="difference_interval")
    return mean_interval(first - second, groups=groups, seed=seed)


def statistic_interval(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
    draws: int = 1000,
) -> Interval:
    """Any statistic of row indices with its 95% percentile bootstrap interval over rows, or clusters of rows.

    statistic: takes an index array into the n rows, returns a number; draws on which it is nan are left out.
    Raises DataError if n is zero.
    """
    if n < 1:
        raise DataError("no rows to resample", where="statistic_interval")
    labels = np.arange(n) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(labels, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(labels))[:-1])
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        picked = rng.integers(len(members), size=len(members))
        values.append(statistic(picked if groups is None else np.concatenate([members[i] for i in picked])))
    low, high = np.nanquantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(statistic(np.arange(n))), float(low), float(high), len(members))
