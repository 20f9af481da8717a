"""p3's reward ensemble before and after refinement, in the miniature world: what new labels teach it, and what the rest does.

All that is refined starts from one ensemble and the same interaction samples, so differences are paired. `own labels` is
the same training on the ensemble's own opinion, `all labelled` the most that the judge's levels can give.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

from repro.core.parallel import run_all
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, miniature
from repro.data.schema import Turns
from repro.evaluate.preference import random_baseline
from repro.papers import court
from repro.papers.miniature import concordance, pool
from repro.papers.ugda import Interactions, Outcome, chapter_settings, collect, refinement
from repro.papers.ugda_methods import METHODS
from repro.papers.ugda_prompts import HARMLESS, SOURCE, SUBTASKS, subtask_of, test_prompts
from repro.papers.world_reward_models import compared
from repro.train.ensemble import RewardEnsemble
from repro.world.task import TEST, Task

BEFORE, RLR, UGDA, OWN, ALL = "before", "RLR", "UGDA", "own labels", "all labelled"
REFINED = (RLR, "UGDA(RA)", "UGDA(UN)", "UGDA(GR)", UGDA, OWN, ALL)  # of METHODS, whose LCB and UWO share RLR's
MODELS = (BEFORE, *REFINED)
LONGER, GOLD, RANDOM = "pick the longer", "gold itself", "random"
BENCH, PEOPLE = "RewardBench", "people's pairs, by people"
PAIRS, SFT, PPO = "people's pairs, by gold", "SFT's answers", "PPO's answers"  # all three in gold's order
CONTRASTS = [(name, BEFORE) for name in (UGDA, RLR, OWN, ALL)]
CONTRASTS += [(UGDA, other) for other in (RLR, "UGDA(RA)", "UGDA(UN)", "UGDA(GR)", OWN)]
BESIDE = {f"{UGDA}, {name}": f"UGDA_{name}" for name in SUBTASKS}  # our rows and the paper's
PERCENT = 100.0


@dataclass(frozen=True)
class Ordered:
    """Answers that every model rewards, and what they are worth: what a reward model's order is held against.

    rewards: of each model, (seeds, members, prompts, n); worth: (seeds, prompts, n); parts: section or subtask of each
    prompt; groups: prompts that belong together.
    """

    rewards: dict[str, np.ndarray]
    worth: np.ndarray
    parts: np.ndarray
    groups: list[str]

    def outcomes(self, who: str) -> np.ndarray:
        """Share of each prompt's answer pairs in the right order by the members' mean, (seeds, prompts); a tie is half."""
        both = zip(self.rewards[who].mean(1), self.worth, strict=True)
        return np.stack([concordance(reward, worth) for reward, worth in both])

    def accuracy(self, who: str, part: str) -> Interval:
        """Percent of answer pairs in the right order, over prompts and seeds."""
        return self._mean(self.outcomes(who), part)

    def gain(self, who: str, other: str, part: str) -> Interval:
        """Points of accuracy of one model over another, paired by prompt and seed."""
        return self._mean(self.outcomes(who) - self.outcomes(other), part)

    def beyond(self, test: "Ordered", who: str, other: str, part: str) -> Interval | None:
        """The gain here less that on another test of the same prompts, paired; None if no prompt has answers to order in both."""
        here, there = (each.outcomes(who) - each.outcomes(other) for each in (self, test))
        known = np.isfinite((here - there)[:, self.parts == part]).any()
        return self._mean(here - there, part) if known else None

    @property
    def kept(self) -> list[str]:
        """Parts in which some prompt's answers differ in worth: the others have no order to find."""
        differs = np.round(np.ptp(self.worth, axis=-1), 9).any(0)
        return [part for part in dict.fromkeys(self.parts.tolist()) if differs[self.parts == part].any()]

    def _mean(self, values: np.ndarray, part: str) -> Interval:
        places = np.flatnonzero(self.parts == part)
        return mean_interval(values[:, places], groups=[self.groups[place] for place in places]).scaled(PERCENT)


