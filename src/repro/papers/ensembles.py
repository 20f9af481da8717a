"""p3's ensemble of reward LoRAs in the miniature world: what its members learn, how they differ, and what that tells.

k adapters on one frozen backbone, from different seeds and data orders (p3.eq1), their mean and variance (p3.eq8); beside
them one model that learned the same pairs with all its weights. All score the same answers of a policy to test prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from repro.core import artifacts
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, miniature
from repro.evaluate.best_of_n import best_of_n_curve
from repro.models.lora import LORA_SETTINGS
from repro.objectives.ensemble import LCB, MEAN, UWO, WCO, aggregate
from repro.papers.miniature import Pool, balanced, concordance, policy, pool, reward_models, rewards
from repro.train.ensemble import MEMBER_SETTINGS, RewardEnsemble, ensemble_training
from repro.world import tasks
from repro.world.sources import SOURCES
from repro.world.task import TRAIN

BACKBONE = "small"  # p3's reward models begin with the smaller of its sizes
REFERENCE_ANSWERS = 2  # to each prompt of the pool that says the members' scale
FULL, RAW, GOLD = "one full model", "mean, not calibrated", "gold itself"
LONGEST, RANDOM = "pick the longer", "random"
KNOWN, STRANGE, EVERY = "kinds in the pairs", "other kinds", "all"
AGGREGATES = (MEAN, LCB, UWO, WCO)
PERCENT = 100.0


def pairs_of(settings: Section, seed: int) -> list[Pair]:
    """The preference pairs an ensemble learns from. settings: section p3_01_ensembles."""
    return miniature.pairs(settings.pairs_from, settings.pairs, seed)


def learning(world: Section, settings: Section) -> Section:
    """What members are trained and read by: the world's shared settings, with the ensemble's own over them."""
    own = {key: settings[key] for key in ("members", "calibrated", "learning_rate", "epochs", *LORA_SETTINGS)}
    shared = [key for key in MEMBER_SETTINGS if key not in own and key != "model"]
    return world.pick(*shared, model=world[BACKBONE], **own)


def ensembles(world: Section, settings: Section, seeds: Sequence[int]) -> list[RewardEnsemble]:
    """An ensemble for each seed; the reference pool is the policy's answers to training prompts.

    world: the section `world`; settings: section p3_01_ensembles. Later chapters begin with the same ones.
    """
    how, start = learning(world, settings), policy(BACKBONE, world)
    asked = balanced(settings.reference_per_category, 1, TRAIN)
    known = pool(settings.policy, asked, world, n=REFERENCE_ANSWERS)
    reference = [task.turns for task in known.tasks], known.texts
    made = []
    for seed in seeds:
        call = ensemble_training(pairs_of(settings, seed), how, seed, start, reference=reference, workers=world.workers)
        made.append(RewardEnsemble(artifacts.run(**call), how))
    return made


@dataclass(frozen=True)
class EnsembleStudy:
    """Rewards of one pool: members' (seeds, k, prompts, n), raw and on one scale, and every scorer's (seeds, prompts, n).

    groups: which prompts belong to each category and to those in and out of the pairs, booleans (prompts,).
    """

    answers: Pool
    raw: np.ndarray
    members: np.ndarray
    scorers: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    ns: list[int]
    seeds: tuple[int, ...]
    histories: list

    @property
    def variance(self) -> np.ndarray:
        """R_v beside p3.eq8, divided by k: (seeds, prompts, n)."""
        return self.members.var(1)

    def accuracy(self, who: str, group: str = EVERY) -> Interval:
        """Percent of a prompt's answer pairs that are put in gold's order, over prompts and seeds."""
        return mean_interval(self._ordered(who)[:, self.groups[group]]).scaled(PERCENT)

    def gain(self, who: str, other: str, group: str = EVERY) -> Interval:
        """Points of accuracy of one scorer over another, paired by prompt and seed."""
        both = (self._ordered(each)[:, self.groups[group]] for each in (who, other))
        return difference_interval(*both).scaled(PERCENT)

    def _ordered(self, who: str) -> np.ndarray:
        return np.stack([concordance(each, self.answers.gold) for each in self.scorers[who]])

    def accuracy_records(self) -> list[Record]:
        """p3_01.accuracy: by scorer, for all prompts, those of kinds in the pairs and the others; then gains over the full model."""
        orderly = np.isfinite(self._ordered(MEAN)).any(0)  # prompts whose answers are not all worth the same
        kept = [group for group in (EVERY, KNOWN, STRANGE) if orderly[self.groups[group]].any()]
        found = [
            record("p3_01.accuracy", who, group, self.accuracy(who, group), unit="%", seeds=self.seeds)
            for who in self.scorers
            for group in kept
        ]
        for who, other in ((MEAN, FULL), (MEAN, "member 1"), (MEAN, RAW)):
            for group in kept:
                row = f"{who} less {other}"
                found.append(record("p3_01.accuracy", row, group, self.gain(who, other, group), seeds=self.seeds))
        return found

    def scale_records(self) -> list[Record]:
        """p3_01.scale: mean and SD of each member's rewards of the pool, before and after calibration; first seed."""
        found = []
        for member in range(self.raw.shape[1]):
            for when, values in (("raw", self.raw), ("calibrated", self.members)):
                rewards_of = values[0, member]
                for what, value in (("mean", rewards_of.mean()), ("SD", rewards_of.std())):
                    options = {"n": len(rewards_of), "seeds": self.seeds[:1]}
                    found.append(record("p3_01.scale", f"member {member + 1}", f"{what}, {when}", value, **options))
        return found

    def agreement_of_members(self) -> Interval:
        """Mean correlation of two members' rewards within a prompt, over prompts and seeds."""
        count, centred = self.members.shape[1], self.members - self.members.mean(-1, keepdims=True)
        size = np.sqrt((centred**2).sum(-1))
        found = []
        for one in range(count):
            for other in range(one):
                norm = size[:, one] * size[:, other]
                product = (centred[:, one] * centred[:, other]).sum(-1)
                found.append(np.where(norm > 0, product / np.where(norm > 0, norm, 1), np.nan))
        return mean_interval(np.mean(found, axis=0))

    def pick(self, who: str) -> np.ndarray:
        """Gold of the pick of n, (seeds, prompts, ns)."""
        return np.stack([best_of_n_curve(each, self.answers.gold, self.ns) for each in self.scorers[who]])

    def pick_records(self) -> list[Record]:
        """p3_01.best_of_n: gold of the pick by who picks, against n, and of gold's own pick."""
        shown = {who: self.pick(who) for who in (*AGGREGATES, "member 1", FULL, LONGEST)}
        shown[GOLD] = best_of_n_curve(self.answers.gold, self.answers.gold, self.ns)[None]
        return [
            record("p3_01.best_of_n", who, f"n = {n}", mean_interval(values[..., place]), seeds=self.seeds)
            for who, values in shown.items()
            for place, n in enumerate(self.ns)
        ]

    def over_mean(self, who: str, n: int | None = None) -> Interval:
        """Gold that another scorer's pick of n has above the mean's, paired; n: the last of `ns` if None."""
        at = -1 if n is None else self.ns.index(n)
        return difference_interval(self.pick(who)[..., at], self.pick(MEAN)[..., at])

    def over_mean_records(self) -> list[Record]:
        """p3_01.over_mean: gold of another pick less that of the mean's, at each n above 1."""
        return [
            record("p3_01.over_mean", f"{who} less mean", f"n = {n}", self.over_mean(who, n), seeds=self.seeds)
            for who in (*AGGREGATES[1:], "member 1", FULL)
            for n in self.ns[1:]
        ]


