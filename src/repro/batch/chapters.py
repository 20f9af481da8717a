"""Chapters as the batch runner sees them: which there are, what each depends on, what its last run left.

A chapter is current when its marker holds the digest of everything it depends on: the notebook's source, the resolved
tier, the project modules its cells import, the inventory, the seeds, and the state of the data and model folders.
"""

import difflib
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from repro.core import inventory, paths, settings, source
from repro.core.errors import ArtifactError, MissingInput, SettingsError

SCORECARD = "99_scorecard"
DEFAULT_MINUTES = 1.0  # for a chapter that never ran and does not say


@dataclass(frozen=True)
class Place:
    """The files that a chapter of one tier owns."""

    chapter: str
    tier: str

    @property
    def folder(self) -> Path:
        return paths.runs_folder() / "state" / self.tier

    @property
    def notebook(self) -> Path:
        return paths.NOTEBOOKS / f"{self.chapter}.ipynb"

    @property
    def page(self) -> Path:
        return paths.runs_folder() / "pages" / self.tier / f"{self.chapter}.ipynb"

    @property
    def inputs(self) -> Path:
        return self.folder / f"{self.chapter}.inputs.json"

    @property
    def status(self) -> Path:
        return self.folder / f"{self.chapter}.status.json"

    def done(self, seed: int | None = None) -> Path:
        """The marker of a finished job: of the whole chapter, or of one seed."""
        return self.folder / (f"{self.chapter}.done.json" if seed is None else f"{self.chapter}.seed{seed}.done.json")

    def log(self, seed: int | None = None) -> Path:
        """What a job printed: of the whole chapter, or of one seed."""
        return self.folder / (f"{self.chapter}.log" if seed is None else f"{self.chapter}.seed{seed}.log")


def write(file: Path, value: Any) -> None:
    """Write text, or a value as JSON, whole: into a neighbour that is renamed. Raises ArtifactError if it cannot."""
    text = value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False)
    neighbour = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        neighbour.write_text(text)
        os.replace(neighbour, file)
    except OSError as error:
        neighbour.unlink(missing_ok=True)
        raise ArtifactError(
            f"cannot be written: {error.strerror}",
            where=file,
            fix="free space, or set REPRO_RUNS to a folder that can be written",
        ) from error


def read(file: Path) -> dict[str, Any]:
    """A JSON file's contents; empty where it is absent or damaged, since all such files here can be made again."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def available() -> list[str]:
    """Chapters with a notebook, in the inventory's order, others after them, the scorecard last."""
    present = {file.stem for file in paths.NOTEBOOKS.glob("*.ipynb")}
    order = [name for name in inventory.chapters() if name in present]
    order += sorted(present - set(order))
    return sorted(order, key=lambda name: name == SCORECARD)


def select(only: str | None) -> list[str]:
    """The chapters that a name, a prefix such as p1, or a comma list of these stands for; all for None.

    Raises SettingsError on a part that stands for nothing, naming the nearest chapter.
    """
    names = available()
    if not only or not only.strip(" ,"):
        return names
    wanted: set[str] = set()
    for part in (part.strip() for part in only.split(",") if part.strip()):
        found = [name for name in names if name == part] or [name for name in names if name.startswith(part)]
        if not found:
            raise SettingsError(f"{part!r} is no chapter", where="only", fix=_nearest(part, names))
        wanted.update(found)
    return [name for name in names if name in wanted]


def _nearest(part: str, names: list[str]) -> str:
    if planned := [name for name in inventory.chapters() if name.startswith(part)]:
        return f"{planned[0]} has no notebook yet; there are: {', '.join(names)}"
    close = difflib.get_close_matches(part, names, n=1, cutoff=0.4)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(names)}"


@lru_cache
def _notebook(file: Path, _mtime: int) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise SettingsError(f"not a notebook ({error})", where=file, fix="restore it from the repository") from error


def notebook(chapter: str) -> dict[str, Any]:
    """A chapter's notebook as stored. Raises SettingsError if it does not read."""
    file = Place(chapter, "").notebook
    return _notebook(file, file.stat().st_mtime_ns)


def about(chapter: str) -> dict[str, Any]:
    """What the notebook says of itself under metadata.repro: per_seed, minutes by tier, resources by tier."""
    return notebook(chapter).get("metadata", {}).get("repro", {})


