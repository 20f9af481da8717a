"""From an expert's levels 1 to 5 back to each member's own scale of reward, and the loss that teaches it.

Rewards 10, 20, ... 100 of one member: level 1 is its 20% quantile, 20; level 3 is 60; level 5 is its largest, 100. A
level stands for its quantile whatever the other levels are, so with fewer than five in use nothing shifts, but less of
the scale is taught; `missing` names those that no sample was given.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from repro.core.errors import DataError

LEVELS = 5


@dataclass(frozen=True)
class Relabelled:
    """Targets (members, samples) in each member's units of reward; levels of 1..5 that no sample was given."""

    targets: np.ndarray
    missing: tuple[int, ...]


def quantiles(rewards: ArrayLike) -> np.ndarray:
    """Each member's rewards at 20%, 40%, ... 100% of them in ascending order, (members, 5): Quantile_5 of p3.eq13.

    rewards: (members, samples), in units of reward; a quantile is one of them, the first with at least that share at or
    below it. Raises DataError if there is none, one is not finite, or a member's are all equal, naming the member.
    """
    values = np.asarray(rewards, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        fix = "pass (members, samples), at least one of each"
        raise DataError(f"rewards of shape {values.shape}", where="quantiles", fix=fix)
    if len(bad := np.argwhere(~np.isfinite(values))):
        member, sample = bad[0]
        where, fix = f"member {member}, sample {sample}", "look at that member's weights, and at the sample"
        raise DataError(f"{len(bad)} rewards are not finite, first {values[member, sample]}", where=where, fix=fix)
    if len(constant := np.flatnonzero(np.ptp(values, axis=1) == 0)):
        what = f"all {values.shape[1]} rewards are {values[constant[0], 0]:g}, so every level would be one reward"
        raise DataError(what, where=f"member {constant[0]}", fix="train that member again, or give more samples")
    counts = -(-np.arange(1, LEVELS + 1) * values.shape[1] // LEVELS)  # rounded up, in whole numbers
    return np.sort(values, axis=1)[:, counts - 1]


def relabelled_rewards(levels: ArrayLike, rewards: ArrayLike, seed: int, noise_variance: float = 0.01) -> Relabelled:
    """R_i = Quantile_5(rewards of member i, level) + N(0, noise_variance), (members, samples) (p3.eq13).

    levels: (samples,) whole numbers 1 to 5; rewards: (members, any number of samples), each member's distribution of
    proxy rewards. Every target has its own draw of noise, from the seed. Raises DataError naming the sample if a level
    is none of the five, if there is no sample, if the variance is negative, and as `quantiles` does.
    """
    given = np.asarray(levels, dtype=np.float64)
    if given.ndim != 1 or not len(given):
        raise DataError(f"levels of shape {given.shape}", where="relabelling", fix="pass one level a sample")
    if len(bad := np.flatnonzero(~np.isin(given, np.arange(1, LEVELS + 1)))):
        what = f"{len(bad)} levels are none of 1 to {LEVELS}, first {given[bad[0]]:g}"
        raise DataError(what, where=f"sample {bad[0]}", fix="drop these samples before, and count them")
    if not noise_variance >= 0:
        raise DataError(f"noise of variance {noise_variance}", where="relabelling", fix="0 or more; the paper has 0.01")
    scale = quantiles(rewards)
    noise = np.random.default_rng(seed).normal(0.0, noise_variance**0.5, (len(scale), len(given)))
    missing = tuple(level for level in range(1, LEVELS + 1) if not (given == level).any())
    return Relabelled(scale[:, given.astype(int) - 1] + noise, missing)


def refinement_loss(rewards: Tensor, targets: Tensor) -> Tensor:
    """Mean of (R - r)², in squared units of reward (p3.eq14).

    rewards, targets: (samples,) of one member. Raises DataError if the shapes differ or there are no samples.
    """
    if rewards.shape != targets.shape or rewards.dim() != 1 or not len(rewards):
        what = f"rewards and targets of shapes {tuple(rewards.shape)} and {tuple(targets.shape)}"
        raise DataError(what, where="refinement", fix="pass one target a reward: two tensors of shape (samples,)")
    return (targets - rewards).square().mean()
