"""The miniature world's data in the schema that every other set has: demonstrations, preference pairs, prompts with their tasks."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.data.schema import Pair
from repro.world import sources
from repro.world.academic import write_academic
from repro.world.annotators import Annotator

CONVERSATIONS, TEXTS = "conversations.jsonl", "texts.json"
LEXICON = 8_000  # demonstrations that name every word of the world at least once


def demonstrations(count: int, *, style: str = "mixed", seed: int = 0) -> Artifact:
    """Conversations of `world.sources.demonstrations`: mixed (the SFT mix, p2.sft), clean, or bare; more begin with the same."""
    return artifacts.run(write_demonstrations, settings={"count": count, "style": style}, seed=seed)


def write_demonstrations(job: Job) -> None:
    """Step: conversations.jsonl."""
    with (job.out / CONVERSATIONS).open("w", encoding="utf-8") as stream:
        for row in sources.demonstrations(job.settings.count, job.seed or 0, style=job.settings.style):
            stream.write(json.dumps(row) + "\n")


def lexicon() -> Artifact:
    """Texts that hold every word of the world, for a vocabulary that all policies share."""
    return artifacts.run(write_lexicon, settings={"count": LEXICON}, seed=0)


def write_lexicon(job: Job) -> None:
    """Step: texts.json, the texts of some demonstrations with and without faults."""
    rows = [
        row
        for style in sources.STYLES
        for row in sources.demonstrations(job.settings.count, job.seed or 0, style=style)
    ]
    texts = sorted({message["content"] for row in rows for message in row["messages"]})
    (job.out / TEXTS).write_text(json.dumps(texts))


def academic_sets(count: int, *, seed: int = 0) -> Artifact:
    """The six academic benchmarks as lm-eval reads them, `count` test items each."""
    return artifacts.run(write_academic_sets, settings={"count": count}, seed=seed)


def write_academic_sets(job: Job) -> None:
    """Step: <name>.jsonl, and train/<name>.jsonl with examples, of each set."""
    write_academic(job.out, job.settings.count, max(job.settings.count // 4, 1), job.seed or 0)


def as_pairs(rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Preference rows of `world.sources` as pairs; the task and both gold rewards stay in `extras`."""
    return [Pair(row["prompt"], row["chosen"], row["rejected"], row["source"], row["extras"]) for row in rows]


def pairs(
    names: str | Sequence[str], count: int, seed: int, split: str = "train", annotator: Annotator | None = None
) -> list[Pair]:
    """Cleaned pairs of a mixture ("mix1", "mix2" or source names), labelled anew by `annotator` if one is given."""
    return as_pairs(sources.mixture(names, count, seed, split, annotator))
