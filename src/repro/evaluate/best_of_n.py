"""Best-of-n, exactly: its value for every n from one pool, its KL from the base policy, and two selectors' contest.

A pool of N scored answers holds C(N, n) sets of n answers. The answer of rank i (1 = lowest proxy score) is the best
of C(i-1, n-1) of them, so the mean over *all* sets is one weighted sum, and nothing needs to be resampled. The
weights come from a recurrence in floats instead of big integers, for every n at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from repro.core.errors import DataError

NEGLIGIBLE = 1e-280  # a weight this small cannot be seen in a sum of weights that is 1
TIE_ORDERS = 16  # random orders that a contest with tied rewards is averaged over


def _subset_sizes(ns: Sequence[int], pool: int) -> np.ndarray:
    sizes = np.asarray(ns)
    if sizes.ndim != 1 or not len(sizes) or sizes.dtype.kind not in "iu" or sizes.min() < 1 or sizes.max() > pool:
        raise DataError(
            f"n must be whole numbers from 1 to the pool's {pool} answers, got {list(ns)}",
            where="best_of_n",
            fix="draw more answers per prompt, or ask for smaller n",
        )
    return sizes.astype(float)


def _scaled_binomials(largest: int, chosen: np.ndarray, at_largest: np.ndarray) -> np.ndarray:
    """C(m, k) / C(M, k) x at_largest for m = 0..M and each k in chosen: (len(chosen), M + 1).

    From the top down, C(m-1, k) = C(m, k) (m - k) / m: each factor is at most 1, so nothing overflows, and what
    would underflow is set to zero first: a product of numbers near 1e-308 costs twenty times an ordinary one.
    """
    m = np.arange(largest, 0, -1, dtype=float)
    factors = np.empty((len(chosen), largest + 1))
    factors[:, 0] = at_largest
    factors[:, 1:] = np.maximum(m - chosen[:, None], 0.0) / m
    products = np.cumprod(factors, axis=1)
    products[products < NEGLIGIBLE] = 0.0
    return np.ascontiguousarray(products[:, ::-1])


def best_of_n_weights(pool: int, ns: Sequence[int]) -> np.ndarray:
    """Probability that rank i of the pool is the best of n answers drawn without replacement: (len(ns), pool).

    C(i-1, n-1) / C(N, n) for rank i = 1 (lowest) .. N, by w_N = n / N and w_{i-1} = w_i (i-n) / (i-1); rows sum to 1
    (Coste et al. 2310.02743, the estimator of its best-of-n curves). Raises DataError unless 1 <= n <= pool.
    """
    sizes = _subset_sizes(ns, pool)
    return _scaled_binomials(pool - 1, sizes - 1, sizes / pool)


def _tied_means(proxy: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Each value replaced by the mean over the answers with the same proxy score; both sorted by proxy, (pool,).

    Breaking ties by a fair draw gives tied answers equal weights, and equal weights on different values are the
    old weights on their mean.
    """
    starts = np.append(True, proxy[1:] != proxy[:-1])
    if starts.all():
        return value
    first = np.flatnonzero(starts)
    size = np.diff(np.append(first, len(proxy)))
    return np.repeat(np.add.reduceat(value, first) / size, size)


def _pools(*arrays: ArrayLike) -> list[np.ndarray]:
    pools = [np.atleast_2d(np.asarray(array, dtype=float)) for array in arrays]
    shapes = {pool.shape for pool in pools}
    if len(shapes) > 1 or pools[0].ndim != 2 or not pools[0].size:
        raise DataError(f"scores of one pool need one shape (prompts, answers), got {shapes}", where="best_of_n")
    if not all(np.isfinite(pool).all() for pool in pools):
        raise DataError("a score is not finite", where="best_of_n", fix="drop the answer or its prompt first")
    return pools


def best_of_n_curve(proxy: ArrayLike, value: ArrayLike, ns: Sequence[int]) -> np.ndarray:
    """Expected value of the answer that the proxy picks from n, unbiased and without resampling: (prompts, len(ns)).

    proxy: (prompts, pool) scores that select; value: (prompts, pool) what the pick is worth, in any unit. Every set of
    n of the pool's answers counts once; ties in proxy are broken by a fair draw, exactly. n = 1 is the pool's
    mean, n = pool its best. Raises DataError if shapes differ, a score is not finite, or n is out of range.
    """
    proxy, value = _pools(proxy, value)
    weights = best_of_n_weights(proxy.shape[1], ns)
    ranked = np.empty(value.shape)
    for row, (scores, worth) in enumerate(zip(proxy, value, strict=True)):  # a row at a time stays in the cache
        order = np.argsort(scores)
        ranked[row] = _tied_means(scores.take(order), worth.take(order))
    return ranked @ weights.T


def raw_contest(reward: np.ndarray, value: np.ndarray, ns: Sequence[int]) -> np.ndarray:
    """P(the pick of n is worth more than one answer drawn from the pool by itself), a tie as half: (prompts, len(ns)).

    reward, value: (prompts, pool), what picks and what the pick is worth. Raises DataError as `best_of_n_curve`.
    """
    above, equal = (test(value[:, :, None], value[:, None, :]).mean(2) for test in (np.greater, np.equal))
    return best_of_n_curve(reward, above + equal / 2, ns)


def best_of_n_kl_bound(n: ArrayLike) -> np.ndarray:
    """log n - (n - 1) / n, in nats: the most that best-of-n can move from its base policy (p1.kl_bound).

    n: any shape, at least 1. Exact where no answer has mass and no two answers tie (Beirami et al. 2401.01879).
    Raises DataError if an n is below 1.
    """
    n = np.asarray(n, dtype=float)
    if (n < 1).any():
        raise DataError(f"best-of-n needs n of at least 1, got {n.min()}", where="best_of_n_kl_bound")
    return np.log(n) - (n - 1) / n


