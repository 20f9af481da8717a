"""p1's best-of-n on real answers: what picking by a reward model buys, judged by GPT-4's recorded preference.

A pool of nine real models' answers per prompt stands for n samples of one policy. For every n, every set of n answers of the pool counts
once, so the curve is exact for the pool; only prompts and reward models are sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import alpaca_eval
from repro.evaluate.best_of_n import (
    best_of_n_curve,
    best_of_n_kl,
    best_of_n_kl_bound,
    raw_contest,
    selector_contest,
)
from repro.papers import inputs
from repro.papers.length_bias import AnswerPool
from repro.papers.reward_models import RealText, off_distribution

REWARD, LONGEST, RANDOM, JUDGE = "reward model", "longest", "random", "the judge itself"


@dataclass(frozen=True)
class JudgedPool:
    """The annotated models' answers: the judge's preference for each against one baseline, in percent: (prompts, models)."""

    models: list[str]
    preference: np.ndarray
    columns: list[int]


def judged_pool(pool: AnswerPool, leave_out: Sequence[str] = ()) -> JudgedPool:
    """GPT-4's recorded preference for each annotated answer of the pool. Raises MissingInput without the data."""
    folder = inputs.required(alpaca_eval.NAME).path.parent
    models = [
        name
        for name in alpaca_eval.annotated_models(folder, leave_out=(*alpaca_eval.ATTACKS, *leave_out))
        if name in pool.models
    ]
    place = {index: row for row, index in enumerate(pool.indices)}
    preference = np.full((len(pool.prompts), len(models)), np.nan)
    for row in alpaca_eval.annotations(folder, models=models).rows:
        if row.index in place:
            preference[place[row.index], models.index(row.model)] = 100 * (row.preference - 1)
    return JudgedPool(models, preference, [pool.models.index(name) for name in models])


@dataclass(frozen=True)
class BestOfN:
    """Curves by selector, (seeds, prompts, ns) in percent; win rates of the reward model's pick; KL against its bound."""

    ns: list[int]
    curves: dict[str, np.ndarray]
    contests: dict[str, np.ndarray]
    kl: dict[str, np.ndarray]
    pick_lengths: dict[str, np.ndarray]
    seeds: tuple[int, ...]
    prompts: int
    models: int
    favourite: tuple[str, float]

    @property
    def divergence(self) -> np.ndarray:
        return self.kl["exact"]

    def gain(self, n: int, over: str = RANDOM) -> Interval:
        """Points of preference that the reward model's pick of n gains over another pick, paired by prompt."""
        at = self.ns.index(n)
        return difference_interval(self.curves[REWARD][:, :, at], self.curves[over][:, :, at])

    def pick_length(self, name: str, n: int) -> Interval:
        """Characters of the pick of n."""
        return mean_interval(self.pick_lengths[name][:, :, self.ns.index(n)])

    def curve_records(self) -> list[Record]:
        """Judge's preference for the pick against n, by selector; percent."""
        return [
            record("p1_03.curve", name, str(n), mean_interval(values[:, :, k]), unit="%", seeds=self.seeds)
            for name, values in self.curves.items()
            for k, n in enumerate(self.ns)
        ]

    def contest_records(self) -> list[Record]:
        """p1.fig4: win rate of the reward model's pick against another selector's from the same n answers; percent."""
        return [
            record(
                "p1.fig4",
                f"reward model against {name}",
                f"n = {n}",
                mean_interval(values[:, :, k]),
                unit="%",
                seeds=self.seeds,
            )
            for name, values in self.contests.items()
            for k, n in enumerate(self.ns)
            if n > 1
        ]

    def kl_records(self) -> list[Record]:
        """p1.kl_bound: exact KL of best-of-n from the pool's uniform base, mean over prompts, beside the bound; nats."""
        rows = []
        for k, n in enumerate(self.ns):
            rows.append(
                record(
                    "p1.kl_bound",
                    "exact, on this pool",
                    str(n),
                    mean_interval(self.divergence[:, :, k]),
                    unit="nats",
                    seeds=self.seeds,
                )
            )
            rows.append(record("p1.kl_bound", "bound", str(n), float(best_of_n_kl_bound(n)), unit="nats"))
        return rows

    def largest_excess(self) -> float:
        """The most by which an exact KL exceeds its bound, over prompts, seeds and n > 1; negative if none does."""
        return float((self.divergence - best_of_n_kl_bound(self.ns))[:, :, [n > 1 for n in self.ns]].max())


def study(
    text: RealText, pool: AnswerPool, reward_settings: Section, seeds: Sequence[int], leave_out: Sequence[str] = ()
) -> BestOfN:
    """Curves and contests for every n and seed's reward model, on prompts where every model of the pool answered."""
    judged = judged_pool(pool, leave_out)
    lengths = pool.lengths()[:, judged.columns]
    kept = np.isfinite(lengths).all(axis=1) & np.isfinite(judged.preference).all(axis=1)
    value, lengths = judged.preference[kept], lengths[kept]
    ns = list(range(1, len(judged.models) + 1))
    found = []
    for seed in seeds:
        reward = pool.scores(off_distribution(text, reward_settings, seed))[:, judged.columns][kept]
        found.append(_one_seed(reward, value, lengths, ns, seed))
    stacked = {part: _stack([one[part] for one in found]) for part in found[0]}
    return BestOfN(
        ns=ns,
        **stacked,
        seeds=tuple(seeds),
        prompts=int(kept.sum()),
        models=len(judged.models),
        favourite=_favourite(judged.models, value),
    )


def _favourite(models: list[str], value: np.ndarray) -> tuple[str, float]:
    """The model whose answer the judge likes best most often, and on what share of the prompts."""
    wins = np.bincount(value.argmax(axis=1), minlength=len(models)) / len(value)
    return models[int(wins.argmax())], float(wins.max())


def _one_seed(reward: np.ndarray, value: np.ndarray, lengths: np.ndarray, ns: list[int], seed: int) -> dict:
    """One reward model's curves, contests, divergences and lengths of picks: (prompts, len(ns)) each."""
    uniform = np.full(reward.shape[1], 1 / reward.shape[1])
    return {
        "curves": {
            REWARD: best_of_n_curve(reward, value, ns),
            LONGEST: best_of_n_curve(lengths, value, ns),
            RANDOM: np.repeat(value.mean(axis=1, keepdims=True), len(ns), axis=1),
            JUDGE: best_of_n_curve(value, value, ns),
        },
        "contests": {
            RANDOM: 100 * raw_contest(reward, value, ns),
            LONGEST: 100 * selector_contest(reward, lengths, value, ns, seed=seed).rate,
        },
        "kl": {"exact": np.array([[best_of_n_kl(uniform, row, n) for n in ns] for row in reward])},
        "pick_lengths": {name: best_of_n_curve(by, lengths, ns) for name, by in ((REWARD, reward), (JUDGE, value))},
    }


def _stack(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The seeds' arrays under each name as one: (seeds, prompts, len(ns))."""
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
