"""Aggregates of an ensemble on numbers that can be done by hand, their limits, and what is named when it is wrong."""

import math

import numpy as np
import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.ensemble import (
    AGGREGATES,
    UWO_BEST_OF_N,
    UWO_PPO,
    aggregate,
    ensemble_mean,
    ensemble_variance,
    lower_confidence_bound,
    uncertainty_weighted,
    worst_case,
)

REWARDS = torch.tensor([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])  # three members, two answers


def test_mean_and_variance_by_hand():
    """1, 2, 6: mean 3, squares of deviations 4 + 1 + 9 = 14; 0, 0, 3: mean 1, 1 + 1 + 4 = 6."""
    assert ensemble_mean(REWARDS).tolist() == [3, 1]
    assert ensemble_variance(REWARDS).tolist() == pytest.approx([14 / 3, 2])
    assert ensemble_variance(REWARDS, ddof=1).tolist() == pytest.approx([7, 3])


def test_the_conservative_rewards_by_hand():
    assert lower_confidence_bound(REWARDS, 0.5).tolist() == pytest.approx([3 - 0.5 * math.sqrt(14 / 3), 1 - math.sqrt(0.5)])
    assert lower_confidence_bound(REWARDS, 0.5, ddof=1).tolist() == pytest.approx([3 - math.sqrt(7) / 2, 1 - math.sqrt(3) / 2])
    assert uncertainty_weighted(REWARDS).tolist() == pytest.approx([2.3, 0.7])  # lambda .1, ddof 1: Coste's PPO
    assert uncertainty_weighted(REWARDS, **UWO_BEST_OF_N).tolist() == pytest.approx([3 - 7 / 3, 0])
    assert worst_case(REWARDS).tolist() == [1, 0]


def test_each_name_is_its_function():
    found = {how: aggregate(REWARDS, how, weight=0.5 if how == "lcb" else None) for how in AGGREGATES}
    expected = [ensemble_mean(REWARDS), lower_confidence_bound(REWARDS, 0.5), uncertainty_weighted(REWARDS, **UWO_PPO)]
    for name, value in zip(AGGREGATES, [*expected, worst_case(REWARDS), REWARDS[0]], strict=True):
        assert torch.equal(found[name], value), name
    assert aggregate(REWARDS, "uwo", weight=0.5, ddof=0).tolist() == pytest.approx([3 - 7 / 3, 0])
    assert aggregate(REWARDS, "lcb", weight=1, ddof=1).tolist() == pytest.approx([3 - math.sqrt(7), 1 - math.sqrt(3)])


def test_the_ratio_of_the_two_public_ddofs():
    """Equal lambda: ddof 1 is 1.5 times as strict for three members and 1.25 times for five (facts, section 11)."""
    for members, factor in ((3, 1.5), (5, 1.25)):
        rewards = torch.randn(members, 4, generator=torch.Generator().manual_seed(0))
        mean = ensemble_mean(rewards)
        strict, lax = (mean - uncertainty_weighted(rewards, 0.3, ddof) for ddof in (1, 0))
        torch.testing.assert_close(strict, factor * lax)


def test_against_numpy_in_more_dimensions():
    rewards = torch.randn(4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for ddof in (0, 1):
        assert np.allclose(ensemble_variance(rewards, ddof), np.var(rewards.numpy(), axis=0, ddof=ddof))


def test_members_that_agree_pay_nothing():
    """Constant rewards: no spread, so every aggregate is the reward itself; none divides by the spread."""
    rewards = torch.full((3, 4), 1.5)
    for how in AGGREGATES:
        assert torch.equal(aggregate(rewards, how, weight=2.0 if how == "lcb" else None), rewards[0]), how


def test_what_all_members_share_leaves_the_variance():
    """The KL penalty of p3.eq2 is taken off every member's reward: mean moves by it, variance does not."""
    kl = torch.tensor([0.7, -0.2])
    torch.testing.assert_close(ensemble_variance(REWARDS - kl), ensemble_variance(REWARDS))
    torch.testing.assert_close(ensemble_mean(REWARDS - kl), ensemble_mean(REWARDS) - kl)


def test_one_member_has_a_mean_but_no_spread():
    one = REWARDS[:1]
    for how in ("mean", "wco", "one"):
        assert torch.equal(aggregate(one, how), one[0])
    for how in ("lcb", "uwo"):
        with pytest.raises(DataError, match="two members"):
            aggregate(one, how, weight=0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_member_and_row(value):
    rewards = torch.zeros(3, 2, 4)
    rewards[1, 0, 2] = value
    for how in AGGREGATES:
        with pytest.raises(DataError, match="member 1, row 0, 2"):
            aggregate(rewards, how, weight=0.1 if how in ("lcb", "uwo") else None)


def test_what_is_asked_wrongly_is_named():
    with pytest.raises(DataError, match="unknown aggregate 'median'"):
        aggregate(REWARDS, "median")
    with pytest.raises(DataError, match="no beta"):
        aggregate(REWARDS, "lcb")
    with pytest.raises(DataError, match="weight given"):
        aggregate(REWARDS, "mean", weight=0.1)
    with pytest.raises(DataError, match="ddof is 2"):
        ensemble_variance(REWARDS, 2)
    for weight in (-0.1, math.nan, math.inf):
        with pytest.raises(DataError, match="finite"):
            aggregate(REWARDS, "uwo", weight=weight)
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(DataError, match="shape"):
            ensemble_mean(torch.zeros(shape))
