"""The batch runner: chapters as jobs under Snakemake, then the scorecard, then the book.

A chapter that fails leaves the others running and shows its error on its page; one whose input is missing is skipped.
A run that is killed, however hard, leaves no kernel behind, and the next one does only what is left.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from repro.batch import chapters, page
from repro.batch import plan as planning
from repro.batch.chapters import SCORECARD, Place, tree_mebibytes
from repro.core import paths, records, settings
from repro.core.errors import ReproError, SettingsError
from repro.core.progress import note

FINE, FAILED, SKIPPED = 0, 1, 3


class Terminal:
    """One bar over the chapters with the time left, and a line for each that finishes."""

    def __init__(self, plan: dict[str, Any]):
        self.plan, self.started, self.peak, self.looked = plan, time.time(), 0.0, 0.0
        self.waiting = {
            chapter["name"]: chapter["expected"] * (1 + len(chapter["seed_jobs"]) / 2) for chapter in plan["chapters"]
        }
        form = "{desc} {n_fmt}/{total_fmt} |{bar:24}| {elapsed} so far{postfix}"
        self.bar = tqdm(
            total=len(self.waiting),
            desc="chapters",
            bar_format=form,
            disable=not sys.stderr.isatty() or not self.waiting,
            leave=False,
        )

    def _left(self) -> float:
        """Seconds left: the work over the jobs at once, and no less than the longest chapter."""
        rest = {}
        for name, seconds in self.waiting.items():
            status = chapters.read(Place(name, self.plan["tier"]).status)
            mine = status.get("state") == "running" and status.get("run") == self.plan["id"]
            rest[name] = max(seconds - (time.time() - status["started"] if mine else 0), 1.0)
        return max([sum(rest.values()) / self.plan["jobs"], *rest.values()], default=0.0)

    def look(self) -> None:
        """Say what finished since the last look."""
        for name in list(self.waiting):
            if status := planning.outcome(self.plan, name):
                del self.waiting[name]
                self.bar.update()
                self.bar.write(f"{name:24} {status['state']:8} {status['seconds']:7.1f} s", file=sys.stdout)
        sys.stdout.flush()
        if time.time() - self.looked > 1:  # going through every process is not free
            self.peak, self.looked = max(self.peak, tree_mebibytes(os.getpid())), time.time()
        minutes, seconds = divmod(int(self._left()), 60)
        self.bar.set_postfix_str(f"about {minutes}:{seconds:02} left")

    def close(self) -> None:
        """Clear the bar away."""
        self.bar.close()


def _stop(process: subprocess.Popen) -> None:
    """End a process and all below it: politely, so that jobs end their kernels, then not."""
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for member in family:
        try:
            member.terminate()
        except psutil.NoSuchProcess:
            continue
    for member in psutil.wait_procs(family, timeout=5)[1]:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def _watch(command: Sequence[str], log: Path, terminal: Terminal) -> int:
    """Run a command, its output into a log, looking at the chapters meanwhile; its exit status."""
    home = str(Path(paths.__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))}
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, cwd=paths.ROOT
        )
        try:
            while process.poll() is None:
                terminal.look()
                try:
                    process.wait(0.2)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            _stop(process)
    terminal.look()
    return process.returncode


def _work_folder(tier: str) -> Path:
    """A folder of this run alone, so that no run waits for another's lock; those of dead runs are cleared away."""
    home = paths.runs_folder() / "state" / tier / "work"
    for left in home.glob("*"):
        owner = chapters.read(left / "plan.json").get("run")
        if owner and not chapters.alive(owner):
            shutil.rmtree(left, ignore_errors=True)
    return home / str(os.getpid())


def _snakemake(plan: dict[str, Any], folder: Path, profile: Path | None, terminal: Terminal) -> int:
    """Hand the plan to Snakemake."""
    where = ["--profile", str(profile)] if profile else ["--scheduler", "greedy"]
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(paths.ROOT / "workflow" / "Snakefile"),
        "--directory",
        str(folder),
    ]
    command += ["--config", f"plan={folder / 'plan.json'}", "--cores", str(plan["jobs"]), *where]
    command += ["--keep-going", "--rerun-triggers", "mtime", "--nocolor"]
    return _watch(command, folder.parent.parent / "snakemake.log", terminal)


