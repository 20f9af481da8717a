"""Reward models trained through their tokens: the whole model or its last layers, for tiers that can afford it (p2).

The conversation goes through the model's own chat template, is cut from the left, and the last token's hidden state
becomes the reward. The optimiser keeps fp32 weights; `bf16` computes in half the width around them, for at a learning
rate of 2e-6 an update is smaller than bf16 can add to a weight.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain
from os.path import commonprefix
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair, Turns
from repro.models.features import stored
from repro.models.load import find_model, load_model, load_tokenizer, threads, threads_for
from repro.models.scoring import score, score_texts
from repro.train.loop import OPTIMISER_SETTINGS, History, PairScores, train_bradley_terry
from repro.train.reward import conversation_text

TOKEN_SETTINGS = ("model", "max_tokens", "precision", "device", "trainable", "gradient_checkpointing", *OPTIMISER_SETTINGS)


def finetuned_reward_model(
    pairs: Sequence[Pair], settings: Section, seed: int, base: Artifact | None = None
) -> Artifact:
    """A folder that `load_model(folder, task="reward")` and `load_tokenizer` read, trained on the pairs by p2.eq4.

    base: the artifact to start from, in place of the model that `settings.model` names. settings: TOKEN_SETTINGS; `trainable` is "all" or the number of last layers that learn beside the head. Raises
    SettingsError for any other `trainable`, and as `load_model` and `train_bradley_terry` do.
    """
    return artifacts.run(**finetuning(pairs, settings, seed, base))


def finetuning(pairs: Sequence[Pair], settings: Section, seed: int, base: Artifact | None = None) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for `finetuned_reward_model`."""
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    inputs = {"pairs": stored("token_pairs", rows)}
    if base is not None:
        inputs["model"] = base
    elif folder := find_model(settings.model):
        inputs["model"] = artifacts.external(folder)
    return {"step": finetune, "settings": settings.pick(*TOKEN_SETTINGS), "inputs": inputs, "seed": seed}


