"""What passes from step to step of p1's framework, and what the steps share.

Row after the last step: Pair(prompt, chosen, rejected, "collected", {"task": Task.row(), "gold": [1.7, 0.85],
"levels": [5, 3], "writers": ["strong, T = 1", "small, T = 0.7"], "labels": [1.0, 1.0], "kept": True, "turned": False});
what has two places stands in the order chosen, rejected; a label is 1 where its reviewer prefers chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.data import Pair
from repro.data.schema import prompt_id
from repro.world.annotators import Reading, read
from repro.world.task import Rng, Task

STEPS = ("1 prompts", "2 responses", "3 filter", "4 labels")
IDENTICAL, EMPTY = "identical answers", "empty answer"
Writer = tuple[str, float]  # role and temperature


@dataclass(frozen=True)
class Tally:
    """What a step did: rows that entered and were kept, dropped ones by reason, and what it took of answers, calls, labels."""

    step: str
    entered: int
    kept: int
    dropped: dict[str, int]
    cost: dict[str, int]

    @property
    def loss(self) -> float:
        """Share of what entered that was dropped; nan if nothing entered."""
        return 1 - self.kept / self.entered if self.entered else float("nan")


@dataclass(frozen=True)
class Candidate:
    """A prompt of the pool, the answers it has so far by writer, and the proxy's rewards of the two that step 1 compares."""

    task: Task
    answers: dict[Writer, str]
    rewards: tuple[float, float]  # of the SFT model's answer, of the strong model's


@dataclass(frozen=True)
class Graded:
    """Every answer of some pairs read once, whichever side it will stand on."""

    answers: Reading
    places: dict[tuple[str, str], int]

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> "Graded":
        """Both answers of each pair. Raises DataError as `world.annotators.read` does."""
        asked = [task_of(pair) for pair in pairs for _ in "+-"]
        texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
        names = [(pair.prompt_id, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
        return cls(read(asked, texts), {name: place for place, name in enumerate(names)})

    def sides(self, pairs: Sequence[Pair]) -> tuple[Reading, Reading]:
        """The readings of all chosen and of all rejected answers."""
        places = [[self.places[pair.prompt_id, text] for text in (pair.chosen, pair.rejected)] for pair in pairs]
        both = np.array(places, dtype=int).reshape(-1, 2)
        return self.answers.take(both[:, 0]), self.answers.take(both[:, 1])


def task_of(pair: Pair) -> Task:
    """The task that a pair's prompt is. Raises DataError as `Task.of` does."""
    return Task.of(pair.extras["task"])


def swapped(pair: Pair) -> Pair:
    """The pair the other way round, and whatever its extras say of both answers."""
    extras = dict(pair.extras)
    for name in ("gold", "levels", "writers"):
        if name in extras:
            extras[name] = extras[name][::-1]
    if "labels" in extras:
        extras["labels"] = [1 - label for label in extras["labels"]]
    return replace(pair, chosen=pair.rejected, rejected=pair.chosen, extras=extras)


def unusable(pair: Pair) -> str | None:
    """Why nobody need look at a pair: nothing can be preferred in it."""
    if not pair.chosen.strip() or not pair.rejected.strip():
        return EMPTY
    return IDENTICAL if pair.chosen.strip() == pair.rejected.strip() else None


def own_rng(seed: int, purpose: int, of: Task | Pair) -> Rng:
    """Random numbers that belong to a prompt, whichever others there are."""
    turns = of.turns if isinstance(of, Task) else of.prompt
    return np.random.default_rng([seed, purpose, int(prompt_id(turns), 16)])
