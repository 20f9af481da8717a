"""Brings the public files that the chapters need into the layout of the data folder, each checked by its sha256.

A fetch that is cut or killed goes on where it stopped; a file that is already right is not touched; a file appears
only whole and checked. `sources.csv` says what comes from where, under which licence, and travels with the data.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, urlsplit

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.data.difficulty import as_csv
from repro.data.download import ATTEMPTS, PAUSE, TIMEOUT, Gone, discard, download, size, writing
from repro.data.hub import hub_file
from repro.data.reading import unpack
from repro.data.sources import Source, check, derived_difficulty, sources

GITHUB = "https://raw.githubusercontent.com"  # {base}/{repo}/{commit}/{path} is a file at a pinned commit
MARGIN = 2 * 2**20  # bytes a source may be larger than announced before it is refused


class Altered(DataError):
    """What arrived is not the pinned file; others may still be had."""


@dataclass(frozen=True)
class Fetched:
    """One file's outcome: already here, fetched, derived, not derived or not on the hub; bytes on disk."""

    file: str
    outcome: str
    bytes: int


@dataclass(frozen=True)
class FetchReport:
    """What a fetch did, file by file."""

    folder: Path
    files: tuple[Fetched, ...]

    def count(self, outcome: str) -> int:
        """Files with that outcome."""
        return sum(each.outcome == outcome for each in self.files)

    def summary(self) -> str:
        """One line: how many files of each outcome, and the folder."""
        outcomes = dict.fromkeys(each.outcome for each in self.files)
        return f"{self.folder}: " + ", ".join(f"{self.count(outcome)} {outcome}" for outcome in outcomes)


@dataclass(frozen=True)
class Line:
    """How to reach the sources: base address, or the hub; patience."""

    base_url: str = GITHUB
    from_hub: bool = False
    attempts: int = ATTEMPTS
    pause: float = PAUSE
    timeout: float = TIMEOUT


def fetch(
    folder: Path | str,
    names: Iterable[str] | None = None,
    *,
    base_url: str = GITHUB,
    from_hub: bool = False,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
    timeout: float = TIMEOUT,
) -> FetchReport:
    """Brings the named sets (all by default) into `folder`, from their pinned repositories or from the hub.

    attempts, pause, timeout: tries without progress, first pause (s), silence tolerated (s). Raises SettingsError
    for an unknown name or address, MissingInput if a source cannot be reached or is gone, DataError for altered
    bytes, no space or no permission. A bad file does not keep the others from being fetched.
    """
    if urlsplit(base_url).scheme not in ("http", "https"):
        raise SettingsError(f"{base_url!r} is no http address", where="base_url", fix=f"leave it out for {GITHUB}")
    folder, wanted = Path(folder), sources(names)
    line = Line(base_url, from_hub, attempts, pause, timeout)
    lacking = [each for each in wanted if check(folder, each)[0] != "present"]
    if lacking:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        _need_space(folder, lacking)
        outcomes = _locked(folder, lambda: _fetch_all(folder, lacking, line, explicit=names is not None))
    else:
        outcomes = {}
    done = [(each.file, outcomes.get(each.file, "already here")) for each in wanted]
    return FetchReport(folder, tuple(Fetched(file, outcome, size(folder / file)) for file, outcome in done))


def _need_space(folder: Path, lacking: list[Source]) -> None:
    needed = sum(each.download_bytes + each.bytes for each in lacking)  # more than is kept: room for the parts
    free = shutil.disk_usage(folder).free
    if free < needed:
        what = f"no space is left: {free / 2**20:.0f} MiB are free, {needed / 2**20:.0f} MiB are needed"
        raise DataError(what, where=folder, fix="free some space, or choose another folder (REPRO_DATA)")


def _locked(folder: Path, work: Callable[[], dict[str, str]]) -> dict[str, str]:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".fetch.lock", timeout=0)
    with writing(folder):
        try:
            lock.acquire()
        except Timeout as problem:  # an OSError too, hence inside
            raise DataError("another fetch is at work here", where=folder, fix="wait for it to end") from problem
    try:
        return work()
    finally:
        lock.release()


