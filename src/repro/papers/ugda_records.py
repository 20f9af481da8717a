"""What UGDA's chapter shows of its study: p3.table2, p3.fig4, whether selecting can work, PPO's course, how many seeds.

One seed's interval is over prompts (or samples); several seeds' is over both, but for rank correlations, whose interval
is then over seeds alone: no two seeds rank the same samples.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from repro.core.errors import DataError
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import LEVEL, Interval, mean_interval
from repro.objectives.relabel import quantiles
from repro.papers.experts import JUDGE, levels_of
from repro.papers.miniature import graded, pool
from repro.papers.ugda import Interactions, Outcome, chapter_settings
from repro.papers.ugda_measures import SelectionCheck, accuracy, rank_error, selection_check
from repro.papers.ugda_methods import BASELINES, NARROW, PPO, UNLABELLED, VARIANTS
from repro.papers.ugda_prompts import HARMLESS, SUBTASKS, subtask_of, test_prompts
from repro.papers.ugda_study import OTHERS, PERCENT, SFT, UGDA, Study, apart
from repro.train.ensemble import RewardEnsemble
from repro.world.task import Task

TABLE = (SFT, *UNLABELLED, *BASELINES, UGDA)
CONTROLLED = (PPO, "own labels", "RLR", "UGDA(RA)", UGDA, *NARROW, "all labelled")
LOWER = tuple(VARIANTS)[:-1]  # UGDA with a selection taken away
CONTRASTS = [(name, SFT) for name in (*OTHERS, UGDA)] + [(UGDA, name) for name in (*OTHERS, *LOWER)] + [("RLR", PPO)]
CHECKS = {
    "variance with error by gold": "error",
    "variance with error by the judge": "judged",
    "variance with one sample's gain": "doubt_gain",
    "influence with one sample's gain": "gain",
}
BOTH = "both"
POWER, MANY, GRID = 0.8, 1000, 2000


def table_records(found: Study) -> list[Record]:
    """p3.table2: labels, Avg_Reward and Var_Reward of helpful and harmless prompts, and KL to the SFT policy in nats."""
    rows = []
    for name in TABLE:
        labels = 0 if name == SFT else found.outcomes[0][name].labels
        rows.append(record("p3.table2", name, "#labels", float(labels), seeds=found.seeds))
        for subtask in SUBTASKS:
            for column, value in (("Avg_Reward", found.reward), ("Var_Reward", found.variance)):
                rows.append(record("p3.table2", name, f"{subtask} {column}", value(name, subtask), seeds=found.seeds))
        rows.append(record("p3.table2", name, "KL", strayed(found, name), seeds=found.seeds))
    return rows


def strayed(found: Study, name: str) -> Interval | None:
    """KL of a policy to SFT in nats, over finished answers; None if none was finished."""
    ratio = found.of(name, "log_ratio")
    return mean_interval(ratio) if np.isfinite(ratio).any() else None


def widths(found: Study, name: str) -> float:
    """SD of the members' rewards of the reference answers in SDs of before the refinement, mean over members and seeds.

    What a rescaled ensemble was divided by; 1 without refinement, nan where nothing was rescaled after it.
    """
    parts = []
    for run, outcomes in zip(found.found, found.outcomes, strict=True):
        own = outcomes[name]
        sds = [json.loads((each / "ensemble.json").read_text())["sd"] for each in (own.ensemble, run.ensemble)]
        parts.append(np.divide(*sds).mean() if own.method.rescaled else math.nan)
    return float(np.mean(parts))


def gain_records(id: str, found: Study, names: Sequence[str], other: str) -> list[Record]:
    """Gold of policies less another's, paired: a row a policy, a column for both subtasks together and for each."""
    return [
        record(id, f"{name} less {other}", subtask or BOTH, found.gain(name, other, subtask), seeds=found.seeds)
        for name in names
        for subtask in (None, *SUBTASKS)
    ]


def ablation_records(found: Study) -> list[Record]:
    """p3.fig4: gold of each variant, and of UGDA less it, on both subtasks together and on each."""
    rows = [
        record("p3.fig4", name, subtask or BOTH, found.reward(name, subtask), seeds=found.seeds)
        for name in VARIANTS
        for subtask in (None, *SUBTASKS)
    ]
    return rows + [row for name in LOWER for row in gain_records("p3.fig4", found, [UGDA], name)]


# whether selecting can work


def checks(found: Study, world: Section, settings: Section) -> list[SelectionCheck]:
    """`selection_check` of every seed. settings: section p3_03_ugda."""
    pairs = zip(found.found, found.seeds, strict=True)
    return [selection_check(each, world, settings, seed) for each, seed in pairs]