def _ended_without_word(plan: dict[str, Any], log: Path) -> None:
    """A chapter whose job was killed, or never began, has failed too, and its page says so."""
    import nbformat

    for chapter in plan["chapters"]:
        place = Place(chapter["name"], plan["tier"])
        if planning.outcome(plan, chapter["name"]):
            continue
        own = Path(chapter["log"])
        tail = next(
            (
                text[-1500:]
                for file in (own, log)
                if file.exists() and (text := file.read_text(errors="replace").strip())
            ),
            "no output",
        )
        failure = page.Failure(
            "JobEnded", f"the job ended without a result; it was killed, or never began. Its last words:\n{tail}"
        )
        facts = {
            "tier": plan["tier"],
            "seeds": records.seeds_text(plan["seeds"]),
            "commit": plan["commit"],
            "": page.versions(),
        }
        chapters.write(place.page, page.compose(nbformat.read(place.notebook, 4), failure, facts))
        records.forget(chapter["name"], plan["tier"])
        error = {"ename": failure.name, "evalue": failure.words, "cell": None}
        chapters.set_status(
            place,
            "failed",
            run=plan["id"],
            seeds=plan["seeds"],
            seconds=0.0,
            peak_mebibytes=0,
            error=error,
            finished=time.time(),
        )


def _chapters(plan: dict[str, Any], profile: Path | None) -> float:
    """Run what the plan names; the peak of memory, all processes together, in MiB."""
    if not plan["chapters"]:
        return 0.0
    folder = _work_folder(plan["tier"])
    chapters.write(folder / "plan.json", plan)
    terminal = Terminal(plan)
    try:
        if len(plan["chapters"]) == 1 and not plan["chapters"][0]["seed_jobs"] and not profile:
            alone = plan["chapters"][0]  # one job needs no scheduler
            command = [
                sys.executable,
                "-m",
                "repro.batch.execute",
                "--plan",
                str(folder / "plan.json"),
                "--chapter",
                alone["name"],
            ]
            log = Path(alone["log"])
            _watch(command, log, terminal)
        else:
            log = folder.parent.parent / "snakemake.log"
            _snakemake(plan, folder, profile, terminal)
        _ended_without_word(plan, log)
        terminal.look()
    finally:
        terminal.close()
        shutil.rmtree(folder, ignore_errors=True)
    return terminal.peak


def _table(tier: str, names: Sequence[str], ran: set[str]) -> list[dict[str, Any]]:
    """Print one row per chapter; the rows."""
    rows = [row for row in chapters.statuses(tier) if row["chapter"] in names]
    note(f"\n{'chapter':24} {'state':12} {'seconds':>8} {'peak MiB':>9}")
    for row in rows:
        state = row["state"] if row["chapter"] in ran else f"{row['state']}, kept"
        note(f"{row['chapter']:24} {state:12} {row.get('seconds') or 0:8.1f} {row.get('peak_mebibytes') or 0:9,d}")
        if error := row.get("error"):
            failure = page.Failure(error["ename"], error["evalue"], error["cell"])
            note(f"    {(failure.words if failure.skipped else failure.line).splitlines()[0][:160]}")
            if failure.skipped and len(lines := failure.words.splitlines()) > 1:
                note(f"    {lines[1].strip()}")
    return rows


def _checked(tier: str, seeds: Any, jobs: int) -> list[int]:
    """The seeds as a list, after everything else was looked at. Raises SettingsError or DataError."""
    settings.load(tier)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise SettingsError(f"{jobs!r} is no number of jobs", where="jobs", fix="give a whole number from 1 up")
    return records.parse_seeds(seeds)


def run(
    tier: str,
    seeds: Sequence[int] | str,
    jobs: int,
    only: str | None = None,
    profile: str | None = None,
    build_book: bool = True,
) -> int:
    """Run the chapters that are out of date, the scorecard, and the book; 0 fine, 1 something failed, 3 something skipped.

    only: a chapter, a prefix such as p1, or a comma list. Raises SettingsError or DataError on a wrong word, before anything runs.
    """
    seeds = _checked(tier, seeds, jobs)
    names = planning.wanted(only)
    folder = planning.profile_folder(profile) if profile else None
    if hasattr(signal, "SIGTERM") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = planning.make(tier, seeds, jobs, names)
    if plan["current"]:
        note(f"{len(plan['current'])} of {len(names)} chapters are current")
    peak = _chapters(plan, folder)
    ran = {chapter["name"] for chapter in plan["chapters"]}
    if SCORECARD in chapters.available():
        last = planning.make(tier, seeds, jobs, [SCORECARD])
        peak = max(peak, _chapters(last, None))
        names, ran = [*names, SCORECARD], ran | {chapter["name"] for chapter in last["chapters"]}
    states = {row["state"] for row in _table(tier, names, ran)}
    if peak:
        note(f"\npeak memory, all processes: {peak:,.0f} MiB")
    built = _book(tier) if build_book else True
    if "failed" in states or "interrupted" in states or not built:
        return FAILED
    return SKIPPED if "skipped" in states else FINE


def _book(tier: str) -> bool:
    """Build the book and say where it is; whether that went well."""
    from repro import book

    try:
        note(f"book: {book.build(tier)}")
    except ReproError as error:
        note(f"book: {error}")
        return False
    return True
