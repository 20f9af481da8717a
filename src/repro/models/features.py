"""Texts to pooled features of a frozen encoder, once: 20 ms a text is too much to pay twice on a laptop.

Texts of like length go together, so almost nothing is spent on padding. A text longer than the cap is cut, from the
left by default, as the paper's reward model does (p2); how many were cut is kept, not hidden.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError
from repro.core.paths import runs_folder
from repro.core.progress import note, progress
from repro.core.settings import Section
from repro.models.load import find_model, load_model, load_tokenizer, threads

ENCODER_SETTINGS = ("model", "layers", "max_tokens", "truncation_side", "precision", "device", "tokens_per_batch")


@dataclass(frozen=True)
class FeatureTable:
    """Features of a set of texts: values (texts, width) float32; tokens (texts,) of each text before any cut."""

    values: np.ndarray
    tokens: np.ndarray
    max_tokens: int
    place: dict[str, int]
    artifact: Artifact

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """Features of the given texts, (len(texts), width). Raises DataError for a text that was not encoded."""
        return self.values[self.places(texts)]

    def share_cut(self, texts: Sequence[str]) -> float:
        """Share of the given texts that the cap cut."""
        return float((self.tokens[self.places(texts)] > self.max_tokens).mean())

    def places(self, texts: Sequence[str]) -> list[int]:
        """Row of each text. Raises DataError for a text that was not encoded."""
        try:
            return [self.place[text] for text in texts]
        except KeyError as error:
            fix = "build the table from every text that will be scored"
            raise DataError("a text was not encoded", where=repr(error.args[0])[:60], fix=fix) from error


def feature_table(texts: Sequence[str], settings: Section) -> FeatureTable:
    """The texts' features, encoded once and then read from the cache.

    settings: model, layers, max_tokens, truncation_side, precision, device, tokens_per_batch. Precision is part of the
    key: bf16 is faster where the processor has it, fp32 reproduces across machines. Raises as `load_model` does.
    """
    distinct = sorted(set(texts))
    if not distinct:
        raise DataError("no texts to encode", where="feature_table", fix="check the filters before it")
    inputs = {"texts": stored("texts", distinct)}
    if folder := find_model(settings.model):
        inputs["model"] = artifacts.external(folder)
    artifact = artifacts.run(encode_texts, settings=settings.pick(*ENCODER_SETTINGS), inputs=inputs)
    arrays = load_file(artifact / "features.safetensors")
    place = {text: index for index, text in enumerate(distinct)}
    return FeatureTable(arrays["values"], arrays["tokens"], settings.max_tokens, place, artifact)


def encode_texts(job: Job) -> None:
    """Step: `texts` (a JSON list) to features.safetensors, and how many texts the cap cut to summary.json."""
    texts = json.loads(job.inputs["texts"].path.read_text())
    settings = job.settings
    tokenizer = load_tokenizer(settings.model, truncation_side=settings.truncation_side)
    options = {"layers": settings.layers, "precision": settings.precision, "device": settings.device}
    model = load_model(settings.model, **options)
    with threads():
        values, tokens = encode(
            model, tokenizer, texts, max_tokens=settings.max_tokens, tokens_per_batch=settings.tokens_per_batch
        )
    save_file({"values": values, "tokens": tokens}, job.out / "features.safetensors")
    cut = int((tokens > settings.max_tokens).sum())
    summary = {"texts": len(texts), "cut": cut, "tokens_read": int(np.minimum(tokens, settings.max_tokens).sum())}
    (job.out / "summary.json").write_text(json.dumps(summary))


def encode(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int,
    tokens_per_batch: int = 2048,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the last layer over a text's own tokens, (texts, width) float32; and its tokens before the cut, (texts,).

    Neither the batch's other texts nor the padding side matter beyond rounding (1e-5 in fp32). The tokenizer's
    truncation_side says which end is cut. Raises DataError if a feature is not finite.
    """
    ids, tokens = _tokenise(tokenizer, texts, max_tokens)
    values = np.empty((len(texts), model.config.hidden_size), dtype=np.float32)
    batches = list(_batches([len(row) for row in ids], tokens_per_batch))
    with torch.inference_mode():
        for batch in progress(batches, label="encoding"):
            values[batch] = _pooled(model, tokenizer, [ids[index] for index in batch])
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise DataError("a feature is not finite", where=f"text {bad}", fix="use fp32, and check the model's weights")
    return values, tokens


def _tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], cap: int) -> tuple[list[list[int]], np.ndarray]:
    """Token ids with the special tokens, at most `cap` of them, and each text's count before the cut.

    Cut here and not by the tokenizer, which would have to run twice to say what it cut.
    """
    special = tokenizer.num_special_tokens_to_add()
    room, left = cap - special, tokenizer.truncation_side == "left"
    if room < 1:
        raise DataError(f"{cap} tokens leave no room for text", where="max_tokens", fix=f"use more than {special}")
    bare = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    tokens = np.array([len(row) + special for row in bare], dtype=np.int64)
    kept = [row if len(row) <= room else row[-room:] if left else row[:room] for row in bare]
    before, after = _special_ids(tokenizer)
    return [[*before, *row, *after] for row in kept], tokens


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text: [CLS] and [SEP] for BERT, BOS or nothing for Llamas."""
    probe = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = [place for place in range(len(whole)) if whole[place : place + len(probe)] == probe]
    if not starts:
        fix = "use a tokenizer that only adds tokens before and after a text"
        raise DataError("special tokens change the text's own tokens", where=tokenizer.name_or_path, fix=fix)
    start = starts[0]
    return whole[:start], whole[start + len(probe) :]


def _batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices in batches of at most `budget` padded tokens, texts of like length together, the longest first.

    Longest first, so that a machine with too little memory says so at once, and the time left is not flattered.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _pooled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, ids: list[list[int]]) -> np.ndarray:
    """Mean over real tokens, accumulated in float32 whatever the model's precision: (batch, width)."""
    # Always on the right: padding on the left would shift the absolute positions of a BERT.
    padded = tokenizer.pad({"input_ids": ids}, padding_side="right", return_tensors="pt").to(model.device)
    mask = padded["attention_mask"]
    # Without padding no mask is needed, and attention takes its fast kernel.
    hidden = model(input_ids=padded["input_ids"], attention_mask=None if bool(mask.all()) else mask).last_hidden_state
    weight = mask.unsqueeze(-1).float()
    return ((hidden.float() * weight).sum(1) / weight.sum(1)).cpu().numpy()


def stored(kind: str, value: Any) -> Artifact:
    """A JSON value as an input of a step, kept under the digest of its contents, so that equal values share a file."""
    content = json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii")
    file = runs_folder() / "inputs" / f"{kind}-{hashlib.sha256(content).hexdigest()[:20]}.json"
    if file.is_file() and file.read_bytes() != content:
        note(f"damaged   {file}: written again")
        file.unlink()
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(f"{file}.{os.getpid()}.tmp")
        partial.write_bytes(content)
        os.replace(partial, file)
    return artifacts.external(file)
