"""The step that scores texts: a run's checkpoints, its samples and the validation subtasks to scores on disk."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core.artifacts import Artifact, Job
from repro.core.settings import Section
from repro.gradients.checkpoints import checkpoint_folders, checkpoints
from repro.gradients.influence import Influence, Scoring, influence_scores
from repro.gradients.losses import answer_losses, encode_samples
from repro.models.features import stored
from repro.models.generation import Turns
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import Tree

INFLUENCE_SETTINGS = ("influence_direction", "influence_average", "influence_dimensions", "influence_normalise")
INFLUENCE_SETTINGS += ("max_tokens", "device")
SCORES, ABOUT = "scores.safetensors", "influence.json"
Texts = Sequence[tuple[Turns, str]]  # prompts and answers


def influence_scoring(
    samples: Texts, subtasks: Mapping[str, Texts], settings: Section, seed: int, *, base: Artifact, run: Artifact
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for the samples' influence on the subtasks (p3.eq11).

    base: the policy that the run started from; run: an artifact with checkpoints/<step>/ as `gradients.checkpoints`
    reads them; settings: INFLUENCE_SETTINGS; seed: the projections'. Raises as `influence_scores` does when it runs.
    """
    rows = {name: [[list(map(list, turns)), text] for turns, text in texts] for name, texts in subtasks.items()}
    own = [[list(map(list, turns)), text] for turns, text in samples]
    inputs = {"base": base, "run": run, "texts": stored("influence", {"samples": own, "subtasks": rows})}
    return {"step": influence, "settings": settings.pick(*INFLUENCE_SETTINGS), "inputs": inputs, "seed": seed}


def read_influence(artifact: Artifact) -> Influence:
    """The scores of `influence_scoring`."""
    about = json.loads((artifact / ABOUT).read_text())
    found = load_file(artifact / SCORES)
    zero = {int(place): tuple(names) for place, names in about["zero"].items()}
    return Influence({int(name): scores for name, scores in found.items()}, tuple(about["subtasks"]), zero)


def influence(job: Job) -> None:
    """Step: `base`, `run` and `texts` to scores.safetensors ("<dimension>": (samples, subtasks)) and influence.json."""
    settings, folder = job.settings, str(job.inputs["base"].path)
    texts = json.loads(job.inputs["texts"].path.read_text())
    model, tokenizer = load_model(folder, task="language", device=settings.device), load_tokenizer(folder)
    samples = _encode(model, tokenizer, texts["samples"], settings.max_tokens)
    subtasks = {name: _encode(model, tokenizer, rows, settings.max_tokens) for name, rows in texts["subtasks"].items()}
    scoring = Scoring(
        direction=settings.influence_direction,
        average=settings.influence_average,
        dimensions=tuple(settings.influence_dimensions),
        seed=job.seed or 0,
        normalise=settings.influence_normalise,
    )
    with threads(threads_for(model)):
        found = influence_scores(
            checkpoints(model, checkpoint_folders(Path(job.inputs["run"] / "checkpoints"))),
            samples,
            subtasks,
            answer_losses,
            scoring,
        )
    save_file({str(d): scores.contiguous() for d, scores in found.scores.items()}, job.out / SCORES)
    about = {"subtasks": found.subtasks, "zero": found.zero}
    (job.out / ABOUT).write_text(json.dumps(about))


def _encode(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Sequence[Any]], limit: int
) -> list[Tree]:
    prompts = [tuple(map(tuple, turns)) for turns, _ in rows]
    return encode_samples(model, tokenizer, prompts, [text for _, text in rows], limit=limit)
