"""The world's chat and academic benchmarks for any policies, a strong one as the baseline (p2.table2, p2.table3, p2.table6).

    chat, hard   one answer a prompt, judged beside the strong policy's: win rate, raw and length-controlled
    two turns    two ratings, the second of an answer to what the policy itself said before
    academic     six sets through lm-eval, whether each item is right

Whatever the benchmark, a policy is a matrix (seeds, prompts) of what every prompt says, in the unit of the column: means,
intervals and paired differences are read off it in one way.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.parallel import ahead, run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import miniature
from repro.evaluate import academic
from repro.evaluate.chat import length_controlled_values
from repro.papers.miniature import pool
from repro.world import academic as world_academic
from repro.world import annotators, benchmarks
from repro.world.task import Task

LONGEST = 4  # answers among which the longest is taken
WIN, CONTROLLED, CHARACTERS = "win rate", "length-controlled", "characters"
CHAT, HARD = "chat", "hard"
BOTH, FIRST, SECOND = "two-turn score", "first turn", "second turn"
PERCENT = 100.0
TOP = 9 / 4  # from the judge's five levels to ratings of 1 to 10

Policies = Mapping[str, Sequence[Artifact]]  # by name, the policy of each seed
Asked = tuple[list[Task], list[str]]  # tasks, and one answer to each


@dataclass(frozen=True)
class Scores:
    """By column and policy what every prompt says, (seeds, prompts) in the column's unit; percent unless it is a score or a length."""

    values: dict[str, dict[str, np.ndarray]]
    seeds: tuple[int, ...]

    def interval(self, column: str, name: str) -> Interval:
        """A policy's mean over prompts and seeds."""
        return mean_interval(self.values[column][name])

    def difference(self, column: str, first: str, second: str) -> Interval:
        """The first policy less the second, paired by prompt and seed."""
        return difference_interval(self.values[column][first], self.values[column][second])

    def records(self, id: str, columns: Mapping[str, str] | None = None, names: Sequence[str] = ()) -> list[Record]:
        """One row a policy, one column a benchmark; columns: ours and what the table calls them; names: which policies."""
        shown = columns or {column: column for column in self.values}
        every = dict.fromkeys(names or [name for found in self.values.values() for name in found])
        return [
            record(id, name, title, self.interval(column, name), seeds=self.seeds)
            for name in every
            for column, title in shown.items()
            if name in self.values[column]
        ]


# answers


@dataclass(frozen=True)
class Said:
    """One policy's answers to the chat set and the hard set, and to both turns of a dialogue if it was asked."""

    chat: Asked
    hard: Asked
    turns: tuple[Asked, Asked] | None = None


def said(model: Artifact, world: Section, items: int, seed: int) -> Said:
    """A policy asked everything once. world: the section `world`; items: prompts of each set."""

    def answered(asked: list[Task]) -> Asked:
        return asked, [row[0] for row in pool(model, asked, world, n=1, seed=seed).texts]

    one, hard = answered(benchmarks.chat(items, seed=0)), answered(benchmarks.hard(items, seed=0))
    first = answered(benchmarks.two_turn(items, seed=0))
    return Said(one, hard, (first, answered(benchmarks.second_turns(*first, seed=0))))


def longest(model: Artifact, world: Section, items: int, seed: int) -> Said:
    """Of several answers to each single-turn prompt the one of most characters: what length alone earns."""

    def answered(asked: list[Task]) -> Asked:
        return asked, [max(row, key=len) for row in pool(model, asked, world, n=LONGEST, seed=seed).texts]

    return Said(answered(benchmarks.chat(items, seed=0)), answered(benchmarks.hard(items, seed=0)))


def everyone(policies: Policies, world: Section, items: int, seeds: Sequence[int]) -> dict[str, list[Said]]:
    """Each policy's answers, of every seed, drawn with that seed."""
    calls = {
        name: [(model, world, items, seed) for model, seed in zip(each, seeds, strict=True)]
        for name, each in policies.items()
    }
    ahead(said, [call for each in calls.values() for call in each], world.workers)
    return {name: [said(*call) for call in each] for name, each in calls.items()}


