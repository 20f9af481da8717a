"""Instruction difficulty, recovered by inverting the published length-control regression.

The regression of Dubois et al. 2024 (arXiv 2404.04475) says, at equal lengths,
    logit P(model wins) = w_difficulty * difficulty + w_constant.
The annotations of vicuna-13b-v1.5 carry that probability (glm_preference) for every instruction and the weights are
published, so the difficulty, itself published only on the hub, follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from repro.core.errors import DataError
from repro.data.alpaca_eval import Annotation, Weights


def recovered_difficulty(annotations: Sequence[Annotation], weights: Weights) -> tuple[float, ...]:
    """(logit(glm_preference) - w_constant) / w_difficulty of each instruction, by its index.

    annotations: one for each of 0..n-1. Raises DataError if an index is missing or repeated, a glm_preference is
    absent or not strictly between 0 and 1, or the difficulty's weight is 0.
    """
    where, fix = "recovered difficulty", "use vicuna-13b-v1.5's whole annotations"
    ordered = sorted(annotations, key=lambda each: each.index)
    if not ordered or [each.index for each in ordered] != list(range(len(ordered))):
        raise DataError("annotations do not cover each instruction once", where=where, fix=fix)
    if weights.difficulty == 0:
        raise DataError("the weight of the difficulty is 0", where=where, fix=fix)
    recovered = []
    for each in ordered:
        share = each.glm_preference
        if share is None or not 0 < share < 1:
            raise DataError(f"row {each.index} has glm_preference {share}", where=where, fix=fix)
        logit = math.log(share) - math.log1p(-share)
        recovered.append((logit - weights.constant) / weights.difficulty)
    return tuple(recovered)


def as_csv(values: Sequence[float]) -> str:
    """The csv the data folder holds: index and difficulty with 10 decimals, as many as the inputs carry."""
    lines = [f"{index},{value:.10f}" for index, value in enumerate(values)]
    return "\n".join(["index,instruction_difficulty", *lines]) + "\n"
