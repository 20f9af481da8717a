"""p2.table1 in the miniature world: Bradley-Terry, pairwise preference and prompting on a RewardBench-like set.

All start from the same SFT policy and, for a mixture and seed, see the same pairs once. The prompted model is that policy
untrained, asked in the preference model's own words. Beside them stand a coin, the longer answer, and shuffled labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.core.artifacts import Artifact
from repro.core.parallel import run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, miniature
from repro.evaluate.preference import pair_outcomes, random_baseline
from repro.evaluate.rewardbench import overall_score
from repro.models.load import load_tokenizer
from repro.papers import court
from repro.papers.miniature import policy
from repro.train.pairs import shuffle_labels
from repro.train.pairwise import (
    Comparison,
    PreferenceModel,
    label_tokens,
    preference_training,
    rendered,
    template_named,
)
from repro.train.reward_tokens import TokenRewardModel, finetuning
from repro.world.task import TEST

BASE = "small"  # the role that every model of this study starts from
PROMPTED, BT_MIX1, BT_MIX2, PM_MIX1, PM_MIX2, SHUFFLED, LONGER, RANDOM = (
    "prompting",
    "BT, mix1",
    "BT, mix2",
    "preference, mix1",
    "preference, mix2",
    "BT, mix2, shuffled labels",
    "pick the longer",
    "random",
)
TRAINED = {  # (kind, mixture) of each trained model
    BT_MIX1: ("bt", "mix1"),
    BT_MIX2: ("bt", "mix2"),
    PM_MIX1: ("pm", "mix1"),
    PM_MIX2: ("pm", "mix2"),
    SHUFFLED: ("shuffled", "mix2"),
}
MIXTURES = ("mix1", "mix2")
PUBLISHED = {  # our rows and the paper's
    PROMPTED: "LLaMA-3-8B-it Prompting",
    BT_MIX1: "LLaMA-2-13B BT mix1",
    BT_MIX2: "LLaMA-3-8B-it BT mix2",
    PM_MIX2: "LLaMA-3-8B-it Preference mix2",
}
PERCENT = 100.0
Judge = TokenRewardModel | PreferenceModel


def training(kind: str, pairs: Sequence[Pair], world: Section, seed: int, start: Artifact) -> dict[str, Any]:
    """What `run_all` needs to train one model: bt (p2.eq4), pm (p2.pm), or bt on labels redrawn by a coin."""
    if kind == "pm":
        return preference_training(pairs, world, seed, start)
    pairs = shuffle_labels(pairs, seed) if kind == "shuffled" else pairs
    return finetuning(pairs, world.renamed(model=BASE), seed, start)


def trained(world: Section, seeds: Sequence[int], names: Iterable[str] = TRAINED) -> dict[str, list[Judge]]:
    """The named models of TRAINED, each for every seed, on `reward_pairs` pairs; those not there yet are made at once.

    settings: the section `world`. A seed draws pairs, places, batches and the reward head.
    """
    start, names = policy(BASE, world), list(names)
    places = [(name, seed) for name in names for seed in seeds]
    drawn = {
        (mixture, seed): miniature.pairs(mixture, world.reward_pairs, seed)
        for mixture in dict.fromkeys(TRAINED[name][1] for name in names)
        for seed in seeds
    }
    calls = []
    for name, seed in places:
        kind, mixture = TRAINED[name]
        calls.append(training(kind, drawn[mixture, seed], world, seed, start))
    found: dict[str, list[Judge]] = {name: [] for name in names}
    for (name, _), made in zip(places, run_all(calls, world.workers), strict=True):
        compares = TRAINED[name][0] == "pm"
        found[name].append(PreferenceModel(made, world) if compares else TokenRewardModel(made, world))
    return found


def prompted(world: Section) -> PreferenceModel:
    """The SFT policy itself, asked to compare without being taught to."""
    return PreferenceModel(policy(BASE, world), world)


def compared(rows: Iterable[Mapping[str, Any] | Pair]) -> list[Comparison]:
    """Prompt, better and worse answer of benchmark rows or of pairs."""
    fields = ("prompt", "chosen", "rejected")
    return [tuple(row[f] if isinstance(row, Mapping) else getattr(row, f) for f in fields) for row in rows]


def _call(model: Judge, rows: Sequence[Comparison]) -> dict[str, Any]:
    if isinstance(model, PreferenceModel):
        return model.judging(rows)
    return model.scoring([turns for turns, _, _ in rows], [list(both) for _, *both in rows])


def outcomes(model: Judge, rows: Sequence[Comparison]) -> np.ndarray:
    """1 where the first answer is preferred, 0 where the second is, 0.5 for a tie: (rows,)."""
    if isinstance(model, PreferenceModel):
        found = model.probabilities(rows)
        return pair_outcomes(found, np.full(len(found), 0.5))
    scores = model.pool_rewards([turns for turns, _, _ in rows], [list(both) for _, *both in rows])
    return pair_outcomes(*np.array(scores).T)


@dataclass(frozen=True)
class Study:
    """Outcomes by model: on the benchmark, (seeds, items), and on held-out pairs of each mixture, (seeds, pairs)."""

    benchmark: dict[str, np.ndarray]
    rows: list[dict]
    held: dict[str, dict[str, np.ndarray]]
    prompts: dict[str, list[str]]
    models: dict[str, list[Judge]]
    seeds: tuple[int, ...]

    @property
    def sections(self) -> list[str]:
        return list(dict.fromkeys(row["section"] for row in self.rows))

    def members(self, name: str) -> np.ndarray:
        """Which items belong to a section or a subset: booleans (items,)."""
        return np.array([name in (row["section"], row["subset"]) for row in self.rows])

    def interval(self, model: str, name: str) -> Interval:
        """Accuracy in percent in a section or a subset, over prompts and seeds; every subset has as many items."""
        return mean_interval(self.benchmark[model][:, self.members(name)]).scaled(PERCENT)

    def gain(self, model: str, other: str, name: str) -> Interval:
        """Points that a model gains over another in a section, paired by item and seed."""
        both = (self.benchmark[each][:, self.members(name)] for each in (model, other))
        return difference_interval(*both).scaled(PERCENT)

    def records(self) -> list[Record]:
        """p2.table1: accuracy by section of every model and null baseline, percent."""
        found = []
        for model in self.benchmark:
            seeds = [0] if model in (PROMPTED, LONGER) else self.seeds
            for name in self.sections:
                found.append(record("p2.table1", model, name, self.interval(model, name), unit="%", seeds=seeds))
        for name in self.sections:
            chance = random_baseline(int(self.members(name).sum())).scaled(PERCENT)
            found.append(record("p2.table1", RANDOM, name, chance, unit="%"))
        return found

    def subset_records(self, models: Sequence[str]) -> list[Record]:
        """Accuracy by subset, percent: what within a section is within reach."""
        subsets = dict.fromkeys(row["subset"] for row in self.rows)
        return [
            record("p2_02.subsets", model, name, self.interval(model, name), unit="%", seeds=self.seeds)
            for model in models
            for name in subsets
        ]

    def overall(self, model: str) -> float:
        """RewardBench's overall score in percent: the mean of the sections (no prior sets in the world)."""
        return overall_score({name: self.interval(model, name).value for name in self.sections})

    def held_records(self) -> list[Record]:
        """p2_02.held_out: percent of held-out pairs of each mixture that are ordered as their annotators did."""
        found = []
        for mixture, by_model in self.held.items():
            for model, values in by_model.items():
                interval = mean_interval(values, groups=self.prompts[mixture]).scaled(PERCENT)
                seeds = [0] if model in (PROMPTED, LONGER) else self.seeds
                found.append(record("p2_02.held_out", model, mixture, interval, unit="%", seeds=seeds))
        return found

    def evidence(self, id: str) -> dict[str, Interval]:
        """What the rule of p2.c1, p2.c2 or p2.c3 asks for: differences in points, paired."""
        if id == "p2.c1":
            kinds = {"bt": BT_MIX2, "pm": PM_MIX2}
            return {
                f"{kind}_{_term(name)}": self.gain(model, PROMPTED, name)
                for kind, model in kinds.items()
                for name in self.sections
            }
        first, second = (PM_MIX2, BT_MIX2) if id == "p2.c2" else (BT_MIX2, BT_MIX1)
        wanted = self.sections if id == "p2.c2" else ("Safety", "Reasoning")
        return {_term(name): self.gain(first, second, name) for name in wanted}


