"""Log-probabilities of answers to a prompt, the prompt encoded once for all of them, with gradients where they are on.

One row holds a prompt and its answers as a tree, `P P P | A A | B B B`: a mask lets an answer see the prompt and
itself, and its positions follow the prompt's, so its logits are those that it has alone. With prompt P and k answers of
R tokens, k (P + R) tokens shrink to P + k R.

What counts of an answer is what the model drew: its tokens and the one that ends its turn, nothing that the chat
template writes after it.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, SettingsError
from repro.core.progress import progress
from repro.core.settings import Section
from repro.models.features import stored
from repro.models.generation import Turns, encode, end_tokens
from repro.models.load import PRECISIONS, load_model, load_tokenizer, threads, threads_for

FILE = "logprobs.json"
LOGPROB_SETTINGS = ("max_tokens", "precision", "device")
PROMPTS_AT_ONCE = 16  # in the step: memory and speed, no effect on a result beyond rounding


class Tree(NamedTuple):
    """A prompt (P,) and answers (R_i,) as tokens; places: which of the prompt's answers these are."""

    prompt: Tensor
    answers: tuple[Tensor, ...]
    places: tuple[int, ...]


def answer_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    answers: Sequence[Sequence[str]],
    *,
    limit: int,
    batch_size: int = PROMPTS_AT_ONCE,
) -> list[Tensor]:
    """log pi(answer | prompt) in nats of each answer to each prompt, its end token counted: (answers,) float64 a prompt.

    limit: tokens of prompt and answer, or the model's positions if fewer; batch_size: prompts at a time, which changes
    memory and speed. Results are on the CPU. Raises DataError if one is not finite, and as `encode_answers` and
    `encoded_logprobs` do.
    """
    encoded = encode_answers(model, tokenizer, prompts, answers, limit=limit)
    sizes = [sum(len(each.prompt) + sum(map(len, each.answers)) for each in trees) for trees in encoded]
    order = sorted(range(len(encoded)), key=lambda place: sizes[place])  # of like length together: little padding
    found: list[Tensor] = [torch.empty(0)] * len(encoded)
    for start in progress(range(0, len(order), batch_size), label="log-probabilities"):
        batch = order[start : start + batch_size]
        for place, sums in zip(batch, encoded_logprobs(model, [encoded[place] for place in batch]), strict=True):
            if not bool(sums.isfinite().all()):
                fix = "check the model's weights and precision (bf16 or fp32)"
                raise DataError("a log-probability is not finite", where=f"prompt {place}", fix=fix)
            found[place] = sums
    return found


def encode_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    answers: Sequence[Sequence[str]],
    *,
    limit: int,
) -> list[list[Tree]]:
    """Each prompt with its answers as tokens behind the chat template; one tree, or more where the limit cuts.

    A prompt too long beside an answer loses its first tokens, as in scoring: the cut depends on that answer alone, and
    answers that leave the prompt different room are different trees. Raises DataError if a prompt has no answers, an
    answer alone fills the limit, or the template writes the prompt differently once it is answered.
    """
    if len(prompts) != len(answers):
        fix = "pass one list of answers a prompt"
        raise DataError(f"{len(prompts)} prompts but answers to {len(answers)}", fix=fix)
    if bare := [index for index, texts in enumerate(answers) if not texts]:
        raise DataError("no answers", where=f"prompt {bare[0]}", fix="drop the prompt, or sample answers to it")
    limit = min(limit, getattr(model.config.get_text_config(), "max_position_embeddings", None) or limit)
    starts = encode(tokenizer, prompts)
    tokens = _answer_tokens(tokenizer, prompts, starts, answers, end_tokens(model, tokenizer))
    _check_lengths(prompts, tokens, limit)
    encoded = []
    for start, texts in zip(starts, tokens, strict=True):
        groups: dict[int, list[int]] = {}
        for place, ids in enumerate(texts):
            groups.setdefault(min(len(start), limit - len(ids)), []).append(place)
        encoded.append(
            [
                Tree(torch.tensor(start[-kept:]), tuple(torch.tensor(texts[place]) for place in places), tuple(places))
                for kept, places in groups.items()
            ]
        )
    return encoded


