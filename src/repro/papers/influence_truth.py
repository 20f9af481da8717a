"""What single samples really do to validation losses: a short LoRA fine-tune, one more step on a sample, a sample left out.

Texts, an input of every step: {"samples": [[turns, answer], ...], "subtasks": {"helpful": [[turns, answer], ...], ...}}.
A loss is nats a token of an answer, its mean over a subtask's answers; a drop is the loss before minus the loss after.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import vector_to_parameters
from transformers import PreTrainedModel

from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, SettingsError
from repro.core.progress import progress
from repro.core.settings import Section
from repro.gradients.checkpoints import Checkpoint, checkpoint_folders, checkpoints
from repro.gradients.directions import directions
from repro.gradients.losses import answer_losses, encode_samples
from repro.gradients.per_example import layout, per_example_gradients
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import Tree
from repro.models.lora import LORA_SETTINGS, save_adapter, with_lora
from repro.objectives.influence import loss_change
from repro.train.checkpoints import BASE, CHECKPOINTS, MOMENTS

TUNE_SETTINGS = (*LORA_SETTINGS, "learning_rate", "epochs", "batch_size", "max_tokens", "device")
BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's, and LESS's
OPTIMISERS = {"SGD": "sgd", "Adam": "adam"}  # a real step's, and what directions call it
HISTORY, STEPS, LEFT_OUT = "history.json", "steps.safetensors", "left_out.safetensors"
AT_ONCE = 64  # samples: memory and speed, no effect on a result beyond rounding


class Bench(NamedTuple):
    """A model, and what is measured with it as tokens."""

    model: PreTrainedModel
    samples: list[Tree]
    subtasks: dict[str, list[Tree]]


def opened(job: Job) -> Bench:
    """The inputs `base` and `texts` of a step. Raises DataError if there are no samples or a subtask is empty."""
    folder, texts = str(job.inputs["base"].path), json.loads(job.inputs["texts"].path.read_text())
    model, tokenizer = load_model(folder, task="language", device=job.settings.device), load_tokenizer(folder)
    found = {}
    for name, rows in {"samples": texts["samples"], **texts["subtasks"]}.items():
        if not rows:
            raise DataError("no conversations", where=f"influence, {name}", fix="draw at least one")
        prompts = [tuple(map(tuple, turns)) for turns, _ in rows]
        answers = [text for _, text in rows]
        found[name] = encode_samples(model, tokenizer, prompts, answers, limit=job.settings.max_tokens)
    return Bench(model, found.pop("samples"), found)


def probed_places(samples: int, count: int, seed: int) -> list[int]:
    """The samples whose real effect is measured, drawn by the seed. Raises SettingsError if there are not so many."""
    if not 1 <= count <= samples:
        raise SettingsError(f"{count} of {samples} samples", where="probed", fix=f"1 to {samples}")
    return sorted(np.random.default_rng([seed, 7]).permutation(samples)[:count].tolist())


@torch.no_grad()
def subtask_losses(model: torch.nn.Module, subtasks: Iterable[list[Tree]]) -> Tensor:
    """Mean loss on each subtask, (subtasks,) float64, in nats a token."""
    means = []
    for rows in subtasks:
        parts = [answer_losses(model, rows[start : start + AT_ONCE]) for start in range(0, len(rows), AT_ONCE)]
        means.append(torch.cat(parts).mean())
    return torch.stack(means).double()


def fine_tune(
    model: PeftModel,
    samples: list[Tree],
    settings: Section,
    seed: int,
    *,
    without: int | None = None,
    keep: Callable[[torch.optim.Adam, int, float], None] | None = None,
) -> list[float]:
    """Train the adapter by Adam at a rate that falls linearly to 0; the loss of every step, in nats a token.

    settings: TUNE_SETTINGS; without: a sample whose loss counts nothing, all else the same to the last dropped unit;
    keep: called after each epoch with optimiser, steps so far and the epoch's mean rate. Raises DataError if a loss is
    not finite.
    """
    adam = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], betas=BETAS, eps=EPSILON)
    draw = torch.Generator().manual_seed(seed)
    epochs = [torch.randperm(len(samples), generator=draw).split(settings.batch_size) for _ in range(settings.epochs)]
    total, losses = sum(map(len, epochs)), []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        for batches in epochs:
            rates = []
            for batch in batches:
                rates.append(settings.learning_rate * (1 - len(losses) / total))
                losses.append(_step(model, adam, [(samples[k], k != without) for k in batch.tolist()], rates[-1]))
                if not np.isfinite(losses[-1]):
                    fix = "lower learning_rate"
                    raise DataError(f"loss {losses[-1]}", where=f"fine-tuning, step {len(losses)}", fix=fix)
            if keep:
                keep(adam, len(losses), float(np.mean(rates)))
        model.eval()
    return losses


def _step(model: PeftModel, adam: torch.optim.Adam, batch: list[tuple[Tree, bool]], rate: float) -> float:
    adam.param_groups[0]["lr"] = rate
    adam.zero_grad()
    losses = answer_losses(model, [sample for sample, _ in batch])
    loss = (losses * torch.tensor([float(counts) for _, counts in batch])).sum() / len(batch)
    loss.backward()
    adam.step()
    return loss.item()


def tune(job: Job) -> None:
    """Step: `base` and `texts` to checkpoints/<step>/, one an epoch, and history.json: loss of every step, and the
    subtasks' losses before and after."""
    bench = opened(job)
    with threads(threads_for(bench.model)):
        model = with_lora(bench.model, job.settings, job.seed or 0, "language").eval()
        before = subtask_losses(model, bench.subtasks.values())

        def keep(adam: torch.optim.Adam, step: int, rate: float) -> None:
            _save(model, adam, job.out / CHECKPOINTS / str(step), step, rate)

        losses = fine_tune(model, bench.samples, job.settings, job.seed or 0, keep=keep)
        after = subtask_losses(model, bench.subtasks.values())
    history = {"loss": losses, "before": before.tolist(), "after": after.tolist()}
    (job.out / HISTORY).write_text(json.dumps(history))


