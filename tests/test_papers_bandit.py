"""Algorithm 1 on linear bandits: the MLE, the uncertainty and the enhancer against hand arithmetic, grids and limits."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from repro.core.errors import DataError
from repro.core.settings import Section
from repro.papers import bandit
from repro.papers.bandit import ALONE, ARMS, ENHANCER, OFFLINE, Bandits

SETTINGS = Section(
    {"bandits": 6, "prompts": 3, "answers": 4, "reward_norm": 2.0, "ridge": 1.0, "confidence": 1.0, "rare_mass": 0.1, "eta": 0.2}
)  # fmt: skip


def drawn(dimension=4, seed=0, **changes):
    return bandit.draw(Section({**SETTINGS, **changes}), dimension, np.random.default_rng(seed))


def coin(eta=1.0):
    """One prompt, two answers with phi 1 and 0, a fair coin, theta log 3."""
    features = torch.tensor([[[[1.0], [0.0]]]], dtype=torch.float64)
    theta = torch.tensor([[math.log(3)]], dtype=torch.float64)
    reference = torch.full((1, 1, 2), 0.5, dtype=torch.float64).log()
    return Bandits(features, theta, reference, torch.tensor([True, False]), eta)


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def test_common_answers_vary_in_half_of_the_directions():
    bandits = drawn(dimension=6)
    assert bandits.features.norm(dim=-1).allclose(double(1.0)) and bandits.theta.norm(dim=-1).allclose(double(2.0))
    assert not bandits.features[:, :, bandits.covered, 3:].any() and bandits.features[:, :, ~bandits.covered, 3:].all()
    assert bandits.reference.exp()[..., ~bandits.covered].sum(-1).allclose(double(0.1))
    assert bandits.reference.exp().sum(-1).allclose(double(1.0))


class TestMaximumLikelihood:
    def test_by_hand(self):
        """Three wins of four with z = 1: the log-odds, log 3. With ridge 1 theta solves 3 - 4 sigma(theta) = theta."""
        z, counts, wins = double([[1.0]]), double([4.0]), double([3.0])
        assert bandit.maximum_likelihood(z, counts, wins, 1e-9).item() == pytest.approx(math.log(3))
        theta = bandit.maximum_likelihood(z, counts, wins, 1.0).item()
        assert 3 - 4 / (1 + math.exp(-theta)) == pytest.approx(theta) and 0 < theta < math.log(3)

    def test_against_a_general_minimiser(self):
        rng = np.random.default_rng(0)
        z, counts = rng.normal(size=(1, 9, 3)), rng.integers(1, 30, size=(1, 9)).astype(float)
        wins = rng.binomial(counts.astype(int), 0.3).astype(float)

        def loss(theta):
            margin = z[0] @ theta
            return (
                wins[0] * np.logaddexp(0, -margin) + (counts - wins)[0] * np.logaddexp(0, margin)
            ).sum() + theta @ theta

        ours = bandit.maximum_likelihood(torch.tensor(z), torch.tensor(counts), torch.tensor(wins), 2.0)
        assert ours[0].numpy() == pytest.approx(minimize(loss, np.zeros(3), tol=1e-12).x, abs=1e-5)
        again = bandit.maximum_likelihood(torch.tensor(z), torch.tensor(counts), torch.tensor(wins), 2.0, ours + 3)
        assert again[0].numpy() == pytest.approx(ours[0].numpy(), abs=1e-6)

    def test_error_falls_with_the_root_of_the_number_of_pairs(self):
        """A hundred times the pairs leave a tenth of the error."""
        bandits, errors = drawn(bandits=200), []
        even = torch.full_like(bandits.reference, 0.25)
        for m in (1000, 100_000):
            counts, wins = bandit.collect(bandits, even, even, m, np.random.default_rng(m))
            theta = bandit.maximum_likelihood(bandits.differences(), counts, wins, 1e-6)
            errors.append((theta - bandits.theta).norm(dim=-1).mean().item())
        assert 7 < errors[0] / errors[1] < 14 and errors[1] < 0.1

    def test_pairs_told_apart_without_error_need_a_ridge(self):
        with pytest.raises(DataError, match="ridge is 0"):
            bandit.maximum_likelihood(double([[1.0]]), double([4.0]), double([4.0]), 0.0)
        assert bandit.maximum_likelihood(double([[1.0]]), double([4.0]), double([4.0]), 1.0).item() < 2


class TestUncertainty:
    def test_by_hand(self):
        """The module's example: V = 1 + 3 = 4; against a coin the sure first answer lies 0.5 apart, so Gamma = 0.5 / 2."""
        bandits = coin()
        v = bandit.information(bandits.differences(), double([3.0]), 1.0)
        assert v.item() == 4
        sure = double(1 - 1e-12, 1e-12).log().reshape(1, 1, 1, 2)
        assert bandit.uncertainty(bandits, bandits.reference, sure, v, 1.0).item() == pytest.approx(0.25)
        assert bandit.uncertainty(bandits, bandits.reference, bandits.reference[:, None], v, 1.0).item() == 0

    def test_another_pair_shrinks_it_as_sherman_and_morrison_say(self):
        bandits, main = drawn(dimension=2), drawn(dimension=2).reference
        other = bandits.best(bandits.theta)
        counts = torch.zeros(bandits.differences().shape[:2], dtype=torch.float64)
        before = bandit.information(bandits.differences(), counts + 1, 1.0)
        counts[:, 0] = 1
        after = bandit.information(bandits.differences(), torch.ones_like(counts) + counts, 1.0)
        z = bandits.differences()[:, 0, :, None]
        inverse = torch.linalg.inv(before)
        update = inverse - inverse @ z @ z.mT @ inverse / (1 + z.mT @ inverse @ z)
        delta = ((other.exp() - main.exp())[..., None] * bandits.features).sum(2).mean(1)[..., None]
        expected = (2 * delta.mT @ update @ delta).sqrt().flatten()
        found = bandit.uncertainty(bandits, main, other[:, None], after, 1.0)[:, 0]
        assert torch.allclose(found, expected)
        assert (found <= bandit.uncertainty(bandits, main, other[:, None], before, 1.0)[:, 0]).all()


