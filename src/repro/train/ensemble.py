"""An ensemble of reward models: k LoRA adapters with heads on one frozen backbone, from different seeds and data orders (p3).

Each member is a step of its own, so that members are trained beside each other and an ensemble of five holds the same
first three as one of three. The ensemble's folder has them as ordinary PEFT adapters, `member_0`, `member_1` …, and
`ensemble.json`: mean and SD of each member's rewards over a reference pool, for members that are put on one scale.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.parallel import run_all
from repro.core.paths import runs_folder
from repro.core.settings import Section
from repro.data.schema import Pair, Turns
from repro.models.features import stored
from repro.models.load import find_model, load_model, load_tokenizer, threads, threads_for
from repro.models.lora import LORA_SETTINGS, save_adapter, with_lora
from repro.models.members import Members
from repro.train.loop import OPTIMISER_SETTINGS, History
from repro.train.reward_tokens import reward_text, train_on_tokens

MEMBER_SETTINGS = ("model", "max_tokens", "precision", "device", "gradient_checkpointing", *LORA_SETTINGS)
MEMBER_SETTINGS += OPTIMISER_SETTINGS
REFERENCE_PAIRS = 500  # whose answers are the reference pool where none is given
LEAST_SPREAD = 1e-6  # of an SD, against the mean: below it, rewards differ by rounding alone
Pool = tuple[Sequence[Turns], Sequence[Sequence[str]]]  # prompts, and the answers to each


def member_training(
    pairs: Sequence[Pair], settings: Section, seed: int, member: int, start: Artifact | None = None
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs to train one member on the pairs by p3.eq1.

    start: the backbone, else the model that `settings.model` names. settings: MEMBER_SETTINGS.
    """
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    inputs = {"pairs": stored("token_pairs", rows), **backbone_input(settings, start)}
    return {
        "step": train_member,
        "settings": settings.pick(*MEMBER_SETTINGS, member=member),
        "inputs": inputs,
        "seed": seed,
    }


def backbone_input(settings: Section, start: Artifact | None) -> dict[str, Artifact]:
    """A step's input `model`: the artifact to start from, else the folder that `settings.model` names; none for a hub id."""
    if start is not None:
        return {"model": start}
    folder = find_model(settings.model)
    return {"model": artifacts.external(folder)} if folder else {}


