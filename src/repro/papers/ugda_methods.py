"""What UGDA is and what it is compared with: methods that differ in which samples are relabelled, by whom, and what PPO is paid.

A `Method` is what UGDA chose; its other values are the baselines, which get as many labels, and the controls. RLR and
UGDA(RA) differ in the random draw alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from repro.core.errors import SettingsError
from repro.core.settings import Section
from repro.objectives.ensemble import LCB, MEAN, UWO
from repro.objectives.selection import (
    Selection,
    influence_selection,
    random_selection,
    ranked_above,
    uncertainty_selection,
)
from repro.papers.experts import EXPERTS, JUDGE, OWN

NONE, RANDOM, UNCERTAINTY, INFLUENCE, BOTH, EVERYTHING = "none", "random", "uncertainty", "influence", "both", "all"
SFT, LAST = "SFT policy", "last policy"
CHOICES = {"selection": (NONE, RANDOM, UNCERTAINTY, INFLUENCE, BOTH, EVERYTHING), "aggregate": (MEAN, LCB, UWO)}
CHOICES |= {"expert": EXPERTS, "start": (SFT, LAST)}


@dataclass(frozen=True)
class Method:
    """UGDA's choices by default. Raises SettingsError for another choice.

    selection: which interaction samples are relabelled; aggregate: what PPO makes of the members' rewards when it
    trains the policy that is reported; expert: who relabels, the judge or, as a control without new labels, the
    ensemble's own mean; draw: which random draw; dimension: of the influence's projection, None for the settings'
    first; start: where the policy's second training begins; rescaled: whether refined members have mean 0 and SD 1 on
    the reference answers again, as they had before (squared error narrows rewards, and the KL penalty then weighs more).
    """

    selection: str = BOTH
    aggregate: str = MEAN
    expert: str = JUDGE
    draw: int = 0
    dimension: int | None = None
    start: str = SFT
    rescaled: bool = True

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if (said := getattr(self, name)) not in known:
                raise SettingsError(f"unknown {name} {said!r}", where="method", fix=f"choose from {', '.join(known)}")


PPO = "PPO"
UNLABELLED = {  # p3.table2, 0%
    PPO: Method(NONE),
    "LCB, no labels": Method(NONE, LCB),
    "UWO, no labels": Method(NONE, UWO),
}
BASELINES = {  # p3.table2, 25%; all on one random draw
    "LCB": Method(RANDOM, LCB, draw=1),
    "UWO": Method(RANDOM, UWO, draw=1),
    "RLR": Method(RANDOM, draw=1),
}
VARIANTS = {  # p3.fig4
    "UGDA(RA)": Method(RANDOM),
    "UGDA(UN)": Method(UNCERTAINTY),
    "UGDA(GR)": Method(INFLUENCE),
    "UGDA": Method(),
}
CONTROLS = {"own labels": Method(RANDOM, expert=OWN), "all labelled": Method(EVERYTHING)}
NARROW = {"RLR, not rescaled": Method(RANDOM, draw=1, rescaled=False), "UGDA, not rescaled": Method(rescaled=False)}
METHODS: Mapping[str, Method] = UNLABELLED | BASELINES | VARIANTS | CONTROLS | NARROW


def chosen(method: Method, rewards: np.ndarray, scores: np.ndarray | None, settings: Section, seed: int) -> Selection:
    """A method's choice, the same number of samples for every method but `all` (p3.eq9, p3.eq12).

    rewards: (members, samples); scores: (samples, subtasks), None where the method reads none. settings: gamma, eta,
    annotated_share, influence_over. Raises SettingsError if gamma and eta leave another share than `annotated_share`,
    and as the selections do.
    """
    count, over = rewards.shape[1], settings.influence_over
    size = budget(count, settings)
    if method.selection == EVERYTHING:
        return Selection(np.arange(count), np.ones(count))
    if method.selection == RANDOM:
        return random_selection(count, size, _draws(seed, 2 + method.draw))
    if method.selection == UNCERTAINTY:
        return uncertainty_selection(rewards, (count - size) / count, _draws(seed, 0))
    if method.selection == INFLUENCE:
        return influence_selection(scores, (count - size) / count, _draws(seed, 1), over)
    doubted = uncertainty_selection(rewards, settings.gamma, _draws(seed, 0))
    last = influence_selection(scores[doubted.places], settings.eta, _draws(seed, 1), over)
    ranks = np.zeros(count)
    ranks[doubted.places] = last.ranks
    return Selection(doubted.places[last.places], ranks, doubted.tied + last.tied)


def budget(samples: int, settings: Section) -> int:
    """How many samples are relabelled: those that p3.eq9 and then p3.eq12 leave, 25% in the paper.

    settings: gamma, eta, annotated_share. Raises SettingsError if the three do not agree.
    """
    share = (1 - settings.gamma) * (1 - settings.eta)
    if abs(share - settings.annotated_share) > 1e-9:
        what = f"gamma {settings.gamma} and eta {settings.eta} leave {share:g}, annotated_share is "
        fix = "set all three, so that every method gets as many labels"
        raise SettingsError(f"{what}{settings.annotated_share}", where="UGDA", fix=fix)
    doubted = len(ranked_above(np.arange(samples), settings.gamma, 0).places)
    return len(ranked_above(np.arange(doubted), settings.eta, 0).places)


def _draws(seed: int, purpose: int) -> int:
    """A seed for ties and random draws that no other stage has."""
    return int(np.random.SeedSequence([seed, 9, purpose]).generate_state(1)[0])
