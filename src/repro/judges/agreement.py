"""How far annotators agree with each other, and with a judge that is one more annotator.

Cohen's kappa (1960) of two, by scikit-learn; Krippendorff's alpha (2011) of all, by nltk; both for
three unordered labels: one answer, the other, a tie. A skip is no label. Chance depends on which answer counts as the
one; here a hash of the two texts decides, which knows nothing of writer, judge or the order on the screen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations

import numpy as np
from scipy.stats import binomtest

from repro.core.records import Record, record
from repro.core.statistics import Interval, statistic_interval
from repro.judges.human import Key, Label

SUSPECT = 0.01  # an annotator who looks at the answers alone seems to prefer a side once in a hundred
DRAWS = 500
KINDS = 3


@dataclass(frozen=True)
class Measure:
    """A coefficient with its interval over prompts; None where it is not defined, and why."""

    value: Interval | None
    why: str = ""


@dataclass(frozen=True)
class Between:
    """Two annotators on the pairs that both labelled: share of equal labels, and kappa."""

    one: str
    other: str
    pairs: int
    share: Measure
    kappa: Measure


@dataclass(frozen=True)
class Sides:
    """How often an annotator chose the answer shown first, among choices (ties and skips apart); p: if it were a coin."""

    annotator: str
    first: int
    choices: int
    p: float

    @property
    def suspect(self) -> str:
        """What to say if the side seems to matter; empty if it does not."""
        if self.p >= SUSPECT:
            return ""
        said = f"{self.annotator} chose the answer shown first in {self.first} of {self.choices}"
        return f"{said} (p = {self.p:.2g} if the side did not matter): position bias?"


def sides(labels: Sequence[Label]) -> list[Sides]:
    """The share of first answers by annotator, with a two-sided binomial test against one half."""
    found = []
    for name in dict.fromkeys(label.annotator for label in labels):
        said = [label.label for label in labels if label.annotator == name and label.label in ("first", "second")]
        first = said.count("first")
        found.append(Sides(name, first, len(said), binomtest(first, len(said)).pvalue if said else 1.0))
    return found


@dataclass(frozen=True)
class Agreement:
    """What `agreement` finds. alpha: of all annotators together; pairs: how many at least two of them labelled."""

    annotators: tuple[str, ...]
    between: tuple[Between, ...]
    alpha: Measure
    pairs: int
    sides: tuple[Sides, ...]

    def records(self, id: str, seeds: Sequence[int] = ()) -> list[Record]:
        """One row for every two annotators, then all together; what is not defined has no value."""
        found = [
            record(id, f"{each.one} and {each.other}", name, measure.value, seeds=seeds)
            for each in self.between
            for name, measure in (("equal labels", each.share), ("kappa", each.kappa))
        ]
        return [*found, record(id, f"all {len(self.annotators)} annotators", "alpha", self.alpha.value, seeds=seeds)]

    def warnings(self) -> list[str]:
        """What is not defined and why, and whose choices lean to a side."""
        named = {f"{each.one} and {each.other}": each.kappa.why for each in self.between}
        named[f"all {len(self.annotators)} annotators"] = self.alpha.why
        return [f"{who}: {why}" for who, why in named.items() if why] + [s.suspect for s in self.sides if s.suspect]


def agreement(labels: Sequence[Label], *, seed: int = 0) -> Agreement:
    """Agreement of every two annotators and of all, with 95% intervals over prompts; a judge is an annotator too.

    labels: of each annotator and pair one, as `read_labels` and `simulated` give them.
    """
    said: dict[str, dict[Key, int]] = {}
    for label in labels:
        of_one = said.setdefault(label.annotator, {})
        if label.value is not None:
            of_one[label.pair] = _code(label)
    names = list(said)
    between = tuple(_between(one, other, said, seed) for one, other in combinations(names, 2))
    alpha, pairs = _alpha(list(said.values()), seed)
    return Agreement(tuple(names), between, alpha, pairs, tuple(sides(labels)))


def _code(label: Label) -> int:
    """0, 1 (a tie) or 2, whichever of the answers was shown first."""
    hashes = [blake2b(text.encode(), digest_size=8).digest() for text in (label.first, label.second)]
    return round(2 * (label.value if hashes[0] < hashes[1] else 1 - label.value))


def _between(one: str, other: str, said: Mapping[str, Mapping[Key, int]], seed: int) -> Between:
    both = [key for key in said[one] if key in said[other]]
    if not both:
        nothing = Measure(None, "not one pair that both labelled, so agreement is not defined")
        return Between(one, other, 0, nothing, nothing)
    a, b = (np.array([said[name][key] for key in both]) for name in (one, other))
    groups = [key[:2] for key in both]
    share = _interval(lambda index: float((a[index] == b[index]).mean()), groups, seed)
    if len({*a, *b}) == 1:
        why = "both gave one and the same label throughout; chance alone would agree as well, so kappa is not defined"
        return Between(one, other, len(both), Measure(share), Measure(None, why))
    from sklearn.metrics import cohen_kappa_score  # a second to import

    drawn = _interval(lambda index: _kappa(a[index], b[index]), groups, seed)
    value = float(cohen_kappa_score(a, b))
    kappa = Interval(value, min(drawn.low, value), max(drawn.high, value), drawn.n)
    return Between(one, other, len(both), Measure(share), Measure(kappa))


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Kappa again, for the draws of the interval, where the library's checks of its input would take seconds."""
    table = np.bincount(KINDS * a + b, minlength=KINDS**2).reshape(KINDS, KINDS) / len(a)
    chance = float(table.sum(1) @ table.sum(0))
    return (float(np.trace(table)) - chance) / (1 - chance) if chance < 1 else np.nan


