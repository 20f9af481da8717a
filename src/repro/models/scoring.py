"""Rewards of n answers to one prompt from a causal reward model, the prompt encoded once.

A decoder with a scalar head (transformers' `…ForSequenceClassification` of Llama, Gemma, Mistral) reads left to right, so
the keys and values of the prompt do not depend on what follows: they are computed once and shared by the n answers.
With prompt P, answers R tokens each, n (P + R) tokens shrink to P + n R.

The reward is the head's output at the last real token. It is read by position here, never by looking for the padding
id as transformers does: where pad and eos are one token, that search takes the end of the answer for padding.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from repro.core.errors import DataError
from repro.core.progress import progress

Tokens = Sequence[int] | Tensor


class Scores(NamedTuple):
    """rewards: one tensor (n answers,) per prompt; truncated: prompts cut on the left for at least one answer."""

    rewards: list[Tensor]
    truncated: int


def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    add_special_tokens: bool = True,
) -> Scores:
    """Reward of every answer to its prompt, as texts; prompt + answer is tokenised as one text.

    prompts are rendered already (chat template and all); with a beginning-of-text token in them, set add_special_tokens
    False. limit: tokens of prompt + answer, the model's own if None; batch_size: answers of one prompt at a time, which
    changes memory and speed, not rewards. Raises DataError as `score_tokens` does, naming prompt and answer by index.
    """
    if len(prompts) != len(answers):
        raise DataError(
            f"{len(prompts)} prompts but answers to {len(answers)}", fix="pass one list of answers a prompt"
        )
    limit = _limit(model, limit, tokenizer)
    rewards, truncated = [], 0
    for index, (prompt, texts) in enumerate(zip(prompts, answers, strict=True)):
        prompt_ids, answers_ids = _split(tokenizer, prompt, texts, add_special_tokens)
        rewards.append(
            score_tokens(model, prompt_ids, answers_ids, limit=limit, batch_size=batch_size, prompt_index=index)
        )
        kept = kept_of_prompt(len(prompt_ids), [len(answer) for answer in answers_ids], limit)
        truncated += min(kept) < len(prompt_ids)
    return Scores(rewards, truncated)


def score_tokens(
    model: PreTrainedModel,
    prompt_ids: Tokens,
    answers_ids: Sequence[Tokens],
    *,
    limit: int | None = None,
    batch_size: int = 8,
    prompt_index: int = 0,
) -> Tensor:
    """Rewards (n answers,) on the CPU, at least float32, the prompt encoded once (n P + n R tokens become P + n R).

    prompt_ids: (P,), may be empty; answers_ids: n of (R_i,), R_i >= 1, any order and lengths. A sequence over the limit
    loses the first tokens of its prompt (truncation_side left of the p2 reward model); the cut depends on that answer
    alone, so a reward never depends on its companions. `kept_of_prompt` counts the cuts; prompt_index names the prompt
    in errors. Raises DataError if there is no answer, one is empty or alone over the limit, a reward is not finite, or
    the model has no scalar head.
    """
    prompt, answers, kept = _prepare(model, prompt_ids, answers_ids, limit, prompt_index)
    rewards = torch.full((len(answers),), torch.nan, dtype=torch.promote_types(model.dtype, torch.float32))
    with _scoring(model) as (decoder, head):
        for length in sorted(set(kept)):
            prefix = _encode(decoder, prompt[len(prompt) - length :])
            group = [index for index, other in enumerate(kept) if other == length]
            for batch in _batches(group, answers, batch_size):
                rewards[batch] = _shared(decoder, head, prefix, [answers[index] for index in batch]).to(rewards)
    return _finite(rewards, prompt_index)


def score_padded(
    model: PreTrainedModel,
    prompt_ids: Tokens,
    answers_ids: Sequence[Tokens],
    *,
    limit: int | None = None,
    batch_size: int = 2,
    padding_side: str = "right",
    prompt_index: int = 0,
) -> Tensor:
    """Same rewards, (n answers,), the plain way: every prompt + answer a whole padded sequence with its mask.

    batch_size 2 is the chosen and rejected pair of the usual reward training scripts. Kept to measure `score_tokens`
    against, and for models whose cache cannot be shared. Raises DataError as `score_tokens` does.
    """
    prompt, answers, kept = _prepare(model, prompt_ids, answers_ids, limit, prompt_index)
    whole = [torch.cat([prompt[len(prompt) - length :], answer]) for length, answer in zip(kept, answers, strict=True)]
    rewards = torch.full((len(answers),), torch.nan, dtype=torch.promote_types(model.dtype, torch.float32))
    with _scoring(model) as (decoder, head):
        for start in range(0, len(whole), batch_size):
            batch = whole[start : start + batch_size]
            rewards[start : start + batch_size] = _padded(decoder, head, batch, padding_side).to(rewards)
    return _finite(rewards, prompt_index)


def score_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    limit: int | None = None,
    tokens_per_batch: int = 8192,
    add_special_tokens: bool = True,
) -> Tensor:
    """Rewards (texts,) of whole rendered conversations, those of like length together: for prompts with one or two answers.

    Texts over the limit lose their first tokens, as in `score_tokens`. tokens_per_batch changes memory and speed, not
    rewards. Raises DataError if a text has no token, a reward is not finite, or the model has no scalar head.
    """
    limit = _limit(model, limit, tokenizer)
    rows = tokenizer(list(texts), add_special_tokens=add_special_tokens, truncation=False)["input_ids"]
    if empty := [index for index, row in enumerate(rows) if not row]:
        raise DataError("empty", where=f"text {empty[0]}", fix="drop the conversation before scoring")
    whole = [torch.tensor(row[-limit:], device=model.device) for row in rows]
    rewards = torch.full((len(whole),), torch.nan, dtype=torch.promote_types(model.dtype, torch.float32))
    ordered, batches = sorted(range(len(whole)), key=lambda index: len(whole[index]), reverse=True), []
    while ordered:
        count = max(1, tokens_per_batch // len(whole[ordered[0]]))
        batches.append(ordered[:count])
        del ordered[:count]
    with _scoring(model) as (decoder, head):
        for batch in progress(batches, label="scoring"):
            rewards[batch] = _padded(decoder, head, [whole[index] for index in batch], "right").to(rewards)
    return _finite(rewards, 0)


def kept_of_prompt(prompt_length: int, answer_lengths: Sequence[int], limit: int) -> list[int]:
    """Tokens of the prompt, counted from its end, that fit before each answer within limit tokens.

    Raises DataError if an answer alone is longer than the limit.
    """
    over = [index for index, length in enumerate(answer_lengths) if length > limit]
    if over:
        raise DataError(
            f"{answer_lengths[over[0]]} tokens alone exceed the limit of {limit}",
            where=f"answer {over[0]}",
            fix="shorten or drop the answer, or raise limit",
        )
    return [min(prompt_length, limit - length) for length in answer_lengths]


def _prepare(
    model: PreTrainedModel, prompt_ids: Tokens, answers_ids: Sequence[Tokens], limit: int | None, prompt_index: int
) -> tuple[Tensor, list[Tensor], list[int]]:
    """Prompt and answers on the model's device, and how much of the prompt each answer keeps."""
    where = f"prompt {prompt_index}"
    if not len(answers_ids):
        raise DataError("no answers to score", where=where, fix="drop the prompt, or sample answers to it")
    lengths = [len(answer) for answer in answers_ids]
    if 0 in lengths:
        raise DataError("empty", where=f"{where}, answer {lengths.index(0)}", fix="drop the answer before scoring")
    try:
        kept = kept_of_prompt(len(prompt_ids), lengths, _limit(model, limit))
    except DataError as error:
        raise DataError(error.what, where=f"{where}, {error.where}", fix=error.fix) from None
    to = {"dtype": torch.long, "device": model.device}
    return torch.as_tensor(prompt_ids, **to), [torch.as_tensor(answer, **to) for answer in answers_ids], kept


