"""Labels of people, read from a file, as a judge.

Row: {"prompt": "How many apples …", "first": "57.", "second": "58.", "label": "first", "annotator": "one"}; `prompt_id`
may stand in place of `prompt`. The label is first, second, tie or skip. JSON lines, or CSV with these columns.
"""

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.core.errors import DataError, MissingInput
from repro.judges.judge import Turns, check, dialogue, tell

LABELS = {"first": 1.0, "second": 0.0, "tie": 0.5, "skip": None}
FIELDS = ("first", "second", "label", "annotator")


class HumanLabels:
    """People as a judge: the mean label of everyone who did not skip the pair, in whichever order they saw it.

    prompt_id: how a prompt's id is made, needed where the file names prompts by id. Raises MissingInput without the
    file, DataError naming the line that is no label.
    """

    def __init__(self, file: Path, *, prompt_id: Callable[[Turns], str] | None = None, name: str = "human"):
        self.name, self._prompt_id = name, prompt_id
        self._labels: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        for line, row in _rows(Path(file)):
            kind = "prompt_id" if row.get("prompt_id") else "prompt"
            texts = [row.get(each) for each in (kind, *FIELDS)]
            if not all(isinstance(each, str) for each in texts) or texts[3] not in LABELS:
                fix = f"give prompt or prompt_id, {', '.join(FIELDS)}; label is one of {', '.join(LABELS)}"
                raise DataError("not a label", where=f"{file}, line {line}", fix=fix)
            if kind == "prompt_id" and prompt_id is None:
                raise DataError("names prompts by id", where=f"{file}, line {line}", fix="pass prompt_id=")
            prompt, first, second, label, _ = texts
            if (value := LABELS[label]) is not None:
                self._labels[kind, prompt, first, second].append(value)
                self._labels[kind, prompt, second, first].append(1 - value)

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


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Line numbers from 1 and rows."""
    if not file.is_file():
        raise MissingInput("no such file of labels", where=file, fix="correct the path, or collect labels first")
    number = 1
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".csv":
                csv.field_size_limit(sys.maxsize)  # the usual limit is shorter than a long answer
                reader = csv.DictReader(lines, strict=True)
                for row in reader:
                    number = reader.line_num
                    yield number, row
                return
            for number, line in enumerate(lines, 1):
                row = json.loads(line) if line.strip() else None
                if row is not None:
                    yield number, row if isinstance(row, dict) else {}
    except (ValueError, csv.Error) as error:  # not UTF-8, not JSON, not CSV
        raise DataError(f"cannot be read: {error}", where=f"{file}, line {number}", fix="mend the line") from error
