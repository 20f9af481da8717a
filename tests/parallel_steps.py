"""Steps for test_core_parallel: a process of its own must be able to import them."""

import os
import signal
import time
from multiprocessing import parent_process

from repro.core import artifacts
from repro.core.artifacts import Job
from repro.core.errors import DataError


def named(job: Job) -> None:
    """Writes its setting and the process it ran in."""
    (job.out / "answer.txt").write_text(f"{job.settings.value} {os.getpid()}")


def refused(job: Job) -> None:
    """Fails, as a step does on bad data."""
    raise DataError("on purpose", where=f"value {job.settings.value}", fix="none")


def killed(job: Job) -> None:
    """Ends a process beside others, as the system does when memory runs out; writes where it survives."""
    if parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    (job.out / "answer.txt").write_text(str(os.getpid()))


def follow(*values: object) -> None:
    """A run of several steps, one after the other; "refuse" is one that fails."""
    for value in values:
        artifacts.run(refused if value == "refuse" else named, settings={"value": value}, seed=0)


def slow(job: Job) -> None:
    """Takes a minute: long enough to be interrupted."""
    (job.out / "began").touch()
    time.sleep(60)
