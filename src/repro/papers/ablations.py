"""p2's ablations of the loop: a length penalty, a length-biased reward model, a restart from pi_0 (p2.table4, p2.eq9).

    Ours            the loop as in its chapter
    Ours-concise    rewards less lambda a character, for picking and for ordering
    biased          the reward model learned the same pairs, labelled by people who like length three times as much
    restart         every iteration begins at pi_0 and trains on all pairs so far

All run at the rate that was tuned for the loop. Where the paper's lambda has no meaning, because rewards and lengths have
another scale, it follows from a rule: one standard deviation of length costs a stated share of one of reward, both among
pi_0's answers to a prompt.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.artifacts import Job
from repro.core.errors import DataError
from repro.core.parallel import ahead, run_all
from repro.core.settings import Section
from repro.data import Pair, miniature
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import logprobs_of, read_logprobs
from repro.papers.chat_benchmarks import Policies, Scores, academic_scores, chat_scores, everyone, said
from repro.papers.court import dialled, labelled_by
from repro.papers.miniature import policy, reward_models
from repro.papers.online_arms import ITERATIVE, SFT, Measured, Run, followed, measured, one_batch, tuned
from repro.papers.online_rlhf import FIRST, Iteration, Recipe, recipe_of, training_settings
from repro.train.dpo import DPO_SETTINGS, train_dpo
from repro.train.reward_tokens import TokenRewardModel
from repro.world import constants

OURS, CONCISE, BIASED, RESTART = "Ours", "Ours-concise", "length-biased RM", "restart from pi_0"
JUDGED = (SFT, OURS, CONCISE, BIASED)  # the rows of table 4, and where they began
STRONG, MIX = "strong", "mix2"
PENALTY, BETA, N, EPOCHS = "penalty", "beta", "n", "epochs"  # what is swept, in one batch

Plans = dict[tuple[str, float], tuple[list[Recipe], Section]]  # by what is swept and its value, the recipe of each seed


@dataclass(frozen=True)
class Study:
    """Runs by variant, and sweeps in one batch by what is swept and its value, of every seed.

    seconds: of every training of Ours and of the restart, timed alike, (seeds, iterations); first: pi_0 measured by the usual and by the biased reward model; penalties: lambda of each seed, in reward a
    character; losses: DPO loss of every prompt's pair under the policy that learned it, (seeds, prompts of all iterations),
    nan where there was no pair; chat, academic: the policies of JUDGED.
    """

    runs: dict[str, list[Run]]
    sweeps: dict[tuple[str, float], list[Run]]
    seconds: dict[str, np.ndarray]
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
        training_seconds({name: runs[name] for name in (OURS, RESTART)}, world, online, seeds),
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
    """One batch with another lambda (a multiple of the chapter's), beta, n, or number of epochs, all else as in Ours.

    One batch, pi_0's answers to the prompts of all iterations, so that all values but those of n learn from the same answers.
    """
    one = [one_batch(recipe) for recipe in ours]
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


def training_seconds(
    runs: Mapping[str, Sequence[Run]], world: Section, online: Section, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Seconds of one epoch of every training of two runs, by run, (seeds, iterations), timed one after the other in one process.

    What the trainings took when they were computed says as much of the machine's other work as of theirs.
    """
    own, first, calls = training_settings(world, online).pick(*DPO_SETTINGS, epochs=1), policy(online.policy, world), []
    for place, seed in enumerate(seeds):
        rows = {
            name: [[(pair.prompt, pair.chosen, pair.rejected) for pair in pairs] for pairs in trained_on(each[place])]
            for name, each in runs.items()
        }
        calls.append(
            {
                "step": timing,
                "settings": own,
                "inputs": {"policy": first, "pairs": stored("timed_pairs", rows)},
                "seed": seed,
            }
        )
    made = [json.loads((each / "seconds.json").read_text()) for each in run_all(calls, world.workers)]
    return {name: np.array([each[name] for each in made]) for name in runs}


def trained_on(run: Run) -> list[list[Pair]]:
    """The pairs of each of a run's trainings: an iteration's own, or all so far where that many were trained on."""
    own = [each.pairs for each in run.iterations]
    so_far = [[pair for pairs in own[: place + 1] for pair in pairs] for place in range(len(own))]
    again = [each.history["pairs"] > len(each.pairs) for each in run.iterations]
    return [all_of if more else new for all_of, new, more in zip(so_far, own, again, strict=True)]


def timing(job: Job) -> None:
    """Step: `policy` and `pairs` (by run, rows of texts of each training) to seconds.json, by run the seconds of each training.

    Processor time on a processor, which other work there leaves alone; time passed where an accelerator does the work.
    """
    folder, every = str(job.inputs["policy"].path), json.loads(job.inputs["pairs"].path.read_text())
    found: dict[str, list[float]] = {name: [] for name in every}
    for place in range(len(next(iter(every.values())))):
        for name, trainings in every.items():
            rows = [(tuple(map(tuple, turns)), *said) for turns, *said in trainings[place]]
            model, tokenizer = load_model(folder, task="language", device=job.settings.device), load_tokenizer(folder)
            clock = time.process_time if model.device.type == "cpu" else time.perf_counter
            with threads(threads_for(model)):
                started = clock()
                train_dpo(model, tokenizer, rows, [np.zeros(2)] * len(rows), job.settings, job.seed or 0)
                found[name].append(clock() - started)
    (job.out / "seconds.json").write_text(json.dumps(found))


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
