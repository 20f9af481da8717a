"""The sampling loop on token ids: a cache laid out by position, and draws that no companion can change.

Sample j of a prompt takes its draws, one a step, from a counter-based generator keyed by prompt, seed and j, and a draw
picks the first token at which the summed probabilities pass it. So a sample depends on prompt, seed, j and model, never
on the batch, except in the last bits of floating-point sums, which can differ between batch shapes: a draw within about
1e-6 of a boundary would then fall otherwise. Rows and columns therefore come in blocks of 16; measured on a processor
with AVX-512, every batch then gives the same bits. Other machines may keep the rare exception.

Column p of a row of the cache holds the keys and values of its token p, so prompts of many lengths need no left
padding, and only the columns in use are read. On a processor each core draws its own rows on one thread: no operation
waits for another core.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, PreTrainedModel

from repro.core.errors import DataError, SettingsError
from repro.core.progress import progress
from repro.models.load import threads

BLOCK = 16  # rows and columns of the cache come in multiples: the last digits then do not depend on the batch
ROOM = 64  # columns that the cache grows by
CHECK = 8  # steps between two looks for ends that no single token makes

End = Callable[[Sequence[int]], int | None]  # how many of these tokens the answer has, None while it goes on


@dataclass(frozen=True)
class Sampling:
    """What to draw: n answers a prompt of at most max_new_tokens, from the top_p nucleus at a temperature (0: greedy).

    stop: texts that end an answer, besides the model's end tokens. Raises SettingsError for a value out of range.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    n: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = {
            "max_new_tokens": (self.max_new_tokens >= 1, "give at least 1"),
            "temperature": (0 <= self.temperature < float("inf"), "0 is greedy, 1 the model as it is"),
            "top_p": (0 < self.top_p <= 1, "above 0; 1 keeps every token"),
            "n": (self.n >= 1, "give at least 1"),
            "stop": (not isinstance(self.stop, str) and all(self.stop), "a tuple of texts, none of them empty"),
        }
        for name, (right, fix) in wrong.items():
            if not right:
                raise SettingsError(f"{name} is {getattr(self, name)!r}", where="sampling", fix=fix)