def _answer_tokens(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Turns],
    starts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[str]],
    ends: Collection[int],
) -> list[list[list[int]]]:
    """Tokens of every answer and its end, (prompts)(answers): what follows the prompt's tokens in the conversation."""
    chats = [[{"role": role, "content": text} for role, text in turns] for turns in prompts]
    texts = [
        tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": said}], tokenize=False)
        for chat, row in zip(chats, answers, strict=True)
        for said in row
    ]
    whole = iter(zip(texts, tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else [], strict=True))
    found = []
    for index, (chat, start, row) in enumerate(zip(chats, starts, answers, strict=True)):
        found.append([])
        for _ in row:
            text, ids = next(whole)
            rest = ids[len(start) :] if ids[: len(start)] == start else _apart(tokenizer, chat, text, index)
            last = max((place for place, token in enumerate(rest) if token in ends), default=len(rest) - 1)
            found[-1].append(rest[: last + 1])
    return found


def _apart(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, str]], whole: str, index: int) -> list[int]:
    """The answer's tokens where the tokenizer would merge its first letters into the prompt: those it has alone.

    A model that answers begins behind the prompt's own tokens, so those merged ones it could not have drawn.
    """
    start = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    if not whole.startswith(start):
        fix = "use a template that writes the turns before an answer as it writes them when it asks for one"
        raise DataError("the chat template changes an answered prompt", where=f"prompt {index}", fix=fix)
    return tokenizer(whole.removeprefix(start), add_special_tokens=False)["input_ids"]


def _check_lengths(prompts: Sequence[Turns], tokens: Sequence[Sequence[Sequence[int]]], limit: int) -> None:
    """Raise DataError if an answer leaves its prompt not one token of the limit, naming how many and the first."""
    rows = [(index, place) for index, row in enumerate(tokens) for place, ids in enumerate(row) if len(ids) >= limit]
    if rows:
        index, place = rows[0]
        what = f"{len(rows)} answers fill the limit of {limit} tokens alone, the first with {len(tokens[index][place])}"
        where = f"prompt {index}, answer {place}, {prompts[index][-1][1][:60]!r}"
        raise DataError(what, where=where, fix="drop these answers, or raise the limit if the model holds more")


def encoded_logprobs(model: PreTrainedModel, encoded: Sequence[Sequence[Tree]]) -> list[Tensor]:
    """log pi of each prompt's answers, (answers,) float64 a prompt, on the CPU, in one forward pass.

    Not checked for numbers that are none: a training loop does that, and can name its step. Raises DataError if a
    conversation is longer than the model's attention window, which the tree's mask does not know.
    """
    trees = [tree for each in encoded for tree in each]
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    longest = max(len(tree.prompt) + len(answer) for tree in trees for answer in tree.answers)
    if window and longest > window:
        raise DataError(f"{longest} tokens under an attention window of {window}", fix=f"set the limit to {window}")
    sums, found = _forward(model, trees).split([len(tree.answers) for tree in trees]), []
    parts = iter(zip(trees, sums, strict=True))
    for each in encoded:
        mine = [next(parts) for _ in each]
        places = torch.tensor([place for tree, _ in mine for place in tree.places])
        found.append(torch.cat([part for _, part in mine])[places.argsort()])
    return found


