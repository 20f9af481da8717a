"""UGDA's policies before the judge: two by two on the test prompts, and on the chat benchmarks (p3.fig2 to p3.fig5, p3.c7).

The judge gives each answer a level of 1 to 5 by itself, so there is no first place for it to prefer. Every answer of one
policy meets every answer of the other to the same prompt: equal levels are a tie. What a policy leads another by is its
wins less its losses, which ties leave alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.artifacts import Artifact
from repro.core.errors import SettingsError
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.models.answers import sampled
from repro.papers.chat_benchmarks import (
    BOTH,
    CHAT,
    CONTROLLED,
    HARD,
    WIN,
    Policies,
    Scores,
    chat_scores,
    everyone,
    said,
    two_turn_scores,
)
from repro.papers.miniature import policy
from repro.papers.ugda_methods import Method
from repro.papers.ugda_prompts import test_prompts
from repro.papers.ugda_study import OTHERS, SFT, UGDA, Study
from repro.world.annotators import Judge

WINS, TIES, LOSSES, LEAD = "wins", "ties", "losses", "wins less losses"
AGAINST = " against "
SAME = "same samples (%)"
STRONG = "strong"  # whom everyone meets on the chat benchmarks
TERMS = ("gain_smallest_dimension", "gain_middle_dimension", "gain_largest_dimension")  # of p3.c7
PERCENT = 100.0


def policies_of(found: Study, names: Sequence[str]) -> dict[str, list[Artifact]]:
    """By name the policy of each seed, for `judged` and `benchmarks`; SFT's is the one that all seeds begin with."""
    return {
        name: [
            one.sft if name == SFT else each[name].policy for one, each in zip(found.found, found.outcomes, strict=True)
        ]
        for name in names
    }


# two by two


@dataclass(frozen=True)
class Judged:
    """The judge's levels by policy, (seeds, prompts, answers), of the test prompts, helpful ones first."""

    levels: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    def shares(self, first: str, second: str) -> dict[str, np.ndarray]:
        """Percent of each prompt's answer pairs that the first policy wins, ties and loses, (seeds, prompts) each."""
        ours, theirs = self.levels[first][..., :, None], self.levels[second][..., None, :]
        kinds = {WINS: ours > theirs, TIES: ours == theirs, LOSSES: ours < theirs}
        return {name: PERCENT * each.mean((-2, -1)) for name, each in kinds.items()}

    def lead(self, first: str, others: Sequence[str]) -> Interval:
        """Wins less losses in percent, mean over the others; by prompts and seeds, on which all are paired."""
        found = [self.shares(first, other) for other in others]
        return mean_interval(np.mean([each[WINS] - each[LOSSES] for each in found], axis=0))

    def records(self, id: str, firsts: Sequence[str], others: Sequence[str]) -> list[Record]:
        """p3.fig2, p3.fig4, p3.fig5: a row for every two, wins, ties, losses and wins less losses in percent."""
        found = []
        for first in firsts:
            for other in others:
                row = f"{first}{AGAINST}{other}"
                columns = {name: mean_interval(each) for name, each in self.shares(first, other).items()}
                columns[LEAD] = self.lead(first, [other])
                found += [record(id, row, name, each, unit="%", seeds=self.seeds) for name, each in columns.items()]
        return found


def judged(policies: Policies, world: Section, settings: Section, seeds: Sequence[int]) -> Judged:
    """Every policy's answers to UGDA's test prompts, those that gold measures as well, by the judge's level.

    settings: test_prompts, answers. Raises DataError as `Judge.score` does.
    """
    asked, judge, known = test_prompts(settings), Judge(), {}
    rows = [task for task in asked for _ in range(settings.answers)]

    def levels(model: Artifact) -> np.ndarray:
        if model.digest not in known:
            texts = sampled(model, [task.turns for task in asked], world, n=settings.answers, seed=0).texts
            scores = judge.score(rows, [text for each in texts for text in each])
            known[model.digest] = scores.reshape(len(asked), settings.answers)
        return known[model.digest]

    return Judged({name: np.array([levels(model) for model in each]) for name, each in policies.items()}, tuple(seeds))


