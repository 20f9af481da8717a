"""UGDA and what it is compared with: p3.alg1, drawn in p3.fig1.

    r_1 ... r_k   reward LoRAs on the SFT model, from people's preferences (p3.eq1)
    pi            PPO from the SFT policy against their mean (p3.eq2, p3.eq8); D_inter: every answer drawn on the way
    D_train       answers that the members disagree on: Rank(variance) > gamma (p3.eq9)
    D'_train      of those, what moves the policy: Rank(max over subtasks of the influence) > eta (p3.eq10 to p3.eq12)
    R_i           an expert's levels 1 to 5 on member i's quantiles, with noise (p3.eq13)
    r_i           refined towards R_i by squared error (p3.eq14), then on the scale of before
    pi'           PPO once more, from the SFT policy, against the refined ensemble

Each stage is an artifact: methods that agree on a stage share it, so their differences are paired, and a killed run goes
on from the last stage or, within PPO, checkpoint. Methods are in papers/ugda_methods. Published nowhere and chosen here:
the policy begins again from SFT; refined members are put on one scale anew; rewards in p3.eq9 and p3.eq13 are without
the KL penalty, which no reward model can learn; quantiles are those of all of D_inter.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.errors import DataError, SettingsError
from repro.core.parallel import run_all
from repro.core.settings import Section
from repro.gradients.scores import influence_scoring, read_influence
from repro.models.answers import sampled
from repro.objectives.ensemble import LCB, MEAN
from repro.objectives.relabel import relabelled_rewards
from repro.objectives.selection import Selection
from repro.papers.experts import OWN, levels_of
from repro.papers.miniature import policy
from repro.papers.ugda_methods import BOTH, INFLUENCE, NONE, SFT, Method, budget, chosen
from repro.papers.ugda_prompts import ppo_prompts, preferences, validation_texts
from repro.train.ensemble import Pool, ensemble_training
from repro.train.ppo import ppo_training
from repro.train.refine import refining, rescaling
from repro.world.task import Task


@dataclass(frozen=True)
class Interactions:
    """D_inter: every answer drawn while PPO trained `run`; tasks, texts, steps (samples,); rewards (members, samples).

    A step is the number of Adam steps before the answer was drawn.
    """

    sft: Artifact
    ensemble: Artifact
    run: Artifact
    tasks: list[Task]
    texts: list[str]
    rewards: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Outcome:
    """A method's policy and the ensemble it was trained against; what was relabelled, if anything was.

    levels: of the selected samples; missing: levels that none of them was given; labels: how many the expert was asked
    for, 0 where the ensemble labelled itself.
    """

    method: Method
    policy: Artifact
    ensemble: Artifact
    selection: Selection | None = None
    levels: np.ndarray | None = None
    missing: tuple[int, ...] = ()

    @property
    def labels(self) -> int:
        return 0 if self.levels is None or self.method.expert == OWN else len(self.levels)

    @property
    def history(self) -> dict[str, list[float]]:
        """PPO's record: score, KL and the like of every iteration."""
        return json.loads((self.policy / "history.json").read_text())


def chapter_settings(world: Section, settings: Section, **choices: Any) -> Section:
    """The chapter's parameters over the world's, and these choices over both; `model` is what the reward LoRAs sit on."""
    both = {**world, **settings, "model": world[settings.reward_model]}
    return Section({**both, **choices}, settings.origin)


def run_methods(
    methods: Mapping[str, Method], world: Section, settings: Section, seed: int
) -> tuple[Interactions, dict[str, Outcome]]:
    """p3.alg1 for every method: what they share computed once, then each one's labels, refinement and policy.

    world, settings: the sections `world` and `p3_03_ugda`. Raises SettingsError if budgets would differ, and as the
    stages do.
    """
    budget(settings.ppo_rollouts, settings)  # shares that do not agree are told before anything is trained
    found = collect(world, settings, seed)
    before = {name: refinement(each, found, world, settings, seed) for name, each in methods.items()}
    calls = [retraining(each, found, world, settings, seed) for each in before.values()]
    trained = run_all(calls, world.workers)
    return found, {name: replace(each, policy=made) for (name, each), made in zip(before.items(), trained, strict=True)}