def _forward(model: PreTrainedModel, trees: Sequence[Tree]) -> Tensor:
    """Sums (all answers,) in the trees' order; prompts are padded on the left, so that all answers begin in one column.

    Measured on one core, forward and backward of a miniature 0.3m and 1.2m, against whole sequences in a padded batch:
    1.3 times as fast with pairs of 20 + 30 tokens, 1.4 and 1.5 with 8 answers a prompt, 1.8 with prompts of 150. Sums
    are taken in float64: a difference of two sums of hundreds of nats is what the objectives look at.
    """
    answers = [torch.cat(tree.answers) for tree in trees]
    labels = [torch.cat([torch.full_like(a, 1 + i) for i, a in enumerate(tree.answers)]) for tree in trees]
    places = [torch.cat([len(tree.prompt) + torch.arange(len(a)) for a in tree.answers]) for tree in trees]
    starts = [tree.prompt for tree in trees]
    ids = _columns(starts, answers).to(model.device)
    branch = _columns([torch.zeros_like(start) for start in starts], labels, padding=-1).to(model.device)
    positions = _columns([torch.arange(len(start)) for start in starts], places).to(model.device)
    seen = (branch[:, None] == branch[..., None]) | (branch[:, None] == 0)  # (rows, query, key); padding sees itself
    seen &= torch.ones_like(seen[0]).tril()
    mask = torch.zeros(seen.shape, dtype=model.dtype, device=model.device).masked_fill(~seen, _lowest(model))[:, None]
    rows, columns = (branch > 0).nonzero(as_tuple=True)
    opening = branch[rows, columns] != branch[rows, columns - 1]
    before = torch.where(opening, max(map(len, starts)) - 1, columns - 1)  # an answer's first token follows the prompt
    with _head_reads(model, rows, before):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logprobs = -cross_entropy(logits, ids[rows, columns], reduction="none").cpu().double()
    counts = torch.tensor([0, *(len(tree.answers) for tree in trees)])
    which = counts.cumsum(0)[rows.cpu()] + branch[rows, columns].cpu() - 1
    return torch.zeros(int(counts.sum()), dtype=torch.float64).index_add(0, which, logprobs)


def _columns(left: Sequence[Tensor], right: Sequence[Tensor], padding: int = 0) -> Tensor:
    """(rows, columns): the left parts end, and the right parts begin, at one column."""
    options = {"batch_first": True, "padding_value": padding}
    return torch.cat([pad_sequence(left, padding_side="left", **options), pad_sequence(right, **options)], dim=1)


def _lowest(model: PreTrainedModel) -> float:
    return torch.finfo(model.dtype).min  # not -inf: eager attention in half precision would make it no number


@contextmanager
def _head_reads(model: PreTrainedModel, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Let the output layer read only these places: with a vocabulary of 128,000 it is most of the memory.

    A hook, because the model's own forward does what else its logits need, such as Gemma's soft cap.
    """
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, given: (given[0][rows, columns][None],))
    try:
        yield
    finally:
        handle.remove()


def logprobs_of(
    policy: Artifact, prompts: Sequence[Turns], answers: Sequence[Sequence[str]], settings: Section
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for a policy's log-probabilities of answers.

    settings: LOGPROB_SETTINGS.
    """
    rows = [[list(map(list, turns)), list(texts)] for turns, texts in zip(prompts, answers, strict=True)]
    inputs = {"model": policy, "answers": stored("pool", rows)}
    return {"step": logprobs, "settings": settings.pick(*LOGPROB_SETTINGS), "inputs": inputs}


def read_logprobs(artifact: Artifact) -> list[np.ndarray]:
    """The log-probabilities, one array (answers,) in nats a prompt."""
    return [np.array(row) for row in json.loads((artifact / FILE).read_text())]


def logprobs(job: Job) -> None:
    """Step: `model` (a folder) and `answers` (rows of [turns, texts]) to logprobs.json, one list a row."""
    rows, folder = json.loads(job.inputs["answers"].path.read_text()), str(job.inputs["model"].path)
    prompts, answers = [tuple(map(tuple, turns)) for turns, _ in rows], [texts for _, texts in rows]
    model, tokenizer = load_model(folder, task="language", device=job.settings.device), load_tokenizer(folder)
    with threads(threads_for(model)), torch.no_grad(), half(model, job.settings.precision):
        found = answer_logprobs(model, tokenizer, prompts, answers, limit=job.settings.max_tokens)
    (job.out / FILE).write_text(json.dumps([row.tolist() for row in found]))


def half(model: PreTrainedModel, precision: str) -> torch.autocast:
    """Computing in bfloat16 around fp32 weights if `precision` is bf16: what training does, its reference must do.

    Raises SettingsError for another precision than bf16 and fp32.
    """
    if precision not in PRECISIONS:
        fix = f"choose from {', '.join(PRECISIONS)}"
        raise SettingsError(f"unknown value {precision!r}", where="precision", fix=fix)
    return torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bf16")