@dataclass(frozen=True)
class RefinedStudy:
    """The models' rewards of every test; spread: raw reward of one unit, (seeds, members); what was selected, by seed."""

    tests: dict[str, Ordered]
    spread: np.ndarray
    pairs: list[Pair]
    found: list[Interactions]
    outcomes: list[dict[str, Outcome]]
    seeds: tuple[int, ...]

    def section_records(self) -> list[Record]:
        """p3.fig6: RewardBench's sections in percent, of every model and the nulls."""
        bench, rows, options = self.tests[BENCH], [], {"unit": "%", "seeds": self.seeds}
        for part in bench.kept:
            rows += [record("p3.fig6", who, part, bench.accuracy(who, part), **options) for who in (*MODELS, LONGER)]
            chance = random_baseline(int((bench.parts == part).sum())).scaled(PERCENT)
            rows.append(record("p3.fig6", RANDOM, part, chance, unit="%"))
        return rows

    def accuracy_records(self, part: str) -> list[Record]:
        """p3_05.helpful or p3_05.harmless: percent in order, by model and test."""
        return [
            record(f"p3_05.{part}", who, name, test.accuracy(who, part), unit="%", seeds=self.seeds)
            for name, test in self._by_test(part).items()
            for who in (*MODELS, LONGER)
        ]

    def _by_test(self, part: str) -> dict[str, Ordered]:
        return {name: self.tests[name] for name in (PEOPLE, PAIRS, SFT, PPO) if part in self.tests[name].kept}

    def gain_records(self, part: str) -> list[Record]:
        """Points of accuracy of CONTRASTS on a subtask, by test, and on PPO's answers less on SFT's to the same prompt."""
        rows, tests, id = [], self._by_test(part), f"p3_05.{part}_gains"
        for who, other in CONTRASTS:
            found = {name: test.gain(who, other, part) for name, test in tests.items()}
            if less := self.tests[PPO].beyond(self.tests[SFT], who, other, part):
                found["PPO's less SFT's"] = less
            rows += [record(id, f"{who} less {other}", *one, seeds=self.seeds) for one in found.items()]
        return rows

    def section_gain_records(self) -> list[Record]:
        """p3_05.section_gains: points of CONTRASTS in the sections of RewardBench."""
        id, bench = "p3_05.section_gains", self.tests[BENCH]
        places = [(*contrast, part) for contrast in CONTRASTS for part in bench.kept]
        gain = bench.gain
        return [record(id, f"{a} less {b}", part, gain(a, b, part), seeds=self.seeds) for a, b, part in places]

    def evidence(self, id: str) -> dict[str, Interval]:
        """What the rule of p3.c8 or p3.c9 asks for: points that UGDA's refinement gains."""
        name, parts = (PEOPLE, SUBTASKS) if id == "p3.c8" else (BENCH, ("Chat", "Chat Hard", "Safety"))
        return {part.lower().replace(" ", "_"): self.tests[name].gain(UGDA, BEFORE, part) for part in parts}

    def reward_records(self) -> list[Record]:
        """p3_05.rewards: mean and members' variance of the rewards of two policies' answers, in SDs and their square."""
        rows = []
        for name in (SFT, PPO):
            for who in MODELS:
                members = self.tests[name].rewards[who]
                for what, values in (("mean", members.mean(1)), ("variance", members.var(1))):
                    found = mean_interval(values.mean(-1))
                    rows.append(record("p3_05.rewards", who, f"{what}, {name}", found, seeds=self.seeds))
            gold = mean_interval(self.tests[name].worth.mean(-1))
            rows.append(record("p3_05.rewards", "gold", f"mean, {name}", gold, seeds=self.seeds))
        return rows

    def selected_records(self) -> list[Record]:
        """p3_05.selected: labels asked, and percent of what is relabelled that is harmless, over prompts of all seeds."""
        rows = []
        for who in REFINED:
            harmless, groups = [], []
            for seed, found, outcomes in zip(self.seeds, self.found, self.outcomes, strict=True):
                places = outcomes[who].selection.places
                harmless += [subtask_of(found.tasks[place]) == HARMLESS for place in places]
                groups += [f"{seed} {found.tasks[place].turns}" for place in places]
            labels = float(np.mean([each[who].labels for each in self.outcomes]))
            values = {"# labels": labels, "harmless (%)": mean_interval(harmless, groups=groups).scaled(PERCENT)}
            rows += [record("p3_05.selected", who, what, each, seeds=self.seeds) for what, each in values.items()]
        return rows

    def margins(self, who: str) -> np.ndarray:
        """Chosen less rejected in raw reward, a log-odds by p3.eq1, mean over members: (seeds, people's pairs)."""
        raw = self.tests[PEOPLE].rewards[who] * self.spread[:, :, None, None]
        return (raw[..., 0] - raw[..., 1]).mean(1)

    def calibration_records(self, models: Sequence[str] = (BEFORE, RLR, UGDA, OWN, ALL)) -> list[Record]:
        """p3_05.calibration: what the margins say of people's labels; then each less before, paired."""
        groups, rows = self.tests[PEOPLE].groups, []
        for what, function in CALIBRATION.items():
            values = {who: function(self.margins(who)) for who in models}
            found = {who: mean_interval(each, groups=groups) for who, each in values.items()}
            for who in models[1:]:
                found[f"{who} less {BEFORE}"] = difference_interval(values[who], values[BEFORE], groups=groups)
            rows += [record("p3_05.calibration", row, what, each, seeds=self.seeds) for row, each in found.items()]
        return rows

    def reliability_records(self, models: Sequence[str] = (BEFORE, UGDA), parts: int = 5) -> list[Record]:
        """p3_05.reliability: percent of people's pairs in order against the confidence stated, in equal parts by it."""
        rows = []
        for who in models:
            margins = self.margins(who)
            stated, order = expit(np.abs(margins)), np.argsort(np.abs(margins), axis=None, kind="stable")
            for part in np.array_split(order, parts):
                inside = np.isin(np.arange(margins.size), part).reshape(margins.shape)
                right = np.where(inside, _right(margins), np.nan)
                found = mean_interval(right, groups=self.tests[PEOPLE].groups).scaled(PERCENT)
                column = f"stated = {PERCENT * stated[inside].mean():.2f}"
                rows.append(record("p3_05.reliability", who, column, found, seeds=self.seeds))
        return rows

    def shown(self) -> dict[str, str]:
        """The people's pair whose margin UGDA's refinement moved most, first seed: members' rewards before and after."""
        test, moved = self.tests[PEOPLE], np.abs(self.margins(UGDA)[0] - self.margins(BEFORE)[0])
        pair = self.pairs[place := int(moved.argmax())]
        text = {f"prompt ({test.parts[place]})": "\n".join(f"{role}: {said}" for role, said in pair.prompt)}
        for side, (name, said) in enumerate((("chosen", pair.chosen), ("rejected", pair.rejected))):
            members = {who: test.rewards[who][0, :, place, side] for who in (BEFORE, UGDA)}
            told = "; ".join(f"{who} {', '.join(f'{each:+.2f}' for each in found)}" for who, found in members.items())
            text[f"{name} (gold {pair.extras['gold'][side]:.2f}; {told})"] = said
        return text


