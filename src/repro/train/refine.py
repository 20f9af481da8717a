"""Refining an ensemble on relabelled answers: every member's LoRA and head, each towards its own targets (p3.eq14).

Each member is a step of its own, as in its first training: members are refined beside each other, and a killed run goes
on behind the last that was finished. What comes out is an ensemble like the one that went in, on the same scale: means
and SDs of its members stay those of before, because that is the scale that the targets are put on (p3.eq13). Squared
error draws rewards together, so a policy that is to be trained next, under a KL penalty in units of reward, needs them
on a scale of their own again: `rescaling`.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import MANIFEST, Artifact, Job
from repro.core.errors import DataError
from repro.core.parallel import run_all
from repro.core.settings import Section
from repro.data.schema import Turns
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import half
from repro.models.lora import ADAPTER_FILES, save_adapter
from repro.objectives.relabel import refinement_loss
from repro.train.ensemble import Pool, RewardEnsemble, backbone_input
from repro.train.loop import OPTIMISER_SETTINGS, Record, train_pairs
from repro.train.reward_tokens import reward_text

REFINE_SETTINGS = ("model", "max_tokens", "precision", "device", "gradient_checkpointing", "calibrated")
REFINE_SETTINGS += OPTIMISER_SETTINGS
Texts = Sequence[tuple[Turns, str]]  # prompts and answers


def refining(
    texts: Texts,
    targets: ArrayLike,
    settings: Section,
    seed: int,
    *,
    ensemble: Artifact,
    start: Artifact | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for the refined ensemble; its members are refined here.

    texts: (prompt, answer); targets: (members, samples), R_i of p3.eq13, in the units of `RewardEnsemble.member_rewards`
    with the same `calibrated`; start: the backbone, as when the ensemble was trained. settings: REFINE_SETTINGS, of
    which `batch_size` and `pairs_per_forward` count samples. Raises DataError if there are no samples, the targets are
    not one a member and sample, or naming member and sample of one that is not finite.
    """
    targets = np.asarray(targets, dtype=np.float64)
    _check(texts, targets, len(RewardEnsemble(ensemble, settings).folders))
    backbone = backbone_input(settings, start)
    calls = [
        {
            "step": refine_member,
            "settings": settings.pick(*REFINE_SETTINGS, member=member),
            "inputs": {"ensemble": ensemble, "rows": stored("refinement", _rows(texts, mine)), **backbone},
            "seed": seed,
        }
        for member, mine in enumerate(targets)
    ]
    inputs = {f"member_{place}": each for place, each in enumerate(run_all(calls, workers))}
    chosen = settings.pick("model", members=len(targets))
    return {"step": refined, "settings": chosen, "inputs": inputs | {"ensemble": ensemble, **backbone}}


def _check(texts: Texts, targets: np.ndarray, members: int) -> None:
    if not len(texts):
        raise DataError("no samples to refine on", where="refinement", fix="look at the selection before it")
    if targets.shape != (members, len(texts)):
        what = f"targets of shape {targets.shape} for {members} members and {len(texts)} samples"
        raise DataError(what, where="refinement", fix="give one target a member and sample")
    if len(bad := np.argwhere(~np.isfinite(targets))):
        member, sample = bad[0]
        what = f"{len(bad)} targets are not finite, first {targets[member, sample]}"
        raise DataError(what, where=f"refinement, member {member}, sample {sample}", fix="look at its relabelling")


def _rows(texts: Texts, targets: np.ndarray) -> list[list]:
    return [[list(map(list, turns)), text, float(value)] for (turns, text), value in zip(texts, targets, strict=True)]


