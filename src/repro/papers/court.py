"""Is the miniature world a fair court? What can be won in it, what reward models learn, and what a biased label does.

Nothing here is a claim of a paper. These are the world's own limits, measured, so that a claim that holds or fails in it can be
read: headroom, the reward models' learning curve, length bias, the benchmarks' null baselines, over-optimisation, annotators.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, miniature
from repro.evaluate.best_of_n import best_of_n_curve
from repro.evaluate.length_bias import LengthBias, length_correlations
from repro.evaluate.preference import pair_outcomes
from repro.papers.miniature import Pool, concordance, pool, reward_models, rewards
from repro.train.reward_tokens import TokenRewardModel
from repro.world import annotators, benchmarks, constants, tasks
from repro.world.task import Task

SCORED = 8  # answers a prompt that a reward model's accuracy on gold order rests on
BEST_OF = 16
RANDOM, SMALL, LARGE, STRONG, PICKED, BEST = "random", "small", "large", "strong", f"best of {BEST_OF}", "best"
BIASED, UNBIASED, GOLD = "biased annotators", "unbiased annotators", "gold itself"
EVERY = "all"
PERCENT = 100.0
Pools = Mapping[str, Pool]


def pools(asked: Sequence[Task], world: Section, tour: Section) -> dict[str, Pool]:
    """Each role's answers to the same tasks: `pool` of the large policy, `pool_strong` of the others."""
    sizes = {SMALL: tour.pool_strong, LARGE: tour.pool, STRONG: tour.pool_strong}
    return {role: pool(role, asked, world, n=n) for role, n in sizes.items()}


def categories(asked: Sequence[Task]) -> dict[str, np.ndarray]:
    """Which tasks belong to each category, and to all: booleans (tasks,)."""
    names = np.array([task.category for task in asked])
    return {EVERY: np.ones(len(asked), dtype=bool)} | {name: names == name for name in tasks.CATEGORIES}


# headroom


def headroom(policies: Pools) -> dict[str, dict[str, Interval]]:
    """Mean gold by category and kind: an answer to another prompt, the three policies, the best of 16 by gold, the best there is.

    Expected best of 16 by the unbiased estimator over the large policy's pool, itself picking by gold.
    """
    large = policies[LARGE]
    picked = best_of_n_curve(large.gold, large.gold, [min(BEST_OF, large.gold.shape[1])])[:, 0]
    per_prompt = {RANDOM: _strangers(large)} | {role: policies[role].gold.mean(1) for role in (SMALL, LARGE, STRONG)}
    per_prompt |= {PICKED: picked}
    best = constants.CORRECT + constants.COMPLETE + constants.POLITE + constants.CONCISE
    found = {}
    for name, members in categories(large.tasks).items():
        found[name] = {kind: mean_interval(values[members]) for kind, values in per_prompt.items()}
        found[name][BEST] = Interval(best, best, best, int(members.sum()))
    return found


def _strangers(large: Pool) -> np.ndarray:
    """Gold of the large policy's answer to the next task of the same category: what knowing nothing of the prompt earns."""
    from repro.world.gold import grade

    worth = np.empty(len(large.tasks))
    for name in tasks.CATEGORIES:
        places = [i for i, task in enumerate(large.tasks) if task.category == name]
        for place, other in zip(places, places[1:] + places[:1], strict=True):
            worth[place] = grade(large.tasks[place], large.texts[other][0]).gold
    return worth


def headroom_records(found: Mapping[str, Mapping[str, Interval]]) -> list[Record]:
    """world.headroom: one row a category, one column a kind, in gold reward."""
    return [
        record("world.headroom", row, kind, value, seeds=[0])
        for row, kinds in found.items()
        for kind, value in kinds.items()
    ]


# reward models


@dataclass(frozen=True)
class Curve:
    """Accuracy on gold order per prompt, (seeds, prompts), by number of pairs and by null baseline; (prompts,) categories."""

    accuracy: dict[int, np.ndarray]
    baselines: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    models: dict[int, list[TokenRewardModel]]
    seeds: tuple[int, ...]

    def records(self) -> list[Record]:
        """world.reward_model_curve: percent of answer pairs in gold's order, by number of pairs and category."""
        columns = {f"pairs = {count}": values for count, values in self.accuracy.items()} | self.baselines
        found = []
        for row, members in self.groups.items():
            for column, values in columns.items():
                interval = mean_interval(values[..., members]).scaled(PERCENT)
                options = {"unit": "%", "seeds": self.seeds if values.ndim > 1 else [0]}
                found.append(record("world.reward_model_curve", row, column, interval, **options))
        return found


