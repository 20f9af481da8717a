"""Optimiser steps of DPO and of reward training against a bare loop of the same model on the same batches, one thread.

128 pairs of a prompt of about 20 tokens and answers of 20 to 40, 32 pairs a step, a Llama of 0.3 million parameters. The
bare loop is what fits on a page: tokens ready, each batch padded whole sequences, the loss, AdamW. Ours renders and
tokenises the pairs, checks them, and keeps its record as well. A resident reference, run at every step as most trainers
do, is a second bare loop for DPO; ours reads what was computed once. Before the clock starts, the losses must agree.
"""

import os
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.harness import Benchmark, compare
from repro.core.settings import Section
from repro.models.logprobs import answer_logprobs
from repro.models.scratch import random_model, word_tokenizer
from repro.train.dpo import train_dpo
from repro.train.reward_tokens import reward_text, train_on_tokens

PAIRS, BATCH, SIZE, BETA = 128, 32, "miniature/0.3m", 0.1
KEPT = 0.8  # of the bare loop's steps a second, at least
STEPS = PAIRS // BATCH
SETTINGS = {"beta": BETA, "max_tokens": 512, "precision": "fp32", "device": "cpu", "trainable": "all"}
SETTINGS |= {"gradient_checkpointing": False}
SETTINGS |= {"learning_rate": 1e-4, "batch_size": BATCH, "pairs_per_forward": BATCH, "epochs": 1}
SETTINGS |= {"warmup_ratio": 0.0, "weight_decay": 0.0, "max_gradient_norm": 1.0}
Row = tuple[tuple[tuple[str, str], ...], str, str]
Loss = Callable[[Sequence[int]], Tensor]  # places of pairs -> their mean loss


def _world() -> tuple[PreTrainedTokenizerBase, list[Row]]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"word{first}{second}" for first in letters for second in letters][:645]
    draws = torch.Generator().manual_seed(0)

    def text(low: int, high: int) -> str:
        count = int(torch.randint(low, high + 1, (1,), generator=draws))
        return " ".join(words[place] for place in torch.randint(0, len(words), (count,), generator=draws).tolist())

    rows = [((("user", text(12, 20)),), text(20, 40), text(20, 40)) for _ in range(PAIRS)]
    return word_tokenizer([" ".join(words)]), rows


def _bare(model: nn.Module, loss: Loss) -> list[float]:
    """One epoch in the pairs' order: forward, backward, clip, step."""
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0), []
    model.train()
    for start in range(0, PAIRS, BATCH):
        optimiser.zero_grad()
        mean = loss(range(start, start + BATCH))
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(mean.item())
    return losses


def _padded_logprobs(model: PreTrainedModel, whole: Sequence[Tensor], starts: Sequence[int]) -> Tensor:
    """(rows,) sums over what stands behind each row's start: the whole batch padded, every logit computed."""
    ids = pad_sequence(whole, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in whole], batch_first=True)
    scores = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    counted = (torch.arange(1, ids.shape[1]) >= torch.tensor(starts)[:, None]) & mask[:, 1:].bool()
    return (scores.gather(-1, ids[:, 1:, None]).squeeze(-1) * counted).sum(-1)


