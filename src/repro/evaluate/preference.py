"""Accuracy of a reward model on preference pairs, the baselines it must beat, and whether its odds mean anything.

p1.table2 and p3.fig7 report the share of pairs in which the chosen answer gets the higher reward. Pairs that share a
prompt are not independent, so intervals resample prompts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import binom

from repro.core.errors import DataError
from repro.core.statistics import LEVEL, Interval, mean_interval


def pair_outcomes(chosen: ArrayLike, rejected: ArrayLike, tie_score: float = 0.5) -> np.ndarray:
    """1 where chosen > rejected, 0 where it is less, tie_score where they are equal: (pairs,).

    chosen, rejected: (pairs,) rewards or any other score. Half for a tie is what a fair coin would earn; 0 is the
    strict rule. Raises DataError if shapes differ, there is no pair, a score is nan, or tie_score is outside [0, 1].
    """
    chosen, rejected = np.asarray(chosen, dtype=float), np.asarray(rejected, dtype=float)
    if chosen.shape != rejected.shape or chosen.ndim != 1 or not len(chosen):
        raise DataError(f"scores of shapes {chosen.shape} and {rejected.shape}", where="pair_outcomes")
    if np.isnan(chosen).any() or np.isnan(rejected).any():
        raise DataError("a score is nan", where="pair_outcomes", fix="set the pair aside upstream, with a count")
    if not 0 <= tie_score <= 1:
        raise DataError(f"a tie cannot score {tie_score}", where="pair_outcomes", fix="0.5, or 0 for the strict rule")
    return np.select([chosen > rejected, chosen < rejected], [1.0, 0.0], tie_score)


def pairwise_accuracy(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    tie_score: float = 0.5,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> Interval:
    """Share of pairs won by the chosen answer, in [0, 1], with its 95% bootstrap interval over prompts (p1.table2).

    groups: (pairs,) the prompt of each pair; without it each pair is its own prompt. n counts prompts. Raises as
    `pair_outcomes`.
    """
    return mean_interval(pair_outcomes(chosen, rejected, tie_score), groups=groups, seed=seed)


def accuracy_by_section(
    outcomes: ArrayLike, sections: Sequence[str], *, groups: ArrayLike | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Accuracy of each section with its interval, in order of first appearance.

    outcomes: (pairs,) from `pair_outcomes`; sections: (pairs,) names; groups: (pairs,) prompts. Raises DataError if
    lengths differ.
    """
    outcomes, sections = np.asarray(outcomes, dtype=float), np.asarray(sections)
    labels = np.arange(len(outcomes)) if groups is None else np.asarray(groups)
    if not outcomes.shape == sections.shape == labels.shape:
        raise DataError(f"{outcomes.size} outcomes, {sections.size} sections, {labels.size} groups", where="preference")
    names = dict.fromkeys(sections.tolist())
    return {
        str(name): mean_interval(outcomes[sections == name], groups=labels[sections == name], seed=seed)
        for name in names
    }


def random_baseline(pairs: int) -> Interval:
    """Accuracy of rewards drawn at random: exactly 1/2 by symmetry, and the range that 95% of such models fall in.

    Independent answers in each pair: quantiles of Binomial(pairs, 1/2) / pairs. An accuracy inside is not evidence
    of anything. Raises DataError without a pair.
    """
    if pairs < 1:
        raise DataError("no pair to guess", where="random_baseline")
    low, high = binom.ppf([(1 - LEVEL) / 2, (1 + LEVEL) / 2], pairs, 0.5) / pairs
    return Interval(0.5, float(low), float(high), pairs)


def longer_baseline(
    chosen_lengths: ArrayLike, rejected_lengths: ArrayLike, *, groups: ArrayLike | None = None, seed: int = 0
) -> Interval:
    """Accuracy of picking the longer answer, equal lengths by a coin, with its interval; the shorter scores 1 minus it.

    lengths: (pairs,) characters or tokens. Raises as `pair_outcomes`.
    """
    return pairwise_accuracy(chosen_lengths, rejected_lengths, groups=groups, seed=seed)


@dataclass(frozen=True)
class SectionBaselines:
    """What takes no reading of the answers: chance and length."""

    random: Interval
    longer: Interval


def null_baselines(
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    sections: Sequence[str],
    *,
    groups: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, SectionBaselines]:
    """Chance and pick-the-longer in each section. Arguments and errors as `accuracy_by_section` and `pair_outcomes`."""
    longer = accuracy_by_section(pair_outcomes(chosen_lengths, rejected_lengths), sections, groups=groups, seed=seed)
    counts = {name: int((np.asarray(sections) == name).sum()) for name in longer}
    return {name: SectionBaselines(random_baseline(counts[name]), interval) for name, interval in longer.items()}


@dataclass(frozen=True)
class Calibration:
    """Scores of predicted preference probabilities (lower is better), and the reliability diagram they summarise.

    log_loss in nats; the last three are (bins,) over confidence from 1/2 to 1, nan where a bin is empty.
    """

    brier: float
    log_loss: float
    expected_calibration_error: float
    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def calibration(margin: ArrayLike, label: ArrayLike | None = None, bins: int = 10) -> Calibration:
    """Brier score, log loss and expected calibration error of P(first answer wins) = sigmoid(margin) (p2.def2).

    margin: (pairs,) log-odds, for a Bradley-Terry model the reward difference; label: (pairs,) share of judges for
    the first answer in [0, 1], by default 1: the chosen answer stands first. Swapping a pair's answers changes nothing:
    calibration is read at the confidence in the favoured answer, an even pair counting half right (Guo et al. 1706.04599).
    Raises DataError if shapes differ, a margin is nan or a label is outside [0, 1].
    """
    margin = np.asarray(margin, dtype=float)
    label = np.ones(margin.shape) if label is None else np.asarray(label, dtype=float)
    if margin.shape != label.shape or margin.ndim != 1 or not len(margin) or np.isnan(margin).any():
        raise DataError(f"margins of shape {margin.shape}, labels {label.shape}", where="calibration")
    if not ((label >= 0) & (label <= 1)).all() or bins < 1:
        raise DataError("labels must lie in [0, 1], and there must be a bin", where="calibration")
    loss = _times(label, np.logaddexp(0, -margin)) + _times(1 - label, np.logaddexp(0, margin))
    confidence = expit(np.abs(margin))
    right = np.select([margin > 0, margin < 0], [label, 1 - label], 0.5)
    at = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        stated = np.bincount(at, confidence, bins) / count
        seen = np.bincount(at, right, bins) / count
    gap = np.nansum(count * np.abs(seen - stated)) / len(margin)
    brier = np.mean((expit(margin) - label) ** 2)
    return Calibration(float(brier), float(loss.mean()), float(gap), stated, seen, count)


def _times(weight: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """weight x loss, and 0 where the weight is 0 even if the loss is infinite."""
    return np.multiply(weight, loss, out=np.zeros(weight.shape), where=weight > 0)
