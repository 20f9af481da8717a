"""What p2's theory promises, measured where everything can be computed: the Gibbs optimum (p2.eq3) and p2.thm1.

Two routes climb to the optimum on a table of few prompts and answers, from pi_0: the gradient of J, and DPO's loss on
infinitely many pairs. Then Algorithm 1 runs on linear bandits against two baselines at equal numbers of pairs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from repro.core import artifacts
from repro.core.artifacts import Job
from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval, statistic_interval
from repro.objectives.gibbs import expected_dpo_loss, gibbs_policy, log_partition, regularised_value
from repro.papers.bandit import ALONE, ARMS, ENHANCER, draw, learn

GRADIENT, DPO = "gradient ascent on J", "DPO on infinitely many pairs"
ROUTES = (GRADIENT, DPO)
PROMISED = "promised by p2.thm1"
GAP, BOUNDED = "gap", "bounded"


class Table(NamedTuple):
    """A small space: reference (prompts, answers) log-probabilities of pi_0, and rewards of the same shape."""

    reference: Tensor
    rewards: Tensor


def small_space(settings: Section, seed: int) -> Table:
    """Random pi_0 and rewards, evenly between 0 and 1, for `table_prompts` prompts of `table_answers` answers."""
    rng = np.random.default_rng(seed)
    shape = (settings.table_prompts, settings.table_answers)
    reference = torch.log_softmax(torch.tensor(rng.normal(size=shape)), -1)
    return Table(reference, torch.tensor(rng.uniform(size=shape)))


def climb(job: Job) -> None:
    """Step: both routes from pi_0, by Adam on one logit an answer; per step KL(pi* | pi) and J(pi*) - J(pi), the last log-ratios."""
    space, eta = small_space(job.settings, job.seed), job.settings.eta
    optimum = gibbs_policy(*space, eta)
    best = eta * log_partition(*space, eta).mean()
    found = {"rewards": space.rewards.tolist(), "best": best.item()}
    for route in ROUTES:
        logits = space.reference.clone().requires_grad_()
        adam, history = torch.optim.Adam([logits], lr=job.settings.step_size), {"kl": [], GAP: []}
        for _ in range(job.settings.steps + 1):
            policy = torch.log_softmax(logits, -1)
            value = regularised_value(policy, *space, eta).mean()
            loss = -value if route == GRADIENT else expected_dpo_loss(policy, *space, eta)
            history["kl"].append((optimum.exp() * (optimum - policy)).sum(-1).mean().item())
            history[GAP].append((best - value).item())
            adam.zero_grad()
            loss.backward()
            adam.step()
        found[route] = history | {"log_ratio": (policy - space.reference).tolist()}
    (job.out / "climb.json").write_text(json.dumps(found))


@dataclass(frozen=True)
class Climb:
    """Both routes to p2.eq3, by seed, as `climb` wrote them; eta is also DPO's beta."""

    found: Mapping[int, Mapping]
    eta: float

    def curves(self, quantity: str = "kl") -> dict[str, list[float]]:
        """The first seed's distance from the optimum by step and route."""
        return {route: next(iter(self.found.values()))[route][quantity] for route in ROUTES}

    def scatter(self, route: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and log(pi / pi_0), each less its mean over the prompt's answers: two (prompts, answers)."""
        both = (np.array(self.found[seed]["rewards"]), np.array(self.found[seed][route]["log_ratio"]))
        return tuple(each - each.mean(-1, keepdims=True) for each in both)

    def records(self) -> list[Record]:
        """How far each route still is after the last step, the worst seed counting; the slope is the furthest from 1 / beta."""
        rows = []
        for route in ROUTES:
            ends = {name: max(f[route][name][-1] for f in self.found.values()) for name in ("kl", GAP)}
            points = [self.scatter(route, seed) for seed in self.found]
            slopes = [float((x * y).sum() / (x * x).sum()) for x, y in points]
            errors = [float(np.abs(y - x / self.eta).max()) for x, y in points]
            shown = {
                "KL from the optimum": ends["kl"],
                "J below the optimum": ends[GAP],
                "slope of log-ratio on reward": max(slopes, key=lambda slope: abs(slope - 1 / self.eta)),
                "largest error of a log-ratio": max(errors),
            }
            rows += [
                record("p2_07.gibbs", route, name, number, seeds=list(self.found)) for name, number in shown.items()
            ]
        return rows


def climbs(settings: Section, seeds: Sequence[int]) -> Climb:
    """Both routes to the Gibbs optimum for every seed's table."""
    picked = settings.pick("eta", "table_prompts", "table_answers", "steps", "step_size")
    made = {seed: artifacts.run(climb, settings=picked, seed=seed) for seed in seeds}
    return Climb({seed: json.loads((a / "climb.json").read_text()) for seed, a in made.items()}, settings.eta)


def play(job: Job) -> None:
    """Step: every arm of p2.alg1 on the same bandits; after each batch their suboptimality and what p2.thm1 bounds."""
    settings, seed = job.settings, job.seed
    bandits = draw(settings, settings.dimension, np.random.default_rng([seed, settings.dimension]))
    found = {}
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
