"""p1.table2 in the miniature world: RM-Step3 against RM-Step4 at two sizes, and the controls that say what made the difference.

RM-Step3 learns from all pairs that the judge's filter kept, in the judge's direction; RM-Step4 from those that people then
kept, in people's. Between the two lie fewer pairs, a selection and other labels: each control changes one of these alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.errors import DataError
from repro.core.parallel import run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, miniature
from repro.evaluate.preference import pair_outcomes, random_baseline
from repro.papers.collection import Collection
from repro.papers.collection_rows import swapped
from repro.papers.miniature import Pool, concordance, policy, rewards
from repro.train.pairs import sample_pairs, shuffle_labels
from repro.train.reward_tokens import TokenRewardModel, finetuning
from repro.world.annotators import FIRST, Annotator
from repro.world.sources import annotators
from repro.world.task import TEST, Task

SMALL, LARGE = "small", "large"
STEP3, STEP4 = "RM-Step3", "RM-Step4"
HALF, HALF_HUMAN = "random part of step 3", "random part, a person's labels"
SELECTED, SAME_STEPS = "step 4's pairs, judge's labels", "RM-Step4, as many steps as RM-Step3"
UNFILTERED, SHUFFLED = "no filter, one label a pair", "RM-Step3, shuffled labels"
LONGER, RANDOM = "pick the longer", "random"
MAIN = {f"{size} {name}": (size, name) for size in (SMALL, LARGE) for name in (STEP3, STEP4)}
CONTROLS = {name: (SMALL, name) for name in (HALF, HALF_HUMAN, SELECTED, SAME_STEPS, UNFILTERED, SHUFFLED)}
SMALL3, SMALL4, LARGE3, LARGE4 = MAIN
ARMS = MAIN | CONTROLS  # row of a table -> size and training set
PUBLISHED = {row: row.replace(SMALL, "13B").replace(LARGE, "65B") for row in MAIN}

TESTS = {  # the paper's held-out sets and the world's sources in their place
    "Anthropic Helpful": "HH-RLHF",
    "OpenAI Summarize": "Summarization",
    "Stanford SHP": "SHP",
    "WebGPT": "WebGPT",
}
NOT_HELPFUL = "harmful"  # the category that the helpful half of HH-RLHF does not have
OVERALL, ORDER, LENGTH = "Overall", "gold order", "longer preferred"
CONTRASTS = {  # what is compared: the arm first, and the one it is held against
    "step 4 less step 3": (SMALL4, SMALL3),
    "number: a random part less all of step 3": (HALF, SMALL3),
    "selection: step 4's pairs less a random part": (SELECTED, HALF),
    "labels: people's less the judge's, step 4's pairs": (SMALL4, SELECTED),
    "labels: a person's less the judge's, random part": (HALF_HUMAN, HALF),
    "equal number: step 4 less a random part": (SMALL4, HALF),
    "equal steps: step 4 less step 3": (SAME_STEPS, SMALL3),
    "labelling cost: step 4 less no filter": (SMALL4, UNFILTERED),
    "large: step 4 less step 3": (LARGE4, LARGE3),
}
PERCENT = 100.0


# training sets


def relabelled(found: Collection, pairs: Sequence[Pair], who: Annotator, seed: int) -> list[Pair]:
    """The same pairs, each in the direction that an annotator gives it; the same coins are flipped whoever that is."""
    first = who.prefer(*found.graded.sides(pairs), np.random.default_rng([seed, 61])) == FIRST
    return [pair if said else swapped(pair) for pair, said in zip(pairs, first, strict=True)]


def repeated(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs: every pair as often as it goes, and of a last round as many as are missing. Raises DataError without pairs."""
    if not pairs:
        raise DataError("no pairs to repeat", where="filtered_models", fix="look at what step 4 dropped")
    return [*pairs] * (count // len(pairs)) + sample_pairs(pairs, count % len(pairs), seed)


def first_review(pair: Pair) -> Pair:
    """The pair as the first of its reviewers has it."""
    return pair if pair.extras["labels"][0] == FIRST else swapped(pair)


def labels_bought(found: Collection) -> int:
    """Human labels that step 4 took."""
    return found.tallies[-1].cost["labels"]


def training_sets(found: Collection, seed: int) -> dict[str, list[Pair]]:
    """The pairs of every arm: which ones, in whose direction, how often. Raises DataError if step 4 kept nothing."""
    judged, reviewed = found.filtered, found.labelled
    half = sample_pairs(judged, len(reviewed), seed)
    unfiltered = sample_pairs(found.candidates, labels_bought(found), seed)
    return {
        STEP3: judged,
        STEP4: reviewed,
        HALF: half,
        HALF_HUMAN: [first_review(pair) for pair in half],
        SELECTED: [pair for pair in judged if pair.extras["kept"]],
        SAME_STEPS: repeated(reviewed, len(judged), seed),
        UNFILTERED: relabelled(found, unfiltered, annotators()["human"], seed),
        SHUFFLED: shuffle_labels(judged, seed),
    }


def human_labels(found: Collection, sets: Mapping[str, Sequence[Pair]]) -> dict[str, int]:
    """Labels of people that each arm's pairs took; those of step 4 were bought before it chose among them."""
    bought = dict.fromkeys((STEP4, SELECTED, SAME_STEPS), labels_bought(found))
    return dict.fromkeys(sets, 0) | {name: len(sets[name]) for name in (HALF_HUMAN, UNFILTERED)} | bought


# training and judging


def learning(size: str, world: Section, settings: Section) -> Section:
    """The section `world` as a reward model of one size reads it: its base, its rate, the passes over the pairs."""
    rate = settings.larger_learning_rate if size == LARGE else settings.learning_rate
    return world.pick(*world, model=world[size], learning_rate=rate, epochs=settings.epochs)


def trained(
    data: Sequence[Collection], world: Section, settings: Section, seeds: Sequence[int], arms: Iterable[str] = ARMS
) -> dict[str, list[TokenRewardModel]]:
    """Each arm's Bradley-Terry model (p1.eq1) for every seed, from the SFT policy of its size; the costly ones first.

    data: a collection a seed; world, settings: the sections `world` and `p1_02_reward_models`.
    """
    arms = sorted(arms, key=lambda name: ARMS[name][0] != LARGE)
    sets = [training_sets(found, seed) for found, seed in zip(data, seeds, strict=True)]
    calls = []
    for name in arms:
        size, kind = ARMS[name]
        rules, start = learning(size, world, settings), policy(size, world)
        calls += [finetuning(own[kind], rules, seed, start) for own, seed in zip(sets, seeds, strict=True)]
    made = iter(run_all(calls, world.workers))
    return {
        name: [TokenRewardModel(next(made), learning(ARMS[name][0], world, settings)) for _ in seeds] for name in arms
    }


def tests(count: int) -> dict[str, list[Pair]]:
    """`count` pairs of each held-out set: test prompts, labelled by people or their votes as the source has it."""
    found = {}
    for name, source in TESTS.items():
        drawn = miniature.pairs((source,), 2 * count + 50, 0, TEST)  # three in ten of HH-RLHF are harmful
        kept = [pair for pair in drawn if Task.of(pair.extras["task"]).category != NOT_HELPFUL]
        found[name] = kept[:count]
    return found


@dataclass(frozen=True)
class Study:
    """What every arm earns and takes. outcomes: (seeds, pairs), the four sets in turn; order: accuracy on gold order, (seeds, prompts).

    sets, prompts: of each test pair, (pairs,). kept: of every seed, whether step 4 kept each filtered pair. effort: by arm what
    one of its models took, the mean over seeds.
    """

    outcomes: dict[str, np.ndarray]
    order: dict[str, np.ndarray]
    sets: np.ndarray
    prompts: np.ndarray
    kept: list[np.ndarray]
    effort: dict[str, dict[str, float]]
    models: dict[str, list[TokenRewardModel]]
    seeds: tuple[int, ...]

    def members(self, name: str) -> np.ndarray:
        """Which pairs belong to a test set, or to all four, which weigh alike: booleans (pairs,)."""
        return np.full(len(self.sets), True) if name == OVERALL else self.sets == name

    def accuracy(self, arm: str, name: str = OVERALL) -> Interval:
        """Percent of a test set's pairs in the people's order, of a policy's answer pairs in gold's, or of pairs given to the longer."""
        if name == ORDER:
            return mean_interval(self.order[arm]).scaled(PERCENT)
        if name == LENGTH:
            longer = self.outcomes[LONGER]  # 1 where the chosen answer is the longer one, half where neither is
            likes = np.where(longer == 0.5, np.nan, np.where(longer == 1, self.outcomes[arm], 1 - self.outcomes[arm]))
            return mean_interval(likes, groups=self.prompts).scaled(PERCENT)
        own = self.members(name)
        return mean_interval(self.outcomes[arm][:, own], groups=self.prompts[own]).scaled(PERCENT)

    def gain(self, arm: str, other: str, name: str = OVERALL) -> Interval:
        """Points that an arm gains over another, paired by pair or prompt, and by seed."""
        if name == ORDER:
            return difference_interval(self.order[arm], self.order[other]).scaled(PERCENT)
        own = self.members(name)
        both = (self.outcomes[each][:, own] for each in (arm, other))
        return difference_interval(*both, groups=self.prompts[own]).scaled(PERCENT)

    def share_of_pairs(self) -> Interval:
        """Pairs of step 4 in percent of those of step 3, over prompts and seeds; no prompt is shared by two seeds."""
        spread = np.full((len(self.kept), sum(map(len, self.kept))), np.nan)
        starts = np.cumsum([0, *map(len, self.kept)])
        for row, values in enumerate(self.kept):
            spread[row, starts[row] : starts[row + 1]] = values
        return mean_interval(spread).scaled(PERCENT)

    def evidence(self, id: str) -> dict[str, Interval]:
        """What the rule of p1.c1 or p1.c2 asks for."""
        if id == "p1.c1":
            gains = {f"gain_{size}": self.gain(f"{size} {STEP4}", f"{size} {STEP3}") for size in (SMALL, LARGE)}
            return gains | {"share_of_pairs": self.share_of_pairs()}
        arms = {"gain_step3": STEP3, "gain_step4": STEP4}
        return {term: self.gain(f"{LARGE} {name}", f"{SMALL} {name}") for term, name in arms.items()}

    def records(self) -> list[Record]:
        """p1.table2: percent of held-out pairs in the people's order, the paper's four models and the nulls."""
        found, columns = [], (*TESTS, OVERALL)
        for arm in (*MAIN, SHUFFLED, LONGER):
            seeds = [0] if arm == LONGER else self.seeds
            found += [
                record("p1.table2", arm, name, self.accuracy(arm, name), unit="%", seeds=seeds) for name in columns
            ]
        for name in columns:
            chance = random_baseline(int(self.members(name).sum())).scaled(PERCENT)
            found.append(record("p1.table2", RANDOM, name, chance, unit="%"))
        return found

    def arm_records(self) -> list[Record]:
        """p1_02.arms: what each arm learnt from and took, its two accuracies and its liking for length in percent."""
        found = []
        for arm in ARMS:
            effort = self.effort[arm].items()
            found += [record("p1_02.arms", arm, f"# {what}", value, seeds=self.seeds) for what, value in effort]
            for name in (OVERALL, ORDER, LENGTH):
                found.append(record("p1_02.arms", arm, name, self.accuracy(arm, name), unit="%", seeds=self.seeds))
        return found

    def contrast_records(self) -> list[Record]:
        """p1_02.contrasts: points between two arms, by people's labels and by gold order, paired."""
        return [
            record("p1_02.contrasts", row, what, self.gain(*arms, name), unit="points", seeds=self.seeds)
            for what, arms in CONTRASTS.items()
            for row, name in (("held-out human labels", OVERALL), ("gold order of answers", ORDER))
        ]


def judged(
    models: Mapping[str, Sequence[TokenRewardModel]], held: Sequence[Pair], answers: Pool, workers: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outcomes on the held-out pairs, (seeds, pairs), and accuracy on gold order of a pool, (seeds, prompts), by arm."""
    asked, sides = [pair.prompt for pair in held], [[pair.chosen, pair.rejected] for pair in held]
    every = [model for those in models.values() for model in those]
    run_all([each.scoring(asked, sides) for each in every], workers)
    wins = [pair_outcomes(*np.transpose(each.pool_rewards(asked, sides))) for each in every]
    order = [concordance(each, answers.gold) for each in rewards(every, answers)]
    stacked = (np.array(values).reshape(len(models), -1, len(values[0])) for values in (wins, order))
    return tuple(dict(zip(models, values, strict=True)) for values in stacked)


def study(data: Sequence[Collection], world: Section, settings: Section, answers: Pool, seeds: Sequence[int]) -> Study:
    """Train every arm for every seed and judge it on the four sets and on the order of a policy's answers.

    data: a collection a seed; settings: test_pairs of each set; answers: of the small policy to test prompts.
    """
    held = tests(settings.test_pairs)
    pairs = [pair for those in held.values() for pair in those]
    models = trained(data, world, settings, seeds)
    outcomes, order = judged(models, pairs, answers, world.workers)
    lengths = np.array([[len(pair.chosen), len(pair.rejected)] for pair in pairs], dtype=float)
    outcomes[LONGER] = np.tile(pair_outcomes(*lengths.T), (len(seeds), 1))
    order[LONGER] = np.tile(concordance(answers.characters.astype(float), answers.gold), (len(seeds), 1))
    sets = np.repeat(list(held), settings.test_pairs)
    prompts = np.array([f"{name} {pair.prompt_id}" for name, pair in zip(sets, pairs, strict=True)])
    kept = [np.array([pair.extras["kept"] for pair in found.filtered], dtype=float) for found in data]
    return Study(outcomes, order, sets, prompts, kept, efforts(data, models, seeds), models, tuple(seeds))


def efforts(
    data: Sequence[Collection], models: Mapping[str, Sequence[TokenRewardModel]], seeds: Sequence[int]
) -> dict[str, dict[str, float]]:
    """By arm, of one model, the mean over seeds: different pairs, human labels, optimiser steps and seconds of training."""
    sets = [training_sets(found, seed) for found, seed in zip(data, seeds, strict=True)]
    labels = [human_labels(found, own) for found, own in zip(data, sets, strict=True)]
    found = {}
    for arm, those in models.items():
        kind = ARMS[arm][1]
        found[arm] = {
            "pairs": np.mean([len({id(pair) for pair in own[kind]}) for own in sets]),
            "labels": np.mean([own[kind] for own in labels]),
            "steps": np.mean([len(each.history.loss) for each in those]),
            "seconds": np.mean([each.artifact.manifest["seconds"] for each in those]),
        }
    return found