def _limit(model: PreTrainedModel, limit: int | None, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """The caller's limit, else the smaller of the model's positions and the tokenizer's length."""
    if limit is not None:
        return limit
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    known = [positions, None if tokenizer is None else tokenizer.model_max_length]
    if not any(known):
        raise DataError("the model states no longest sequence", where=model.name_or_path, fix="pass limit=")
    return min(length for length in known if length)


@contextmanager
def _scoring(model: PreTrainedModel) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Decoder and scalar head, with dropout off and no gradients inside; each module's mode is restored after."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model  # a LoRA wrapper's inner model
    head = getattr(bare, "score", None)
    if head is None or bare.config.num_labels != 1:
        raise DataError(
            "not a decoder with one scalar head",
            where=model.name_or_path or type(bare).__name__,
            fix="load it as AutoModelForSequenceClassification with num_labels=1",
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        # Not inference_mode: a rotary table first computed under it breaks a later backward pass.
        with torch.no_grad():
            yield bare.base_model, head
    finally:
        for module in training:
            module.training = True


def _encode(decoder: nn.Module, prompt: Tensor) -> DynamicCache:
    """Keys and values of a prompt (P,). Alone and unmasked, so that attention takes its fast causal kernel."""
    prefix = DynamicCache(config=decoder.config)
    if len(prompt):
        decoder(input_ids=prompt[None], past_key_values=prefix, use_cache=True)
    return prefix


def _shared(decoder: nn.Module, head: nn.Module, prefix: DynamicCache, answers: list[Tensor]) -> Tensor:
    """Rewards (batch,) of answers behind one encoded prompt.

    Right padding and no mask: a real token never looks right, so padding changes nothing, and positions continue from
    the cache. The copy keeps the prefix for the next batch.
    """
    cache = copy.deepcopy(prefix)
    cache.batch_repeat_interleave(len(answers))
    padded = pad_sequence(answers, batch_first=True)
    hidden = decoder(input_ids=padded, past_key_values=cache, use_cache=True).last_hidden_state
    last = torch.tensor([len(answer) - 1 for answer in answers], device=hidden.device)
    return head(hidden[torch.arange(len(answers), device=hidden.device), last]).squeeze(-1)


def _padded(decoder: nn.Module, head: nn.Module, whole: list[Tensor], side: str) -> Tensor:
    """Rewards (batch,) of whole sequences, padded on one side, masked, positions counted over real tokens."""
    ids = pad_sequence(whole, batch_first=True, padding_side=side)
    mask = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True, padding_side=side)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    hidden = decoder(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    last = ids.shape[1] - 1 - mask.flip(-1).argmax(-1)
    return head(hidden[torch.arange(len(whole), device=hidden.device), last]).squeeze(-1)


def _batches(group: list[int], answers: list[Tensor], batch_size: int) -> Iterator[list[int]]:
    """Indices of at most batch_size answers of like length, so that little is spent on padding."""
    ordered = sorted(group, key=lambda index: len(answers[index]))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]


def _finite(rewards: Tensor, prompt_index: int) -> Tensor:
    bad = (~rewards.isfinite()).nonzero().flatten().tolist()
    if bad:
        raise DataError(
            f"the reward is {rewards[bad[0]].item()}",
            where=f"prompt {prompt_index}, answer {bad[0]}",
            fix="check the model's weights and precision (bfloat16 or float32, not float16)",
        )
    return rewards


def _split(
    tokenizer: PreTrainedTokenizerBase, prompt: str, answers: Sequence[str], special: bool
) -> tuple[list[int], list[list[int]]]:
    """Prompt and answer tokens, cut where all the tokenised texts still agree.

    A tokenizer may merge a prompt's last characters with an answer's first; cutting the whole texts' tokens, not
    joining two tokenised parts, gives the tokens that scoring each text alone would give.
    """
    texts = [prompt, *(prompt + answer for answer in answers)]
    whole, *rows = tokenizer(texts, add_special_tokens=special, truncation=False, padding=False)["input_ids"]
    common = 0
    for column in zip(whole, *rows, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return whole[:common], [[] if row == whole else row[common:] for row in rows]
