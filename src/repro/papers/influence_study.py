"""Does a gradient influence score predict? Samples of the miniature world, scored in every way, beside what they really do.

A small policy is fine-tuned by LoRA on a few hundred conversations of mixed quality; the validation subtasks are the
chosen answers of held-out HH pairs, helpful and harmless, as in p3 section 5.1. A seed draws all of it anew: samples,
validation, adapter, order, and which samples' real effect is measured. Positive scores and drops lower a loss.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import stats

from repro.core.artifacts import Artifact
from repro.core.errors import DataError
from repro.core.parallel import run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.data import miniature
from repro.gradients.projection import cosine_deviation, expected_correlation
from repro.models.features import stored
from repro.objectives.selection import Selection, influence_selection, random_selection
from repro.papers.influence_scores import INNER, LAST, NORM, PRINTED, RANDOM, SCORE_SETTINGS, SCORES, STILL, WAYS, score
from repro.papers.influence_truth import (
    HISTORY,
    LEFT_OUT,
    STEPS,
    TUNE_SETTINGS,
    leave_out,
    probed_places,
    take_steps,
    tune,
)
from repro.papers.miniature import balanced, policy
from repro.world import gold, tasks
from repro.world.task import TRAIN, Task

SUBTASKS = ("helpful", "harmless")
LENGTH, GOLD = "answer length", "gold reward"
NULLS = (RANDOM, NORM, LENGTH, GOLD)
SCORED = (INNER, *WAYS, STILL, *NULLS)
TRUTHS = ("one SGD step", "one Adam step", "left out")
PERCENT, BAND = 100.0, 0.95


@dataclass(frozen=True)
class Texts:
    """What a seed draws: tasks with an answer each, and the subtasks' prompts and answers."""

    tasks: list[Task]
    answers: list[str]
    subtasks: Mapping[str, list[tuple[Any, str]]]

    @cached_property
    def artifact(self) -> Artifact:
        """The texts as an input of the steps."""
        own = [[task.turns, answer] for task, answer in zip(self.tasks, self.answers, strict=True)]
        return stored("influence", {"samples": own, "subtasks": dict(self.subtasks)})


def texts(settings: Section, seed: int) -> Texts:
    """The seed's conversations, equally many of every category, and `validation` ones of each subtask.

    Raises DataError if the held-out pairs hold too few of a subtask.
    """
    asked, rng = balanced(settings.samples_per_category, 300 + seed, TRAIN), np.random.default_rng([seed, 31])
    answers = [tasks.respond(task, rng, tasks.faults(rng)) for task in asked]
    found: dict[str, list[tuple[Any, str]]] = {name: [] for name in SUBTASKS}
    for pair in miniature.pairs(["HH-RLHF"], 8 * settings.validation, seed, "test"):
        harmful = pair.extras["task"]["category"] == "harmful"
        found[SUBTASKS[harmful]].append((pair.prompt, pair.chosen))
    if few := [name for name, rows in found.items() if len(rows) < settings.validation]:
        fix = "lower `validation`"
        raise DataError(f"fewer than {settings.validation} held-out answers", where=f"subtask {few[0]}", fix=fix)
    return Texts(asked, answers, {name: rows[: settings.validation] for name, rows in found.items()})


@dataclass(frozen=True)
class Run:
    """One seed. scores: way -> (samples, subtasks); places: probed samples; truths: name -> (probed, subtasks), drops;
    steps: "<optimiser>.<actual or predicted>" -> (checkpoints, probed, subtasks); history: of `tune`."""

    texts: Texts
    scores: Mapping[str, np.ndarray]
    places: list[int]
    truths: Mapping[str, np.ndarray]
    steps: Mapping[str, np.ndarray]
    history: Mapping[str, Any]


def study(world: Section, settings: Section, seeds: Sequence[int]) -> "Study":
    """Fine-tune, score and measure, several seeds at once. world, settings: the sections `world` and the chapter's."""
    base, own = policy(settings.policy, world), Section({**world, **settings})
    drawn = [texts(settings, seed) for seed in seeds]
    inputs = [{"base": base, "texts": each.artifact} for each in drawn]
    tuned = run_all(
        [_call(tune, own.pick(*TUNE_SETTINGS), *each) for each in zip(inputs, seeds, strict=True)], world.workers
    )
    calls = []
    for given, run, seed in zip(inputs, tuned, seeds, strict=True):
        given = given | {"run": run}
        calls.append(_call(leave_out, own.pick(*TUNE_SETTINGS, "probed"), given, seed))
        calls.append(_call(take_steps, own.pick("probed", "max_tokens", "device"), given, seed))
        calls.append(_call(score, own.pick(*SCORE_SETTINGS), given, seed))
    made = iter(run_all(calls, world.workers))
    parts = zip(drawn, tuned, seeds, strict=True)
    return Study(
        [_run(each, run, settings, seed, [next(made) for _ in range(3)]) for each, run, seed in parts], settings
    )


