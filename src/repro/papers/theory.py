"""What p2.thm1 promises, measured where everything can be computed: Algorithm 1 on linear bandits.

Against two baselines at equal numbers of pairs, by batch size, number of batches and dimension, and in four regimes that
make exploring easy or hard.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Job
from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval, statistic_interval
from repro.papers.bandit import ALONE, ARMS, ENHANCER, Bandits, draw, learn

PROMISED = "promised by p2.thm1"
GAP, BOUNDED = "gap", "bounded"


def _bandits(settings: Section, seed: int | None) -> Bandits:
    return draw(settings, settings.dimension, np.random.default_rng([seed, settings.dimension]))


def play(job: Job) -> None:
    """Step: every arm of p2.alg1 on the same bandits; after each batch their suboptimality and what p2.thm1 bounds."""
    settings, seed = job.settings, job.seed
    bandits, found = _bandits(settings, seed), {}
    for place, arm in enumerate(ARMS):
        rng = np.random.default_rng([seed, settings.dimension, settings.m, place])
        rows: dict[str, list] = {GAP: [], BOUNDED: [], "equal": []}
        for policy, equal in learn(bandits, arm, settings.m, settings.iterations, settings, rng):
            rows[GAP].append(bandits.suboptimality(policy).tolist())
            rows[BOUNDED].append(bandits.bounded(policy).tolist())
            rows["equal"].append(equal)
        found[arm] = rows | {"equal": rows["equal"][1:]}  # nothing was drawn before the first batch
    (job.out / "play.json").write_text(json.dumps(found))


class Place(NamedTuple):
    """Where Algorithm 1 ran: dimension d, batch size m, pi_0's mass on rare answers, and eta."""

    d: int
    m: int
    rare: float
    eta: float


@dataclass(frozen=True)
class Study:
    """Suboptimality by place and arm: (iterations + 1, bandits), the bandits of all seeds side by side; after d batches unless said."""

    found: Mapping[Place, Mapping[str, Mapping[str, np.ndarray]]]
    home: Place
    batches: Sequence[int]
    dimensions: Sequence[int]
    regimes: Sequence[Place]
    seeds: Sequence[int]

    def at(self, place: Place, arm: str, t: int | None = None, quantity: str = GAP) -> np.ndarray:
        """Suboptimality of the main agent after t batches, d of them by default: (bandits,)."""
        return self.found[place][arm][quantity][place.d if t is None else t]

    def by_batch(self) -> list[Record]:
        """p2.thm1: mean suboptimality after d batches, by batch size."""
        places = {f"m = {m}": self.home._replace(m=m) for m in self.batches}
        return [
            record("p2.thm1", arm, name, mean_interval(self.at(place, arm)), seeds=self.seeds)
            for arm in ARMS
            for name, place in places.items()
        ]

    def by_iteration(self) -> list[Record]:
        """Mean suboptimality after t batches, up to 2 d of them, at the chapter's own m and d."""
        shown = [1, *range(2, 2 * self.home.d + 1, 2)]
        return [
            record("p2_07.iterations", arm, f"t = {t}", mean_interval(self.at(self.home, arm, t)), seeds=self.seeds)
            for arm in ARMS
            for t in shown
        ]

    def by_dimension(self) -> list[Record]:
        """Mean suboptimality after d batches of the same m, by d."""
        places = {f"d = {d}": self.home._replace(d=d) for d in self.dimensions}
        return [
            record("p2_07.dimensions", arm, name, mean_interval(self.at(place, arm)), seeds=self.seeds)
            for arm in ARMS
            for name, place in places.items()
        ]

    def slope(self, arm: str, over: str, quantity: str = GAP) -> Interval:
        """Least-squares slope of log mean suboptimality on log m or log d, resampling bandits."""
        numbers = {"m": self.batches, "d": self.dimensions}[over]
        table = np.stack([self.at(self.home._replace(**{over: number}), arm, None, quantity) for number in numbers])

        def fitted(picked: np.ndarray) -> float:
            return float(np.polyfit(np.log(numbers), np.log(table[:, picked].mean(1)), 1)[0])

        return statistic_interval(fitted, table.shape[1])

    def promises(self) -> list[Record]:
        """How fast suboptimality moves on log-log axes, beside epsilon = sqrt(d / m) of p2.thm1."""
        promised = {"in m": -0.5, "in m, with the KL term": -0.5, "in d": 0.5}
        rows = [record("p2_07.promise", PROMISED, name, number) for name, number in promised.items()]
        for arm in ARMS:
            found = (self.slope(arm, "m"), self.slope(arm, "m", BOUNDED), self.slope(arm, "d"))
            rows += [
                record("p2_07.promise", arm, name, slope, seeds=self.seeds)
                for name, slope in zip(promised, found, strict=True)
            ]
        return rows

    def gain(self, place: Place, t: int | None = None) -> Interval:
        """How much less suboptimal the enhancer leaves the main agent, paired by bandit; above 0 it helps."""
        return difference_interval(self.at(place, ALONE, t), self.at(place, ENHANCER, t))

    def by_regime(self) -> list[Record]:
        """With and without the enhancer where exploring is easy or hard: after d batches, and the gain after one too."""
        rows = []
        for place in self.regimes:
            shown = {arm: mean_interval(self.at(place, arm)) for arm in (ENHANCER, ALONE)}
            shown |= {"gain after d batches": self.gain(place), "gain after one": self.gain(place, 1)}
            rows += [record("p2_07.regimes", regime(place), name, x, seeds=self.seeds) for name, x in shown.items()]
        return rows

    def regimes_where(self, sign: int, t: int | None = None) -> str:
        """The regimes whose gain is clear of zero on that side (1: the enhancer helps, -1: it costs; 0: neither), in words."""
        gains = {place: self.gain(place, t) for place in self.regimes}
        signs = {place: (gain.low > 0) - (gain.high < 0) for place, gain in gains.items()}
        return "; ".join(regime(place) for place, found in signs.items() if found == sign) or "none"

    def equal_share(self, arm: str) -> float:
        """Percent of the last batch's pairs, of the first d, whose two answers are the same, which teach nothing."""
        return 100 * float(self.found[self.home][arm]["equal"][self.home.d - 1])


