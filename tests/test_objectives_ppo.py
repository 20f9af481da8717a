"""PPO's pure parts: hand numbers, the definition written out, limits, finite differences, estimates by enumeration."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.core.errors import DataError, SettingsError
from repro.objectives.ppo import (
    advantages,
    kl_estimate,
    masked_mean,
    next_coefficient,
    policy_loss,
    token_rewards,
    value_loss,
    whiten,
)


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask_of(*lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


class TestKL:
    policy, reference = double([0.5, 0.3, 0.15, 0.05]).log(), double([0.25, 0.25, 0.1, 0.4]).log()
    true = sum(p * math.log(p / q) for p, q in zip((0.5, 0.3, 0.15, 0.05), (0.25, 0.25, 0.1, 0.4), strict=True))

    @pytest.mark.parametrize("estimator", ["k1", "k3"])
    def test_unbiased_over_all_tokens(self, estimator):
        expected = (self.policy.exp() * kl_estimate(self.policy, self.reference, estimator)).sum()
        assert expected.item() == pytest.approx(self.true, abs=1e-15)

    def test_k2_is_biased_by_the_third_order_only(self):
        expected = (self.policy.exp() * kl_estimate(self.policy, self.reference, "k2")).sum().item()
        assert abs(expected - self.true) > 0.01
        near = torch.log_softmax(self.reference + 1e-3 * drawn(4), 0)
        true = (near.exp() * (near - self.reference)).sum().item()
        assert (near.exp() * kl_estimate(near, self.reference, "k2")).sum().item() == pytest.approx(true, rel=5e-3)

    def test_k1_penalty_has_the_gradient_of_the_kl(self):
        """E[k1 grad log pi] = grad KL by enumeration; with k3 as the penalty it is another gradient."""
        logits = drawn(4, seed=1).requires_grad_()
        policy = logits.log_softmax(0)
        [true] = torch.autograd.grad((policy.exp() * (policy - self.reference)).sum(), logits, retain_graph=True)
        found = {}
        for estimator in ("k1", "k3"):
            weights = (policy.exp() * kl_estimate(policy, self.reference, estimator)).detach()
            [found[estimator]] = torch.autograd.grad((weights * policy).sum(), logits, retain_graph=True)
        assert torch.allclose(found["k1"], true, atol=1e-14) and not torch.allclose(found["k3"], true, atol=1e-2)

    def test_by_hand_and_never_below_zero(self):
        """Twice as likely as under the reference: d = log 2."""
        for estimator, value in {"k1": math.log(2), "k2": math.log(2) ** 2 / 2, "k3": math.log(2) - 0.5}.items():
            assert kl_estimate(double(math.log(0.4)), double(math.log(0.2)), estimator).item() == pytest.approx(value)
        for estimator in ("k2", "k3"):
            assert bool((kl_estimate(drawn(500), drawn(500, seed=1), estimator) >= 0).all())

    def test_k3_keeps_its_digits_near_zero(self):
        difference = torch.tensor(1e-4)
        assert kl_estimate(difference, torch.tensor(0.0), "k3").item() == pytest.approx(0.5e-8, rel=0.01)

    def test_another_name_or_shape(self):
        with pytest.raises(SettingsError, match="k1, k2, k3"):
            kl_estimate(double([0.0]), double([0.0]), "k4")
        with pytest.raises(DataError, match="shapes"):
            kl_estimate(double([0.0]), double([0.0, 1.0]))


class TestTokenRewards:
    scores, kl, mask = double([4.0, 6.0]), double([[0.1, 0.2, 9.0], [0.3, 0.4, 0.5]]), mask_of(2, 3)

    def test_the_score_at_the_last_token_or_shared(self):
        found = token_rewards(self.scores, self.kl, self.mask, 2.0)
        assert torch.allclose(found, double([[-0.2, 3.6, 0.0], [-0.6, -0.8, 5.0]]))
        shared = token_rewards(self.scores, self.kl, self.mask, 2.0, "each")
        assert torch.allclose(shared, double([[1.8, 1.6, 0.0], [1.4, 1.2, 1.0]]))

    @pytest.mark.parametrize("place", ["last", "each"])
    def test_the_sum_is_equation_2(self, place):
        """R = r - beta KL, the KL of an answer being the sum over its tokens."""
        found = token_rewards(self.scores, self.kl, self.mask, 0.7, place).sum(1)
        assert torch.allclose(found, double([4 - 0.7 * 0.3, 6 - 0.7 * 1.2]))

    def test_bad_input(self):
        with pytest.raises(DataError, match="a token in every row"):
            token_rewards(self.scores, self.kl, self.mask & torch.tensor([[True], [False]]), 1.0)
        with pytest.raises(SettingsError, match="first"):
            token_rewards(self.scores, self.kl, self.mask, 1.0, "first")


class TestAdvantages:
    def test_by_hand(self):
        """gamma 0.5, lambda 0.5: d = (1 + 1 - 1, 0 + 2 - 2, 8 - 4) = (1, 0, 4); A = (1 + 0.25, 1, 4); returns A + V."""
        rewards, values = double([[1.0, 0.0, 8.0]]), double([[1.0, 2.0, 4.0]])
        found, returns = advantages(rewards, values, mask_of(3), gamma=0.5, lam=0.5)
        assert torch.allclose(found, double([[1.25, 1.0, 4.0]])) and torch.allclose(returns, double([[2.25, 3.0, 8.0]]))

    def test_a_cut_answer_by_hand(self):
        """The same answer, cut: the state after it is worth 6, so d_2 = 8 + 3 - 4 = 7, and A = (1.4375, 1.75, 7)."""
        rewards, values = double([[1.0, 0.0, 8.0, 99.0]]), double([[1.0, 2.0, 4.0, 99.0]])
        mask = mask_of(3, 4)[:1]
        found, _ = advantages(rewards, values, mask, gamma=0.5, lam=0.5, last=double([6.0]))
        assert torch.allclose(found, double([[1.4375, 1.75, 7.0, 0.0]]))

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.booleans())
    def test_the_definition(self, seed, gamma, lam, cut):
        """A_t = sum over l of (gamma lambda)^l d_{t+l}, every term written out, for rows of many lengths."""
        rewards, values, last = drawn(4, 7, seed=seed), drawn(4, 7, seed=seed + 1), drawn(4, seed=seed + 2)
        lengths = torch.randint(1, 8, (4,), generator=torch.Generator().manual_seed(seed)).tolist()
        mask = torch.arange(7) < torch.tensor(lengths)[:, None]
        found, returns = advantages(rewards, values, mask, gamma=gamma, lam=lam, last=last if cut else None)
        for row, length in enumerate(lengths):
            known = [*values[row, :length].tolist(), last[row].item() if cut else 0.0]
            deltas = [rewards[row, t].item() + gamma * known[t + 1] - known[t] for t in range(length)]
            for t in range(length):
                expected = sum((gamma * lam) ** (at - t) * deltas[at] for at in range(t, length))
                assert found[row, t].item() == pytest.approx(expected, abs=1e-10)
                assert returns[row, t].item() == pytest.approx(expected + known[t], abs=1e-10)
        assert bool((found[~mask] == 0).all() and (returns[~mask] == 0).all())

    def test_the_two_ends_of_lambda(self):
        """lambda 1: what is still to come, less the value. lambda 0: one step's error."""
        rewards, values, mask = drawn(2, 5), drawn(2, 5, seed=1), mask_of(5, 5)
        whole, _ = advantages(rewards, values, mask, gamma=1.0, lam=1.0)
        assert torch.allclose(whole, rewards.flip(1).cumsum(1).flip(1) - values)
        one, _ = advantages(rewards, values, mask, gamma=1.0, lam=0.0)
        assert torch.allclose(one[:, :-1], rewards[:, :-1] + values[:, 1:] - values[:, :-1])