def best_of_n_distribution(probability: ArrayLike, reward: ArrayLike, n: int) -> np.ndarray:
    """What best-of-n samples from a finite base distribution, exactly: (answers,) probabilities.

    probability, reward: (answers,); n answers are drawn with replacement and the highest reward kept, ties by a fair
    draw. A reward level of base mass p, with F mass up to and including it, gets F^n - (F - p)^n, split by
    base mass. Raises DataError if the probabilities are not a distribution or n is below 1.
    """
    probability, reward = np.asarray(probability, dtype=float), np.asarray(reward, dtype=float)
    if probability.shape != reward.shape or (probability < 0).any() or abs(probability.sum() - 1) > 1e-9 or n < 1:
        raise DataError("needs one reward per probability, a sum of 1 and n >= 1", where="best_of_n_distribution")
    level = np.unique(reward, return_inverse=True)[1]
    mass = np.bincount(level, probability)
    upto = np.cumsum(mass) / mass.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(upto > 0, -np.expm1(n * np.log1p(-np.minimum(mass / upto, 1.0))), 0.0)
        scale = np.where(mass > 0, upto**n * share / mass, 0.0)
    return probability * scale[level]


def best_of_n_kl(probability: ArrayLike, reward: ArrayLike, n: int) -> float:
    """KL(best-of-n || base) in nats on a finite answer distribution, by enumeration (p1.kl_bound's left side).

    probability, reward: (answers,). Never above `best_of_n_kl_bound(n)`; zero if all rewards tie; as n grows it tends
    to -log of the best level's mass while the bound grows without end. Raises as `best_of_n_distribution`.
    """
    picked = best_of_n_distribution(probability, reward, n)
    seen = picked > 0
    return float(np.sum(picked[seen] * np.log(picked[seen] / np.asarray(probability, dtype=float)[seen])))


@dataclass(frozen=True)
class Contest:
    """Outcome of two selectors on the same n draws, each (prompts, len(ns)); the three sum to 1.

    error is the standard error that random tie-breaking leaves: 0 where no reward ties, as all else is exact.
    """

    win: np.ndarray
    tie: np.ndarray
    lose: np.ndarray
    error: np.ndarray

    @property
    def rate(self) -> np.ndarray:
        """Win rate with a tie as half a win: (prompts, len(ns))."""
        return self.win + self.tie / 2


def _disagreements(first: np.ndarray, second: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Wins and losses of first's pick i against second's pick j, by how many answers both beat: (2, pool).

    first, second: (pool,) ranks without ties. The two pick i and j != i from a set exactly when both are in it and
    every other member stands below i for the first and below j for the second; with c such answers in the pool, that
    is C(c, n-2) sets. Answers enter in the first's order, kept in the second's, so c is just a position in the row.
    """
    pool = len(value)
    counts = np.zeros((2, pool), dtype=np.int64)
    below_rank, below_value = np.empty(pool), np.empty(pool)
    for entered, answer in enumerate(np.argsort(first)):
        at = int(np.searchsorted(below_rank[:entered], second[answer]))
        rivals = below_value[at:entered]
        counts[0, at:entered] += value[answer] > rivals
        counts[1, at:entered] += value[answer] < rivals
        for row, new in ((below_rank, second[answer]), (below_value, value[answer])):
            row[at + 1 : entered + 1] = row[at:entered].copy()
            row[at] = new
    return counts


def _ranks(scores: np.ndarray, priority: np.ndarray) -> np.ndarray:
    """Ranks 0..pool-1 of scores, ties by priority."""
    ranks = np.empty(len(scores))
    ranks[np.lexsort((priority, scores))] = np.arange(len(scores))
    return ranks


def selector_contest(
    first: ArrayLike, second: ArrayLike, value: ArrayLike, ns: Sequence[int], *, seed: int = 0, orders: int = TIE_ORDERS
) -> Contest:
    """First's best-of-n pick against second's from the same n draws, over every set of n in the pool (p1.fig4).

    first, second: (prompts, pool) rewards that select; value: (prompts, pool) the judge's scores of the answers. The
    same pick, or two of equal value, is a tie. Exact where neither reward ties; otherwise the mean over
    `orders` seeded tie orders, which both selectors share as they share the draws, with its standard error.
    Raises DataError if shapes differ, a score is not finite, or n is out of range.
    """
    first, second, value = _pools(first, second, value)
    prompts, pool = value.shape
    sizes = _subset_sizes(ns, pool)
    # C(c, n-2) / C(N, n) for c = 0..N-2; one answer alone leaves nothing to disagree about
    sets = np.zeros((len(sizes), pool))
    sets[:, : pool - 1] = _scaled_binomials(
        max(pool - 2, 0), np.maximum(sizes - 2, 0), sizes * (sizes - 1) / max(pool * (pool - 1), 1)
    )
    rng = np.random.default_rng(seed)
    outcome, error = np.empty((2, prompts, len(sizes))), np.zeros((prompts, len(sizes)))
    for row in range(prompts):
        tied = min(len(np.unique(first[row])), len(np.unique(second[row]))) < pool
        draws = []
        for _ in range(orders if tied else 1):
            priority = rng.permutation(pool)
            ranks = _ranks(first[row], priority), _ranks(second[row], priority)
            draws.append(_disagreements(*ranks, value[row]) @ sets.T)
        outcome[:, row] = np.mean(draws, axis=0)
        if len(draws) > 1:
            rates = np.array([win - lose for win, lose in draws]) / 2
            error[row] = rates.std(axis=0, ddof=1) / math.sqrt(len(draws))
    win, lose = outcome
    return Contest(win, 1.0 - win - lose, lose, error)