def _alpha(said: Sequence[Mapping[Key, int]], seed: int) -> tuple[Measure, int]:
    """Alpha of all annotators, and the number of pairs that at least two labelled."""
    keys = list(dict.fromkeys(key for of_one in said for key in of_one))
    table = np.array([[of_one.get(key, np.nan) for key in keys] for of_one in said], dtype=float).reshape(
        len(said), len(keys)
    )
    shared = np.isfinite(table).sum(0) >= 2
    table, groups = table[:, shared], [key[:2] for key, kept in zip(keys, shared, strict=True) if kept]
    if not groups:
        return Measure(None, "not one pair with two labels, so alpha is not defined"), 0
    if len(np.unique(table[np.isfinite(table)])) == 1:
        return Measure(None, "one and the same label throughout, so alpha is not defined"), len(groups)
    from nltk.metrics.agreement import AnnotationTask  # a second to import

    rows = [(who, pair, table[who, pair]) for pair in range(len(groups)) for who in range(len(said))]
    value = float(AnnotationTask(data=[row for row in rows if np.isfinite(row[2])]).alpha())
    counts = np.stack([(table == kind).sum(0) for kind in range(KINDS)], axis=1)
    drawn = _interval(lambda index: _alpha_of(counts[index]), groups, seed)
    return Measure(Interval(value, min(drawn.low, value), max(drawn.high, value), drawn.n)), len(groups)


def _alpha_of(counts: np.ndarray) -> float:
    """Alpha again, for the draws of the interval; counts: (pairs, kinds) labels, at least two of a pair."""
    labels, kinds = counts.sum(1), counts.sum(0)
    total = int(labels.sum())
    differ = total**2 - int((kinds**2).sum())
    within = float(((labels**2 - (counts**2).sum(1)) / (labels - 1)).sum())
    return 1 - (total - 1) * within / differ if differ else np.nan


def _interval(statistic: Callable[[np.ndarray], float], groups: Sequence[tuple], seed: int) -> Interval:
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    prompts = [numbers[group] for group in groups]
    return statistic_interval(statistic, len(groups), groups=prompts, seed=seed, draws=DRAWS)
