"""Labels of people, read from a file, and people as a judge.

Row: {"prompt": "How many apples …", "first": "57.", "second": "58.", "label": "first", "annotator": "one"}; `prompt_id`
may stand in place of `prompt`. The label is first, second, tie or skip; undo takes the annotator's last label of the pair
back. Further fields are left alone. JSON lines, or CSV with these columns.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.core.errors import DataError, MissingInput
from repro.core.progress import note
from repro.judges.judge import Turns, check, dialogue, tell

LABELS = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}
UNDO = "undo"
FIELDS = ("first", "second", "label", "annotator")

Key = tuple[str, str, str, str]  # of a pair: prompt or prompt_id, that text, the two answers sorted


@dataclass(frozen=True)
class Label:
    """What one annotator said of one pair, in the order in which it was shown. seconds: how long it took, if known."""

    prompt: str
    first: str
    second: str
    label: str
    annotator: str
    seconds: float | None = None
    kind: str = "prompt"  # or prompt_id

    @classmethod
    def of(cls, row: Any) -> "Label":
        """A row of a file as a label. Raises ValueError, saying what a row must hold, if it is none."""
        row = row if isinstance(row, Mapping) else {}
        kind = "prompt_id" if row.get("prompt_id") else "prompt"
        texts = [row.get(each) for each in (kind, *FIELDS)]
        if not all(isinstance(each, str) for each in texts) or texts[3] not in {*LABELS, UNDO}:
            raise ValueError(f"give prompt or prompt_id, {', '.join(FIELDS)}; label is one of {', '.join(LABELS)}")
        seconds = row.get("seconds")
        return cls(*texts, seconds if isinstance(seconds, (int, float)) and seconds >= 0 else None, kind)

    def row(self) -> dict[str, Any]:
        """The label as a row of a file."""
        timed = {} if self.seconds is None else {"seconds": self.seconds}
        return {self.kind: self.prompt} | {name: getattr(self, name) for name in FIELDS} | timed

    @property
    def value(self) -> float | None:
        """1 for the first answer, 0 for the second, 0.5 for a tie, None for a skip."""
        return LABELS[self.label]

    @property
    def pair(self) -> Key:
        """The pair, whichever of its answers was shown first."""
        return self.kind, self.prompt, *sorted((self.first, self.second))


class Standing:
    """The labels that hold: of each annotator and pair the last one, unless it was undone.

    labels: by (annotator, pair), oldest first; replaced: labels that a later one of the same annotator took over;
    undone: labels taken back; vain: undos that had nothing to take back.
    """

    def __init__(self) -> None:
        self.labels: dict[tuple[str, Key], Label] = {}
        self.replaced = self.undone = self.vain = 0

    def add(self, label: Label) -> None:
        """The file's next label."""
        before = self.labels.pop((label.annotator, label.pair), None)
        if label.label != UNDO:
            self.replaced += before is not None
            self.labels[label.annotator, label.pair] = label
        elif before is None:
            self.vain += 1
        else:
            self.undone += 1


def read_labels(file: Path, *, by_id: bool = True) -> list[Label]:
    """The labels of a file that hold, oldest first; says what was replaced, undone in vain, or cut short at the end.

    by_id: whether prompts may be named by id. Raises MissingInput without the file, DataError naming the line that is
    no label.
    """
    standing = Standing()
    for line, row in _rows(Path(file)):
        try:
            label = Label.of(row)
        except ValueError as error:
            raise DataError("not a label", where=f"{file}, line {line}", fix=str(error)) from error
        if label.kind == "prompt_id" and not by_id:
            raise DataError("names prompts by id", where=f"{file}, line {line}", fix="pass prompt_id=")
        standing.add(label)
    if standing.replaced:
        note(f"{file}: {standing.replaced} labels replaced by the same annotator's later label of the pair")
    if standing.vain:
        note(f"{file}: {standing.vain} undos with no label to take back")
    return list(standing.labels.values())


class HumanLabels:
    """People as a judge: the mean label of everyone who did not skip the pair, in whichever order they saw it.

    prompt_id: how a prompt's id is made, needed where the file names prompts by id. Raises MissingInput without the
    file, DataError naming the line that is no label.
    """

    def __init__(self, file: Path, *, prompt_id: Callable[[Turns], str] | None = None, name: str = "human"):
        self.name, self._prompt_id = name, prompt_id
        self._labels: dict[Key, list[float]] = defaultdict(list)
        for label in read_labels(file, by_id=prompt_id is not None):
            if (value := label.value) is not None:
                self._labels[label.kind, label.prompt, label.first, label.second].append(value)
                self._labels[label.kind, label.prompt, label.second, label.first].append(1 - value)

    def compare(self, prompts: Sequence[Turns], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """Mean label (n,), 1 for the first answer; nan for a pair nobody labelled. Raises DataError as `check`."""
        check(prompts, first, second)
        found = [self._of(*pair) for pair in zip(prompts, first, second, strict=True)]
        return tell(self.name, np.array([np.mean(labels) if labels else np.nan for labels in found], dtype=float))

    def score(self, prompts: Sequence[Turns], answers: Sequence[str]) -> np.ndarray:
        """nan (n,): people compare here, they have no scale. Raises DataError as `check`."""
        check(prompts, answers)
        return np.full(len(answers), np.nan)

    def _of(self, turns: Turns, first: str, second: str) -> list[float]:
        labels = self._labels.get(("prompt", dialogue(turns), first, second), [])
        if self._prompt_id is None:
            return labels
        return labels + self._labels.get(("prompt_id", self._prompt_id(turns), first, second), [])


def _rows(file: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers from 1 and rows."""
    if not file.is_file():
        raise MissingInput("no such file of labels", where=file, fix="correct the path, or collect labels first")
    number = 1
    try:
        if file.suffix == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as lines:
                csv.field_size_limit(sys.maxsize)  # the usual limit is shorter than a long answer
                reader = csv.DictReader(lines, strict=True)
                for row in reader:
                    number = reader.line_num
                    yield number, row
            return
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line.decode("utf-8-sig")) if line.strip() else None
                except ValueError:
                    if line.endswith(b"\n"):
                        raise
                    note(f"{file}, line {number}: cut short, not used")  # who wrote it died, or is writing now
                    return
                if row is not None:
                    yield number, row
    except (ValueError, csv.Error) as error:  # not UTF-8, not JSON, not CSV
        raise DataError(f"cannot be read: {error}", where=f"{file}, line {number}", fix="mend the line") from error
