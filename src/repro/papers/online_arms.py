"""The arms that the chapter compares: the loop, DPO on others' answers, DPO on pi_0's own, each at a learning rate of its own.

    iterative DPO   three iterations of p2.fig4
    offline DPO     pairs collected beforehand (p2.eq6): the judge's UltraFeedback stands for the paper's Nectar
    one batch       pi_0's answers to the prompts of all iterations, ranked once by the loop's reward model, trained on at once

All have as many pairs as the loop and as many optimiser steps. A rate is chosen by the judge's win rate against SFT on validation
prompts of the training side, on one seed, and used on every seed: an untuned offline arm collapses and fakes the comparison.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.parallel import ahead
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.data import miniature as data
from repro.models.logprobs import logprobs_of, read_logprobs
from repro.papers.miniature import balanced, policy, pool, reward_model_of, rewards
from repro.papers.online_rlhf import Iteration, Recipe, prompt_batches, recipe_of, run_recipe, training_settings
from repro.train.dpo import dpo_training
from repro.train.reward_tokens import TokenRewardModel
from repro.world import sources
from repro.world.annotators import Judge
from repro.world.task import TRAIN, Task

SFT, OFFLINE, ONE_BATCH, ITERATIVE = "SFT", "offline DPO", "one batch", "iterative DPO"
TRAINED = (ITERATIVE, OFFLINE, ONE_BATCH)
TUNING_SEED = 0  # the seed whose runs choose the rates, whichever seeds a chapter reports
TEST_SEED, VALIDATION_SEED = 4, 7919  # draws of prompts: all seeds and arms answer the same ones
OFFLINE_SEED = 1000  # draws of offline pairs begin here, away from the reward model's
PERCENT = 100.0


@dataclass(frozen=True)
class Measured:
    """What a policy answers to the test prompts at temperature 1, (prompts, answers) each.

    gold; proxy, the reward model's; log_ratio, log pi - log pi_0 of the answer in nats, whose mean is KL(pi, pi_0), nan where it was
    cut short; characters; won, the judge's percent against SFT, a tie half.
    """

    gold: np.ndarray
    proxy: np.ndarray
    log_ratio: np.ndarray
    characters: np.ndarray
    won: np.ndarray

    def by_prompt(self, quantity: str) -> np.ndarray:
        """Mean over the answers of each prompt, (prompts,); nan where none was finished."""
        values = getattr(self, quantity)
        count = np.isfinite(values).sum(1)
        return np.where(count > 0, np.nansum(values, 1) / np.maximum(count, 1), np.nan)


def test_prompts(settings: Section) -> list[Task]:
    """The prompts that every reported figure rests on: equally many of each category, on the test side."""
    return balanced(settings.tasks_per_category, TEST_SEED)


def measured(model: Artifact, reward_model: TokenRewardModel, world: Section, settings: Section) -> Measured:
    """A policy's answers to the test prompts, graded, rewarded, weighed against pi_0 and judged against its answers."""
    first, asked = policy(settings.policy, world), test_prompts(settings)
    ours, theirs = (pool(each, asked, world, n=settings.answers, seed=TEST_SEED) for each in (model, first))
    prompts = [task.turns for task in asked]
    logs = [
        read_logprobs(artifacts.run(**logprobs_of(each, prompts, ours.texts, world.pick(*world))))
        for each in (model, first)
    ]
    ratio = np.where(ours.answers.finished, np.array(logs[0]) - np.array(logs[1]), np.nan)
    proxy = rewards([reward_model], ours)[0]
    return Measured(ours.gold, proxy, ratio, ours.characters.astype(float), _won(asked, ours.texts, theirs.texts))


def _won(asked: Sequence[Task], ours: Sequence[Sequence[str]], theirs: Sequence[Sequence[str]]) -> np.ndarray:
    """Percent, (prompts, answers): the judge on each of our answers beside the baseline's in the same place."""
    each = [task for task, row in zip(asked, ours, strict=True) for _ in row]
    sides = [[text for row in texts for text in row] for texts in (ours, theirs)]
    return PERCENT * Judge(ties=True).label(each, *sides, np.random.default_rng(0)).reshape(len(asked), -1)


@dataclass(frozen=True)
class Run:
    """One recipe followed: its iterations, and what each iterate, or the last alone, says to the test prompts."""

    iterations: list[Iteration]
    measured: list[Measured]


def followed(recipe: Recipe, world: Section, settings: Section, seed: int, every: bool = True) -> Run:
    """The loop, and every iterate measured, or only the last."""
    done = run_recipe(recipe, world, settings, seed)
    return Run(
        done, [measured(each.policy, recipe.reward_model, world, settings) for each in done[0 if every else -1 :]]
    )


def offline(count: int, rate: float, world: Section, settings: Section, seed: int) -> Artifact:
    """DPO from pi_0 on `count` pairs that the judge labelled beforehand (p2.eq6), as many epochs as the loop's."""
    pairs = data.pairs(["UltraFeedback"], count, OFFLINE_SEED + seed)  # none that the reward model learned from
    first = policy(settings.policy, world)
    own = training_settings(world, settings, learning_rate=rate)
    return artifacts.run(**dpo_training(pairs, own, seed, policy=first, reference=first))


