"""Gold and proxy against the distance from the SFT policy, for every way of the three papers to optimise a reward.

    best of n       the pick of n of the SFT policy's answers; its KL is the bound log n - (n - 1) / n (p1.kl_bound)
    iterative DPO   the loop of p2.fig4
    PPO             p3.eq2 against the mean of the ensemble, or its LCB, UWO or WCO; no answer is relabelled. The mean
                    once more with a tenth of the KL penalty, for what lies beyond where the penalty stops

All have one ensemble and one proxy, its mean (p3.eq8): it picks the best of n and ranks for DPO; LCB, UWO and WCO are
paid another reward, and measured by the mean as the others are. DPO asks PPO's prompts. PPO's course is read off the
answers that it drew while it trained, so these are to training prompts, as many harmless as helpful ones are read; all
else is measured on the test prompts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.parallel import ahead, run_all
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.evaluate.best_of_n import best_of_n_curve, best_of_n_kl_bound
from repro.models.answers import sampled
from repro.objectives.ensemble import MEAN as MEMBERS_MEAN
from repro.objectives.ensemble import WCO
from repro.papers import ugda_study
from repro.papers.miniature import Pool, graded, pool
from repro.papers.online_arms import ITERATIVE
from repro.papers.online_rlhf import preference_pairs, recipe_of, training_settings
from repro.papers.overoptimization_course import BON, Course
from repro.papers.ugda import Interactions, chapter_settings
from repro.papers.ugda_measures import PolicyMeasure, measured
from repro.papers.ugda_methods import PPO, UNLABELLED
from repro.papers.ugda_prompts import SUBTASKS, ppo_prompts, subtask_of, test_prompts
from repro.train.dpo import dpo_training
from repro.train.ensemble import RewardEnsemble
from repro.train.ppo import ppo_training
from repro.world.task import Task

MEAN, CAUTIOUS, LOOSE = "PPO, mean", "PPO, WCO", "PPO, weak penalty"
TRAINED = {MEAN: PPO, "PPO, LCB": "LCB, no labels", "PPO, UWO": "UWO, no labels"}  # as papers/ugda calls them
WEAK = 0.1  # of p3's KL penalty
QUANTITIES = ("gold", "proxy", "kl")


@dataclass(frozen=True)
class Unit:
    """What the SFT policy's answers are worth: mean of each prompt's, (prompts,), and one SD of answers about these."""

    mean: np.ndarray
    sd: float

    def above(self, values: np.ndarray) -> np.ndarray:
        """Values of other answers to the same prompts, (..., prompts), above the SFT policy's, in SDs."""
        return (values - self.mean) / self.sd


def unit_of(values: np.ndarray, sd: float | None = None) -> Unit:
    """The unit that an SFT policy's answers give, (prompts, n); sd: another pool's, where that is larger.

    An SD of 0, every answer as good as the next, counts as 1.
    """
    apart = values - values.mean(1, keepdims=True)
    freedom = values.size - len(values)
    return Unit(values.mean(1), sd or float(np.sqrt((apart**2).sum() / max(freedom, 1))) or 1.0)


@dataclass(frozen=True)
class Study:
    """Each method's course and its end on the test prompts, the latter one point; pool: the SFT policy's answers.

    proxy: of the pool, (seeds, prompts, n); relation: by prompt, what an SD of proxy within the pool is worth in SDs of
    gold, (seeds, prompts), whose mean is their correlation.
    """

    courses: dict[str, Course]
    ends: dict[str, Course]
    pool: Pool
    proxy: np.ndarray
    relation: np.ndarray
    seeds: tuple[int, ...]

    def promised(self) -> Interval:
        """Gold that an SD of proxy brings among the SFT policy's own answers, in SDs: the correlation within prompts."""
        return mean_interval(self.relation)

    def shown(self) -> dict[str, str]:
        """The test prompt whose pick of all answers is worst by gold against gold's own pick, first seed, with both."""
        gold, proxy = self.pool.gold, self.proxy[0]
        rows = np.arange(len(gold))
        place = int((gold.max(1) - gold[rows, proxy.argmax(1)]).argmax())
        found = {"prompt": self.pool.tasks[place].turns[-1][1]}
        for name, at in (("the proxy's pick", proxy[place].argmax()), ("gold's pick", gold[place].argmax())):
            head = f"{name}: proxy {proxy[place, at]:+.2f}, gold {gold[place, at]:.2f}"
            found[head] = self.pool.texts[place][at]
        return found


