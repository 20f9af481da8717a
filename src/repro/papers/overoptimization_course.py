"""A method's course from the SFT policy: where gold is best, how far it falls after that, and the form of Gao et al. 2022.

A best point that is looked for is good by luck as well. So one half of the prompts says which point is best and the
other half how far gold falls from there to the last point, and the other way round: without a fall that mean is 0, and
the interval can lie on either side of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.records import Record, record
from repro.core.statistics import Interval, difference_interval, mean_interval, statistic_interval

BON = "best of n"
GROUPS = 50  # of prompts, left out one after the other
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"), 0)


@dataclass(frozen=True)
class Course:
    """A method's points in the order that it passes them, (points, seeds, prompts) each; nan: not asked there.

    gold, proxy: above the SFT policy's answers to the same prompt, in SDs of these; kl: log pi - log pi_SFT in nats,
    whose mean is the KL.
    """

    gold: np.ndarray
    proxy: np.ndarray
    kl: np.ndarray

    def from_start(self) -> "Course":
        """The course with the SFT policy, which is 0 in all, in front."""
        start = np.zeros((1, *self.gold.shape[1:]))
        return Course(*(np.concatenate([start, each]) for each in (self.gold, self.proxy, self.kl)))

    def last(self) -> "Course":
        """The last point alone."""
        return Course(self.gold[-1:], self.proxy[-1:], self.kl[-1:])

    @property
    def distances(self) -> np.ndarray:
        """sqrt(KL) of each point, (points,); nan where no log ratio is known."""
        return _roots(self.kl)

    def at(self, quantity: str, point: int = -1) -> Interval:
        """`gold`, `proxy`, or `kl` in nats, at a point."""
        values = getattr(self, quantity)[point]
        return mean_interval(values) if np.isfinite(values).any() else UNKNOWN

    def line(self, quantity: str) -> np.ndarray:
        """Value, low and high end of its interval at every point, (3, points)."""
        found = [self.at(quantity, point) for point in range(len(self.gold))]
        return np.array([(each.value, each.low, each.high) for each in found]).T

    def gap(self, point: int = -1) -> Interval:
        """Proxy less gold, both in SDs: what was gained in the proxy alone."""
        return difference_interval(self.proxy[point], self.gold[point])

    def beyond(self, relation: np.ndarray) -> Interval:
        """Gold of the last point less what its proxy promises, in SDs.

        relation: by prompt, gold in SDs that goes with an SD of proxy among the SFT policy's answers, (seeds, prompts),
        whose mean is the promise for an SD. Its own sampling error counts, to first order.
        """
        gold, proxy, slope = self.gold[-1], self.proxy[-1], relation.mean(1, keepdims=True)
        return mean_interval(gold - slope * proxy - proxy.mean(1, keepdims=True) * (relation - slope))

    def peak(self) -> Interval:
        """sqrt(KL) of the point of best gold; its interval over prompts, seeds together."""
        known = np.isfinite(self.distances).all()
        return statistic_interval(self._peak_of, self.gold.shape[-1]) if known else UNKNOWN

    def _peak_of(self, prompts: np.ndarray) -> float:
        return float(_roots(self.kl[..., prompts])[_best(self.gold[..., prompts])])

    def fall(self) -> Interval:
        """Gold at its best point less gold at the last one, in SDs; the best is chosen on the other half of the prompts.

        The ends of the two halves' intervals are averaged: the halves choose from one another, so that their errors go
        together, and twice the prompts narrow nothing.
        """
        half, found = np.arange(self.gold.shape[-1]) % 2, []
        for part in (0, 1):
            own, best = self.gold[..., half == part], _best(self.gold[..., half != part])
            found.append(mean_interval(_share_of_mean(own[best]) - _share_of_mean(own[-1])))
        value, low, high = (float(np.mean([getattr(each, end) for each in found])) for end in ("value", "low", "high"))
        return Interval(value, low, high, len(half))

    def fit(self, form: str) -> dict[str, Interval]:
        """alpha and beta of R(d) = d (alpha - beta b(d)), b(d) = d for `best of n`, else log d; gold in SDs (Gao et al. 2022).

        Least squares over the points, for each seed; intervals over prompts, by leaving out a group of them at a time,
        and over seeds. nan with fewer than two points away from 0.
        """
        seeds, prompts = self.gold.shape[1:]
        groups = np.arange(prompts) % min(GROUPS, prompts)
        masks = [groups != group for group in range(groups.max() + 1)]
        rows = []
        for seed in range(seeds):
            each = np.array([self._fitted(form, seed, mask) for mask in [groups >= 0, *masks]])
            rows.append(each[0] + (len(masks) - 1) * (each[1:].mean(0) - each[1:]))
        values = np.moveaxis(np.array(rows), -1, 0)
        finite = np.isfinite(values).all()
        return {
            name: replace(mean_interval(own), n=prompts) if finite else UNKNOWN
            for name, own in zip(("alpha", "beta"), values, strict=True)
        }

    def _fitted(self, form: str, seed: int, prompts: np.ndarray) -> np.ndarray:
        gold, kl = (each[:, seed : seed + 1, prompts] for each in (self.gold, self.kl))
        return coefficients(_roots(kl), _means(gold), form)


def _means(values: np.ndarray) -> np.ndarray:
    """Means over seeds and prompts of those that are known, (points,); nan where none is."""
    known = np.isfinite(values)
    count = known.sum((1, 2))
    return np.where(count > 0, np.where(known, values, 0).sum((1, 2)) / np.maximum(count, 1), np.nan)


def _roots(kl: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(_means(kl), 0))  # an estimate of zero can fall below it


def _best(gold: np.ndarray) -> int:
    return int(np.nan_to_num(_means(gold), nan=-np.inf).argmax())


def _share_of_mean(values: np.ndarray) -> np.ndarray:
    """(seeds, prompts), for each seed with the mean and, to first order, the sampling error of the mean of what is known.

    A prompt that is not known adds nothing to the error; the others add the more for it.
    """
    known = np.isfinite(values)
    count = known.sum(1, keepdims=True)
    mean = np.where(known, values, 0).sum(1, keepdims=True) / np.where(count > 0, count, np.nan)
    return mean + np.where(known, values - mean, 0) * values.shape[1] / np.maximum(count, 1)


def bend(distance: np.ndarray, form: str) -> np.ndarray:
    """b(d) in Gao et al. 2022's R(d) = d (alpha - beta b(d)): d for `best of n`, log d for what is trained."""
    return distance if form == BON else np.log(distance)


