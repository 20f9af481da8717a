"""Which samples are worth a label: those ranked above a threshold, and as many at random to compare with.

Variances 3, 1, 4, 2 have ranks .75, .25, 1, .5; gamma = 0.5 keeps those above it, places 0 and 2. So a threshold of 0.5
keeps half, and the half of a half is the paper's 25%. Of samples equal at the threshold some stay and some go, drawn by
the seed; `tied` says how many there were, because with many of them the selection is a draw and not a choice.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from repro.core.errors import DataError, SettingsError
from repro.objectives.ensemble import ensemble_variance


def largest_rank(scores: np.ndarray, axis: int = 1) -> np.ndarray:
    """The highest of a sample's ranks, one a subtask: no subtask's wider scores decide alone (not in the paper).

    scores: (samples, subtasks); axis: the subtasks'. Returns (samples,), in 1..samples.
    """
    return rankdata(scores, axis=1 - axis).max(axis)


# p3.eq12 prints the largest subtask's; p3 section 5.2 speaks of their mean; the third weighs subtasks alike
OVER = {"max": np.max, "mean": np.mean, "ranks": largest_rank}


@dataclass(frozen=True)
class Selection:
    """Places selected, in ascending order; ranks (samples,) in 0..1, 1 the highest; tied: see the module's top."""

    places: np.ndarray
    ranks: np.ndarray
    tied: int = 0


def uncertainty_selection(rewards: ArrayLike, gamma: float, seed: int) -> Selection:
    """Samples whose rewards the members disagree on: Rank(variance) > gamma (p3.eq9).

    rewards: (members, samples), in units of reward; gamma in 0..1, the share that goes. Raises as `ensemble_variance`
    (naming member and sample of a reward that is not finite) and `ranked_above` do.
    """
    values = torch.as_tensor(np.asarray(rewards, dtype=np.float64))
    return ranked_above(ensemble_variance(values).numpy(), gamma, seed)


def influence_selection(scores: ArrayLike, eta: float, seed: int, over: str = "max") -> Selection:
    """Samples of high influence on a validation subtask: Rank(max over subtasks) > eta (p3.eq12).

    scores: (samples, subtasks), p3.eq11; eta in 0..1, the share that goes; over: `max` as printed, `mean` or `ranks`. Raises
    DataError if there is no subtask, SettingsError for another `over`, and as `ranked_above` does.
    """
    values = np.asarray(scores, dtype=np.float64)
    if over not in OVER:
        raise SettingsError(f"unknown value {over!r}", where="over", fix=f"choose from {', '.join(OVER)}")
    if values.ndim != 2 or not values.shape[1]:
        fix = "pass (samples, subtasks), at least one subtask"
        raise DataError(f"scores of shape {values.shape}", where="influence selection", fix=fix)
    return ranked_above(OVER[over](values, axis=1), eta, seed)


def ranked_above(values: ArrayLike, threshold: float, seed: int) -> Selection:
    """Samples with Rank > threshold; the rank of the i-th smallest of n is i / n (p3.eq9, p3.eq12).

    values: (samples,). Equal values are ranked in an order drawn from the seed: the same values and seed select the
    same places. Raises DataError if there is no sample, one is not finite (naming it), or the threshold keeps none;
    SettingsError if the threshold is outside 0..1.
    """
    values = np.asarray(values, dtype=np.float64)
    _check_values(values, threshold)
    order = np.lexsort((np.random.default_rng(seed).permutation(len(values)), values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1) / len(values)
    kept = ranks > threshold
    if not kept.any():
        fix = f"lower the threshold of {threshold}"
        raise DataError(f"none of {len(values)} samples is ranked above it", where="selection", fix=fix)
    equal = values == values[kept].min()  # of the lowest value that stays: tied if one of them goes
    return Selection(np.flatnonzero(kept), ranks, int(equal.sum()) if (equal & ~kept).any() else 0)


def _check_values(values: np.ndarray, threshold: float) -> None:
    if not 0 <= threshold <= 1:
        fix = "0 keeps every sample, 0.5 the upper half"
        raise SettingsError(f"{threshold} is no share", where="selection threshold", fix=fix)
    if values.ndim != 1 or not len(values):
        raise DataError(f"values of shape {values.shape}", where="selection", fix="pass one value a sample")
    if len(bad := np.flatnonzero(~np.isfinite(values))):
        what = f"{len(bad)} values are not finite, first {values[bad[0]]}"
        raise DataError(what, where=f"sample {bad[0]}", fix="look at how its score was computed")


def random_selection(samples: int, budget: int, seed: int) -> Selection:
    """As many samples at random: UGDA(RA), and the labels that every baseline is given (p3 section 5.1).

    Every sample is as likely; its rank is a uniform draw's. Raises DataError if the budget is not in 1..samples.
    """
    if not 1 <= budget <= samples:
        raise DataError(f"{budget} of {samples} samples", where="random selection", fix=f"ask for 1 to {samples}")
    order = np.random.default_rng(seed).permutation(samples)
    ranks = np.empty(samples)
    ranks[order] = np.arange(1, samples + 1) / samples
    return Selection(np.sort(order[samples - budget :]), ranks)
