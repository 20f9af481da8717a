"""The gradient of every sample of a batch from one backward pass, where trainable weights sit in linear layers.

A linear layer's weight gradient is a sum over places of (gradient of its output) x (its input); summed over the places
of one sample alone, it is that sample's. LoRA's A and B are such layers in every PEFT model, and so is a reward head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repro.core.errors import DataError

# model, n samples -> losses (n,). Sample i's places are the i-th of n equal parts of every layer's first dimension
Losses = Callable[[nn.Module, Sequence[Any]], Tensor]


class Layout(NamedTuple):
    """How the trainable weights lie in one vector: parameter names, and each one's shape and first place."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    starts: tuple[int, ...]

    @property
    def weights(self) -> int:
        return self.starts[-1]


def layout(model: nn.Module) -> Layout:
    """The layout of a model's trainable weights. Raises DataError if there are none."""
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not trainable:
        fix = "load the adapter with is_trainable=True, or set requires_grad on what learns"
        raise DataError("no trainable weights", where=type(model).__name__, fix=fix)
    names, weights = zip(*trainable, strict=True)
    starts = [0]
    for weight in weights:
        starts.append(starts[-1] + weight.numel())
    return Layout(names, tuple(weight.shape for weight in weights), tuple(starts))


def per_example_gradients(model: nn.Module, losses: Losses, samples: Sequence[Any], *, batched: bool = True) -> Tensor:
    """∇L of every sample over the trainable weights, (samples, weights) in `layout`'s order, on the model's device.

    losses: see Losses; the mode (dropout off or on) is the caller's. batched=False goes sample by sample and takes any
    trainable weight; batched needs them all in linear layers. Raises DataError if there are no samples, the losses are
    not one a sample, a trainable weight is in no linear layer, or a gradient is not finite, naming its sample's place.
    """
    if not len(samples):
        raise DataError("no samples", where="per-example gradients", fix="give at least one")
    find = _batched if batched else _one_by_one
    gradients = find(model, losses, samples)
    if len(bad := (~gradients.isfinite().all(1)).nonzero().flatten().tolist()):
        fix = "look at that sample, its length and the model's weights; compute in fp32"
        raise DataError(f"gradients of {len(bad)} samples are not finite", where=f"sample {bad[0]}", fix=fix)
    return gradients


def _one_by_one(model: nn.Module, losses: Losses, samples: Sequence[Any]) -> Tensor:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    rows = []
    for sample in samples:
        found = torch.autograd.grad(_checked(losses(model, [sample]), 1).sum(), weights, allow_unused=True)
        parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        rows.append(torch.cat([part.detach().flatten() for part in parts]))
    return torch.stack(rows)


def _batched(model: nn.Module, losses: Losses, samples: Sequence[Any]) -> Tensor:
    """One forward pass that notes every layer's input, one backward pass down to the layers' outputs only."""
    count, places = len(samples), layout(model)
    starts = {id(model.get_parameter(name)): start for name, start in zip(places.names, places.starts, strict=False)}
    with _noting(_linears(model, places)) as calls:
        total = _checked(losses(model, samples), count).sum()
    outputs = torch.autograd.grad(total, [output for _, _, output in calls], allow_unused=True)
    one = model.get_parameter(places.names[0])
    dtype = torch.promote_types(one.dtype, torch.float32)
    gradients = torch.zeros(count, places.weights, dtype=dtype, device=one.device)
    for (layer, given, _), upstream in zip(calls, outputs, strict=True):
        if upstream is None:
            continue
        left, right = (each.reshape(count, -1, each.shape[-1]).to(dtype) for each in (upstream, given))
        if (start := starts.get(id(layer.weight))) is not None:
            gradients[:, start : start + layer.weight.numel()] += (left.mT @ right).flatten(1)
        if layer.bias is not None and (start := starts.get(id(layer.bias))) is not None:
            gradients[:, start : start + layer.bias.numel()] += left.sum(1)
    return gradients


def _checked(losses: Tensor, count: int) -> Tensor:
    if losses.shape != (count,):
        fix = "return one loss a sample"
        raise DataError(f"losses of shape {tuple(losses.shape)} for {count} samples", where="losses", fix=fix)
    return losses


def _linears(model: nn.Module, places: Layout) -> list[nn.Linear]:
    """The linear layers that hold trainable weights. Raises DataError if one is held by anything else."""
    trainable, found = {id(model.get_parameter(name)): name for name in places.names}, []
    for module in model.modules():
        mine = [trainable[id(weight)] for weight in module.parameters(recurse=False) if id(weight) in trainable]
        if mine and type(module) is not nn.Linear:
            fix = "adapt linear layers only, or pass batched=False, which is slower and takes any weight"
            raise DataError(f"a trainable weight of a {type(module).__name__}, no linear layer", where=mine[0], fix=fix)
        found += [module] if mine else []
    return found


@contextmanager
def _noting(layers: Sequence[nn.Linear]) -> Iterator[list[tuple[nn.Linear, Tensor, Tensor]]]:
    """The (layer, input, output) of every call of these layers whose output has a gradient."""
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(layer: nn.Linear, given: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            calls.append((layer, given[0].detach(), output))

    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
