"""UGDA's reward-model half on real text: an ensemble off its distribution, refined on answers that GPT-4 has judged.

    r_1 ... r_k   heads on the frozen encoder, from people's choices among HH-RLHF's online and rejection-sampled answers
    D_inter       real models' answers to half of AlpacaEval's prompts, another half for every draw
    selection     p3.eq9 on the members' rewards, p3.eq12 on the heads' gradients, or a random draw of as many
    R_i           GPT-4's recorded preference as a level 1 to 5, on member i's quantiles, with noise (p3.eq13)
    r_i           refined towards R_i by squared error (p3.eq14), at the rate and passes of their first training

The methods are UGDA's own (`ugda_methods.VARIANTS`, `CONTROLS`). No policy is here, so no answer has a next-token loss:
influence is read on -r, a loss that needs no label. A draw is other heads, another half, other random samples.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from repro.core.errors import DataError
from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.gradients.checkpoints import Checkpoint
from repro.gradients.influence import EXACT, Scoring, influence_scores
from repro.gradients.per_example import per_example_gradients
from repro.models.heads import RewardHead
from repro.models.load import threads
from repro.objectives.bradley_terry import bradley_terry_loss
from repro.objectives.influence import loss_change
from repro.objectives.relabel import quantiles, refinement_loss, relabelled_rewards
from repro.objectives.selection import OVER
from repro.papers.experts import OWN, levels_of
from repro.papers.real_labels import needed
from repro.papers.real_pool import ANSWERS, CHOSEN, DIRECT, ORDER, PEOPLE, REJECTED, TESTS, VALIDATION, RealPool, Texts
from repro.papers.ugda_measures import rank_error
from repro.papers.ugda_methods import CONTROLS, VARIANTS, Method, chosen
from repro.papers.uncertainty import standardised_ranks
from repro.train.loop import train_pairs
from repro.train.pairs import prompt_folds
from repro.train.reward import reward_model

BEFORE, LONGER, WRITER = "before", "pick the longer", "know the writer"
ARMS: Mapping[str, Method] = VARIANTS | CONTROLS
UGDA, DRAWN = "UGDA", "UGDA(RA)"
SIGNALS = {  # what selecting rests on: a signal, and what it must go with
    "variance with error": ("variance", "error"),
    "influence with gain": ("influence", "gain"),
    "variance with gain": ("variance", "gain"),
}
AT_ONCE = 64  # gradients held at a time: memory, no effect on a result


@dataclass(frozen=True)
class Heads:
    """An ensemble; scale: each head's mean and SD on the pool as it was first trained, (members, 2)."""

    heads: list[RewardHead]
    scale: np.ndarray

    def rewards(self, texts: Texts) -> np.ndarray:
        """(members, n), in SDs of each member's first rewards on the pool."""
        with torch.inference_mode():
            raw = np.stack([texts.rewards(head).double().numpy() for head in self.heads])
        return (raw - self.scale[:, :1]) / self.scale[:, 1:]


def trained(found: RealPool, pool: Texts, encoder: Section, members: int, seed: int) -> Heads:
    """k heads by p3.eq1, each with its own first weights, order and validation prompts, on one scale by the pool's answers.

    Raises DataError naming a member whose rewards are all equal.
    """
    seeds = range(members * seed, members * (seed + 1))
    heads = [reward_model(found.training, found.encoded, encoder, each).head for each in seeds]
    raw = Heads(heads, np.tile([0.0, 1.0], (members, 1))).rewards(pool)
    if len(constant := np.flatnonzero(np.ptp(raw, axis=1) == 0)):
        raise DataError("all rewards are equal", where=f"member {constant[0]}", fix="train on more pairs")
    return Heads(heads, np.stack([raw.mean(1), raw.std(1)], axis=1))


def negative_rewards(model: nn.Module, samples: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """-r of each sample, (samples,): a loss that needs no label. samples: features of an answer, and of its prompt if read."""
    return -model(*(torch.stack(part) for part in zip(*samples, strict=True)))


def influence(ensemble: Heads, pool: Texts, found: RealPool, rules: Section) -> np.ndarray:
    """Influence of every answer of the pool on both subtasks, (samples, 2) (p3.eq10, p3.eq11), exact, of a plain gradient step.

    A member stands for a checkpoint of rate 1/k; the subtasks are the chosen answers of each base split's validation part.
    """
    points = [Checkpoint(f"member {k}", head, 1 / len(ensemble.heads)) for k, head in enumerate(ensemble.heads)]
    subtasks = {name: found.features[f"{name} {VALIDATION} {CHOSEN}"].rows() for name in PEOPLE}
    scoring = Scoring(direction="sgd", average=rules.influence_average, batch_size=AT_ONCE)
    return influence_scores(points, pool.rows(), subtasks, negative_rewards, scoring).scores[EXACT].numpy()


def gains(ensemble: Heads, samples: Texts, targets: np.ndarray, found: RealPool) -> np.ndarray:
    """What relabelling each answer alone would teach, (samples,), to first order: the fall of p3.eq1 on validation pairs.

    targets: (members, samples), p3.eq13. Of a step of p3.eq14, a unit of rate; mean over the members and both subtasks.
    """
    rows, each = samples.rows(), []
    for head, (_, sd), own, mine in zip(
        ensemble.heads, ensemble.scale, ensemble.rewards(samples), targets, strict=True
    ):
        sides = [[found.features[f"{name} {VALIDATION} {side}"] for side in (CHOSEN, REJECTED)] for name in PEOPLE]
        loss = sum(bradley_terry_loss(*(texts.rewards(head) for texts in both)) for both in sides) / len(sides)
        towards = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(head.parameters()))])
        parts = [rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE)]
        down = [loss_change(per_example_gradients(head, negative_rewards, part), towards) for part in parts]
        each.append(2 * (mine - own) / sd * torch.cat(down).double().numpy())  # the gradient of ((r - mean) / sd - R)^2
    return np.mean(each, axis=0)


