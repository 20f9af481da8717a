"""p2's ablations of the loop: a length penalty, a length-biased reward model, a restart from pi_0 (p2.table4, p2.eq9).

    Ours            the loop as in its chapter
    Ours-concise    rewards less lambda a character, for picking and for ordering
    biased          the reward model learned the same pairs, labelled by people who like length three times as much
    restart         every iteration begins at pi_0 and trains on all pairs so far

All run at the rate that was tuned for the loop. Where the paper's lambda has no meaning, because rewards and lengths have
another scale, it follows from a rule: one standard deviation of length costs a stated share of one of reward, both among
pi_0's answers to a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.errors import DataError
from repro.core.parallel import ahead, run_all
from repro.core.settings import Section
from repro.data import miniature
from repro.models.logprobs import logprobs_of, read_logprobs
from repro.papers.chat_benchmarks import Policies, Scores, academic_scores, chat_scores, everyone, said
from repro.papers.court import dialled, labelled_by
from repro.papers.miniature import policy, reward_models
from repro.papers.online_arms import ITERATIVE, SFT, Measured, Run, followed, measured, tuned
from repro.papers.online_rlhf import FIRST, Iteration, Recipe, recipe_of, training_settings
from repro.train.reward_tokens import TokenRewardModel
from repro.world import constants

OURS, CONCISE, BIASED, RESTART = "Ours", "Ours-concise", "length-biased RM", "restart from pi_0"
JUDGED = (SFT, OURS, CONCISE, BIASED)  # the rows of table 4, and where they began
STRONG, MIX = "strong", "mix2"
PENALTY, BETA, N, EPOCHS = "penalty", "beta", "n", "epochs"  # what is swept, over one iteration

Plans = dict[tuple[str, float], tuple[list[Recipe], Section]]  # by what is swept and its value, the recipe of each seed


@dataclass(frozen=True)
class Study:
    """Runs by variant, and sweeps of one iteration by what is swept and its value, of every seed.

    first: pi_0 measured by the usual and by the biased reward model; penalties: lambda of each seed, in reward a
    character; losses: DPO loss of every prompt's pair under the policy that learned it, (seeds, prompts of all iterations),
    nan where there was no pair; chat, academic: the policies of JUDGED.
    """

    runs: dict[str, list[Run]]
    sweeps: dict[tuple[str, float], list[Run]]
    first: dict[str, list[Measured]]
    penalties: list[float]
    losses: dict[str, np.ndarray]
    chat: Scores
    academic: Scores
    seeds: tuple[int, ...]

    def last(self, variant: str, quantity: str) -> np.ndarray:
        """A variant's last iterate on the loop's test prompts, (seeds, prompts)."""
        return np.array([run.measured[-1].by_prompt(quantity) for run in self.runs[variant]])


def study(world: Section, online: Section, settings: Section, seeds: Sequence[int]) -> Study:
    """Everything the chapter shows. The sections: `world`, `p2_04_online_dpo` for the loop, and the chapter's own."""
    models = both_reward_models(world, seeds)
    rate = tuned(world, online).rates[ITERATIVE]
    ours = [
        recipe_of(world, online, seed, learning_rate=rate, reward_model=models[OURS][k]) for k, seed in enumerate(seeds)
    ]
    runs = {OURS: _all_followed([ours], [online], world, seeds)[0]}
    penalties = [length_penalty(run.iterations[0], settings) for run in runs[OURS]]
    others = {
        BIASED: [replace(recipe, reward_model=model) for recipe, model in zip(ours, models[BIASED], strict=True)],
        CONCISE: [replace(recipe, penalty=each) for recipe, each in zip(ours, penalties, strict=True)],
        RESTART: [replace(recipe, start=FIRST) for recipe in ours],
    }
    swept = sweep_plans(ours, penalties, online, settings)
    recipes, sections = [*others.values(), *(each for each, _ in swept.values())], [online] * len(others)
    found = _all_followed(recipes, [*sections, *(each for _, each in swept.values())], world, seeds)
    runs |= dict(zip(others, found[: len(others)], strict=True))
    begun = policy(online.policy, world)
    policies = {SFT: [begun] * len(seeds)} | {
        name: [run.iterations[-1].policy for run in runs[name]] for name in JUDGED[1:]
    }
    return Study(
        runs,
        dict(zip(swept, found[len(others) :], strict=True)),
        {name: [measured(begun, model, world, online) for model in each] for name, each in models.items()},
        penalties,
        {
            name: np.array([training_losses(run.iterations, world, online) for run in runs[name]])
            for name in (OURS, BIASED)
        },
        _judged(policies, world, settings.benchmark_items, seeds),
        academic_scores(policies, settings.benchmark_items, world.workers, seeds),
        tuple(seeds),
    )