def check_records(made: Sequence[SelectionCheck], seeds: Sequence[int]) -> list[Record]:
    """p3_03.check: the rank correlations that the two selections rest on; of several seeds their mean, over seeds."""
    rows = []
    for name, field in CHECKS.items():
        each: list[Interval] = [getattr(one, field) for one in made]
        values = np.array([[one.value] for one in each])
        known = np.isfinite(values).any()
        value = each[0] if len(each) == 1 else _within_one(mean_interval(values)) if known else None
        rows.append(record("p3_03.check", name, "rank correlation", value, seeds=seeds, n=each[0].n))
    return rows


def _within_one(found: Interval) -> Interval:
    """An interval of a correlation: two seeds that differ would else reach beyond what it can be."""
    return Interval(found.value, max(found.low, -1.0), min(found.high, 1.0), found.n)


def control_records(found: Study, world: Section, settings: Section) -> list[Record]:
    """p3_03.controls: gold over PPO's, and percent of answer pairs that the ensemble puts in gold's order, by who wrote them.

    Own labels are the same extra training without a new label; all labelled is four times the labels, and the steps. SD
    left: of the members' rewards on the reference answers, of 1 before refinement and rescaling; SD of pay: of the mean
    on the answers of PPO's policy; KL: of the method's policy, in nats.
    """
    asked, rows, each_seed = test_prompts(settings), [], list(zip(found.found, found.outcomes, strict=True))
    for name in CONTROLLED:
        labels = float(found.outcomes[0][name].labels)
        rows.append(record("p3_03.controls", name, "#labels", labels, seeds=found.seeds))
        if name != PPO:
            rows.append(record("p3_03.controls", name, "gold over PPO", found.gain(name, PPO), seeds=found.seeds))
        if found.outcomes[0][name].method.rescaled:
            rows.append(record("p3_03.controls", name, "SD left", widths(found, name), seeds=found.seeds))
        paid = [_pay(run, outcomes[name], asked, world, settings) for run, outcomes in each_seed]
        rows.append(record("p3_03.controls", name, "SD of pay", float(np.mean(paid)), seeds=found.seeds))
        rows.append(record("p3_03.controls", name, "KL", strayed(found, name), seeds=found.seeds))
        for writer in (SFT, PPO):
            right = []
            for run, outcomes in each_seed:
                said = accuracy(outcomes[name].ensemble, run.sft if writer == SFT else run.run, asked, world, settings)
                right.append(np.concatenate([said[subtask] for subtask in SUBTASKS]))
            value = mean_interval(right).scaled(PERCENT) if np.isfinite(right).any() else None
            rows.append(record("p3_03.controls", name, f"{writer}'s answers (%)", value, seeds=found.seeds))
    return rows


def _pay(found: Interactions, done: Outcome, asked: Sequence[Task], world: Section, settings: Section) -> float:
    """SD of the mean that an ensemble pays for the answers of the policy that collected, to these prompts."""
    answers, own = pool(found.run, asked, world, n=settings.accuracy_answers), chapter_settings(world, settings)
    scorer = RewardEnsemble(done.ensemble, own)
    return float(scorer.member_rewards([task.turns for task in asked], answers.texts).mean(0).std())


def selected_records(found: Study) -> list[Record]:
    """p3_03.selected: the samples each selection took, beside all: members' SD, rank error by gold, level, harmless prompts.

    n counts samples.
    """
    facts = [_facts(each) for each in found.found]
    rows = []
    for name in ("all collected", *VARIANTS):
        for column in facts[0]:
            values = [each[column] for each in facts]
            if name in VARIANTS:
                taken = [outcomes[name].selection.places for outcomes in found.outcomes]
                values = [each[places] for each, places in zip(values, taken, strict=True)]
            rows.append(record("p3_03.selected", name, column, mean_interval(apart(values)), seeds=found.seeds))
    return rows


def _facts(found: Interactions) -> dict[str, np.ndarray]:
    """What is known of every sample of D_inter, (samples,) each."""
    gold = graded(found.tasks, [[text] for text in found.texts])[:, 0]
    return {
        "members' SD": found.rewards.std(0),
        "rank error": rank_error(found.rewards.mean(0), gold),
        "judge's level": levels_of(JUDGE, found.tasks, found.texts, found.rewards),
        "harmless (%)": PERCENT * np.array([subtask_of(task) == HARMLESS for task in found.tasks]),
    }