def curve(large: Pool, world: Section, counts: Sequence[int], seeds: Sequence[int]) -> Curve:
    """Reward models on the first pairs of mix2, as many as `counts` says, judged by the order they give a policy's answers.

    The last is the one that later chapters optimise, on `reward_pairs`.
    """
    scored = large.first(SCORED)
    accuracy, models = {}, {}
    counts = [*[count for count in counts if count < world.reward_pairs], world.reward_pairs]
    sets = [(miniature.pairs("mix2", count, seed), seed) for count in counts for seed in seeds]
    trained = reward_models(sets, world)
    found = rewards(trained, scored)
    for place, count in enumerate(counts):
        those = slice(place * len(seeds), (place + 1) * len(seeds))
        models[count] = trained[those]
        accuracy[count] = np.array([concordance(each, scored.gold) for each in found[those]])
    rng = np.random.default_rng(0)
    nulls = {
        "pick the longer": concordance(scored.characters.astype(float), scored.gold),
        "random": concordance(rng.random(scored.gold.shape), scored.gold),
    }
    return Curve(accuracy, nulls, categories(scored.tasks), models, tuple(seeds))


def benchmark_accuracy(models: Sequence[TokenRewardModel], rows: Sequence[Mapping]) -> dict[str, Interval]:
    """Accuracy in percent by section and by subset of a RewardBench-like set, over prompts and seeds."""
    wins = []
    prompts, places = [row["prompt"] for row in rows], {}
    for index, row in enumerate(rows):
        for name in (row["section"], row["subset"]):
            places.setdefault(name, []).append(index)
    for model in models:
        found = np.array(model.pool_rewards(prompts, [[row["chosen"], row["rejected"]] for row in rows]))
        wins.append(pair_outcomes(found[:, 0], found[:, 1]))
    return {name: mean_interval(np.array(wins)[:, index]).scaled(PERCENT) for name, index in places.items()}


def benchmark_nulls(rows: Sequence[Mapping]) -> list[Record]:
    """world.pick_longer: by section, percent of pairs won by the longer answer and by the shorter one; ties half."""
    found = []
    for section in dict.fromkeys(row["section"] for row in rows):
        members = [row for row in rows if row["section"] == section]
        lengths = np.array([[len(row["chosen"]), len(row["rejected"])] for row in members], dtype=float)
        for column, score in (("pick the longer", lengths), ("pick the shorter", -lengths)):
            interval = mean_interval(pair_outcomes(score[:, 0], score[:, 1])).scaled(PERCENT)
            found.append(record("world.pick_longer", section, column, interval, unit="%", seeds=[0]))
    return found


# length bias


def labelled_by(
    panel: annotators.Annotator, count: int, seed: int, names: str | Sequence[str] = ("UltraFeedback",)
) -> list[Pair]:
    """The first pairs of the broadest source, or of a mixture, the same in the same order whoever labels them, labelled anew."""
    pairs = miniature.pairs(names, count, seed)
    asked = [Task.of(pair.extras["task"]) for pair in pairs]
    sides = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    first = panel.label(asked, *sides, np.random.default_rng([seed, 23])) == annotators.FIRST
    return [
        pair if said else replace(pair, chosen=pair.rejected, rejected=pair.chosen)
        for pair, said in zip(pairs, first, strict=True)
    ]


def dialled(verbosity: float) -> annotators.Annotator:
    """People with the usual noise and this much liking for length: bias and noise are separate dials."""
    return annotators.panel(verbosity=verbosity)


