"""p3.table1: how far people agree with a judge, and with each other, on the same comparisons.

The yardstick is another person: a judge can replace people where it agrees with them as they do among themselves. Raw
agreement stands beside Cohen's kappa, which takes off what chance would give, and beside picking the longer answer, which
reads nothing. Here are the measures; `papers.recorded_verdicts` and `papers.world_agreement` say who compared what.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import combinations

import numpy as np

from repro.core.records import Record, record
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.judges.human import Label

PERCENT = 100.0
LONGER = "the longer answer"
PERSON, TWO, LESS, NULL = "judge and a person", "two people", "judge less person", "longer and a person"
SHARES = (PERSON, TWO, LESS, NULL)
WORDS = {1.0: "first", 0.0: "second", 0.5: "tie"}
KINDS = 3  # of labels: one answer, a tie, the other
DRAWS = 1000


@dataclass(frozen=True)
class Compared:
    """One set: what everyone said of each pair, 1 (the first answer), 0, 0.5 for a tie, nan for nothing: (draws, pairs) by name.

    draws: seeds, where people were drawn anew; one for a public set. people, judges: names; the first judge is the one in
    GPT-4's place. groups: the prompt of each pair; texts: its two answers.
    """

    name: str
    said: dict[str, np.ndarray]
    people: tuple[str, ...]
    judges: tuple[str, ...]
    groups: list[str]
    texts: list[tuple[str, str]]

    def twos(self, who: str | None = None) -> list[tuple[str, str]]:
        """Each person beside `who`, or every two people."""
        return list(combinations(self.people, 2)) if who is None else [(who, person) for person in self.people]

    def same(self, who: str | None = None) -> np.ndarray:
        """Per pair of answers, the share of the twos that say the same of it, (draws, pairs); nan where no two spoke."""
        both = [(self.said[one], self.said[other]) for one, other in self.twos(who)]
        equal = [np.where(np.isnan(a) | np.isnan(b), np.nan, a == b) for a, b in both]
        found = np.array(equal, dtype=float).reshape(len(equal), *next(iter(self.said.values())).shape)
        count = np.isfinite(found).sum(0)
        return np.where(count > 0, np.nansum(found, axis=0) / np.maximum(count, 1), np.nan)

    def share(self, who: str | None = None) -> Interval | None:
        """Percent of equal labels, over prompts and draws; None where no two spoke of the same pair."""
        found = self.same(who)
        return mean_interval(found, groups=self.groups).scaled(PERCENT) if np.isfinite(found).any() else None

    def less_person(self, judge: str) -> Interval | None:
        """Points by which a person agrees with the judge more often than with another person, paired by comparison."""
        both = self.same(judge), self.same()
        if not np.isfinite(both[0] + both[1]).any():
            return None
        return difference_interval(*both, groups=self.groups).scaled(PERCENT)

    def kappa(self, who: str | None = None) -> Interval | None:
        """Mean Cohen's kappa over the twos, with its interval over prompts; None where chance alone would agree always."""
        return mean_kappa(self.tables(who))

    def tables(self, who: str | None = None) -> np.ndarray:
        """Counts of (one's label, the other's) by prompt: (prompts, twos, 3, 3); a hash of the texts says which answer is 0."""
        flipped = np.array([_hash(first) >= _hash(second) for first, second in self.texts])
        coded = {name: np.where(flipped, 1 - values, values) for name, values in self.said.items()}
        groups = np.unique(self.groups, return_inverse=True)[1]
        counts = [counted(coded[one], coded[other], groups) for one, other in self.twos(who)]
        return np.stack(counts, axis=1) if counts else np.zeros((1, 0, KINDS, KINDS))

    def without_ties(self) -> "Compared":
        """The same set, a tie as if nothing had been said."""
        said = {name: np.where(values == 0.5, np.nan, values) for name, values in self.said.items()}
        return replace(self, name=f"{self.name}, no ties", said=said)

    def labels(self, draw: int = 0) -> list[Label]:
        """One draw as `judges.agreement` reads it."""
        return [
            Label(self.groups[k], *self.texts[k], WORDS[float(value)], name)
            for name, values in self.said.items()
            for k, value in enumerate(values[draw])
            if not np.isnan(value)
        ]

    def measures(self) -> dict[str, Interval | None]:
        """The columns of p3.table1, in percent and points; None where nobody recorded it."""
        judge = self.judges[0] if self.judges else None
        with_judge = (self.share(judge), self.less_person(judge)) if judge else (None, None)
        return dict(zip(SHARES, (with_judge[0], self.share(), with_judge[1], self.share(LONGER)), strict=True))

    def kappas(self) -> dict[str, Interval | None]:
        """Kappa of a judge and a person for every judge, of two people, and of the longer answer and a person."""
        found = {f"{judge} and a person": self.kappa(judge) for judge in self.judges}
        return found | {TWO: self.kappa(), NULL: self.kappa(LONGER)}


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()


