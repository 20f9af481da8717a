"""Online iterative RLHF by DPO: the practical form of p2.alg1, drawn in p2.fig4.

    pi_0 is the SFT model; for t = 1 ... T:
        x_1 ... x_m   prompts that no iteration before has seen
        a_1 ... a_n   answers of pi_{t-1} to each, half at temperature 1.0 and half at 0.7
        r(x, a)       what the reward model gives each, less lambda a character (p2.eq9)
        D_t           the best answer against the worst; no pair where text or reward is the same
        pi_t          DPO on D_t for two epochs (p2.eq5), from pi_{t-1}, against pi_0

Each of answers, rewards and training is an artifact: recipes that agree on a stage share it, and a killed run goes on from
the last. A `Recipe` is what the paper chose; its other values are what it chose against, or what its released code does.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data import Pair
from repro.models.answers import sampled
from repro.papers.miniature import policy, reward_model_of
from repro.train.dpo import dpo_training
from repro.train.reward_tokens import TokenRewardModel
from repro.world import sources
from repro.world.task import TRAIN, Task

BEST_WORST, BEST_RANDOM, TWO_CHECKPOINTS = "best-worst", "best-random", "two checkpoints"
PENALISED, RAW = "penalised", "raw"
LAST, FIRST = "last", "pi_0"
CHOICES = {"exploration": (BEST_WORST, BEST_RANDOM, TWO_CHECKPOINTS), "order": (PENALISED, RAW)}
CHOICES |= {"start": (LAST, FIRST), "reference": (LAST, FIRST)}
NUMBERS = ("n", "beta", "iterations", "prompts_per_iteration", "learning_rate")  # what a recipe takes from the settings
GENERATING, SCORING, TRAINING = "generating", "scoring", "training"
SPARE = 3  # prompts drawn for each that is needed: the same text may come again


@dataclass(frozen=True)
class Recipe:
    """The paper's choices (p2.iterative_dpo), whose numbers come from the settings; `recipe_of` fills them in.

    exploration: what stands against the best answer: the worst, one at random (one-sided), or the worst where half of
    all answers are the previous iterate's. penalty: lambda per character (p2.eq9). order: whether the penalised reward
    also says which of the two is chosen, or the raw one does (released code). start, reference: the last iterate or pi_0;
    from pi_0 each iteration trains on all pairs so far. Raises SettingsError for another choice, or an n that
    temperatures and checkpoints cannot share equally.
    """

    reward_model: TokenRewardModel
    n: int
    beta: float
    iterations: int
    prompts_per_iteration: int
    learning_rate: float
    temperatures: tuple[float, ...] = (1.0, 0.7)
    exploration: str = BEST_WORST
    penalty: float = 0.0
    order: str = PENALISED
    start: str = LAST
    reference: str = FIRST

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (said := getattr(self, name)) not in known:
                raise SettingsError(f"unknown {name} {said!r}", where="recipe", fix=f"choose from {', '.join(known)}")
        shares = len(self.temperatures) * (2 if self.exploration == TWO_CHECKPOINTS else 1)
        if not shares or self.n < 2 or self.n % shares:
            fix = f"choose a multiple of {max(shares, 2)}"
            raise SettingsError(f"{self.n} answers cannot be shared by {shares}", where="recipe, n", fix=fix)


def recipe_of(world: Section, settings: Section, seed: int, **choices: Any) -> Recipe:
    """The paper's recipe with a tier's numbers and the reward model of a seed, and these choices made otherwise."""
    numbers = {name: settings[name] for name in NUMBERS} | {"temperatures": tuple(settings.temperatures)}
    if "reward_model" not in choices:
        numbers["reward_model"] = reward_model_of(world, seed)
    return Recipe(**{**numbers, **choices})


@dataclass(frozen=True)
class Iteration:
    """One turn of the loop: pi_t, the prompts asked, their answers and (penalised) rewards (prompts, n), the pairs made of them.

    stages: the artifacts behind it, by what they did. dropped: prompts that gave no pair.
    """

    number: int
    policy: Artifact
    tasks: list[Task]
    texts: list[list[str]]
    rewards: np.ndarray
    pairs: list[Pair]
    dropped: int
    stages: dict[str, list[Artifact]]

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage took when it was computed, whoever computed it."""
        return {name: sum(made.manifest["seconds"] for made in each) for name, each in self.stages.items()}

    @property
    def history(self) -> dict[str, Any]:
        """The training record: loss, margin and the like of every step."""
        return json.loads((self.policy / "history.json").read_text())


def run_recipe(recipe: Recipe, world: Section, settings: Section, seed: int) -> list[Iteration]:
    """The loop of p2.fig4, from the SFT policy to pi_T.

    world, settings: the sections `world` and `p2_04_online_dpo`. Raises DataError if there are too few prompts, a reward
    is not a number or no pair is left, naming the iteration, and as its steps do.
    """
    policies, done = [policy(settings.policy, world)], []
    own = training_settings(world, settings, beta=recipe.beta, learning_rate=recipe.learning_rate)
    for number, asked in enumerate(prompt_batches(recipe, seed), 1):
        texts, drawn = _answers(recipe, policies, asked, world, seed)
        rewards, scored = _rewards(recipe, asked, texts, number)
        pairs = preference_pairs(recipe, asked, texts, rewards, np.random.default_rng([seed, number, 41]))
        if not pairs:
            fix = "ask more prompts, or look at the answers and rewards: all are the same"
            raise DataError(f"none of {len(asked)} prompts gave a pair", where=f"iteration {number}", fix=fix)
        trained = _dpo(recipe, pairs, policies, done, own, seed)
        policies.append(trained)
        stages = {GENERATING: drawn, SCORING: [scored], TRAINING: [trained]}
        dropped = len(asked) - len(pairs)
        done.append(Iteration(number, trained, asked, texts, rewards, pairs, dropped, stages))
    return done