@dataclass(frozen=True)
class Contrast:
    """The two reward models' correlation of reward with length, prompt by prompt, and gold's own."""

    bias: dict[str, list[LengthBias]]
    accuracy: dict[str, np.ndarray]
    seeds: tuple[int, ...]

    def mean(self, who: str) -> Interval:
        """Mean coefficient over prompts and seeds."""
        return mean_interval(self._coefficients(who))

    def difference(self) -> Interval:
        """Biased less unbiased, paired by prompt and seed."""
        return difference_interval(*(self._coefficients(who) for who in (BIASED, UNBIASED)))

    def left(self) -> Interval:
        """What unbiased labels leave beyond gold's own correlation, paired by prompt."""
        unbiased = self._coefficients(UNBIASED)
        return difference_interval(unbiased, np.tile(self._coefficients(GOLD), (len(unbiased), 1)))

    def _coefficients(self, who: str) -> np.ndarray:
        return np.array([each.correlation for each in self.bias[who]])

    def records(self) -> list[Record]:
        """world.length_bias: mean coefficient, and accuracy on gold order in percent."""
        name, found = "world.length_bias", []
        for who in self.bias:
            seeds = [0] if who == GOLD else self.seeds
            found.append(record(name, who, "coefficient", self.mean(who), seeds=seeds))
        for who, values in self.accuracy.items():
            options = {"unit": "%", "seeds": self.seeds}
            found.append(record(name, who, "gold order", mean_interval(values).scaled(PERCENT), **options))
        for row, value in (("biased less unbiased", self.difference()), ("unbiased less gold", self.left())):
            found.append(record(name, row, "coefficient", value, seeds=self.seeds))
        return found


def contrast(large: Pool, world: Section, count: int, seeds: Sequence[int]) -> Contrast:
    """Two reward models on the same pairs; the labels differ only in how much the annotators like length."""
    scored = large.first(SCORED)
    bias, accuracy = {}, {}
    dials = {BIASED: constants.STRONG_VERBOSITY, UNBIASED: 0.0}
    sets = [(labelled_by(dialled(dial), count, seed), seed) for dial in dials.values() for seed in seeds]
    every = rewards(reward_models(sets, world), scored)
    for who, found in zip(dials, (every[: len(seeds)], every[len(seeds) :]), strict=True):
        bias[who] = [length_correlations(each, scored.characters) for each in found]
        accuracy[who] = np.array([concordance(each, scored.gold) for each in found])
    bias[GOLD] = [length_correlations(scored.gold, scored.characters)]
    return Contrast(bias, accuracy, tuple(seeds))


# over-optimisation


@dataclass(frozen=True)
class Pressure:
    """Best of n by a weak, biased reward model: its own reward and gold of the pick, (seeds, prompts, ns), gold's own pick beside."""

    ns: list[int]
    proxy: np.ndarray
    gold: np.ndarray
    by_gold: np.ndarray
    seeds: tuple[int, ...]

    def change(self, values: np.ndarray, start: int = 0) -> Interval:
        """Last n less the n at `start`, over prompts and seeds."""
        return mean_interval(values[..., -1] - values[..., start])

    def records(self) -> list[Record]:
        """world.overoptimisation: proxy and gold of the pick by n, and gold of its own pick."""
        name, found = "world.overoptimisation", []
        for column, values in (("proxy", self.proxy), ("gold", self.gold), ("gold, picked by gold", self.by_gold)):
            seeds = [0] if values.ndim == 2 else self.seeds
            for place, n in enumerate(self.ns):
                found.append(record(name, column, f"n = {n}", mean_interval(values[..., place]), seeds=seeds))
        return found

    def changes(self) -> list[Record]:
        """How the proxy and gold of the pick change from n = 1 and from the middle of `ns` to the last n."""
        found = []
        for row, values in (("proxy", self.proxy), ("gold", self.gold)):
            for start in (0, len(self.ns) // 2):
                column = f"from n = {self.ns[start]} to {self.ns[-1]}"
                change = self.change(values, start)
                found.append(record("world.overoptimisation", row, column, change, seeds=self.seeds))
        return found


def pressure(large: Pool, world: Section, count: int, ns: Sequence[int], seeds: Sequence[int]) -> Pressure:
    """Optimise a reward model of few pairs by biased annotators, ever further; rewards in its own standard deviations."""
    proxies, golds = [], []
    sets = [(labelled_by(dialled(constants.STRONG_VERBOSITY), count, seed), seed) for seed in seeds]
    for found in rewards(reward_models(sets, world), large):
        found = (found - found.mean()) / found.std()
        proxies.append(best_of_n_curve(found, found, ns))
        golds.append(best_of_n_curve(found, large.gold, ns))
    by_gold = best_of_n_curve(large.gold, large.gold, ns)
    return Pressure(list(ns), np.array(proxies), np.array(golds), by_gold, tuple(seeds))


def rewardbench(items: int) -> list[dict]:
    """The RewardBench-like pairs that every chapter shares."""
    return benchmarks.rewardbench(items, seed=0)