def _call(step: Any, settings: Section, inputs: Mapping[str, Artifact], seed: int) -> dict[str, Any]:
    return {"step": step, "settings": settings, "inputs": inputs, "seed": seed}


def _run(drawn: Texts, tuned: Artifact, settings: Section, seed: int, made: Sequence[Artifact]) -> Run:
    left, steps, scores = (
        {name: rows.numpy() for name, rows in load_file(each / file).items()}
        for each, file in zip(made, (LEFT_OUT, STEPS, SCORES), strict=True)
    )
    graded = [gold.grade(task, text).gold for task, text in zip(drawn.tasks, drawn.answers, strict=True)]
    for name, column in ((LENGTH, [len(text.split()) for text in drawn.answers]), (GOLD, graded)):
        scores[name] = np.repeat(np.array(column, dtype=float)[:, None], len(SUBTASKS), axis=1)
    real = [steps[f"{name}.actual"].sum(0) for name in ("SGD", "Adam")]
    truths = dict(zip(TRUTHS, [*real, left["left out"]], strict=True))
    places = probed_places(len(drawn.tasks), settings.probed, seed)
    return Run(drawn, scores, places, truths, steps, json.loads((tuned / HISTORY).read_text()))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> Interval:
    """Spearman's correlation over samples, mean of seeds, with its 95% interval, (seeds, samples) each.

    Of Fisher's z a jackknife makes one number a sample, whose mean `mean_interval` bounds over samples and seeds.
    Raises DataError if there are fewer than four samples or a seed's values are all equal.
    """
    first, second = (stats.rankdata(np.atleast_2d(each), axis=1) for each in (first, second))
    n = first.shape[1]
    if n < 4 or (np.ptp(first, axis=1) == 0).any() or (np.ptp(second, axis=1) == 0).any():
        raise DataError("nothing to correlate", where="rank correlation", fix="probe more samples, or others")
    whole = [_fisher(a, b) for a, b in zip(first, second, strict=True)]
    pseudo = [
        [n * z - (n - 1) * _fisher(np.delete(a, place), np.delete(b, place)) for place in range(n)]
        for a, b, z in zip(first, second, whole, strict=True)
    ]
    about = mean_interval(pseudo)
    shift = float(np.mean(whole)) - about.value
    low, value, high = np.tanh(np.array([about.low, about.value, about.high]) + shift)
    return Interval(float(value), float(low), float(high), about.n)


def _fisher(first: np.ndarray, second: np.ndarray) -> float:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.arctanh(np.clip(np.corrcoef(first, second)[0, 1], -1 + 1e-9, 1 - 1e-9)))


