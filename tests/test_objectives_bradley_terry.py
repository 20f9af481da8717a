"""Bradley-Terry: hand arithmetic, the log 2 limit, invariances, finite differences, and margins that overflow exp."""

import math

import numpy as np
import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.bradley_terry import bradley_terry_loss, bradley_terry_probability


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_hand_arithmetic():
    """Margins log 3 and -log 3: σ = 3/4 and 1/4, so the loss is (log 4/3 + log 4) / 2 = (2 log 4 - log 3) / 2."""
    margin = math.log(3)
    assert bradley_terry_probability(double(margin, 0), double(0, margin)).tolist() == pytest.approx([0.75, 0.25])
    loss = bradley_terry_loss(double(margin, 0), double(0, margin))
    assert loss.item() == pytest.approx((2 * math.log(4) - math.log(3)) / 2, abs=1e-15)


def test_equal_rewards_cost_log_two():
    rewards = torch.linspace(-5, 5, 7, dtype=torch.float64)
    assert bradley_terry_loss(rewards, rewards).item() == pytest.approx(math.log(2), abs=1e-15)


def test_equals_the_logistic_likelihood_in_numpy():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 500)) * 3
    expected = np.mean(np.log1p(np.exp(rejected - chosen)))
    assert bradley_terry_loss(torch.tensor(chosen), torch.tensor(rejected)).item() == pytest.approx(expected, abs=1e-14)


def test_only_differences_matter():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    shift = torch.randn(50, generator=generator, dtype=torch.float64) * 10
    loss = bradley_terry_loss(chosen, rejected)
    assert bradley_terry_loss(chosen + shift, rejected + shift).item() == pytest.approx(loss.item(), abs=1e-13)
    assert bradley_terry_loss(2 * chosen, 2 * rejected).item() != pytest.approx(loss.item(), abs=1e-3)


def test_gradient_by_finite_differences():
    """Also the closed form: d loss / d r_chosen = -(1 - σ) / pairs, and the two sides cancel."""
    chosen, rejected = double(0.3, -1.2, 2.0).requires_grad_(), double(0.1, 0.9, -4.0).requires_grad_()
    assert torch.autograd.gradcheck(bradley_terry_loss, (chosen, rejected), eps=1e-6, atol=1e-9)
    bradley_terry_loss(chosen, rejected).backward()
    expected = -(1 - bradley_terry_probability(chosen, rejected)) / 3
    assert torch.allclose(chosen.grad, expected.detach(), atol=1e-15)
    assert torch.equal(chosen.grad, -rejected.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_margins_stay_finite(dtype):
    """At margin -1e4 the loss is 1e4, where log(sigmoid) gives infinity; at +1e4 it is 0 with a gradient of 0."""
    for margin, loss in ((-1e4, 1e4), (1e4, 0.0)):
        chosen = torch.tensor([margin], dtype=dtype, requires_grad=True)
        value = bradley_terry_loss(chosen, torch.zeros(1, dtype=dtype))
        value.backward()
        assert value.item() == pytest.approx(loss, rel=1e-2)
        assert chosen.grad.item() == pytest.approx(-1.0 if margin < 0 else 0.0)


@pytest.mark.parametrize("shapes", [((2,), (3,)), ((0,), (0,)), ((2, 1), (2, 1)), ((2,), (2, 1))])
def test_wrong_shapes_are_refused(shapes):
    """(2,) against (2, 1) would broadcast to four pairs in silence."""
    with pytest.raises(DataError, match="one scalar reward per answer"):
        bradley_terry_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
