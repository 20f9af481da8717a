"""Steps for test_core_parallel: a process of its own must be able to import them."""

import os
import time

from repro.core import artifacts
from repro.core.artifacts import Job
from repro.core.errors import DataError


def named(job: Job) -> None:
    """Writes its setting and the process it ran in."""
    (job.out / "answer.txt").write_text(f"{job.settings.value} {os.getpid()}")


def refused(job: Job) -> None:
    """Fails, as a step does on bad data."""
    raise DataError("on purpose", where=f"value {job.settings.value}", fix="none")


def follow(*values: object) -> None:
    """A run of several steps, one after the other; "refuse" is one that fails."""
    for value in values:
        artifacts.run(refused if value == "refuse" else named, settings={"value": value}, seed=0)


def slow(job: Job) -> None:
    """Takes a minute: long enough to be interrupted."""
    time.sleep(60)
