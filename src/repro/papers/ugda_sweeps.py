"""How much of UGDA's result its settings carry, and what each method costs: sensitivity to gamma, eta, members and labels.

A setting is measured where it acts first, on the reward model: the share of the collecting policy's answers to a test
prompt that the refined ensemble puts in gold's order. Beside UGDA's selection stands a random one of as many samples, so
that what more labels do is not taken for what choosing them does. Only the number of labels is followed to the policy.

Every point refines on the samples that three members collected, whatever its own number of members: then it differs from
the others in what is swept alone, and no policy is trained for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from repro.core.artifacts import HISTORY, MANIFEST
from repro.core.parallel import ahead
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.papers.experts import JUDGE, OWN
from repro.papers.ugda import Interactions, Outcome, chapter_settings, influence_of, refinement, reward_ensemble
from repro.papers.ugda_measures import accuracy
from repro.papers.ugda_methods import BOTH, EVERYTHING, INFLUENCE, NONE, RANDOM, Method
from repro.papers.ugda_prompts import test_prompts
from repro.papers.ugda_study import Study, study
from repro.train.ensemble import RewardEnsemble

GAMMA, ETA, MEMBERS, LABELS = "gamma", "eta", "members", "labels (%)"  # what is swept
CHOSEN, AT_RANDOM = "UGDA's selection", "random selection"
SELECTORS = {CHOSEN: BOTH, AT_RANDOM: RANDOM}
UNREFINED = "not refined"
STAGES = ("reward LoRAs", "collecting PPO", "influence", "refining", "last PPO")  # whose seconds are told
PERCENT = 100.0


@dataclass(frozen=True)
class Point:
    """One setting: who selects and relabels, the two thresholds, how many members."""

    method: Method
    gamma: float
    eta: float
    members: int

    def over(self, settings: Section) -> Section:
        """The section p3_03_ugda with this point's values, and the share of samples that they leave."""
        share = (1 - self.gamma) * (1 - self.eta)
        own = {"gamma": self.gamma, "eta": self.eta, "members": self.members, "annotated_share": share}
        return settings.pick(*(key for key in settings if key not in own), **own)


Plan = dict[tuple[str, float, str], Point]  # by what is swept, its value and who selects


def plan(settings: Section) -> Plan:
    """Every point of the four sweeps. settings: sweep_gammas, sweep_etas, sweep_members, sweep_budgets, and UGDA's own."""
    own = {"gamma": settings.gamma, "eta": settings.eta, "members": settings.members}
    swept = {GAMMA: settings.sweep_gammas, ETA: settings.sweep_etas, MEMBERS: settings.sweep_members}
    found: Plan = {}
    for name, selection in SELECTORS.items():
        for what, values in swept.items():
            found |= {(what, each, name): Point(Method(selection), **{**own, what: each}) for each in values}
        for share in settings.sweep_budgets:
            found[LABELS, PERCENT * share, name] = at_budget(share, selection, own)
    return found


def at_budget(share: float, selection: str, own: Mapping[str, float]) -> Point:
    """Both thresholds equal, as in the paper; no label and every label leave nothing to select."""
    if share in (0, 1):
        return Point(Method(EVERYTHING if share else NONE), **own)
    threshold = 1 - share**0.5
    return Point(Method(selection), **{**own, "gamma": threshold, "eta": threshold})


def relabelling(settings: Section) -> dict[str, Point]:
    """The ensemble's own mean in the judge's place, for UGDA's selection and a random one; and no refinement."""
    own = settings.gamma, settings.eta, settings.members
    points = {UNREFINED: Point(Method(NONE), *own)}
    for name, selection in SELECTORS.items():
        points |= {f"{name}, {said}": Point(Method(selection, expert=said), *own) for said in (JUDGE, OWN)}
    return points


