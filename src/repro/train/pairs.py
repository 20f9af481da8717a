"""Which pairs a reward model is trained on: folds by prompt, shuffled labels, and a chosen share of longer winners."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repro.core.errors import DataError
from repro.data.schema import Pair


def shuffle_labels(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """Each pair with its label redrawn by a fair coin: the null that keeps prompts, answers and their lengths."""
    flips = np.random.default_rng(seed).random(len(pairs)) < 0.5
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if flip else pair
        for pair, flip in zip(pairs, flips, strict=True)
    ]


def longer_share(pairs: Sequence[Pair]) -> float:
    """Share of pairs whose chosen answer has more characters, among those that differ in length.

    Raises DataError if none does.
    """
    longer, shorter = _by_length(pairs)
    if not len(longer) + len(shorter):
        raise DataError("no pair differs in length", where="longer_share", fix="check that the answers were read")
    return len(longer) / (len(longer) + len(shorter))


def balance_length(pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """As many longer-chosen as shorter-chosen pairs: the larger group is sampled down, equal lengths are dropped.

    Raises DataError if either group is empty.
    """
    longer, shorter = _by_length(pairs)
    return with_longer_share(pairs, 0.5, 2 * min(len(longer), len(shorter)), seed)


def with_longer_share(pairs: Sequence[Pair], share: float, count: int, seed: int) -> list[Pair]:
    """`count` pairs, in their order, of which round(share x count) have the longer answer chosen (p2.fig3's biases).

    Nothing is relabelled: groups are sampled without replacement. Raises DataError if a group is too small.
    """
    longer, shorter = _by_length(pairs)
    wanted = round(share * count)
    if count < 1 or wanted > len(longer) or count - wanted > len(shorter):
        raise DataError(
            f"{count} pairs with {share:.0%} longer winners from {len(longer)} longer and {len(shorter)} shorter",
            where="with_longer_share",
            fix="ask for fewer pairs or another share",
        )
    rng = np.random.default_rng(seed)
    picked = [rng.choice(longer, wanted, replace=False), rng.choice(shorter, count - wanted, replace=False)]
    return [pairs[place] for place in np.sort(np.concatenate(picked)).astype(int)]


def sample_pairs(pairs: Sequence[Pair], count: int | None, seed: int) -> list[Pair]:
    """At most `count` pairs drawn without replacement, in their order; all of them if count is None."""
    if count is None or count >= len(pairs):
        return list(pairs)
    return [pairs[place] for place in np.sort(np.random.default_rng(seed).choice(len(pairs), count, replace=False))]


def prompt_folds(prompt_ids: Sequence[str], folds: int, seed: int) -> np.ndarray:
    """Fold (0..folds-1) of each row, (rows,): rows that share a prompt share a fold, folds differ by a prompt at most.

    Raises DataError if there are fewer prompts than folds.
    """
    distinct, place = np.unique(np.asarray(prompt_ids), return_inverse=True)
    if len(distinct) < folds:
        raise DataError(f"{len(distinct)} prompts for {folds} folds", where="prompt_folds", fix="use fewer folds")
    return (np.random.default_rng(seed).permutation(len(distinct)) % folds)[place]


def _by_length(pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pairs whose chosen answer is longer, and of those whose chosen answer is shorter."""
    difference = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs])
    return np.flatnonzero(difference > 0), np.flatnonzero(difference < 0)
