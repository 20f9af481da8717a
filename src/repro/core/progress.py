"""One way to say how far a long step is and how long it will still take."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

Item = TypeVar("Item")
PATIENCE = 1.0  # seconds without a bar


def progress(
    items: Iterable[Item], total: int | None = None, label: str = "", *, at_once: bool = False
) -> Iterator[Item]:
    """Yield the items behind a bar with count, rate and time left, which comes once a second has passed.

    Hundreds of bars that flash by tell nothing, and each costs a notebook a dozen messages. at_once: show it from the
    start, for few items that each take long. In a batch run (REPRO_BATCH set) no bar: the runner shows its own.
    """
    if os.environ.get("REPRO_BATCH"):
        yield from items
        return
    total = len(items) if total is None and isinstance(items, Sized) else total
    bar, started = _bar(total, label, 0) if at_once else None, time.monotonic()
    try:
        for done, item in enumerate(items, 1):
            yield item
            if bar is not None:
                bar.update()
            elif time.monotonic() - started > PATIENCE:
                bar = _bar(total, label, done)
    finally:
        if bar is not None:
            bar.close()


def _bar(total: int | None, label: str, done: int) -> "tqdm":
    from tqdm.auto import tqdm  # chooses the notebook's widget or the terminal's bar

    return tqdm(total=total, initial=done, desc=label, leave=False)


def note(line: str) -> None:
    """Say one line to whoever watches: the cell's output in a notebook, the terminal elsewhere."""
    print(line, flush=True, file=sys.stdout)
