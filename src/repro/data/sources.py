"""Where each file of the data folder comes from, and whether the one that is here is that file.

`sources.csv`, one row a file: set, file (in the data folder), rows, form (how the download becomes the file),
download_bytes, bytes and sha256 of the file's unpacked content, repository @ commit : path, licence, and the
hub's id and path where the hub has the same file. Forms: same (kept as it is), gzip (packed), lines (a JSON array,
one row a line, packed), derived (computed here).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.data.alpaca_eval import ONLY_ANNOTATED, annotations, difficulty, weights
from repro.data.difficulty import recovered_difficulty
from repro.data.reading import read_bytes

DIFFICULTY_TOLERANCE = 1e-9  # ten decimals are stored; another platform's log may round the last one otherwise


@dataclass(frozen=True)
class Source:
    """One file of the data folder and its origin."""

    set: str
    file: str
    rows: int
    form: str
    download_bytes: int
    bytes: int
    sha256: str
    repo: str
    commit: str
    path: str
    licence: str
    hub_id: str
    hub_path: str


def sources(names: Iterable[str] | None = None) -> tuple[Source, ...]:
    """The files of the named sets, of all sets by default. Raises SettingsError for an unknown name."""
    with files("repro.data").joinpath("sources.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = ("rows", "download_bytes", "bytes")
    every = tuple(Source(**{key: int(text) if key in numbers else text for key, text in row.items()}) for row in rows)
    if names is None:
        return every
    wanted, known = set(names), dict.fromkeys(each.set for each in every)
    if unknown := wanted - set(known):
        fix = f"choose from {', '.join(known)}"
        raise SettingsError(f"unknown data set {min(unknown)!r}", where="data", fix=fix)
    return tuple(each for each in every if each.set in wanted)


def check(folder: Path, source: Source) -> tuple[str, str]:
    """("present" | "missing" | "damaged", detail) of one file, by the sha256 of its unpacked content."""
    try:
        if source.form == "derived":
            return _check_derived(folder, source)
        content, whole = read_bytes(folder / source.file)
    except MissingInput:
        return "missing", source.file
    except DataError as problem:
        return "damaged", f"{source.file} {problem.what}"
    got = hashlib.sha256(content).hexdigest()
    if not whole or got != source.sha256:
        what = "is cut short" if not whole else f"has sha256 {got[:12]}…, expected {source.sha256[:12]}…"
        return "damaged", f"{source.file} {what}"
    return "present", f"{source.rows} rows"


def _check_derived(folder: Path, source: Source) -> tuple[str, str]:
    if not (folder / source.file).is_file():
        return "missing", source.file
    stored, fresh = difficulty(folder), derived_difficulty(folder)
    near = len(stored) == len(fresh) and max(abs(a - b) for a, b in zip(stored, fresh, strict=True))
    if near is False or near > DIFFICULTY_TOLERANCE:
        return "damaged", f"{source.file} does not follow from the annotations"
    return "present", f"{source.rows} rows"


def derived_difficulty(folder: Path) -> tuple[float, ...]:
    """The instruction difficulties, recomputed from the files in `folder` (see `data/difficulty.py`).

    Raises MissingInput without those files, DataError if they are useless.
    """
    rows = annotations(folder, models=[ONLY_ANNOTATED]).rows
    return recovered_difficulty(rows, weights(folder)[ONLY_ANNOTATED])


@dataclass(frozen=True)
class SetStatus:
    """What `repro doctor` says of one data set: state is present, missing or damaged."""

    name: str
    state: str
    detail: str


def status(folder: Path | str | None) -> list[SetStatus]:
    """The state of every set in a data folder (None: there is none), each file checked by its sha256."""
    every = sources()
    found = []
    for name in dict.fromkeys(each.set for each in every):
        mine = [each for each in every if each.set == name]
        states = [("missing", each.file) if folder is None else check(Path(folder), each) for each in mine]
        found.append(_set_status(name, states))
    return found


def _set_status(name: str, states: list[tuple[str, str]]) -> SetStatus:
    for state in ("damaged", "missing"):
        worst = [detail for each, detail in states if each == state]
        if worst:
            return SetStatus(name, state, f"{len(worst)} of {len(states)} files, the first: {worst[0]}")
    return SetStatus(name, "present", f"{len(states)} files, checked by sha256")
