"""A policy's adapters along its training: weights, the optimiser's moments, and the learning rate of each.

A checkpoint's folder: PEFT's adapter_config.json and adapter_model.safetensors; moments.safetensors with
"<parameter>.exp_avg" and "<parameter>.exp_avg_sq"; state.json {"step": 40, "learning_rate": 1e-4,
"betas": [0.9, 0.999], "eps": 1e-8}.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from repro.core.errors import DataError
from repro.gradients.directions import Moments, ordered
from repro.gradients.per_example import layout

ADAPTER, MOMENTS, STATE = "adapter_model.safetensors", "moments.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was, for reading gradients; rate: its weight in a score, the mean learning rate of its epoch.

    moments: the optimiser's state, None where only SGD's directions are asked for. The next checkpoint of `checkpoints`
    loads its weights into the same model.
    """

    name: str
    model: nn.Module
    rate: float
    moments: Moments | None = None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in a folder of them, by step. Raises DataError if there is none."""
    found = sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    if not found:
        raise DataError("no checkpoints", where=folder, fix="train the policy with checkpoints kept")
    return found


def checkpoints(
    base: PreTrainedModel, folders: Sequence[Path], rates: Sequence[float] | None = None, *, moments: bool = True
) -> Iterator[Checkpoint]:
    """One checkpoint after the other in one model in memory, its dropout off.

    base: what the adapters were trained on, which carries them afterwards; rates: of each checkpoint, from its
    state.json if left out; moments=False leaves the optimiser's state unread. Raises DataError naming the file that is
    not there or cannot be read, or what in it is missing.
    """
    if rates is not None and len(rates) != len(folders):
        fix = "give one rate a checkpoint, or none to take those of state.json"
        raise DataError(f"{len(rates)} rates for {len(folders)} checkpoints", where="checkpoints", fix=fix)
    model = None
    for place, folder in enumerate(folders):
        if not (folder / ADAPTER).is_file():
            fix = "train the policy with LoRA, and keep the adapter with save_pretrained"
            raise DataError("no adapter weights", where=folder / ADAPTER, fix=fix)
        if model is None:
            model = PeftModel.from_pretrained(base, folder, is_trainable=True).eval()
        else:
            _load_weights(model, folder)
        state = _state(folder)
        rate = float(state["learning_rate"] if rates is None else rates[place])
        yield Checkpoint(folder.name, model, rate, read_moments(model, folder) if moments else None)


def _load_weights(model: PeftModel, folder: Path) -> None:
    """The adapter's weights in place of those the model has. Raises DataError if they are not the same parameters."""
    report = set_peft_model_state_dict(model, load_file(folder / ADAPTER))
    missing = [name for name in report.missing_keys if name in set(layout(model).names)]
    if wrong := [*report.unexpected_keys, *missing]:
        what = f"{len(wrong)} weights are not those of the checkpoint before, first {wrong[0]}"
        raise DataError(what, where=folder / ADAPTER, fix="give checkpoints of one run")


def read_moments(model: nn.Module, folder: Path) -> Moments:
    """Adam's state in a checkpoint's folder, matched to the model's trainable weights by name, never by order.

    Raises DataError naming the file if it is not whole, the first moment that is missing, or a moment that is not
    finite or of another size.
    """
    try:
        values = load_file(folder / MOMENTS)
    except (OSError, SafetensorError) as error:
        fix = "save the optimiser's state with the checkpoint, or ask for the direction `sgd`"
        raise DataError(f"no optimiser state ({error})", where=folder / MOMENTS, fix=fix) from error
    places, state = layout(model), _state(folder)
    first, second = (ordered(values, places.names, kind, folder / MOMENTS) for kind in ("exp_avg", "exp_avg_sq"))
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise DataError("a moment is not finite", where=folder / MOMENTS, fix="train again at a lower learning rate")
    if len(first) != places.weights or len(second) != places.weights:
        what = f"moments of {len(first)} and {len(second)} weights for an adapter of {places.weights}"
        raise DataError(what, where=folder / MOMENTS, fix="save the state of the same adapter")
    beta_1, beta_2 = state["betas"]
    device = model.get_parameter(places.names[0]).device
    return Moments(first.to(device), second.to(device), int(state["step"]), (beta_1, beta_2), float(state["eps"]))


def _state(folder: Path) -> dict:
    try:
        state = json.loads((folder / STATE).read_text())
        if lacking := [key for key in ("step", "learning_rate", "betas", "eps") if key not in state]:
            raise DataError(f"{lacking[0]} is missing", where=folder / STATE, fix="write it with the checkpoint")
    except (OSError, ValueError) as error:
        raise DataError(f"no usable state ({error})", where=folder / STATE, fix="write the checkpoint again") from error
    return state
