"""A file of labels that outlives kernels, windows and full disks.

Line: {"prompt": "How many …", "first": "57.", "second": "58.", "label": "first", "annotator": "one", "seconds": 6.1,
"time": "2025-01-31T09:00:00+00:00"}; first is what was shown as A. Lines are only ever appended: an undo is a line too.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from repro.core.errors import ArtifactError, DataError
from repro.core.progress import note
from repro.judges.human import Label, Standing

PATIENCE = 20.0  # seconds to wait for another writer of the file


class LabelsFile:
    """Labels on disk, shared by any number of people and kernels; `standing` is what holds of it.

    A last line that was cut short is set aside in a file beside it (.torn); a line that is no label stays where it is,
    is counted and not used. Raises DataError for a CSV file, ArtifactError if the folder cannot be made or read.
    """

    def __init__(self, file: Path):
        self.file, self.messages = Path(file), []
        if self.file.suffix == ".csv":
            raise DataError("labels are appended as JSON lines", where=file, fix="name a file that ends in .jsonl")
        self._threads, self._lock = threading.RLock(), FileLock(f"{self.file}.lock", timeout=PATIENCE)
        self._start_over()
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"no folder for labels: {error}", where=file, fix="name another file") from error
        with self.held():
            pass

    def _start_over(self) -> None:
        self.standing, self._read, self._lines = Standing(), 0, 0

    def tell(self, line: str) -> None:
        """Say a line and keep it for whoever shows the session."""
        self.messages.append(line)
        note(line)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes meanwhile, and what others wrote before is known. Raises ArtifactError."""
        try:
            with self._threads, self._lock:
                self._refresh()
                yield
        except Timeout as error:
            fix = "close the other window or run that holds it, then try again"
            raise ArtifactError(f"in use for more than {PATIENCE:.0f} seconds", where=self.file, fix=fix) from error
        except OSError as error:
            fix = "free space or correct permissions, then try again: what was saved is safe"
            raise ArtifactError(f"labels cannot be saved: {error}", where=self.file, fix=fix) from error

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and force them to the disk. To be called while the file is held."""
        body = b"".join(json.dumps(row, allow_nan=False).encode("ascii") + b"\n" for row in rows)
        try:
            with self.file.open("ab") as end:
                end.write(body)
                end.flush()
                os.fsync(end.fileno())
        except OSError:
            with suppress(OSError):  # what is not surely saved will be asked again, so it must not stand there
                os.truncate(self.file, self._read)
            raise
        self._refresh()

    def add(self, labels: Sequence[Label]) -> None:
        """Append labels from elsewhere, such as another tool's export. Raises ArtifactError."""
        with self.held():
            self.append([label.row() for label in labels])

    def _refresh(self) -> None:
        size = self.file.stat().st_size if self.file.exists() else 0
        if size < self._read:
            self.tell(f"{self.file}: shorter than before; read from its beginning")
            self._start_over()
        if size == self._read:
            return
        with self.file.open("rb") as lines:
            lines.seek(self._read)
            *whole, torn = lines.read().split(b"\n")
        for line in whole:
            self._believe(line)
        self._read += sum(len(line) + 1 for line in whole)
        if torn:
            self._mend(torn)

    def _believe(self, line: bytes) -> None:
        self._lines += 1
        if not line.strip():
            return
        try:
            self.standing.add(Label.of(json.loads(line.decode("utf-8-sig"))))
        except ValueError as error:
            self.tell(f"{self.file}, line {self._lines}: not a label, not used ({error})")

    def _mend(self, torn: bytes) -> None:
        """A last line without its end: its writer is dead, or we would not hold the lock."""
        try:
            Label.of(json.loads(torn.decode("utf-8-sig")))
        except ValueError:
            with self.file.with_suffix(".torn").open("ab") as aside:
                aside.write(torn + b"\n")
            os.truncate(self.file, self._read)
            self.tell(f"{self.file}: the last line was cut short; it is set aside, and its pair comes again")
        else:  # whole, only the line break is missing
            with self.file.open("ab") as end:
                end.write(b"\n")
            self._believe(torn)
            self._read += len(torn) + 1