class TestEnhancer:
    @pytest.mark.parametrize("pairs", [0.0, 30.0, 3000.0])
    def test_more_uncertain_than_the_main_agent_and_in_the_confidence_set(self, pairs):
        bandits = drawn()
        v = bandit.information(bandits.differences(), torch.full(bandits.differences().shape[:2], pairs).double(), 1.0)
        main = bandits.best(bandits.theta)
        second = bandit.enhancer(bandits, main, v, 1.0)
        gamma = bandit.uncertainty(bandits, main, second[:, None], v, 1.0)[:, 0]
        kl = (second.exp() * (second - main)).sum(-1).mean(-1)
        assert (gamma > 0).all() and (bandits.eta * kl <= gamma + 1e-12).all()
        assert second.exp().sum(-1).allclose(double(1.0))

    @pytest.mark.parametrize("pairs, eta", [(0.0, 0.1), (100.0, 1.0), (10_000.0, 1.0), (10_000.0, 20.0)])
    def test_with_two_answers_nothing_of_a_grid_is_much_better(self, pairs, eta):
        """Two answers, one direction: every policy is a tilt, so only the steps along it are coarse, here a fifth and the grid's."""
        bandits = coin(eta)
        v = bandit.information(bandits.differences(), double([pairs]), 1.0)
        grid = torch.linspace(1e-6, 1 - 1e-6, 20_001, dtype=torch.float64)
        policies = torch.stack([grid, 1 - grid], -1).log()[None, :, None]
        gamma = bandit.uncertainty(bandits, bandits.reference, policies, v, 1.0)
        kl = (policies.exp() * (policies - bandits.reference[:, None])).sum(-1).mean(-1)
        best = gamma[eta * kl <= gamma].max()
        second = bandit.enhancer(bandits, bandits.reference, v, 1.0)
        found = bandit.uncertainty(bandits, bandits.reference, second[:, None], v, 1.0).item()
        assert 0.8 * best <= found <= 1.1 * best

    def test_it_leans_where_nothing_is_known(self):
        """Only the first of two directions has been seen: the enhancer differs from the main agent mostly in the second."""
        bandits = drawn(dimension=2, rare_mass=0.5)
        v = torch.diag(double(1000.0, 1.0)).expand(6, 2, 2)
        second = bandit.enhancer(bandits, bandits.reference, v, 1.0)
        moved = ((second.exp() - bandits.reference.exp())[..., None] * bandits.features).sum(2).mean(1).abs()
        assert (moved[:, 1] > moved[:, 0]).all()


