"""What the exchange with other labelling tools shares: texts out in a drawn order, labels in, and a tally of the rest.

Which answer comes first is drawn by seed, as on our own screen; which one is the chosen one is not written down.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.core.errors import DataError, MissingInput
from repro.judges.human import Key, Label
from repro.judges.judge import dialogue
from repro.judges.labelling import Pair, Shown, arranged

TEXTS = ("prompt", "first", "second")


@dataclass
class Imported:
    """Labels of another tool's export; what is not used, by reason, and where; fields that are not known, by name."""

    source: str
    labels: list[Label] = field(default_factory=list)
    set_aside: list[tuple[str, str]] = field(default_factory=list)  # where, why
    unknown: Counter[str] = field(default_factory=Counter)

    def counts(self) -> Counter[str]:
        """What is not used, by reason."""
        return Counter(why for _, why in self.set_aside)

    def summary(self) -> str:
        """In one line: labels used, entries set aside and why, unknown fields."""
        parts = [f"{self.source}: {len(self.labels)} labels"]
        parts += [f"{count} set aside ({why})" for why, count in self.counts().most_common()]
        parts += [f"unknown field {name!r} in {count}, not read" for name, count in self.unknown.most_common()]
        return "; ".join(parts)

    def without_repeats(self) -> "Imported":
        """The last label of each annotator and pair; earlier ones are set aside."""
        last: dict[tuple[str, Key], Label] = {}
        for label in self.labels:
            if last.pop((label.annotator, label.pair), None):
                self.set_aside.append((f"{label.annotator}: {label.prompt[:40]}", "an annotator's later label holds"))
            last[label.annotator, label.pair] = label
        self.labels = list(last.values())
        return self


def read_export(file: Path) -> list[Any]:
    """The entries of an export: a JSON list, or JSON lines. Raises MissingInput, or DataError if it cannot be read."""
    if not Path(file).is_file():
        raise MissingInput("no such export", where=file, fix="correct the path")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            return json.loads(text)
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:  # not UTF-8, not JSON, cut short
        fix = "export it again as JSON: it was cut short, or is of another format"
        raise DataError(f"cannot be read: {error}", where=file, fix=fix) from error


def write_export(file: Path, entries: Sequence[Mapping[str, Any]]) -> Path:
    """Write tasks or records as the JSON list that both tools read."""
    Path(file).write_text(json.dumps(list(entries), ensure_ascii=False, indent=1), encoding="utf-8")
    return Path(file)


def told(
    pairs: Sequence[Pair], labels: Sequence[Label], seed: int
) -> Iterator[tuple[str, dict[str, str], list[Label]]]:
    """Of every pair its id, its texts in the order to show them, and its labels turned to that order."""
    shown, _ = arranged(pairs, "", seed)
    by_pair: dict[Key, list[Label]] = {each.key: [] for each in shown}
    for label in labels:
        if label.pair in by_pair:
            by_pair[label.pair].append(label)
    for each in shown:
        texts = dict(zip(TEXTS, (dialogue(each.prompt), each.first, each.second), strict=True))
        yield each.id, texts, [_turned(label, each) for label in by_pair[each.key]]


def _turned(label: Label, shown: Shown) -> Label:
    word = label.label
    if label.first != shown.first:
        word = {"first": "second", "second": "first"}.get(word, word)
    return Label(label.prompt, shown.first, shown.second, word, label.annotator)


def texts_of(
    found: Imported, entry: Any, inside: str, names: Sequence[str], where: str, known: set[str]
) -> tuple[str, ...] | None:
    """Prompt and the two answers of a task or record; None, counted, if they are not all there."""
    data = entry.get(inside) if isinstance(entry, Mapping) else None
    if not isinstance(data, Mapping):
        found.set_aside.append((where, f"no {inside!r} with texts"))
        return None
    found.unknown.update(name for name in entry if name not in known)
    found.unknown.update(f"{inside}.{name}" for name in data if name not in names)
    texts = tuple(data.get(name) for name in names)
    if not all(isinstance(text, str) for text in texts):
        missing = [name for name, text in zip(names, texts, strict=True) if not isinstance(text, str)]
        found.set_aside.append((where, f"{inside} without the text {missing[0]!r}"))
        return None
    return texts


def take(found: Imported, texts: Sequence[str], where: str, read: Callable[[Any], tuple[str, str]], entry: Any) -> None:
    """Add the label and annotator that `read` finds in an entry; if it raises ValueError, set the entry aside."""
    try:
        word, who = read(entry)
    except ValueError as error:
        found.set_aside.append((where, str(error)))
    else:
        found.labels.append(Label(*texts, word, who))
