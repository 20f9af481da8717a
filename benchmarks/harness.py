"""Times our way of an expensive part against the plain way, in one run, and keeps the figures.

`python -m benchmarks.harness` runs every module of this folder that has `bench() -> list[Benchmark]`; a name as argument
runs only that one. Prints one line each and appends a record to `runs/records/benchmarks.jsonl`.
"""

import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from repro.core.paths import runs_folder

SHORTEST = 0.05  # seconds on the clock; calls shorter than that are repeated and averaged


class Benchmark(NamedTuple):
    """One comparison; ours and plain in `unit` (both the same), target in words, met: whether this run reached it."""

    name: str
    ours: float
    plain: float
    unit: str
    target: str
    met: bool


def _seconds(call: Callable[[], object], calls: int = 1) -> float:
    """Wall-clock seconds a call takes, averaged over several in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _calls(call: Callable[[], object]) -> int:
    """How many calls fill SHORTEST seconds; this first one also pays for imports and buffers."""
    return max(1, int(SHORTEST / max(_seconds(call), 1e-9)))


def compare(
    name: str, ours: Callable[[], object], plain: Callable[[], object], repeats: int = 5, target_ratio: float = 1.0
) -> Benchmark:
    """Median seconds of two calls, timed alternately so that a busy machine slows both; met if plain / ours >= target.

    Each is called once before the clock starts, and a short call is repeated until the clock can read it.
    """
    our_calls, plain_calls = _calls(ours), _calls(plain)
    times = [(_seconds(ours, our_calls), _seconds(plain, plain_calls)) for _ in range(repeats)]
    our_time, plain_time = (statistics.median(column) for column in zip(*times, strict=True))
    met = plain_time >= target_ratio * our_time
    return Benchmark(name, our_time, plain_time, "s", f"at least {target_ratio:g} times faster", met)


def within(name: str, ours: Callable[[], object], limit: float, repeats: int = 100) -> Benchmark:
    """Median seconds of several calls against a limit, which stands in the plain column."""
    ours()
    taken = statistics.median(_seconds(ours) for _ in range(repeats))
    return Benchmark(name, taken, limit, "s", f"under {limit:g} s", taken < limit)


def _machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}


def _write(results: list[Benchmark]) -> None:
    path = runs_folder() / "records" / "benchmarks.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **_machine()}
    with path.open("a") as file:
        for result in results:
            file.write(json.dumps({**result._asdict(), **stamp}) + "\n")


def modules() -> list[str]:
    """Names of the benchmark modules in this folder, in alphabetical order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("harness", "__init__"))


def main(only: str | None = None) -> int:
    """Run the benchmark modules, or one of them; print `name ours plain ratio target`, write the records.

    Returns the number of targets missed. Raises SystemExit if `only` names no module.
    """
    names = modules()
    if only is not None and only not in names:
        raise SystemExit(f"no benchmark {only}; there are: {', '.join(names)}")
    missed = 0
    for module in [only] if only else names:
        results = importlib.import_module(f"benchmarks.{module}").bench()
        for name, ours, plain, unit, target, met in results:
            verdict = "met" if met else "MISSED"
            print(
                f"{name:<52} {ours:>10.4g} {plain:>10.4g} {unit:<4} x{plain / ours:<9.3g} {target}: {verdict}",
                flush=True,
            )
        _write(results)
        missed += sum(not result.met for result in results)
    return missed


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1] if len(sys.argv) > 1 else None) else 0)
