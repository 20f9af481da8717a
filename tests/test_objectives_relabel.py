"""Levels onto quantiles by hand and against numpy, noise of the stated size, and the loss with its gradient."""

import numpy as np
import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.relabel import quantiles, refinement_loss, relabelled_rewards

TEN = 10.0 * np.arange(1, 11)[None]


def test_the_docstrings_example():
    found = relabelled_rewards([1, 3, 5], TEN, seed=0, noise_variance=0.0)
    assert found.targets.tolist() == [[20.0, 60.0, 100.0]] and found.missing == (2, 4)


@pytest.mark.parametrize("samples", [2, 3, 5, 7, 20, 101])
def test_quantiles_are_rewards_of_the_member_and_numpys(samples):
    rewards = np.random.default_rng(samples).normal(size=(3, samples))
    for member, found in zip(rewards, quantiles(rewards), strict=True):
        for level, value in enumerate(found, 1):
            assert value in member
            assert (member <= value).sum() * 5 >= level * samples > ((member < value).sum()) * 5
        if samples % 5:  # at whole places numpy's floating product decides, ours is exact
            assert found == pytest.approx(np.quantile(member, np.arange(1, 6) / 5, method="inverted_cdf"))


def test_every_member_keeps_its_own_scale_and_order():
    rewards = np.random.default_rng(0).normal(size=(1, 50))
    members = np.concatenate([rewards, 3 * rewards + 7])
    found = relabelled_rewards([1, 2, 3, 4, 5], members, seed=0, noise_variance=0.0).targets
    assert found[1] == pytest.approx(3 * found[0] + 7)
    assert (np.diff(found, axis=1) > 0).all() and found[0, 4] == rewards.max()


def test_noise_has_the_stated_variance_and_its_own_draw_each():
    levels, rewards = np.full(4000, 3), np.random.default_rng(0).normal(size=(3, 100))
    noise = relabelled_rewards(levels, rewards, seed=1).targets - quantiles(rewards)[:, [2]]
    assert noise.var(axis=1) == pytest.approx([0.01] * 3, rel=0.1) and abs(noise.mean()) < 0.005
    assert np.abs(np.corrcoef(noise) - np.eye(3)).max() < 0.06
    again = relabelled_rewards(levels, rewards, seed=1).targets - quantiles(rewards)[:, [2]]
    other = relabelled_rewards(levels, rewards, seed=2).targets - quantiles(rewards)[:, [2]]
    assert (again == noise).all() and (other != noise).any()


def test_fewer_than_five_levels_keep_their_places_and_are_named():
    all_five = relabelled_rewards([1, 2, 3, 4, 5], TEN, seed=0, noise_variance=0.0)
    few = relabelled_rewards([4, 2, 4], TEN, seed=0, noise_variance=0.0)
    assert all_five.missing == () and few.missing == (1, 3, 5)
    assert few.targets[0].tolist() == all_five.targets[0, [3, 1, 3]].tolist()
    assert relabelled_rewards([3], TEN, seed=0).missing == (1, 2, 4, 5)


def test_the_loss_by_hand():
    """Errors 1 and -3: (1 + 9) / 2; its gradient is 2 (r - R) / n."""
    rewards = torch.tensor([1.0, 5.0], requires_grad=True)
    loss = refinement_loss(rewards, torch.tensor([2.0, 2.0]))
    loss.backward()
    assert loss.item() == 5.0 and rewards.grad.tolist() == [-1.0, 3.0]


class TestBadInput:
    @pytest.mark.parametrize("level", [0, 6, 2.5, float("nan")])
    def test_a_level_that_is_none_of_five_is_named(self, level):
        with pytest.raises(DataError, match="sample 1: 1 levels are none of 1 to 5"):
            relabelled_rewards([3, level, 4], TEN, seed=0)

    def test_no_levels(self):
        with pytest.raises(DataError, match="one level a sample"):
            relabelled_rewards([], TEN, seed=0)

    def test_constant_rewards_name_the_member(self):
        with pytest.raises(DataError, match="member 1: all 10 rewards are 2"):
            relabelled_rewards([3], np.concatenate([TEN, np.full_like(TEN, 2.0)]), seed=0)

    def test_a_reward_that_is_none_is_named(self):
        with pytest.raises(DataError, match="member 0, sample 3"):
            quantiles(np.where(TEN == 40, np.nan, TEN))

    def test_negative_noise_and_no_rewards(self):
        with pytest.raises(DataError, match="variance -1"):
            relabelled_rewards([3], TEN, seed=0, noise_variance=-1)
        with pytest.raises(DataError, match="at least one of each"):
            quantiles(np.ones((2, 0)))

    def test_targets_of_another_shape(self):
        with pytest.raises(DataError, match="one target a reward"):
            refinement_loss(torch.zeros(2), torch.zeros(3))
