"""Losses of single samples: the policy's next-token loss on an answer, and a reward model's own two losses.

The influence of p3 is read on the first: which samples move the policy's loss on instructions and chosen answers. The
reward model's losses put its LoRA in the policy's place, as a switch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.models.generation import Turns
from repro.models.logprobs import Tree, encode_answers, encoded_logprobs


def encode_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    answers: Sequence[str],
    *,
    limit: int,
) -> list[Tree]:
    """Each prompt with its one answer as tokens, the answer's end token counted: samples for `answer_losses`.

    limit: tokens of both together; an over-long prompt loses its first ones. Raises as `encode_answers` does.
    """
    encoded = encode_answers(model, tokenizer, prompts, [[answer] for answer in answers], limit=limit)
    return [tree for trees in encoded for tree in trees]


def answer_losses(model: nn.Module, samples: Sequence[Tree]) -> Tensor:
    """Mean next-token loss over each answer's tokens, (samples,) in nats a token; the prompt's tokens do not count.

    Raises as `models.logprobs.encoded_logprobs` does.
    """
    sums = torch.cat(encoded_logprobs(model, [[sample] for sample in samples]))
    return -sums / torch.tensor([len(sample.answers[0]) for sample in samples])


def preference_losses(model: nn.Module, samples: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """-log σ(r_chosen - r_rejected) of each pair, (pairs,) in nats (p3.eq1). samples: tokens of (chosen, rejected)."""
    chosen, rejected = token_rewards(model, [row for pair in samples for row in pair]).reshape(-1, 2).T
    return softplus(rejected - chosen)


def regression_losses(model: nn.Module, samples: Sequence[tuple[Tensor, float]]) -> Tensor:
    """(R - r)² of each sample, (samples,) in squared units of reward (p3.eq14). samples: (tokens, target R)."""
    rewards = token_rewards(model, [row for row, _ in samples])
    return (rewards - torch.tensor([target for _, target in samples], device=rewards.device)).square()


def token_rewards(model: nn.Module, rows: Sequence[Tensor]) -> Tensor:
    """The reward at the last token of each conversation, (rows,), by a sequence classifier of one label, PEFT's or not.

    Rows are padded on the right, where no token of a decoder looks.
    """
    classifier = model.get_base_model() if hasattr(model, "get_base_model") else model
    padded = pad_sequence(list(rows), batch_first=True).to(classifier.device)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(classifier.device)
    hidden = classifier.base_model(input_ids=padded, attention_mask=mask).last_hidden_state
    return classifier.score(hidden[torch.arange(len(rows)), mask.sum(1) - 1]).float().squeeze(-1)
