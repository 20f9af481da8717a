"""UGDA where preferences are wrong: a share of the pairs turned round, all else as it was (p3 section 5.3).

    clean     the study of the chapter on UGDA, found and not repeated
    flipped   the same seeds, prompts and pairs; a `flip_share` of the pairs has chosen and rejected exchanged

So the arms are paired: what a method loses is its clean gold less its flipped gold, seed by seed and prompt by prompt.
Only D_p is turned. The expert who relabels errs by the same rule as before, and all methods but PPO have as many of its
labels: a method can lose less because labels mend its reward model, or because it had little to lose. So beside the loss
stand what each method gains over SFT in either arm, and the reward models themselves, by what flips did to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.artifacts import Artifact
from repro.core.errors import SettingsError
from repro.core.parallel import ahead
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair
from repro.papers.miniature import concordance, graded
from repro.papers.ugda import Interactions, chapter_settings
from repro.papers.ugda_judged import Judged, judged, policies_of
from repro.papers.ugda_measures import accuracy, rank_error
from repro.papers.ugda_methods import BASELINES, PPO, UNLABELLED, VARIANTS
from repro.papers.ugda_prompts import SUBTASKS, preferences, test_prompts
from repro.papers.ugda_study import OTHERS, UGDA, Study, apart, study
from repro.papers.uncertainty import standardised_ranks
from repro.train.ensemble import RewardEnsemble

CLEAN, FLIPPED = "clean", "flipped"
COMPARED = UNLABELLED | BASELINES | {UGDA: VARIANTS[UGDA]}  # the rows of p3.table2
BEFORE, RLR = "before refinement", "RLR"
MODELS = {BEFORE: PPO, RLR: RLR, UGDA: UGDA}  # ensembles by whose they are; LCB's and UWO's are RLR's
OFF, ON = "SFT's answers", "PPO's answers"
TURNED, LEFT = "turned pairs", "other pairs"
COLUMNS = (OFF, ON, TURNED, LEFT)
PERCENT = 100.0

Model = tuple[str, str]  # arm, and one of MODELS
Ordered = dict[str, np.ndarray]  # by column, the share of each prompt's or pair's answers that stand in gold's order


@dataclass(frozen=True)
class Labels:
    """D_p of every seed, (seeds, pairs): gold of chosen less rejected as people labelled, and which pairs are turned."""

    margins: np.ndarray
    turned: np.ndarray

    def margins_in(self, arm: str) -> np.ndarray:
        """Gold of chosen less rejected as an arm learns it, (seeds, pairs)."""
        return np.where(self.turned, -self.margins, self.margins) if arm == FLIPPED else self.margins

    def wrong(self, arm: str) -> Interval:
        """Percent of an arm's labels against gold, of pairs that gold tells apart."""
        margins = self.margins_in(arm)
        return mean_interval(apart(np.where(margins == 0, np.nan, margins < 0))).scaled(PERCENT)


@dataclass(frozen=True)
class Robustness:
    """Both arms; what their ensembles order, (seeds, test prompts) or (seeds, training pairs of all seeds).

    doubt: by arm, products of standardised ranks of variance and of error on D_inter, (seeds, samples of all seeds), whose
    mean is Spearman's correlation; groups: the prompt of each sample.
    """

    arms: dict[str, Study]
    labels: Labels
    ordered: dict[Model, Ordered]
    doubt: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.arms[CLEAN].seeds

    def lost(self, name: str, subtask: str | None = None) -> np.ndarray:
        """A method's clean gold less its flipped gold, (seeds, prompts)."""
        return self.arms[CLEAN].gold(name, subtask) - self.arms[FLIPPED].gold(name, subtask)

    def loss(self, name: str, subtask: str | None = None) -> Interval:
        """What a method loses by the flips, in gold."""
        return mean_interval(self.lost(name, subtask))

    def loss_against(self, name: str, other: str) -> Interval:
        """One method's loss less another's, paired; below 0 the first loses less."""
        return difference_interval(self.lost(name), self.lost(other))

    def order(self, who: Model, column: str) -> Interval:
        """Percent of answer pairs that an ensemble puts in gold's order."""
        return mean_interval(self.ordered[who][column]).scaled(PERCENT)

    def order_gain(self, ours: Model, other: Model, column: str) -> Interval:
        """Points that one ensemble orders better than another, paired."""
        return difference_interval(self.ordered[ours][column], self.ordered[other][column]).scaled(PERCENT)

    def doubted(self, arm: str) -> Interval:
        """Spearman's correlation of the members' variance with the ensemble's error on D_inter."""
        return mean_interval(self.doubt[arm], groups=self.groups[arm])

    def evidence(self) -> dict[str, Interval]:
        """What p3.c6 rests on, in gold of both subtasks together."""
        return {f"loss_against_{name.lower()}": self.loss_against(UGDA, name) for name in OTHERS}


