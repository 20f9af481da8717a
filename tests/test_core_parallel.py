"""Steps at once give what they give one after the other, in processes of their own, and their errors come back."""

import os
import signal
import threading
import time
from multiprocessing import active_children

import pytest

from repro.core import artifacts
from repro.core.errors import DataError
from repro.core.parallel import ahead, run_all
from tests import parallel_steps


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))


def calls(step, *values):
    return [{"step": step, "settings": {"value": value}, "seed": 0} for value in values]


def test_order_results_and_processes():
    found = run_all(calls(parallel_steps.named, 3, 1, 2), workers=2)
    said = [(each / "answer.txt").read_text().split() for each in found]
    assert [value for value, _ in said] == ["3", "1", "2"]
    assert str(os.getpid()) not in {process for _, process in said}
    again = run_all(calls(parallel_steps.named, 3, 1, 2), workers=2)
    assert [each.digest for each in again] == [each.digest for each in found]


def test_one_that_is_missing_is_made_here_and_one_worker_needs_no_process():
    run_all(calls(parallel_steps.named, 1), workers=2)
    one, two = run_all(calls(parallel_steps.named, 1, 2), workers=2)
    alone = run_all(calls(parallel_steps.named, 4, 5), workers=1)
    assert {(each / "answer.txt").read_text().split()[1] for each in (one, two, *alone)} == {str(os.getpid())}


def test_an_error_is_raised_here_and_the_others_stay():
    with pytest.raises(DataError, match="on purpose"):
        run_all([*calls(parallel_steps.named, 1), *calls(parallel_steps.refused, 2)], workers=2)
    assert artifacts.known(**calls(parallel_steps.named, 1)[0])
    assert not artifacts.known(**calls(parallel_steps.refused, 2)[0])


def test_runs_ahead_leave_what_the_caller_then_finds(runs):
    ahead(parallel_steps.follow, [(1, 2), (2, 3)], workers=2)
    made = {value: artifacts.run(**calls(parallel_steps.named, value)[0]) for value in (1, 2, 3)}
    by = {value: (each / "answer.txt").read_text().split()[1] for value, each in made.items()}
    assert str(os.getpid()) not in by.values() and by[1] != by[3]


def test_one_worker_or_one_call_does_nothing_and_a_failure_is_left_to_the_caller():
    ahead(parallel_steps.follow, [(1, 2), (2, 3)], workers=1)
    ahead(parallel_steps.follow, [(1, 2)], workers=2)
    assert not artifacts.known(**calls(parallel_steps.named, 1)[0])
    ahead(parallel_steps.follow, [(1, 4), (2, "refuse")], workers=2)
    assert artifacts.known(**calls(parallel_steps.named, 4)[0]) and artifacts.known(**calls(parallel_steps.named, 2)[0])
    with pytest.raises(DataError, match="on purpose"):
        parallel_steps.follow(2, "refuse")


def test_processes_stay_for_the_next_steps_in_the_environment_of_now(tmp_path, monkeypatch):
    first = run_all(calls(parallel_steps.named, 1, 2), workers=2)
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "elsewhere"))
    again = run_all(calls(parallel_steps.named, 1, 2, 3), workers=2)
    assert all(each.path.is_relative_to(tmp_path / "elsewhere") for each in again)
    by = [{(each / "answer.txt").read_text().split()[1] for each in found} for found in (first, again)]
    assert by[0] & by[1] and len(active_children()) <= 2


def test_a_process_that_was_killed_is_replaced():
    found = run_all(
        calls(parallel_steps.killed, 1, 2), workers=2
    )  # each dies in a process of its own, and is made here
    assert {(each / "answer.txt").read_text() for each in found} == {str(os.getpid())}
    after = run_all(calls(parallel_steps.named, 1, 2), workers=2)
    assert str(os.getpid()) not in {(each / "answer.txt").read_text().split()[1] for each in after}


def test_an_interrupt_ends_the_processes_too(runs, tmp_path):
    def interrupt():
        while not list(tmp_path.glob("**/began")):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    began = time.monotonic()
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_all(calls(parallel_steps.slow, 1, 2), workers=2)
    assert time.monotonic() - began < 30 and not active_children()