class TestWhitening:
    values, mask = double([[1.0, 3.0, 77.0], [5.0, 7.0, 9.0]]), mask_of(2, 3)

    def test_by_hand(self):
        """1, 3, 5, 7, 9: mean 5, variance 8; the mask keeps 77 out."""
        found, constant = whiten(self.values, self.mask)
        assert torch.allclose(found, double([[-4, -2, 0], [0, 2, 4]]) / math.sqrt(8)) and not constant
        kept, _ = whiten(self.values, self.mask, shift_mean=False)
        assert torch.allclose(kept, torch.where(self.mask, 5 + (self.values - 5) / math.sqrt(8), 0))

    def test_the_mean_stays_without_the_shift(self):
        kept, _ = whiten(100 + drawn(3, 8), torch.ones(3, 8, dtype=torch.bool), shift_mean=False)
        assert kept.mean().item() == pytest.approx(100, abs=1) and kept.std(correction=0).item() == pytest.approx(1)

    @pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
    def test_constants_are_named_not_divided(self, value):
        same = torch.full((2, 3), value).masked_fill(~self.mask, 5.0)
        found, constant = whiten(same, self.mask)
        assert constant and torch.equal(found, torch.zeros(2, 3))
        kept, constant = whiten(same, self.mask, shift_mean=False)
        assert constant and torch.equal(kept, torch.where(self.mask, value, 0.0))

    def test_nothing_to_whiten(self):
        with pytest.raises(DataError, match="no token"):
            whiten(self.values, torch.zeros(2, 3, dtype=torch.bool))


