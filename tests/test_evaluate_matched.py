"""Matched KL by hand: on a straight line, at a policy itself, in shift and scale, and its error against the bootstrap."""

import numpy as np
import pytest

from repro.core.errors import DataError
from repro.core.statistics import statistic_interval
from repro.evaluate.matched import at_distance, distances, matched

RNG = np.random.default_rng(0)


def arm(roots, slope, prompts=50):
    """Policies at the given sqrt(KL) whose gold is exactly slope x sqrt(KL); the same for every prompt."""
    gold = np.repeat(slope * np.array(roots)[:, None], prompts, axis=1)
    return gold, np.repeat(np.array(roots)[:, None] ** 2, prompts, axis=1)


def test_gold_is_read_off_the_line():
    gold, ratio = arm([0, 1, 2], 0.5)
    assert distances(ratio) == pytest.approx([0, 1, 2])
    for distance in (0, 0.25, 1, 1.7, 2):
        assert at_distance(gold, ratio, distance).mean() == pytest.approx(0.5 * distance)
    gold[2] = 5
    assert at_distance(gold, ratio, 1.5).mean() == pytest.approx((0.5 + 5) / 2)


def test_the_order_of_policies_and_a_prompt_without_an_estimate_do_not_matter():
    gold, ratio = (
        RNG.normal(size=(4, 30)),
        np.array([[0], [1], [4], [9]]) + RNG.normal(size=(4, 30)) * [[0], [1], [1], [1]],
    )
    order = [2, 0, 3, 1]
    assert at_distance(gold[order], ratio[order], 1.5) == pytest.approx(at_distance(gold, ratio, 1.5))
    ratio[1, 3] = np.nan
    assert np.isfinite(at_distance(gold, ratio, 0.5)).all()


def test_arms_are_compared_where_both_have_been():
    found = matched(*(tuple(each[:, None] for each in arm(*line)) for line in (([0, 1, 3], 2.0), ([0, 2], 1.0))))
    assert found.distance == pytest.approx(2)
    assert (found.first.value, found.second.value, found.difference.value) == pytest.approx((4, 2, 2))
    still = [(np.array([[[1.0, 2]], [[moved, moved]]]), np.zeros((2, 1, 2))) for moved in (3, 9)]
    assert matched(*still).difference.value == 0  # neither moved: both are at pi_0


def test_its_interval_is_the_bootstraps():
    """Both gold and KL vary by prompt, and together: to first order this is what resampling prompts and refitting gives."""
    prompts = 400
    shared = RNG.normal(size=prompts)
    ratio = np.array([np.zeros(prompts), 1 + 0.8 * shared + RNG.normal(size=prompts), 4 + 2 * RNG.normal(size=prompts)])
    gold = np.array(
        [RNG.normal(size=prompts), 1 + 0.5 * shared + RNG.normal(size=prompts), 1.5 + RNG.normal(size=prompts)]
    )
    resampled = statistic_interval(lambda rows: at_distance(gold[:, rows], ratio[:, rows], 1.4).mean(), prompts)
    ours = at_distance(gold, ratio, 1.4)
    assert ours.mean() == pytest.approx(resampled.value)
    assert 1.96 * ours.std() / np.sqrt(prompts) == pytest.approx(resampled.half_width, rel=0.1)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(DataError, match="matched"):
        matched((np.zeros((2, 1, 5)), np.zeros((2, 1, 4))), (np.zeros((2, 1, 5)), np.zeros((2, 1, 5))))