def refined(ensemble: Heads, samples: Texts, targets: np.ndarray, encoder: Section, seed: int) -> Heads:
    """Every head towards its own targets, (members, samples), by p3.eq14, on the scale of before."""
    heads = []
    for member, (head, (mean, sd), mine) in enumerate(zip(ensemble.heads, ensemble.scale, targets, strict=True)):
        own, goal = copy.deepcopy(head), torch.from_numpy(mine).float()

        def objective(
            places: Tensor, own: RewardHead = own, goal: Tensor = goal, mean: float = float(mean), sd: float = float(sd)
        ) -> tuple[Tensor, Mapping[str, float]]:
            return refinement_loss((samples.of(places).rewards(own) - mean) / sd, goal[places]), {}

        train_pairs(own, objective, torch.arange(len(goal)), encoder, seed=len(ensemble.heads) * seed + member)
        heads.append(own)
    return Heads(heads, ensemble.scale)


@dataclass(frozen=True)
class Draw:
    """One draw's outcomes by method and test, and the places that each method relabelled.

    signals: variance, error (|rank by mean reward - rank by level|), influence and gain, (answers,), nan where not
    measured; rewards: before, of the pool's answers, (members, answers in the pool); inside: which answers these are.
    """

    outcomes: dict[str, dict[str, np.ndarray]]
    places: dict[str, np.ndarray]
    signals: dict[str, np.ndarray]
    rewards: np.ndarray
    inside: np.ndarray


def draw(found: RealPool, encoder: Section, rules: Section, seed: int) -> Draw:
    """Train the members, select, relabel, refine and judge, by every method. rules: the section `p3_03_ugda`."""
    pooled = prompt_folds(found.prompts[ORDER], 2, seed) == 0
    inside = np.flatnonzero(pooled[found.groups])
    pool, levels = found.features[ANSWERS].of(inside), found.levels.ravel()[inside]
    ensemble = trained(found, pool, encoder, rules.members, seed)
    rewards, scores = ensemble.rewards(pool), influence(ensemble, pool, found, rules)

    def judged(by: Heads) -> dict[str, np.ndarray]:
        return found.outcomes({name: by.rewards(texts).mean(0) for name, texts in found.features.items()}, pooled)

    results, places = {LONGER: found.outcomes(found.lengths, pooled), BEFORE: judged(ensemble)}, {}
    results[WRITER] = found.nulls(pooled)
    for name, method in ARMS.items():
        taken = chosen(method, rewards, scores, rules, seed).places
        said = (levels_of(OWN, (), (), rewards) if method.expert == OWN else levels)[taken]
        targets = relabelled_rewards(said, rewards, seed, rules.noise_variance).targets
        results[name], places[name] = judged(refined(ensemble, pool.of(taken), targets, encoder, seed)), inside[taken]
    some = np.random.default_rng(seed).permutation(len(inside))[: rules.gain_samples]
    signals = {name: np.full(found.levels.size, np.nan) for name in ("variance", "error", "influence", "gain")}
    signals["variance"][inside] = rewards.var(0)
    signals["error"][inside] = rank_error(rewards.mean(0), levels)
    signals["influence"][inside] = OVER[rules.influence_over](scores, axis=1)
    exact = relabelled_rewards(levels, rewards, seed, 0.0).targets
    signals["gain"][inside[some]] = gains(ensemble, pool.of(some), exact[:, some], found)
    return Draw(results, places, signals, rewards, inside)