def numerical(loss, at, step=1e-6):
    """Central differences of a scalar function, by each entry."""
    found = torch.zeros_like(at)
    for place in range(at.numel()):
        moved = torch.zeros_like(at)
        moved.view(-1)[place] = step
        found.view(-1)[place] = (loss(at + moved) - loss(at - moved)) / (2 * step)
    return found


class TestPolicyLoss:
    mask = mask_of(3, 5, 4)

    def sides(self):
        old = -drawn(3, 5, seed=1).abs()
        return old + 0.4 * drawn(3, 5, seed=2), old, drawn(3, 5, seed=3)

    def test_by_hand(self):
        """Ratios 2, 0.5, 2, 0.5 against advantages 1, 1, -1, -1, clip 0.2: -1.2, -0.5, 2, 0.8; two are clipped."""
        logprobs, old = double([[2.0, 0.5, 2.0, 0.5]]).log(), double([[0.0] * 4])
        loss, clipped = policy_loss(logprobs, old, double([[1.0, 1.0, -1.0, -1.0]]), mask_of(4), 0.2)
        assert loss.item() == pytest.approx((-1.2 - 0.5 + 2 + 0.8) / 4) and clipped.item() == 0.5

    @pytest.mark.parametrize("clip", [0.2, None])
    def test_its_gradient_by_finite_differences(self, clip):
        logprobs, old, estimates = self.sides()
        at = logprobs.clone().requires_grad_()
        policy_loss(at, old, estimates, self.mask, clip)[0].backward()
        expected = numerical(lambda x: policy_loss(x, old, estimates, self.mask, clip)[0], logprobs)
        assert torch.allclose(at.grad, expected, atol=1e-9) and bool((at.grad[~self.mask] == 0).all())

    def test_at_ratio_one_it_is_the_policy_gradient(self):
        """The gradient of -mean A log pi."""
        _, old, estimates = self.sides()
        at = old.clone().requires_grad_()
        policy_loss(at, old, estimates, self.mask, 0.2)[0].backward()
        assert torch.allclose(at.grad, torch.where(self.mask, -estimates / self.mask.sum(), 0), atol=1e-15)

    def test_outside_the_clip_the_gradient_is_zero(self):
        """Too likely and good, or too unlikely and bad: nothing more to gain. The other way round it still pulls back."""
        old = double([[0.0, 0.0, 0.0, 0.0]])
        at = double([[0.5, -0.5, 0.5, -0.5]]).requires_grad_()
        policy_loss(at, old, double([[1.0, -1.0, -1.0, 1.0]]), mask_of(4), 0.2)[0].backward()
        assert at.grad[0, :2].tolist() == [0, 0] and bool((at.grad[0, 2:] != 0).all())

    def test_a_wide_clip_is_none(self):
        logprobs, old, estimates = self.sides()
        free, _ = policy_loss(logprobs, old, estimates, self.mask, None)
        assert policy_loss(logprobs, old, estimates, self.mask, 1e6)[0].item() == pytest.approx(free.item())

    def test_what_stands_outside_the_mask_counts_for_nothing(self):
        logprobs, old, estimates = self.sides()
        wild = logprobs.masked_fill(~self.mask, 1e6).requires_grad_()
        loss, clipped = policy_loss(wild, old, estimates, self.mask, 0.2)
        assert (loss.item(), clipped.item()) == tuple(
            each.item() for each in policy_loss(logprobs, old, estimates, self.mask, 0.2)
        )
        loss.backward()
        assert bool(wild.grad.isfinite().all())