def _fetch_all(folder: Path, lacking: list[Source], line: Line, explicit: bool) -> dict[str, str]:
    from tqdm.auto import tqdm  # chooses the notebook's widget or the terminal's bar: bytes, rate, time left

    outcomes: dict[str, str] = {}
    problems: list[DataError] = []
    _store(folder / "sources.csv", files("repro.data").joinpath("sources.csv").read_bytes())
    total, quiet = sum(each.download_bytes for each in lacking), bool(os.environ.get("REPRO_BATCH"))
    with tqdm(total=total, unit="B", unit_scale=True, desc="fetch", disable=quiet) as bar:
        for source in sorted(lacking, key=lambda each: each.form == "derived"):
            bar.set_postfix_str(source.file[-40:])
            try:
                outcomes[source.file] = _fetch_one(folder, source, line, bar.update, explicit)
            except (Altered, Gone) as problem:
                problems.append(problem)
            except MissingInput:
                if source.form != "derived" or not (problems or line.from_hub):
                    raise
                outcomes[source.file] = "not derived, its inputs are missing"
    if problems:
        rest = f"; {len(problems) - 1} more files failed, the others are in place" if problems[1:] else ""
        raise type(problems[0])(problems[0].what + rest, where=problems[0].where, fix=problems[0].fix)
    return outcomes


def _fetch_one(folder: Path, source: Source, line: Line, advance: Callable, explicit: bool) -> str:
    target = folder / source.file
    if source.form == "derived":
        _store(target, as_csv(derived_difficulty(folder)).encode())
        return "derived"
    if not line.from_hub:
        _from_repository(target, source, line, advance)
        return "fetched"
    if source.hub_id:
        found = hub_file(source.hub_id, source.hub_path).read_bytes()
        _store(target, checked(found, source, f"{source.hub_id} on the hub"))
        advance(source.download_bytes)
        return "fetched"
    if explicit:
        raise Gone("the hub does not have this file", where=source.file, fix="fetch it from its repository instead")
    return "not on the hub"


def _from_repository(target: Path, source: Source, line: Line, advance: Callable[[int], object]) -> None:
    url = "/".join([line.base_url.rstrip("/"), source.repo, source.commit, quote(source.path)])
    part = target.with_name(target.name + ".part")
    with writing(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    patience = {"attempts": line.attempts, "pause": line.pause, "timeout": line.timeout}
    resumed = size(part) > 0
    download(url, part, limit=source.download_bytes + MARGIN, advance=advance, **patience)
    try:
        content = checked(part.read_bytes(), source, url)
    except Altered:
        advance(-size(part))
        discard(part)
        if not resumed:
            raise
        # The old part may have come from another version of the file: once more, from the start.
        _from_repository(target, source, line, advance)
        return
    _store(target, content)
    discard(part)


def checked(body: bytes, source: Source, origin: str) -> bytes:
    """The bytes to keep for a downloaded body; raises Altered unless its content has the pinned sha256."""
    try:
        content, kept = _converted(body, source)
    except (ValueError, RecursionError) as problem:
        got = f"something that cannot be unpacked or converted ({problem})"
    else:
        digest = hashlib.sha256(content).hexdigest()
        if digest == source.sha256:
            return kept
        got = f"sha256 {digest} ({len(content)} bytes)"
    what = f"{source.file}: altered bytes: expected sha256 {source.sha256} ({source.bytes} bytes), got {got}"
    raise Altered(what, where=origin, fix="nothing was kept; check the base address, or fetch it from another network")


def _converted(body: bytes, source: Source) -> tuple[bytes, bytes]:
    """(content to check, bytes to keep) of a download, by the source's form; ValueError if it has another form."""
    if source.form == "same":
        content, whole = unpack(body, limit=source.bytes + MARGIN) if source.file.endswith(".gz") else (body, True)
        if not whole:
            raise ValueError("it is cut short")
        return content, body
    if source.form == "lines":
        rows = json.loads(body.decode("utf-8"))
        body = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
    return body, _packed(body)


def _packed(content: bytes) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=packed, mtime=0) as stream:  # no clock in it
        stream.write(content)
    return packed.getvalue()


def _store(target: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all, even through a crash."""
    unfinished = target.with_name(target.name + ".unfinished")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(unfinished, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, target)