def stacks(rows: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """What `figures.stacked` draws: by first policy and by second, wins, ties and losses, that add up to 100."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if row.column != LEAD:
            first, second = row.row.split(AGAINST)
            found.setdefault(first, {}).setdefault(second, {})[row.column] = row.value
    return found


# projection dimensions


def dimension_methods(settings: Section) -> dict[str, Method]:
    """UGDA at each of `influence_dimensions`, from the smallest to the largest; 0 is without projection, and the largest."""
    ordered = sorted(settings.influence_dimensions, key=lambda each: each or np.inf)
    return {f"UGDA, d = {each}" if each else "UGDA, exact": Method(dimension=each) for each in ordered}


def dimension_evidence(found: Judged, names: Sequence[str], others: Sequence[str] = OTHERS) -> dict[str, Interval]:
    """p3.c7: wins less losses in percent at three dimensions, mean over the baselines.

    names: as `dimension_methods` orders them. Raises SettingsError if they are not three.
    """
    if len(names) != len(TERMS):
        fix = "name three in influence_dimensions"
        raise SettingsError(f"{len(names)} dimensions where the claim has three", where="p3.c7", fix=fix)
    return {term: found.lead(name, others) for term, name in zip(TERMS, names, strict=True)}


def dimension_records(
    found: Study, verdicts: Judged, names: Sequence[str], others: Sequence[str] = OTHERS
) -> list[Record]:
    """p3_03.dimensions: by dimension, percent of its samples that the largest has too, over samples, and what UGDA leads by.

    names: as `dimension_methods` orders them, the largest last.
    """
    rows = []
    for name in names:
        chosen = [[each[who].selection.places for who in (name, names[-1])] for each in found.outcomes]
        gain = found.gold(name) - np.mean([found.gold(other) for other in others], axis=0)
        columns = {
            SAME: mean_interval(PERCENT * np.array([np.isin(*pair) for pair in chosen])),
            "gold over the baselines": mean_interval(gain),
            f"{LEAD} (%)": verdicts.lead(name, others),
        }
        rows += [record("p3_03.dimensions", name, column, each, seeds=found.seeds) for column, each in columns.items()]
    return rows


# chat benchmarks


@dataclass(frozen=True)
class Benchmarks:
    """Win rates against the strong policy on the chat set and the hard set in percent, two-turn scores of 1 to 10."""

    chat: Scores
    two_turn: Scores

    @property
    def columns(self) -> dict[str, tuple[Scores, str]]:
        """The paper's three, and AlpacaEval with length control, by their titles."""
        return {
            "AlpacaEval": (self.chat, f"{CHAT}, {WIN}"),
            "AlpacaEval, length-controlled": (self.chat, f"{CHAT}, {CONTROLLED}"),
            "Arena-Hard": (self.chat, f"{HARD}, {WIN}"),
            "MT-Bench": (self.two_turn, BOTH),
        }

    def records(self) -> list[Record]:
        """p3.fig3: a row a policy, a column a benchmark."""
        return [row for title, (one, own) in self.columns.items() for row in one.records("p3.fig3", {own: title})]

    def gain_records(self, others: Sequence[str] = (SFT, *OTHERS)) -> list[Record]:
        """p3_03.benchmarks: UGDA less each other policy on each benchmark, paired by prompt and seed."""
        return [
            record("p3_03.benchmarks", f"{UGDA} less {other}", title, one.difference(own, UGDA, other), seeds=one.seeds)
            for other in others
            for title, (one, own) in self.columns.items()
        ]


def benchmarks(policies: Policies, world: Section, items: int, seeds: Sequence[int]) -> Benchmarks:
    """Policies on the world's three chat benchmarks, as in p2's chapter. items: prompts of each set."""
    answers = everyone(policies, world, items, seeds)
    baseline = said(policy(STRONG, world), world, items, 0)
    return Benchmarks(chat_scores(answers, baseline, seeds), two_turn_scores(answers, seeds))
