"""The pairwise model's arithmetic: by hand, at its limits, under exchange, and against finite differences."""

import math

import pytest
import torch

from repro.core.errors import DataError
from repro.objectives.pairwise import both_orders, first_preferred, preference_loss


def test_the_softmax_is_over_the_two_labels_alone():
    """Logits log 3 and 0 are odds of three to one; only their difference counts; equal logits are a tie."""
    logits = torch.tensor([[math.log(3), 0.0], [7 + math.log(3), 7.0], [-5.0, -5.0], [1000.0, -1000.0]])
    assert first_preferred(logits).tolist() == pytest.approx([0.75, 0.75, 0.5, 1.0], abs=1e-6)


def test_exchanging_the_answers_gives_one_minus_the_probability():
    """By hand: .8 shown first and .4 for the other shown first give (.8 + .6) / 2 = .7; a pure liking for a place cancels."""
    shown, swapped = torch.tensor([0.8, 0.9, 0.0]), torch.tensor([0.4, 0.9, 1.0])
    assert both_orders(shown, swapped).tolist() == pytest.approx([0.7, 0.5, 0.0])
    assert torch.equal(both_orders(shown, swapped) + both_orders(swapped, shown), torch.ones(3))


def test_the_loss_by_hand():
    """The losses of the Bradley-Terry chapter, -log sigma of the margin: .313 for one, log 2 for none, 1.313 for minus one."""
    logits = torch.tensor([[2.0, 1.0], [1.0, 1.0], [1.0, 2.0]])
    losses = [preference_loss(row[None], torch.tensor([True])).item() for row in logits]
    assert losses == pytest.approx([0.3133, math.log(2), 1.3133], abs=1e-4)
    mirrored = preference_loss(logits.flip(1), torch.tensor([False] * 3))
    assert mirrored.item() == pytest.approx(sum(losses) / 3)


def test_the_gradient_is_the_slope():
    logits, first = torch.randn(5, 2, dtype=torch.float64), torch.tensor([True, False, True, True, False])
    logits.requires_grad_()
    preference_loss(logits, first).backward()
    for place in ((0, 0), (1, 1), (4, 0)):
        ends = []
        for step in (1e-6, -1e-6):
            moved = logits.detach().clone()
            moved[place] += step
            ends.append(preference_loss(moved, first).item())
        assert logits.grad[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-8)


@pytest.mark.parametrize("logits", [torch.zeros(2), torch.zeros(0, 2), torch.zeros(3, 3)])
def test_another_shape_is_named(logits):
    with pytest.raises(DataError, match="shape"):
        first_preferred(logits)
    with pytest.raises(DataError, match="shape"):
        preference_loss(logits, torch.ones(1, dtype=torch.bool))
    with pytest.raises(DataError, match="orders"):
        both_orders(torch.zeros(2), torch.zeros(3))


def test_a_logit_that_is_no_number_names_its_pair():
    with pytest.raises(DataError, match="pair 1"):
        first_preferred(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]))
