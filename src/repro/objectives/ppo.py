"""Proximal policy optimisation in pure functions: KL estimates, rewards of tokens, advantages, clipped losses (p3.eq2).

Tensors are (rows, steps): one row an answer, one step a token it drew, in the order drawn. mask: True where a step is a
token; what stands elsewhere counts for nothing. Log-probabilities and KL are in nats, values in units of reward.

Sources: PPO is Schulman et al. 2017 (arXiv 1707.06347), the advantages Schulman et al. 2016 (1506.02438), the use on
language models Ziegler et al. 2019 (1909.08593), the KL estimates Schulman 2020 ("Approximating KL divergence").
"""

import torch
from torch import Tensor

from repro.core.errors import DataError, SettingsError

ESTIMATORS = ("k1", "k2", "k3")
LAST, EACH = "last", "each"  # where an answer's score is paid
TINY = 1e-8  # added to a variance before its root


def kl_estimate(policy: Tensor, reference: Tensor, estimator: str = "k1") -> Tensor:
    """An estimate of KL(policy || reference) from each drawn token, in nats, of the same shape (...).

    policy, reference: (...) log-probabilities of tokens drawn from the policy; d their difference, policy - reference.
    k1 = d, the default: unbiased, and as a penalty in the reward its expected gradient is the KL's own. k2 = d^2 / 2:
    never negative, biased. k3 = exp(-d) - 1 + d: never negative, unbiased as a value. Raises SettingsError for another
    name, DataError if the shapes differ.
    """
    _same("KL estimate", policy=policy, reference=reference)
    difference = policy - reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return torch.expm1(-difference) + difference  # expm1: near 0 the sum of three terms would lose all digits
    raise SettingsError(f"unknown {estimator!r}", where="KL estimator", fix=f"choose from {', '.join(ESTIMATORS)}")


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float, score_at: str = LAST) -> Tensor:
    """Each token's reward, (rows, steps): its KL penalty, and the answer's score (p3.eq2, summed over the steps).

    scores: (rows,); kl: (rows, steps); coefficient: beta of p3.eq2. score_at: the whole score at the `last` token, or
    an equal part of it at `each`. Raises SettingsError for another place, DataError if shapes differ or a row is empty.
    """
    _same("token rewards", kl=kl, mask=mask)
    counts = mask.sum(1)
    if scores.shape != counts.shape or bool((counts == 0).any()):
        what = f"{tuple(scores.shape)} scores for {len(counts)} answers of at least {int(counts.min())} tokens"
        raise DataError(what, where="token rewards", fix="one score a row, and a token in every row")
    if score_at == LAST:
        paid = torch.zeros_like(kl).scatter(1, counts[:, None] - 1, scores[:, None].to(kl))
    elif score_at == EACH:
        paid = (scores / counts)[:, None].to(kl).expand_as(kl)
    else:
        raise SettingsError(f"unknown place {score_at!r}", where="score_at", fix=f"choose {LAST} or {EACH}")
    return (paid - coefficient * kl) * mask


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float, last: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and the returns they imply, both (rows, steps), 0 outside the mask.

    A_t = d_t + gamma lam A_{t+1} with d_t = r_t + gamma V_{t+1} - V_t; the return is A_t + V_t. rewards, values: (rows,
    steps), V_t of the state before token t; a row's tokens come first. last: (rows,) values of the states after the
    last tokens, 0 if None: the answer is over, whether it ended or was cut. Raises DataError if shapes differ.
    """
    _same("advantages", rewards=rewards, values=values, mask=mask)
    after = values.new_zeros(len(values)) if last is None else last
    ends = mask.sum(1) - 1
    later, found = values.new_zeros(len(values)), []
    for step in reversed(range(values.shape[1])):
        following = values[:, step + 1] if step + 1 < values.shape[1] else after
        following = torch.where(ends == step, after, following)
        delta = rewards[:, step] + gamma * following - values[:, step]
        later = (delta + gamma * lam * later) * mask[:, step]
        found.append(later)
    estimates = torch.stack(found[::-1], 1)
    return estimates, (estimates + values) * mask


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of all rows, (): a long answer counts more. Raises DataError if shapes differ or there is none."""
    _same("mean over tokens", values=values, mask=mask)
    if not bool(mask.any()):
        raise DataError("no token", where="mean over tokens", fix="look at the answers: all are empty")
    return torch.where(mask, values, 0).sum() / mask.sum()


def whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True) -> tuple[Tensor, bool]:
    """The values at unit variance over all tokens, (rows, steps), 0 outside the mask; and whether they were constant.

    shift_mean: also move their mean to 0; without, the mean stays as it was (Ziegler et al. 2019 whiten rewards so).
    Constant values have no spread to divide by: they become 0, or stay as they are where the mean stays. Raises
    DataError as `masked_mean` does.
    """
    mean = masked_mean(values, mask)
    centred = torch.where(mask, values - mean, 0)
    inside = values[mask]
    constant = bool((inside == inside[0]).all())
    scaled = torch.zeros_like(centred) if constant else centred * torch.rsqrt(masked_mean(centred**2, mask) + TINY)
    return (scaled if shift_mean else torch.where(mask, scaled + (inside[0] if constant else mean), 0)), constant


def policy_loss(
    logprobs: Tensor, old: Tensor, estimates: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """PPO's loss, mean over tokens of max(-A q, -A clamp(q, 1 - clip, 1 + clip)), (); and the share it clipped, ().

    logprobs, old: (rows, steps) of the drawn tokens under the policy now and the one that drew them, q their ratio;
    estimates: advantages A. At q = 1 its gradient is the policy gradient's; where the clip binds it is 0. clip None
    leaves the ratio free. Raises DataError as `masked_mean` does.
    """
    _same("policy loss", logprobs=logprobs, old=old, advantages=estimates)
    ratio = torch.exp(torch.where(mask, logprobs - old, 0))
    free = -estimates * ratio
    if clip is None:
        return masked_mean(free, mask), free.new_zeros(())
    held = -estimates * ratio.clamp(1 - clip, 1 + clip)
    return masked_mean(torch.maximum(free, held), mask), masked_mean((held > free).to(free), mask).detach()


def value_loss(values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> tuple[Tensor, Tensor]:
    """Half the mean squared error of the values, (); and the share of tokens clipped, ().

    values, old: (rows, steps) now and when the answers were drawn; clip: a value may move so far from the old one and
    gain by it: each token costs the larger of its errors with and without that bound (None: the plain error). Raises
    DataError as `masked_mean` does.
    """
    _same("value loss", values=values, old=old, returns=returns)
    free = (values - returns).square()
    if clip is None:
        return masked_mean(free, mask) / 2, free.new_zeros(())
    held = (old + (values - old).clamp(-clip, clip) - returns).square()
    return masked_mean(torch.maximum(free, held), mask) / 2, masked_mean((held > free).to(free), mask).detach()


def next_coefficient(coefficient: float, kl: float, *, target: float | None, answers: int, horizon: float) -> float:
    """The KL coefficient after an iteration: the same if target is None (fixed), else moved towards the target KL.

    beta (1 + e answers / horizon), e = kl / target - 1 held within 0.2 (Ziegler et al. 2019, section 2.2). kl, target:
    nats an answer; answers: drawn in this iteration; horizon: in answers. Raises SettingsError if one is not above 0.
    """
    if target is None:
        return coefficient
    if target <= 0 or horizon <= 0:
        what = f"target {target}, horizon {horizon}"
        raise SettingsError(what, where="adaptive KL", fix="both above 0, or no target for a fixed coefficient")
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * answers / horizon)


def _same(where: str, **tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise DataError(f"shapes {shapes}", where=where, fix="pass one number a token in each")