def collect(world: Section, settings: Section, seed: int) -> Interactions:
    """Lines 1 and 2: the reward LoRAs, and PPO against their mean, which leaves D_inter.

    Raises DataError if the policy says nothing at all, and as its steps do.
    """
    sft, ensemble = policy(settings.policy, world), reward_ensemble(world, settings, seed)
    asked = ppo_prompts(settings, seed)
    run = artifacts.run(**_ppo(MEAN, asked, ensemble, sft, world, settings, seed))
    known = {task.turns: task for task in asked}
    lines = (run / "interactions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    texts = [row["answer"] for row in rows]
    if not any(text.strip() for text in texts):
        fix = "look at the reward models and at PPO's rate: the policy learned to stop at once"
        raise DataError(f"all {len(texts)} answers are empty", where="D_inter", fix=fix)
    tasks = [known[tuple(map(tuple, row["prompt"]))] for row in rows]
    rewards, steps = np.array([row["rewards"] for row in rows]).T, np.array([row["step"] for row in rows])
    return Interactions(sft, ensemble, run, tasks, texts, rewards, steps)


def reward_ensemble(world: Section, settings: Section, seed: int) -> Artifact:
    """k reward LoRAs by p3.eq1; their means and SDs are of the SFT policy's answers to PPO's first prompts."""
    start, own = policy(settings.reward_model, world), chapter_settings(world, settings)
    pairs, reference = preferences(settings, seed), reference_answers(world, settings, seed)
    call = ensemble_training(pairs, own, seed, start, reference=reference, workers=world.workers)
    return artifacts.run(**call)


def reference_answers(world: Section, settings: Section, seed: int) -> Pool:
    """PPO's first prompts and one answer of the SFT policy to each, on which members have mean 0 and SD 1."""
    asked = [task.turns for task in ppo_prompts(settings, seed)[: settings.reference_prompts]]
    return asked, sampled(policy(settings.policy, world), asked, world, n=1, seed=seed).texts


def refinement(method: Method, found: Interactions, world: Section, settings: Section, seed: int) -> Outcome:
    """Lines 3 to 7 but the last training: select, relabel, refine; `policy` is still the one that collected.

    Raises DataError if a member's rewards are constant, and as the stages do.
    """
    if method.selection == NONE:
        return Outcome(method, found.run, found.ensemble)
    taken = select(method, found, world, settings, seed)
    levels = levels_of(method.expert, found.tasks, found.texts, found.rewards)[taken.places]
    targets = relabelled_rewards(levels, found.rewards, seed, settings.noise_variance)
    texts = [(found.tasks[place].turns, found.texts[place]) for place in taken.places]
    start, own = policy(settings.reward_model, world), chapter_settings(world, settings)
    names = {name.removeprefix("refine_"): name for name in settings if name.startswith("refine_")}
    call = refining(
        texts,
        targets.targets,
        own.renamed(**names),
        seed,
        ensemble=found.ensemble,
        start=start,
        workers=world.workers,
    )
    refined = artifacts.run(**call)
    if method.rescaled:
        refined = artifacts.run(**rescaling(refined, reference_answers(world, settings, seed), own, start))
    return Outcome(method, found.run, refined, taken, levels, targets.missing)


def select(method: Method, found: Interactions, world: Section, settings: Section, seed: int) -> Selection:
    """Lines 3 to 5: places in D_inter that are relabelled. Raises as `chosen` and the scoring do."""
    scored = method.selection in (INFLUENCE, BOTH)
    scores = influence_of(found, world, settings, seed, method.dimension) if scored else None
    return chosen(method, found.rewards, scores, settings, seed)


def influence_of(
    found: Interactions, world: Section, settings: Section, seed: int, dimension: int | None = None
) -> np.ndarray:
    """INF_Adam of every sample of D_inter on each validation subtask, (samples, subtasks) (p3.eq11).

    dimension: one of `influence_dimensions`, None for the first. Raises SettingsError for another one.
    """
    known = list(settings.influence_dimensions)
    wanted = known[0] if dimension is None else dimension
    if wanted not in known:
        raise SettingsError(f"dimension {wanted} was not scored", where="influence_dimensions", fix=f"one of {known}")
    samples = [(task.turns, text) for task, text in zip(found.tasks, found.texts, strict=True)]
    subtasks, own = validation_texts(settings, seed), chapter_settings(world, settings)
    call = influence_scoring(samples, subtasks, own, seed, base=found.sft, run=found.run)
    return read_influence(artifacts.run(**call)).scores[wanted].numpy()


def retraining(outcome: Outcome, found: Interactions, world: Section, settings: Section, seed: int) -> dict[str, Any]:
    """Line 7: what `artifacts.run`, or `run_all` with others, needs for PPO against the outcome's ensemble (p3.eq2).

    Without relabelling, by the mean, it is the run that collected, found and not repeated.
    """
    start = found.sft if outcome.method.start == SFT else found.run
    asked = ppo_prompts(settings, seed)
    return _ppo(outcome.method.aggregate, asked, outcome.ensemble, start, world, settings, seed)


def _ppo(
    how: str,
    asked: Sequence[Task],
    ensemble: Artifact,
    start: Artifact,
    world: Section,
    settings: Section,
    seed: int,
) -> dict[str, Any]:
    weights = {MEAN: (None, None), LCB: (settings.lcb_weight, settings.lcb_ddof)}
    weight, ddof = weights.get(how, (settings.uwo_weight, settings.uwo_ddof))
    ways = {"ppo_aggregate": how, "ppo_aggregate_weight": weight, "ppo_aggregate_ddof": ddof}
    own = chapter_settings(world, settings, **ways)
    return ppo_training([task.turns for task in asked], own, seed, policy=start, scorer=ensemble)
