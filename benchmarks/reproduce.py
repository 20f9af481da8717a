"""`make reproduce` at the laptop tier: cold, then warm with nothing changed; seconds, and memory over all processes.

Artifacts go to a folder of their own, so that cold is cold; installing the environment does not count.
"""

import os
import re
import subprocess
import sys
import tempfile
import time

from benchmarks.harness import Benchmark

COLD, WARM, MEMORY = 600.0, 20.0, 8.0  # seconds, seconds, GiB


def _run(folder: str) -> tuple[float, float | None]:
    """Seconds of one run, and the peak memory that it prints, in GiB; none where nothing had to run."""
    command = [sys.executable, "-m", "repro.cli", "run", "--tier", "laptop", "--seeds", "0-2"]
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "REPRO_RUNS": folder}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"the run ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    peak = re.search(r"peak memory, all processes: ([\d,]+) MiB", done.stdout)
    return seconds, float(peak[1].replace(",", "")) / 1024 if peak else None


def bench() -> list[Benchmark]:
    """Cold and warm seconds and peak memory, each against its limit, which stands in the plain column."""
    with tempfile.TemporaryDirectory() as folder:
        cold, memory = _run(folder)
        warm, _ = _run(folder)
    return [
        Benchmark("make reproduce, cold, 3 seeds", cold, COLD, "s", f"under {COLD:g} s", cold < COLD),
        Benchmark("make reproduce, warm", warm, WARM, "s", f"under {WARM:g} s", warm < WARM),
        Benchmark("make reproduce, memory", memory, MEMORY, "GiB", f"under {MEMORY:g} GiB", memory < MEMORY),
    ]
