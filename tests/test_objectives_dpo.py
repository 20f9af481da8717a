"""DPO: hand arithmetic, the limits of beta, invariances, finite differences, and the optimum of a space small enough to list."""

import math

import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.bradley_terry import bradley_terry_loss
from repro.objectives.dpo import dpo_loss, implicit_reward


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_logprobs(pairs=20, seed=0):
    """Policy and reference of chosen and rejected answers, in the order of dpo_loss."""
    return -10 * torch.rand(4, pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_hand_arithmetic():
    """Chosen is e^2 times likelier than under the reference, rejected e^-4 times: at beta 0.5 rewards 1 and -2.

    The margin is 3, so the loss is log(1 + e^-3).
    """
    chosen, rejected = double(-3.0), double(-9.0)
    reference_chosen, reference_rejected = double(-5.0), double(-5.0)
    assert implicit_reward(chosen, reference_chosen, 0.5).item() == pytest.approx(1.0)
    assert implicit_reward(rejected, reference_rejected, 0.5).item() == pytest.approx(-2.0)
    loss = dpo_loss(chosen, rejected, reference_chosen, reference_rejected, 0.5)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-3)), abs=1e-15)


@pytest.mark.parametrize("beta", [0.0, 1e-12])
def test_a_vanishing_beta_costs_log_two(beta):
    assert dpo_loss(*random_logprobs(), beta).item() == pytest.approx(math.log(2), abs=1e-10)


def test_a_policy_that_is_its_reference_costs_log_two():
    chosen, rejected, *_ = random_logprobs()
    assert dpo_loss(chosen, rejected, chosen, rejected, 0.7).item() == pytest.approx(math.log(2), abs=1e-15)


def test_a_large_beta_counts_misordered_pairs():
    """beta x loss' limit: each pair costs beta times its negative margin, or nothing."""
    policy_chosen, policy_rejected, reference_chosen, reference_rejected = random_logprobs()
    margins = (policy_chosen - reference_chosen) - (policy_rejected - reference_rejected)
    loss = dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, 1e6)
    assert loss.item() / 1e6 == pytest.approx((-margins).clamp(min=0).mean().item(), abs=1e-6)


def test_is_bradley_terry_on_differences_of_both_sides():
    """Written out from the paper's equation, with the ratios grouped the other way: policy's, then reference's."""
    a, b, c, d = random_logprobs()
    assert dpo_loss(a, b, c, d, 0.3).item() == pytest.approx(bradley_terry_loss(0.3 * (a - b), 0.3 * (c - d)).item())


def test_constants_of_a_prompt_are_free_and_the_sides_are_not():
    """What both answers of a prompt gain under both models cancels; exchanging the answers turns the margin round."""
    a, b, c, d = random_logprobs()
    shift = torch.linspace(-3, 3, 20, dtype=torch.float64)
    loss = dpo_loss(a, b, c, d, 0.3)
    assert dpo_loss(a + shift, b + shift, c, d, 0.3).item() == pytest.approx(loss.item(), abs=1e-12)
    assert dpo_loss(a + shift, b, c + shift, d, 0.3).item() == pytest.approx(loss.item(), abs=1e-12)
    margin = implicit_reward(a, c, 0.3) - implicit_reward(b, d, 0.3)
    assert (dpo_loss(b, a, d, c, 0.3) - loss).item() == pytest.approx(margin.mean().item(), abs=1e-12)


def test_gradient_by_finite_differences_and_by_hand():
    """d loss / d log pi(chosen) = -beta (1 - σ(margin)) / pairs; the reference learns nothing if it needs none."""
    a, b, c, d = random_logprobs(pairs=5)
    a, b = a.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda one, other: dpo_loss(one, other, c, d, 0.3), (a, b), eps=1e-6, atol=1e-9)
    dpo_loss(a, b, c, d, 0.3).backward()
    margin = (implicit_reward(a, c, 0.3) - implicit_reward(b, d, 0.3)).detach()
    assert torch.allclose(a.grad, -0.3 * (1 - torch.sigmoid(margin)) / 5, atol=1e-15)
    assert torch.equal(a.grad, -b.grad)


def test_the_optimum_of_infinite_data_is_the_reward():
    """2 prompts x 3 answers, every pair in its Bradley-Terry share: beta log(pi / pi_ref) is r up to a prompt's constant."""
    beta = 0.4
    rewards = torch.tensor([[0.0, 1.0, -0.5], [2.0, 0.3, 1.1]], dtype=torch.float64)
    reference = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    first, second = torch.tensor([(i, j) for i in range(3) for j in range(3) if i != j]).T
    share = torch.sigmoid(rewards[:, first] - rewards[:, second])  # of first preferred
    optimiser = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        policy = logits.log_softmax(-1)
        pairs = zip(policy, reference, share, strict=True)
        loss = sum(
            share * dpo_loss(p[one, None], p[other, None], r[one, None], r[other, None], beta)
            for p, r, shares in pairs
            for one, other, share in zip(first, second, shares, strict=True)
        )
        loss.backward()
        return loss

    optimiser.step(closure)
    found = implicit_reward(logits.detach().log_softmax(-1), reference, beta)
    offset = found - rewards
    assert torch.allclose(offset, offset[:, :1].expand_as(offset), atol=1e-6)
    assert (found[:, 0] - found[:, 1]).abs().min() > 0.5  # the answers did part
    # and it is the optimum of the KL-regularised objective: pi_ref exp(r / beta) / Z
    assert torch.allclose(logits.detach().log_softmax(-1), (reference + rewards / beta).log_softmax(-1), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_margins_stay_finite(dtype):
    for chosen, loss in ((-1e5, 1e4), (1e5, 0.0)):
        policy = torch.tensor([chosen], dtype=dtype, requires_grad=True)
        zero = torch.zeros(1, dtype=dtype)
        value = dpo_loss(policy, zero, zero, zero, 0.1)
        value.backward()
        assert value.item() == pytest.approx(loss, rel=1e-5) and torch.isfinite(policy.grad).all()


@pytest.mark.parametrize("shapes", [((2,), (2,), (2,), (3,)), ((2,), (2,), (1,), (2,)), ((0,),) * 4, ((2, 1),) * 4])
def test_wrong_shapes_are_refused(shapes):
    """A reference of one answer would broadcast over all in silence."""
    with pytest.raises(DataError, match="shapes"):
        dpo_loss(*(torch.zeros(shape) for shape in shapes), 0.1)


@pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf])
def test_an_impossible_beta_is_refused(beta):
    with pytest.raises(DataError, match=f"beta is {beta}"):
        dpo_loss(*random_logprobs(), beta)
