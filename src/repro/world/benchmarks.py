"""Held-out benchmarks of the miniature world, from the test side: pairs, open requests, hard ones, and two turns.

Pair: {"section": "Reasoning", "subset": "sums-1", "prompt": (("user", "What is 31 plus 67?"),),
       "chosen": "31 plus 67 is 98.", "rejected": "31 plus 67 is 18.", "extras": {"task": Task.row(), "gold": [1.85, 0.85]}}
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.core.errors import DataError
from repro.world import dialogue, safety, tasks
from repro.world.gold import padding, politeness, sentences
from repro.world.task import TEST, Rng, Task, choose, several

Row = dict[str, Any]
TRIES = 400  # draws for each item kept, before a benchmark is said to be too large for its world
LEAD = (
    9  # in squared pairs: three more with more sentences on one side, or one more that is longer, which counts double
)


Draw = Callable[[int, Rng], tuple[Any, Any] | None]  # (key, item) for a place in the set, or None for another try


def collect(draw: Draw, count: int, seed: Sequence[int], lean: Callable[[Any], Any] = lambda item: 0.0) -> list[Any]:
    """`count` items of different keys, the same for the same seed, that together lean to no side.

    lean(item): number or array that is to sum to about 0; an item that takes the sum's square further above LEAD is
    passed over. Raises DataError if too few are found.
    """
    rng, found, lead = np.random.default_rng(list(seed)), {}, np.zeros(1)
    for _ in range(TRIES * count + 1):
        if len(found) >= count:
            return list(found.values())
        key, item = draw(len(found), rng) or (None, None)
        if item is None or key in found:
            continue
        after = lead + lean(item)
        if (after**2).sum() <= max(LEAD, (lead**2).sum()):
            found[key], lead = item, after
    raise DataError(f"only {len(found)} of {count} different items found", where="benchmarks", fix="ask for fewer")


# pairs, in RewardBench's manner


def _slipped(task: Task, rng: Rng) -> tuple[str, str]:
    """The same answer in the same manner, one word of it wrong (one phrase, for advice and methods)."""
    chosen = tasks.respond(task, rng, [fault for fault in ("curt", "padded") if rng.integers(2)])
    return chosen, tasks.slip(task, chosen, rng)


def _faulty(task: Task, rng: Rng) -> tuple[str, str]:
    """A clean answer against one that is wrong or partial, with one or two faults more."""
    more = several(rng, ("wrong", "part", "rude", "padded", "repeats", "cut"), 2)
    return tasks.respond(task, rng), tasks.respond(task, rng, [choose(rng, ("wrong", "part")), *more])


def _worded(task: Task, rng: Rng) -> tuple[str, str]:
    """A complete answer against half of one, which is sometimes padded to a greater length."""
    return tasks.respond(task, rng), tasks.respond(task, rng, ["part", *(["padded"] if rng.integers(2) else [])])


def _rude(task: Task, rng: Rng) -> tuple[str, str]:
    """The same content with courtesy and without, or with a rude word."""
    seed, fault = int(rng.integers(2**32)), choose(rng, ("rude", "curt"))
    return tasks.respond(task, np.random.default_rng(seed)), tasks.respond(task, np.random.default_rng(seed), [fault])


def _opposed(task: Task, rng: Rng) -> tuple[str, str]:
    """Refusal where it is due against instructions, or instructions against a needless refusal; each whole or bare."""
    manner = ["curt"] if rng.integers(2) else []
    chosen, rejected = (
        tasks.respond(task, rng, [*manner, *wrong, *(["part"] if rng.integers(2) else [])]) for wrong in ([], ["wrong"])
    )
    return (chosen, rejected) if safety.refuses(chosen) != safety.refuses(rejected) else (chosen, chosen)


def _unshown(task: Task, rng: Rng) -> tuple[str, str]:
    """The whole way to a result against part of it, in the same manner: the bare result, or a step or operation short."""
    manner = [fault for fault in ("curt", "padded") if rng.integers(2)]
    return tasks.respond(task, rng, manner), tasks.respond(task, rng, ["part", *manner])


class Subset(NamedTuple):
    """Where a subset's prompts come from and how its pairs are made; facts: what its tasks must hold."""

    category: str
    pair: Callable[[Task, Rng], tuple[str, str]]
    difficulty: int | None = None
    facts: Mapping[str, Any] = {}


SECTIONS: dict[str, dict[str, Subset]] = {
    "Chat": {
        "chat-easy": Subset("chat", _faulty),
        "chat-length": Subset("chat", _worded),
        "chat-manners": Subset("chat", _rude),
        "lists-easy": Subset("lists", _faulty),
        "lists-length": Subset("lists", _worded),
    },
    "Chat Hard": {
        "constraints-begin": Subset("constraints", _slipped, 1, {"kind": "begin"}),
        "constraints-end": Subset("constraints", _slipped, 1, {"kind": "end"}),
        "constraints-without": Subset("constraints", _slipped, 2),
        "constraints-order": Subset("constraints", _slipped, 3),
        "lists-slip": Subset("lists", _slipped),
        "facts-slip": Subset("facts", _slipped),
        "premises-slip": Subset("premises", _slipped),
    },
    "Safety": {
        "refuse-harmful": Subset("harmful", _opposed),
        "refuse-slip": Subset("harmful", _slipped),
        "benign-respond": Subset("benign", _opposed),
        "benign-method": Subset("benign", _slipped),
    },
    "Reasoning": {
        "sums-shown": Subset("sums", _unshown, 1),
        "programs-whole": Subset("programs", _unshown, 1),
    }
    | {
        f"{category}-{level}": Subset(category, _slipped, level)
        for category in ("sums", "programs")
        for level in (1, 2, 3)
    },
}
STYLE = (len, lambda text: len(sentences(text)), politeness, padding)  # what must not tell the better answer


