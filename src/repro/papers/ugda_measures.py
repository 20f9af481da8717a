"""What UGDA's chapters measure: policies on helpful and harmless test prompts, reward models on gold order, and whether selecting can work.

Selecting by uncertainty supposes that the ensemble errs where its members disagree; selecting by influence, that what
moves the policy is also what teaches the reward model most. `selection_check` measures both before any selector is
compared: where neither correlation is above 0, a selector that beats a random draw owes it to luck or to another cause.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from peft import PeftModel
from scipy.stats import rankdata

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError
from repro.core.settings import Section
from repro.core.statistics import Interval, statistic_interval
from repro.gradients.losses import preference_losses, regression_losses
from repro.gradients.per_example import per_example_gradients
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.logprobs import logprobs_of, read_logprobs
from repro.objectives.relabel import relabelled_rewards
from repro.objectives.selection import OVER
from repro.papers.experts import JUDGE, levels_of
from repro.papers.miniature import concordance, graded, policy, pool
from repro.papers.ugda import Interactions, chapter_settings, influence_of
from repro.papers.ugda_prompts import HARMLESS, HELPFUL, subtask_of, tuning_prompts
from repro.train.ensemble import RewardEnsemble
from repro.train.reward_tokens import reward_text
from repro.world.task import Task

GAIN_SETTINGS = ("max_tokens", "device", "calibrated")
AT_ONCE = 16  # gradients held at a time: memory, no effect on a result
DRAW = 14  # which of the gain's samples, away from other draws
Places = Sequence[int]


@dataclass(frozen=True)
class PolicyMeasure:
    """A policy's answers to the test prompts at temperature 1, (prompts, answers) each.

    gold; proxy, the mean of the ensemble that trained it (nan for none); log_ratio: log pi - log pi_SFT in nats, whose
    mean is the KL, nan where the answer was cut; subtasks: of each prompt.
    """

    gold: np.ndarray
    proxy: np.ndarray
    log_ratio: np.ndarray
    subtasks: np.ndarray

    def of(self, subtask: str, quantity: str = "gold") -> np.ndarray:
        """Mean over the answers of each prompt of one subtask, (prompts,): of `gold`, Avg_Reward; nan where none is known."""
        values = getattr(self, quantity)[self.subtasks == subtask]
        count = np.isfinite(values).sum(1)
        return np.where(count > 0, np.nansum(values, 1) / np.maximum(count, 1), np.nan)

    def variance(self, subtask: str, *, seed: int = 0) -> Interval:
        """Var_Reward: the variance of gold over all answers of a subtask, in squared units, over prompts."""
        values = self.gold[self.subtasks == subtask]
        return statistic_interval(lambda rows: float(values[rows].var()), len(values), seed=seed)


def measured(
    model: Artifact, asked: Sequence[Task], world: Section, settings: Section, ensemble: Artifact | None = None
) -> PolicyMeasure:
    """A policy's answers to these prompts: graded, rewarded by an ensemble if one is given, weighed against the SFT policy.

    The same draws of the same prompts for all policies. settings: answers, and those of `chapter_settings`.
    """
    answers, prompts = pool(model, asked, world, n=settings.answers), [task.turns for task in asked]
    first = policy(settings.policy, world)
    logs = [
        np.array(read_logprobs(artifacts.run(**logprobs_of(each, prompts, answers.texts, world))))
        for each in (model, first)
    ]
    ratio = np.where(answers.answers.finished, logs[0] - logs[1], np.nan)
    proxy = np.full(answers.gold.shape, np.nan)
    if ensemble is not None:
        scorer = RewardEnsemble(ensemble, chapter_settings(world, settings))
        proxy = scorer.member_rewards(prompts, answers.texts).mean(0)
    return PolicyMeasure(answers.gold, proxy, ratio, _subtasks(asked))


def accuracy(
    ensemble: Artifact, writer: Artifact, asked: Sequence[Task], world: Section, settings: Section
) -> dict[str, np.ndarray]:
    """By subtask, the share of each prompt's answer pairs that the members' mean puts in gold's order, (prompts,).

    writer: the policy whose answers are ordered; another one's are another test. nan where all of a prompt's answers are
    worth the same. settings: accuracy_answers, of each prompt.
    """
    answers, prompts = pool(writer, asked, world, n=settings.accuracy_answers), [task.turns for task in asked]
    scorer = RewardEnsemble(ensemble, chapter_settings(world, settings))
    found = concordance(scorer.member_rewards(prompts, answers.texts).mean(0), answers.gold)
    subtasks = _subtasks(asked)
    return {name: found[subtasks == name] for name in (HELPFUL, HARMLESS)}


def _subtasks(asked: Sequence[Task]) -> np.ndarray:
    return np.array([subtask_of(task) for task in asked])


@dataclass(frozen=True)
class SelectionCheck:
    """Whether selecting can work: Spearman's correlations over samples, their intervals over prompts.

    error: the members' variance with the ensemble's error, |rank by mean reward - rank by gold|; judged: with the same
    error against the judge's level, which is what relabelling mends; gain: influence with the gain of one sample;
    doubt_gain: variance with it. gains: of the samples at `places`, a fall of loss a unit of rate.
    """

    error: Interval
    judged: Interval
    gain: Interval
    doubt_gain: Interval
    places: np.ndarray
    gains: np.ndarray


def selection_check(found: Interactions, world: Section, settings: Section, seed: int) -> SelectionCheck:
    """The correlations on D_inter that p3.eq9 and p3.eq12 rest on.

    settings: gain_samples, how many samples, drawn at random, have their gain measured; and those of the influence.
    Raises DataError if gold, the judge or the mean says the same of every sample, and as `gains_of` does.
    """
    gold = graded(found.tasks, [[text] for text in found.texts])[:, 0]
    levels = levels_of(JUDGE, found.tasks, found.texts, found.rewards)
    mean, doubt = found.rewards.mean(0), found.rewards.var(0)
    groups = np.unique([str(task.turns) for task in found.tasks], return_inverse=True)[1]
    count = min(settings.gain_samples, len(found))
    places = np.sort(np.random.default_rng([seed, DRAW]).permutation(len(found))[:count])
    gains = gains_of(found, places, levels, world, settings, seed)
    influence = OVER[settings.influence_over](influence_of(found, world, settings, seed), axis=1)
    related = partial(correlation, seed=seed)
    return SelectionCheck(
        error=related(doubt, rank_error(mean, gold), groups),
        judged=related(doubt, rank_error(mean, levels), groups),
        gain=related(influence[places], gains, groups[places]),
        doubt_gain=related(doubt[places], gains, groups[places]),
        places=places,
        gains=gains,
    )


def rank_error(rewards: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How far each sample's rank by reward is from its rank by truth, (samples,) in 0..1; equal values share a rank.

    Raises DataError if either is the same everywhere.
    """
    for name, values in (("reward", rewards), ("truth", truth)):
        if np.ptp(values) == 0:
            fix = "look at the policy's answers and the reward models"
            raise DataError(f"every {name} is {values[0]:g}", where="rank error", fix=fix)
    return np.abs(rankdata(rewards) - rankdata(truth)) / len(rewards)


