"""Answers kept by the content of their request, so that a run that dies asks nothing twice.

Line: {"request": {"model": …, "messages": […], …}, "repeat": 0, "answer": {"text": …, …}, "check": "9f…"}.
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from repro.core.errors import ArtifactError
from repro.core.progress import note


@dataclass(frozen=True)
class Answer:
    """A reply. top: [token, log-probability] of the first token's candidates; tokens: None where the server counts none."""

    text: str
    top: list[list[Any]] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def digest(content: Any) -> str:
    """sha256 of JSON content in its canonical form: keys sorted, no spaces, ASCII. Raises ValueError for nan."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class Record:
    """The answers of a folder, by key; threads and processes may share it. Only whole, checked lines are believed."""

    def __init__(self, folder: Path, *, only_read: bool = False):
        self.file, self.answers = Path(folder) / "answers.jsonl", {}
        self._read, self._threads, self._processes = 0, threading.RLock(), FileLock(f"{self.file}.lock")
        if not only_read:
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ArtifactError(f"no folder for the record: {error}", where=folder, fix="name another") from error
            with self._threads, self._processes:
                self.refresh(mend=True)

    def refresh(self, *, mend: bool = False) -> None:
        """Read the lines added since the last look; mend (under the lock): set a torn last line aside."""
        with self._threads:
            if not self.file.exists() or self.file.stat().st_size == self._read:
                return
            with self.file.open("rb") as lines:
                lines.seek(self._read)
                *whole, torn = lines.read().split(b"\n")
            for line in whole:
                self._believe(line)
            self._read += sum(len(line) + 1 for line in whole)
            if torn and mend:  # its writer is dead, or we would not hold the lock
                with self.file.with_suffix(".torn").open("ab") as aside:
                    aside.write(torn + b"\n")
                os.truncate(self.file, self._read)
                note(f"{self.file}: the last line was cut short; it is set aside and its request asked again")

    def _believe(self, line: bytes) -> None:
        try:
            entry = json.loads(line)
            if entry.pop("check") != digest(entry):
                raise ValueError("its check does not match")
            answer = Answer(**entry.pop("answer"))
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            note(f"{self.file}: a damaged line is not used ({error})")
        else:
            self.answers.setdefault(digest(entry), answer)

    def add(self, request: Mapping[str, Any], repeat: int, answer: Answer) -> None:
        """Append one answer and force it to the disk. Raises ArtifactError if it cannot be written."""
        entry = {"request": request, "repeat": repeat}
        line = entry | {"answer": asdict(answer)}
        try:
            with self._threads, self._processes:
                self.refresh(mend=True)
                with self.file.open("ab") as end:
                    end.write(json.dumps(line | {"check": digest(line)}).encode("ascii") + b"\n")
                    end.flush()
                    os.fsync(end.fileno())
                    self._read = end.tell()
                self.answers.setdefault(digest(entry), answer)  # of two processes' answers the earlier line holds
        except OSError as error:
            fix = "free space or correct permissions, then run again: what is recorded is not asked again"
            raise ArtifactError(f"cannot be written: {error}", where=self.file, fix=fix) from error