def study(world: Section, settings: Section, answers: Pool, seeds: Sequence[int]) -> EnsembleStudy:
    """Train an ensemble and a full model for each seed, and score the pool with all. settings: section p3_01_ensembles."""
    made = ensembles(world, settings, seeds)
    full = reward_models([(pairs_of(settings, seed), seed) for seed in seeds], world, BACKBONE)
    prompts = [task.turns for task in answers.tasks]
    raw = np.stack([each.member_rewards(prompts, answers.texts) for each in (_raw(one) for one in made)])
    scales = np.array([_scale(one) for one in made])
    members = (raw - scales[..., 0, None, None]) / scales[..., 1, None, None]
    scorers = {f"member {place + 1}": members[:, place] for place in range(members.shape[1])}
    weights = {LCB: {"weight": settings.lcb_beta}, UWO: {"weight": settings.uwo_weight, "ddof": 0}}
    for how in AGGREGATES:
        scorers[how] = _each(members, lambda one, how=how: aggregate(one, how, **weights.get(how, {})))
    scorers |= {RAW: raw.mean(1), FULL: rewards(full, answers)}
    draws = np.random.default_rng(0).random((len(seeds), *answers.gold.shape))
    scorers |= {LONGEST: np.repeat(answers.characters[None].astype(float), len(seeds), 0), RANDOM: draws}
    ns = [n for n in settings.bon_n if n <= answers.gold.shape[1]]
    histories = [one.histories for one in made]
    groups = groups_of(answers, settings.pairs_from)
    return EnsembleStudy(answers, raw, members, scorers, groups, ns, tuple(seeds), histories)


def _raw(made: RewardEnsemble) -> RewardEnsemble:
    """The same ensemble with its rewards as they are."""
    how = made.settings
    return RewardEnsemble(made.artifact, how.pick(*(key for key in how if key != "calibrated"), calibrated=False))


def _scale(made: RewardEnsemble) -> np.ndarray:
    """Means and SDs of the members over the reference pool, (k, 2)."""
    how = made.settings
    on = RewardEnsemble(made.artifact, how.pick(*(key for key in how if key != "calibrated"), calibrated=True))
    return on.scale


def _each(members: np.ndarray, function: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    return np.stack([function(torch.from_numpy(each)).numpy() for each in members])


def groups_of(answers: Pool, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Booleans (prompts,): all, those of categories that the named sources ask for, the others, and each category."""
    asked = np.array([task.category for task in answers.tasks])
    seen = {category for name in names for category in SOURCES[name].categories}
    known = np.isin(asked, sorted(seen))
    found = {EVERY: np.ones(len(asked), dtype=bool), KNOWN: known, STRANGE: ~known}
    return found | {name: asked == name for name in tasks.CATEGORIES}


def shown(found: EnsembleStudy, place: int = 0) -> Mapping[str, str]:
    """Two answers to one prompt with every member's reward, mean and SD, and gold: the best and the worst by the mean."""
    mean, prompt = found.scorers[MEAN][0, place], found.answers.tasks[place].turns[-1][1]
    text = {"prompt": prompt}
    for name, at in (("highest mean", int(mean.argmax())), ("lowest mean", int(mean.argmin()))):
        said = ", ".join(f"{value:+.2f}" for value in found.members[0, :, place, at])
        spread = found.members[0, :, place, at].std()
        head = (
            f"{name} (members {said}; mean {mean[at]:+.2f}, SD {spread:.2f}; gold {found.answers.gold[place, at]:.2f})"
        )
        text[head] = found.answers.texts[place][at]
    return text
