"""LoRA adapters on a frozen backbone: made, kept as ordinary PEFT folders, and found again, several beside each other."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section

LORA_SETTINGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_layers")
EVERY_LINEAR = "all-linear"
KINDS = {"reward": "SEQ_CLS", "language": "CAUSAL_LM"}  # PEFT's names; a reward adapter holds its own head too
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def with_lora(model: PreTrainedModel, settings: Section, seed: int, task: str = "reward") -> PeftModel:
    """The model with one new adapter that learns (and its reward head, for task "reward") while all else is frozen.

    settings: LORA_SETTINGS; lora_targets: names of linear layers or "all-linear", lora_layers: the number of last layers
    that are adapted, None for all. The adapter is drawn from `seed` and starts as no change. Changes `model`. Raises
    SettingsError if a layer, a target or the rank does not fit the model.
    """
    layers = decoder_layers(model)
    count = len(layers) if settings.lora_layers is None else settings.lora_layers
    if not 1 <= count <= len(layers):
        raise SettingsError(f"{count} layers", where="lora_layers", fix=f"1 to {len(layers)}, or null for all")
    named = layers.named_modules()
    known = sorted({name.rpartition(".")[2] for name, module in named if isinstance(module, nn.Linear)})
    targets = known if settings.lora_targets == EVERY_LINEAR else list(settings.lora_targets)
    if unknown := set(targets) - set(known):
        fix = f"{EVERY_LINEAR}, or some of {', '.join(known)}"
        raise SettingsError(f"no linear layer {', '.join(sorted(unknown))}", where="lora_targets", fix=fix)
    try:
        config = LoraConfig(
            task_type=KINDS[task],
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets,
            layers_to_transform=None if count == len(layers) else list(range(len(layers) - count, len(layers))),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, config)
    except ValueError as error:
        raise SettingsError(str(error).splitlines()[0], where="LoRA", fix="see lora_rank") from error


def save_adapter(model: PeftModel, folder: Path, base: str) -> None:
    """Write the adapter as PEFT does, without what differs from run to run: its card, paths, and the order of sets.

    base: what the configuration calls the backbone, such as a hub id.
    """
    model.save_pretrained(folder, save_embedding_layers=False)  # else PEFT asks the hub whether the vocabulary grew
    (folder / "README.md").unlink(missing_ok=True)
    file = folder / ADAPTER_FILES[0]
    config = json.loads(file.read_text()) | {"base_model_name_or_path": base}
    ordered = {name: sorted(config[name]) for name in ("target_modules", "modules_to_save") if config[name]}
    file.write_text(json.dumps(config | ordered, indent=1, sort_keys=True))


def load_adapters(model: PreTrainedModel, folders: Sequence[Path], *, trainable: bool = False) -> PeftModel:
    """The model with the adapters of the folders, called "member_0", "member_1" …, the first one active.

    trainable: whether the adapters may learn on. Changes `model`. Raises DataError naming the member whose folder, file
    or reward head is missing, cannot be read, or is of another backbone.
    """
    if not folders:
        raise DataError("no adapters", where="ensemble", fix="give at least one folder")
    for member, folder in enumerate(folders):
        if lacking := [name for name in ADAPTER_FILES if not (folder / name).is_file()]:
            fix = "train the ensemble again, or copy the adapter's folder back"
            raise DataError(f"member {member} is missing, no {' and no '.join(lacking)}", where=folder, fix=fix)
    member, found = 0, None
    try:
        for member, folder in enumerate(folders):
            _has_head(model, folder)
            name = f"member_{member}"
            if found is None:
                found = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=trainable)
            else:
                found.load_adapter(folder, name, is_trainable=trainable)
    except (RuntimeError, ValueError, SafetensorError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        fix = "use the adapter with the backbone that it was trained on"
        raise DataError(f"member {member} does not fit: {first}", where=folders[member], fix=fix) from error
    return found.eval()


def _has_head(model: PreTrainedModel, folder: Path) -> None:
    with safe_open(folder / ADAPTER_FILES[1], "pt") as file:
        names = list(file.keys())
        if hasattr(model, "score") and not any(".score." in name for name in names):
            raise ValueError("no reward head in its file")


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder's layers, in order. Raises DataError if the model has none."""
    found = next((module for module in model.modules() if isinstance(module, nn.ModuleList)), None)
    if found is None:
        raise DataError("no list of layers", where=type(model).__name__, fix="use a decoder such as Llama or Gemma")
    return found