class TestValueLoss:
    mask = mask_of(3, 5, 4)

    def test_by_hand(self):
        """Old 0, now 1, return 1, clip 0.2: free error 0, held 0.8^2. Return 3: free 4, held 2.8^2 = 7.84."""
        loss, clipped = value_loss(double([[1.0, 1.0]]), double([[0.0, 0.0]]), double([[1.0, 3.0]]), mask_of(2), 0.2)
        assert loss.item() == pytest.approx((0.64 + 7.84) / 4) and clipped.item() == 1
        free, none = value_loss(double([[1.0, 1.0]]), double([[0.0, 0.0]]), double([[1.0, 3.0]]), mask_of(2), None)
        assert free.item() == pytest.approx((0 + 4) / 4) and none.item() == 0

    @pytest.mark.parametrize("clip", [0.2, None])
    def test_its_gradient_by_finite_differences(self, clip):
        values, old, returns = drawn(3, 5), drawn(3, 5, seed=1), drawn(3, 5, seed=2)
        at = values.clone().requires_grad_()
        value_loss(at, old, returns, self.mask, clip)[0].backward()
        expected = numerical(lambda x: value_loss(x, old, returns, self.mask, clip)[0], values)
        assert torch.allclose(at.grad, expected, atol=1e-9)

    def test_a_value_within_the_clip_costs_its_error(self):
        old, returns = drawn(3, 5), drawn(3, 5, seed=1)
        values = old + 0.1 * torch.tanh(drawn(3, 5, seed=2))
        loss, clipped = value_loss(values, old, returns, self.mask, 0.2)
        assert loss.item() == pytest.approx(masked_mean((values - returns) ** 2, self.mask).item() / 2)
        assert clipped.item() == 0


class TestCoefficient:
    def test_fixed(self):
        assert next_coefficient(0.3, 99.0, target=None, answers=8, horizon=1.0) == 0.3

    def test_adaptive_by_hand(self):
        """Target 6, horizon 10,000 and 100 answers: at KL 6.6 the error is 0.1, at 12 it is held to 0.2, at 0 to -0.2."""
        for kl, factor in ((6.0, 1.0), (6.6, 1.001), (12.0, 1.002), (0.0, 0.998), (-1.0, 0.998)):
            found = next_coefficient(0.2, kl, target=6.0, answers=100, horizon=1e4)
            assert found == pytest.approx(0.2 * factor, rel=1e-12)

    def test_bad_input(self):
        with pytest.raises(SettingsError, match="above 0"):
            next_coefficient(0.2, 1.0, target=0.0, answers=1, horizon=1.0)


def test_the_mean_is_over_tokens():
    assert masked_mean(double([[1.0, 99.0], [4.0, 7.0]]), mask_of(1, 2)).item() == 4
    assert masked_mean(torch.tensor([[1.0, math.nan], [4.0, 7.0]]), mask_of(1, 2)).item() == 4
