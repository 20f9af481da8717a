"""The pairwise preference model (p2.pm): a language model that reads a prompt with two answers and names the better one.

Row: {"messages": [{"role": "user", "content": "[CONTEXT] ... [RESPONSE A] ... [RESPONSE B] ... \n"},
                   {"role": "assistant", "content": "A"}]}

Training is fine-tuning on such conversations, packed. Judging reads the two labels' logits where the assistant's turn
begins, once for each order of the answers. That place depends on the generation prompt: without it the last token is the
user's end of turn, after which no label was ever seen.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, SettingsError
from repro.core.progress import progress
from repro.core.settings import Section
from repro.data.schema import Pair, Turns, Unusable, check_answers
from repro.models.features import stored
from repro.models.generation import encode
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.objectives.pairwise import both_orders, first_preferred
from repro.train.sft import SFT_SETTINGS, sft

CONVERSATIONS, PROBABILITIES = "conversations.jsonl", "probabilities.json"
OWN = ("learning_rate", "epochs", "batch_size", "weight_decay", "optimizer")  # pm_* here is sft_* to the shared step
TOKENS_PER_BATCH = 8192  # padded tokens judged at a time: changes memory and speed, not a probability
Comparison = tuple[Turns, str, str]  # prompt, the answer shown first, the answer shown second


class Template(NamedTuple):
    """How a comparison is put in words: each turn of the prompt, the whole, and the two labels to answer with."""

    turns: dict[str, str]
    end: str
    whole: str
    labels: tuple[str, str]


TEMPLATES = {
    "brackets": Template(  # the released recipe, "[CONTEXT] {x} [RESPONSE A] {a1} [RESPONSE B] {a2} \n"
        {role: f"\n\n<turn> {role}\n {{text}}" for role in ("system", "user", "assistant")},
        "\n\n\n",
        "[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n",
        ("A", "B"),
    ),
    "words": Template(  # in words of the miniature world, whose vocabulary has no brackets and no B
        {"user": " < question > {text}", "assistant": " < answer > {text}"},
        "",
        "{context} < one > {first} < two > {second}",
        ("One", "Two"),
    ),
}


def template_named(name: str) -> Template:
    """The template of that name. Raises SettingsError if there is none."""
    if name not in TEMPLATES:
        raise SettingsError(f"unknown template {name!r}", where="pm_template", fix=f"one of {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def rendered(template: Template, prompt: Turns, first: str, second: str) -> str:
    """The user's turn that asks for a comparison. Raises DataError for a role that the template has no words for."""
    if strange := [role for role, _ in prompt if role not in template.turns]:
        raise DataError(f"a turn of {strange[0]!r}", where="comparison", fix=f"use {', '.join(template.turns)}")
    context = "".join(template.turns[role].format(text=text) for role, text in prompt) + template.end
    return template.whole.format(context=context.lstrip(" "), first=first, second=second)


def conversations(pairs: Sequence[Pair], template: Template, seed: int) -> Iterator[dict[str, Any]]:
    """One conversation a pair, the preferred answer first or second by a coin of `seed`; more begin with the same.

    Raises DataError naming the pair if its answers are equal or one is empty: it has no winner to learn.
    """
    first = np.random.default_rng([seed, 29]).random(len(pairs)) < 0.5
    for place, (pair, chosen_first) in enumerate(zip(pairs, first.tolist(), strict=True)):
        try:
            check_answers(pair.chosen, pair.rejected)
        except Unusable as problem:
            raise DataError(str(problem), where=f"pair {place}", fix="clean the pairs before training") from problem
        shown = (pair.chosen, pair.rejected) if chosen_first else (pair.rejected, pair.chosen)
        asked = {"role": "user", "content": rendered(template, pair.prompt, *shown)}
        yield {"messages": [asked, {"role": "assistant", "content": template.labels[not chosen_first]}]}


def write_conversations(job: Job) -> None:
    """Step: `pairs` (rows of [turns, chosen, rejected]) to conversations.jsonl, in the words of pm_template."""
    rows = json.loads(job.inputs["pairs"].path.read_text())
    pairs = [Pair(tuple(map(tuple, turns)), chosen, rejected, "") for turns, chosen, rejected in rows]
    with (job.out / CONVERSATIONS).open("w", encoding="utf-8") as stream:
        for row in conversations(pairs, template_named(job.settings.pm_template), job.seed or 0):
            stream.write(json.dumps(row) + "\n")


