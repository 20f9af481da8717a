"""Influence scores of any number of samples in one pass a checkpoint, with nothing kept of a sample but its scores.

A score is a product with one vector a subtask and checkpoint (objectives.influence.reference), so the validation
gradients are brought down to that vector first, and a sample's direction is used once and forgotten. LESS's code
projects and stores every sample's direction instead; here a projection is a choice, and exact scores need none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from repro.core.errors import DataError, SettingsError
from repro.core.progress import progress
from repro.gradients.checkpoints import Checkpoint
from repro.gradients.directions import DIRECTIONS, directions
from repro.gradients.per_example import Losses, per_example_gradients
from repro.gradients.projection import Projection
from repro.objectives.influence import AVERAGES, units

EXACT = 0  # the "dimension" of scores without projection
PROJECTED_TOGETHER = 4  # batches: drawing the signs costs as much as a product with a hundred rows of them


@dataclass(frozen=True)
class Scoring:
    """How influence is scored.

    direction: `sgd` or one of `directions.VARIANTS`; average: `gradients` (p3.eq10 as printed) or `cosines` (LESS);
    dimensions: of the projections, EXACT for none, all from one pass; seed: the projections'; normalise: rates divided
    by their sum, as LESS does; batch_size: samples at a time, which changes memory and speed only.
    """

    direction: str = "printed"
    average: str = "gradients"
    dimensions: tuple[int, ...] = (EXACT,)
    seed: int = 0
    normalise: bool = False
    batch_size: int = 64


@dataclass(frozen=True)
class Influence:
    """Scores (samples, subtasks) float64 by dimension; the subtasks' names; samples without a gradient, each with the
    checkpoints at which it has none: its cosine is undefined there and counts 0."""

    scores: Mapping[int, Tensor]
    subtasks: tuple[str, ...]
    zero: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


def influence_scores(
    checkpoints: Iterable[Checkpoint],
    samples: Sequence[Any],
    subtasks: Mapping[str, Sequence[Any]],
    losses: Losses,
    scoring: Scoring,
    validation_losses: Losses | None = None,
) -> Influence:
    """INF_Adam of every sample on every validation subtask (p3.eq10, p3.eq11).

    checkpoints: read one at a time; samples, and each subtask's samples: what `losses` takes, or for the subtasks
    `validation_losses` if given. Validation gradients are always plain ones. Raises DataError if there are no
    checkpoints, samples or subtasks, a subtask is empty (named), its mean gradient is zero, or a gradient is not finite
    (its sample named); SettingsError for an unknown average, direction or dimension.
    """
    _check(samples, subtasks, scoring)
    order = sorted(range(len(samples)), key=lambda place: _length(samples[place]))  # like lengths: little padding
    size = scoring.batch_size * (PROJECTED_TOGETHER if max(scoring.dimensions) > EXACT else 1)
    scores = {d: torch.zeros(len(samples), len(subtasks), dtype=torch.float64) for d in scoring.dimensions}
    zero: dict[int, tuple[str, ...]] = {}
    total = 0.0
    for point in checkpoints:
        total += point.rate
        references = _references(point, subtasks, validation_losses or losses, scoring)
        for start in progress(range(0, len(order), size), label=f"influence at {point.name}"):
            batch = order[start : start + size]
            gradients = _gradients(point, losses, samples, batch, scoring.batch_size)
            empty = (gradients == 0).all(1).cpu()
            zero |= {batch[row]: (*zero.get(batch[row], ()), point.name) for row in empty.nonzero().flatten().tolist()}
            for d, rows in _features(directions(gradients, point.moments, scoring.direction), scoring).items():
                scores[d][batch] += point.rate * _cosines(rows, references[d]).masked_fill(empty[:, None], 0.0)
    if not total > 0:
        raise DataError("no checkpoints, or all of rate 0", where="influence", fix="give at least one that was trained")
    scale = total if scoring.normalise else 1.0
    return Influence({d: each / scale for d, each in scores.items()}, tuple(subtasks), dict(sorted(zero.items())))


def _check(samples: Sequence[Any], subtasks: Mapping[str, Sequence[Any]], scoring: Scoring) -> None:
    for what, value, known in (("average", scoring.average, AVERAGES), ("direction", scoring.direction, DIRECTIONS)):
        if value not in known:
            raise SettingsError(f"unknown value {value!r}", where=what, fix=f"choose from {', '.join(known)}")
    if not scoring.dimensions or min(scoring.dimensions) < EXACT:
        fix = f"at least one number, {EXACT} for scores without projection"
        raise SettingsError(f"{scoring.dimensions}", where="dimensions", fix=fix)
    if not samples or not subtasks:
        what = "no samples" if not samples else "no validation subtask"
        raise DataError(what, where="influence", fix="look at the selection before it")
    if empty := [name for name, rows in subtasks.items() if not len(rows)]:
        fix = "give it at least one sample, or leave the subtask out"
        raise DataError("the validation subtask is empty", where=f"subtask {empty[0]}", fix=fix)


def _length(sample: Any) -> int:
    """Tokens of a sample, whatever tensors it is made of; 0 if it holds none."""
    if isinstance(sample, Tensor):
        return sample.numel()
    return sum(map(_length, sample)) if isinstance(sample, tuple) else 0


def _gradients(
    point: Checkpoint, losses: Losses, rows: Sequence[Any], places: Sequence[int], size: int, of: str = ""
) -> Tensor:
    """Gradients of the rows at these places, `size` at a time; an error names a row by its place among all of them."""
    found = []
    for start in range(0, len(places), size):
        batch = places[start : start + size]
        try:
            found.append(per_example_gradients(point.model, losses, [rows[place] for place in batch]))
        except DataError as error:
            row = str(error.where).removeprefix("sample ")
            if not row.isdigit():
                raise
            where = f"{of}sample {batch[int(row)]}, checkpoint {point.name}"
            raise DataError(error.what, where=where, fix=error.fix) from error
    return torch.cat(found)


def _references(
    point: Checkpoint, subtasks: Mapping[str, Sequence[Any]], losses: Losses, scoring: Scoring
) -> dict[int, Tensor]:
    """By dimension (subtasks, dimension): the vectors whose product with a unit direction is a score."""
    means_of = [_means(point, name, rows, losses, scoring) for name, rows in subtasks.items()]
    dtype = torch.promote_types(next(point.model.parameters()).dtype, torch.float32)
    if scoring.average == "cosines":
        means = {d: torch.stack([each[d] for each in means_of]).to(dtype) for d in scoring.dimensions}
    else:  # projected when they are whole
        found = _features(torch.stack([each[EXACT] for each in means_of]).to(dtype), scoring)
        means = {d: units(each) for d, each in found.items()}
    for name, whole in zip(subtasks, zip(*means.values(), strict=True), strict=True):
        if not all(bool(each.any()) for each in whole):
            where, fix = f"subtask {name}, checkpoint {point.name}", "look at its samples: their gradients cancel"
            raise DataError("the mean validation gradient is zero", where=where, fix=fix)
    return means


def _means(point: Checkpoint, name: str, rows: Sequence[Any], losses: Losses, scoring: Scoring) -> dict[int, Tensor]:
    """Mean over a subtask, in float64: of its gradients, or by dimension of its gradients scaled to length 1."""
    sums: dict[int, Tensor] = {}
    for start in range(0, len(rows), scoring.batch_size):
        places = range(start, min(start + scoring.batch_size, len(rows)))
        gradients = _gradients(point, losses, rows, places, scoring.batch_size, f"subtask {name}, ")
        if scoring.average == "cosines":
            parts = {d: units(each) for d, each in _features(gradients, scoring).items()}
        else:
            parts = {EXACT: gradients}
        sums = {d: part.double().sum(0) / len(rows) + sums.get(d, 0.0) for d, part in parts.items()}
    return sums


def _features(rows: Tensor, scoring: Scoring) -> dict[int, Tensor]:
    """Rows as they are and in every dimension asked for: the first columns of the largest projection."""
    largest = max(scoring.dimensions)
    projected = Projection(largest, scoring.seed).project(rows) if largest > EXACT else rows
    return {d: rows if d == EXACT else projected[:, :d] for d in scoring.dimensions}


def _cosines(rows: Tensor, references: Tensor) -> Tensor:
    """Products of unit rows with the references, (rows, references), float64 on the CPU."""
    lengths = rows.norm(dim=1, keepdim=True)
    return ((rows @ references.T) / lengths.masked_fill(lengths == 0, 1.0)).double().cpu()