def coefficients(distance: np.ndarray, gold: np.ndarray, form: str) -> np.ndarray:
    """alpha and beta by least squares, (2,), in SDs a root of a nat; both nan with fewer than two points away from 0.

    distance, gold: (points,).
    """
    known = np.isfinite(distance) & np.isfinite(gold) & (np.nan_to_num(distance) > 0)
    if known.sum() < 2:
        return np.full(2, np.nan)
    far = distance[known]
    return np.linalg.lstsq(np.stack([far, -far * bend(far, form)], 1), gold[known], rcond=None)[0]


def curve(distance: np.ndarray, alpha: float, beta: float, form: str) -> np.ndarray:
    """R(d) = d (alpha - beta b(d)) at distances above 0, in SDs of gold (Gao et al. 2022)."""
    return distance * (alpha - beta * bend(distance, form))


# records


def point_records(courses: Mapping[str, Course], seeds: Sequence[int]) -> list[Record]:
    """over.points: KL in nats, proxy and gold in SDs at every point of every method."""
    return [
        record("over.points", f"{name}, {point + 1}", column, each.at(quantity, point), seeds=seeds)
        for name, each in courses.items()
        for point in range(len(each.gold))
        for column, quantity in (("KL", "kl"), ("proxy", "proxy"), ("gold", "gold"))
    ]


def end_records(ends: Mapping[str, Course], relation: np.ndarray, seeds: Sequence[int]) -> list[Record]:
    """over.ends: where each method ends on the test prompts, what the proxy alone gained, and gold beyond its promise.

    relation: as in `Course.beyond`.
    """
    return [
        record("over.ends", name, column, value, seeds=seeds)
        for name, each in ends.items()
        for column, value in (
            ("KL", each.at("kl")),
            ("proxy", each.at("proxy")),
            ("gold", each.at("gold")),
            ("proxy less gold", each.gap()),
            ("gold less promised", each.beyond(relation)),
        )
    ]


def peak_records(courses: Mapping[str, Course], seeds: Sequence[int]) -> list[Record]:
    """over.peaks: sqrt(KL) of the last point and of the best gold, and the fall of gold from there to the end, in SDs."""
    return [
        record("over.peaks", name, column, value, seeds=seeds)
        for name, each in courses.items()
        for column, value in (
            ("last sqrt(KL)", float(each.distances[-1])),
            ("sqrt(KL) of best gold", each.peak()),
            ("fall of gold after it", each.fall()),
        )
    ]


def fit_records(courses: Mapping[str, Course], seeds: Sequence[int]) -> list[Record]:
    """over.fits: alpha and beta of each method's form, and the root mean square of what the form leaves, in SDs."""
    found = []
    for name, each in courses.items():
        both, gold = each.fit(name), _means(each.gold)
        near = np.nan_to_num(each.distances) > 0
        left = gold[near] - curve(each.distances[near], both["alpha"].value, both["beta"].value, name)
        values = both | {"left over": float(np.sqrt(np.mean(left**2))) if near.any() else None}
        found += [record("over.fits", name, column, value, seeds=seeds) for column, value in values.items()]
    return found
