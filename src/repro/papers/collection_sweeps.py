"""p1's open dials turned: epsilon, the mask of p1.table1, and the noise of labels, none of which the paper publishes.

Each re-runs the steps behind it on answers, scores and draws that are there already; what is lost and retained by each
value, and how many of the pairs that remain are in gold's order.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.data import Pair
from repro.papers.collection import Candidate, Collection
from repro.papers.collection_prompts import completed, keep_hard, pair_up, with_gold
from repro.papers.collection_reviews import LEVELS, filter_pairs, label_pairs, mask_of, reviewed, scores_of
from repro.papers.collection_rows import Graded
from repro.papers.collection_study import NAMES, PERCENT, CollectionStudy, funnel_of, in_order, interval_of
from repro.world.annotators import Panel, panel
from repro.world.sources import annotators

AFTER3, AFTER4 = "in gold's order after step 3", "in gold's order after step 4"
DEFAULT = "the text's"
EPSILON, CARELESS, REVIEWERS = "epsilon", "carelessness", "reviewers"


@dataclass(frozen=True)
class Outcome:
    """What one setting of the dials leaves, of one seed."""

    pool: Sequence[Candidate]
    hard: Sequence[Candidate]
    candidates: Sequence[Pair]
    filtered: Sequence[Pair]
    labelled: Sequence[Pair]


def masks(default: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The settings' mask and alternatives that the paper's text leaves open, booleans (5, 5) of (r+, r-)."""
    plus, minus = np.indices((LEVELS, LEVELS))
    apart = abs(plus - minus)
    return {
        DEFAULT: mask_of(default),
        "also 5-1 and 1-5": apart >= 1,
        "apart by 1 or 2": (apart == 1) | (apart == 2),
        "apart by 1": apart == 1,
        "apart by 2 or 3": (apart == 2) | (apart == 3),
        "only r+ above r-": (plus > minus) & (apart < LEVELS - 1),
    }


def outcome_of(
    made: Collection,
    settings: Section,
    seed: int,
    *,
    mask: np.ndarray | None = None,
    people: Panel | None = None,
    reviewers: int | None = None,
) -> Outcome:
    """A collection's steps 3 and 4 again, with another mask, panel or number of reviewers; what is not given is as it was."""
    filtered, _ = filter_pairs(made.candidates, made.scores, mask_of(settings.mask) if mask is None else mask)
    asked = people or annotators()["human"], reviewers or settings.reviewers
    return Outcome(made.pool, made.hard, made.candidates, *_labelled(filtered, made.graded, *asked, settings, seed))


def _labelled(
    filtered: Sequence[Pair], graded: Graded, people: Panel, reviewers: int, settings: Section, seed: int
) -> tuple[list[Pair], list[Pair]]:
    reviews = reviewed(filtered, graded, people, reviewers, seed)
    return label_pairs(filtered, reviews, settings.quality_floor, settings.contradicted)[:2]


def outcome_records(id: str, column: str, outcomes: Sequence[Outcome], seeds: Sequence[int]) -> list[Record]:
    """One column of a sweep: losses and retained, and the shares in gold's order after steps 3 and 4; percent."""
    found = funnel_of([(o.pool, o.hard, o.candidates, o.filtered, o.labelled) for o in outcomes])
    shown = {NAMES[name]: value for name, value in found.items()}
    shown[AFTER3] = interval_of(in_order(each.filtered) for each in outcomes)
    shown[AFTER4] = interval_of(in_order(each.labelled) for each in outcomes)
    return [record(id, row, column, value.scaled(PERCENT), unit="%", seeds=seeds) for row, value in shown.items()]


def epsilon_records(world: Section, settings: Section, found: CollectionStudy) -> list[Record]:
    """p1_01.epsilon: the funnel by threshold. The prompts that step 1 dropped get their answers, scores and labels too.

    settings: epsilons.
    """
    whole = [_whole(made, world, settings, seed) for made, seed in zip(found.collections, found.seeds, strict=True)]
    records = []
    for epsilon in settings.epsilons:
        outcomes = []
        for each in whole:
            hard, _ = keep_hard(each.pool, epsilon)
            left = {candidate.task.turns for candidate in hard}
            rest = (
                [pair for pair in pairs if pair.prompt in left]
                for pairs in (each.candidates, each.filtered, each.labelled)
            )
            outcomes.append(Outcome(each.pool, hard, *rest))
        records += outcome_records("p1_01.epsilon", f"{EPSILON} = {epsilon:g}", outcomes, found.seeds)
    return records


def _whole(made: Collection, world: Section, settings: Section, seed: int) -> Outcome:
    """Steps 2 to 4 of every prompt of the pool."""
    left = {each.task.turns for each in made.hard}
    easy = [each for each in made.pool if each.task.turns not in left]
    pairs, _ = pair_up(completed(easy, world, settings, seed), settings, seed)
    graded = Graded.of(pairs)
    pairs = with_gold(pairs, graded)
    filtered, _ = filter_pairs(pairs, scores_of(pairs, graded), mask_of(settings.mask))
    filtered, labelled = _labelled(filtered, graded, annotators()["human"], settings.reviewers, settings, seed)
    return Outcome(
        made.pool,
        made.pool,
        [*made.candidates, *pairs],
        [*made.filtered, *filtered],
        [*made.labelled, *labelled],
    )


def epsilon_for(found: CollectionStudy, loss: float) -> float:
    """The threshold that loses this share of the prompts at step 1: a quantile of p1.eq2's difference, over all seeds."""
    margins = [each.rewards[1] - each.rewards[0] for made in found.collections for each in made.pool]
    return float(np.quantile(margins, loss))


def mask_records(settings: Section, found: CollectionStudy) -> list[Record]:
    """p1_01.masks: the funnel behind step 2 by mask, masks as rows."""
    records = []
    for name, mask in masks(settings.mask).items():
        rows = outcome_records("p1_01.masks", name, _again(settings, found, mask=mask), found.seeds)
        records += [
            record(r.id, name, r.row, r.interval, unit=r.unit, seeds=found.seeds)
            for r in rows
            if r.row != "lost at step 1"
        ]
    return records


def noise_records(settings: Section, found: CollectionStudy) -> list[Record]:
    """p1_01.carelessness and p1_01.reviewers: the funnel's last step by how careless people are, and by how many review a pair.

    settings: carelessness, panels.
    """
    records = []
    for share in settings.carelessness:
        outcomes = _again(settings, found, people=panel(careless=share))
        records += outcome_records("p1_01.carelessness", f"{CARELESS} = {share:g}", outcomes, found.seeds)
    for count in settings.panels:
        outcomes = _again(settings, found, reviewers=count)
        records += outcome_records("p1_01.reviewers", f"{REVIEWERS} = {count}", outcomes, found.seeds)
    return records


def _again(settings: Section, found: CollectionStudy, **dials: Any) -> list[Outcome]:
    """Steps 3 and 4 of every seed with these dials."""
    both = zip(found.collections, found.seeds, strict=True)
    return [outcome_of(made, settings, seed, **dials) for made, seed in both]


def picked(records: Iterable[Record], *rows: str) -> list[Record]:
    """The records of these rows, in this order."""
    return [each for row in rows for each in records if each.row == row]
