"""Several steps at once, each in a process of its own: how small models keep all cores busy.

The products of a model of a million parameters are too small to share out among threads, so two steps on a core each
are faster than one after the other on both. A process reads torch and transformers for seconds before its first step, so
it stays for the next ones, until the process that began it ends.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import Any

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.progress import note, progress

_POOLS: dict[int, ProcessPoolExecutor] = {}  # by the number of processes


def run_all(calls: Sequence[dict[str, Any]], workers: int | None = None) -> list[Artifact]:
    """`artifacts.run(**call)` of every call, in their order; those not there yet are made at once, one a core.

    A call that fails in its process is made again in this one, so that its error is raised here. Raises as
    `artifacts.run` does.
    """
    workers = workers or os.cpu_count() or 1
    missing = [call for call in calls if workers > 1 and not artifacts.known(**call)]
    if len(missing) > 1:
        with _processes(workers) as pool:
            _wait([_submitted(pool, artifacts.run, **call) for call in missing], "step")
    return [artifacts.run(**call) for call in calls]


def ahead(function: Callable[..., Any], calls: Sequence[tuple], workers: int | None = None) -> None:
    """Call `function(*arguments)` for each of the calls in processes of their own, for the artifacts that they leave.

    Their results are dropped: the caller then calls the function itself, one after the other as its algorithm reads, and
    finds every step done. One worker or one call has nothing to gain, and nothing happens; a call that fails here will
    fail there, where its error can be raised. function, arguments: what another process can import and be sent.
    """
    workers = workers or os.cpu_count() or 1
    if min(workers, len(calls)) < 2:
        return
    with _processes(workers) as pool:
        _wait([_submitted(pool, function, *arguments) for arguments in calls], "run")


def _submitted(pool: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any, **words: Any) -> Future:
    """The call in a process of the pool, in this process's own environment: the pool may be older than a change of it."""
    return pool.submit(_call, {**os.environ, "REPRO_BATCH": "1"}, function, arguments, words)  # one bar, not one each


def _call(environment: dict[str, str], function: Callable[..., Any], arguments: tuple, words: dict[str, Any]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    function(*arguments, **words)


def _wait(futures: Sequence[Future], what: str) -> None:
    """Until all are done, with a bar; one that failed is named, and left to who needs it."""
    for future in progress(as_completed(futures), total=len(futures), label=f"{what}s at once", at_once=True):
        if error := future.exception():
            note(f"again     a {what} failed beside others ({type(error).__name__}); it is made alone")
            if isinstance(error, BrokenProcessPool):  # a process was killed, perhaps for its memory
                _POOLS.clear()


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """The pool of so many processes, which ends at once when this process is interrupted.

    Spawned, for a fork would inherit torch's threads; no more of them begin than have something to do.
    """
    pool = _POOLS.get(workers) or ProcessPoolExecutor(workers, get_context("spawn"), _end_with, (os.getpid(),))
    _POOLS[workers] = pool
    try:
        yield pool
    except BaseException:
        _POOLS.clear()
        for child in active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)
        raise


def _end_with(parent: int) -> None:
    """End this process as soon as the one that began it is gone: a killed run leaves nothing behind.

    An interrupt reaches all processes of a terminal or kernel; what it means is for the one that began this to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