def one_batch(recipe: Recipe) -> Recipe:
    """The recipe with the prompts of all iterations asked at once: pi_0 answers them all, and learns once."""
    return replace(recipe, iterations=1, prompts_per_iteration=recipe.iterations * recipe.prompts_per_iteration)


# learning rates


@dataclass(frozen=True)
class Tuning:
    """The judge's win rate against SFT on validation prompts by arm and rate, and the rate chosen for each arm."""

    wins: dict[str, dict[float, Interval]]

    @property
    def rates(self) -> dict[str, float]:
        """Of each arm the rate of the highest win rate, the smallest of equal ones."""
        return {arm: max(sorted(found), key=lambda rate: found[rate].value) for arm, found in self.wins.items()}

    def records(self) -> list[Record]:
        """p2_04.rates: percent by arm and learning rate."""
        return [
            record("p2_04.rates", arm, f"rate = {rate:g}", value, unit="%", seeds=[TUNING_SEED])
            for arm, found in self.wins.items()
            for rate, value in found.items()
        ]


def tuned(world: Section, settings: Section) -> Tuning:
    """`rates` tried for the loop and `offline_rates` for the other arms on validation prompts, once for all chapters."""
    model = reward_model_of(world, TUNING_SEED)
    inputs = {"policy": policy(settings.policy, world), "reward_model": model.artifact}
    both = {"world": world, "online": settings}
    made = artifacts.run(tune, settings=both, inputs=inputs, seed=TUNING_SEED)
    rows = json.loads((made / "wins.json").read_text())
    return Tuning({arm: {rate: Interval(*found) for rate, *found in each} for arm, each in rows.items()})


def tune(job: Job) -> None:
    """Step: `policy` and `reward_model` to wins.json, by arm rows of rate, win rate in percent, its interval and n.

    settings: the sections `world` and `online`. The runs that it tries are artifacts of their own, and found again.
    """
    world, settings = job.settings.world, job.settings.online
    model = TokenRewardModel(job.inputs["reward_model"], world)
    recipe, rates = recipe_of(world, settings, TUNING_SEED, reward_model=model), sorted(settings.offline_rates)
    online = partial(_online_win, recipe, world, settings)
    wins = {ITERATIVE: _tried(online, sorted(settings.rates), world)}
    best = replace(recipe, learning_rate=Tuning(wins).rates[ITERATIVE])
    count = sum(len(each.pairs) for each in run_recipe(best, world, settings, TUNING_SEED))
    wins[OFFLINE] = _tried(partial(_offline_win, recipe, count, world, settings), rates, world)
    wins[ONE_BATCH] = _tried(partial(_online_win, one_batch(recipe), world, settings), rates, world)
    rows = {arm: [[rate, *astuple(win)] for rate, win in each.items()] for arm, each in wins.items()}
    (job.out / "wins.json").write_text(json.dumps(rows))


def _tried(win: Callable[[float], Interval], rates: Sequence[float], world: Section) -> dict[float, Interval]:
    ahead(win, [(rate,) for rate in rates], world.workers)
    return {rate: win(rate) for rate in rates}


def _online_win(recipe: Recipe, world: Section, settings: Section, rate: float) -> Interval:
    done = run_recipe(replace(recipe, learning_rate=rate), world, settings, TUNING_SEED)
    return _validated(done[-1].policy, recipe, world, settings)


def _offline_win(recipe: Recipe, count: int, world: Section, settings: Section, rate: float) -> Interval:
    return _validated(offline(count, rate, world, settings, TUNING_SEED), recipe, world, settings)


def _validated(model: Artifact, recipe: Recipe, world: Section, settings: Section) -> Interval:
    """The judge's win rate in percent against SFT on prompts of the training side that no iteration asks."""
    seen = {task.turns for asked in prompt_batches(recipe, TUNING_SEED) for task in asked}
    drawn = sources.prompts(2 * settings.validation_prompts, TRAIN, VALIDATION_SEED)
    fresh = {task.turns: task for task in drawn if task.turns not in seen}
    asked = list(fresh.values())[: settings.validation_prompts]
    first = policy(settings.policy, world)
    ours, theirs = (pool(each, asked, world, n=settings.answers, seed=VALIDATION_SEED).texts for each in (model, first))
    return mean_interval(_won(asked, ours, theirs).mean(1))


# what other chapters build on


def arms(world: Section, settings: Section, seed: int) -> dict[str, Artifact]:
    """The policies that the benchmarks compare: SFT, offline DPO and iterative DPO, each at its tuned rate.

    world, settings: the sections `world` and `p2_04_online_dpo`.
    """
    rates = tuned(world, settings).rates
    recipe = recipe_of(world, settings, seed, learning_rate=rates[ITERATIVE])
    done = run_recipe(recipe, world, settings, seed)
    count = sum(len(each.pairs) for each in done)
    return {
        SFT: policy(settings.policy, world),
        OFFLINE: offline(count, rates[OFFLINE], world, settings, seed),
        ITERATIVE: done[-1].policy,
    }