def _save(model: PeftModel, adam: torch.optim.Adam, folder: Path, step: int, rate: float) -> None:
    """A checkpoint as `gradients.checkpoints` reads it."""
    save_adapter(model, folder, BASE)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    moments = {f"{name}.{kind}": adam.state[each][kind] for name, each in weights.items() for kind in MOMENTS}
    save_file({name: value.cpu().contiguous() for name, value in moments.items()}, folder / "moments.safetensors")
    state = {"step": step, "learning_rate": rate, "betas": BETAS, "eps": EPSILON}
    (folder / "state.json").write_text(json.dumps(state))


def points(model: PreTrainedModel, run: Artifact) -> Iterable[Checkpoint]:
    """The checkpoints that `tune` left, one after the other in the model."""
    return checkpoints(model, checkpoint_folders(run / CHECKPOINTS))


def leave_out(job: Job) -> None:
    """Step: `run` of `tune`, its `base` and `texts`, to left_out.safetensors: "left out", (probed, subtasks), by how
    much higher each subtask's loss ends if that one sample counts nothing."""
    bench, seed = opened(job), job.seed or 0
    whole = torch.tensor(json.loads((job.inputs["run"] / HISTORY).read_text())["after"], dtype=torch.float64)
    rises = []
    with threads(threads_for(bench.model)):
        model = with_lora(bench.model, job.settings, seed, "language")
        start = [weight.detach().clone() for weight in model.parameters() if weight.requires_grad]
        for place in progress(probed_places(len(bench.samples), job.settings.probed, seed), label="left out"):
            with torch.no_grad():
                for weight, first in zip((w for w in model.parameters() if w.requires_grad), start, strict=True):
                    weight.copy_(first)
            fine_tune(model, bench.samples, job.settings, seed, without=place)
            rises.append(subtask_losses(model, bench.subtasks.values()) - whole)
    save_file({"left out": torch.stack(rises)}, job.out / LEFT_OUT)


def take_steps(job: Job) -> None:
    """Step: `run`, `base` and `texts` to steps.safetensors: from every checkpoint one real step on each probed sample
    alone, "<optimiser>.actual" and "<optimiser>.predicted" drops, (checkpoints, probed, subtasks) (p3.eq3_4)."""
    bench, seed = opened(job), job.seed or 0
    samples = [bench.samples[place] for place in probed_places(len(bench.samples), job.settings.probed, seed)]
    found: dict[str, list[Tensor]] = {}
    with threads(threads_for(bench.model)):
        for point in points(bench.model, job.inputs["run"]):
            means = torch.stack([mean_gradients(point, rows)[0] for rows in bench.subtasks.values()])
            before = subtask_losses(point.model, bench.subtasks.values())
            for name, variant in OPTIMISERS.items():
                drops = []
                for sample in progress(samples, label=f"{name} steps at {point.name}"):
                    update = -point.rate * _direction(point, sample, variant)
                    after = _losses_after(point, update, bench.subtasks)
                    drops.append((before - after, -loss_change(means.double(), update.double())))
                for what, rows in zip(("actual", "predicted"), zip(*drops, strict=True), strict=True):
                    found.setdefault(f"{name}.{what}", []).append(torch.stack(rows))
    save_file({name: torch.stack(each) for name, each in found.items()}, job.out / STEPS)


def _direction(point: Checkpoint, sample: Tree, variant: str) -> Tensor:
    return directions(per_example_gradients(point.model, answer_losses, [sample]), point.moments, variant)[0]


def _losses_after(point: Checkpoint, update: Tensor, subtasks: dict[str, list[Tree]]) -> Tensor:
    """The subtasks' losses behind an update; the weights are put back."""
    weights = [point.model.get_parameter(name) for name in layout(point.model).names]
    here = torch.cat([weight.detach().flatten() for weight in weights])
    vector_to_parameters(here + update, weights)
    after = subtask_losses(point.model, subtasks.values())
    vector_to_parameters(here, weights)
    return after


def mean_gradients(point: Checkpoint, rows: list[Tree]) -> tuple[Tensor, Tensor]:
    """Mean gradient of a subtask (p3.eq10), and mean of its gradients each scaled to length 1 (LESS): (weights,) each."""
    plain, scaled = 0.0, 0.0
    for start in range(0, len(rows), AT_ONCE):
        found = per_example_gradients(point.model, answer_losses, rows[start : start + AT_ONCE])
        plain = plain + found.sum(0) / len(rows)
        scaled = scaled + torch.nn.functional.normalize(found, dim=1).sum(0) / len(rows)
    return plain, scaled