def _right(margins: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.sign(margins)


# lower is better; above 0, the last says that the model is surer than it is right
CALIBRATION = {
    "log loss (nats)": lambda margins: np.logaddexp(0, -margins),
    "overconfidence (points)": lambda margins: PERCENT * (expit(np.abs(margins)) - _right(margins)),
}


@dataclass(frozen=True)
class _Set:
    """Answers of one seed's test: texts (prompts)(n), worth (prompts, n), part of each prompt."""

    prompts: list[Turns]
    texts: list[list[str]]
    worth: np.ndarray
    parts: list[str]


def published_records(
    accuracy: Callable[..., Interval], where: str, models: Sequence[str], tests: Mapping[str, str], seeds: list[int]
) -> list[Record]:
    """p3.fig7: percent of people's held-out pairs ordered as labelled. tests: of each subtask, as `accuracy` calls it."""
    places = [(f"{who}, {part}", accuracy(who, test)) for who in models for part, test in tests.items()]
    return [record("p3.fig7", row, where, found, unit="%", seeds=seeds) for row, found in places]


def study(world: Section, ugda: Section, settings: Section, seeds: Sequence[int], items: int) -> RefinedStudy:
    """Refine every ensemble of REFINED for every seed and let all of them reward the same answers.

    world, ugda, settings: the sections `world`, `p3_03_ugda` and `p3_05_reward_models` (test_pairs); items: of each
    subset of the world's RewardBench. No policy is trained but the one that collected. Raises as p3.alg1's stages do.
    """
    own = chapter_settings(world, ugda)
    pairs = sorted(miniature.pairs([SOURCE], settings.test_pairs, 0, TEST), key=_part, reverse=True)  # helpful first
    bench, gold = court.rewardbench(items), np.array([pair.extras["gold"] for pair in pairs])
    fixed = {BENCH: _compared(bench, [row["section"] for row in bench])}
    fixed[PEOPLE] = _compared(pairs, [_part(pair) for pair in pairs])
    sets, rewards, spread, found, outcomes = [], [], [], [], []
    for seed in seeds:
        found.append(collect(world, ugda, seed))
        ways = {name: replace(METHODS[name], rescaled=False) for name in REFINED}  # rewards that can be compared
        outcomes.append({name: refinement(each, found[-1], world, ugda, seed) for name, each in ways.items()})
        made = {BEFORE: found[-1].ensemble} | {name: each.ensemble for name, each in outcomes[-1].items()}
        models = {name: RewardEnsemble(each, own) for name, each in made.items()}
        sets.append(fixed | _written(found[-1], world, ugda))
        rewards.append(_rewards(models, sets[-1], world.workers))
        rewards[-1][PEOPLE][GOLD] = gold[None]
        scale = models[BEFORE].scale
        spread.append(np.ones(ugda.members) if scale is None else scale[:, 1])
    tests = {name: _ordered([each[name] for each in sets], [each[name] for each in rewards]) for name in sets[0]}
    tests[PAIRS] = replace(tests[PEOPLE], worth=np.tile(gold, (len(seeds), 1, 1)))
    return RefinedStudy(tests, np.array(spread), pairs, found, outcomes, tuple(seeds))


def _part(pair: Pair) -> str:
    return subtask_of(Task.of(pair.extras["task"]))


def _compared(rows: Sequence[Mapping | Pair], parts: list[str]) -> _Set:
    """Pairs of which the first answer is said to be the better one."""
    prompts, *both = zip(*compared(rows), strict=True)
    texts = [list(pair) for pair in zip(*both, strict=True)]
    return _Set(list(prompts), texts, np.tile([1.0, 0.0], (len(rows), 1)), parts)


def _written(found: Interactions, world: Section, ugda: Section) -> dict[str, _Set]:
    """Answers to the test prompts by the SFT policy and by the policy that PPO made of it, graded by gold."""
    asked, sets = test_prompts(ugda), {}
    for name, model in ((SFT, found.sft), (PPO, found.run)):
        answers = pool(model, asked, world, n=ugda.accuracy_answers)
        parts = [subtask_of(task) for task in asked]
        sets[name] = _Set([task.turns for task in asked], answers.texts, answers.gold, parts)
    return sets


def _rewards(
    models: Mapping[str, RewardEnsemble], sets: Mapping[str, _Set], workers: int | None
) -> dict[str, dict[str, np.ndarray]]:
    """By test and model, the members' rewards, (members, prompts, n); the answers' lengths are a model of one member."""
    run_all([model.scoring(one.prompts, one.texts) for model in models.values() for one in sets.values()], workers)
    return {
        name: {who: model.member_rewards(one.prompts, one.texts) for who, model in models.items()}
        | {LONGER: np.array([[[float(len(text)) for text in row] for row in one.texts]])}
        for name, one in sets.items()
    }


def _ordered(sets: Sequence[_Set], rewards: Sequence[Mapping[str, np.ndarray]]) -> Ordered:
    """One test of all seeds."""
    stacked = {who: np.stack([each[who] for each in rewards]) for who in rewards[0]}
    groups = [str(turns) for turns in sets[0].prompts]
    return Ordered(stacked, np.stack([each.worth for each in sets]), np.array(sets[0].parts), groups)
