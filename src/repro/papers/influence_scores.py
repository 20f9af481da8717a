"""Every way to score a sample's influence in one pass over the gradients, and scores that know nothing of it.

A gradient is taken once and used by all; nothing of a sample is kept but its scores. `gradients.influence` scores in
one way, and is what the chapters on UGDA use; a test holds the two together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from safetensors.torch import save_file
from torch import Tensor

from repro.core.artifacts import Job
from repro.core.progress import progress
from repro.gradients.checkpoints import Checkpoint
from repro.gradients.directions import DIRECTIONS, directions
from repro.gradients.losses import answer_losses
from repro.gradients.per_example import per_example_gradients
from repro.gradients.projection import Projection
from repro.models.load import threads, threads_for
from repro.models.logprobs import Tree
from repro.objectives.influence import cosines
from repro.papers.influence_truth import mean_gradients, opened, points

PRINTED, INNER, LESS = "as printed", "SGD, inner product", "LESS"
WAYS = {  # a way's direction (gradients.directions) and average (objectives.influence)
    "SGD, cosine": ("sgd", "gradients"),
    PRINTED: ("printed", "gradients"),
    "Adam as torch takes it": ("adam", "gradients"),
    "printed, mean of cosines": ("printed", "cosines"),
    LESS: ("less", "cosines"),
}
STILL = "Adam without momentum"  # the printed direction with the first moment set to 0
RANDOM, NORM = "random direction", "gradient norm"
LAST = "last checkpoint"  # cosines of the printed way there, exact and projected
SCORE_SETTINGS = ("dimensions", "projections", "max_tokens", "device")
SCORES = "scores.safetensors"
BATCH = 64  # samples: memory and speed


Directions = Mapping[str, Tensor]  # of some samples, by variant of gradients.directions and STILL: (samples, weights)


def score(job: Job) -> None:
    """Step: `run` of `influence_truth.tune`, its `base` and `texts`, to scores.safetensors: way -> (samples, subtasks)
    summed over checkpoints (p3.eq5, p3.eq11); LAST, and "LAST.<dimension>.<draw>" there, the printed way's."""
    bench, settings = opened(job), job.settings
    found: dict[str, Tensor] = {}
    with threads(threads_for(bench.model)):
        for point in points(bench.model, job.inputs["run"]):
            means = [mean_gradients(point, rows) for rows in bench.subtasks.values()]
            plain, scaled = (torch.stack(each) for each in zip(*means, strict=True))
            for name, rows in _scored(point, bench.samples, _ways(plain, scaled, job.seed or 0)).items():
                found[name] = found.get(name, 0.0) + point.rate * rows
        at_last = _projections(plain, settings.dimensions, settings.projections)
        found |= _scored(point, bench.samples, {LAST: lambda each: cosines(each["printed"], plain), **at_last})
    save_file({name: rows.contiguous() for name, rows in found.items()}, job.out / SCORES)


def _ways(plain: Tensor, scaled: Tensor, seed: int) -> dict[str, Callable[[Directions], Tensor]]:
    """Every way's score at one checkpoint; plain, scaled: the subtasks' mean gradients, (subtasks, weights)."""
    random = torch.randn(plain.shape, generator=torch.Generator().manual_seed(seed + 1_000_003)).to(plain)

    def cosine(variant: str, average: str) -> Callable[[Directions], Tensor]:
        if average == "gradients":
            return lambda each: cosines(each[variant], plain)
        return lambda each: cosines(each[variant], scaled) * scaled.norm(dim=1)  # a mean of cosines

    ways: dict[str, Callable[[Directions], Tensor]] = {INNER: lambda each: each["sgd"] @ plain.T}
    ways |= {name: cosine(*way) for name, way in WAYS.items()} | {STILL: cosine(STILL, "gradients")}
    ways[RANDOM] = lambda each: cosines(each["sgd"], random)
    ways[NORM] = lambda each: each["sgd"].norm(dim=1, keepdim=True).expand(-1, len(plain))
    return ways


def _projections(plain: Tensor, dimensions: Sequence[int], draws: int) -> dict[str, Callable[[Directions], Tensor]]:
    """Scores of projected directions with projected mean gradients, "LAST.<dimension>.<draw>" (p3.eq11)."""
    found: dict[str, Callable[[Directions], Tensor]] = {}
    for draw in range(draws):
        for dimension in dimensions:
            projection = Projection(dimension, draw)
            found[f"{LAST}.{dimension}.{draw}"] = lambda each, projection=projection: cosines(
                projection.project(each["printed"]), projection.project(plain)
            )
    return found


def _scored(
    point: Checkpoint, samples: list[Tree], ways: Mapping[str, Callable[[Directions], Tensor]]
) -> dict[str, Tensor]:
    """Each way's scores at a checkpoint, (samples, subtasks) float64, BATCH samples at a time."""
    found: dict[str, list[Tensor]] = {name: [] for name in ways}
    still = replace(point, moments=replace(point.moments, first=torch.zeros_like(point.moments.first)))
    for start in progress(range(0, len(samples), BATCH), label=f"influence at {point.name}"):
        gradients = per_example_gradients(point.model, answer_losses, samples[start : start + BATCH])
        each = {variant: directions(gradients, point.moments, variant) for variant in DIRECTIONS}
        each[STILL] = directions(gradients, still.moments, "printed")
        for name, way in ways.items():
            found[name].append(way(each).double().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}
