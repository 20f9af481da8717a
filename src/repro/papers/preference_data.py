"""p2's preference data: ten sources as p2.table5 counts them, and what cleaning removes.

In the miniature world the sources stand in the paper's proportions, and gold says which labels are right. Real sets are
counted beside them where they are at hand; a set that is not is named, and the rest goes on.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from repro.core import artifacts, inventory
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.data import Pair, hh_rlhf, llmbar, miniature, pku_saferlhf
from repro.models.load import load_tokenizer
from repro.models.scratch import SIZES, scratch
from repro.papers import inputs
from repro.world import sources

ALL, KEPT = "all ten", ""
RULES = ("empty", "equal", "tie", "small margin", "repeated", "prompt is full")  # in the order they are asked
REAL = {  # real sets of pairs: the paper's row, what is at hand of it
    hh_rlhf.NAME: ("HH-RLHF", "HH-RLHF, public test splits"),
    pku_saferlhf.NAME: ("PKU-SafeRLHF-30K", "PKU-SafeRLHF, test pairs with one safe answer"),
    llmbar.NAME: (None, "LLMBar"),
}
TABLE5 = "p2.table5"
Row = sources.Row
Count = Callable[[Sequence[str]], np.ndarray]


# lengths


def words(texts: Sequence[str]) -> np.ndarray:
    """Words of each text, (texts,): the measure where no tokenizer is at hand."""
    return np.array([len(text.split()) for text in texts], dtype=float)


def tokens_of(name: str) -> Count:
    """Tokens of each text without special ones, by the tokenizer of a model's id or folder; equal texts are read once.

    Raises MissingInput if it is nowhere.
    """
    tokenizer = load_tokenizer(name)

    def count(texts: Sequence[str]) -> np.ndarray:
        distinct = list(dict.fromkeys(texts))
        found = tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
        length = {text: len(ids) for text, ids in zip(distinct, found, strict=True)}
        return np.array([length[text] for text in texts], dtype=float)

    return count


def world_tokens(world: Section) -> tuple[str, Count]:
    """The name of the tokenizer that the tier's small policy reads the world with, and its count of tokens."""
    if world.small not in SIZES:
        return world.small, tokens_of(world.small)
    texts = artifacts.external(miniature.lexicon() / miniature.TEXTS)
    made = artifacts.run(scratch, settings={"name": world.small}, inputs={"texts": texts}, seed=0)
    return "the world's own words, digits and marks", tokens_of(str(made.path))


# cleaning


