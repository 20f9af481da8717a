"""The answers of p1's second step: how they differ, whether the presumed better one is, and one row through all steps."""

from collections import defaultdict
from collections.abc import Collection as Group
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from repro.core.records import Record, record
from repro.papers.collection import Candidate, Collection
from repro.papers.collection_prompts import writer_name
from repro.papers.collection_reviews import cell_of
from repro.papers.collection_rows import Writer
from repro.papers.collection_study import PERCENT, CollectionStudy, in_order, interval_of
from repro.world.task import words

STRETCH = 300  # pairs of neighbouring words counted together: more of them repeat more, whoever writes


def diversity_records(found: CollectionStudy) -> list[Record]:
    """p1_01.diversity: each writer's answers to the prompts that step 1 kept, beside the other writers' to the same ones."""
    records = []
    for writer in found.collections[0].hard[0].answers if found.collections[0].hard else ():
        rows = [_diversity(each.hard, writer) for each in found.collections]
        for column in rows[0]:
            factor, unit = (1.0, "") if column == "words" else (PERCENT, "%")
            value = interval_of(row[column] for row in rows).scaled(factor)
            options = {"unit": unit, "seeds": found.seeds}
            records.append(record("p1_01.diversity", writer_name(writer), column, value, **options))
    return records


def presumption_records(found: CollectionStudy) -> list[Record]:
    """p1_01.presumption: by the pair's two writers, how often the one presumed better is, in gold and by the judge's levels."""
    parts: dict[str, list[list[tuple[float, float]]]] = defaultdict(lambda: [[] for _ in found.collections])
    for place, made in enumerate(found.collections):
        for pair, gold, scores in zip(made.candidates, in_order(made.candidates), made.scores, strict=True):
            cell = cell_of(pair, scores)
            judged = np.nan if isinstance(cell, str) else (np.sign(cell[0] - cell[1]) + 1) / 2
            parts[" over ".join(pair.extras["writers"])][place].append((gold, judged))
    records = []
    for row, both in sorted(parts.items()):
        for k, column in enumerate(("in gold's order", "in the judge's order")):
            value = interval_of(np.array(each).reshape(-1, 2)[:, k] for each in both).scaled(PERCENT)
            records.append(record("p1_01.presumption", row, column, value, unit="%", seeds=found.seeds))
    return records


def _diversity(rows: Sequence[Candidate], writer: Writer) -> dict[str, np.ndarray]:
    """By prompt: whether another writer says the same, how many words are shared, words; by stretch of text, distinct-2."""
    said = [words(each.answers[writer]) for each in rows]
    others = [[words(text) for name, text in each.answers.items() if name != writer] for each in rows]
    return {
        "said by another": np.array([own in rest for own, rest in zip(said, others, strict=True)]),
        "words shared": np.array(
            [np.mean([overlap(own, each) for each in rest]) for own, rest in zip(said, others, strict=True)]
        ),
        "distinct-2": distinct(said, STRETCH),
        "words": np.array([len(each) for each in said]),
    }


def overlap(one: Group[str], other: Group[str]) -> float:
    """Words that two answers share by the words in either (Jaccard); 1 for two empty ones."""
    either = set(one) | set(other)
    return len(set(one) & set(other)) / len(either) if either else 1.0


def distinct(answers: Sequence[Sequence[str]], stretch: int) -> np.ndarray:
    """Different pairs of neighbouring words by all of them, in each whole stretch of so many (distinct-2, Li et al. 2016).

    Counted over answers, the longer ones would repeat more; nan alone where there is no whole stretch.
    """
    pairs = [pair for answer in answers for pair in pairwise(answer)]
    ends = range(stretch, len(pairs) + 1, stretch)
    return np.array([len(set(pairs[end - stretch : end])) / stretch for end in ends] or [np.nan])


def followed(made: Collection) -> dict[str, str]:
    """One pair that came through all four steps: what each of them saw and said, as texts under labels; empty if none did."""
    if not made.labelled:
        return {}
    last = made.labelled[0]
    first = next(each for each in made.candidates if each.prompt == last.prompt)
    judged = next(each for each in made.filtered if each.prompt == last.prompt)
    asked = next(each for each in made.hard if each.task.turns == last.prompt)
    (sft, said), (strong, better) = list(asked.answers.items())[:2]
    one, two = first.extras["writers"]
    liked = sum(last.extras["labels"])
    return {
        "the prompt": "\n".join(f"{role}: {text}" for role, text in last.prompt),
        f"step 1, {writer_name(sft)}: reward {asked.rewards[0]:.2f}": said,
        f"step 1, {writer_name(strong)}: reward {asked.rewards[1]:.2f}": better,
        f"step 2, presumed better, {one}": first.chosen,
        f"step 2, presumed worse, {two}": first.rejected,
        f"step 3, level {judged.extras['levels'][0]}": judged.chosen,
        f"step 3, level {judged.extras['levels'][1]}": judged.rejected,
        f"step 4, chosen, by {liked:.0f} of {len(last.extras['labels'])} people": last.chosen,
        "gold, which no step saw": f"chosen {last.extras['gold'][0]:.2f}, rejected {last.extras['gold'][1]:.2f}",
    }