@dataclass(frozen=True)
class Sweeps:
    """Accuracy on gold order after refinement at every point, (seeds, prompts), in percent of answer pairs."""

    accuracy: dict[Point, np.ndarray]
    settings: Section
    seeds: tuple[int, ...]

    def curve(self, what: str) -> list[Record]:
        """p3_03.sensitivity: accuracy in percent against one setting, by who selects."""
        return [
            record("p3_03.sensitivity", name, f"{swept} = {value:g}", self.of(point), unit="%", seeds=self.seeds)
            for (swept, value, name), point in plan(self.settings).items()
            if swept == what
        ]

    def difference_records(self) -> list[Record]:
        """p3_03.selection_gain: points of accuracy that choosing adds to a random draw of as many samples, paired."""
        points, found = plan(self.settings), []
        for (what, value, name), point in points.items():
            other = points[what, value, AT_RANDOM]
            if name == CHOSEN and point != other:
                columns = {"labels (%)": _share(point), "points over random": self.gain(point, other)}
                columns["points over no refinement"] = self.gain(point, self._unrefined(point))
                row = f"{what} = {value:g}"
                found += [record("p3_03.selection_gain", row, *each, seeds=self.seeds) for each in columns.items()]
        return found

    def relabelling_records(self) -> list[Record]:
        """p3_03.relabelling: accuracy by who selects and who relabels, and points over no refinement."""
        points, found = relabelling(self.settings), []
        for name, point in points.items():
            columns = {"gold order (%)": self.of(point)}
            if name != UNREFINED:
                columns["points over no refinement"] = self.gain(point, points[UNREFINED])
            found += [record("p3_03.relabelling", name, *each, seeds=self.seeds) for each in columns.items()]
        return found

    def of(self, point: Point) -> Interval:
        """Percent of answer pairs in gold's order, over prompts and seeds."""
        return mean_interval(self.accuracy[point])

    def gain(self, point: Point, other: Point) -> Interval:
        """Points of accuracy of one setting over another, paired by prompt and seed."""
        return difference_interval(self.accuracy[point], self.accuracy[other])

    def _unrefined(self, point: Point) -> Point:
        return Point(Method(NONE), self.settings.gamma, self.settings.eta, point.members)


def _share(point: Point) -> float:
    return PERCENT * (1 - point.gamma) * (1 - point.eta)


def sweeps(found: Study, world: Section, settings: Section) -> Sweeps:
    """Every point's ensemble refined and measured for every seed. found: what was collected; settings: p3_03_ugda."""
    wanted = [*plan(settings).values(), *relabelling(settings).values()]
    wanted += [Point(Method(NONE), settings.gamma, settings.eta, each) for each in settings.sweep_members]
    points = list(dict.fromkeys(wanted))
    collected = list(zip(found.found, found.seeds, strict=True))
    for one, seed in collected:  # what all points share, before they are measured beside each other
        influence_of(one, world, settings, seed)
        for point in {each.members: each for each in points}.values():
            reward_ensemble(world, point.over(settings), seed)
    calls = {point: [(point, one, world, settings, seed) for one, seed in collected] for point in points}
    ahead(refined_accuracy, [call for each in calls.values() for call in each], world.workers)
    values = {point: np.array([refined_accuracy(*call) for call in each]) for point, each in calls.items()}
    return Sweeps(values, settings, found.seeds)


def refined_accuracy(point: Point, found: Interactions, world: Section, settings: Section, seed: int) -> np.ndarray:
    """Percent of answer pairs in gold's order under the point's ensemble, (prompts,), nan where all are worth the same.

    The answers are those of the policy that collected. Raises as `refinement` and `accuracy` do.
    """
    own = point.over(settings)
    if point.members != settings.members:
        found = rescored(found, world, own, seed)
    ensemble = refinement(point.method, found, world, own, seed).ensemble
    by_subtask = accuracy(ensemble, found.run, test_prompts(settings), world, own)
    return PERCENT * np.concatenate(list(by_subtask.values()))


def rescored(found: Interactions, world: Section, settings: Section, seed: int) -> Interactions:
    """The same samples, rewarded by an ensemble of another number of members. settings: with that number.

    Fewer members are the first of those that collected. More of them read the answers as texts, where PPO read tokens: a
    difference only for answers that were cut.
    """
    ensemble, count = reward_ensemble(world, settings, seed), settings.members
    rewards = found.rewards[:count]
    if count > len(rewards):
        scorer = RewardEnsemble(ensemble, chapter_settings(world, settings))
        texts = [task.turns for task in found.tasks], [[text] for text in found.texts]
        rewards = scorer.member_rewards(*texts)[..., 0]
    return replace(found, ensemble=ensemble, rewards=rewards)


