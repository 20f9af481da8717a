"""Algorithm 1 of p2 where all of it can be computed: linear rewards, few answers, many bandits at once.

A bandit: prompts drawn evenly, a handful of answers each, features phi(x, a) of length one, rewards theta . phi with theta
unknown. Common answers vary in half of the d directions, rare ones in all. The enhancer (p2.eq8) maximises

    Gamma(pi_1, pi_2) = c sqrt(d) |E phi(pi_1) - E phi(pi_2)| in the norm of V^-1,   V = ridge I + sum of z z',

z the feature differences of the pairs so far: Xiong et al.'s quantifier with Sigma = V / m and lambda = ridge / m.
One direction, ridge 1, three pairs with z = 1: V = 4, so policies that lie 1 apart have Gamma = c / 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from repro.core.errors import DataError
from repro.core.settings import Section
from repro.objectives.gibbs import gibbs_policy, regularised_value

ENHANCER, ALONE, OFFLINE = "online with enhancer", "online, main agent alone", "offline, partial coverage"
ARMS = (ENHANCER, ALONE, OFFLINE)
STRENGTHS = torch.logspace(-4, 2, 13, dtype=torch.float64)  # how far along a direction the enhancer may tilt
FINER = torch.logspace(-4, 2, 73, dtype=torch.float64)
NEWTON, TOLERANCE = 60, 1e-8


@dataclass(frozen=True)
class Bandits:
    """Several bandits: features (bandits, prompts, answers, d), theta (bandits, d), reference (bandits, prompts, answers)
    log-probabilities of pi_0, covered (answers,): those that the offline pairs are drawn from."""

    features: Tensor
    theta: Tensor
    reference: Tensor
    covered: Tensor
    eta: float

    def rewards(self, theta: Tensor) -> Tensor:
        """theta . phi of every answer: (bandits, prompts, answers)."""
        return torch.einsum("bxad,bd->bxa", self.features, theta)

    def best(self, theta: Tensor) -> Tensor:
        """The main agent (p2.eq7): log-probabilities of the optimum if theta were the truth."""
        return gibbs_policy(self.reference, self.rewards(theta), self.eta)

    def value(self, policy: Tensor) -> Tensor:
        """J (p2.eq2) under the true theta: (bandits,)."""
        return regularised_value(policy, self.reference, self.rewards(self.theta), self.eta).mean(-1)

    def suboptimality(self, policy: Tensor) -> Tensor:
        """J(pi*) - J(pi): (bandits,) in units of reward."""
        return self.value(self.best(self.theta)) - self.value(policy)

    def bounded(self, policy: Tensor) -> Tensor:
        """What p2.thm1 bounds, J(pi*) - J(pi) + eta E KL(pi* | pi): (bandits,)."""
        optimum = self.best(self.theta)
        kl = (optimum.exp() * (optimum - policy)).sum(-1).mean(-1)
        return self.suboptimality(policy) + self.eta * kl

    def differences(self) -> Tensor:
        """phi(x, a1) - phi(x, a2) of every prompt and two of its answers: (bandits, cells, d)."""
        one, two = torch.triu_indices(*[self.features.shape[2]] * 2, offset=1)
        return (self.features[:, :, one] - self.features[:, :, two]).flatten(1, 2)


def draw(settings: Section, dimension: int, rng: np.random.Generator) -> Bandits:
    """Bandits with random features and a random theta of length `reward_norm`; rare answers share `rare_mass` of pi_0."""
    shape = (settings.bandits, settings.prompts, settings.answers)
    features, theta = rng.normal(size=(*shape, dimension)), rng.normal(size=(settings.bandits, dimension))
    common = settings.answers // 2
    features[:, :, :common, (dimension + 1) // 2 :] = 0
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    theta *= settings.reward_norm / np.linalg.norm(theta, axis=-1, keepdims=True)
    covered = np.arange(settings.answers) < common
    reference = np.where(covered, (1 - settings.rare_mass) / common, settings.rare_mass / (settings.answers - common))
    spread = torch.tensor(reference).log().expand(shape)
    return Bandits(torch.tensor(features), torch.tensor(theta), spread, torch.tensor(covered), settings.eta)


def maximum_likelihood(z: Tensor, counts: Tensor, wins: Tensor, ridge: float, start: Tensor | None = None) -> Tensor:
    """theta that maximises the Bradley-Terry likelihood (p2.eq4) less ridge / 2 |theta|^2, by Newton's method: (bandits, d).

    z: (bandits, cells, d) feature differences; counts, wins: (bandits, cells) pairs, and how often the first answer won;
    start: a theta to begin from, no effect on the result.
    Raises DataError without a ridge, since pairs that are told apart without error have no MLE, or if it does not converge.
    """
    if not ridge > 0:
        raise DataError(f"ridge is {ridge}", where="maximum likelihood of theta", fix="give one above 0, however small")

    def objective(theta: Tensor) -> Tensor:
        margin = (z @ theta[..., None])[..., 0]
        fit = (wins * logsigmoid(margin) + (counts - wins) * logsigmoid(-margin)).sum(-1)
        return fit - ridge / 2 * theta.square().sum(-1)

    theta = z.new_zeros(z.shape[0], z.shape[2]) if start is None else start
    for _ in range(NEWTON):
        chance = torch.sigmoid((z @ theta[..., None])[..., 0])
        gradient = (z.mT @ (wins - counts * chance)[..., None])[..., 0] - ridge * theta
        if gradient.abs().max() <= TOLERANCE * (1 + counts.sum(-1).max()):
            return theta
        step = torch.linalg.solve(information(z, counts * chance * (1 - chance), ridge), gradient)
        size, here = torch.ones(len(theta), 1, dtype=theta.dtype), objective(theta) - 1e-9
        while (worse := objective(theta + size * step) < here).any():  # halved where a full step would overshoot
            size = torch.where(worse[:, None], size / 2, size)
        theta = theta + size * step
    raise DataError("Newton's method did not converge", where="maximum likelihood of theta", fix="give a larger ridge")


def information(z: Tensor, weights: Tensor, ridge: float) -> Tensor:
    """ridge I + sum of weight z z': (bandits, d, d); with counts as weights, V of p2.eq8."""
    return (z * weights[..., None]).mT @ z + ridge * torch.eye(z.shape[-1], dtype=z.dtype)


