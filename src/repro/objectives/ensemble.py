"""What an ensemble of reward models says of an answer: its mean, its spread, and the ways to make one reward of both.

Every tensor begins with the dimension of the k members. Rewards 1, 2 and 6 of one answer: mean 3, variance 14/3 (ddof 0)
or 7 (ddof 1), so UWO with lambda 0.1 and ddof 1 gives 3 - 0.7 = 2.3, and WCO gives 1.
"""

import math

from torch import Tensor

from repro.core.errors import DataError

MEAN, LCB, UWO, WCO, ONE = "mean", "lcb", "uwo", "wco", "one"
AGGREGATES = (MEAN, LCB, UWO, WCO, ONE)
UWO_BEST_OF_N = {"weight": 0.5, "ddof": 0}  # Coste et al. 2023, released code for best-of-n (facts, section 11)
UWO_PPO = {"weight": 0.1, "ddof": 1}  # the same, for PPO: 1.5 times as strict at k = 3 as ddof 0 with equal lambda


def _check(rewards: Tensor, least: int) -> None:
    """Raise unless there are `least` members, an answer, and only finite rewards; the first other one is named."""
    if rewards.dim() < 1 or len(rewards) < least or not rewards.numel():
        need = "a variance needs two members or more" if least > 1 else "pass (members, ...) with at least one answer"
        raise DataError(f"rewards of shape {tuple(rewards.shape)}", where="ensemble", fix=need)
    bad = (~rewards.isfinite()).nonzero()
    if len(bad):
        member, *place = bad[0].tolist()
        where = f"ensemble, member {member}, row {', '.join(map(str, place)) or 0}"
        fix = "check that member's adapter, or leave the member out"
        raise DataError(f"the reward is {rewards[tuple(bad[0])].item()}", where=where, fix=fix)


def ensemble_mean(rewards: Tensor) -> Tensor:
    """Mean of the members, (...), in units of reward (p3.eq8).

    rewards: (k, ...). Raises DataError if there is no member or answer, or naming member and row of a reward that is not
    finite.
    """
    _check(rewards, 1)
    return rewards.mean(0)


def ensemble_variance(rewards: Tensor, ddof: int = 0) -> Tensor:
    """Variance of the members, (...), in squared units of reward (the R_v beside p3.eq8).

    rewards: (k, ...); ddof: 0 divides by k, as p3 prints it and Coste's best-of-n code does; 1 by k - 1, as Coste's PPO
    code does. A term that all members share, such as the KL penalty of p3.eq2, leaves it as it is. Raises DataError for
    fewer than two members, another ddof, and as `ensemble_mean` does.
    """
    _check(rewards, 2)
    if ddof not in (0, 1):
        raise DataError(f"ddof is {ddof!r}", where="ensemble", fix="0 divides by k, 1 by k - 1")
    return rewards.var(0, correction=ddof)


def lower_confidence_bound(rewards: Tensor, beta: float, ddof: int = 0) -> Tensor:
    """LCB: mean - beta SD, (...), in units of reward (Zhang et al. 2024).

    rewards: (k, ...). No default for beta, for no published one is known. Raises DataError as `ensemble_variance` does,
    and if beta is not a finite number from 0 up.
    """
    return ensemble_mean(rewards) - _penalty(beta, "beta") * ensemble_variance(rewards, ddof).sqrt()


def uncertainty_weighted(rewards: Tensor, weight: float = UWO_PPO["weight"], ddof: int = UWO_PPO["ddof"]) -> Tensor:
    """UWO: mean - lambda variance, (...), the variance and not the SD (Coste et al. 2023, eq. 5).

    rewards: (k, ...); weight: lambda, in 1 / units of reward, so that it means the same only where rewards have the same
    spread. Defaults: UWO_PPO; UWO_BEST_OF_N for best-of-n. Raises as `lower_confidence_bound` does.
    """
    return ensemble_mean(rewards) - _penalty(weight, "lambda") * ensemble_variance(rewards, ddof)


def worst_case(rewards: Tensor) -> Tensor:
    """WCO: the least of the members, (...), in units of reward (Coste et al. 2023). Raises as `ensemble_mean` does."""
    _check(rewards, 1)
    return rewards.amin(0)


def aggregate(rewards: Tensor, how: str, *, weight: float | None = None, ddof: int | None = None) -> Tensor:
    """One reward of k by name, (...): "mean", "lcb", "uwo", "wco", or "one", the first member alone.

    rewards: (k, ...); weight: beta of lcb, lambda of uwo; ddof: None leaves each its own default (lcb 0, uwo 1). Raises
    DataError for an unknown name, an lcb without weight, a weight or ddof where none is read, and as the functions do.
    """
    given = {name: value for name, value in (("weight", weight), ("ddof", ddof)) if value is not None}
    if how == LCB:
        if weight is None:
            raise DataError("no beta", where=f"ensemble, {how}", fix="give weight=: no published default is known")
        return lower_confidence_bound(rewards, weight, **({} if ddof is None else {"ddof": ddof}))
    if how == UWO:
        return uncertainty_weighted(rewards, **given)
    if how not in AGGREGATES:
        raise DataError(f"unknown aggregate {how!r}", where="ensemble", fix=f"choose from {', '.join(AGGREGATES)}")
    if given:
        raise DataError(f"{' and '.join(given)} given", where=f"ensemble, {how}", fix="only lcb and uwo read them")
    if how == ONE:
        _check(rewards, 1)
        return rewards[0]
    return ensemble_mean(rewards) if how == MEAN else worst_case(rewards)


def _penalty(weight: float, name: str) -> float:
    if not (math.isfinite(weight) and weight >= 0):
        raise DataError(f"{name} is {weight}", where="ensemble", fix=f"{name} is a finite number, 0 or more")
    return weight