def both_reward_models(world: Section, seeds: Sequence[int]) -> dict[str, list[TokenRewardModel]]:
    """By variant, the reward model of each seed: on the pairs' own labels, and on those of people who like length."""
    panel, count = dialled(constants.STRONG_VERBOSITY), world.reward_pairs
    sets = [(miniature.pairs(MIX, count, seed), seed) for seed in seeds]
    sets += [(labelled_by(panel, count, seed, MIX), seed) for seed in seeds]
    made = reward_models(sets, world)
    return {OURS: made[: len(seeds)], BIASED: made[len(seeds) :]}


def length_penalty(first: Iteration, settings: Section) -> float:
    """lambda of p2.eq9, reward a character: as set, or by the rule of `penalty_share` on pi_0's answers.

    Raises DataError if all answers to a prompt are equally long, for every prompt: nothing can be penalised.
    """
    if settings.penalty is not None:
        return settings.penalty
    lengths = np.array([[len(text) for text in row] for row in first.texts])
    spread = np.sqrt(lengths.var(axis=1).mean())
    if not spread:
        raise DataError("all answers to each prompt are equally long", where="length penalty", fix="set `penalty`")
    return float(settings.penalty_share * np.sqrt(first.rewards.var(axis=1).mean()) / spread)


def sweep_plans(ours: Sequence[Recipe], penalties: Sequence[float], online: Section, settings: Section) -> Plans:
    """One iteration with another lambda (a multiple of the chapter's), beta, n, or number of epochs, all else as in Ours.

    One iteration, so that all values but those of n learn from the same answers to the same prompts.
    """
    one = [replace(recipe, iterations=1) for recipe in ours]
    plans: Plans = {}
    for factor in settings.penalty_factors:
        lambdas = [factor * each for each in penalties]
        plans[PENALTY, factor] = (
            [replace(recipe, penalty=each) for recipe, each in zip(one, lambdas, strict=True)],
            online,
        )
    for name, values in ((BETA, settings.betas), (N, settings.ns)):
        plans |= {(name, value): ([replace(recipe, **{name: value}) for recipe in one], online) for value in values}
    return plans | {(EPOCHS, value): (one, online.pick(*online, epochs=value)) for value in settings.sweep_epochs}


def _all_followed(
    plans: Sequence[Sequence[Recipe]], sections: Sequence[Section], world: Section, seeds: Sequence[int]
) -> list[list[Run]]:
    """The run of each plan's recipes, one a seed; several at once, those that are the same only once."""
    calls = [
        [(recipe, world, section, seed) for recipe, seed in zip(recipes, seeds, strict=True)]
        for recipes, section in zip(plans, sections, strict=True)
    ]
    different: list[tuple] = []
    for call in (call for each in calls for call in each):
        different += [call] if call not in different else []
    ahead(followed, different, world.workers)
    return [[followed(*call) for call in each] for each in calls]


def training_losses(done: Sequence[Iteration], world: Section, online: Section) -> np.ndarray:
    """DPO loss in nats of each prompt's pair under the iterate that was trained on it, all iterations in a row; nan without a pair.

    (prompts of all iterations,). The loop's reference is pi_0.
    """
    own, first = training_settings(world, online), policy(online.policy, world)
    asked = [
        ([pair.prompt for pair in each.pairs], [(pair.chosen, pair.rejected) for pair in each.pairs]) for each in done
    ]
    calls = [
        logprobs_of(model, *said, own) for each, said in zip(done, asked, strict=True) for model in (each.policy, first)
    ]
    made = run_all(calls, world.workers)
    losses = []
    for place, each in enumerate(done):
        ours, reference = (np.array(read_logprobs(made[2 * place + k])) for k in (0, 1))
        gained = ours - reference
        by_prompt = dict(zip(asked[place][0], pair_losses(gained[:, 0], gained[:, 1], own.beta), strict=True))
        losses += [by_prompt.get(task.turns, np.nan) for task in each.tasks]
    return np.array(losses)


def pair_losses(chosen: np.ndarray, rejected: np.ndarray, beta: float) -> np.ndarray:
    """-log sigmoid(beta (chosen - rejected)) in nats, of log ratios to the reference (p2.eq5), pair by pair."""
    return np.logaddexp(0, -beta * (chosen - rejected))


def _judged(policies: Policies, world: Section, items: int, seeds: Sequence[int]) -> Scores:
    baseline = policy(STRONG, world)
    return chat_scores(everyone(policies, world, items, seeds), said(baseline, world, items, 0), seeds)