def ensemble_training(
    pairs: Sequence[Pair],
    settings: Section,
    seed: int,
    start: Artifact | None = None,
    *,
    reference: Pool | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for an ensemble of `settings.members`; members are trained here.

    reference: the answers whose rewards say each member's mean and SD, best those of the policy that will be rewarded;
    without them those of the first REFERENCE_PAIRS pairs, which members have seen. settings: MEMBER_SETTINGS and
    `members`. Raises SettingsError if there are no members, DataError as `train_pairs` does.
    """
    if not pairs:
        raise DataError("no pairs to train on", where="ensemble", fix="look at the filters before it")
    if settings.members < 1:
        raise SettingsError(f"{settings.members} members", where="members", fix="1 or more, 2 or more for a variance")
    calls = [member_training(pairs, settings, seed, member, start) for member in range(settings.members)]
    trained = run_all(calls, workers)
    if reference is None:
        few = pairs[:REFERENCE_PAIRS]
        reference = [pair.prompt for pair in few], [(pair.chosen, pair.rejected) for pair in few]
    inputs = {f"member_{place}": each for place, each in enumerate(trained)}
    inputs |= {"reference": stored("pool", _rows(*reference)), **backbone_input(settings, start)}
    return {"step": ensemble, "settings": settings.pick("model", "max_tokens", "device", "members"), "inputs": inputs}


def train_member(job: Job) -> None:
    """Step: pairs of texts to one adapter with its head in PEFT's format, and history.json.

    The seed and the member's number together draw adapter, head and the order of the pairs.
    """
    rows, settings = json.loads(job.inputs["pairs"].path.read_text()), job.settings
    seed = int(np.random.SeedSequence([job.seed or 0, settings.member]).generate_state(1)[0])
    start = str(job.inputs["model"].path) if "model" in job.inputs else settings.model
    tokenizer, recompute = load_tokenizer(start), settings.gradient_checkpointing
    model = load_model(start, task="reward", device=settings.device, seed=seed, recompute=recompute)
    with threads(threads_for(model)):
        adapted = with_lora(model, settings, seed)
        unfrozen = settings.pick(*MEMBER_SETTINGS, trainable="all")  # of what the adapter left to learn
        history = train_on_tokens(adapted.get_base_model(), tokenizer, rows, unfrozen, seed)
    save_adapter(adapted, job.out, settings.model)
    (job.out / "history.json").write_text(json.dumps(asdict(history)))


def ensemble(job: Job) -> None:
    """Step: `member_0` … and a `reference` pool to member_0/ … and ensemble.json."""
    folders = [job.out / f"member_{place}" for place in range(job.settings.members)]
    for folder in folders:
        shutil.copytree(job.inputs[folder.name].path, folder, ignore=shutil.ignore_patterns(artifacts.MANIFEST))
    start = str(job.inputs["model"].path) if "model" in job.inputs else job.settings.model
    scorer = _scorer(start, folders, job.settings)
    prompts, answers = _read(job.inputs["reference"].path)
    with scorer.alone():
        found = scorer.text_scores(prompts, answers)
    described = {
        "backbone": job.inputs["model"].digest if "model" in job.inputs else start,
        "reference_answers": found.shape[1],
        "mean": found.mean(1).tolist(),
        "sd": found.std(1).tolist(),
    }
    (job.out / "ensemble.json").write_text(json.dumps(described, indent=1))


@dataclass(frozen=True)
class EnsembleScorer:
    """Every member's reward in one pass; scale: (k, 2) means and SDs that are taken off, None for raw rewards."""

    members: Members
    tokenizer: PreTrainedTokenizerBase
    limit: int
    scale: Tensor | None = None

    def alone(self) -> Any:
        """A context with the number of threads that serves the backbone best, for a step's results to be the same again."""
        return threads(threads_for(self.members.decoder))

    def scores(self, token_rows: Sequence[Sequence[int]], groups: Sequence[int] | None = None) -> Tensor:
        """Rewards (k, rows) on the CPU, the terms of p3.eq8; arguments, and what is raised, as in `Members.scores`."""
        found = self.members.scores(token_rows, self.limit, groups)
        return found if self.scale is None else (found - self.scale[:, :1]) / self.scale[:, 1:]

    def text_scores(self, prompts: Sequence[Turns], answers: Sequence[Sequence[str]]) -> np.ndarray:
        """Rewards (k, answers) in float64 of all answers, prompt after prompt; a prompt of many answers is read once.

        Raises DataError if the two lengths differ, and as `scores` does, with rows counted over all answers.
        """
        if len(prompts) != len(answers):
            raise DataError(
                f"{len(prompts)} prompts, answers to {len(answers)}", where="ensemble", fix="one list a prompt"
            )
        texts = [
            reward_text(self.tokenizer, turns, text)
            for turns, said in zip(prompts, answers, strict=True)
            for text in said
        ]
        groups = [place for place, said in enumerate(answers) for _ in said]
        rows = self.tokenizer(texts, truncation=False)["input_ids"] if texts else []
        return self.scores(rows, groups).double().numpy()


@dataclass(frozen=True)
class RewardEnsemble:
    """A trained ensemble. settings: max_tokens, device, and `calibrated`: whether members are put on one scale.

    Calibrated, each member's rewards have mean 0 and SD 1 over the ensemble's reference pool: without it the member with
    the widest rewards weighs most in a mean, and a variance tells scales apart as well as doubts.
    """

    artifact: Artifact
    settings: Section

    @property
    def described(self) -> dict[str, Any]:
        return json.loads((self.artifact / "ensemble.json").read_text())

    @property
    def histories(self) -> list[History]:
        files = [folder / "history.json" for folder in self.folders]
        return [History(**json.loads(file.read_text())) for file in files]

    @property
    def folders(self) -> list[Path]:
        return [self.artifact / f"member_{place}" for place in range(len(self.described["mean"]))]

    @property
    def scale(self) -> np.ndarray | None:
        """(k, 2), mean and SD of each member, or None if not calibrated; a member that tells nothing apart is named."""
        if not self.settings.calibrated:
            return None
        described = self.described
        for member, sd in enumerate(described["sd"]):
            mean = described["mean"][member]
            if not sd > LEAST_SPREAD * max(1.0, abs(mean)):
                what = f"all {described['reference_answers']} rewards are {mean:g}"
                fix = "look at its training record, give a reference pool of different answers, or set calibrated false"
                raise DataError(what, where=f"member {member}, reference pool", fix=fix)
        return np.array([described["mean"], described["sd"]]).T

    def member_rewards(self, prompts: Sequence[Turns], texts: Sequence[Sequence[str]]) -> np.ndarray:
        """Every member's reward of n answers to each prompt, (k, prompts, n), from the artifacts if scored before.

        Raises DataError naming a prompt with another number of answers, or a member that is constant where `calibrated`
        divides by its SD; else as `EnsembleScorer.scores` does.
        """
        counts = [len(said) for said in texts]
        if other := [place for place, count in enumerate(counts) if count != counts[0]]:
            what = f"{counts[other[0]]} answers, {counts[0]} to the first"
            raise DataError(what, where=f"prompt {other[0]}", fix="give every prompt as many answers")
        scale, made = self.scale, artifacts.run(**self.scoring(prompts, texts))
        found = np.array(json.loads((made / "rewards.json").read_text()))
        found = found.reshape(len(found), len(prompts), -1)
        return found if scale is None else (found - scale[:, 0, None, None]) / scale[:, 1, None, None]

    def scoring(self, prompts: Sequence[Turns], texts: Sequence[Sequence[str]]) -> dict[str, Any]:
        """What `artifacts.run`, or `run_all` with others, needs for `member_rewards`; the rewards kept are raw."""
        inputs = {"ensemble": self.artifact, "answers": stored("pool", _rows(prompts, texts))}
        return {"step": member_rewards, "settings": self.settings.pick("max_tokens", "device"), "inputs": inputs}

    def load(self) -> EnsembleScorer:
        """The ensemble in memory, for PPO. Raises as `member_rewards` does, and MissingInput if its backbone is gone."""
        scale = None if self.scale is None else torch.from_numpy(self.scale).float()
        return replace(self._raw(), scale=scale)

    def _raw(self) -> EnsembleScorer:
        return _kept(backbone(self.artifact), tuple(self.folders), self.settings.max_tokens, self.settings.device)


def member_rewards(job: Job) -> None:
    """Step: `ensemble` and `answers` (rows of [turns, texts]) to rewards.json, a list a member."""
    scorer = RewardEnsemble(job.inputs["ensemble"], job.settings.pick("max_tokens", "device", calibrated=False)).load()
    with scorer.alone():
        found = scorer.text_scores(*_read(job.inputs["answers"].path))
    (job.out / "rewards.json").write_text(json.dumps(found.tolist()))


def backbone(artifact: Artifact) -> str:
    """Folder or hub id of what an ensemble's adapters sit on. Raises MissingInput if the folder is gone."""
    manifest = artifact.manifest
    if "model" not in manifest["inputs"]:
        return manifest["settings"]["model"]
    folder = Path(manifest["from"]["model"]["path"])
    moved = runs_folder() / "artifacts" / folder.parent.name / folder.name  # the runs' folder may have been
    for each in (folder, moved):
        if each.is_dir():
            return str(each)
    raise MissingInput("the ensemble's backbone is gone", where=folder, fix="train the ensemble again")


@lru_cache(maxsize=1)
def _kept(start: str, folders: tuple[Path, ...], max_tokens: int, device: str) -> EnsembleScorer:
    """The last ensemble scored with stays in memory: a study scores many pools with one ensemble before the next."""
    return _scorer(start, folders, Section({"max_tokens": max_tokens, "device": device}))


def _scorer(start: str, folders: Sequence[Path], settings: Section) -> EnsembleScorer:
    """Raw rewards; a head that the backbone itself lacks is never read, for each adapter brings its own."""
    members = Members(load_model(start, task="reward", device=settings.device), folders)
    return EnsembleScorer(members, load_tokenizer(start), settings.max_tokens)


def _rows(prompts: Sequence[Turns], texts: Sequence[Sequence[str]]) -> list[list]:
    return [[list(map(list, turns)), list(said)] for turns, said in zip(prompts, texts, strict=True)]


def _read(file: Path) -> Pool:
    rows = json.loads(file.read_text())
    return [tuple(map(tuple, turns)) for turns, _ in rows], [said for _, said in rows]
