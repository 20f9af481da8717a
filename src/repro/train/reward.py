"""Reward models on human preferences: a head on cached features of a frozen encoder, trained by Bradley-Terry.

Encode a study's texts once (`encode_pairs`), then train on any part of its pairs: folds, shuffled labels, balanced
lengths and seeds all read the same features, and a head trains in seconds.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import Tensor

from repro.core import artifacts
from repro.core.artifacts import Job
from repro.core.errors import DataError
from repro.core.settings import Section
from repro.data.schema import Pair, Turns
from repro.models.features import FeatureTable, feature_table, stored
from repro.models.heads import HeadConfig, RewardHead, load_head, save_head
from repro.models.load import threads
from repro.train.loop import OPTIMISER_SETTINGS, History, train_bradley_terry
from repro.train.pairs import prompt_folds

HEAD_SETTINGS = ("head", "hidden", "dropout", "l2", "validation_folds", *OPTIMISER_SETTINGS)


@dataclass(frozen=True)
class EncodedTexts:
    """Features of a study's answers, and of its prompts if the head reads them."""

    answers: FeatureTable
    prompts: FeatureTable | None


@dataclass(frozen=True)
class RewardModel:
    """A trained head and the record of its training."""

    head: RewardHead
    history: History

    def score(self, prompts: Sequence[Turns], answers: Sequence[str], encoded: EncodedTexts) -> np.ndarray:
        """Rewards (answers,) in float64 of each answer to the prompt in the same place.

        Raises DataError if the two lengths differ, a text was not encoded, or the head reads prompts and none were.
        """
        if len(prompts) != len(answers):
            raise DataError(f"{len(prompts)} prompts, {len(answers)} answers", where="score", fix="repeat each prompt")
        asked = None
        if self.head.reads_prompt and encoded.prompts is not None:
            asked = torch.from_numpy(encoded.prompts.rows([conversation_text(turns) for turns in prompts]))
        with torch.inference_mode():
            return self.head(torch.from_numpy(encoded.answers.rows(answers)), asked).double().numpy()


def conversation_text(turns: Turns) -> str:
    """A conversation as one text, `role: text` a turn."""
    return "\n\n".join(f"{role}: {text}" for role, text in turns)


def encode_conversations(prompts: Sequence[Turns], answers: Sequence[str], settings: Section) -> EncodedTexts:
    """Features of answers and prompts, encoded apart: a prompt once for all its answers, and only if the head reads it.

    settings: those of `feature_table` for answers; prompts are cut to `prompt_tokens`; `head` decides.
    """
    if settings.head == "linear":
        return EncodedTexts(feature_table(answers, settings), None)
    for_prompts = settings.renamed(max_tokens="prompt_tokens")
    texts = [conversation_text(turns) for turns in prompts]
    return EncodedTexts(feature_table(answers, settings), feature_table(texts, for_prompts))


def encode_pairs(pairs: Sequence[Pair], settings: Section) -> EncodedTexts:
    """Features of every answer and prompt of the pairs, as `encode_conversations`."""
    answers = list(chain.from_iterable((pair.chosen, pair.rejected) for pair in pairs))
    return encode_conversations([pair.prompt for pair in pairs], answers, settings)


def reward_model(pairs: Sequence[Pair], encoded: EncodedTexts, settings: Section, seed: int) -> RewardModel:
    """The reward model trained on the pairs, or the one kept from an equal call.

    settings: HEAD_SETTINGS; `l2` lists ridge penalties, of which the one with the lowest loss on validation prompts
    (one of `validation_folds` parts, drawn by seed) is kept. Raises DataError for too few prompts or a loss that is
    not finite.
    """
    places = {
        "chosen": encoded.answers.places([pair.chosen for pair in pairs]),
        "rejected": encoded.answers.places([pair.rejected for pair in pairs]),
        "prompt_id": [pair.prompt_id for pair in pairs],
    }
    inputs = {"answers": encoded.answers.artifact}
    if settings.head != "linear" and encoded.prompts is not None:
        places["prompt"] = encoded.prompts.places([conversation_text(pair.prompt) for pair in pairs])
        inputs["prompts"] = encoded.prompts.artifact
    inputs["pairs"] = stored("pairs", places)
    artifact = artifacts.run(fit_head, settings=settings.pick(*HEAD_SETTINGS), inputs=inputs, seed=seed)
    return RewardModel(load_head(artifact.path), History(**json.loads((artifact / "history.json").read_text())))


def fit_head(job: Job) -> None:
    """Step: pairs by their places in feature files to head.safetensors, head.json and history.json."""
    places = json.loads(job.inputs["pairs"].path.read_text())
    answers = load_file(job.inputs["answers"] / "features.safetensors")["values"]
    asked = None
    if "prompts" in job.inputs:
        prompts = load_file(job.inputs["prompts"] / "features.safetensors")["values"]
        asked = torch.from_numpy(prompts[places["prompt"]])
    chosen, rejected = (torch.from_numpy(answers[places[side]]) for side in ("chosen", "rejected"))
    with threads(1):  # a head's products are too small to share out
        head, history = train_head(chosen, rejected, places["prompt_id"], job.settings, job.seed or 0, prompts=asked)
    save_head(head, job.out)
    (job.out / "history.json").write_text(json.dumps(asdict(history)))


def train_head(
    chosen: Tensor,
    rejected: Tensor,
    prompt_ids: Sequence[str],
    settings: Section,
    seed: int,
    *,
    prompts: Tensor | None = None,
) -> tuple[RewardHead, History]:
    """A head trained on features of chosen and rejected answers, (pairs, width) each, and its history.

    Validation prompts choose the epoch and the ridge penalty. Raises DataError as `reward_model` does.
    """
    folds = prompt_folds(prompt_ids, settings.validation_folds, seed)
    training, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (folds != 0, folds == 0))
    best: tuple[RewardHead, History] | None = None
    for l2 in settings.l2:
        head = _new_head(chosen, rejected, prompts, training, settings, seed)

        def scores(batch: Tensor, head: RewardHead = head) -> tuple[Tensor, Tensor]:
            asked = None if prompts is None else prompts[batch]
            return head(chosen[batch], asked), head(rejected[batch], asked)

        history = train_bradley_terry(head, scores, training, validation, settings, seed=seed, l2=l2)
        if best is None or min(history.validation_loss) < min(best[1].validation_loss):
            best = head, history
    return best


def _new_head(
    chosen: Tensor, rejected: Tensor, prompts: Tensor | None, training: Tensor, settings: Section, seed: int
) -> RewardHead:
    """A head whose weights are drawn from the seed and whose scale is that of the training pairs' answers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = RewardHead(HeadConfig(settings.head, chosen.shape[1], settings.hidden, settings.dropout))
    both = torch.cat([chosen[training], rejected[training]])
    head.fit_scale(both, None if prompts is None else prompts[training].repeat(2, 1))
    return head