def refine_member(job: Job) -> None:
    """Step: `ensemble` and `rows` of [turns, answer, target] to one member refined, and history.json of its steps."""
    settings, member, seed = job.settings, job.settings.member, job.seed or 0
    rows = json.loads(job.inputs["rows"].path.read_text())
    start = str(job.inputs["model"].path) if "model" in job.inputs else settings.model
    ensemble = RewardEnsemble(job.inputs["ensemble"], settings)
    folder, recompute = ensemble.folders[member], settings.gradient_checkpointing
    model = load_model(start, task="reward", device=settings.device, recompute=recompute)
    scale = (0.0, 1.0) if ensemble.scale is None else tuple(ensemble.scale[member].tolist())
    draws = int(np.random.SeedSequence([seed, member, 14]).generate_state(1)[0])
    with threads(threads_for(model)):
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
        record = refine(adapted.get_base_model(), load_tokenizer(start), rows, settings, draws, scale)
    named = json.loads((folder / ADAPTER_FILES[0]).read_text())["base_model_name_or_path"]
    save_adapter(adapted, job.out, named)
    (job.out / "history.json").write_text(json.dumps(record))


def refine(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[Turns, str, float]],
    settings: Section,
    seed: int,
    scale: tuple[float, float] = (0.0, 1.0),
) -> Record:
    """Train what learns of a reward model in place on (prompt, answer, target) rows by p3.eq14; a record of every step.

    scale: mean and SD that are taken off the raw rewards before they are compared with targets. Loss in squared units
    of reward. settings: REFINE_SETTINGS. Raises as `train_pairs` does, samples in the place of pairs.
    """
    texts = [reward_text(tokenizer, tuple(map(tuple, turns)), text) for turns, text, _ in rows]
    ids = [torch.tensor(row) for row in tokenizer(texts, truncation=True, max_length=settings.max_tokens)["input_ids"]]
    targets, (mean, sd) = torch.tensor([float(target) for _, _, target in rows]), scale

    def objective(places: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        with half(model, settings.precision):
            raw = _rewards(model, [ids[place] for place in places.tolist()])
        return refinement_loss((raw - mean) / sd, targets[places].to(raw)), {}

    return train_pairs(model, objective, torch.arange(len(rows)), settings, seed=seed)


def _rewards(model: PreTrainedModel, rows: Sequence[Tensor]) -> Tensor:
    """Rewards (rows,) at each conversation's last token; padded on the right, where no token of a decoder looks."""
    padded = pad_sequence(list(rows), batch_first=True).to(model.device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(model.device)
    hidden = model.base_model(input_ids=padded, attention_mask=mask).last_hidden_state
    last = mask.sum(1) - 1
    return model.score(hidden[torch.arange(len(rows), device=last.device), last]).float().squeeze(-1)


def refined(job: Job) -> None:
    """Step: `member_0` … and the `ensemble` that they come from to a folder like the ensemble's, its scale unchanged."""
    for place in range(job.settings.members):
        folder, name = job.inputs[f"member_{place}"].path, f"member_{place}"
        shutil.copytree(folder, job.out / name, ignore=shutil.ignore_patterns(MANIFEST))
    shutil.copy(job.inputs["ensemble"] / "ensemble.json", job.out / "ensemble.json")


def rescaling(ensemble: Artifact, reference: Pool, settings: Section, start: Artifact | None = None) -> dict[str, Any]:
    """What `artifacts.run` needs for the same members, each with its mean and SD over these answers; they are scored here.

    reference: prompts and the answers to each, best those of the first training; start: the backbone, as when the
    ensemble was trained. settings: `model` and RewardEnsemble's.
    """
    rewards = artifacts.run(**RewardEnsemble(ensemble, settings).scoring(*reference))
    inputs = {"ensemble": ensemble, "rewards": rewards, **backbone_input(settings, start)}
    return {"step": rescaled, "settings": settings.pick("model"), "inputs": inputs}


def rescaled(job: Job) -> None:
    """Step: `ensemble` and `rewards` of its members to a folder like the ensemble's, on the scale of these rewards."""
    ignore = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(job.inputs["ensemble"].path, job.out, ignore=ignore, dirs_exist_ok=True)
    found = np.array(json.loads((job.inputs["rewards"] / "rewards.json").read_text()))
    described = json.loads((job.out / "ensemble.json").read_text())
    described |= {"reference_answers": found.shape[1], "mean": found.mean(1).tolist(), "sd": found.std(1).tolist()}
    (job.out / "ensemble.json").write_text(json.dumps(described, indent=1))