# scores


def chat_scores(answers: Mapping[str, Sequence[Said]], baseline: Said, seeds: Sequence[int]) -> Scores:
    """Win rates against the baseline in percent, raw and length-controlled, and characters, on the chat set and the hard set."""
    values: dict[str, dict[str, np.ndarray]] = {}
    judge, none = annotators.Judge(ties=True), np.random.default_rng(0)  # a judge draws nothing
    for name in (CHAT, HARD):
        asked, theirs = getattr(baseline, name)
        found: dict[str, dict[str, list[np.ndarray]]] = {WIN: {}, CONTROLLED: {}, CHARACTERS: {}}
        for place in range(len(seeds)):
            ours = {who: getattr(each[place], name)[1] for who, each in answers.items()}
            wins = {who: judge.label(asked, texts, theirs, none) for who, texts in ours.items()}
            lengths = {who: np.array([len(text) for text in texts]) for who, texts in ours.items()}
            controlled = length_controlled_values(wins, lengths, [len(text) for text in theirs])
            for who in ours:
                for column, value in (
                    (WIN, PERCENT * wins[who]),
                    (CONTROLLED, controlled[who]),
                    (CHARACTERS, lengths[who]),
                ):
                    found[column].setdefault(who, []).append(value)
        values |= {
            f"{name}, {column}": {who: np.array(rows) for who, rows in each.items()} for column, each in found.items()
        }
    return Scores(values, tuple(seeds))


def two_turn_scores(answers: Mapping[str, Sequence[Said]], seeds: Sequence[int]) -> Scores:
    """The judge's five levels stretched to 1 to 10, of both turns together and of each; who was not asked is left out."""
    judge = annotators.Judge()
    turns: dict[str, np.ndarray] = {}
    for name, each in answers.items():
        if all(one.turns for one in each):
            turns[name] = np.array([[1 + (judge.score(*turn) - 1) * TOP for turn in one.turns] for one in each])
    values = {BOTH: {name: rated.mean(1) for name, rated in turns.items()}}
    values |= {column: {name: rated[:, k] for name, rated in turns.items()} for k, column in enumerate((FIRST, SECOND))}
    return Scores(values, tuple(seeds))


def academic_scores(
    policies: Policies, items: int, workers: int, seeds: Sequence[int], sets: Sequence[str] = academic.WORLD
) -> Scores:
    """Percent right in each of the six sets, one value an item; a policy that all seeds share is asked once."""
    models = {model.digest: model for each in policies.values() for model in each}
    made = run_all([_examination(model, items, sets) for model in models.values()], workers)
    outcomes = {
        digest: json.loads((done / "outcomes.json").read_text()) for digest, done in zip(models, made, strict=True)
    }
    values = {
        task: {
            name: np.array([[PERCENT * row["acc"] for row in outcomes[model.digest][task]] for model in each])
            for name, each in policies.items()
        }
        for task in sets
    }
    return Scores(values, tuple(seeds))


def _examination(model: Artifact, items: int, sets: Sequence[str]) -> dict:
    """No shots: the miniature policies have never seen an example before a question. Greedy, as lm-eval answers."""
    own = {"tasks": list(sets), "shots": dict.fromkeys(sets, 0), "limit": None, "batch_size": 32}
    data = miniature.academic_sets(items)
    inputs = {"model": model, "data": data, "tasks": artifacts.external(academic.TASKS)}
    return {"step": academic.academic, "settings": own, "inputs": inputs, "seed": 0}


def academic_nulls(items: int, id: str) -> list[Record]:
    """What rules that read no question earn in each set, percent: one row a set, one column a rule."""
    data, found = miniature.academic_sets(items), []
    for name in academic.WORLD:
        rows = [json.loads(line) for line in (data / f"{name}.jsonl").read_text().splitlines()]
        for rule, share in world_academic.null_baselines(rows).items():
            found.append(record(id, name, rule, PERCENT * share, unit="%", n=len(rows)))
    return found