# labels, followed to the policy


def budget_gold(world: Section, settings: Section, seeds: Sequence[int]) -> dict[tuple[float, str], np.ndarray]:
    """Gold of the policy by percent of labels and who selects, (seeds, prompts); thresholds and points as in `plan`."""
    chosen = {(value, name): point for (what, value, name), point in plan(settings).items() if what == LABELS}
    found = {}
    for value in dict.fromkeys(value for value, _ in chosen):
        points = {name: chosen[value, name] for name in SELECTORS}
        made = study({name: each.method for name, each in points.items()}, world, points[CHOSEN].over(settings), seeds)
        found |= {(value, name): made.gold(name) for name in points}
    return found


def budget_records(gold: Mapping[tuple[float, str], np.ndarray], seeds: Sequence[int]) -> list[Record]:
    """p3_03.budgets: gold by percent of labels and who selects."""
    return [
        record("p3_03.budgets", name, f"{LABELS} = {value:g}", mean_interval(each), seeds=seeds)
        for (value, name), each in gold.items()
    ]


def budget_gain_records(gold: Mapping[tuple[float, str], np.ndarray], seeds: Sequence[int]) -> list[Record]:
    """p3_03.budget_gains: gold over no labels by who selects, and over a random selection of as many, paired."""
    found = []
    for (value, name), each in gold.items():
        gains = {f"{name} over none": (each, gold[0.0, name])} if value else {}
        if name == AT_RANDOM and 0 < value < PERCENT:
            gains["UGDA's over random"] = gold[value, CHOSEN], each
        row = f"{LABELS} = {value:g}"
        found += [
            record("p3_03.budget_gains", row, what, difference_interval(*two), seeds=seeds)
            for what, two in gains.items()
        ]
    return found


def labels_gain(gold: Mapping[tuple[float, str], np.ndarray]) -> Interval:
    """Gold of the policy with every sample labelled less that with none, paired: the room that selectors share."""
    return difference_interval(gold[PERCENT, CHOSEN], gold[0.0, CHOSEN])


# cost


def cost_grid(found: Study, world: Section, settings: Section) -> tuple[list[str], list[list[str]]]:
    """One line a method, means over seeds: labels, PPO's iterations, and seconds of each stage as if it shared none.

    Seconds are those of the machine, and of what else it did, when a stage was computed: they are shown, not recorded.
    Influence is of all `influence_dimensions` at once.
    """
    header = ["method", "labels", "PPO iterations", *STAGES, "all, seconds"]
    lines = []
    for name in found.outcomes[0]:
        each = zip(found.found, found.outcomes, found.seeds, strict=True)
        rows = [method_cost(one, done[name], world, settings, seed) for one, done, seed in each]
        counts, seconds = np.mean([row[:2] for row in rows], axis=0), np.mean([row[2:] for row in rows], axis=0)
        lines.append(
            [name, *(f"{value:,.0f}" for value in counts), *(f"{value:,.1f}" for value in (*seconds, seconds.sum()))]
        )
    return header, lines


def method_cost(found: Interactions, done: Outcome, world: Section, settings: Section, seed: int) -> list[float]:
    """Labels, PPO's iterations, and the seconds of STAGES; a method without labels collects nothing."""
    collects = done.method.selection != NONE
    influence = 0.0
    if done.method.selection in (BOTH, INFLUENCE):
        influence_of(found, world, settings, seed, done.method.dimension)
        influence = HISTORY[-1]["seconds"]  # of what was found or computed last
    seconds = [seconds_of(found.ensemble.path), seconds_of(found.run.path) * collects, influence]
    seconds += [seconds_of(done.ensemble.path) * collects, seconds_of(done.policy.path)]
    return [done.labels, settings.ppo_iterations * (1 + collects), *seconds]


def seconds_of(made: Path) -> float:
    """Seconds of a step's folder, and of what it only puts together: members, or the ensemble that it rescales."""
    manifest = json.loads((made / MANIFEST).read_text())
    whole = ("ensemble", "rewards") if manifest["step"].endswith("rescaled") else ()
    parts = [each["path"] for name, each in manifest["from"].items() if name in whole or name.startswith("member_")]
    return manifest["seconds"] + sum(seconds_of(Path(part)) for part in parts)
