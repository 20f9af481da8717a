"""Does a reward model just like long answers? Per-prompt correlation of reward and length (p2.fig3).

For each prompt, several responses are sampled and scored; the Pearson correlation of their rewards with their lengths
is one number per prompt. The paper reports the mean over prompts (0.19 for UltraRM-13B, 0.06 for its own model) and
a heatmap of prompts by mean response length and correlation.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from repro.core.errors import DataError
from repro.core.statistics import Interval, mean_interval


@dataclass(frozen=True)
class LengthBias:
    """One row per prompt: correlation in [-1, 1], nan where set aside, and mean response length; (prompts,) each.

    A prompt is set aside if it has fewer than two responses, or all its lengths, or all its rewards, are equal; each
    is counted once, under the first of these that holds.
    """

    correlation: np.ndarray
    mean_length: np.ndarray
    too_few: int
    constant_length: int
    constant_reward: int

    @property
    def set_aside(self) -> int:
        return self.too_few + self.constant_length + self.constant_reward

    def mean(self, seed: int = 0) -> Interval:
        """Mean correlation over the prompts kept, with its 95% bootstrap interval over prompts (p2.fig3).

        Raises DataError if every prompt was set aside.
        """
        if self.set_aside == len(self.correlation):
            what = f"all {self.set_aside} prompts were set aside: a length or a reward is the same in each"
            raise DataError(what, where="length_bias", fix="sample at a higher temperature, or more responses")
        return mean_interval(self.correlation, seed=seed)


def length_correlations(rewards: ArrayLike, lengths: ArrayLike) -> LengthBias:
    """Pearson correlation of reward and length among each prompt's responses (p2.fig3).

    rewards, lengths: (prompts, responses), lengths in characters or tokens, nan where a prompt has fewer responses. With
    n responses a true correlation rho shows as about rho (1 - (1 - rho^2) / 2n): 6% too small for n = 8. Raises
    DataError if the shapes differ or a pair is half missing.
    """
    rewards, lengths = np.asarray(rewards, dtype=float), np.asarray(lengths, dtype=float)
    if rewards.shape != lengths.shape or rewards.ndim != 2 or not rewards.size:
        raise DataError(f"rewards {rewards.shape} and lengths {lengths.shape}", where="length_correlations")
    present = np.isfinite(rewards)
    if (present != np.isfinite(lengths)).any():
        raise DataError("a response has a reward without a length, or the reverse", where="length_correlations")
    count = present.sum(axis=1)
    mean_length = _row_mean(lengths, present)
    too_few = count < 2
    same_length = ~too_few & _constant(lengths, present)
    same_reward = ~too_few & ~same_length & _constant(rewards, present)
    correlation = _correlation(rewards, lengths, present)
    correlation[too_few | same_length | same_reward] = np.nan
    return LengthBias(correlation, mean_length, int(too_few.sum()), int(same_length.sum()), int(same_reward.sum()))


def _row_mean(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    count = present.sum(axis=1)
    total = np.where(present, values, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _constant(values: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Rows whose present values are all equal; compared exactly, as a variance of equal floats need not be zero."""
    low, high = np.where(present, values, np.inf).min(axis=1), np.where(present, values, -np.inf).max(axis=1)
    return low >= high


def _correlation(first: np.ndarray, second: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Row-wise Pearson correlation; of no meaning in rows without spread, which the caller sets aside."""
    deviations = []
    for values in (first, second):
        centred = np.where(present, values - _row_mean(values, present)[:, None], 0.0)
        # to unit size first, so that squares of very small or large deviations neither vanish nor overflow
        deviations.append(centred / np.maximum(np.abs(centred).max(axis=1, keepdims=True), np.finfo(float).tiny))
    one, two = deviations
    spread = np.sqrt((one**2).sum(axis=1) * (two**2).sum(axis=1))
    return np.clip((one * two).sum(axis=1) / np.maximum(spread, np.finfo(float).tiny), -1.0, 1.0)


@dataclass(frozen=True)
class LengthHeatmap:
    """Prompts counted by mean length (rows) and correlation (columns): counts (rows, columns), and the bins' edges.

    longer: prompts above the last length edge, counted in the last row so that none vanishes.
    """

    counts: np.ndarray
    length_edges: np.ndarray
    correlation_edges: np.ndarray
    longer: int


def length_heatmap(
    bias: LengthBias, length_edges: Sequence[float], correlation_edges: Sequence[float] | None = None
) -> LengthHeatmap:
    """The counts that p2.fig3 shows: prompts binned by mean response length and by correlation.

    length_edges: rising, first at or below every mean; the paper's axis ends at 1400. correlation_edges: rising, from -1 to 1,
    by default 20 equal bins. Every prompt kept is in exactly one cell. Raises DataError for edges that do not hold that.
    """
    kept = np.isfinite(bias.correlation)
    length, correlation = bias.mean_length[kept], bias.correlation[kept]
    rows = _length_edges(length_edges, length)
    columns = np.linspace(-1, 1, 21) if correlation_edges is None else _rising(correlation_edges, "correlation")
    if columns[0] > -1 or columns[-1] < 1:
        raise DataError("correlation edges must reach from -1 to 1", where="length_heatmap")
    counts = np.histogram2d(np.minimum(length, rows[-1]), correlation, bins=(rows, columns))[0]
    return LengthHeatmap(counts.astype(int), rows, columns, int((length > rows[-1]).sum()))


def mean_by_length(bias: LengthBias, length_edges: Sequence[float], seed: int = 0) -> list[Interval | None]:
    """Mean correlation with its interval within each bin of mean length, None for an empty bin: one per bin.

    Bins are [edge, next edge); the last also holds what is longer. Raises DataError if the edges do not rise from at or
    below every mean.
    """
    kept = np.isfinite(bias.correlation)
    length, correlation = bias.mean_length[kept], bias.correlation[kept]
    edges = _length_edges(length_edges, length)
    at = np.minimum(np.searchsorted(edges, length, side="right") - 1, len(edges) - 2)
    groups = [correlation[at == row] for row in range(len(edges) - 1)]
    return [mean_interval(group, seed=seed) if len(group) else None for group in groups]


def _rising(edges: Sequence[float], name: str) -> np.ndarray:
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise DataError(f"{name} edges must rise, got {edges.tolist()}", where="length_bias")
    return edges


def _length_edges(edges: Sequence[float], length: np.ndarray) -> np.ndarray:
    edges = _rising(edges, "length")
    if (length < edges[0]).any():
        raise DataError(
            f"a mean length of {length.min():g} is below the first edge", where="length_bias", fix="start at 0"
        )
    return edges