def preference_training(pairs: Sequence[Pair], settings: Section, seed: int, base: Artifact) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs to fine-tune `base` into a preference model (p2.pm).

    settings: pm_template, those of OWN with pm_ before them, pm_packing_block, and the others of SFT_SETTINGS. The step
    is `train.sft.sft`: a comparison longer than a block or the model's context is set aside and counted in history.json.
    Raises DataError as `conversations` does, and as `sft` does.
    """
    rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
    inputs = {"pairs": stored("token_pairs", rows)}
    shown = artifacts.run(write_conversations, settings=settings.pick("pm_template"), inputs=inputs, seed=seed)
    own = settings.renamed(packing_block="pm_packing_block", **{f"sft_{name}": f"pm_{name}" for name in OWN})
    inputs = {"base": base, "conversations": artifacts.external(shown / CONVERSATIONS)}
    return {"step": sft, "settings": own.pick(*SFT_SETTINGS), "inputs": inputs, "seed": seed}


@dataclass(frozen=True)
class PreferenceModel:
    """A language model that compares: fine-tuned by `preference_training`, or any other, which is then only prompted."""

    artifact: Artifact
    settings: Section

    @property
    def history(self) -> dict[str, Any]:
        """The training record: loss, gradient_norm and learning_rate of every step (p2.fig6)."""
        return json.loads((self.artifact / "history.json").read_text())

    def probabilities(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """P(first answer > second answer), both orders averaged, from the artifacts if they were judged before: (pairs,).

        Raises as `judge` does.
        """
        found = artifacts.run(**self.judging(comparisons))
        return np.array(json.loads((found / PROBABILITIES).read_text()))

    def judging(self, comparisons: Sequence[Comparison]) -> dict[str, Any]:
        """What `artifacts.run`, or `run_all` with others, needs for `probabilities`."""
        rows = [[list(map(list, turns)), first, second] for turns, first, second in comparisons]
        inputs = {"model": self.artifact, "comparisons": stored("comparisons", rows)}
        return {"step": preferences, "settings": self.settings.pick("pm_template", "device"), "inputs": inputs}


def preferences(job: Job) -> None:
    """Step: `model` and `comparisons` (rows of [turns, first, second]) to probabilities.json, one number a row."""
    rows = json.loads(job.inputs["comparisons"].path.read_text())
    found = [(tuple(map(tuple, turns)), first, second) for turns, first, second in rows]
    model, tokenizer = _loaded(str(job.inputs["model"].path), job.settings.device)
    with threads(threads_for(model)):
        values = judge(model, tokenizer, found, template_named(job.settings.pm_template))
    (job.out / PROBABILITIES).write_text(json.dumps(values.tolist()))


@lru_cache(maxsize=1)
def _loaded(folder: str, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model(folder, task="language", device=device), load_tokenizer(folder)


def judge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    comparisons: Sequence[Comparison],
    template: Template,
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> Tensor:
    """P(first answer > second answer) of each comparison, both orders averaged: (pairs,) in float64 on the CPU (p2.def1).

    Two equal answers are a tie, 0.5. tokens_per_batch changes memory and speed, not a probability. Raises DataError
    naming the pair if an answer is empty, a comparison is over the model's context or a logit is not finite, and as
    `label_tokens` does.
    """
    for place, (_, first, second) in enumerate(comparisons):
        if not first.strip() or not second.strip():
            raise DataError("an answer is empty", where=f"pair {place}", fix="drop the pair before judging")
    texts = [rendered(template, prompt, *shown) for prompt, *both in comparisons for shown in (both, both[::-1])]
    ids = encode(tokenizer, [(("user", text),) for text in texts])
    limit = min(getattr(model.config, "max_position_embeddings", None) or 10**9, tokenizer.model_max_length)
    if over := [place for place, row in enumerate(ids) if len(row) > limit]:
        what, where = f"{len(ids[over[0]])} tokens exceed the context of {limit}", f"pair {over[0] // 2}"
        raise DataError(what, where=where, fix="drop the pair, or take a model that reads further")
    shown = first_preferred(label_logits(model, ids, label_tokens(tokenizer, template), tokens_per_batch))
    equal = torch.tensor([first == second for _, first, second in comparisons])
    return both_orders(*shown.reshape(-1, 2).T).masked_fill(equal, 0.5)  # not a digit's difference between two batches


def label_tokens(tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[int, int]:
    """The token that each label begins with at the start of an assistant's turn, where " A" and "A" may differ.

    Raises DataError if both begin with the same token, or one with the unknown one.
    """
    found = []
    for label in template.labels:
        asked = {"role": "user", "content": "?"}
        (opened,) = encode(tokenizer, [(("user", "?"),)])
        text = tokenizer.apply_chat_template([asked, {"role": "assistant", "content": label}], tokenize=False)
        said = tokenizer(text, add_special_tokens=False)["input_ids"]
        if said[: len(opened)] != opened or len(said) == len(opened):
            fix = "use a chat template that begins the assistant's turn as its generation prompt does"
            raise DataError(f"the label {label!r} does not follow the generation prompt", where="label_tokens", fix=fix)
        found.append(said[len(opened)])
    if found[0] == found[1] or tokenizer.unk_token_id in found:
        words = tokenizer.convert_ids_to_tokens(found)
        raise DataError(f"the labels begin with {words}", where="label_tokens", fix="choose labels the tokenizer knows")
    return found[0], found[1]


@torch.no_grad()
def label_logits(
    model: PreTrainedModel, ids: Sequence[Sequence[int]], labels: tuple[int, int], tokens_per_batch: int
) -> Tensor:
    """Logits of two tokens as the continuation of each row of ids: (rows, 2) in float64 on the CPU.

    Padded on the left with a mask, so that the last place is the last real token whatever the padding's id.
    """
    found = torch.full((len(ids), 2), torch.nan, dtype=torch.float64)
    ordered = sorted(range(len(ids)), key=lambda place: len(ids[place]), reverse=True)
    batches = []
    while ordered:
        count = max(1, tokens_per_batch // len(ids[ordered[0]]))
        batches.append(ordered[:count])
        del ordered[:count]
    for batch in progress(batches, label="judging"):
        rows = [torch.tensor(ids[place]) for place in batch]
        padded = pad_sequence(rows, batch_first=True, padding_side="left")
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
        given = {"input_ids": padded, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
        given = {name: value.to(model.device) for name, value in given.items()}
        logits = model(**given, use_cache=False, logits_to_keep=1).logits
        found[batch] = logits[:, -1, list(labels)].double().cpu()
    return found
