"""p1.fig4 in the miniature world: the picks of RM-Step4 against those of RM-Step3 and against the raw SFT answer, at two sizes.

One pool of answers a prompt from each size's SFT policy serves every n, every selector and both estimators: sets of n without
replacement for what a pick is worth, and draws with replacement for the divergence, whose bound speaks of these. The world's
judge decides who wins, by its levels of 1 to 5, equal ones as half a win; gold says beside it whether the judge is right.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.evaluate.best_of_n import (
    best_of_n_curve,
    best_of_n_distribution,
    best_of_n_kl,
    best_of_n_kl_bound,
    raw_contest,
    selector_contest,
)
from repro.papers.collection import Collection
from repro.papers.collection_reviews import LEVELS
from repro.papers.filtered_models import LARGE, SMALL, STEP3, STEP4
from repro.papers.miniature import Pool, balanced, pool, rewards
from repro.train.reward_tokens import TokenRewardModel
from repro.world.sources import annotators
from repro.world.task import Task

SIZES, MODELS = (SMALL, LARGE), (STEP3, STEP4)
RANDOM, LONGEST, JUDGE, GOLD = "random", "longest", "the judge itself", "gold itself"
VOICES = (JUDGE, GOLD)  # who says what a pick is worth
PATH = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50)  # every n of the curves over the divergence, up to the pool's size
TEST_SEED = 29  # of the test prompts, which no other chapter has
PERCENT = 100.0


def prompts(per_category: int) -> list[Task]:
    """Test prompts, equally many of every category."""
    return balanced(per_category, TEST_SEED)


def sft_pool(size: str, world: Section, settings: Section) -> Pool:
    """`world_answers` answers of one size's SFT policy to every test prompt, drawn once for all who ask.

    world, settings: the sections `world` and `p1_03_best_of_n`.
    """
    return pool(size, prompts(settings.tasks_per_category), world, n=settings.world_answers)


def hyperparameters(world: Section, settings: Section, data: Sequence[Collection]) -> dict[str, object]:
    """What p1 lists, as it is here; pairs of its own are those that entered step 3, of the first seed.

    settings: the section `p1_03_best_of_n`.
    """
    return {
        "sft_sizes": [world[SMALL], world[LARGE]],
        "bon_n": settings.world_n,
        "score_levels": LEVELS,
        "pairs_own": f"{len(data[0].candidates):,}",
        "checkpoint": "last step",
    }


def levels(answers: Pool) -> np.ndarray:
    """The judge's level of each answer, 1 to 5: (prompts, n)."""
    asked = [task for task, row in zip(answers.tasks, answers.texts, strict=True) for _ in row]
    scores = annotators()["judge"].score(asked, [text for row in answers.texts for text in row])
    return scores.reshape(answers.gold.shape).astype(float)


@dataclass(frozen=True)
class SizeStudy:
    """One size's pool and what selectors make of it; every array ends in (prompts, len(ns)), those of models begin with seeds.

    raw: by selector and voice, win rate against one raw answer; contests: by voice, of RM-Step4's pick against RM-Step3's;
    gold: by selector, worth of the pick; path: by model its KL, proxy and gold on PATH, both in SDs; picks: by selector the
    place of its pick of the whole pool, (seeds, prompts); level: the judge's, (prompts, n).
    """

    answers: Pool
    raw: dict[tuple[str, str], np.ndarray]
    contests: dict[str, np.ndarray]
    gold: dict[str, np.ndarray]
    path: dict[str, dict[str, np.ndarray]]
    picks: dict[str, np.ndarray]
    level: np.ndarray

    @property
    def same(self) -> np.ndarray:
        """Whether both models pick the same text of the whole pool, (seeds, prompts)."""
        texts = (
            [[row[k] for row, k in zip(self.answers.texts, each, strict=True)] for each in self.picks[name]]
            for name in MODELS
        )
        return np.array(
            [[a == b for a, b in zip(*both, strict=True)] for both in zip(*texts, strict=True)], dtype=float
        )

    @property
    def different(self) -> float:
        """Different texts among a prompt's answers, the mean over prompts."""
        return float(np.mean([len(set(row)) for row in self.answers.texts]))


