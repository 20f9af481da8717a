"""Several steps at once, each in a process of its own: how small models keep all cores busy.

The products of a model of a million parameters are too small to share out among threads, so two steps on a core each
are faster than one after the other on both.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.progress import note, progress


def run_all(calls: Sequence[dict[str, Any]], workers: int | None = None) -> list[Artifact]:
    """`artifacts.run(**call)` of every call, in their order; those not there yet are made at once, one a core.

    A call that fails in its process is made again in this one, so that its error is raised here. Raises as
    `artifacts.run` does.
    """
    workers = min(workers or os.cpu_count() or 1, len(calls))
    missing = [call for call in calls if workers > 1 and not artifacts.known(**call)]
    if len(missing) > 1:
        with _processes(workers) as pool:
            futures = [pool.submit(_make, call) for call in missing]
            for future in progress(as_completed(futures), total=len(futures), label="steps at once", at_once=True):
                if error := future.exception():
                    note(f"again     a step failed beside others ({type(error).__name__}); it is made alone")
    return [artifacts.run(**call) for call in calls]


def _make(call: dict[str, Any]) -> None:
    os.environ["REPRO_BATCH"] = "1"  # one bar for all, not one each
    artifacts.run(**call)


def ahead(function: Callable[..., Any], calls: Sequence[tuple], workers: int | None = None) -> None:
    """Call `function(*arguments)` for each of the calls in processes of their own, for the artifacts that they leave.

    Their results are dropped: the caller then calls the function itself, one after the other as its algorithm reads, and
    finds every step done. One worker or one call has nothing to gain, and nothing happens; a call that fails here will
    fail there, where its error can be raised. function, arguments: what another process can import and be sent.
    """
    workers = min(workers or os.cpu_count() or 1, len(calls))
    if workers < 2:
        return
    with _processes(workers) as pool:
        futures = [pool.submit(_call, function, arguments) for arguments in calls]
        for future in progress(as_completed(futures), total=len(futures), label="runs at once", at_once=True):
            if error := future.exception():
                note(f"again     a run failed beside others ({type(error).__name__}); it goes on alone")


def _call(function: Callable[..., Any], arguments: tuple) -> None:
    os.environ["REPRO_BATCH"] = "1"  # one bar for all, not one each
    function(*arguments)


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that ends at once when this process is interrupted; spawned, for a fork would inherit torch's threads."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with, (os.getpid(),))
    try:
        yield pool
    except BaseException:
        for child in active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
    """End this process as soon as the one that began it is gone: a killed run leaves nothing behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
