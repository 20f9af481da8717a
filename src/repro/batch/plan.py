"""What a batch run is going to do: checked words, markers out of date removed, and the plan that jobs read."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.batch import chapters
from repro.batch.chapters import SCORECARD, Place
from repro.core import paths
from repro.core.errors import SettingsError

FINAL = ("done", "failed", "skipped")


def commit() -> str:
    """The checkout's commit in short, `+changes` behind it if files differ; `unknown` outside git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(paths.ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != paths.ROOT.resolve():
            return "unknown"  # a copy inside somebody else's repository
        return git("rev-parse", "--short", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def profile_folder(profile: str) -> Path:
    """A profile's folder, by name under workflow/profiles or by path.

    Raises SettingsError if there is none, or if it asks for an executor whose plugin is not installed.
    """
    from importlib.util import find_spec

    home = paths.ROOT / "workflow" / "profiles"
    folder = next((f for f in (home / profile, Path(profile)) if (f / "config.yaml").is_file()), None)
    if folder is None:
        known = ", ".join(sorted(f.parent.name for f in home.glob("*/config.yaml")))
        raise SettingsError(
            f"{profile!r} is no profile",
            where="profile",
            fix=f"There are: {known}; or give a folder that holds a config.yaml",
        )
    executor = (yaml.safe_load((folder / "config.yaml").read_text()) or {}).get("executor", "local")
    if (
        executor not in ("local", "dryrun", "touch")
        and find_spec(f"snakemake_executor_plugin_{executor.replace('-', '_')}") is None
    ):
        raise SettingsError(
            f"its executor {executor} is not installed",
            where=folder / "config.yaml",
            fix=f"pip install snakemake-executor-plugin-{executor}",
        )
    return folder.resolve()


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def expected_seconds(chapter: str, tier: str) -> float:
    """What the chapter took last time at this tier, else what its notebook says, else a minute."""
    last = chapters.read(Place(chapter, tier).status).get("last_seconds")
    minutes = chapters.about(chapter).get("minutes", {}).get(tier, chapters.DEFAULT_MINUTES)
    return float(last if last is not None else minutes * 60)


def _drop_stale(marker: Path, digest: str) -> bool:
    """Whether the marker is current; one that is not is deleted, so that its absence says so."""
    found = chapters.read(marker)
    if found.get("digest") == digest and found.get("state") == "done":
        return True
    marker.unlink(missing_ok=True)
    return False


def entry(name: str, tier: str, seeds: Sequence[int], shared: dict[str, Any], threads: int) -> dict[str, Any]:
    """One chapter's part of the plan, its inputs written down and its stale markers removed."""
    place = Place(name, tier)
    found = chapters.inputs(name, shared)
    digests = {"seed": chapters.digest(found), "page": chapters.digest(found, seeds)}
    if chapters.read(place.inputs) != (noted := {"digest": digests["page"], "seeds": list(seeds)}):
        chapters.write(place.inputs, noted)
    current = _drop_stale(place.done(), digests["page"]) and place.page.exists()
    if not current:
        place.done().unlink(missing_ok=True)
    per_seed = list(seeds) if len(seeds) > 1 and chapters.about(name).get("per_seed") and not current else []
    for seed in per_seed:
        _drop_stale(place.done(seed), digests["seed"])
    return {
        "name": name,
        "current": current,
        "digests": digests,
        "expected": expected_seconds(name, tier),
        "inputs": str(place.inputs),
        "done": str(place.done()),
        "log": str(place.log()),
        "seed_jobs": [{"seed": seed, "done": str(place.done(seed)), "log": str(place.log(seed))} for seed in per_seed],
        "threads": threads,
        "resources": chapters.about(name).get("resources", {}).get(tier, {}),
    }


def make(tier: str, seeds: Sequence[int], jobs: int, names: Sequence[str], threads: int = 1) -> dict[str, Any]:
    """The plan for the chapters that are not current, longest first; `current` names the others."""
    shared = chapters.shared_inputs(tier)
    entries = [entry(name, tier, seeds, shared, threads) for name in names]
    stale = sorted((e for e in entries if not e["current"]), key=lambda e: -e["expected"])
    for rank, found in enumerate(stale):
        found["priority"] = len(stale) - rank
    return {
        "run": (process := chapters.this_process()),
        "id": f"{process['host']}.{process['pid']}.{process['created']:.0f}",
        "python": sys.executable,
        "tier": tier,
        "seeds": list(seeds),
        "jobs": jobs,
        "threads": max(1, cores() // jobs),
        "commit": commit(),
        "chapters": stale,
        "current": [e["name"] for e in entries if e["current"]],
        "digests": {e["name"]: e["digests"] for e in stale},
    }


def outcome(plan: dict[str, Any], name: str) -> dict[str, Any] | None:
    """How a chapter of the plan ended, in this run or in another one beside it; None if it has not."""
    place = Place(name, plan["tier"])
    status = chapters.read(place.status)
    ended = status.get("run") == plan["id"] and status.get("state") in FINAL
    elsewhere = (
        status.get("state") == "done" and chapters.read(place.done()).get("digest") == plan["digests"][name]["page"]
    )
    return status if ended or elsewhere else None


def wanted(only: str | None) -> list[str]:
    """The chapters to run before the scorecard."""
    return [name for name in chapters.select(only) if name != SCORECARD]