@dataclass(frozen=True)
class WorldBestOfN:
    """Both sizes on the same prompts; ns: the paper's; path: the n of the curves over the divergence."""

    ns: list[int]
    path: list[int]
    sizes: dict[str, SizeStudy]
    seeds: tuple[int, ...]

    def raw(self, name: str, n: int, size: str | None = None, voice: str = JUDGE) -> Interval:
        """Percent that the pick of n wins against one raw answer; both sizes together, paired by prompt, or one."""
        place, used = self.ns.index(n), SIZES if size is None else (size,)
        return mean_interval(np.mean([self.sizes[each].raw[name, voice][..., place] for each in used], axis=0)).scaled(
            PERCENT
        )

    def contest(self, size: str, n: int, voice: str = JUDGE) -> Interval:
        """Percent that RM-Step4's pick of n wins against RM-Step3's of the same n."""
        return mean_interval(self.sizes[size].contests[voice][..., self.ns.index(n)]).scaled(PERCENT)

    def evidence(self, id: str) -> dict[str, Interval]:
        """What the rule of p1.c3, p1.c4 or p1.c6 asks for in the world."""
        if id == "p1.c3":
            return {f"{_term(name)}_n{n}": self.raw(name, n) for name in MODELS for n in self.ns}
        if id == "p1.c4":
            return {f"{size}_n{n}": self.contest(size, n) for size in SIZES for n in self.ns}
        excess = self.largest_excess()
        return {"largest_excess": Interval(excess, excess, excess, len(self.sizes[SMALL].answers.tasks))}

    def largest_excess(self) -> float:
        """The most by which an exact divergence exceeds its bound, over sizes, models, seeds, prompts and n > 1."""
        beyond = best_of_n_kl_bound(self.path)
        more = np.array(self.path) > 1
        return max(
            float((own["kl"] - beyond)[..., more].max()) for each in self.sizes.values() for own in each.path.values()
        )

    def contest_records(self) -> list[Record]:
        """p1.fig4: percent that RM-Step4's pick wins against RM-Step3's, by size and by who judges."""
        return [
            record(
                "p1.fig4", f"{size}, by {voice}", f"n = {n}", self.contest(size, n, voice), unit="%", seeds=self.seeds
            )
            for voice in VOICES
            for size in SIZES
            for n in self.ns
        ]

    def raw_records(self) -> list[Record]:
        """p1_03.raw: percent that a pick wins against one raw answer of the same policy, to the judge."""
        found = []
        for size in SIZES:
            for name in (*MODELS, LONGEST, JUDGE, GOLD):
                seeds = self.seeds if name in MODELS else [0]
                for n in self.ns:
                    row = f"{size}, {name}"
                    found.append(record("p1_03.raw", row, f"n = {n}", self.raw(name, n, size), unit="%", seeds=seeds))
        return found

    def gold_records(self) -> list[Record]:
        """p1_03.gold: gold reward of the pick by size and selector; random is the pool's mean at every n."""
        found = []
        for size, each in self.sizes.items():
            for name, values in each.gold.items():
                seeds = self.seeds if name in MODELS else [0]
                for place, n in enumerate(self.ns):
                    found.append(
                        record(
                            "p1_03.gold", f"{size}, {name}", f"n = {n}", mean_interval(values[..., place]), seeds=seeds
                        )
                    )
        return found

    def kl_records(self) -> list[Record]:
        """p1.kl_bound: exact divergence on the pool by size and model, mean over prompts, and the bound; nats."""
        found = []
        for place, n in enumerate(self.path):
            for size, each in self.sizes.items():
                for name, own in each.path.items():
                    value, row = mean_interval(own["kl"][..., place]), f"world, {size} {name}"
                    found.append(record("p1.kl_bound", row, str(n), value, unit="nats", seeds=self.seeds))
            found.append(record("p1.kl_bound", "bound, world", str(n), float(best_of_n_kl_bound(n)), unit="nats"))
        return found

    def shortfall_records(self) -> list[Record]:
        """p1_03.shortfall: how far the exact divergence stays below its bound, by size and model, mean over prompts; nats."""
        return [
            record(
                "p1_03.shortfall",
                f"{size} {name}",
                str(n),
                mean_interval(bound - own["kl"][..., place]),
                seeds=self.seeds,
            )
            for size, each in self.sizes.items()
            for name, own in each.path.items()
            for place, (n, bound) in enumerate(zip(self.path, best_of_n_kl_bound(self.path), strict=True))
        ]

    def shown(self, place: int, size: str = SMALL) -> dict[str, str]:
        """One prompt and what each selector picks of the whole pool, first seed, with the judge's level and gold of the pick."""
        own = self.sizes[size]
        found = {"prompt": "\n".join(f"{role}: {text}" for role, text in own.answers.tasks[place].turns)}
        for name, picks in own.picks.items():
            k = picks[0, place]
            found[f"{name}: level {own.level[place, k]:.0f}, gold {own.answers.gold[place, k]:.2f}"] = (
                own.answers.texts[place][k]
            )
        return found

    def curve(self, size: str, name: str, what: str) -> tuple[np.ndarray, list[Interval]]:
        """Mean divergence along the path, (len(path),), and at each of its places proxy or gold of the pick."""
        own = self.sizes[size].path[name]
        return own["kl"].mean((0, 1)), [mean_interval(own[what][..., place]) for place in range(len(self.path))]


