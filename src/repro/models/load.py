"""Tokenizers and models by hub id or folder: safetensors only, no code from the hub, precision and device as settings.

A hub id such as `sentence-transformers/all-MiniLM-L6-v2` is looked for first as a folder, then by its last part in the
models folder (`REPRO_MODELS`), then on the hub.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from repro.core import hub
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.paths import HOW_TO_GET_MODELS, models_folder

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
TASKS = {"features": AutoModel, "language": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
SMALL = 20_000_000  # parameters; below, threads wait for each other longer than they work
NEW_HEADS = ("score.", "classifier.")  # a reward head is new when a base model is loaded, all else must be in the file


def find_model(name: str) -> Path | None:
    """The folder of a model given as a folder or a hub id; None if only the hub can have it.

    Raises MissingInput if `name` is written as a path and is no folder.
    """
    if (folder := Path(name).expanduser()).is_dir():
        return folder
    if name.startswith(("/", ".", "~")):
        raise MissingInput("no such model folder", where=name, fix="correct the path, or give a hub id")
    home = models_folder()
    local = home / name.split("/")[-1] if home else None
    return local if local and local.is_dir() else None


def _only_local(folder: Path | None) -> bool:
    """Whether to look no further than the disk: a folder is there, or the hub cannot be asked."""
    return folder is not None or not hub.reachable()


def device_named(name: str = "auto") -> torch.device:
    """`auto` is the accelerator if there is one, else the processor. Raises SettingsError for an unknown device."""
    if name == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"unknown device {name!r}", where="device", fix="auto, cpu, cuda or cuda:0") from error


def load_tokenizer(name: str, *, truncation_side: str = "left") -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, with a padding token; over-long texts lose their beginning.

    Raises MissingInput if it is nowhere, DataError if a folder has none.
    """
    folder = find_model(name)
    if folder and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        fix = f"save one there with tokenizer.save_pretrained; looked for {', '.join(TOKENIZER_FILES)}"
        raise DataError("the folder has no tokenizer", where=folder, fix=fix)
    with _or_missing(name, folder):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder or name), trust_remote_code=False, local_files_only=_only_local(folder)
        )
    tokenizer.truncation_side = truncation_side
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name: str,
    *,
    task: str = "features",
    layers: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    seed: int = 0,
    recompute: bool = False,
) -> PreTrainedModel:
    """A model of a folder or hub id, in evaluation mode, cut after its first `layers` layers if that is given.

    task: `features` (bare), `language` (next token) or `reward` (one scalar; a head that the file lacks is drawn from
    `seed`). precision: `fp32`, or `bf16` weights. recompute: training keeps few activations and computes the others again
    (gradient checkpointing): slower, in less memory, the same gradient. Raises SettingsError for an unknown task, precision or depth,
    MissingInput if the model is nowhere, DataError if a folder has no safetensors or lacks weights.
    """
    for value, known, what in ((task, TASKS, "task"), (precision, PRECISIONS, "precision")):
        if value not in known:
            raise SettingsError(f"unknown {what} {value!r}", where=name, fix=f"choose from {', '.join(known)}")
    folder = find_model(name)
    _check_safe(folder)
    options = {} if layers is None else {"num_hidden_layers": layers}
    options |= {"num_labels": 1} if task == "reward" else {}
    with _or_missing(name, folder), _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model, report = TASKS[task].from_pretrained(
            str(folder or name),
            dtype=PRECISIONS[precision],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=_only_local(folder),
            output_loading_info=True,
            **options,
        )
    _check_complete(name, task, layers, report["missing_keys"])
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.to(device_named(device)).eval()


def _check_safe(folder: Path | None) -> None:
    if folder and not any(folder.glob("*.safetensors")):
        fix = "convert it with model.save_pretrained(folder); pickled weights are not read"
        raise DataError("the folder has no .safetensors weights", where=folder, fix=fix)


def _check_complete(name: str, task: str, layers: int | None, missing: set[str]) -> None:
    lacking = sorted(key for key in missing if not (task == "reward" and key.startswith(NEW_HEADS)))
    lacking = [key for key in lacking if not (task == "features" and key.startswith("pooler."))]  # never used here
    if not lacking:
        return
    if layers is not None:
        fix = "lower `layers` to what the model has, or leave it out"
        raise SettingsError(f"the file has no {lacking[0]} for {layers} layers", where=name, fix=fix)
    fix = "save the whole model again, or name the right architecture in its config.json"
    raise DataError(f"{len(lacking)} weights are not in the file, first {lacking[0]}", where=name, fix=fix)


def threads_for(model: PreTrainedModel) -> int | None:
    """Threads that serve a model best: one for a small one, whose products are too small to share out, else all."""
    return 1 if model.num_parameters() < SMALL else None


@contextmanager
def threads(count: int | None = None) -> Iterator[None]:
    """Run with this many threads, all cores by default, whatever the process was given.

    The order of a sum, and so its last digit, follows the number of threads: a step that fixes it gives the same result
    in JupyterLab, in a batch of any width and alone.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' report of weights left unread out of the page; what lacks is checked above."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


@contextmanager
def _or_missing(name: str, folder: Path | None) -> Iterator[None]:
    """Turn transformers' errors into the project's: nowhere to be found, or a folder that cannot be read."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if folder is None:
            raise MissingInput(
                f"neither a folder nor reachable on the hub ({first})", where=name, fix=HOW_TO_GET_MODELS
            ) from error
        raise DataError(f"cannot be loaded: {first}", where=folder, fix="fetch the folder again") from error