@dataclass(frozen=True)
class TokenRewardModel:
    """A reward model trained through its tokens; scores like a head does, but reads the texts themselves."""

    artifact: Artifact
    settings: Section

    @property
    def history(self) -> History:
        return History(**json.loads((self.artifact / "history.json").read_text()))

    def pool_rewards(self, prompts: Sequence[Turns], answers: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """The rewards of several answers to each prompt, from the artifacts if they were scored before: a row a prompt.

        Raises as `score` does.
        """
        found = artifacts.run(**self.scoring(prompts, answers))
        return [np.array(row) for row in json.loads((found / "rewards.json").read_text())]

    def scoring(self, prompts: Sequence[Turns], answers: Sequence[Sequence[str]]) -> dict[str, Any]:
        """What `artifacts.run`, or `run_all` with others, needs for `pool_rewards`."""
        rows = [[list(map(list, turns)), list(texts)] for turns, texts in zip(prompts, answers, strict=True)]
        inputs = {"model": self.artifact, "answers": stored("pool", rows)}
        return {"step": rewards, "settings": self.settings.pick("max_tokens", "device"), "inputs": inputs}

    def score(self, prompts: Sequence[Turns], answers: Sequence[str], encoded: object = None) -> np.ndarray:
        """Rewards (answers,) in float64 of each answer to the prompt in the same place; a prompt is read once.

        `encoded` is not used: it is where a head finds its features. Raises DataError as `models.scoring.score` does.
        """
        model, tokenizer = _loaded(str(self.artifact.path), self.settings.device)
        if len(answers) < 4 * len(set(prompts)):  # too few share a prompt for its encoding to be worth a call
            texts = [reward_text(tokenizer, *pair) for pair in zip(prompts, answers, strict=True)]
            return score_texts(model, tokenizer, texts, limit=self.settings.max_tokens).double().numpy()
        rewards = np.empty(len(answers))
        for turns, places in _by_prompt(prompts).items():
            whole = [reward_text(tokenizer, turns, answers[place]) for place in places]
            start = commonprefix([reward_text(tokenizer, turns, word) for word in ("a", "b")])
            found = score(
                model, tokenizer, [start], [[text[len(start) :] for text in whole]], limit=self.settings.max_tokens
            )
            rewards[places] = found.rewards[0].double().numpy()
        return rewards


def _by_prompt(prompts: Sequence[Turns]) -> dict[Turns, list[int]]:
    places: dict[Turns, list[int]] = {}
    for place, turns in enumerate(prompts):
        places.setdefault(turns, []).append(place)
    return places


def rewards(job: Job) -> None:
    """Step: `model` and `answers` (rows of [turns, texts]) to rewards.json, one list a row."""
    rows = [(tuple(map(tuple, turns)), texts) for turns, texts in json.loads(job.inputs["answers"].path.read_text())]
    model = TokenRewardModel(job.inputs["model"], job.settings)
    prompts, texts = [turns for turns, said in rows for _ in said], [text for _, said in rows for text in said]
    with threads(threads_for(_loaded(str(model.artifact.path), job.settings.device)[0])):
        found = iter(model.score(prompts, texts).tolist())
    (job.out / "rewards.json").write_text(json.dumps([[next(found) for _ in said] for _, said in rows]))


@lru_cache(maxsize=1)
def _loaded(folder: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The last model scored with stays in memory: a study scores many sets with one model before the next."""
    return load_model(folder, task="reward", device=device), load_tokenizer(folder)


def finetune(job: Job) -> None:
    """Step: pairs of texts to a saved sequence classifier, its tokenizer and history.json."""
    rows, settings, seed = json.loads(job.inputs["pairs"].path.read_text()), job.settings, job.seed or 0
    start = str(job.inputs["model"].path) if "model" in job.inputs else settings.model
    tokenizer = load_tokenizer(start)
    recompute = settings.gradient_checkpointing
    model = load_model(start, task="reward", device=settings.device, seed=seed, recompute=recompute)
    with threads(threads_for(model)):
        history = train_on_tokens(model, tokenizer, rows, settings, seed)
    model.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    (job.out / "history.json").write_text(json.dumps(asdict(history)))


def train_on_tokens(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[tuple[Turns, str, str]],
    settings: Section,
    seed: int,
) -> History:
    """Train the model in place on (prompt, chosen, rejected) rows and return the record of every step."""
    model.config.pad_token_id = tokenizer.pad_token_id
    freeze(model, settings.trainable)
    texts = chain.from_iterable(
        (reward_text(tokenizer, prompt, chosen), reward_text(tokenizer, prompt, rejected))
        for prompt, chosen, rejected in rows
    )
    ids = tokenizer(list(texts), truncation=True, max_length=settings.max_tokens)["input_ids"]
    scores = _pair_scores(model, [torch.tensor(row) for row in ids], settings.precision)
    places = torch.arange(len(rows))
    return train_bradley_terry(model, scores, places, places[:0], settings, seed=seed)


def reward_text(tokenizer: PreTrainedTokenizerBase, prompt: Turns, answer: str) -> str:
    """The conversation with its answer, through the chat template if the tokenizer has one.

    The template's own BOS is taken off, because the tokenizer adds one: two would be a text no model has seen.
    """
    turns = (*prompt, ("assistant", answer))
    if tokenizer.chat_template is None:
        return conversation_text(turns)
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=False)
    return text.removeprefix(tokenizer.bos_token or "")


def freeze(model: PreTrainedModel, trainable: str | int) -> None:
    """Leave gradients on for "all" weights, or for the head and the last `trainable` layers only.

    Raises SettingsError if `trainable` is neither "all" nor a number of layers that the model has.
    """
    layers = next(module for module in model.base_model.modules() if isinstance(module, nn.ModuleList))
    if trainable == "all":
        return
    if not isinstance(trainable, int) or not 0 <= trainable <= len(layers):
        raise SettingsError(f"trainable is {trainable!r}", where="trainable", fix=f"all, or 0 to {len(layers)} layers")
    model.base_model.requires_grad_(False)
    for layer in layers[len(layers) - trainable :]:
        layer.requires_grad_(True)


def _pair_scores(model: PreTrainedModel, ids: list[Tensor], precision: str) -> PairScores:
    """Rewards of pairs by their places; row 2i is chosen and 2i + 1 rejected, both in one padded batch.

    A decoder's reward is read at its last real place, as `models.scoring` reads it: transformers looks for the padding's
    id, and where pad and eos are one token it takes the end of the answer for padding.
    """

    def scores(batch: Tensor) -> tuple[Tensor, Tensor]:
        rows = [ids[2 * place + side] for side in (0, 1) for place in batch.tolist()]
        padded = pad_sequence(rows, batch_first=True, padding_value=model.config.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16"):
            given = {"input_ids": padded.to(model.device), "attention_mask": mask.to(model.device)}
            if head := getattr(model, "score", None):
                last = given["attention_mask"].sum(1) - 1
                hidden = model.base_model(**given).last_hidden_state
                logits = head(hidden[torch.arange(len(rows), device=hidden.device), last])
            else:
                logits = model(**given).logits
        return logits.float().squeeze(-1).chunk(2)

    return scores