def _term(name: str) -> str:
    return name.removeprefix("RM-").lower()


def study(
    models: Mapping[str, Sequence[TokenRewardModel]], world: Section, settings: Section, seeds: Sequence[int]
) -> WorldBestOfN:
    """Both sizes' pools, picked from by the models of that size.

    models: rows of `filtered_models.MAIN`, a model a seed; settings: world_n, world_answers, tasks_per_category.
    """
    ns, path = list(settings.world_n), [n for n in PATH if n <= settings.world_answers]
    sizes = {}
    for size in SIZES:
        answers = sft_pool(size, world, settings)
        scored = rewards([model for name in MODELS for model in models[f"{size} {name}"]], answers)
        by_model = dict(zip(MODELS, scored.reshape(len(MODELS), len(seeds), *answers.gold.shape), strict=True))
        sizes[size] = size_study(answers, levels(answers), by_model, ns, path)
    return WorldBestOfN(ns, path, sizes, tuple(seeds))


def size_study(
    answers: Pool, level: np.ndarray, by_model: Mapping[str, np.ndarray], ns: Sequence[int], path: Sequence[int]
) -> SizeStudy:
    """One pool under all selectors. level: (prompts, n); by_model: rewards of RM-Step3 and RM-Step4, (seeds, prompts, n)."""
    values = {JUDGE: level, GOLD: np.round(answers.gold, 9)}
    fixed = {LONGEST: answers.characters.astype(float), **values}
    chosen = {name: list(scores) for name, scores in by_model.items()} | {
        name: [scores] for name, scores in fixed.items()
    }
    raw, worth = {}, {RANDOM: np.repeat(answers.gold.mean(1)[None, :, None], len(ns), axis=2)}
    for name, each in chosen.items():
        for voice, value in values.items():
            raw[name, voice] = np.stack([raw_contest(scores, value, ns) for scores in each])
        worth[name] = np.stack([best_of_n_curve(scores, answers.gold, ns) for scores in each])
    # equal rewards are equal texts, whose order changes nothing, so one order of ties is enough
    both = list(zip(by_model[STEP4], by_model[STEP3], strict=True))
    contests = {
        voice: np.stack([selector_contest(*pair, value, ns, orders=1).rate for pair in both])
        for voice, value in values.items()
    }
    paths = {name: _path(scores, answers.gold, path) for name, scores in by_model.items()}
    picks = {name: np.array([scores.argmax(1) for scores in each]) for name, each in chosen.items()}
    return SizeStudy(answers, raw, contests, worth, paths, picks, level)


def _path(scores: np.ndarray, gold: np.ndarray, path: Sequence[int]) -> dict[str, np.ndarray]:
    """A model's best-of-n from the pool, drawn with replacement: KL in nats, proxy and gold in SDs, (seeds, prompts, path).

    scores: (seeds, prompts, n). Proxy and gold are what the pick has above a raw answer to its prompt, for only differences
    within a prompt mean anything to a reward model.
    """
    base, found = np.full(gold.shape[1], 1 / gold.shape[1]), {"kl": [], "proxy": [], "gold": []}
    worth = _standardised(gold)
    for own in scores:
        proxy = _standardised(own)
        picked = np.array([[best_of_n_distribution(base, row, n) for n in path] for row in own])
        found["kl"].append([[best_of_n_kl(base, row, n) for n in path] for row in own])
        found["proxy"].append(np.einsum("pnk,pk->pn", picked, proxy))
        found["gold"].append(np.einsum("pnk,pk->pn", picked, worth))
    return {name: np.array(values) for name, values in found.items()}


def _standardised(values: np.ndarray) -> np.ndarray:
    """Each prompt's mean taken off, in units of the standard deviation that is left: (prompts, n)."""
    apart = values - values.mean(axis=1, keepdims=True)
    return apart / (apart.std() or 1.0)
