"""Intervals: hand numbers, limits, and coverage measured by simulation."""

import numpy as np
import pytest

from repro.core.errors import DataError
from repro.core.statistics import difference_interval, mean_interval, statistic_interval


def test_the_mean_by_hand():
    """(1 + 2 + 3 + 6) / 4 = 3; the normal half-width is 1.96 * SD(ddof 0) / 2 = 1.96 * 1.8708 / 2 = 1.833."""
    interval = mean_interval(np.repeat([1.0, 2.0, 3.0, 6.0], 50))
    assert interval.value == pytest.approx(3) and interval.n == 200
    assert interval.half_width == pytest.approx(1.96 * np.std([1, 2, 3, 6]) / np.sqrt(200), rel=0.06)


def test_a_constant_has_no_width_and_nothing_has_no_mean():
    assert mean_interval([0.4, 0.4, 0.4]).half_width == pytest.approx(0, abs=1e-12)
    with pytest.raises(DataError):
        mean_interval([np.nan])


def test_the_same_call_gives_the_same_interval():
    outcomes = np.random.default_rng(0).normal(size=(3, 40))
    assert mean_interval(outcomes) == mean_interval(outcomes)


def test_copies_of_a_prompt_add_no_information():
    rng = np.random.default_rng(1)
    outcomes = rng.normal(size=100)
    once = mean_interval(outcomes)
    copied = mean_interval(np.repeat(outcomes, 6), groups=np.repeat(np.arange(100), 6))
    assert copied.half_width == pytest.approx(once.half_width, rel=1e-9) and copied.n == 100


def test_pairing_removes_what_both_share():
    rng = np.random.default_rng(2)
    shared = rng.normal(0, 5, 300)
    first, second = shared + rng.normal(0.5, 0.1, 300), shared + rng.normal(0, 0.1, 300)
    paired = difference_interval(first, second)
    assert paired.low > 0.45 and paired.half_width < 0.05 < mean_interval(first).half_width
    with pytest.raises(DataError):
        difference_interval(first, second[:-1])


@pytest.mark.parametrize(
    ("seed_spread", "seeds"), [(0.0, 1), (0.0, 3), (0.1, 2), (0.3, 2), (0.1, 3), (0.3, 3), (1.0, 3), (0.3, 6)]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(seed_spread, seeds):
    """The truth is 0; outcomes carry a seed effect and prompt noise. 300 worlds: 95% +- 3.5 points."""
    rng = np.random.default_rng(3)
    covered = 0
    for world in range(300):
        effects = rng.normal(0, seed_spread, (seeds, 1))
        outcomes = effects + rng.normal(0, 1, (1, 60)) + rng.normal(0, 0.5, (seeds, 60))
        interval = mean_interval(outcomes, seed=world, draws=400)
        covered += interval.low <= 0 <= interval.high
    assert 0.90 <= covered / 300 <= 0.995


def test_seeds_that_saw_different_prompts_are_pooled():
    outcomes = np.array([[1.0, 1.0, np.nan, np.nan], [np.nan, np.nan, 0.0, 1.0]])
    interval = mean_interval(outcomes)
    assert interval.value == pytest.approx(0.75) and interval.n == 4


def test_any_statistic_has_an_interval():
    rng = np.random.default_rng(4)
    x = rng.normal(size=400)
    y = 0.6 * x + 0.8 * rng.normal(size=400)
    interval = statistic_interval(lambda rows: np.corrcoef(x[rows], y[rows])[0, 1], 400, draws=400)
    assert interval.low < 0.6 < interval.high
    assert interval.half_width == pytest.approx(1.96 * (1 - 0.36) / 20, rel=0.25)  # Fisher: SE = (1 - r^2) / sqrt(n)
