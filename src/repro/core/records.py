"""Records: the tidy rows that every table, figure and verdict is made from.

Row: {"id": "p2.fig3", "row": "natural pairs", "column": "mean coefficient", "value": 0.19, "low": 0.17, "high": 0.21,
      "n": 805, "seed": "0-2", "tier": "laptop", "unit": ""}; id is the inventory's; n counts prompts.
A chapter's records are one JSON-lines file per tier and seeds, written whole and renamed into place.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from repro.core.errors import ArtifactError, DataError
from repro.core.paths import runs_folder
from repro.core.statistics import Interval


@dataclass(frozen=True)
class Record:
    """One reported figure; low and high are nan where a figure has no sampling error (a count, a constant)."""

    id: str
    row: str
    column: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seed: str = ""
    tier: str = ""
    unit: str = ""

    @property
    def interval(self) -> Interval:
        """The record as an interval; without bounds, the value is its own."""
        value = math.nan if self.value is None else self.value
        low, high = (value if bound is None else bound for bound in (self.low, self.high))
        return Interval(value, low, high, self.n or 0)


def seeds_text(seeds: Iterable[int]) -> str:
    """Seeds as text: 0-2 for a run of three, 0,2,5 otherwise."""
    seeds = sorted(set(seeds))
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else float(number)


def record(
    id: str,
    row: str,
    column: str,
    value: Interval | float | None,
    *,
    unit: str = "",
    seeds: Sequence[int] = (),
    n: int | None = None,
) -> Record:
    """A record from an interval, or from a bare number that has no sampling error; n counts prompts."""
    if isinstance(value, Interval):
        bounds = _finite(value.low), _finite(value.high)
        return Record(
            id,
            row,
            column,
            _finite(value.value),
            *bounds,
            n=value.n if n is None else n,
            seed=seeds_text(seeds),
            unit=unit,
        )
    return Record(id, row, column, _finite(value), n=n, seed=seeds_text(seeds), unit=unit)


def save(rows: Sequence[Record], chapter: str, tier: str, seeds: Sequence[int]) -> Path:
    """Write a chapter's records for one tier and set of seeds, whole, and return the file.

    Raises DataError if two rows share id, row and column; ArtifactError if the file cannot be written.
    """
    rows = [replace(row, tier=tier, seed=row.seed or seeds_text(seeds)) for row in rows]
    seen: set[tuple[str, str, str]] = set()
    for row in rows:
        if (name := (row.id, row.row, row.column)) in seen:
            raise DataError(f"two records for {name}", where=chapter, fix="give each its own row or column name")
        seen.add(name)
    file = runs_folder() / "records" / tier / chapter / f"{seeds_text(seeds) or 'none'}.jsonl"
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(
            "".join(json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        )
        os.replace(temporary, file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise ArtifactError(
            f"records cannot be written: {error.strerror}", where=file, fix="free space or set REPRO_RUNS"
        ) from error
    return file


def _read(file: Path) -> list[Record]:
    try:
        return [Record(**json.loads(line)) for line in file.read_text().splitlines()]
    except (ValueError, TypeError) as error:
        raise ArtifactError(
            f"records are damaged ({error})", where=file, fix="delete the file and run its chapter again"
        ) from error


def load(
    *, tier: str | None = None, id: str | None = None, chapter: str | None = None, seeds: str | None = None
) -> list[Record]:
    """All records, of each chapter and tier those last written; narrowed by tier, inventory id, chapter or seeds ("0-2").

    With seeds, only what was recorded for exactly these.
    """
    folder = runs_folder() / "records"
    rows: list[Record] = []
    for home in sorted(folder.glob("*/*")):
        files = [file for file in home.glob("*.jsonl") if not file.name.startswith(".")]
        wanted = files if seeds is None else [file for file in files if file.stem == seeds]
        if wanted and (tier is None or home.parent.name == tier) and (chapter is None or home.name == chapter):
            rows += _read(max(wanted, key=lambda file: file.stat().st_mtime_ns))
    return [row for row in rows if id is None or row.id == id]


def last_tier() -> str | None:
    """The tier whose records were written last; None before any run."""
    files = [file for file in (runs_folder() / "records").glob("*/*/*.jsonl") if not file.name.startswith(".")]
    return max(files, key=lambda file: file.stat().st_mtime_ns).parents[1].name if files else None


def forget(chapter: str, tier: str) -> None:
    """Remove a chapter's records of one tier, so that no verdict rests on a run that a failed one replaced."""
    shutil.rmtree(runs_folder() / "records" / tier / chapter, ignore_errors=True)


def parse_seeds(text: str | int | Sequence[int]) -> list[int]:
    """Seeds from "0-4", "0,2,5", 3 or a list; sorted, each once.

    Raises DataError if a part is no whole number, is negative, or nothing is named.
    """
    parts = [str(part) for part in text] if isinstance(text, (list, tuple)) else str(text).split(",")
    seeds: set[int] = set()
    for part in parts:
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise DataError(f"{part!r} is no seed", where=f"seeds {text!r}", fix="write 0, 0-4 or 0,2,5")
        seeds.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return sorted(seeds)