@dataclass(frozen=True)
class RealStudy:
    """All draws; a method's outcomes are (draws, prompts or pairs)."""

    found: RealPool
    draws: list[Draw]
    seeds: tuple[int, ...]

    def outcomes(self, arm: str, test: str) -> np.ndarray:
        """Shares of right orders, (draws, prompts or pairs), nan where a draw did not hold the prompt out."""
        return np.stack([each.outcomes[arm][test] for each in self.draws])

    def accuracy(self, arm: str, test: str) -> Interval:
        """Percent in the right order, over prompts and draws."""
        return mean_interval(self.outcomes(arm, test), groups=self.found.prompts[test]).scaled(100)

    def gain(self, arm: str, test: str, over: str = BEFORE) -> Interval:
        """Points over another method, paired by draw, prompt and pair."""
        both = (self.outcomes(each, test) for each in (arm, over))
        return difference_interval(*both, groups=self.found.prompts[test]).scaled(100)

    def evidence(self) -> dict[str, Interval]:
        """What the rule of p3.c8 asks for: points by UGDA's refinement on people's held-out pairs."""
        return {name: self.gain(UGDA, test) for name, test in PEOPLE.items()}

    def correlation(self, name: str) -> Interval:
        """Spearman's coefficient of two SIGNALS over a draw's answers, over prompts and draws."""
        products = np.full((len(self.draws), self.found.levels.size), np.nan)
        for row, each in enumerate(self.draws):
            both = np.stack([each.signals[signal] for signal in SIGNALS[name]])
            known = np.isfinite(both).all(0)
            products[row, known] = standardised_ranks(both[:, known]).prod(0)
        return mean_interval(products, groups=self.found.groups)

    def accuracy_records(self) -> list[Record]:
        """p3_05.real_accuracy: percent of right orders by method and test."""
        places = [(WRITER, test) for test in TESTS if test not in PEOPLE.values()]
        places += [(arm, test) for arm in (LONGER, BEFORE, *ARMS) for test in TESTS]
        options = {"unit": "%", "seeds": self.seeds}
        return [record("p3_05.real_accuracy", *place, self.accuracy(*place), **options) for place in places]

    def gain_records(self) -> list[Record]:
        """p3_05.real_gains: points over the ensemble as it was."""
        options = {"unit": "points", "seeds": self.seeds}
        return [
            record("p3_05.real_gains", test, arm, self.gain(arm, test), **options) for test in TESTS for arm in ARMS
        ]

    def selection_records(self) -> list[Record]:
        """p3_05.real_selection: what selecting rests on, as rank correlations."""
        id, column = "p3_05.real_selection", "rank correlation"
        return [record(id, name, column, self.correlation(name), seeds=self.seeds) for name in SIGNALS]

    def contrast_records(self, effect: float) -> list[Record]:
        """p3_05.real_contrasts: points of each selection over a random one, and how many draws would show such an effect.

        effect: in points. The deviation is that of a draw's mean difference; none for a single draw.
        """
        id, rows = "p3_05.real_contrasts", []
        for arm in [each for each in VARIANTS if each != DRAWN]:
            for test in TESTS:
                row, gap = f"{arm}, {test}", self.outcomes(arm, test) - self.outcomes(DRAWN, test)
                over = self.gain(arm, test, DRAWN)
                rows.append(record(id, row, "points over UGDA(RA)", over, unit="points", seeds=self.seeds))
                if len(gap) > 1:
                    spread = 100 * float(np.nanmean(gap, axis=1).std(ddof=1))
                    rows.append(record(id, row, "SD of a draw", spread, seeds=self.seeds))
                    rows.append(record(id, row, "# draws needed", needed(spread, effect), seeds=self.seeds))
        return rows

    def example(self) -> dict[str, str]:
        """One answer that UGDA relabelled in the first draw: its text, members' rewards, the judge's level, the targets."""
        first, place = self.draws[0], int(self.draws[0].places[UGDA][0])
        prompt, model = divmod(place, len(self.found.models))
        level = int(self.found.levels[prompt, model])
        before = first.rewards[:, np.flatnonzero(first.inside == place)[0]]
        shown = {"rewards before": before, "targets without noise": quantiles(first.rewards)[:, level - 1]}
        said = f"1 + {self.found.preference[prompt, model]:.1e}, level {level}"
        return {
            "prompt": "\n".join(f"{role}: {text}" for role, text in self.found.turns[prompt])[:600],
            f"answer of {self.found.models[model]}": self.found.said[place][:600],
            "GPT-4's recorded preference": said,
        } | {name: ", ".join(f"{value:.2f}" for value in values) for name, values in shown.items()}

    def numbers(self) -> dict[str, Interval | str]:
        """What the page's prose cites."""
        tests = {"order": ORDER, "direct": DIRECT} | {name: test for name, test in PEOPLE.items()}
        found = {f"real_{short}": self.gain(UGDA, test) for short, test in tests.items()}
        found |= {f"real_{short}_drawn": self.gain(UGDA, test, DRAWN) for short, test in tests.items()}
        found |= {f"real_{short}_own": self.gain("own labels", test) for short, test in tests.items()}
        found |= {f"real_{name.replace(' ', '_')}": self.correlation(name) for name in SIGNALS}
        counts = {
            "draws": len(self.draws),
            "labels": len(self.draws[0].places[UGDA]),
            "pool": len(self.draws[0].inside),
        }
        return found | {f"real_{name}": f"{count:,}" for name, count in counts.items()}


def study(found: RealPool, settings: Section, encoder: Section, rules: Section, seeds: Sequence[int]) -> RealStudy:
    """`real_draws` draws for every seed, numbered so that no two seeds share one."""
    count = settings.real_draws
    numbers = [count * seed + k for seed in seeds for k in range(count)]
    with threads(1):  # a head's products are too small to share out
        draws = [draw(found, encoder, rules, each) for each in progress(numbers, label="draws", at_once=True)]
    return RealStudy(found, draws, tuple(seeds))
