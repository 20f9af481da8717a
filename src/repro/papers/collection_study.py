"""What p1's framework did: the funnel (p1.fig3), the scores (p1.table1), costs, and the quality of what remains.

A seed draws its own prompts, answers, proxy reward model and labels; intervals are over prompts and seeds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.data import Pair
from repro.papers.collection import Candidate, Collection, collect
from repro.papers.collection_reviews import LEVELS, cell_of
from repro.papers.collection_rows import STEPS, swapped
from repro.world.annotators import FIRST

PERCENT = 100.0
LOSSES = ("step1_loss", "step3_loss", "step4_loss")
RETAINED = "retained"
NAMES = {
    "step1_loss": "lost at step 1",
    "step3_loss": "lost at step 3",
    "step4_loss": "lost at step 4",
    RETAINED: RETAINED,
}
STRONGER = "after step 2: the stronger model's answer"
JUDGED = "after step 3: the judge's higher level"
ONE_PERSON = "step 3's pairs, turned by one person each"
KEPT_JUDGED = "step 4's pairs, in the judge's direction"
NOT_TURNED = "after step 4, had what people turn been dropped"
PEOPLE = "after step 4: what people agree on"
STAGES = (STRONGER, JUDGED, ONE_PERSON, KEPT_JUDGED, NOT_TURNED, PEOPLE)


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Each seed's outcomes in a row of their own, (seeds, all prompts), nan under the other seeds' prompts."""
    found = np.full((len(parts), sum(map(len, parts))), np.nan)
    start = 0
    for row, part in zip(found, parts, strict=True):
        row[start : start + len(part)] = part
        start += len(part)
    return found


def interval_of(parts: Iterable[np.ndarray]) -> Interval:
    """Mean of several seeds' outcomes with its interval; nan, without one, if there is no outcome at all."""
    parts = [np.asarray(part, dtype=float) for part in parts]
    if not any(np.isfinite(part).any() for part in parts):
        return Interval(np.nan, np.nan, np.nan, 0)
    return mean_interval(joined(parts))


def in_order(pairs: Sequence[Pair]) -> np.ndarray:
    """1 where chosen is worth more in gold than rejected, 0 where less, a half where the same: (pairs,)."""
    gold = np.array([pair.extras["gold"] for pair in pairs], dtype=float).reshape(-1, 2)
    return (np.sign(np.round(gold[:, 0] - gold[:, 1], 9)) + 1) / 2


def longer_chosen(pairs: Sequence[Pair]) -> np.ndarray:
    """1 where chosen is the longer answer in characters, 0 where the shorter, a half where the same: (pairs,)."""
    apart = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=float)
    return (np.sign(apart) + 1) / 2


def dropped(entered: Iterable[Pair | Candidate], kept: Iterable[Pair | Candidate]) -> np.ndarray:
    """1 for each row that entered whose prompt is not among those kept."""
    left = {_prompt(row) for row in kept}
    return np.array([_prompt(row) not in left for row in entered], dtype=float)


def _prompt(row: Pair | Candidate) -> tuple:
    return row.prompt if isinstance(row, Pair) else row.task.turns