def study(world: Section, settings: Section, online: Section, own: Section, seeds: Sequence[int]) -> Study:
    """Everything the chapter shows, trained where p3_03 has not trained it.

    world, settings, online, own: the sections `world`, `p3_03_ugda`, `p2_04_online_dpo` and `90_overoptimization`.
    Raises as the stages do.
    """
    both, base = (world, settings), ugda_study.study(UNLABELLED, world, settings, seeds)
    tested, asked = test_prompts(settings), [ppo_prompts(settings, seed) for seed in seeds]
    drawn = pool(settings.policy, tested, world, n=own.answers)
    proxies = np.array([_proxy(found, tested, drawn.texts, *both) for found in base.found])
    units = [{"gold": unit_of(drawn.gold), "proxy": unit_of(each)} for each in proxies]
    each_seed = list(zip(base.found, asked, seeds, strict=True))
    runs = {name: [row[known].policy for row in base.outcomes] for name, known in TRAINED.items()}
    calls = [another_ppo(name, *these, *both) for name in (CAUTIOUS, LOOSE) for these in each_seed]
    made = run_all(calls, world.workers)
    runs |= {CAUTIOUS: made[: len(seeds)], LOOSE: made[len(seeds) :]}
    loops = [dpo_policies(*these, *both, online, own.dpo_iterations) for these in each_seed]
    measures = _measures([*zip(*loops, strict=True), runs[CAUTIOUS], runs[LOOSE]], tested, base.found, *both)
    sizes = 2 ** np.arange(int(np.log2(own.answers)) + 1)
    courses = {BON: best_of_n_course(drawn.gold, proxies, units, sizes)}
    courses[ITERATIVE] = _on_tests(measures[:-2], units).from_start()
    read = evenly(asked)
    firsts = [
        _baseline(found, these, seed, *both, own.baseline_answers)
        for found, these, seed in zip(base.found, read, seeds, strict=True)
    ]
    for name, made in runs.items():
        four = zip(made, read, firsts, units, strict=True)
        parts = [_above(rollouts(run, prompts, own.windows), first, unit) for run, prompts, first, unit in four]
        courses[name] = Course(*(np.stack([part[each] for part in parts], 1) for each in QUANTITIES)).from_start()
    ends = {name: courses[name].last() for name in (BON, ITERATIVE)}
    ends |= {name: _on_tests([base.measures[known]], units) for name, known in TRAINED.items()}
    ends |= {CAUTIOUS: _on_tests(measures[-2:-1], units), LOOSE: _on_tests(measures[-1:], units)}
    return Study(courses, ends, drawn, proxies, relation_of(drawn.gold, proxies, units), tuple(seeds))


def evenly(asked: Sequence[Sequence[Task]]) -> list[list[Task]]:
    """Of each seed's prompts the first of each subtask, as many of one as of the other: the mixture of the test prompts."""
    parts = [[[task for task in these if subtask_of(task) == name] for name in SUBTASKS] for these in asked]
    size = min(len(part) for row in parts for part in row)
    return [[task for part in row for task in part[:size]] for row in parts]


def _proxy(
    found: Interactions, asked: Sequence[Task], texts: Sequence[Sequence[str]], world: Section, settings: Section
) -> np.ndarray:
    """The members' mean reward of answers, (prompts, n)."""
    scorer = RewardEnsemble(found.ensemble, chapter_settings(world, settings))
    return scorer.member_rewards([task.turns for task in asked], texts).mean(0)