def _term(section: str) -> str:
    return section.lower().replace(" ", "_")


def study(world: Section, settings: Section, seeds: Sequence[int]) -> Study:
    """Train every model for every seed and judge the benchmark and held-out pairs with all of them.

    world: the section `world`; settings: benchmark_items a subset, held_pairs of each mixture's test side.
    """
    rows = court.rewardbench(settings.benchmark_items)
    sets = {"": compared(rows)}
    held = {name: miniature.pairs(name, settings.held_pairs, 0, TEST) for name in MIXTURES}
    sets |= {name: compared(pairs) for name, pairs in held.items()}
    models = {PROMPTED: [prompted(world)] * len(seeds), **trained(world, seeds)}
    every = [(name, model, part) for name, those in models.items() for model in those for part in sets]
    run_all([_call(model, sets[part]) for _, model, part in every], world.workers)
    found: dict[str, dict[str, list]] = {part: {name: [] for name in models} for part in sets}
    for name, model, part in every:
        found[part][name].append(outcomes(model, sets[part]))
    stacked = {part: {name: np.stack(each) for name, each in by.items()} for part, by in found.items()}
    for part, comparisons in sets.items():
        lengths = np.array([[len(first), len(second)] for _, first, second in comparisons], dtype=float)
        stacked[part][LONGER] = np.tile(pair_outcomes(*lengths.T), (len(seeds), 1))
    prompts = {name: [pair.prompt_id for pair in pairs] for name, pairs in held.items()}
    return Study(stacked.pop(""), rows, stacked, prompts, models, tuple(seeds))


def hyperparameters(world: Section) -> dict[str, object]:
    """What p2.pm lists, as it is here."""
    return {
        "base": f"{world[BASE]}, fine-tuned",
        "epochs": world.pm_epochs,
        "lr": world.pm_learning_rate,
        "schedule": "cosine",
        "warmup_ratio": world.warmup_ratio,
        "global_batch": world.pm_batch_size,
        "packing_block": world.pm_packing_block,
        "position_randomised": True,
    }


def shown(model: PreferenceModel, world: Section, comparison: Comparison) -> dict[str, Any]:
    """One comparison as the model reads it, in both orders, and the probability that it ends in."""
    template, (turns, first, second) = template_named(world.pm_template), comparison
    tokenizer = load_tokenizer(str(model.artifact.path))
    words = tokenizer.convert_ids_to_tokens(list(label_tokens(tokenizer, template)))
    texts = {"as shown": rendered(template, turns, first, second), "swapped": rendered(template, turns, second, first)}
    return {"texts": texts, "labels": words, "probability": float(model.probabilities([comparison])[0])}