def _tokens(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> tuple[list[Tensor], list[int]]:
    """Whole conversations, chosen at 2i and rejected at 2i + 1, and where their answers start."""
    whole, starts = [], []
    for turns, *said in rows:
        chat = [{"role": role, "content": text} for role, text in turns]
        start = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        for text in said:
            both = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": text}])["input_ids"]
            whole.append(torch.tensor(both))
            starts.append(len(start))
    return whole, starts


def _dpo(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[Benchmark]:
    """Two lines. Raises AssertionError if the first losses of ours and a bare loop differ by 1e-4."""
    whole, starts = _tokens(tokenizer, rows)
    ours, bare, reference = (random_model(SIZE, tokenizer, seed) for seed in (0, 0, 1))
    prompts, answers = [turns for turns, *_ in rows], [said for _, *said in rows]
    with torch.no_grad():
        known = answer_logprobs(reference.eval(), tokenizer, prompts, answers, limit=512)
    fixed, arrays = torch.stack(known).float(), [each.numpy() for each in known]

    def loss(places: Sequence[int], resident: bool = False) -> Tensor:
        mine = [2 * place + side for side in (0, 1) for place in places]
        given = [whole[place] for place in mine], [starts[place] for place in mine]
        chosen, rejected = _padded_logprobs(bare, *given).chunk(2)
        with torch.no_grad():
            chosen_then, rejected_then = _padded_logprobs(reference, *given).chunk(2) if resident else fixed[places].T
        return -logsigmoid(BETA * ((chosen - chosen_then) - (rejected - rejected_then))).mean()

    def train(**changes: object) -> dict[str, list[float]]:
        return train_dpo(ours, tokenizer, rows, arrays, Section(SETTINGS | changes), 0)

    still = train(batch_size=PAIRS, pairs_per_forward=BATCH, learning_rate=0.0)["loss"][0]
    with torch.no_grad():
        for resident in (False, True):
            parts = [loss(range(start, start + BATCH), resident).item() for start in range(0, PAIRS, BATCH)]
            assert abs(sum(parts) / STEPS - still) < 1e-4, f"losses {parts} against {still}"
    ways = {"reference known": False, "resident reference": True}
    return [
        _steps(f"DPO, bare loop with {name}", train, lambda way=way: _bare(bare, lambda places: loss(places, way)))
        for name, way in ways.items()
    ]


def _reward(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> Benchmark:
    """Raises AssertionError if the losses of ours and the bare loop differ by 1e-5 before a step."""
    config = random_model(SIZE, tokenizer, 0).config
    config.num_labels = 1
    torch.manual_seed(0)
    ours = LlamaForSequenceClassification(config)
    bare = LlamaForSequenceClassification(config)
    bare.load_state_dict(ours.state_dict())
    texts = [reward_text(tokenizer, turns, text) for turns, *said in rows for text in said]
    whole = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]

    def loss(places: Sequence[int]) -> Tensor:
        mine = [whole[2 * place + side] for side in (0, 1) for place in places]
        mask = pad_sequence([torch.ones_like(row) for row in mine], batch_first=True)
        padded = pad_sequence(mine, batch_first=True, padding_value=tokenizer.pad_token_id)
        chosen, rejected = bare(input_ids=padded, attention_mask=mask).logits.squeeze(-1).chunk(2)
        return -logsigmoid(chosen - rejected).mean()

    def train(**changes: object) -> list[float]:
        return train_on_tokens(ours, tokenizer, rows, Section(SETTINGS | changes), 0).loss

    still = train(batch_size=PAIRS, pairs_per_forward=None, learning_rate=0.0)[0]
    with torch.no_grad():
        assert abs(loss(range(PAIRS)).item() - still) < 1e-5, "the losses differ"
    return _steps("reward model, bare loop", train, lambda: _bare(bare, loss))


def _steps(name: str, ours: Callable[[], object], bare: Callable[[], object]) -> Benchmark:
    """Steps a second: ours and the bare loop's; the harness' own ratio is of seconds."""
    found = compare(name, ours, bare, repeats=9, target_ratio=KEPT)
    rates = f"{STEPS / found.ours:.1f} against {STEPS / found.plain:.1f} steps/s"
    return found._replace(target=f"at least {KEPT:g} of its speed ({rates})")


def bench() -> list[Benchmark]:
    """One line an objective and bare loop, seconds for four steps; the number of threads is restored after."""
    os.environ.setdefault("REPRO_BATCH", "1")  # no bars between the lines
    threads, (tokenizer, rows) = torch.get_num_threads(), _world()
    torch.set_num_threads(1)
    try:
        return [*_dpo(tokenizer, rows), _reward(tokenizer, rows)]
    finally:
        torch.set_num_threads(threads)