def counted(one: np.ndarray, other: np.ndarray, groups: np.ndarray, kinds: int = KINDS) -> np.ndarray:
    """How often (one's label, the other's) came up in each group: (groups, kinds, kinds).

    one, other: (draws, pairs), from 0 to 1 in `kinds` steps, nan where nothing was said; groups: (pairs,) from 0.
    """
    tables = np.zeros((groups.max() + 1, kinds, kinds))
    draw, pair = np.nonzero(~np.isnan(one) & ~np.isnan(other))
    codes = [np.rint((kinds - 1) * each[draw, pair]).astype(int) for each in (one, other)]
    np.add.at(tables, (groups[pair], *codes), 1)
    return tables


def kappas_of(tables: np.ndarray, quadratic: bool = False) -> np.ndarray:
    """Cohen's kappa of tables of counts, (...) from (..., k, k); nan where both gave one and the same label throughout.

    quadratic: weighted by squared distance (Cohen 1968), for levels, where next to equal is nearly equal.
    """
    places = np.arange(tables.shape[-1])
    apart = places[:, None] - places
    cost = apart**2 if quadratic else (apart != 0).astype(float)
    total = np.maximum(tables.sum((-2, -1)), 1)[..., None, None]
    chance = tables.sum(-1)[..., :, None] * tables.sum(-2)[..., None, :] / total
    seen, expected = (tables * cost).sum((-2, -1)), (chance * cost).sum((-2, -1))
    return np.where(expected > 0, 1 - seen / np.where(expected > 0, expected, 1), np.nan)


def mean_kappa(tables: np.ndarray, *, quadratic: bool = False, seed: int = 0) -> Interval | None:
    """Mean kappa over the twos with its 95% bootstrap interval over prompts; None where it is not defined.

    tables: (prompts, twos, k, k) counts.
    """
    value = kappas_of(tables.sum(0), quadratic)
    known = np.isfinite(value)
    if not known.any():
        return None
    count = len(tables)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    drawn = kappas_of(np.tensordot(weights, tables[:, known], 1), quadratic)
    drawn = drawn[np.isfinite(drawn).all(1)].mean(1)
    middle = float(value[known].mean())
    low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (middle, middle)
    used = int((tables.sum((1, 2, 3)) > 0).sum())
    return Interval(middle, min(float(low), middle), max(float(high), middle), used)


def longer(texts: Sequence[tuple[str, str]], draws: int = 1) -> np.ndarray:
    """What picking the longer answer says: 1, 0, or 0.5 where both have as many characters, (draws, pairs)."""
    found = [(np.sign(len(first) - len(second)) + 1) / 2 for first, second in texts]
    return np.tile(np.array(found, dtype=float), (draws, 1))


def share_records(sets: Sequence[tuple[str, dict[str, Interval | None]]], seeds: Sequence[int] = ()) -> list[Record]:
    """p3.table1: one row a set, percent and points; what nobody recorded has no value."""
    return [
        record("p3.table1", name, column, value, unit="%" if column != LESS else "", seeds=seeds)
        for name, measures in sets
        for column, value in measures.items()
        if value is not None
    ]


def kappa_records(sets: Sequence[Compared], seeds: Sequence[int] = ()) -> list[Record]:
    """p3_01.kappa: Cohen's kappa by set and two."""
    return [
        record("p3_01.kappa", each.name, who, value, seeds=seeds)
        for each in sets
        for who, value in each.kappas().items()
        if value is not None
    ]


def by_set(records: Sequence[Record]) -> list[Record]:
    """The shares of p3.table1 for a figure: sets down the axis, a mark for each two; differences left out."""
    return [replace(each, row=each.column, column=each.row) for each in records if each.column != LESS]