class TestCollecting:
    def test_sure_policies_fill_one_cell(self):
        bandits, first = coin(), double([[1.0, 0.0]])
        counts, wins = bandit.collect(bandits, first, first.flip(-1), 40_000, np.random.default_rng(0))
        assert counts.tolist() == [[40_000]] and wins.item() / 40_000 == pytest.approx(0.75, abs=0.01)
        assert bandit.collect(bandits, first, first, 100, np.random.default_rng(0))[0].tolist() == [[0]]

    def test_cells_come_up_as_often_as_two_draws_say(self):
        """Policies (.5, .3, .2) and (.1, .6, .3): answers 0 and 1 meet with chance .5 * .6 + .3 * .1 = .33, and so on."""
        bandits = drawn(answers=3, prompts=1, bandits=1)
        first, second = double([[0.5, 0.3, 0.2]]), double([[0.1, 0.6, 0.3]])
        counts, _ = bandit.collect(bandits, first, second, 100_000, np.random.default_rng(0))
        assert (counts[0] / 100_000).tolist() == pytest.approx([0.33, 0.17, 0.21], abs=0.006)

    def test_offline_pairs_say_nothing_of_half_of_the_directions(self):
        bandits = drawn(dimension=4)
        offline = bandits.reference.exp() * bandits.covered
        offline = offline / offline.sum(-1, keepdim=True)
        counts, _ = bandit.collect(bandits, offline, offline, 1000, np.random.default_rng(0))
        v = bandit.information(bandits.differences(), counts, 1.0)
        assert torch.equal(v[:, 2:, 2:], torch.eye(2).double().expand(6, 2, 2)) and (v[:, 0, 0] > 1).all()


def test_suboptimality_is_never_below_zero_and_zero_at_the_truth():
    """It is eta KL(pi | pi*), and p2.thm1's left side adds eta KL(pi* | pi)."""
    bandits = drawn()
    optimum = bandits.best(bandits.theta)
    assert bandits.suboptimality(optimum).abs().max() == 0 and bandits.bounded(optimum).abs().max() == 0
    for seed in range(5):
        policy = bandits.best(drawn(seed=seed + 1).theta)
        there, back = ((a.exp() * (a - b)).sum(-1).mean(-1) for a, b in ((policy, optimum), (optimum, policy)))
        assert torch.allclose(bandits.suboptimality(policy), 0.2 * there) and (there > 0).all()
        assert torch.allclose(bandits.bounded(policy), 0.2 * (there + back))


@pytest.mark.parametrize("arm", ARMS)
def test_learning_begins_at_the_reference_and_is_the_same_for_the_same_seed(arm):
    bandits = drawn()
    runs = [list(bandit.learn(bandits, arm, 50, 3, SETTINGS, np.random.default_rng(7))) for _ in range(2)]
    assert len(runs[0]) == 4 and torch.equal(runs[0][0][0], bandits.reference)
    assert all(torch.equal(one, other) for (one, _), (other, _) in zip(*runs, strict=True))


def test_with_many_pairs_online_arms_find_the_optimum_and_offline_does_not():
    bandits, rng = drawn(rare_mass=0.5, eta=1.0), np.random.default_rng(0)
    last = {arm: list(bandit.learn(bandits, arm, 100_000, 2, SETTINGS, rng))[-1][0] for arm in ARMS}
    gaps = {arm: bandits.suboptimality(policy).mean() for arm, policy in last.items()}
    assert gaps[ENHANCER] < 1e-3 and gaps[ALONE] < 1e-3 and gaps[OFFLINE] > 0.02


@pytest.mark.parametrize("arm", ARMS)
def test_the_main_agent_learns_from_the_pairs_of_all_rounds_and_they_come_from_the_arms_two_policies(arm, monkeypatch):
    """The last main agent is the optimum under the MLE of every batch together; the first batch's policies are the arm's."""
    bandits, batches, collect = drawn(), [], bandit.collect

    def recorded(*given):
        batches.append((given[1:3], collect(*given)))
        return batches[-1][1]

    monkeypatch.setattr(bandit, "collect", recorded)
    main, equal = list(bandit.learn(bandits, arm, 50, 3, SETTINGS, np.random.default_rng(7)))[-1]
    counts, wins = (sum(pairs[k] for _, pairs in batches) for k in range(2))
    theta = bandit.maximum_likelihood(bandits.differences(), counts, wins, 1.0)
    assert len(batches) == 3 and torch.allclose(main, bandits.best(theta), atol=1e-5)
    (first, second), start = batches[0][0], bandits.reference.exp()
    v = torch.eye(4, dtype=torch.float64).expand(6, 4, 4)
    second_of = {ENHANCER: bandit.enhancer(bandits, bandits.reference, v, 1.0).exp(), ALONE: start, OFFLINE: first}
    assert torch.equal(second, second_of[arm])
    assert torch.equal(first, start) if arm != OFFLINE else not first[..., ~bandits.covered].any()
    first, second = batches[-1][0]
    assert equal == pytest.approx((first * second).sum(-1).mean().item())