def title(chapter: str) -> str:
    """The inventory's title, else the notebook's first heading, else its name."""
    if found := inventory.chapters().get(chapter, {}).get("title"):
        return found
    text = "\n".join("".join(cell["source"]) for cell in notebook(chapter)["cells"] if cell["cell_type"] == "markdown")
    match = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else chapter


def folder_state(folder: Path | None) -> str:
    """Digest of a folder's file names, sizes and times, wherever it lies; `absent` for none."""
    if folder is None:
        return "absent"
    found = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = file.stat()
        found.update(f"{file.relative_to(folder)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return found.hexdigest()


def _state(find: Any) -> str:
    try:
        return folder_state(find())
    except MissingInput:
        return "absent"


def shared_inputs(tier: str) -> dict[str, Any]:
    """What every chapter of a tier depends on. Raises SettingsError if the tier does not resolve."""
    return {
        "settings": settings.load(tier).sections,
        "inventory": hashlib.sha256((paths.BOOK / "inventory.yaml").read_bytes()).hexdigest(),
        "data": _state(paths.data_folder),
        "models": _state(paths.models_folder),
    }


def _modules(cells: list[dict[str, Any]]) -> set[str]:
    """Project modules that code cells import; a cell that is no plain Python is left for the kernel to judge."""
    found: set[str] = set()
    for cell in cells:
        lines = [line for line in "".join(cell["source"]).splitlines() if not line.lstrip().startswith(("%", "!"))]
        try:
            found |= source.imports_of("\n".join(lines)) if cell["cell_type"] == "code" else set()
        except SyntaxError:
            continue
    return found


def inputs(chapter: str, shared: dict[str, Any]) -> dict[str, Any]:
    """All that a chapter's page depends on, the seeds aside."""
    cells = notebook(chapter)["cells"]
    told = [[cell["cell_type"], "".join(cell["source"]), cell.get("metadata", {})] for cell in cells]
    found = {**shared, "cells": told, "about": about(chapter), "modules": source.closure(*_modules(cells))}
    if chapter == SCORECARD:
        folder = paths.runs_folder() / "records"
        found["records"] = {
            str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
            for f in sorted(folder.rglob("*.jsonl"))
        }
    return found


def digest(found: dict[str, Any], seeds: Sequence[int] = ()) -> str:
    """The digest that a marker holds: of the inputs, and of the seeds of a page."""
    return hashlib.sha256(json.dumps([found, list(seeds)], sort_keys=True, default=dict).encode()).hexdigest()


def this_process() -> dict[str, Any]:
    """What identifies this process beyond its number, which the system uses again."""
    return {"pid": os.getpid(), "created": _began(os.getpid()), "host": socket.gethostname()}


def _began(pid: int) -> float:
    """When a process began: on Linux in clock ticks after boot, for the time of day may be put right while it runs."""
    try:
        return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return psutil.Process(pid).create_time()


def alive(process: dict[str, Any]) -> bool:
    """Whether a process is still there; one on another machine counts as there, since nobody here can tell."""
    if process.get("host") != socket.gethostname():
        return True
    try:
        same = abs(_began(process["pid"]) - process["created"]) < 1
        return same and psutil.Process(process["pid"]).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, KeyError):
        return False


def tree_mebibytes(pid: int) -> float:
    """Resident memory of a process and all below it, in MiB; shared pages count once per process."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in [parent, *parent.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
    except psutil.NoSuchProcess:
        return 0.0
    return total / 2**20


def set_status(place: Place, state: str, **more: Any) -> dict[str, Any]:
    """Write a chapter's state, keeping the last run's seconds for estimates of time left."""
    before = read(place.status)
    last = more.get("seconds") if state == "done" else before.get("last_seconds")
    now = {
        "chapter": place.chapter,
        "tier": place.tier,
        "state": state,
        **more,
        "last_seconds": last,
        "process": this_process(),
        "written": time.time(),
    }
    write(place.status, now)
    return now


def statuses(tier: str) -> list[dict[str, Any]]:
    """For each chapter with a notebook its last state at a tier: done, failed, skipped, running, interrupted or not run."""
    rows = []
    for name in available():
        found = read(Place(name, tier).status) or {"chapter": name, "tier": tier, "state": "not run"}
        if found.get("state") == "running" and not alive(found.get("process", {})):
            found = {**found, "state": "interrupted"}
        rows.append(found)
    return rows
