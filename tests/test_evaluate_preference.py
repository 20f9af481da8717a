"""Pairwise accuracy, its baselines and calibration: hand arithmetic, limits, symmetry, scikit-learn's scores."""

import math

import numpy as np
import pytest
from scipy.special import expit

from repro.core.errors import DataError
from repro.evaluate.preference import (
    accuracy_by_section,
    calibration,
    longer_baseline,
    null_baselines,
    pair_outcomes,
    pairwise_accuracy,
    random_baseline,
)


def test_outcomes_and_tie_rule_by_hand():
    """A win, a loss and a tie: 1.5 of 3 with half for a tie, 1 of 3 under the strict rule."""
    chosen, rejected = [2.0, 0.0, 1.0], [1.0, 1.0, 1.0]
    assert pair_outcomes(chosen, rejected).tolist() == [1.0, 0.0, 0.5]
    assert pairwise_accuracy(chosen, rejected).value == pytest.approx(0.5)
    assert pairwise_accuracy(chosen, rejected, tie_score=0.0).value == pytest.approx(1 / 3)


def test_only_the_order_of_rewards_counts_and_swapping_mirrors():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.integers(5, size=(2, 300)).astype(float)
    ours = pairwise_accuracy(chosen, rejected)
    assert pairwise_accuracy(np.exp(chosen), np.exp(rejected)) == ours
    assert pairwise_accuracy(rejected, chosen).value == pytest.approx(1 - ours.value)


def test_interval_counts_prompts_not_pairs():
    """Six copies of each pair carry no more evidence than one: by prompts the interval stays, by pairs it would shrink."""
    rng = np.random.default_rng(1)
    chosen, prompts = np.repeat(rng.normal(0.3, 1, 200), 6), np.repeat(np.arange(200), 6)
    by_prompt = pairwise_accuracy(chosen, np.zeros(1200), groups=prompts)
    once = pairwise_accuracy(chosen[::6], np.zeros(200))
    assert (by_prompt.n, once.n) == (200, 200)
    assert by_prompt.half_width == pytest.approx(once.half_width, rel=0.05)
    assert by_prompt.half_width > 2 * pairwise_accuracy(chosen, np.zeros(1200)).half_width


def test_sections_keep_their_order_and_split_the_mean():
    outcomes, sections = [1, 0, 1, 1, 0.5], ["b", "b", "a", "a", "a"]
    by_section = accuracy_by_section(outcomes, sections)
    assert list(by_section) == ["b", "a"]
    assert by_section["b"].value == 0.5
    assert by_section["a"].value == pytest.approx(2.5 / 3)
    assert accuracy_by_section(outcomes, sections, groups=[0, 0, 1, 1, 2])["a"].n == 2


def test_random_baseline_by_hand_and_by_simulation():
    """Four pairs: 0 or 4 right has probability 1/8 > 5%, so all counts are plausible. Many: 0.5 -+ 0.98 / sqrt(n)."""
    assert (random_baseline(4).low, random_baseline(4).high) == (0.0, 1.0)
    interval = random_baseline(1000)
    assert (interval.value, interval.n) == (0.5, 1000)
    assert interval.half_width == pytest.approx(0.98 / math.sqrt(1000), rel=0.03)
    rewards = np.random.default_rng(2).normal(size=(2, 2000, 1000))
    accuracies = (rewards[0] > rewards[1]).mean(axis=1)
    inside = ((accuracies >= interval.low) & (accuracies <= interval.high)).mean()
    assert inside == pytest.approx(0.954, abs=0.015)


def test_pick_the_longer():
    """Lengths 30 > 10, 5 < 9, 7 = 7: one right, one wrong, one coin."""
    assert longer_baseline([30, 5, 7], [10, 9, 7]).value == pytest.approx(0.5)
    baselines = null_baselines([30, 5, 7], [10, 9, 2], ["x", "y", "x"])
    assert (baselines["x"].longer.value, baselines["y"].longer.value) == (1.0, 0.0)
    assert (baselines["x"].random.value, baselines["x"].random.n) == (0.5, 2)


def test_calibration_by_hand():
    """P = 0.8 and right, 0.8 and wrong: Brier (0.04 + 0.64) / 2, log loss -(log 0.8 + log 0.2) / 2, gap |0.5 - 0.8|."""
    result = calibration([math.log(4), math.log(4)], [1, 0])
    assert result.brier == pytest.approx(0.34)
    assert result.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert result.expected_calibration_error == pytest.approx(0.3)
    assert result.count.sum() == 2


def test_ignorance_and_certainty():
    """No opinion costs log 2 and is perfectly calibrated; certain and right costs nothing, certain and wrong is infinite."""
    even = calibration(np.zeros(6))
    assert (even.brier, even.expected_calibration_error) == (0.25, 0.0)
    assert even.log_loss == pytest.approx(math.log(2))
    sure = calibration([np.inf, 800.0])
    assert (sure.brier, sure.log_loss, sure.expected_calibration_error) == (0.0, 0.0, 0.0)
    assert calibration([-800.0]).log_loss == pytest.approx(800.0)
    assert calibration([-np.inf]).log_loss == math.inf


def test_order_of_the_two_answers_does_not_matter():
    rng = np.random.default_rng(3)
    margin, label, flip = rng.normal(size=500), rng.random(500), rng.random(500) < 0.5
    plain = calibration(margin, label)
    swapped = calibration(np.where(flip, -margin, margin), np.where(flip, 1 - label, label))
    assert swapped.brier == pytest.approx(plain.brier)
    assert swapped.log_loss == pytest.approx(plain.log_loss)
    assert swapped.expected_calibration_error == pytest.approx(plain.expected_calibration_error)


def test_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    margin, label = rng.normal(size=400), rng.integers(2, size=400)
    result = calibration(margin, label)
    assert result.brier == pytest.approx(metrics.brier_score_loss(label, expit(margin)))
    assert result.log_loss == pytest.approx(metrics.log_loss(label, expit(margin)))


def test_scaling_the_margins_of_a_calibrated_model_uncalibrates_it():
    """Labels drawn from the probabilities: the error is sampling noise; three times the margin is over-confident."""
    rng = np.random.default_rng(5)
    margin = rng.normal(0, 1.5, size=50_000)
    label = rng.random(50_000) < expit(margin)
    honest, loud = calibration(margin, label), calibration(3 * margin, label)
    assert honest.expected_calibration_error < 0.01
    assert loud.expected_calibration_error > 0.1
    assert honest.log_loss < loud.log_loss
    assert (honest.accuracy - honest.confidence) == pytest.approx(0.0, abs=0.02)


def test_bad_input_is_refused():
    for chosen, rejected in (([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0])):
        with pytest.raises(DataError):
            pair_outcomes(chosen, rejected)
    with pytest.raises(DataError, match="tie cannot score"):
        pair_outcomes([1.0], [1.0], tie_score=2.0)
    with pytest.raises(DataError, match="sections"):
        accuracy_by_section([1.0, 0.0], ["a"])
    with pytest.raises(DataError, match="no pair"):
        random_baseline(0)
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        calibration([0.0], [1.5])
    with pytest.raises(DataError, match="labels"):
        calibration([0.0, 1.0], [1.0])