def _lean(row: Row) -> np.ndarray:
    """Which side has more of each style, 1 the chosen, -1 the rejected; in Chat style is part of what is asked."""
    signs = np.sign([feature(row["chosen"]) - feature(row["rejected"]) for feature in STYLE])
    return signs * [2, *[row["section"] != "Chat"] * (len(STYLE) - 1)]


def _draw_pair(section: str, subset: str) -> Draw:
    source = SECTIONS[section][subset]

    def draw(place: int, rng: Rng) -> tuple[Any, Row] | None:
        task = tasks.draw(source.category, rng, TEST, source.difficulty)
        if any(task.facts[name] != value for name, value in source.facts.items()):
            return None
        chosen, rejected = source.pair(task, rng)
        gold = [tasks.grade(task, text).gold for text in (chosen, rejected)]
        row = {"section": section, "subset": subset, "prompt": task.turns, "chosen": chosen, "rejected": rejected}
        return (task.turns, row | {"extras": {"task": task.row(), "gold": gold}}) if gold[0] > gold[1] else None

    return draw


def rewardbench(items_per_subset: int, seed: int) -> list[Row]:
    """Pairs whose chosen answer has more gold reward, in four sections of several subsets (RewardBench, p2.table1).

    Every subset is balanced in length, all but Chat's in sentences, courtesy and filler too; `-slip`, graded sums and
    programs, and constraints differ in one word. Raises DataError if the world has too few prompts for so many items.
    """
    places = [(section, subset) for section, subsets in SECTIONS.items() for subset in subsets]
    made = [collect(_draw_pair(*place), items_per_subset, (seed, i), _lean) for i, place in enumerate(places)]
    return [row for rows in made for row in rows]


def pick_longer(rows: Iterable[Row]) -> dict[str, float]:
    """Share of a section's pairs, in [0, 1], won by the rule that the answer of more characters is better; ties half."""
    wins: dict[str, list[float]] = {}
    for row in rows:
        wins.setdefault(row["section"], []).append(0.5 + 0.5 * np.sign(len(row["chosen"]) - len(row["rejected"])))
    return {section: float(np.mean(each)) for section, each in wins.items()}


# open requests: one turn, hard ones, two turns

CHAT = (  # twenty requests of AlpacaEval's place: mostly open ones, every single-turn category among them
    *("chat", "lists", "sums", "chat", "facts", "constraints", "benign", "premises", "harmful", "lists"),
    *("chat", "programs", "facts", "lists", "benign", "chat", "constraints", "harmful", "sums", "premises"),
)
HARD = (  # Arena-Hard's place: what the policies fail at most
    *(("constraints", 1), ("sums", 2), ("programs", 2), ("facts", 2)),
    *(("constraints", 2), ("sums", 3), ("programs", 3), ("constraints", 3)),
)


def _tasks(mixture: Sequence[tuple[str, int | None]], count: int, seed: int) -> list[Task]:
    def draw(place: int, rng: Rng) -> tuple[Any, Task]:
        category, level = mixture[place % len(mixture)]
        task = tasks.draw(category, rng, TEST, level)
        return task.turns, task

    return collect(draw, count, (seed, len(mixture)))


def chat(count: int, seed: int) -> list[Task]:
    """Different single-turn tasks in the mixture CHAT (AlpacaEval's place). Raises DataError if there are too few."""
    return _tasks([(category, None) for category in CHAT], count, seed)


def hard(count: int, seed: int) -> list[Task]:
    """Different tasks of the mixture HARD (Arena-Hard's place). Raises DataError if there are too few."""
    return _tasks(HARD, count, seed)


def two_turn(count: int, seed: int) -> list[Task]:
    """First turns: facts, lists and sums by turns (MT-Bench's place). Raises DataError if there are too few."""

    def draw(place: int, rng: Rng) -> tuple[Any, Task]:
        task = dialogue.opening(rng, TEST, 1 + place % 3)
        return task.turns, task

    return collect(draw, count, (seed, 2))


def second_turns(first: Sequence[Task], answers: Sequence[str], seed: int) -> list[Task]:
    """The second turns that follow a model's own answers to the first ones; a dialogue's request depends on its place.

    Raises DataError if the numbers differ.
    """
    if len(first) != len(answers):
        raise DataError(f"{len(answers)} answers to {len(first)} first turns", where="two_turn", fix="answer each once")
    rngs = (np.random.default_rng([seed, place]) for place in range(len(first)))
    return [dialogue.follow_up(*each) for each in zip(first, answers, rngs, strict=True)]
