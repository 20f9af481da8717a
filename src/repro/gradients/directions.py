"""The step an optimiser would take on one sample: its gradient under SGD, p3.eq6 with Adam's state at a checkpoint.

One weight after one step of gradient 1 (m = 0.1, v = 0.001), a sample of gradient 1: m' = 0.19, v' = 0.001999. Divided
by 1 - 0.9² and 1 - 0.999² both are 1, and so is Γ: Adam's early steps have length 1 whatever the gradient's size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.core.errors import DataError, SettingsError

# whether the moments are divided by 1 - beta^t, and whether epsilon stands inside the root
VARIANTS = {
    "printed": (True, True),  # p3.eq6
    "adam": (True, False),  # Kingma and Ba's, what torch.optim.Adam takes
    "less": (False, True),  # LESS's code: without correction
}
DIRECTIONS = ("sgd", *VARIANTS)


@dataclass(frozen=True)
class Moments:
    """Adam's state at a checkpoint: first and second (weights,) in the model's layout; step, the updates so far."""

    first: Tensor
    second: Tensor
    step: int
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


def directions(gradients: Tensor, moments: Moments | None = None, variant: str = "printed") -> Tensor:
    """Γ of every sample, (samples, weights): weights move by -rate x Γ if the next step is on it alone (p3.eq6).

    gradients: (samples, weights); variant: `sgd`, the gradient itself, or one of VARIANTS. The printed (1 - β^t) counts
    this update as t = moments.step + 1, as Adam does, and divides the moments when they are used, not when they are
    kept: read otherwise, it divides by zero at the first step and twice at the second. Raises SettingsError for another
    variant, DataError if it needs moments and has none, or they are of other weights.
    """
    if variant not in DIRECTIONS:
        raise SettingsError(f"unknown value {variant!r}", where="direction", fix=f"choose from {', '.join(DIRECTIONS)}")
    if variant == "sgd":
        return gradients
    if moments is None:
        fix = "read them from the checkpoint, or ask for the direction `sgd`"
        raise DataError("no optimiser state", where=f"direction {variant}", fix=fix)
    if moments.first.shape != gradients.shape[1:] or moments.second.shape != gradients.shape[1:]:
        what = f"moments of {tuple(moments.first.shape)} weights, gradients of {tuple(gradients.shape[1:])}"
        raise DataError(what, where=f"direction {variant}", fix="read the moments with this model's layout")
    (beta_1, beta_2), (corrected, inside) = moments.betas, VARIANTS[variant]
    first = torch.add(beta_1 * moments.first, gradients, alpha=1 - beta_1)
    second = torch.addcmul(beta_2 * moments.second, gradients, gradients, value=1 - beta_2)
    if corrected:
        first /= 1 - beta_1 ** (moments.step + 1)
        second /= 1 - beta_2 ** (moments.step + 1)
    root = second.add_(moments.epsilon).sqrt_() if inside else second.sqrt_().add_(moments.epsilon)
    return first.div_(root)


def ordered(values: dict[str, Tensor], names: Sequence[str], kind: str, where: object) -> Tensor:
    """The values "<name>.<kind>" of all names as one vector, in the names' order, (weights,).

    A name is found as it is, or without the adapter's name that PEFT leaves out on disk (`lora_A.default.weight` or
    `lora_A.weight`). Raises DataError naming the first that is missing and how many are.
    """
    found = [next((values[key] for key in _spellings(name, kind) if key in values), None) for name in names]
    if missing := [f"{name}.{kind}" for name, value in zip(names, found, strict=True) if value is None]:
        what = f"{len(missing)} of {len(names)} moments are missing, first {missing[0]}"
        fix = "save the optimiser's state under the parameters' names, of the same adapter"
        raise DataError(what, where=where, fix=fix)
    return torch.cat([value.flatten().float() for value in found if value is not None])


def _spellings(name: str, kind: str) -> list[str]:
    return [f"{name}.{kind}", f"{name.replace('.default.', '.')}.{kind}"]