class Drawn(NamedTuple):
    """A sample in tokens, its end token included, with the log-probability of each in nats at temperature 1."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool


def sample_tokens(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    ends: Collection[int] = (),
    end: End | None = None,
    batch_size: int = 256,
) -> list[list[Drawn]]:
    """n samples a prompt on token ids, (prompts)(n), each prompt of a batch read once; rows of like length together.

    ends: ids that end an answer; end: how many of the tokens so far the answer has, None while it goes on, for ends
    that no single token makes; batch_size: samples at a time. `sampling.stop` is left to `end`. Raises DataError if a
    prompt is empty, prompt and max_new_tokens exceed the model's positions, or a log-probability is not finite.
    """
    check_lengths(prompt_ids, sampling.max_new_tokens, _positions(model))
    copies = sampling.n if sampling.temperature else 1  # greedy answers are all the same
    rows = [(index, copy) for index in range(len(prompt_ids)) for copy in range(copies)]
    rows.sort(key=lambda row: len(prompt_ids[row[0]]))
    workers = torch.get_num_threads() if model.device.type == "cpu" else 1
    size = -(-min(batch_size, len(rows)) // workers) or 1
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    work = partial(_part, model, prompt_ids, sampling, sorted(ends), end)
    found: dict[tuple[int, int], Drawn] = {}
    with _at_rest(model), threads(1), ThreadPoolExecutor(workers) as pool:
        for part, drawn in zip(parts, progress(pool.map(work, parts), len(parts), "sampling"), strict=True):
            found.update(zip(part, drawn, strict=True))
    return [[found[index, copy % copies] for copy in range(sampling.n)] for index in range(len(prompt_ids))]


def _part(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    sampling: Sampling,
    ends: Sequence[int],
    end: End | None,
    part: Sequence[tuple[int, int]],
) -> list[Drawn]:
    """The samples (prompt, copy) of one part of the work; a small part is filled up to a block with its first row."""
    padded = [*part, *[part[0]] * (BLOCK - len(part))]
    draws = torch.tensor(np.stack([_uniforms(prompt_ids[index], copy, sampling) for index, copy in padded]))
    prompts = [tuple(prompt_ids[index]) for index, _ in padded]
    with torch.no_grad():  # not inference_mode: a rotary table first computed under it breaks a later backward pass
        samples = _draw(model, prompts, draws.to(model.device), sampling, ends, end, len(part))
    for (index, _), sample in zip(part, samples, strict=True):
        if not np.isfinite(sample.logprobs).all():
            fix = "check the model's weights and precision (bfloat16 or float32, not float16)"
            raise DataError("a log-probability is not finite", where=f"prompt {index}", fix=fix)
    return samples


def choose(logits: Tensor, draws: Tensor, temperature: float, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """A token a row, (rows,), by inverse CDF, and its log-probability (rows,) at temperature 1, in nats.

    logits: (rows, vocabulary); draws: (rows,) in [0, 1). The nucleus is the smallest set of likeliest tokens whose
    probabilities at this temperature sum to top_p or more (Holtzman et al. 2020).
    """
    scores = logits.float().log_softmax(-1)
    if temperature == 0:
        tokens = scores.argmax(-1, keepdim=True)
    else:
        chances = scores.exp() if temperature == 1 else (scores / temperature).softmax(-1)
        if top_p < 1:
            ordered, order = chances.sort(dim=-1, descending=True, stable=True)
            outside = ordered.cumsum(-1) - ordered >= top_p
            chances = chances.scatter(-1, order, ordered.masked_fill(outside, 0.0))
        below = chances.cumsum(-1)
        tokens = torch.searchsorted(below, draws[:, None] * below[:, -1:], right=True)
        tokens = tokens.clamp(max=logits.shape[-1] - 1)  # reached only if a logit is not a number
    return tokens[:, 0], scores.gather(-1, tokens)[:, 0]


def _uniforms(prompt: Sequence[int], copy: int, sampling: Sampling) -> np.ndarray:
    """One draw a step in [0, 1) for sample `copy` of a prompt; raising n or max_new_tokens only adds draws."""
    key = key_of(prompt, sampling.seed, 16)
    generator = np.random.Generator(np.random.Philox(key=key, counter=copy << 64))
    return generator.random(sampling.max_new_tokens, dtype=np.float32)


def key_of(prompt: Sequence[int], seed: int, size: int) -> int:
    """A number of `size` bytes that only this prompt and seed have, as far as a cryptographic digest can tell."""
    return int.from_bytes(hashlib.sha256(json.dumps([seed, list(prompt)]).encode()).digest()[:size])


class _Rows(Cache):
    """Keys and values, one row a sample and one column a position, written in place.

    The first pass keeps what it is given; `take` then lays the rows out, and each step adds one column a row.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.kept: list[list[Tensor]] = []  # a layer: keys and values, each (rows, heads, columns, head size)
        self.places: Tensor | None = None  # where a step's keys and values go, the cache seen as one list of columns
        self.columns = self.width = 0  # columns held, and those read in this step

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args: object, **more: object) -> tuple[Tensor, ...]:
        if self.places is None:
            self.kept.append([keys, values])
            return keys, values
        for kept, new in zip(self.kept[layer_idx], (keys, values), strict=True):
            kept.view(-1, kept.shape[3]).index_copy_(0, self.places, new.reshape(-1, kept.shape[3]))
        return tuple(kept[:, :, : self.width] for kept in self.kept[layer_idx])

    def take(self, rows: Tensor, columns: int) -> None:
        """Keep these rows, in this order, with room for so many columns."""
        for layer in self.kept:
            for place, old in enumerate(layer):
                layer[place] = old.new_zeros(len(rows), old.shape[1], columns, old.shape[3])
                layer[place][:, :, : old.shape[2]] = old[rows]
        self.columns = columns

    def step(self, model: PreTrainedModel, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Logits (rows, vocabulary) after one more token a row, (rows,), at its position; longest: the last of them."""
        self.width = _blocks(longest + 1)
        if self.width > self.columns:
            self.take(torch.arange(len(tokens), device=tokens.device), self.width + ROOM)
        lists = torch.arange(len(tokens) * self.kept[0][0].shape[1], device=tokens.device).view(len(tokens), -1)
        self.places = (lists * self.columns + positions[:, None]).flatten()
        hidden = torch.arange(self.width, device=positions.device) > positions[:, None]
        mask = torch.zeros(hidden.shape, dtype=model.dtype, device=positions.device)
        mask = mask.masked_fill_(hidden, torch.finfo(model.dtype).min)[:, None, None]
        places = positions[:, None]
        inputs = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": places}
        return model(**inputs, past_key_values=self, use_cache=True).logits[:, -1]


def _blocks(length: int) -> int:
    return -(-max(length, 1) // BLOCK) * BLOCK


def _read(model: PreTrainedModel, prompts: Sequence[tuple[int, ...]]) -> _Rows:
    """Each distinct prompt but its last token, read once, right-padded, unmasked: no token looks right."""
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    ids = pad_sequence([torch.tensor(prompt[:-1], dtype=torch.long) for prompt in distinct], batch_first=True)
    width = min(_blocks(ids.shape[1]), _positions(model) or _blocks(ids.shape[1]))
    ids = torch.nn.functional.pad(ids, (0, width - ids.shape[1]))
    cache = _Rows()
    model(input_ids=ids.to(model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.take(torch.tensor([distinct[prompt] for prompt in prompts], device=model.device), width + ROOM)
    return cache


def _draw(
    model: PreTrainedModel,
    prompts: Sequence[tuple[int, ...]],
    draws: Tensor,
    sampling: Sampling,
    ends: Sequence[int],
    end: End | None,
    real: int,
) -> list[Drawn]:
    """The loop: a token a row and step, with its draws (rows, steps); rows from `real` on only fill the block."""
    cache, device = _read(model, prompts), model.device
    tokens = torch.tensor([prompt[-1] for prompt in prompts], device=device)
    positions = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device)
    rows = torch.arange(len(prompts), device=device)  # which sample a row of the cache is
    counts = torch.where(rows < real, 0, 1)  # tokens of a finished sample, 0 while it goes on
    drawn = torch.zeros(draws.shape, dtype=torch.long, device=device)
    logprobs = torch.zeros(draws.shape, device=device)
    longest, final = max(map(len, prompts)) - 1, torch.tensor(ends, dtype=torch.long, device=device)
    for step in range(draws.shape[1]):
        logits = cache.step(model, tokens, positions, longest + step)
        tokens, scores = choose(logits, draws[rows, step], sampling.temperature, sampling.top_p)
        drawn[rows, step], logprobs[rows, step] = tokens, scores
        positions = positions + 1
        ended = torch.isin(tokens, final)
        if end and step % CHECK == CHECK - 1:
            ended |= torch.tensor([end(row) is not None for row in drawn[rows, : step + 1].tolist()], device=device)
        counts[rows] = torch.where((counts[rows] == 0) & ended, step + 1, counts[rows])
        over = counts[rows] > 0
        left = len(rows) - int(over.sum())
        if left == 0:
            break
        if max(left, BLOCK) <= 0.75 * len(rows):  # copying the cache pays for itself in a few steps
            keep = over.long().argsort(stable=True)[: max(left, BLOCK)]
            cache.take(keep, cache.columns)
            rows, tokens, positions = rows[keep], tokens[keep], positions[keep]
    table = zip(drawn[:real].tolist(), logprobs[:real].tolist(), counts[:real].tolist(), strict=True)
    return [_drawn(*row, end) for row in table]


def _drawn(tokens: list[int], logprobs: list[float], count: int, end: End | None) -> Drawn:
    tokens = tokens[: count or None]
    early = end(tokens) if end else None
    return Drawn(tuple(tokens[:early]), tuple(logprobs[: early or len(tokens)]), bool(count or early))


def _positions(model: PreTrainedModel) -> int | None:
    """Tokens that the model can hold; a sliding window counts as its end, since the cache keeps no window."""
    config = model.config.get_text_config()
    known = (getattr(config, name, None) for name in ("max_position_embeddings", "sliding_window"))
    return min((length for length in known if length), default=None)


def check_lengths(prompt_ids: Sequence[Sequence[int]], new: int, positions: int | None) -> None:
    """Raises DataError for an empty prompt, or one that with `new` more tokens exceeds the model's positions."""
    for index, prompt in enumerate(prompt_ids):
        where = f"prompt {index}"
        if not len(prompt):
            raise DataError("empty", where=where, fix="drop it; a model needs a token to go on from")
        if positions and len(prompt) + new > positions:
            what = f"{len(prompt)} tokens and {new} new ones exceed the {positions} that the model holds"
            fix = f"shorten the prompt, or lower max_new_tokens to {max(positions - len(prompt), 0)}"
            raise DataError(what, where=where, fix=fix)


@contextmanager
def _at_rest(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off inside; each module's mode is restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
