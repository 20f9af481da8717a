"""UGDA beside what it is compared with, measured by gold on the same test prompts: behind p3.table2, p3.fig4 and the claims.

Whatever is compared is a matrix (seeds, prompts), the mean over a prompt's answers, so that every difference is paired
by seed and prompt. Avg_Reward is its mean. Var_Reward is the mean of squared deviations from the policy's own mean on the
subtask: a mean as well, so its intervals and ratios are those of means.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.errors import DataError
from repro.core.parallel import ahead
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.papers.ugda import Interactions, Outcome, run_methods
from repro.papers.ugda_measures import PolicyMeasure, measured
from repro.papers.ugda_methods import PPO, Method
from repro.papers.ugda_prompts import SUBTASKS, test_prompts

SFT = "SFT"
UGDA, UNCERTAIN, INFLUENTIAL = "UGDA", "UGDA(UN)", "UGDA(GR)"
OTHERS = (PPO, "LCB", "UWO", "RLR")  # what UGDA is claimed to beat, all but PPO with as many labels
PERCENT = 100.0
LEAST_VARIANCE = 1e-12  # below it, gold differs by rounding alone


@dataclass(frozen=True)
class Study:
    """What p3.alg1 found for each seed, and every policy's answers to the test prompts; SFT's are the same for all seeds."""

    seeds: tuple[int, ...]
    found: list[Interactions]
    outcomes: list[dict[str, Outcome]]
    measures: dict[str, list[PolicyMeasure]]

    def of(self, name: str, quantity: str, subtask: str | None = None) -> np.ndarray:
        """`gold`, `proxy` or `log_ratio` of a policy, mean over each prompt's answers, (seeds, prompts).

        subtask: None for helpful and harmless prompts together, in this order. Raises DataError for an unknown policy.
        """
        if name not in self.measures:
            raise DataError(f"no policy {name!r}", where="UGDA's study", fix=f"one of {', '.join(self.measures)}")
        wanted = SUBTASKS if subtask is None else (subtask,)
        return np.array([np.concatenate([each.of(part, quantity) for part in wanted]) for each in self.measures[name]])

    def gold(self, name: str, subtask: str | None = None) -> np.ndarray:
        """Gold reward of a policy's answers, mean over those of each prompt, (seeds, prompts)."""
        return self.of(name, "gold", subtask)

    def deviations(self, name: str, subtask: str | None = None) -> np.ndarray:
        """Squared deviations of gold from the policy's mean on the subtask, mean over a prompt's answers, (seeds, prompts).

        Their mean is Var_Reward, over both subtasks the mean of the two.
        """
        wanted = SUBTASKS if subtask is None else (subtask,)
        rows = []
        for each in self.measures[name]:
            parts = [each.gold[each.subtasks == part] for part in wanted]
            rows.append(np.concatenate([((part - part.mean()) ** 2).mean(1) for part in parts]))
        return np.array(rows)

    def reward(self, name: str, subtask: str | None = None) -> Interval:
        """Avg_Reward: mean gold, over prompts and seeds."""
        return mean_interval(self.gold(name, subtask))

    def variance(self, name: str, subtask: str | None = None) -> Interval:
        """Var_Reward in squared gold, over prompts and seeds."""
        return mean_interval(self.deviations(name, subtask))

    def gain(self, name: str, other: str, subtask: str | None = None) -> Interval:
        """Gold of one policy less another's, paired by seed and prompt."""
        return difference_interval(self.gold(name, subtask), self.gold(other, subtask))

    def variance_percent(self, name: str, others: Sequence[str]) -> Interval:
        """Var_Reward, mean of both subtasks, in percent of the lowest of others'; which is lowest is not resampled.

        The interval is that of a ratio of means to first order, paired by seed and prompt; nan where all answers of the
        lowest are worth the same.
        """
        ours, lowest = self.deviations(name), min(map(self.deviations, others), key=np.mean)
        if (base := lowest.mean()) < LEAST_VARIANCE:
            return Interval(math.nan, math.nan, math.nan, ours.shape[1])
        ratio = ours.mean() / base
        return mean_interval(ratio + (ours - ratio * lowest) / base).scaled(PERCENT)


def apart(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Each seed's own rows, no two seeds having the same ones, side by side: (seeds, rows of all), nan elsewhere."""
    found, at = np.full((len(rows), sum(map(len, rows))), np.nan), 0
    for place, own in enumerate(rows):
        found[place, at : at + len(own)] = own
        at += len(own)
    return found


def study(methods: Mapping[str, Method], world: Section, settings: Section, seeds: Sequence[int]) -> Study:
    """Every method run and measured for every seed, and the SFT policy that all begin with.

    world, settings: the sections `world` and `p3_03_ugda`. Raises DataError without a seed, and as `run_methods` does.
    """
    if not seeds:
        raise DataError("no seed to run", where="UGDA's study", fix="name at least one")
    runs = [run_methods(methods, world, settings, seed) for seed in seeds]
    asked = test_prompts(settings)
    calls = [(each.policy, asked, world, settings, each.ensemble) for _, outcomes in runs for each in outcomes.values()]
    first = (runs[0][0].sft, asked, world, settings, None)
    ahead(measured, [first, *calls], world.workers)
    made = iter([measured(*call) for call in calls])
    rows = [{name: next(made) for name in outcomes} for _, outcomes in runs]
    measures = {SFT: [measured(*first)] * len(seeds)}
    measures |= {name: [row[name] for row in rows] for name in methods}
    return Study(tuple(seeds), [found for found, _ in runs], [outcomes for _, outcomes in runs], measures)


def evidence(found: Study) -> dict[str, dict[str, Interval]]:
    """What p3.c1 to p3.c5 rest on, in gold but for c3, which is in percent; all of both subtasks together."""
    return {
        "p3.c1": {name.lower(): found.gain(name, SFT) for name in (*OTHERS, UGDA)},
        "p3.c2": {f"over_{name.lower()}": found.gain(UGDA, name) for name in OTHERS},
        "p3.c3": {"percent_of_lowest_variance": found.variance_percent(UGDA, OTHERS)},
        "p3.c4": {"rlr_over_ppo": found.gain("RLR", PPO)},
        "p3.c5": {
            "over_uncertainty_only": found.gain(UGDA, UNCERTAIN),
            "over_gradient_only": found.gain(UGDA, INFLUENTIAL),
        },
    }
