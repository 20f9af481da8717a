"""Direct preference optimisation: Bradley-Terry on the reward that a policy implies by how it departs from its reference."""

import math

from torch import Tensor

from repro.core.errors import DataError
from repro.objectives.bradley_terry import bradley_terry_loss


def implicit_reward(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """beta log(pi(y|x) / pi_ref(y|x)), the reward for which pi is optimal, up to a constant of each prompt (p2.eq5).

    policy, reference: (...) log-probabilities of whole answers, in nats; beta: the KL coefficient, eta of p2.eq2.
    Raises DataError if the shapes differ or beta is not a finite number from 0 up.
    """
    if policy.shape != reference.shape:
        shapes = f"{tuple(policy.shape)} and {tuple(reference.shape)}"
        fix = "pass the log-probabilities of the same answers under both models"
        raise DataError(f"log-probabilities of shapes {shapes}", where="DPO", fix=fix)
    if not (math.isfinite(beta) and beta >= 0):
        raise DataError(f"beta is {beta}", where="DPO", fix="beta is a finite number, 0 or more")
    return beta * (policy - reference)


def dpo_loss(
    policy_chosen: Tensor, policy_rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """Mean of -log σ(implicit reward of chosen - of rejected), (), in nats (p2.eq5).

    All four: (pairs,) log-probabilities of whole answers, in nats. Raises DataError if shapes differ, there are no pairs
    or beta is not a finite number from 0 up.
    """
    chosen = implicit_reward(policy_chosen, reference_chosen, beta)
    return bradley_terry_loss(chosen, implicit_reward(policy_rejected, reference_rejected, beta))