@dataclass(frozen=True)
class CollectionStudy:
    """One collection a seed, and what they have in common."""

    collections: list[Collection]
    seeds: tuple[int, ...]

    def funnel(self) -> dict[str, Interval]:
        """Share lost at steps 1, 3 and 4, and share of the prompts that come out as a pair."""
        return funnel_of(
            [(each.pool, each.hard, each.candidates, each.filtered, each.labelled) for each in self.collections]
        )

    def funnel_records(self) -> list[Record]:
        """p1.fig3: the losses and what is retained, as shares."""
        return [
            record("p1.fig3", NAMES[name], "share", value, seeds=self.seeds) for name, value in self.funnel().items()
        ]

    def evidence(self) -> dict[str, Interval]:
        """What the rule of p1.c5 asks for, in percent."""
        return {name: value.scaled(PERCENT) for name, value in self.funnel().items()}

    def matrix(self) -> np.ndarray:
        """p1.table1's counts: candidates by the level of the stronger model's answer (rows) and of the other (columns)."""
        counts = np.zeros((LEVELS, LEVELS), dtype=int)
        for each in self.collections:
            for pair, scores in zip(each.candidates, each.scores, strict=True):
                if not isinstance(cell := cell_of(pair, scores), str):
                    counts[cell[0] - 1, cell[1] - 1] += 1
        return counts

    def tally_records(self) -> list[Record]:
        """p1_01.cost: rows that entered and were kept at each step and what it took, mean over seeds; a sum below."""
        found, total = [], Counter()
        for place, step in enumerate(STEPS):
            tallies = [each.tallies[place] for each in self.collections]
            row = Counter({"# entered": _mean(t.entered for t in tallies), "# kept": _mean(t.kept for t in tallies)})
            row |= Counter({f"# {name}": _mean(t.cost[name] for t in tallies) for name in tallies[0].cost})
            found += [record("p1_01.cost", step, name, count, seeds=self.seeds) for name, count in row.items()]
            total.update({name: count for name, count in row.items() if name not in ("# entered", "# kept")})
        return found + [record("p1_01.cost", "all", name, count, seeds=self.seeds) for name, count in total.items()]

    def reason_records(self) -> list[Record]:
        """p1_01.reasons: rows dropped at each step by reason, mean over seeds, and as percent of what entered."""
        found = []
        for place, step in enumerate(STEPS):
            tallies = [each.tallies[place] for each in self.collections]
            counts = sum((Counter(tally.dropped) for tally in tallies), Counter())
            for reason, count in counts.most_common():
                share = PERCENT * count / sum(tally.entered for tally in tallies)
                found.append(record("p1_01.reasons", f"{step}: {reason}", "# dropped", count / len(tallies)))
                found.append(record("p1_01.reasons", f"{step}: {reason}", "of what entered (%)", share, unit="%"))
        return found

    def stages(self) -> dict[str, list[list[Pair]]]:
        """The data sets whose direction is compared with gold's, one list of pairs a seed."""
        found: dict[str, list[list[Pair]]] = {}
        for each in self.collections:
            one = [pair if pair.extras["labels"][0] == FIRST else swapped(pair) for pair in each.filtered]
            kept = [pair for pair in each.filtered if pair.extras["kept"]]
            agreed = [pair for pair in each.labelled if not pair.extras["turned"]]
            sets = (each.candidates, each.filtered, one, kept, agreed, each.labelled)
            for name, pairs in zip(STAGES, sets, strict=True):
                found.setdefault(name, []).append(pairs)
        return found

    def quality(self, stage: str) -> Interval:
        """Percent of a stage's pairs in gold's order, pairs of equal gold half."""
        return interval_of(map(in_order, self.stages()[stage])).scaled(PERCENT)

    def gain(self, before: str, after: str) -> Interval:
        """Points by which the share in gold's order rises from one stage to a later one, which holds some of its prompts.

        The ratio's linear terms by prompt of the first stage, so that what both stages share is not counted twice.
        """
        stages, parts = self.stages(), []
        count = {name: sum(map(len, stages[name])) for name in (before, after)}
        if not count[after]:
            return interval_of([])
        means = {name: np.concatenate([in_order(pairs) for pairs in stages[name]]).mean() for name in (before, after)}
        for earlier, later in zip(stages[before], stages[after], strict=True):
            outcome = {pair.prompt: value for pair, value in zip(later, in_order(later), strict=True)}
            late = [outcome.get(pair.prompt, means[after]) - means[after] for pair in earlier]
            own = np.array(late) * count[before] / count[after] - (in_order(earlier) - means[before])
            parts.append(own + means[after] - means[before])
        return interval_of(parts).scaled(PERCENT)

    def quality_records(self) -> list[Record]:
        """p1_01.quality: pairs, share in gold's order, of equal gold, of longer chosen (percent), and the mean gap in gold."""
        found = []
        for name, sets in self.stages().items():
            gaps = [np.array([np.subtract(*pair.extras["gold"]) for pair in pairs]) for pairs in sets]
            columns = {
                "in gold's order": (list(map(in_order, sets)), PERCENT, "%"),
                "equal gold": ([np.round(gap, 9) == 0 for gap in gaps], PERCENT, "%"),
                "longer chosen": (list(map(longer_chosen, sets)), PERCENT, "%"),
                "gap in gold": (gaps, 1.0, ""),
            }
            for column, (parts, factor, unit) in columns.items():
                value = interval_of(parts).scaled(factor)
                found.append(record("p1_01.quality", name, column, value, unit=unit, seeds=self.seeds))
        return found

    def share_turned(self) -> float:
        """Percent of the pairs kept at step 4 that people turned against the judge; nan if none was kept."""
        kept = sum(len(each.labelled) for each in self.collections)
        return PERCENT * sum(each.turned for each in self.collections) / kept if kept else float("nan")

    def labels_per_pair(self) -> float:
        """Labels that people gave for each pair that came out; nan if none did."""
        kept = sum(len(each.labelled) for each in self.collections)
        return sum(each.tallies[-1].cost["labels"] for each in self.collections) / kept if kept else float("nan")