@dataclass(frozen=True)
class Collection:
    """Raw rows by source, (seeds)(rows), and why each is of no use, `KEPT` where it is of use."""

    rows: dict[str, list[list[Row]]]
    reasons: dict[str, list[list[str]]]
    seeds: tuple[int, ...]

    def kept(self, name: str) -> list[list[Row]]:
        """The rows of use of one source, (seeds)(rows)."""
        both = zip(self.rows[name], self.reasons[name], strict=True)
        return [[row for row, why in zip(rows, reasons, strict=True) if why == KEPT] for rows, reasons in both]

    def members(self) -> dict[str, list[str]]:
        """The sources of each line of a table: each alone, and all together."""
        return {name: [name] for name in self.rows} | {ALL: list(self.rows)}

    def counts(self, names: Iterable[str]) -> dict[str, int]:
        """Rows of these sources by reason, over all seeds."""
        every = [why for name in names for reasons in self.reasons[name] for why in reasons]
        return {why: every.count(why) for why in (KEPT, *RULES)}


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why `world.sources.clean` sets each row aside, `KEPT` where it does not.

    A row that is fine alone was set aside for those before it: as a repeat of one kept, or because its prompt was full.
    """
    kept = {id(row) for row in sources.clean(rows)[0]}
    seen, found = set(), []
    for row in rows:
        key = (row["prompt"], row["chosen"], row["rejected"])
        if id(row) in kept:
            seen.add(key)
            found.append(KEPT)
        else:
            alone = next(iter(sources.clean([row])[1]), None)
            found.append(alone or ("repeated" if key in seen else "prompt is full"))
    return found


def collected(settings: Section, seeds: Sequence[int]) -> Collection:
    """`rows` raw rows of the ten sources in the proportions of p2.table5, and what cleaning says of each.

    Raises SettingsError if so few rows leave a source without any.
    """
    sizes = sources.sizes("mix2", settings.rows)
    if bare := [name for name, size in sizes.items() if size < 1]:
        fix = "use more rows: the smallest source has one in 350"
        raise SettingsError(f"{settings.rows} rows leave {bare[0]} without any", where="rows", fix=fix)
    drawn = {
        name: [sources.raw(name, size, seed) for seed in seeds]
        for name, size in progress(sizes.items(), label="collecting sources")
    }
    why = {name: [reasons(rows) for rows in found] for name, found in drawn.items()}
    return Collection(drawn, why, tuple(seeds))


def removed(found: Collection, names: Sequence[str], draws: int) -> Interval:
    """Share of the raw rows of these sources that cleaning removes, percent; over prompts of all seeds (p2.c13)."""
    prompts = [f"{row['prompt']}" for name in names for rows in found.rows[name] for row in rows]
    gone = [why != KEPT for name in names for reasons in found.reasons[name] for why in reasons]
    return mean_interval(np.array(gone, dtype=float), groups=prompts, draws=draws).scaled(100)


def cleaning_records(found: Collection, draws: int) -> list[Record]:
    """p2_01.cleaning: by source and for all, rows a seed collected and left after each rule, and the percent removed."""
    table = []
    for name, members in found.members().items():
        counts, share = found.counts(members), removed(found, members, draws)
        left = sum(counts.values()) / len(found.seeds)
        columns: dict[str, Interval | float] = {"# collected": left}
        for rule in RULES:
            left -= counts[rule] / len(found.seeds)
            columns[f"# after {rule}"] = left
        columns["removed (%)"] = share
        options = {"n": share.n, "seeds": found.seeds}
        table += [record("p2_01.cleaning", name, column, value, **options) for column, value in columns.items()]
    return table


def shares_removed(found: Collection) -> dict[str, dict[str, float]]:
    """Percent of the raw rows that each rule removes, by source and for all: what the stacked bars show."""
    table = {}
    for name, members in found.members().items():
        counts = found.counts(members)
        total = sum(counts.values())
        table[name] = {rule: 100 * counts[rule] / total for rule in RULES}
    return table


def samples(found: Collection, real: Mapping[str, Sequence[Pair]]) -> dict[str, str]:
    """One whole row of every kind of label in the world, and of the first real set, as they stand in the data."""
    first: dict[str, Row] = {}
    for name in found.rows:
        first.setdefault(sources.SOURCES[name].annotator, found.kept(name)[0][0])
    shown = {f"{row['source']}, labelled by {kind}": row for kind, row in first.items()}
    shown |= {f"{label} (real)": asdict(pairs[0]) for label, pairs in itertools.islice(real.items(), 1)}
    return {label: json.dumps(row, indent=1, ensure_ascii=False) for label, row in shown.items()}


# p2.table5


def _said(turns: Iterable[tuple[str, str]]) -> str:
    return "\n".join(text for _, text in turns)


def table_rows(
    label: str, by_seed: Sequence[Sequence[Pair]], count: Count, draws: int, seeds: Sequence[int]
) -> list[Record]:
    """One line of p2.table5: prompts and pairs a seed, and mean lengths over all pairs, interval over prompts.

    Raises DataError if there is no pair.
    """
    pairs = [pair for found in by_seed for pair in found]
    if not pairs:
        raise DataError("no pair is left to measure", where=label, fix="collect more rows")
    prompts = [_said(pair.prompt) for pair in pairs]
    sides = {"Prompt len": prompts, "Preferred len": [pair.chosen for pair in pairs]}
    sides["Rejected len"] = [pair.rejected for pair in pairs]
    columns: dict[str, Interval | float] = {
        "#Prompts": sum(len({pair.prompt for pair in found}) for found in by_seed) / len(by_seed)
    }
    columns |= {name: mean_interval(count(texts), groups=prompts, draws=draws) for name, texts in sides.items()}
    columns["#Pairs"] = len(pairs) / len(by_seed)
    options = {"n": len(set(prompts)), "seeds": seeds}
    return [record(TABLE5, label, column, value, **options) for column, value in columns.items()]


def world_table(found: Collection, count: Count, draws: int) -> list[Record]:
    """p2.table5 of the ten sources after cleaning."""
    return [
        row
        for name in found.rows
        for row in table_rows(name, [miniature.as_pairs(rows) for rows in found.kept(name)], count, draws, found.seeds)
    ]


def makers() -> list[list[str]]:
    """Who wrote and who labelled each source, here and in the paper: the columns of p2.table5 that are words."""
    published = inventory.published(TABLE5) or {}
    return [
        [
            name,
            ", ".join(sources.SOURCES[name].writers),
            published.get(name, {}).get("Completion", ""),
            sources.SOURCES[name].annotator,
            published.get(name, {}).get("Annotator", ""),
        ]
        for name in sources.TABLE5
    ]


@dataclass(frozen=True)
class RealSets:
    """Real sets of pairs at hand by name, rows set aside by reason, the names of those absent, and what lengths count."""

    pairs: dict[str, list[Pair]]
    tallies: dict[str, dict]
    absent: list[str]
    unit: str
    count: Count

    def match(self) -> dict[str, str]:
        """The row of p2.table5 that each set at hand is a part or a version of."""
        return {label: paper for paper, label in REAL.values() if paper and label in self.pairs}

    def records(self, draws: int) -> list[Record]:
        """p2.table5 of the real sets."""
        return [row for name, pairs in self.pairs.items() for row in table_rows(name, [pairs], self.count, draws, [0])]


def real_sets(encoder: str, most: int | None = None) -> RealSets:
    """At most so many pairs of every real set at hand; lengths in the encoder's tokens, in words where it is not there."""
    pairs, tallies, absent = {}, {}, []
    for name, (_, label) in REAL.items():
        try:
            found = inputs.pairs(name)
        except MissingInput:
            absent.append(label)
        else:
            rows = inputs.load_pairs(found / inputs.ROWS)
            pairs[label] = rows if most is None else inputs.sample(rows, most, 0)
            tallies[label] = inputs.tally(found)
    try:
        unit, count = f"tokens of {encoder}", tokens_of(encoder)
    except MissingInput:
        unit, count = "words", words
    return RealSets(pairs, tallies, absent, unit, count)
