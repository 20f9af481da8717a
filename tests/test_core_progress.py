"""A bar for what takes long, none for what flashes by, and none in a batch."""

import pytest

from repro.core import progress as module
from repro.core.progress import progress


@pytest.fixture
def bars(monkeypatch):
    """The bars that were made: (total, label, items done before)."""
    made = []

    class Bar(list):
        def update(self):
            self.append(1)

        def close(self):
            self.append("closed")

    def bar(total, label, done):
        made.append((total, label, done, found := Bar()))
        return found

    monkeypatch.setattr(module, "_bar", bar)
    monkeypatch.delenv("REPRO_BATCH", raising=False)
    return made


def test_quick_items_have_none_and_all_come(bars):
    assert list(progress(range(5), label="quick")) == [0, 1, 2, 3, 4] and bars == []


def test_after_a_second_one_goes_on_from_there(bars, monkeypatch):
    times = iter([0.0, 0.4, 1.2, 5.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    assert list(progress(range(4), label="slow")) == [0, 1, 2, 3]
    assert bars == [(4, "slow", 2, [1, 1, "closed"])]


def test_at_once_and_closed_when_the_reader_stops(bars):
    for item in progress(iter("abc"), 3, "few", at_once=True):
        if item == "b":
            break
    assert bars == [(3, "few", 0, [1, "closed"])]


def test_a_batch_has_none(bars, monkeypatch):
    monkeypatch.setenv("REPRO_BATCH", "1")
    assert list(progress("ab", at_once=True)) == ["a", "b"] and bars == []
