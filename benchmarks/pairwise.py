"""A training pass of the preference model: our packed step against a bare loop of the same model, in comparisons a second.

Plain: AdamW, one padded batch of whole comparisons after the other, the loss on the label and the end of turn, nothing
recorded, clipped or saved. Ours: `train.sft.train` on the same comparisons, packed into blocks of as many tokens a step.
Before the clock starts, both must give the same loss of the first comparisons, to 1e-5.
"""

import math
import tempfile
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.harness import Benchmark, compare
from repro.core.settings import load
from repro.data import miniature
from repro.models.load import threads
from repro.models.scratch import random_model, word_tokenizer
from repro.train.pairwise import OWN, TEMPLATES, conversations
from repro.train.sft import IGNORED, SFT_SETTINGS, collate, encode, pack, train
from repro.world import sources

COMPARISONS, BATCH = 1200, 12  # twelve comparisons have about as many tokens as a step's four blocks
RATIO = 1 / 1.25  # within 25% of the bare loop
SIZE = "miniature/0.3m"


def _rows() -> tuple[PreTrainedTokenizerBase, list[dict]]:
    texts = [message["content"] for row in sources.demonstrations(500, 0) for message in row["messages"]]
    tokenizer = word_tokenizer([*texts, " ".join(["One", "Two", "<", "one", "two", "question", "answer", ">"] * 2)])
    pairs = miniature.pairs("mix2", COMPARISONS, 0)
    messages = [row["messages"] for row in conversations(pairs, TEMPLATES["words"], 0)]
    return tokenizer, encode(tokenizer, messages, "assistant")


def _batch(rows: list[dict]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    padded = pad_sequence(ids, batch_first=True)
    return padded, pad_sequence(labels, batch_first=True, padding_value=IGNORED)


def _loss(model: PreTrainedModel, rows: list[dict]) -> torch.Tensor:
    """Right padding needs no mask: no real token looks right, and nothing is learned from the padding."""
    ids, labels = _batch(rows)
    logits = model(input_ids=ids).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def _bare(model: PreTrainedModel, rows: list[dict], rate: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    model.train()
    for start in range(0, len(rows), BATCH):
        optimiser.zero_grad()
        _loss(model, rows[start : start + BATCH]).backward()
        optimiser.step()


def bench() -> list[Benchmark]:
    """Raises AssertionError if packed and padded comparisons give different losses."""
    tokenizer, rows = _rows()
    world = load("laptop", {"world.pm_optimizer": "adamw_torch"}).section("world")
    names = {f"sft_{name}": f"pm_{name}" for name in OWN} | {"packing_block": "pm_packing_block"}
    settings = world.renamed(**names).pick(*SFT_SETTINGS)
    model = random_model(SIZE, tokenizer, 0)
    few = rows[:BATCH]
    with torch.no_grad():
        packed = collate([*pack(few, settings.packing_block)])
        labels = packed.pop("labels")
        together = cross_entropy(
            model(**packed, use_cache=False).logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
        assert math.isclose(together.item(), _loss(model, few).item(), abs_tol=1e-5), "packing changes the loss"

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train(random_model(SIZE, tokenizer, 0), tokenizer, rows, settings, seed=0, scratch=Path(folder))

    def plain() -> None:
        _bare(random_model(SIZE, tokenizer, 0), rows, settings.sft_learning_rate)

    name = f"preference training, {COMPARISONS} comparisons"
    with threads(1):
        return [compare(name, ours, plain, repeats=2, target_ratio=RATIO)]
