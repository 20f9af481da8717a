"""The KL-regularised objective on a space small enough to enumerate: its value, its optimum, and what DPO minimises there.

Every tensor ends in the dimension of all answers; log-probabilities are over it, in nats. Reward 1 and 0, a fair coin
as reference and eta = 1: Z = (e + 1) / 2, the optimum plays e / (e + 1) = 0.731, and its value is log Z = 0.620.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from repro.core.errors import DataError
from repro.objectives.dpo import implicit_reward


def _check(eta: float, *tensors: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) != 1 or not shapes[0] or not shapes[0][-1]:
        raise DataError(f"shapes {shapes}", where="KL-regularised objective", fix="pass one number per answer in each")
    if not eta > 0 or not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        problem = f"eta {eta}" if not eta > 0 else "a number is not finite"
        fix = "eta is above 0, and every answer has a chance under the reference"
        raise DataError(problem, where="KL-regularised objective", fix=fix)


def regularised_value(policy: Tensor, reference: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """J of each prompt, E[r + eta log(pi_0 / pi)]: (...,) in units of reward (p2.eq2).

    policy, reference: (..., answers) log-probabilities; rewards: (..., answers).
    Raises DataError if the shapes differ, eta is not above 0 or a number is not finite.
    """
    _check(eta, policy, reference, rewards)
    return (policy.exp() * (rewards + eta * (reference - policy))).sum(-1)


def log_partition(reference: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """log Z of each prompt: (...,); eta times it is the largest J (p2.eq3).

    reference: (..., answers) log-probabilities; rewards: (..., answers). Raises as `regularised_value` does.
    """
    _check(eta, reference, rewards)
    return torch.logsumexp(reference + rewards / eta, -1)


def gibbs_policy(reference: Tensor, rewards: Tensor, eta: float) -> Tensor:
    """Log-probabilities of the optimum, pi_0 exp(r / eta) / Z: (..., answers) (p2.eq3; p2.eq7 with rewards of the MLE).

    reference: (..., answers) log-probabilities; rewards: (..., answers). Raises as `regularised_value` does.
    """
    return reference + rewards / eta - log_partition(reference, rewards, eta)[..., None]


def expected_dpo_loss(policy: Tensor, reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """DPO's loss on infinitely many pairs, (): both answers drawn from pi_0, the winner by Bradley-Terry (p2.eq5, p2.def2, p2.eq6).

    policy, reference: (prompts, answers) log-probabilities; rewards: (prompts, answers). Raises as `regularised_value` does.
    """
    _check(beta, policy, reference, rewards)
    implicit = implicit_reward(policy, reference, beta)
    wins = torch.sigmoid(rewards[..., :, None] - rewards[..., None, :])
    drawn = (reference[..., :, None] + reference[..., None, :]).exp()
    # the first answer wins or the second does: by symmetry twice the one, so at pi = pi_0 the loss is log 2
    losses = -logsigmoid(implicit[..., :, None] - implicit[..., None, :])
    return 2 * (drawn * wins * losses).sum((-2, -1)).mean()
