"""Random signs that keep angles: gradients of any length to d numbers, the signs never in memory at once.

The sign of weight p and dimension j is bit j mod 64 of the p-th word of a Philox stream whose key is (seed, j div 64).
Any part of the matrix can so be made by itself, in any order, the same on every machine: a projection depends on its
seed alone, and its first 512 dimensions are the projection to 512.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from repro.core.errors import SettingsError

WORD = 64  # signs of one draw
ALIGNED = 4  # words of one step of Philox' counter: blocks begin at multiples of it
SIGNS_AT_ONCE = 2**22  # 16 MiB as floats


@dataclass(frozen=True)
class Projection:
    """Π of p3.eq10 and p3.eq11, Rademacher signs (weights, dimension), given by its seed.

    rows_at_once: weights of one block, memory and speed only. Raises SettingsError if the dimension or the rows are not
    above 0 or the seed is negative.
    """

    dimension: int
    seed: int = 0
    rows_at_once: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("dimension", self.dimension, 1), ("seed", self.seed, 0)):
            if not isinstance(value, int) or value < least:
                raise SettingsError(f"{value!r}", where=f"projection {name}", fix=f"a whole number, {least} or more")
        if self.rows_at_once is not None and self.rows_at_once < 1:
            raise SettingsError(f"{self.rows_at_once}", where="projection rows_at_once", fix="1 or more")

    def project(self, rows: Tensor) -> Tensor:
        """Π^T of every row, (n, dimension), scaled by dimension^-1/2 so that products keep their size.

        rows: (n, weights). The printed Π has no scale; a cosine does not see it.
        """
        groups = math.ceil(self.dimension / WORD)
        found = torch.zeros(groups, len(rows), WORD, dtype=rows.dtype, device=rows.device)
        for start, signs in self._blocks(rows.shape[1]):
            found += rows[:, start : start + signs.shape[1]] @ signs.to(rows)
        return found.transpose(0, 1).flatten(1)[:, : self.dimension] / math.sqrt(self.dimension)

    def signs(self, start: int, stop: int) -> Tensor:
        """Rows start to stop of Π, (stop - start, dimension), each +1 or -1: for looking at, never needed whole."""
        before = start % ALIGNED
        tiles = _tiles(self.seed, math.ceil(self.dimension / WORD), start - before, stop - start + before)
        return tiles[:, before:].transpose(0, 1).flatten(1)[:, : self.dimension]

    def _blocks(self, weights: int) -> Iterator[tuple[int, Tensor]]:
        """First row and signs (groups, rows, 64) of one block after the other."""
        groups = math.ceil(self.dimension / WORD)
        size = self.rows_at_once or max(1, SIGNS_AT_ONCE // (groups * WORD))
        size = ALIGNED * math.ceil(size / ALIGNED)
        for start in range(0, weights, size):
            yield start, _tiles(self.seed, groups, start, min(size, weights - start))


def _tiles(seed: int, groups: int, start: int, rows: int) -> Tensor:
    """(groups, rows, 64) signs of rows from `start`, a multiple of ALIGNED."""
    words = np.empty((groups, rows), dtype="<u8")
    for group in range(groups):
        stream = np.random.Philox(key=np.array([seed, group], dtype=np.uint64), counter=start // ALIGNED)
        words[group] = stream.random_raw(rows)
    signs = np.take(_table(), words.view(np.uint8).ravel(), axis=0)
    return torch.from_numpy(signs.reshape(groups, rows, WORD))


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """(256, 8) the signs that a byte's bits stand for, lowest bit first: 0 is -1."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return 2.0 * bits.astype(np.float32) - 1.0


def cosine_deviation(cosines: Tensor, dimension: int) -> Tensor:
    """Standard deviation of a projected cosine about the exact one, (...), to leading order: (1 - c²) / sqrt(d).

    cosines: (...) exact ones. This is the Johnson-Lindenstrauss promise in numbers, for vectors that no few weights
    dominate: twice it either way holds about 95 of 100 projected cosines.
    """
    return (1 - cosines.square()) / math.sqrt(dimension)


def expected_correlation(cosines: Tensor, dimension: int) -> float:
    """Correlation of projected with exact cosines over samples, where `cosine_deviation` is all that parts them.

    cosines: (samples,) exact ones, not all equal.
    """
    spread, error = cosines.var(unbiased=False), cosine_deviation(cosines, dimension).square().mean()
    return float((spread / (spread + error)).sqrt())