def study(world: Section, settings: Section, seeds: Sequence[int]) -> CollectionStudy:
    """Collect once a seed. world: the section `world`; settings: `p1_01_collection`. Raises as `collect`."""
    return CollectionStudy([collect(world, settings, seed) for seed in seeds], tuple(seeds))


def funnel_of(
    rows: Sequence[tuple[Sequence, Sequence, Sequence[Pair], Sequence[Pair], Sequence[Pair]]],
) -> dict[str, Interval]:
    """Shares lost and retained, from each seed's pool, prompts kept, candidates, filtered and labelled pairs."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*LOSSES, RETAINED)}
    for pool, hard, candidates, filtered, labelled in rows:
        parts["step1_loss"].append(dropped(pool, hard))
        parts["step3_loss"].append(dropped(candidates, filtered))
        parts["step4_loss"].append(dropped(filtered, labelled))
        parts[RETAINED].append(1 - dropped(pool, labelled))
    return {name: interval_of(values) for name, values in parts.items()}


def _mean(counts: Iterable[int]) -> float:
    return float(np.mean(list(counts)))


def beside(found: CollectionStudy, published: Mapping[str, Mapping[str, float]]) -> dict[str, list[Record]]:
    """p1.fig3 as bars, in percent: what each step loses, and what remains, ours and published.

    What remains after step 3 is not published; its losses give it.
    """
    paper = {name: published[name]["value"] for name in (*LOSSES, RETAINED)}
    ours = found.evidence() | {
        "left1": interval_of(1 - dropped(each.pool, each.hard) for each in found.collections).scaled(PERCENT),
        "left3": interval_of(1 - dropped(each.pool, each.filtered) for each in found.collections).scaled(PERCENT),
    }
    paper |= {"left1": 1 - paper["step1_loss"], "left3": (1 - paper["step1_loss"]) * (1 - paper["step3_loss"])}
    panels = {
        "lost at each step": dict(zip(LOSSES, ("step 1", "step 3", "step 4"), strict=True)),
        "left of the prompts": {"left1": "step 1", "left3": "step 3", RETAINED: "step 4"},
    }
    return {
        title: [record("p1.fig3", "ours", column, ours[name], unit="%") for name, column in columns.items()]
        + [record("p1.fig3", "published", column, PERCENT * paper[name], unit="%") for name, column in columns.items()]
        for title, columns in panels.items()
    }
