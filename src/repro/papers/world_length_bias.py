"""p2.fig3 in the miniature world: the same policy's answers, scored by Bradley-Terry models of mix1 and of mix2.

UltraRM-13B, the paper's more biased model, learnt from sets like mix1; its own from mix2. Gold's correlation with length stands
beside theirs, for better answers may be longer or shorter by themselves, and so does that of rewards drawn at random.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import miniature
from repro.evaluate.length_bias import LengthHeatmap, length_correlations, length_heatmap
from repro.papers.miniature import Pool, pool, rewards
from repro.papers.world_reward_models import BT_MIX1, BT_MIX2, TRAINED, trained
from repro.train.pairs import longer_share
from repro.world import sources
from repro.world.task import TEST, Task

MODELS = (BT_MIX1, BT_MIX2)  # the more biased one by the paper's account first
GOLD, NULL = "gold itself", "random rewards"
POLICY = "large"


@dataclass(frozen=True)
class WorldLengthStudy:
    """Correlations by judge, (seeds, prompts) with one row for gold; heatmaps of their mean over seeds; the sets' longer share."""

    correlations: dict[str, np.ndarray]
    heatmaps: dict[str, LengthHeatmap]
    shares: dict[str, float]
    answers: Pool
    seeds: tuple[int, ...]

    def mean(self, judge: str) -> Interval:
        """Mean coefficient over prompts and seeds."""
        return mean_interval(self.correlations[judge])

    def difference(self, judge: str = BT_MIX1, other: str = BT_MIX2) -> Interval:
        """How much more one judge likes length than another, paired by prompt and seed."""
        both = (
            np.broadcast_to(self.correlations[each], (len(self.seeds), len(self.answers.tasks)))
            for each in (judge, other)
        )
        return difference_interval(*both)

    def evidence(self) -> dict[str, Interval]:
        """What the rule of p2.c4 asks for."""
        return {"more_biased": self.mean(BT_MIX1), "less_biased": self.mean(BT_MIX2), "difference": self.difference()}

    def records(self) -> list[Record]:
        """p2.fig3's mean coefficients, with gold's and the null's, and their differences."""
        name, column = "p2.fig3", "mean coefficient"
        rows = []
        for judge in self.correlations:
            rows.append(record(name, judge, column, self.mean(judge), seeds=[0] if judge == GOLD else self.seeds))
        rows.append(record(name, "mix1 less mix2", column, self.difference(), seeds=self.seeds))
        for judge in MODELS:
            apart = self.difference(judge, GOLD)
            rows.append(record(name, f"{judge} less gold", column, apart, seeds=self.seeds))
        return rows


def prompts(count: int) -> list[Task]:
    """Different test prompts of the kinds that iterative DPO is given, at most `count`."""
    return list({task.turns: task for task in sources.prompts(count, TEST, 0)}.values())


def study(world: Section, settings: Section, seeds: Sequence[int]) -> WorldLengthStudy:
    """Train both models for every seed and correlate their rewards with length, prompt by prompt.

    world: the section `world`; settings: world_prompts, world_answers to each, world_length_edges.
    """
    answers = pool(POLICY, prompts(settings.world_prompts), world, n=settings.world_answers)
    models = trained(world, seeds, MODELS)
    scored = rewards([model for name in MODELS for model in models[name]], answers)
    given = dict(zip(MODELS, scored.reshape(len(MODELS), len(seeds), *answers.gold.shape), strict=True))
    given[GOLD] = answers.gold[None]
    given[NULL] = np.random.default_rng(0).random((len(seeds), *answers.gold.shape))
    biases = {
        name: [length_correlations(each, answers.characters) for each in values] for name, values in given.items()
    }
    correlations = {name: np.stack([bias.correlation for bias in found]) for name, found in biases.items()}
    heatmaps = {}
    for name in (*MODELS, GOLD):
        averaged = replace(biases[name][0], correlation=correlations[name].mean(axis=0))
        heatmaps[name] = length_heatmap(averaged, settings.world_length_edges)
    shares = {name: longer_share(miniature.pairs(TRAINED[name][1], world.reward_pairs, seeds[0])) for name in MODELS}
    return WorldLengthStudy(correlations, heatmaps, shares, answers, tuple(seeds))