def robustness(world: Section, settings: Section, own: Section, seeds: Sequence[int]) -> Robustness:
    """Both arms, trained and measured. The sections: `world`, `p3_03_ugda`, and the chapter's, whose `flip_share` is used.

    Raises SettingsError if no pair is turned, and as `study` does.
    """
    sections = {CLEAN: settings, FLIPPED: settings.pick(*settings, flip_share=own.flip_share)}
    sets = {arm: [preferences(each, seed) for seed in seeds] for arm, each in sections.items()}
    labels = labels_of(sets[CLEAN], sets[FLIPPED])
    arms = {arm: study(COMPARED, world, each, seeds) for arm, each in sections.items()}
    trained = [_training_pairs(pairs, turned) for pairs, turned in zip(sets[CLEAN], labels.turned, strict=True)]
    calls = {
        (arm, name): [
            (outcomes[method].ensemble, found, pairs, world, settings)
            for outcomes, found, pairs in zip(each.outcomes, each.found, trained, strict=True)
        ]
        for arm, each in arms.items()
        for name, method in MODELS.items()
    }
    ahead(_ordered, [call for each in calls.values() for call in each], world.workers)
    ordered = {name: _of_all_seeds([_ordered(*call) for call in each]) for name, each in calls.items()}
    doubt = {arm: apart([doubt_of(found) for found in each.found]) for arm, each in arms.items()}
    groups = {arm: _prompts(each.found) for arm, each in arms.items()}
    return Robustness(arms, labels, ordered, doubt, groups)


def labels_of(clean: Sequence[Sequence[Pair]], flipped: Sequence[Sequence[Pair]]) -> Labels:
    """What the flips did to each seed's pairs. Raises SettingsError if they turned none."""
    margins = np.array([[np.subtract(*pair.extras["gold"]) for pair in pairs] for pairs in clean])
    turned = np.array(
        [[a.chosen != b.chosen for a, b in zip(*both, strict=True)] for both in zip(clean, flipped, strict=True)]
    )
    if not turned.any(1).all():
        fix = "turn at least one pair of every seed"
        raise SettingsError("both arms learn the same pairs", where="flip_share", fix=fix)
    return Labels(margins, turned)


def doubt_of(found: Interactions) -> np.ndarray:
    """Standardised ranks of the members' variance times those of the ensemble's rank error by gold, (samples,).

    Raises DataError if gold or the mean says the same of every sample.
    """
    gold = graded(found.tasks, [[text] for text in found.texts])[:, 0]
    return standardised_ranks(found.rewards.var(0)) * standardised_ranks(rank_error(found.rewards.mean(0), gold))


def _prompts(found: Sequence[Interactions]) -> np.ndarray:
    """A label for the prompt of each sample, no two seeds sharing one, as `apart` puts the samples side by side."""
    return np.array([f"{place} {task.turns}" for place, each in enumerate(found) for task in each.tasks])


def _training_pairs(pairs: Sequence[Pair], turned: np.ndarray) -> dict[str, list[Pair]]:
    """The pairs that the flipped arm turns, and as many of the others, all as people labelled them."""
    kept = np.flatnonzero(~turned)[: turned.sum()]
    return {TURNED: [pairs[place] for place in np.flatnonzero(turned)], LEFT: [pairs[place] for place in kept]}


def _ordered(
    model: Artifact, found: Interactions, shown: dict[str, list[Pair]], world: Section, settings: Section
) -> Ordered:
    """What an ensemble puts in gold's order: test answers of both policies by prompt, training pairs one by one."""
    asked = test_prompts(settings)
    rows = {}
    for column, writer in ((OFF, found.sft), (ON, found.run)):
        by_subtask = accuracy(model, writer, asked, world, settings)
        rows[column] = np.concatenate([by_subtask[name] for name in SUBTASKS])
    scorer = RewardEnsemble(model, chapter_settings(world, settings))
    for column, pairs in shown.items():
        texts = [(pair.chosen, pair.rejected) for pair in pairs]
        rewards = scorer.member_rewards([pair.prompt for pair in pairs], texts).mean(0)
        rows[column] = concordance(rewards, np.array([pair.extras["gold"] for pair in pairs]))
    return rows


def _of_all_seeds(rows: Sequence[Ordered]) -> Ordered:
    """Test prompts are the same for all seeds, training pairs are not."""
    return {
        column: (apart if column in (TURNED, LEFT) else np.array)([row[column] for row in rows]) for column in COLUMNS
    }


def verdicts_of(found: Robustness, world: Section, settings: Section) -> dict[str, Judged]:
    """p3.fig5 by arm: the judge's levels of every method's answers to the test prompts. Raises as `judged` does."""
    arms = {arm: policies_of(each, [*OTHERS, UGDA]) for arm, each in found.arms.items()}
    return {arm: judged(policies, world, settings, found.seeds) for arm, policies in arms.items()}
