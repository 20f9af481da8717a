"""Two routes to the Gibbs optimum (p2.eq3) on a table of few prompts and answers: the gradient of J, and DPO.

Both start from pi_0. The gradient of J sees the rewards; DPO sees infinitely many pairs, drawn from pi_0 and judged by
Bradley-Terry. Rewards 1 and 0, a fair coin and eta = 1: both should end at chances 0.731 and 0.269.
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
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.objectives.gibbs import expected_dpo_loss, gibbs_policy, log_partition, regularised_value

GRADIENT, DPO = "gradient ascent on J", "DPO on infinitely many pairs"
ROUTES = (GRADIENT, DPO)
KL, SLOPE = "KL from the optimum", "slope of log-ratio on reward"


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
    found = {"rewards": space.rewards.tolist(), "reference": space.reference.tolist(), "optimum": optimum.tolist()}
    for route in ROUTES:
        logits = space.reference.clone().requires_grad_()
        adam, history = torch.optim.Adam([logits], lr=job.settings.step_size), {"kl": [], "gap": []}
        for _ in range(job.settings.steps + 1):
            policy = torch.log_softmax(logits, -1)
            value = regularised_value(policy, *space, eta).mean()
            loss = -value if route == GRADIENT else expected_dpo_loss(policy, *space, eta)
            history["kl"].append((optimum.exp() * (optimum - policy)).sum(-1).mean().item())
            history["gap"].append((best - value).item())
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

    def first_prompt(self) -> list[list[str]]:
        """One line an answer of the first seed's first prompt: reward; pi_0, the optimum and where each route ends, in percent."""
        found = next(iter(self.found.values()))
        ends = [np.add(found["reference"], found[route]["log_ratio"]) for route in ROUTES]
        shares = [100 * np.exp(np.array(each)[0]) for each in (found["reference"], found["optimum"], *ends)]
        lines = zip(found["rewards"][0], *shares, strict=True)
        return [[f"{reward:.3f}", *(f"{share:.2f}" for share in of)] for reward, *of in lines]

    def scatter(self, route: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rewards and log(pi / pi_0), each less its mean over the prompt's answers: two (prompts, answers)."""
        both = (np.array(self.found[seed]["rewards"]), np.array(self.found[seed][route]["log_ratio"]))
        return tuple(each - each.mean(-1, keepdims=True) for each in both)

    def records(self) -> list[Record]:
        """How far each route still is after the last step, the worst seed counting; the slope is the furthest from 1 / beta."""
        rows = []
        for route in ROUTES:
            ends = {name: max(f[route][name][-1] for f in self.found.values()) for name in ("kl", "gap")}
            points = [self.scatter(route, seed) for seed in self.found]
            slopes = [float((x * y).sum() / (x * x).sum()) for x, y in points]
            errors = [float(np.abs(y - x / self.eta).max()) for x, y in points]
            shown = {
                KL: ends["kl"],
                "J below the optimum": ends["gap"],
                SLOPE: max(slopes, key=lambda slope: abs(slope - 1 / self.eta)),
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