def correlation(first: np.ndarray, second: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> Interval:
    """Spearman's correlation over samples, its interval by resampling prompts; nan where one side is constant."""

    def spearman(rows: np.ndarray) -> float:
        one, other = rankdata(first[rows]), rankdata(second[rows])
        return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else float("nan")

    if np.isnan(spearman(np.arange(len(first)))):
        return Interval(float("nan"), float("nan"), float("nan"), len(np.unique(groups)))
    return statistic_interval(spearman, len(first), groups=groups, seed=seed)


def gains_of(
    found: Interactions, places: Places, levels: np.ndarray, world: Section, settings: Section, seed: int
) -> np.ndarray:
    """What relabelling each of these samples alone would teach the reward model, (places,), positive if it helps.

    First order: <gradient of the validation loss, gradient of the sample's p3.eq14>, the fall of the loss a unit of rate
    of one plain gradient step; mean over members. The validation loss is p3.eq1 on pairs of the SFT policy's answers in
    gold's order, to prompts that no test prompt is among. Raises DataError if no such pair is there.
    """
    asked = tuning_prompts(settings, seed)
    answers = pool(settings.policy, asked, world, n=settings.accuracy_answers)
    pairs = [pair for row in zip(asked, answers.texts, answers.gold, strict=True) if (pair := _best_and_worst(*row))]
    if not pairs:
        fix = "ask more prompts, or draw more answers"
        raise DataError("no two answers differ in gold", where="gain of one sample", fix=fix)
    targets = relabelled_rewards(levels, found.rewards, seed, settings.noise_variance).targets[:, list(places)]
    texts = [[list(map(list, found.tasks[place].turns)), found.texts[place]] for place in places]
    inputs = {"ensemble": found.ensemble, "backbone": policy(settings.reward_model, world)}
    inputs |= {"texts": stored("gains", {"pairs": pairs, "samples": texts, "targets": targets.tolist()})}
    own = chapter_settings(world, settings).pick(*GAIN_SETTINGS)
    made = artifacts.run(gains, settings=own, inputs=inputs)
    return np.array(json.loads((made / "gains.json").read_text())).mean(0)


def _best_and_worst(task: Task, texts: Sequence[str], gold: np.ndarray) -> list | None:
    best, worst = int(gold.argmax()), int(gold.argmin())
    differ = round(float(gold[best] - gold[worst]), 9) > 0
    return [list(map(list, task.turns)), texts[best], texts[worst]] if differ else None


def gains(job: Job) -> None:
    """Step: `ensemble`, its `backbone` and `texts` (pairs, samples, targets) to gains.json, (members, samples)."""
    texts, found = json.loads(job.inputs["texts"].path.read_text()), []
    ensemble, start = RewardEnsemble(job.inputs["ensemble"], job.settings), str(job.inputs["backbone"].path)
    tokenizer, scale = load_tokenizer(start), ensemble.scale

    def tokens(turns: Sequence, answer: str) -> torch.Tensor:
        text = reward_text(tokenizer, tuple(map(tuple, turns)), answer)
        return torch.tensor(tokenizer(text, truncation=True, max_length=job.settings.max_tokens)["input_ids"])

    pairs = [(tokens(turns, best), tokens(turns, worst)) for turns, best, worst in texts["pairs"]]
    rows = [tokens(turns, answer) for turns, answer in texts["samples"]]
    for member, folder in enumerate(ensemble.folders):
        model = load_model(start, task="reward", device=job.settings.device)
        mean, sd = (0.0, 1.0) if scale is None else scale[member]
        samples = [(row, target * sd + mean) for row, target in zip(rows, texts["targets"][member], strict=True)]
        with threads(threads_for(model)):
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=True).eval()
            found.append((member_gains(adapted, pairs, samples) / sd**2).tolist())
    (job.out / "gains.json").write_text(json.dumps(found))


def member_gains(
    model: PeftModel,
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]],
    samples: Sequence[tuple[torch.Tensor, float]],
) -> torch.Tensor:
    """The fall of the mean loss on the pairs (p3.eq1) a unit of rate of a step on each sample alone (p3.eq14), (samples,).

    pairs: tokens of better and worse; samples: (tokens, target in raw reward).
    """
    parts = [pairs[at : at + AT_ONCE] for at in range(0, len(pairs), AT_ONCE)]
    towards = sum(per_example_gradients(model, preference_losses, part).sum(0) for part in parts) / len(pairs)
    batches = [samples[at : at + AT_ONCE] for at in range(0, len(samples), AT_ONCE)]
    each = [per_example_gradients(model, regression_losses, batch) @ towards for batch in batches]
    return torch.cat(each).cpu()