def sample(found: Study, place: int = 0) -> dict[str, str]:
    """One sample that UGDA relabelled in the first seed: what each stage knows of it, and its prompt and answer."""
    run, ours = found.found[0], found.outcomes[0][UGDA]
    at, level = int(ours.selection.places[place]), int(ours.levels[place])
    members, targets = (
        ", ".join(f"{value:+.2f}" for value in values)
        for values in (run.rewards[:, at], quantiles(run.rewards)[:, level - 1])
    )
    head = f"answer {at + 1} of {len(run)}; members {members}, SD {run.rewards[:, at].std():.2f}; "
    head += f"judge's level {level}, on the members' scales {targets}"
    return {"prompt": run.tasks[at].turns[-1][1], head: run.texts[at]}


# PPO's course


def course_records(found: Study) -> list[Record]:
    """p3_03.course of the run that collected: proxy, gold and characters of an iteration's answers, KL; before its steps.

    The proxy is the members' mean, in SDs of the SFT policy's answers. KL is a mean that PPO recorded, without interval
    for one seed.
    """
    rows = []
    per_seed = [_course(run, outcomes[PPO].history) for run, outcomes in zip(found.found, found.outcomes, strict=True)]
    for name in per_seed[0]:
        values = np.array([each[name] for each in per_seed])  # (seeds, iterations, answers)
        for k in range(values.shape[1]):
            value = mean_interval(values[:, k])
            options = {"seeds": found.seeds}
            if value.n == 1 and len(found.seeds) == 1:
                value = value.value
            rows.append(record("p3_03.course", name, f"iteration = {k + 1}", value, **options))
    return rows


def _course(run: Interactions, history: dict[str, list[float]]) -> dict[str, np.ndarray]:
    gold = graded(run.tasks, [[text] for text in run.texts])[:, 0]
    shape = (len(history["kl"]), -1)
    parts = {"proxy": run.rewards.mean(0), "gold": gold, "characters": np.array([len(text) for text in run.texts])}
    return {name: part.reshape(shape) for name, part in parts.items()} | {"KL": np.array(history["kl"])[:, None]}


# how many seeds would settle a contrast


@dataclass(frozen=True)
class Spread:
    """SD of one seed's mean difference: between seeds, or for one seed what its prompts alone leave, which is less."""

    value: float
    between: str


def spread(found: Study, name: str, other: str) -> Spread:
    """How far one seed's paired difference in gold lies from another's."""
    return spread_of(found.gold(name) - found.gold(other))


def spread_of(each: np.ndarray) -> Spread:
    """The same of any differences, (seeds, prompts); of one seed, what its prompts leave."""
    if len(each) > 1:
        return Spread(float(each.mean(1).std(ddof=1)), "seeds")
    return Spread(float(each[0].std(ddof=1) / np.sqrt(each.shape[1])), "prompts")


def seeds_needed(deviation: float, difference: float, power: float = POWER) -> int | None:
    """The fewest seeds with which a paired t test at 5%, two-sided, finds the difference so often; None above 1,000.

    deviation: of one seed's difference, in the difference's unit. Raises DataError if it is negative or not finite.
    """
    if not (np.isfinite(deviation) and deviation >= 0):
        raise DataError(f"deviation {deviation}", where="power calculation", fix="pass a standard deviation")
    effect = abs(difference) / deviation if deviation else math.inf * abs(difference)
    if not effect > 0:  # nothing to find
        return None
    normal = stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(power)  # with the SD known, a few seeds fewer would do
    start = max(2, math.ceil((normal / effect) ** 2))
    return next((count for count in range(start, MANY + 1) if _power(count, effect) >= power), None)


def _power(count: int, effect: float) -> float:
    """The mean over the sample SD's distribution of what a normal mean exceeds: the noncentral t without its overflow."""
    critical, shift = stats.t.ppf((1 + LEVEL) / 2, count - 1), effect * math.sqrt(count)
    spread_seen = np.sqrt(stats.chi2.ppf((np.arange(GRID) + 0.5) / GRID, count - 1) / (count - 1))
    return float(
        (stats.norm.sf(critical * spread_seen - shift) + stats.norm.cdf(-critical * spread_seen - shift)).mean()
    )


def power_records(found: Study, at: float) -> list[Record]:
    """p3_03.power: each contrast in gold, the SD of one seed's, and how many seeds see it, and see a difference of `at`."""
    rows = []
    for name, other in CONTRASTS:
        row, seen = f"{name} less {other}", found.gain(name, other)
        deviation = spread(found, name, other).value
        counts = {"as seen": seeds_needed(deviation, seen.value), f"{at:g}": seeds_needed(deviation, at)}
        rows.append(record("p3_03.power", row, "difference", seen, seeds=found.seeds))
        rows.append(record("p3_03.power", row, "SD of one seed's", deviation, seeds=found.seeds))
        for what, count in counts.items():
            rows.append(record("p3_03.power", row, f"#seeds for {what}", count, seeds=found.seeds))
    return rows
