"""The KL-regularised optimum against hand arithmetic, enumeration and limits; DPO's loss on infinitely many pairs against data with its exact shares."""

import math

import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.dpo import dpo_loss
from repro.objectives.gibbs import expected_dpo_loss, gibbs_policy, log_partition, regularised_value


def space(prompts=3, answers=5, seed=0):
    """Random reference and rewards: two (prompts, answers) in double precision."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(2, prompts, answers, generator=generator, dtype=torch.float64)
    return torch.log_softmax(numbers[0], -1), numbers[1]


def test_by_hand():
    """Rewards 1 and 0, a fair coin, eta 1: e / (e + 1) and log((e + 1) / 2)."""
    reference, rewards = torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0])
    policy = gibbs_policy(reference, rewards, 1.0)
    assert policy.exp().tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)
    assert log_partition(reference, rewards, 1.0).item() == pytest.approx(0.6201, abs=1e-4)
    assert regularised_value(policy, reference, rewards, 1.0).item() == pytest.approx(0.6201, abs=1e-4)
    assert regularised_value(reference, reference, rewards, 1.0).item() == pytest.approx(0.5)  # no KL to pay


def test_no_policy_of_a_fine_grid_is_better():
    """Every mixture of three answers in hundredths: the best of them lies next to the optimum, and below it."""
    reference, rewards = space(1, 3)
    parts = [(i, j, 100 - i - j) for i in range(1, 99) for j in range(1, 100 - i)]
    grid = (torch.tensor(parts, dtype=torch.float64) / 100).log()
    values = regularised_value(grid, reference.expand_as(grid), rewards.expand_as(grid), 3.0)
    optimum = gibbs_policy(reference, rewards, 3.0)
    best = regularised_value(optimum, reference, rewards, 3.0)
    assert values.max() <= best and (grid[values.argmax()].exp() - optimum[0].exp()).abs().max() < 0.01


def test_the_value_of_the_optimum_is_eta_log_z_and_the_rest_is_kl():
    """J(pi*) = eta log Z, and J(pi*) - J(pi) = eta KL(pi | pi*) for any other policy."""
    reference, rewards = space()
    other = space(seed=1)[0]
    optimum = gibbs_policy(reference, rewards, 0.3)
    best = regularised_value(optimum, reference, rewards, 0.3)
    assert torch.allclose(best, 0.3 * log_partition(reference, rewards, 0.3))
    kl = (other.exp() * (other - optimum)).sum(-1)
    assert torch.allclose(best - regularised_value(other, reference, rewards, 0.3), 0.3 * kl)


def test_the_gradient_is_that_of_finite_differences_and_vanishes_at_the_optimum():
    reference, rewards = space()

    def value(logits):
        return regularised_value(torch.log_softmax(logits, -1), reference, rewards, 0.3).sum()

    at = space(seed=2)[1].requires_grad_()
    assert torch.autograd.gradcheck(value, at)
    optimum = gibbs_policy(reference, rewards, 0.3).requires_grad_()
    assert torch.autograd.grad(value(optimum), optimum)[0].abs().max() < 1e-12
    assert torch.autograd.grad(value(at), at)[0].abs().max() > 1e-3


def test_limits_and_invariance():
    """A large eta stays with pi_0, a small one takes the best answer; a constant of the prompt changes nothing."""
    reference, rewards = space()
    assert torch.allclose(gibbs_policy(reference, rewards, 1e9), reference, atol=1e-6)
    assert torch.equal(gibbs_policy(reference, rewards, 1e-4).exp().round(), torch.eye(5).double()[rewards.argmax(-1)])
    shift = torch.tensor([[3.0], [-2.0], [0.5]])
    assert torch.allclose(gibbs_policy(reference, rewards + shift, 0.3), gibbs_policy(reference, rewards, 0.3))


def test_expected_dpo_loss_is_dpo_on_data_with_the_exact_shares():
    """Two answers, a coin, rewards log 3 and 0: of eight pairs two are aa, two bb, a wins three and b one."""
    reference = torch.tensor([[0.5, 0.5]]).log()
    rewards, policy = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.8, 0.2]]).log()
    chosen, rejected = [0, 0, 1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 1, 1, 1, 0]
    counted = dpo_loss(policy[0, chosen], policy[0, rejected], reference[0, chosen], reference[0, rejected], 0.5)
    assert expected_dpo_loss(policy, reference, rewards, 0.5).item() == pytest.approx(counted.item())
    assert expected_dpo_loss(reference, reference, rewards, 0.5).item() == pytest.approx(math.log(2))


def test_dpo_is_least_at_the_gibbs_optimum():
    """Its gradient vanishes there and nowhere on the way, and the implied log-ratio is r / beta up to a prompt's constant."""
    reference, rewards = space()
    optimum = gibbs_policy(reference, rewards, 0.3)
    losses = []
    for share in (0.0, 0.5, 1.0, 1.5):
        logits = (reference + share * (optimum - reference)).requires_grad_()
        losses.append(expected_dpo_loss(torch.log_softmax(logits, -1), reference, rewards, 0.3))
        gradient = torch.autograd.grad(losses[-1], logits)[0].abs().max()
        assert gradient < 1e-12 if share == 1 else gradient > 1e-5
    assert min(losses) == losses[2]
    apart = (optimum - reference) - rewards / 0.3
    assert torch.allclose(apart, apart[:, :1].expand_as(apart))


@pytest.mark.parametrize("eta, reward", [(0.0, [1.0, 0.0]), (-1.0, [1.0, 0.0]), (1.0, [1.0]), (1.0, [math.nan, 0.0])])
def test_bad_input_is_named(eta, reward):
    with pytest.raises(DataError, match="KL-regularised"):
        gibbs_policy(torch.tensor([0.5, 0.5]).log(), torch.tensor(reward), eta)


def test_an_answer_without_a_chance_under_the_reference_is_refused():
    with pytest.raises(DataError, match="finite"):
        regularised_value(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), torch.zeros(2), 1.0)
