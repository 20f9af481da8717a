"""Best-of-n of 50 prompts x 12,600 answers (the pool of Coste et al. 2310.02743) at 16 values of n.

Plain: a big-integer combination per rank and n, as the formula is printed. Ours: the float recurrence, every n at once.
Before the clock starts, ours must agree with exact integers to 1e-12.
"""

import math

import numpy as np

from benchmarks.harness import Benchmark, compare, within
from repro.evaluate.best_of_n import best_of_n_curve, best_of_n_weights

PROMPTS, POOL = 50, 12_600
NS = [2**power for power in range(14)] + [10_000, POOL]
LIMIT = 0.020  # seconds, all 16 values of n
RATIO = 1000  # the weights of n = 512 alone; sorting the answers costs both ways the same


def _exact_weights(n: int) -> np.ndarray:
    """C(i-1, n-1) / C(N, n) with exact integers, rounded once, for i = 1..N."""
    weights, total, count = np.zeros(POOL), math.comb(POOL, n), 1
    for i in range(n, POOL + 1):
        weights[i - 1] = count / total
        count = count * i // (i - n + 1)  # C(i, n-1), exact
    return weights


def _printed_weights(n: int) -> np.ndarray:
    total = math.comb(POOL, n)
    return np.array([math.comb(i - 1, n - 1) / total for i in range(1, POOL + 1)])


def bench() -> list[Benchmark]:
    """Raises AssertionError if any of the 800 curve values is off by 1e-12 relative to the values' scale."""
    rng = np.random.default_rng(0)
    proxy = rng.normal(size=(PROMPTS, POOL))
    value = 0.7 * proxy + rng.normal(size=(PROMPTS, POOL))
    ranked = np.take_along_axis(value, np.argsort(proxy, axis=1), axis=1)
    exact = np.stack([ranked @ _exact_weights(n) for n in NS], axis=1)
    assert np.abs(best_of_n_curve(proxy, value, NS) - exact).max() < 1e-12, "differs from the big-integer formula"
    return [
        within("best-of-n, 50 x 12,600 answers, 16 values of n", lambda: best_of_n_curve(proxy, value, NS), LIMIT),
        compare(
            "weights of 12,600 ranks at n = 512",
            lambda: best_of_n_weights(POOL, [512]),
            lambda: _printed_weights(512),
            repeats=3,
            target_ratio=RATIO,
        ),
    ]