def first_bandit(settings: Section, seed: int) -> list[list[str]]:
    """One line an answer of the first bandit's first prompt: features, reward; pi_0, the optimum and the offline draw in percent."""
    bandits = _bandits(settings, seed)
    reference = bandits.reference[0, 0].exp()
    offline = reference * bandits.covered / reference[bandits.covered].sum()
    shares = zip(reference, bandits.best(bandits.theta)[0, 0].exp(), offline, strict=True)
    rewards, kinds = bandits.rewards(bandits.theta)[0, 0], ("rare", "common")
    lines = zip(bandits.covered, bandits.features[0, 0], rewards, shares, strict=True)
    return [
        [kinds[common], " ".join(f"{x:.1f}" for x in phi), f"{reward:.2f}", *(f"{100 * share:.1f}" for share in of)]
        for common, phi, reward, of in lines
    ]


def guide(records: Sequence[Record], power: float) -> tuple[np.ndarray, np.ndarray]:
    """A line of that power from the first record's value over the numbers of its row's columns, such as `m = 16`."""
    x = np.array([float(found.column.rsplit("=", 1)[-1]) for found in records if found.row == records[0].row])
    return x, records[0].value * (x / x[0]) ** power


def compared(slope: Interval, promised: float) -> str:
    """Whether a slope keeps a promise that is an upper bound, in words that its interval allows."""
    if slope.high <= promised:
        return "at least as good as promised"
    return "worse than promised" if slope.low > promised else "not told apart from the promise"


def regime(place: Place) -> str:
    """A regime in words."""
    return f"eta {place.eta:g}, rare answers {100 * place.rare:g}%"


def study(settings: Section, seeds: Sequence[int]) -> Study:
    """Algorithm 1 and its baselines over batch sizes, dimensions and regimes; each place and seed is one cached step."""
    home = Place(settings.dimension, settings.batch, settings.rare_mass, settings.eta)
    regimes = [home._replace(rare=rare, eta=eta) for eta in settings.etas for rare in settings.rare_masses]
    places = [home._replace(m=m) for m in settings.batches] + [home._replace(d=d) for d in settings.dimensions]
    found = {}
    for place in progress(dict.fromkeys([home, *places, *regimes]), label="bandits"):
        here = {"dimension": place.d, "m": place.m, "iterations": 2 * place.d}
        here |= {"rare_mass": place.rare, "eta": place.eta}
        picked = settings.pick("bandits", "prompts", "answers", "reward_norm", "ridge", "confidence", **here)
        made = [artifacts.run(play, settings=picked, seed=seed) for seed in seeds]
        played = [json.loads((artifact / "play.json").read_text()) for artifact in made]
        found[place] = {arm: _beside([each[arm] for each in played]) for arm in ARMS}
    return Study(found, home, settings.batches, settings.dimensions, regimes, seeds)


def _beside(seeds: Sequence[Mapping[str, list]]) -> dict[str, np.ndarray]:
    """Seeds' bandits side by side: (iterations + 1, bandits); the share of equal answers as their mean, (iterations,)."""
    joined = {name: np.concatenate([np.array(each[name]) for each in seeds], 1) for name in (GAP, BOUNDED)}
    return joined | {"equal": np.mean([each["equal"] for each in seeds], 0)}
