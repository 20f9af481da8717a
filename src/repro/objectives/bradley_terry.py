"""The Bradley-Terry model: a pair's preference is the logistic of its difference in reward."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from repro.core.errors import DataError


def _check(chosen: Tensor, rejected: Tensor) -> None:
    if chosen.shape != rejected.shape or chosen.dim() != 1 or not len(chosen):
        raise DataError(
            f"rewards of shapes {tuple(chosen.shape)} and {tuple(rejected.shape)}",
            where="Bradley-Terry",
            fix="pass one scalar reward per answer: two tensors of shape (pairs,), pairs > 0",
        )


def bradley_terry_probability(chosen: Tensor, rejected: Tensor) -> Tensor:
    """P(chosen preferred) = σ(r_chosen - r_rejected), (pairs,) in 0..1 (p1.eq1, p2.eq4).

    chosen, rejected: (pairs,) scalar rewards. Raises DataError if the shapes differ or there are no pairs.
    """
    _check(chosen, rejected)
    return torch.sigmoid(chosen - rejected)


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Mean of -log σ(r_chosen - r_rejected), in nats (p1.eq1, p2.eq4, p3.eq1).

    chosen, rejected: (pairs,) scalar rewards; only differences matter, so a constant added to all is free.
    Raises DataError if the shapes differ or there are no pairs.
    """
    _check(chosen, rejected)
    return -logsigmoid(chosen - rejected).mean()
