"""One way to say how far a long step is and how long it will still take."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int | None = None, label: str = "") -> Iterator[Item]:
    """Yield the items behind a bar with count, rate and time left.

    In a batch run (REPRO_BATCH set) the bar stays out of the page: the runner shows its own.
    """
    from tqdm.auto import tqdm  # chooses the notebook's widget or the terminal's bar

    yield from tqdm(items, total=total, desc=label, leave=False, disable=bool(os.environ.get("REPRO_BATCH")))


def note(line: str) -> None:
    """Say one line to whoever watches: the cell's output in a notebook, the terminal elsewhere."""
    print(line, flush=True, file=sys.stdout)