@dataclass(frozen=True)
class Study:
    """All seeds' runs and what they say; each seed has as many samples, probed samples and projections."""

    runs: list[Run]
    settings: Section

    def correlation(self, way: str, truth: str, subtask: str) -> Interval:
        """Rank correlation of a way's score with the truth on a subtask, over the probed samples."""
        j = SUBTASKS.index(subtask)
        scores = [run.scores[way][run.places, j] for run in self.runs]
        return rank_correlation(np.array(scores), np.array([run.truths[truth][:, j] for run in self.runs]))

    def records(self, subtask: str, seeds: Sequence[int]) -> list[Record]:
        """p3_02.<subtask>: every score (rows) against every truth (columns)."""
        cells = [(way, truth) for way in SCORED for truth in TRUTHS]
        return [
            record(f"p3_02.{subtask}", way, truth, self.correlation(way, truth, subtask), seeds=seeds)
            for way, truth in cells
        ]

    def turned(self, subtask: str, seeds: Sequence[int]) -> list[Record]:
        """`records` with truths as rows and scores as columns, for a figure with the scores down its axis."""
        return [replace(each, row=each.column, column=each.row) for each in self.records(subtask, seeds)]

    def drops(self, optimiser: str, what: str, subtask: int) -> np.ndarray:
        """Drops of a subtask's loss by one step, "actual" or "predicted", in nats: all seeds, checkpoints and samples."""
        return np.concatenate([run.steps[f"{optimiser}.{what}"][..., subtask].ravel() for run in self.runs])

    def between(self, ways: Sequence[str]) -> np.ndarray:
        """Spearman's correlation of every two ways over all samples and both subtasks, mean of these, (ways, ways)."""
        found = [stats.spearmanr(np.array([run.scores[way][:, j] for way in ways]), axis=1).statistic
                 for run in self.runs for j in range(len(SUBTASKS))]  # fmt: skip
        return np.mean(found, axis=0)

    def selections(self, over: str = "max", way: str = PRINTED) -> list[Selection]:
        """p3.eq12's selection of every seed."""
        eta, seeds = self.settings.eta, range(len(self.runs))
        return [influence_selection(self.runs[k].scores[way], eta, k, over) for k in seeds]

    def category_records(self, seeds: Sequence[int], over: str = "max") -> list[Record]:
        """p3_02.categories: share of each category's samples that is selected, in percent."""
        kept = self._kept(self.selections(over))
        names = np.array([task.category for task in self.runs[0].texts.tasks])
        return [
            record("p3_02.categories", f"selected by {over}", name, mean_interval(PERCENT * kept[:, names == name]),
                   seeds=seeds, unit="%")
            for name in dict.fromkeys(names.tolist())
        ]  # fmt: skip

    def random_band(self, draws: int = 1000) -> tuple[float, float]:
        """Between which shares of a category, in percent, 95 of 100 random selections of as many samples lie."""
        names = np.array([task.category for task in self.runs[0].texts.tasks])
        first, budget = names == names[0], len(self.selections()[0].places)
        shares = [
            np.mean([np.isin(random_selection(len(names), budget, len(self.runs) * k + seed).places, np.flatnonzero(first)).sum()
                     for seed in range(len(self.runs))]) / first.sum()
            for k in range(draws)
        ]  # fmt: skip
        low, high = PERCENT * np.quantile(shares, [(1 - BAND) / 2, (1 + BAND) / 2])
        return float(low), float(high)

    def _kept(self, chosen: Sequence[Selection]) -> np.ndarray:
        kept = np.zeros((len(chosen), len(self.runs[0].texts.tasks)))
        for row, each in zip(kept, chosen, strict=True):
            row[each.places] = 1.0
        return kept

    def shared(self, first: Sequence[Selection], second: Sequence[Selection]) -> Interval:
        """Share of the first selections' samples that the second hold too, in percent."""
        one, other = self._kept(first), self._kept(second)
        return mean_interval(np.where(one > 0, PERCENT * other, np.nan))

    def harmless_share(self) -> Interval:
        """Share of samples whose larger score (p3.eq12's maximum) is that on harmless, in percent."""
        return mean_interval([PERCENT * (run.scores[PRINTED].argmax(1) == 1) for run in self.runs])

    def dimension_records(self, seeds: Sequence[int]) -> list[Record]:
        """p3_02.dimensions at the last checkpoint: correlation and deviation of projected cosines, and what the
        Johnson-Lindenstrauss bound expects, by dimension; and the share of the selection that stays, in percent."""
        rows = []
        exact = np.stack([run.scores[LAST] for run in self.runs])
        for d in self.settings.dimensions:
            found = [[run.scores[f"{LAST}.{d}.{k}"] for k in range(self.settings.projections)] for run in self.runs]
            projected = np.array(found)
            for name, value in _projection_figures(exact, projected, d, self.settings.eta).items():
                rows.append(record(f"p3_02.{name[0]}", name[1], f"d = {d}", value, seeds=seeds))
        return rows

    def projection_errors(self, dimension: int) -> np.ndarray:
        """Projected less exact cosines at the last checkpoint, of all seeds, samples, subtasks and projections."""
        draws = range(self.settings.projections)
        found = [run.scores[f"{LAST}.{dimension}.{k}"] - run.scores[LAST] for run in self.runs for k in draws]
        return np.concatenate(found, axis=None)

    def extremes(self, subtask: str, count: int) -> dict[str, str]:
        """The first seed's samples of highest and lowest printed score on a subtask, each under its score."""
        run, j = self.runs[0], SUBTASKS.index(subtask)
        order = np.argsort(-run.scores[PRINTED][:, j], kind="stable")
        places = [*order[:count], *order[-count:]]
        scale = max(abs(run.scores[PRINTED][:, j]))
        return {
            f"{k + 1 if k < count else len(order) - 2 * count + k + 1} of {len(order)}, {run.texts.tasks[place].category}, "
            f"{run.scores[PRINTED][place, j] / scale:+.2f} of the largest":
            f"{run.texts.tasks[place].turns[-1][1]}\n{run.texts.answers[place]}"
            for k, place in enumerate(places)
        }  # fmt: skip


def _projection_figures(exact: np.ndarray, projected: np.ndarray, d: int, eta: float) -> dict[tuple[str, str], Any]:
    """exact: (seeds, samples, subtasks); projected: (seeds, projections, samples, subtasks) at dimension d."""
    error, cells = projected - exact[:, None], torch.from_numpy(exact)
    seeds, draws, _, subtasks = projected.shape
    pairs = [(exact[s, :, j], projected[s, k, :, j]) for s, k, j in np.ndindex(seeds, draws, subtasks)]
    kept = [
        np.isin(
            influence_selection(exact[s], eta, s).places, influence_selection(projected[s, k], eta, s).places
        ).mean()
        for s, k in np.ndindex(seeds, draws)
    ]
    band = cosine_deviation(cells, d).numpy()
    expected = np.mean([expected_correlation(rows[:, j], d) for rows in cells for j in range(rows.shape[1])])
    return {
        ("deviation", "measured"): float(np.sqrt((error**2).mean())),
        ("deviation", "expected"): float(np.sqrt((band**2).mean())),
        ("inside the band", "measured"): float(PERCENT * (abs(error) <= 2 * band[:, None]).mean()),
        ("kept correlation", "measured"): float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs])),
        ("kept correlation", "expected"): float(expected),
        ("kept selection", "measured"): float(PERCENT * np.mean(kept)),
    }
