"""Two ways of training compared at the same distance from where both began.

More reward can be bought with more KL, so an arm that moved further is not the better one for that. Each arm is a few
policies at several distances; its gold at any distance between them is read off straight lines in sqrt(KL), in which
gold rises about linearly at first (Gao et al. 2210.10760).
"""

from dataclasses import dataclass

import numpy as np

from repro.core.errors import DataError
from repro.core.statistics import Interval, difference_interval, mean_interval

Arm = tuple[np.ndarray, np.ndarray]  # gold and log pi - log pi_0 in nats, each (policies, seeds, prompts), pi_0 first


@dataclass(frozen=True)
class Matched:
    """Two arms at the largest sqrt(KL) that both reach on every seed: gold of each, and the difference paired."""

    distance: float
    first: Interval
    second: Interval
    difference: Interval


def matched(first: Arm, second: Arm) -> Matched:
    """The first arm less the second at equal KL to pi_0, over prompts and seeds. Raises DataError if the shapes disagree."""
    for gold, ratio in (first, second):
        if gold.shape != ratio.shape or gold.shape[1:] != first[0].shape[1:]:
            raise DataError(f"gold of shape {gold.shape}, log ratios {ratio.shape}", where="matched")
    reached = [distances(ratio[:, seed]).max() for _, ratio in (first, second) for seed in range(ratio.shape[1])]
    distance = float(min(reached))
    values = [
        np.array([at_distance(gold[:, seed], ratio[:, seed], distance) for seed in range(gold.shape[1])])
        for gold, ratio in (first, second)
    ]
    return Matched(distance, *map(mean_interval, values), difference_interval(*values))


def distances(log_ratio: np.ndarray) -> np.ndarray:
    """sqrt(KL(pi, pi_0)) of each policy, (policies,), from log ratios of its own answers (policies, prompts); nan: not known."""
    return np.sqrt(np.maximum(np.nanmean(log_ratio, axis=1), 0))  # an estimate of zero can fall below it


def at_distance(gold: np.ndarray, log_ratio: np.ndarray, distance: float) -> np.ndarray:
    """What each prompt says, (prompts,), of the gold that an arm has at sqrt(KL) = distance; its mean is that gold.

    gold, log_ratio: (policies, prompts), pi_0 first. Gold is read off the line through the two policies on either
    side; sqrt(KL) is itself a mean over prompts, so its error counts, to first order: gold - slope (KL_x - KL) / (2 sqrt(KL)).
    """
    root = distances(log_ratio)
    order = np.argsort(root, kind="stable")
    if distance <= 0:
        return gold[order[0]]
    right = order[np.clip(np.searchsorted(root[order], distance), 1, len(order) - 1)]
    left = order[np.flatnonzero(order == right)[0] - 1]
    share = (distance - root[left]) / (root[right] - root[left])
    slope = (gold[right].mean() - gold[left].mean()) / (root[right] - root[left])
    found = np.zeros(gold.shape[1])
    for place, weight in ((left, 1 - share), (right, share)):
        error = np.nan_to_num(log_ratio[place] - root[place] ** 2) / (2 * root[place]) if root[place] > 0 else 0.0
        found += weight * (gold[place] - slope * error)
    return found
