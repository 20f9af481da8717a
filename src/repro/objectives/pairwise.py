"""The pairwise preference model's arithmetic: two label tokens' logits to the probability that an answer is preferred."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from repro.core.errors import DataError


def first_preferred(logits: Tensor) -> Tensor:
    """Probability that the answer shown first is preferred: a softmax over the two labels' logits alone (p2.def1).

    logits: (pairs, 2), of the label for the first answer and of that for the second, at the place of the model's reply.
    Returns (pairs,) in [0, 1]. Raises DataError for another shape, no pair, or a logit that is not finite.
    """
    if logits.ndim != 2 or logits.shape[1] != 2 or not len(logits):
        raise DataError(f"logits of shape {tuple(logits.shape)}", where="first_preferred", fix="two labels a pair")
    if bad := (~logits.isfinite().all(1)).nonzero().flatten().tolist():
        fix = "check the model's weights and precision (bfloat16 or float32, not float16)"
        raise DataError(f"the logits are {logits[bad[0]].tolist()}", where=f"pair {bad[0]}", fix=fix)
    return logits.softmax(1)[:, 0]


def both_orders(as_shown: Tensor, swapped: Tensor) -> Tensor:
    """P(a1 > a2) as the mean over both orders, so that a liking for a place cancels: (pairs,).

    as_shown: P(the first shown is preferred) with a1 first; swapped: the same with a2 first. Exchanging a1 and a2 gives
    one minus the result, whatever the model. Raises DataError if the shapes differ.
    """
    if as_shown.shape != swapped.shape:
        shapes = f"{tuple(as_shown.shape)} and {tuple(swapped.shape)}"
        raise DataError(f"orders of shapes {shapes}", where="both_orders", fix="judge every pair in both orders")
    return 0.5 + (as_shown - swapped) / 2


def preference_loss(logits: Tensor, first: Tensor) -> Tensor:
    """Mean of -log P(the label that people gave), in nats (p2.def1); log 2 where both logits are equal.

    logits: (pairs, 2) as in `first_preferred`; first: (pairs,) whether the answer shown first was preferred. It is what
    next-token training on the labels minimises, but for the other words of the vocabulary. Raises DataError if the
    shapes differ.
    """
    if logits.shape != (*first.shape, 2) or not len(first):
        shapes = f"{tuple(logits.shape)} for {tuple(first.shape)} labels"
        raise DataError(f"logits of shape {shapes}", where="preference_loss", fix="two logits a label")
    margin = logits[:, 0] - logits[:, 1]
    return -logsigmoid(margin.where(first.bool(), -margin)).mean()