def another_ppo(
    name: str, found: Interactions, asked: Sequence[Task], seed: int, world: Section, settings: Section
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs for PPO as p3_03 has it not: WCO, or with a weak penalty."""
    how = WCO if name == CAUTIOUS else MEMBERS_MEAN
    rules = {"ppo_aggregate": how, "ppo_aggregate_weight": None, "ppo_aggregate_ddof": None}
    if name == LOOSE:
        rules["ppo_kl_coefficient"] = WEAK * settings.ppo_kl_coefficient
    own = chapter_settings(world, settings, **rules)
    return ppo_training([task.turns for task in asked], own, seed, policy=found.sft, scorer=found.ensemble)


def dpo_policies(
    found: Interactions,
    asked: Sequence[Task],
    seed: int,
    world: Section,
    settings: Section,
    online: Section,
    iterations: int,
) -> list[Artifact]:
    """The iterates of p2.fig4's loop, ranked by the ensemble's mean, on these prompts shared out among the iterations.

    online: the section `p2_04_online_dpo`, whose rate is the one not tuned. Raises DataError if no pair is left, and as
    the stages do.
    """
    recipe = recipe_of(world, online, seed, reward_model=None)  # the ensemble ranks instead
    own = training_settings(world, online, beta=recipe.beta, learning_rate=recipe.learning_rate)
    policies, share = [found.sft], recipe.n // len(recipe.temperatures)
    for number, places in enumerate(np.array_split(np.arange(len(asked)), iterations), 1):
        tasks = [asked[place] for place in places]
        prompts = [task.turns for task in tasks]
        said = [
            sampled(policies[-1], prompts, world.pick(*world, temperature=heat), n=share, seed=100 * seed + place).texts
            for place, heat in enumerate(recipe.temperatures)
        ]
        texts = [[text for part in row for text in part] for row in zip(*said, strict=True)]
        rewards = _proxy(found, tasks, texts, world, settings)
        pairs = preference_pairs(recipe, tasks, texts, rewards, np.random.default_rng([seed, number, 90]))
        call = dpo_training(pairs, own, seed, policy=policies[-1], reference=found.sft)
        policies.append(artifacts.run(**call))
    return policies[1:]


def best_of_n_course(gold: np.ndarray, proxies: np.ndarray, units: Sequence[dict], sizes: Sequence[int]) -> Course:
    """Best of n by the proxy at each size, over every set of n of the pool; the KL is the bound's.

    gold: (prompts, answers); proxies: (seeds, prompts, answers); units: of gold and proxy, a seed each.
    """
    found = {}
    for name in ("gold", "proxy"):
        values = [gold if name == "gold" else proxy for proxy in proxies]
        curves = [best_of_n_curve(proxy, value, sizes).T for proxy, value in zip(proxies, values, strict=True)]
        found[name] = np.stack([unit[name].above(curve) for unit, curve in zip(units, curves, strict=True)], 1)
    bound = np.asarray(best_of_n_kl_bound(sizes))[:, None, None]
    return Course(found["gold"], found["proxy"], np.broadcast_to(bound, found["gold"].shape))


def _measures(
    policies: Sequence[Sequence[Artifact]],
    asked: Sequence[Task],
    found: Sequence[Interactions],
    world: Section,
    settings: Section,
) -> list[list[PolicyMeasure]]:
    """What policies, rows of one a seed, say to the test prompts."""
    calls = [
        [(made, asked, world, settings, each.ensemble) for made, each in zip(row, found, strict=True)]
        for row in policies
    ]
    ahead(measured, [call for row in calls for call in row], world.workers)
    return [[measured(*call) for call in row] for row in calls]


def _on_tests(rows: Sequence[Sequence[PolicyMeasure]], units: Sequence[dict]) -> Course:
    """Policies measured on the test prompts as a course, a point a row; each row has one measure a seed."""
    found = {}
    for name, quantity in zip(QUANTITIES, ("gold", "proxy", "log_ratio"), strict=True):
        values = [
            [np.concatenate([each.of(subtask, quantity) for subtask in SUBTASKS]) for each in row] for row in rows
        ]
        found[name] = np.array(
            [
                [unit[name].above(each) if name in unit else each for unit, each in zip(units, row, strict=True)]
                for row in values
            ]
        )
    return Course(**found)


def _baseline(
    found: Interactions, asked: Sequence[Task], seed: int, world: Section, settings: Section, answers: int
) -> dict[str, np.ndarray]:
    """Gold and proxy of the SFT policy's answers to PPO's prompts, drawn as PPO draws, (prompts, answers)."""
    same = world.pick(*world, max_new_tokens=settings.ppo_max_new_tokens, temperature=settings.ppo_temperature)
    drawn = pool(found.sft, asked, same, n=answers, seed=seed)
    return {"gold": drawn.gold, "proxy": _proxy(found, asked, drawn.texts, world, settings)}


def rollouts(run: Artifact, asked: Sequence[Task], windows: int) -> dict[str, np.ndarray]:
    """Gold, proxy and KL of the answers that a PPO run drew, (windows, prompts): its iterations in equal parts.

    asked: those of its prompts that are read; one that was not drawn in a window is nan there. proxy: the members' mean,
    whatever PPO was paid; kl: the sum over tokens of log pi - log pi_SFT when it was drawn, in nats.
    """
    lines = (run / "interactions.jsonl").read_text(encoding="utf-8").splitlines()
    every, known = [json.loads(line) for line in lines], {task.turns: place for place, task in enumerate(asked)}
    count = 1 + max(row["iteration"] for row in every)
    rows = [row for row in every if tuple(map(tuple, row["prompt"])) in known]
    places = np.array([known[tuple(map(tuple, row["prompt"]))] for row in rows])
    number, parts = np.array([row["iteration"] for row in rows]), min(windows, count)
    cell = number * parts // count * len(asked) + places
    count = np.bincount(cell, minlength=parts * len(asked)).astype(float)
    values = {
        "gold": graded([asked[place] for place in places], [[row["answer"]] for row in rows])[:, 0],
        "proxy": np.mean([row["rewards"] for row in rows], axis=1),
        "kl": [row["kl"] for row in rows],
    }
    found = {}
    for name, each in values.items():
        total = np.bincount(cell, each, minlength=len(count))
        found[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan).reshape(parts, -1)
    return found


def _above(values: dict[str, np.ndarray], first: dict[str, np.ndarray], unit: dict[str, Unit]) -> dict[str, np.ndarray]:
    """A run's course above the SFT policy's answers to the same prompts, in the test prompts' SDs; KL as it is."""
    own = {name: unit_of(each, unit[name].sd) for name, each in first.items()}
    return {name: own[name].above(each) if name in own else each for name, each in values.items()}


def relation_of(gold: np.ndarray, proxies: np.ndarray, units: Sequence[dict]) -> np.ndarray:
    """By prompt, the mean product of proxy and gold in SDs about the prompt's mean, (seeds, prompts)."""
    freedom = gold.shape[1] / max(gold.shape[1] - 1, 1)
    products = []
    for proxy, unit in zip(proxies, units, strict=True):
        apart = [unit[name].above(each.T) for name, each in (("gold", gold), ("proxy", proxy))]
        products.append((apart[0] * apart[1]).mean(0) * freedom)
    return np.array(products)
