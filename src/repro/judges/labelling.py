"""A labelling session: which pair a person sees next, in which order, and what becomes of the label."""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from repro.core.errors import DataError
from repro.judges.human import LABELS, UNDO, Key, Label
from repro.judges.judge import Turns, check, dialogue
from repro.judges.labels_file import LabelsFile

RECENT = 20  # labels by whose median time the time left is told


class Pair(Protocol):
    """What is labelled; `data.schema.Pair` is one."""

    prompt: Turns
    chosen: str
    rejected: str


Answering = Callable[[Sequence[Pair], Sequence[str], Sequence[str]], ArrayLike]  # pairs, first, second -> (n,)


@dataclass(frozen=True)
class Shown:
    """A pair as an annotator sees it: first is A, second is B; nothing tells who wrote which."""

    prompt: Turns
    first: str
    second: str
    pair: Any

    @property
    def key(self) -> Key:
        """The pair, whichever of its answers is shown first."""
        return Label(dialogue(self.prompt), self.first, self.second, "tie", "").pair

    @property
    def id(self) -> str:
        """16 hex digits that name the pair."""
        return f"{_drawn(self.key):016x}"


def _drawn(*parts: Any) -> int:
    """A number that belongs to these parts, the same on every machine."""
    return int.from_bytes(blake2b(json.dumps(parts).encode("ascii"), digest_size=8).digest(), "big")


def arranged(pairs: Sequence[Pair], annotator: str, seed: int = 0) -> tuple[list[Shown], Counter[str]]:
    """Pairs in the order in which to label them, and how many are left out for which reason.

    The seed decides which pair comes first, for everyone alike, so that two who stop early still overlap; seed and
    annotator decide which answer is A. Neither knows which answer is the chosen one, nor the order of `pairs`.
    """
    found: dict[Key, Shown] = {}
    left_out: Counter[str] = Counter()
    for pair in pairs:
        try:
            check([pair.prompt], [pair.chosen], [pair.rejected])
        except (DataError, AttributeError):
            left_out["prompt or answer is not text"] += 1
            continue
        shown = Shown(pair.prompt, *sorted((pair.chosen, pair.rejected)), pair)
        if shown.first == shown.second:
            left_out["the two answers are equal"] += 1
        elif shown.key in found:
            left_out["an earlier pair is the same"] += 1
        else:
            turned = _drawn(seed, annotator, shown.key) % 2
            found[shown.key] = Shown(shown.prompt, shown.second, shown.first, pair) if turned else shown
    return [found[key] for key in sorted(found, key=lambda key: _drawn(seed, key))], left_out


def simulated(pairs: Sequence[Pair], people: Mapping[str, Answering], seed: int = 0) -> list[Label]:
    """Labels of programs in people's place, each shown the pairs as a person of that name would see them.

    people[name](pairs, first, second) gives (n,) in [0, 1]: above 0.5 the first answer, below it the second, nan a skip.
    Raises DataError on another number of verdicts, or one out of range.
    """
    labels = []
    for name, answer in people.items():
        shown, _ = arranged(pairs, name, seed)
        texts = [each.first for each in shown], [each.second for each in shown]
        said = np.asarray(answer([each.pair for each in shown], *texts), dtype=float)
        if said.shape != (len(shown),) or ((said < 0) | (said > 1)).any():
            raise DataError(f"verdicts of shape {said.shape} for {len(shown)} pairs", where=name, fix="0 to 1 a pair")
        for each, value in zip(shown, said, strict=True):
            word = "skip" if np.isnan(value) else ("second", "tie", "first")[int(np.sign(value - 0.5)) + 1]
            labels.append(Label(dialogue(each.prompt), each.first, each.second, word, name))
    return labels


class Session:
    """One annotator at work on some pairs, whatever was labelled before in this or another kernel.

    Raises DataError without a name or without a single pair to label, and as LabelsFile does.
    """

    def __init__(self, pairs: Sequence[Pair], file: Path, annotator: str, seed: int = 0):
        if not isinstance(annotator, str) or not annotator.strip():
            raise DataError("no annotator", where=file, fix='say who labels: annotator="a name"')
        self.annotator = annotator.strip()
        order, self.left_out = arranged(pairs, self.annotator, seed)
        self._order = {shown.key: shown for shown in order}
        reasons = "; ".join(f"{count} left out: {reason}" for reason, count in self.left_out.items())
        if not order:
            raise DataError(f"no pairs to label ({reasons or 'none given'})", where=file, fix="pass pairs")
        self.saved = LabelsFile(file)
        if reasons:
            self.saved.tell(f"of {len(pairs)} pairs, {reasons}")
        self._name_others()
        self._next()

    def _name_others(self) -> None:
        others = [label for label in self.saved.standing.labels.values() if label.pair not in self._order]
        if others:
            sample = " ".join(others[0].prompt.split())[:60]
            where = f"{self.saved.file}: {len(others)} labels of pairs that are not among these (such as “{sample}”)"
            self.saved.tell(f"{where}; they stay in the file and are not counted here")

    def _next(self, key: Key | None = None) -> None:
        waiting = (each for each in self._order if (self.annotator, each) not in self.saved.standing.labels)
        key = key or next(waiting, None)
        self.shown: Shown | None = self._order.get(key) if key else None
        self._since = time.monotonic()

    @property
    def labels(self) -> list[Label]:
        """This annotator's labels of these pairs that hold, oldest first."""
        held = self.saved.standing.labels
        return [label for (who, pair), label in held.items() if who == self.annotator and pair in self._order]

    @property
    def total(self) -> int:
        return len(self._order)

    @property
    def messages(self) -> list[str]:
        return self.saved.messages

    def seconds_left(self) -> float | None:
        """Median time of the last labels times the pairs left; None before the first. Breaks do not move a median."""
        labels = self.labels
        times = [label.seconds for label in labels if label.seconds is not None][-RECENT:]
        return median(times) * (self.total - len(labels)) if times else None

    def add(self, label: str) -> bool:
        """Save a label of the pair that is shown, then move on; False if it was labelled elsewhere meanwhile.

        Raises DataError for a label that is none, or when every pair is labelled; ArtifactError if it cannot be saved,
        and then the pair stays.
        """
        if label not in LABELS or self.shown is None:
            what = "every pair is labelled" if self.shown is None else f"{label!r} is no label"
            raise DataError(what, where=self.saved.file, fix=f"a label is one of {', '.join(LABELS)}")
        with self.saved.held():
            fresh = (self.annotator, self.shown.key) not in self.saved.standing.labels
            if fresh:
                seconds = round(time.monotonic() - self._since, 1)
                self.saved.append([self._row(self.shown.first, self.shown.second, label) | {"seconds": seconds}])
            else:
                self.saved.tell("this pair was labelled in another window meanwhile; that label is kept")
        self._next()
        return fresh

    def undo(self) -> bool:
        """Take back this annotator's last label and show its pair again; False if there is none. Raises ArtifactError."""
        with self.saved.held():
            if not (labels := self.labels):
                return False
            last = labels[-1]
            self.saved.append([self._row(last.first, last.second, UNDO, prompt=last.prompt)])
        self._next(last.pair)
        return True

    def _row(self, first: str, second: str, label: str, prompt: str | None = None) -> dict[str, Any]:
        prompt = dialogue(self.shown.prompt) if prompt is None else prompt
        now = datetime.now(UTC).isoformat(timespec="seconds")
        names = ("prompt", "first", "second", "label", "annotator", "time")
        return dict(zip(names, (prompt, first, second, label, self.annotator, now), strict=True))
