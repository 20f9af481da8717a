"""Direct preference optimisation: a policy trained on pairs against a reference that stays as it is (p2.eq5).

What the reference thinks of the answers does not change while the policy learns, so it is computed once a data set, as
an artifact, and never stands in memory beside the policy.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError
from repro.core.settings import Section
from repro.data.schema import Pair, Turns
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import LOGPROB_SETTINGS, encode_answers, encoded_logprobs, half, logprobs_of, read_logprobs
from repro.objectives.dpo import dpo_loss, implicit_reward
from repro.train.loop import OPTIMISER_SETTINGS, Record, train_pairs

DPO_SETTINGS = ("beta", "gradient_checkpointing", *LOGPROB_SETTINGS, *OPTIMISER_SETTINGS)


def dpo_training(
    pairs: Sequence[Pair], settings: Section, seed: int, *, policy: Artifact, reference: Artifact
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs to train `policy` on the pairs against `reference` (p2.eq5).

    The reference's log-probabilities of the answers are found or computed here. settings: DPO_SETTINGS. Raises DataError
    if there are no pairs, or naming how many and the first if two answers are equal, one is empty, or one is longer
    than the context.
    """
    _check(pairs)
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    answers = [(pair.chosen, pair.rejected) for pair in pairs]
    known = artifacts.run(**logprobs_of(reference, [pair.prompt for pair in pairs], answers, settings))
    inputs = {"policy": policy, "pairs": stored("token_pairs", rows), "reference": known}
    return {"step": dpo, "settings": settings.pick(*DPO_SETTINGS), "inputs": inputs, "seed": seed}


def _check(pairs: Sequence[Pair]) -> None:
    if not pairs:
        raise DataError("no pairs to train on", where="DPO", fix="look at the filters before it")
    wrong = {
        "with two equal answers": [place for place, pair in enumerate(pairs) if pair.chosen == pair.rejected],
        "with an empty answer": [
            place for place, pair in enumerate(pairs) if not (pair.chosen.strip() and pair.rejected.strip())
        ],
    }
    for what, places in wrong.items():
        if places:
            asked = pairs[places[0]].prompt[-1][1][:60] if pairs[places[0]].prompt else ""
            where = f"DPO, pair {places[0]}, {asked!r}"
            raise DataError(f"{len(places)} of {len(pairs)} pairs {what}", where=where, fix="drop them before training")


def dpo(job: Job) -> None:
    """Step: `policy` (a folder), `pairs` (rows of texts) and `reference` (log-probabilities) to a folder like policy's.

    history.json beside the weights: "pairs", and of every step the lists that `train_dpo` returns.
    """
    folder, settings = str(job.inputs["policy"].path), job.settings
    rows = [(tuple(map(tuple, turns)), *said) for turns, *said in json.loads(job.inputs["pairs"].path.read_text())]
    recompute = settings.gradient_checkpointing
    model = load_model(folder, task="language", device=settings.device, recompute=recompute)
    tokenizer = load_tokenizer(folder)
    with threads(threads_for(model)):
        record = train_dpo(model, tokenizer, rows, read_logprobs(job.inputs["reference"]), settings, job.seed or 0)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    (job.out / "history.json").write_text(json.dumps({"pairs": len(rows), **record}))


def train_dpo(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[Turns, str, str]],
    reference: Sequence[np.ndarray],
    settings: Section,
    seed: int,
) -> Record:
    """Train the model in place on (prompt, chosen, rejected) rows; the record of every step, each figure over its pairs.

    reference: (2,) a row, log-probabilities of chosen and rejected. Record: loss in nats, gradient_norm before clipping,
    learning_rate, margin (implicit reward of chosen less rejected), accuracy (share of margins above 0, ties half),
    chosen_logprob and rejected_logprob in nats. settings: DPO_SETTINGS. Raises as `encode_answers` and `train_pairs` do.
    """
    if len(reference) != len(rows):
        fix = "compute the reference on these pairs"
        raise DataError(f"{len(rows)} pairs, reference of {len(reference)}", where="DPO", fix=fix)
    prompts, answers = [turns for turns, *_ in rows], [said for _, *said in rows]
    encoded = encode_answers(model, tokenizer, prompts, answers, limit=settings.max_tokens)
    fixed = torch.from_numpy(np.stack(reference))

    def objective(batch: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        with half(model, settings.precision):
            policy = torch.stack(encoded_logprobs(model, [encoded[place] for place in batch.tolist()]))
        sides = (*policy.T, *fixed[batch].T)
        return dpo_loss(*sides, settings.beta), _figures(*(side.detach() for side in sides), settings.beta)

    return train_pairs(model, objective, torch.arange(len(rows)), settings, seed=seed)


def _figures(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> dict[str, float]:
    """Means over the pairs of what the loss is made of."""
    margin = implicit_reward(chosen, reference_chosen, beta) - implicit_reward(rejected, reference_rejected, beta)
    return {
        "margin": margin.mean().item(),
        "accuracy": ((margin > 0).double() + 0.5 * (margin == 0)).mean().item(),
        "chosen_logprob": chosen.mean().item(),
        "rejected_logprob": rejected.mean().item(),
    }