def prompt_batches(recipe: Recipe, seed: int) -> list[list[Task]]:
    """The prompts of every iteration, none of them twice, from the paper's six sources, on the training side.

    Raises DataError if the sources do not hold so many.
    """
    needed = recipe.iterations * recipe.prompts_per_iteration
    distinct = {task.turns: task for task in sources.prompts(SPARE * needed, TRAIN, seed)}
    if len(distinct) < needed:
        what = f"{len(distinct)} different prompts for {recipe.iterations} iterations of {recipe.prompts_per_iteration}"
        raise DataError(what, where="online prompts", fix="lower prompts_per_iteration or iterations")
    tasks, size = list(distinct.values()), recipe.prompts_per_iteration
    return [tasks[start : start + size] for start in range(0, needed, size)]


def _answers(
    recipe: Recipe, policies: Sequence[Artifact], asked: Sequence[Task], world: Section, seed: int
) -> tuple[list[list[str]], list[Artifact]]:
    """n answers to each prompt, shared equally among temperatures and, of two, checkpoints; and the artifacts they are in."""
    who = policies[:-3:-1] if recipe.exploration == TWO_CHECKPOINTS else policies[-1:]
    draws = [(each, temperature) for each in who for temperature in recipe.temperatures]
    share, prompts = recipe.n // len(draws), [task.turns for task in asked]
    found = [
        # a seed of its own for each: with one, answers at two temperatures would be drawn by the same numbers
        sampled(each, prompts, world.pick(*world, temperature=temperature), n=share, seed=100 * seed + place)
        for place, (each, temperature) in enumerate(draws)
    ]
    texts = [[text for said in row for text in said] for row in zip(*(each.texts for each in found), strict=True)]
    return texts, [each.artifact for each in found]


def _rewards(
    recipe: Recipe, asked: Sequence[Task], texts: Sequence[Sequence[str]], number: int
) -> tuple[np.ndarray, Artifact]:
    """The reward model's rewards of the answers, (prompts, n), and the artifact they are in."""
    prompts = [task.turns for task in asked]
    scored = artifacts.run(**recipe.reward_model.scoring(prompts, texts))
    rewards = np.array(recipe.reward_model.pool_rewards(prompts, texts), dtype=float)
    if not np.isfinite(rewards).all():
        row, column = np.argwhere(~np.isfinite(rewards))[0]
        what, fix = f"reward {rewards[row, column]} of answer {column}", "look at the reward model's training"
        raise DataError(what, where=f"iteration {number}, prompt {row}", fix=fix)
    return rewards, scored


def preference_pairs(
    recipe: Recipe,
    asked: Sequence[Task],
    texts: Sequence[Sequence[str]],
    rewards: np.ndarray,
    rng: np.random.Generator,
) -> list[Pair]:
    """The best answer of each prompt against the recipe's other one; none where texts or rewards are the same, or one says nothing.

    rewards: (prompts, n), raw; the penalty is taken off here. rng: draws the other answer of one-sided exploration.
    """
    lengths = np.array([[len(text) for text in row] for row in texts])
    ranked = rewards - recipe.penalty * lengths
    ordering = rewards if recipe.order == RAW else ranked
    return [
        Pair(task.turns, said[one], said[other], "online", {"task": task.row()})
        for task, said, rank, order in zip(asked, texts, ranked, ordering, strict=True)
        for one, other in _chosen_and_rejected(recipe, rank, order, rng)
        if said[one] != said[other] and said[one].strip() and said[other].strip()
    ]


def _chosen_and_rejected(
    recipe: Recipe, rank: np.ndarray, order: np.ndarray, rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Places of the two answers picked by rank, the one that `order` puts first in front; nothing if it puts neither."""
    best, other = int(rank.argmax()), int(rank.argmin())
    if recipe.exploration == BEST_RANDOM:
        others = np.flatnonzero(rank != rank[best])  # so that both explorations lose the same prompts
        other = int(rng.choice(others)) if len(others) else best
    if order[best] != order[other]:
        yield (best, other) if order[best] > order[other] else (other, best)


def _dpo(
    recipe: Recipe, pairs: list[Pair], policies: Sequence[Artifact], done: Sequence[Iteration], own: Section, seed: int
) -> Artifact:
    """pi_t: DPO from the last iterate on the new pairs, or from pi_0 on all so far."""
    if recipe.start == FIRST:
        pairs = [pair for each in done for pair in each.pairs] + pairs
    start, reference = (policies[0 if said == FIRST else -1] for said in (recipe.start, recipe.reference))
    return artifacts.run(**dpo_training(pairs, own, seed, policy=start, reference=reference))


def training_settings(world: Section, settings: Section, **choices: float) -> Section:
    """The chapter's parameters over the world's, and these choices over both."""
    return Section({**world, **settings, **choices}, settings.origin)
