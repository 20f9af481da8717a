"""What the chapter on online DPO reports: every iterate measured, the arms at matched KL, explorations, and the released code's ways.

Every interval is over prompts and seeds; differences are paired by both. Nothing here trains: it lets `online_rlhf` run,
two recipes at a time where the tier has the cores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.artifacts import Artifact
from repro.core.parallel import ahead
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.evaluate.matched import matched
from repro.papers.miniature import history, policy
from repro.papers.online_arms import (
    ITERATIVE,
    OFFLINE,
    ONE_BATCH,
    SFT,
    Measured,
    Run,
    Tuning,
    followed,
    measured,
    offline,
    one_batch,
    tuned,
)
from repro.papers.online_rlhf import (
    BEST_RANDOM,
    BEST_WORST,
    LAST,
    RAW,
    TRAINING,
    TWO_CHECKPOINTS,
    Iteration,
    recipe_of,
)
from repro.train.reward_tokens import TokenRewardModel

ONE_TEMPERATURE, PENALTY = "one temperature", "penalty"
QUANTITIES = {"gold": "gold", "proxy": "proxy", "KL": "log_ratio", "characters": "characters", "win rate": "won"}
EXPLORATIONS = {
    BEST_WORST: {},
    BEST_RANDOM: {"exploration": BEST_RANDOM},
    TWO_CHECKPOINTS: {"exploration": TWO_CHECKPOINTS},
    ONE_TEMPERATURE: {"temperatures": (1.0,)},
}
RELEASED = {  # what the released code does otherwise: its run, and the run that it differs from
    "reference is the previous iterate": ("previous reference", BEST_WORST),
    "one temperature": (ONE_TEMPERATURE, BEST_WORST),
    "half as many answers": ("half n", BEST_WORST),
    "penalty picks, raw reward orders": ("penalty, raw order", PENALTY),
}
PERCENT, TAIL = 100.0, 10  # a tenth of the steps stands for a training's end
Curve = list[Sequence[Measured]]  # policies in the order of their distance from pi_0, each of every seed


def variants(settings: Section) -> dict[str, dict]:
    """By name, what each recipe of the chapter chooses other than the paper's."""
    return EXPLORATIONS | {
        "previous reference": {"reference": LAST},
        "half n": {"n": settings.n // 2},
        PENALTY: {"penalty": settings.penalty},
        "penalty, raw order": {"penalty": settings.penalty, "order": RAW},
    }


@dataclass(frozen=True)
class Study:
    """Runs by variant and seed; SFT by seed; the offline and the one-batch arm by rate and seed; the rates chosen.

    trained: the offline arm's policies at its rate, by seed.
    """

    tuning: Tuning
    runs: dict[str, list[Run]]
    sft: list[Measured]
    offline: dict[float, list[Measured]]
    batch: dict[float, list[Run]]
    trained: list[Artifact]
    seeds: tuple[int, ...]

    @property
    def policies(self) -> dict[str, list[Measured]]:
        """SFT, every iterate of the paper's recipe, and the two other arms at their rates; each of every seed."""
        loop, rates = self.runs[BEST_WORST], self.tuning.rates
        found = {SFT: self.sft}
        for place in range(len(loop[0].measured)):
            found[f"iteration {place + 1}"] = [run.measured[place] for run in loop]
        found[OFFLINE] = self.offline[rates[OFFLINE]]
        return found | {ONE_BATCH: [run.measured[-1] for run in self.batch[rates[ONE_BATCH]]]}

    def curves(self) -> dict[str, Curve]:
        """By arm, SFT and what each training reached: the loop its iterates, the others a policy for each rate."""
        iterates = [each for name, each in self.policies.items() if name.startswith("iteration")]
        batch = [[run.measured[-1] for run in runs] for runs in self.batch.values()]
        return {
            ITERATIVE: [self.sft, *iterates],
            OFFLINE: [self.sft, *self.offline.values()],
            ONE_BATCH: [self.sft, *batch],
        }

    def last(self, variant: str, quantity: str = "gold") -> np.ndarray:
        """A variant's last iterate, (seeds, prompts)."""
        return seeded([run.measured[-1] for run in self.runs[variant]], quantity)

    def gold_gain(self) -> Interval:
        """p2.c12: gold after the last iteration, best against worst less best against one at random, on as many prompts."""
        return difference_interval(self.last(BEST_WORST), self.last(BEST_RANDOM))


def study(world: Section, settings: Section, seeds: Sequence[int]) -> Study:
    """Everything the chapter shows. world, settings: the sections `world` and `p2_04_online_dpo`."""
    tuning, both, first = tuned(world, settings), (world, settings), policy(settings.policy, world)
    rates, known = tuning.rates, variants(settings)
    paper = {seed: recipe_of(*both, seed, learning_rate=rates[ITERATIVE]) for seed in seeds}
    model = {seed: recipe.reward_model for seed, recipe in paper.items()}
    loops = {
        (name, seed): (replace(paper[seed], **choices), *both, seed, name in EXPLORATIONS)
        for name, choices in known.items()
        for seed in seeds
    }
    tried = [(rate, seed) for rate in settings.offline_rates for seed in seeds]
    loops |= {(rate, seed): (replace(one_batch(paper[seed]), learning_rate=rate), *both, seed) for rate, seed in tried}
    ahead(followed, list(loops.values()), world.workers)
    runs = {name: [followed(*loops[name, seed]) for seed in seeds] for name in (*known, *settings.offline_rates)}
    counts = {
        seed: sum(len(each.pairs) for each in run.iterations) for seed, run in zip(seeds, runs[BEST_WORST], strict=True)
    }
    others = {(rate, seed): (counts[seed], rate, model[seed], *both, seed) for rate, seed in tried}
    ahead(offline_measured, list(others.values()), world.workers)
    return Study(
        tuning,
        {name: runs[name] for name in known},
        [measured(first, model[seed], *both) for seed in seeds],
        {rate: [offline_measured(*others[rate, seed]) for seed in seeds] for rate in settings.offline_rates},
        {rate: runs[rate] for rate in settings.offline_rates},
        [offline(counts[seed], rates[OFFLINE], *both, seed) for seed in seeds],
        tuple(seeds),
    )


def offline_measured(
    count: int, rate: float, model: TokenRewardModel, world: Section, settings: Section, seed: int
) -> Measured:
    """The offline arm at one rate, trained and measured."""
    return measured(offline(count, rate, world, settings, seed), model, world, settings)


def seeded(each: Sequence[Measured], quantity: str) -> np.ndarray:
    """One policy of every seed, (seeds, prompts)."""
    return np.array([one.by_prompt(quantity) for one in each])


# records


def iterate_records(found: Study) -> list[Record]:
    """p2_04.iterates: gold, proxy, KL to pi_0 in nats, characters and win rate against SFT in percent, by policy."""
    return [
        record("p2_04.iterates", row, column, mean_interval(seeded(each, quantity)), seeds=found.seeds)
        for row, each in found.policies.items()
        for column, quantity in QUANTITIES.items()
    ]


def training_records(found: Study) -> list[Record]:
    """p2_04.training: loss and margin at the end, pairs, percent of prompts dropped, and seconds of each stage; means over seeds."""
    loop, batch = found.runs[BEST_WORST], found.batch[found.tuning.rates[ONE_BATCH]]
    rows = {
        f"iteration {place + 1}": [_ended(run.iterations[place]) for run in loop]
        for place in range(len(loop[0].iterations))
    }
    rows[ONE_BATCH] = [_ended(run.iterations[-1]) for run in batch]
    seconds = [{f"{TRAINING} (s)": made.manifest["seconds"]} for made in found.trained]
    rows[OFFLINE] = [_trained(history(made)) | spent for made, spent in zip(found.trained, seconds, strict=True)]
    return [
        record("p2_04.training", row, column, float(np.mean([each[column] for each in values])), seeds=found.seeds)
        for row, values in rows.items()
        for column in values[0]
    ]


def _ended(done: Iteration) -> dict[str, float]:
    dropped = {"dropped (%)": PERCENT * done.dropped / len(done.tasks)}
    return _trained(done.history) | dropped | {f"{name} (s)": spent for name, spent in done.seconds.items()}


def _trained(record_of: Mapping) -> dict[str, float]:
    ends = {name: record_of[name][-max(1, len(record_of[name]) // TAIL) :] for name in ("loss", "margin")}
    return {name: float(np.mean(values)) for name, values in ends.items()} | {"pairs": record_of["pairs"]}


def exploration_records(found: Study) -> list[Record]:
    """p2_04.exploration: gold after each iteration and pairs made, by what stands against the best answer."""
    rows = []
    for name in EXPLORATIONS:
        runs = found.runs[name]
        for place in range(len(runs[0].measured)):
            gold = mean_interval(seeded([run.measured[place] for run in runs], "gold"))
            rows.append(record("p2_04.exploration", name, f"gold, iteration {place + 1}", gold, seeds=found.seeds))
        pairs = np.mean([sum(len(each.pairs) for each in run.iterations) for run in runs])
        rows.append(record("p2_04.exploration", name, "pairs", float(pairs), seeds=found.seeds))
    return rows


def discrepancy_records(found: Study) -> list[Record]:
    """p2_04.discrepancies: how many pairs of the first iteration, asked of the same policy, are others than the paper's;
    and the last iterate as the released code would have it, less the paper's, paired.
    """
    rows = []
    for name, (its, against) in RELEASED.items():
        columns = {"other pairs at first (%)": PERCENT * float(np.mean(_other_pairs(found, its, against)))}
        for column, quantity in QUANTITIES.items():
            difference = difference_interval(found.last(its, quantity), found.last(against, quantity))
            columns[f"{column} (difference)"] = difference
        rows += [
            record("p2_04.discrepancies", name, column, value, seeds=found.seeds) for column, value in columns.items()
        ]
    return rows


def _other_pairs(found: Study, its: str, against: str) -> list[bool]:
    """Of each pair of a variant's first iteration, whether another variant's has it not."""
    firsts = [[run.iterations[0].pairs for run in found.runs[name]] for name in (its, against)]
    said = [[{(pair.prompt, pair.chosen, pair.rejected) for pair in pairs} for pairs in runs] for runs in firsts]
    return [pair not in other for ours, other in zip(*said, strict=True) for pair in ours]


def matched_records(found: Study) -> list[Record]:
    """p2_04.matched: the loop against each other arm at the sqrt(KL) that both reach."""
    rows = []
    arms = {
        name: tuple(np.array([seeded(each, quantity) for each in curve]) for quantity in ("gold", "log_ratio"))
        for name, curve in found.curves().items()
    }
    for other in (OFFLINE, ONE_BATCH):
        both = matched(arms[ITERATIVE], arms[other])
        values = {"sqrt(KL)": both.distance, "iterative DPO": both.first, "other arm": both.second}
        for column, value in (values | {"difference": both.difference}).items():
            rows.append(record("p2_04.matched", f"against {other}", column, value, seeds=found.seeds))
    return rows


def distance_points(curve: Curve) -> list[tuple[float, Interval]]:
    """sqrt(KL) and gold of each policy of an arm, nearest to pi_0 first."""
    found = [
        (float(np.sqrt(max(np.nanmean(seeded(each, "log_ratio")), 0))), mean_interval(seeded(each, "gold")))
        for each in curve
    ]
    return sorted(found, key=lambda point: point[0])
