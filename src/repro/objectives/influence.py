"""How a training sample moves a validation loss, to first order: p3's influence scores on gradients that are at hand.

Two checkpoints at rates 0.1 and 0.2; a sample whose direction has a cosine of 0.5 with a subtask's gradient at the
first and of -1 at the second scores 0.1 x 0.5 - 0.2 = -0.15: training on it would raise that subtask's loss.

`gradients.influence` computes the same scores for samples too many to hold; these functions say what they are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from repro.core.errors import DataError, SettingsError

AVERAGES = ("gradients", "cosines")  # p3.eq10 as printed: one cosine with the mean gradient; LESS: the mean of cosines


def loss_change(gradient: Tensor, update: Tensor) -> Tensor:
    """<∇L(z'), θ(t+1) - θ(t)>, the first-order change of a validation loss by an update of the weights (p3.eq3_4).

    gradient, update: (..., weights), in nats a unit of weight and in units of weight; the result (...) is in nats. An
    SGD step is update = -rate x ∇L(z). Raises DataError if their last dimensions differ.
    """
    if gradient.shape[-1:] != update.shape[-1:]:
        fix = "pass vectors over the same weights"
        raise DataError(f"shapes {tuple(gradient.shape)} and {tuple(update.shape)}", where="loss change", fix=fix)
    return (gradient * update).sum(-1)


def cosines(directions: Tensor, references: Tensor) -> Tensor:
    """Cosine of every direction with every reference, (samples, references); 0 where either has length 0.

    directions: (samples, weights); references: (references, weights). The cosine with nothing is undefined; 0 says that
    the sample neither helps nor harms.
    """
    return units(directions) @ units(references).T


def units(rows: Tensor) -> Tensor:
    """Rows divided by their lengths, (rows, weights); rows of zeros stay."""
    lengths = rows.norm(dim=-1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, torch.ones_like(lengths))


def mean_gradient(gradients: Tensor) -> Tensor:
    """Mean gradient of a validation subtask at one checkpoint, (weights,) (p3.eq10).

    gradients: (validation samples, weights). Raises DataError if there are none.
    """
    if gradients.dim() != 2 or not len(gradients):
        what = f"a validation subtask of shape {tuple(gradients.shape)}"
        raise DataError(what, where="influence", fix="give each subtask at least one sample, or leave the subtask out")
    return gradients.mean(0)


def reference(gradients: Tensor, average: str = "gradients") -> Tensor:
    """The vector whose product with a direction of length 1 is the score of one checkpoint, (weights,) (p3.eq11).

    gradients: (validation samples, weights). average: `gradients`, the mean gradient scaled to length 1, as p3.eq10 and
    p3.eq11 print it, or `cosines`, the mean of gradients each scaled to length 1, as LESS's code does. Raises DataError
    if there are no samples, SettingsError for another average.
    """
    if average not in AVERAGES:
        raise SettingsError(f"unknown value {average!r}", where="average", fix=f"choose from {', '.join(AVERAGES)}")
    mean = mean_gradient(gradients if average == "gradients" else units(gradients))
    return units(mean[None])[0] if average == "gradients" else mean


def trajectory_influence(gradients: Tensor, validation: Tensor, rates: Tensor) -> Tensor:
    """Influence of every sample on every validation sample under SGD, (samples, validation samples) in nats (p3.eq5).

    gradients: (checkpoints, samples, weights); validation: (checkpoints, validation samples, weights); rates:
    (checkpoints,), the mean learning rate of each epoch. Positive: the sample lowers the loss. Raises DataError if the
    numbers of checkpoints differ.
    """
    _check(rates, gradients, validation)
    return torch.einsum("c,cnp,cmp->nm", rates, gradients, validation)


def adam_influence(directions: Tensor, validation: Tensor, rates: Tensor) -> Tensor:
    """Influence of every sample on every validation sample under Adam, (samples, validation samples) (p3.eq7).

    directions: (checkpoints, samples, weights), Γ of p3.eq6; validation: (checkpoints, validation samples, weights),
    gradients; rates: (checkpoints,). Cosines weighted by rates, so at most their sum. Raises DataError if the numbers
    of checkpoints differ.
    """
    _check(rates, directions, validation)
    return torch.einsum("c,cnp,cmp->nm", rates, units(directions), units(validation))


def subtask_influence(
    directions: Tensor, subtasks: Sequence[Tensor], rates: Tensor, average: str = "gradients"
) -> Tensor:
    """Influence of every sample on every validation subtask, (samples, subtasks) (p3.eq10, p3.eq11).

    directions: (checkpoints, samples, weights), projected or not; subtasks: of each (checkpoints, its samples,
    weights); rates: (checkpoints,); average as in `reference`. Raises DataError if there is no subtask, one is empty
    or the numbers of checkpoints differ, SettingsError for another average.
    """
    if not len(subtasks):
        raise DataError("no validation subtask", where="influence", fix="give at least one")
    _check(rates, directions, *subtasks)
    references = torch.stack([torch.stack([reference(each, average) for each in subtask]) for subtask in subtasks])
    return torch.einsum("c,cnp,jcp->nj", rates, units(directions), references)


def _check(rates: Tensor, *stacks: Tensor) -> None:
    counts = [len(rates), *(len(stack) for stack in stacks)]
    if len(set(counts)) != 1 or not counts[0] or any(stack.dim() != 3 for stack in stacks):
        shapes = ", ".join(str(tuple(each.shape)) for each in (rates, *stacks))
        fix = "pass (checkpoints,) rates and stacks (checkpoints, samples, weights), at least one checkpoint"
        raise DataError(f"shapes {shapes}", where="influence", fix=fix)
    if bad := [rate for rate in rates.tolist() if not (math.isfinite(rate) and rate >= 0)]:
        raise DataError(f"learning rate {bad[0]}", where="influence", fix="rates are finite numbers, 0 or more")