def uncertainty(bandits: Bandits, main: Tensor, other: Tensor, v: Tensor, confidence: float) -> Tensor:
    """Gamma of p2.eq8 between the main agent (bandits, prompts, answers) and others: (bandits, others).

    other: (bandits, others, prompts, answers) log-probabilities; v: (bandits, d, d).
    """
    apart = other.exp().flatten(2, 3)
    moments = bandits.features.flatten(1, 2) / main.shape[1]
    delta = (apart - main.exp().flatten(1, 2)[:, None]) @ moments
    return (
        confidence * delta.shape[-1] ** 0.5 * (delta * torch.linalg.solve(v, delta.mT).mT).sum(-1).clamp_min(0).sqrt()
    )


def enhancer(bandits: Bandits, main: Tensor, v: Tensor, confidence: float) -> Tensor:
    """The policy of largest Gamma in the confidence set eta KL(pi' | pi_1) <= Gamma (p2.eq8): log-probabilities like main's.

    Gamma is convex in the policy, so its maximum is sought among tilts of the main agent along a direction: first V's
    axes, both ways, then along the gradient of Gamma at the best so far. main: (bandits, prompts, answers); v: (bandits, d, d).
    """
    axes = torch.linalg.eigh(v).eigenvectors.mT
    directions, chosen, largest = torch.cat([axes, -axes], 1), main, torch.zeros(len(main), dtype=main.dtype)
    for strengths in (STRENGTHS, FINER, FINER):
        lean = torch.einsum("bxad,bkd->bkxa", bandits.features, directions)
        tilted = main[:, None, None] + strengths[:, None, None] * lean[:, :, None]
        tilted = torch.log_softmax(tilted, -1).flatten(1, 2)
        gamma = uncertainty(bandits, main, tilted, v, confidence)
        kl = (tilted.exp() * (tilted - main[:, None])).sum(-1).mean(-1)
        gamma = torch.where(bandits.eta * kl <= gamma, gamma, -1.0)
        found, place = gamma.max(1)
        better = found > largest
        chosen = torch.where(better[:, None, None], tilted[torch.arange(len(main)), place], chosen)
        largest = torch.where(better, found, largest)
        delta = torch.einsum("bxa,bxad->bd", chosen.exp() - main.exp(), bandits.features)
        directions = torch.nn.functional.normalize(torch.linalg.solve(v, delta), dim=-1)[:, None]
    return chosen


def collect(bandits: Bandits, first: Tensor, second: Tensor, m: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """m pairs a bandit (p2.eq6), counted by prompt and two different answers, and how often the first of them won: (bandits, cells).

    first, second: probabilities (bandits, prompts, answers). How often each cell comes up decides all that follows, so
    the counts are drawn rather than the pairs: the same distribution at any m for the same price.
    """
    one, two = torch.triu_indices(*[first.shape[2]] * 2, offset=1)
    either = first[..., one] * second[..., two] + first[..., two] * second[..., one]
    drawn = either.flatten(1) / first.shape[1]
    same = (1 - drawn.sum(-1, keepdim=True)).clamp_min(0)  # equal answers say nothing of theta
    cells = torch.cat([drawn, same], -1)
    counts = rng.multinomial(m, (cells / cells.sum(-1, keepdim=True)).numpy())[:, :-1]
    chance = torch.sigmoid((bandits.differences() @ bandits.theta[..., None])[..., 0])
    wins = rng.binomial(counts, chance.numpy())
    return torch.tensor(counts, dtype=torch.float64), torch.tensor(wins, dtype=torch.float64)


def learn(
    bandits: Bandits, arm: str, m: int, iterations: int, settings: Section, rng: np.random.Generator
) -> Iterator[tuple[Tensor, float]]:
    """Algorithm 1 (p2.alg1): the main agent before any pair and after each batch of m, and the share of equal answers in the batch.

    Every arm sees the same number of pairs. Offline draws both answers from pi_0 among the covered ones.
    """
    z = bandits.differences()
    counts, wins = torch.zeros(z.shape[:2], dtype=torch.float64), torch.zeros(z.shape[:2], dtype=torch.float64)
    theta, main, fixed = None, bandits.reference, bandits.reference.exp() * bandits.covered
    yield main, float("nan")
    for _ in range(iterations):
        if arm == OFFLINE:
            first = second = fixed / fixed.sum(-1, keepdim=True)
        elif arm == ALONE:
            first = second = main.exp()
        else:
            v = information(z, counts, settings.ridge)
            first, second = main.exp(), enhancer(bandits, main, v, settings.confidence).exp()
        new, won = collect(bandits, first, second, m, rng)
        counts, wins = counts + new, wins + won
        theta = maximum_likelihood(z, counts, wins, settings.ridge, theta)
        main = bandits.best(theta)
        yield main, float((first * second).sum(-1).mean())
