"""Preference sources, demonstrations and prompts of the miniature world, shaped like the papers' data sets.

Row: {"prompt": (("user", "What is 31 plus 67?"),), "chosen": "Sure. 31 plus 67 is 98.", "rejected": "It is 89.",
      "source": "Argilla-Math", "extras": {"task": Task.row(), "gold": [2.0, 0.8], "annotator": "judge", "scores": [5.02, 2.81]}}

A source is a row of SOURCES: what is asked, who writes the answers, who labels them, and the paper's sizes (p2.table5).
Everything is drawn in blocks of prompts, each from (seed, source, split, block): more rows begin with the same rows.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from repro.core.errors import SettingsError
from repro.world import constants, tasks
from repro.world.annotators import FIRST, Annotator, Human, Judge, Reading, panel, read, weak_judge
from repro.world.task import Rng, Task, choose

BLOCK = 32  # prompts drawn together
BROAD = dict.fromkeys(tasks.CATEGORIES, 1.0)
VOTES = "votes"
Row = dict[str, Any]


class Source(NamedTuple):
    """One preference set. categories and writers are weights and turns: answer i is by writer i, around and around.

    answers: to each prompt; each: pairs kept of those a prompt gives, on average; pairs: the paper's #Pairs.
    """

    categories: Mapping[str, float]
    writers: tuple[str, ...]
    annotator: str
    answers: int
    each: float
    pairs: int


SOURCES = {  # the last number is p2.table5's; for Summarization and WebGPT the public set's
    "HH-RLHF": Source({"chat": 4, "harmful": 3, "benign": 1, "lists": 2}, ("plain",), "human", 2, 1, 115_396),
    "SHP": Source({"chat": 3, "facts": 1}, ("thorough", "hasty"), VOTES, 4, 3.2, 93_301),
    "HelpSteer": Source(
        {"chat": 1, "lists": 2, "constraints": 3}, ("thorough", "hasty", "plain"), "human", 4, 4.45, 37_131
    ),
    "PKU-SafeRLHF-30K": Source({"harmful": 2, "benign": 1}, ("brief", "reckless"), "human", 4, 4.1, 26_874),
    "UltraFeedback": Source(BROAD, ("thorough", "plain", "hasty", "good"), "judge", 4, 6, 340_025),
    "UltraInteract": Source({"sums": 3, "programs": 2}, ("good", "rambling", "thorough"), "judge", 3, 2.35, 161_927),
    "CodeUltraFeedback": Source({"programs": 1}, ("thorough", "plain"), "weak judge", 4, 5.6, 50_156),
    "Argilla-Math": Source({"sums": 1}, ("thorough", "plain"), "judge", 2, 1, 2_418),
    "OpenOrca": Source({"facts": 2, "premises": 1, "sums": 1}, ("good", "rambling"), "judge", 2, 1, 6_926),
    "Capybara": Source({"dialogue": 1}, ("plain", "rambling"), "judge", 2, 1, 14_811),
    "Summarization": Source({"lists": 1, "constraints": 1}, ("plain",), "human", 4, 4.5, 92_858),
    "WebGPT": Source({"facts": 2, "premises": 1}, ("plain",), "human", 3, 3, 19_578),
}
TABLE5 = tuple(SOURCES)[:10]
MIXTURES = {"mix1": ("HH-RLHF", "SHP", "UltraFeedback", "Summarization"), "mix2": TABLE5}  # p2.mix1, p2.mix2

DEMONSTRATIONS = {  # p2.sft's nine: share, categories, how often faults are made against constants.FAULTS
    "ShareGPT": (2, {"chat": 3, "lists": 2, "dialogue": 3, "benign": 1, "harmful": 2}, 1.3),
    "Evol-Instruct": (2, {"constraints": 4, "lists": 2, "chat": 1, "premises": 1}, 1.0),
    "SlimOrca": (2, {"facts": 3, "premises": 3, "harmful": 1, "benign": 1}, 1.0),
    "MathInstruct": (1.5, {"sums": 1}, 0.9),
    "Magicoder-Evol-Instruct": (1.5, {"programs": 1}, 0.9),
    "GPT4-LLM": (2, BROAD, 0.7),
    "Orca-Math": (1, {"sums": 1}, 0.9),
    "GPTeacher": (2, {"chat": 1, "facts": 1, "harmful": 2, "benign": 2, "dialogue": 1}, 1.1),
    "UltraInteract": (1, {"sums": 1, "programs": 1}, 1.2),
}
PRETRAINING = {
    "sums": 12,
    "programs": 7,
    "premises": 2,
    "constraints": 2,
    "dialogue": 3,
} | {  # most of what takes longest
    name: 1 for name in ("chat", "lists", "harmful", "benign", "facts")
}
STYLES = {"mixed": None, "clean": constants.CLEAN, "bare": constants.BARE}  # rates of faults, None: each set's own
PROMPTS = {
    name: SOURCES[name].categories for name in ("UltraFeedback", "HelpSteer", "OpenOrca", "UltraInteract", "Capybara")
}
PROMPTS["DIBT-10K"] = {"chat": 3, "lists": 2, "constraints": 2, "facts": 1, "harmful": 1, "benign": 1}


@lru_cache(maxsize=1)
def annotators() -> dict[str, Annotator]:
    """Who labels the sources, by the name in their rows: people, the judge and the weak judge."""
    return {"human": panel(), "judge": Judge(), "weak judge": weak_judge()}


def _named(name: str, table: Mapping[str, Any]) -> Any:
    if name not in table:
        raise SettingsError(f"{name!r} is unknown", where="world.sources", fix=f"choose from {', '.join(table)}")
    return table[name]


def _rng(seed: int, *key: Any) -> Rng:
    return np.random.default_rng([seed, *sha256(repr(key).encode()).digest()[:8]])


def _pick(rng: Rng, weights: Mapping[str, float]) -> str:
    shares = np.array(list(weights.values()), dtype=float)
    return list(weights)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def _answer(task: Task, rng: Rng, writer: str) -> str:
    if rng.random() < constants.BLANK:
        return ""
    return tasks.respond(task, rng, tasks.faults(rng, constants.WRITERS[writer]))


def _votes(answers: Reading, rng: Rng) -> np.ndarray:
    """One vote to begin with, and those of visitors who each choose one answer: Bradley-Terry among several."""
    crowd = Human()
    return 1 + rng.multinomial(constants.VISITORS, softmax(crowd.temperature_inverse * crowd.utility(answers)))


def _scores(source: Source, annotator: Annotator | None, answers: Reading, rng: Rng) -> np.ndarray | None:
    """Votes; a judge's mean over what it looks at, on its 1 to 5 in hundredths, ends not cut off; nothing from people, who compare."""
    if isinstance(annotator, Judge):
        return np.round(1 + 4 * annotator.view(answers), 2)
    if annotator is not None:
        return None
    starts = range(0, len(answers.texts), source.answers)
    return np.concatenate([_votes(answers.take(range(at, at + source.answers)), rng) for at in starts]).astype(float)


def _kept(source: Source, start: int, votes: np.ndarray | None, rng: Rng) -> list[tuple[int, int]]:
    """The pairs of one prompt's answers, at most `each` of them on average; of votes only clear ones (p2.shp)."""
    pairs = list(itertools.combinations(range(start, start + source.answers), 2))
    if votes is not None:
        pairs = [pair for pair in pairs if _clear_votes(*votes[list(pair)])]
    wanted = int(source.each + rng.random())
    return [pairs[place] for place in rng.permutation(len(pairs))[:wanted]]


def _clear_votes(a: float, b: float) -> bool:
    return max(a, b) >= constants.SHP_RATIO * min(a, b)


def _block(name: str, seed: int, split: str, number: int, annotator: Annotator | None) -> list[Row]:
    """The rows of one block of prompts, uncleaned."""
    source, rng = _named(name, SOURCES), _rng(seed, "pairs", name, split, number)
    who = annotator or annotators().get(source.annotator)  # nobody for votes
    asked = [tasks.draw(_pick(rng, source.categories), rng, split) for _ in range(BLOCK)]
    each = [task for task in asked for _ in range(source.answers)]
    writers = [source.writers[i % source.answers % len(source.writers)] for i in range(len(each))]
    answers = read(each, [_answer(task, rng, writer) for task, writer in zip(each, writers, strict=True)])
    scores = _scores(source, who, answers, rng)
    votes = scores if who is None else None
    places = np.array([pair for i in range(BLOCK) for pair in _kept(source, i * source.answers, votes, rng)])
    left, right = places.reshape(-1, 2).T
    if who is None:
        first = scores[left] > scores[right]
    else:
        first = who.prefer(answers.take(left), answers.take(right), rng) == FIRST
    said_by = source.annotator if annotator is None else type(annotator).__name__.lower()
    ordered = zip(np.where(first, left, right).tolist(), np.where(first, right, left).tolist(), strict=True)
    return [_row(name, said_by, answers, scores, pair) for pair in ordered]


def _row(name: str, said_by: str, answers: Reading, scores: np.ndarray | None, pair: tuple[int, int]) -> Row:
    task, gold = answers.tasks[pair[0]], [round(float(answers.gold[place]), 6) for place in pair]
    extras = {"task": task.row(), "gold": gold, "annotator": said_by}
    if scores is not None:
        extras["scores"] = [float(scores[place]) for place in pair]
    chosen, rejected = (answers.texts[place] for place in pair)
    return {"prompt": task.turns, "chosen": chosen, "rejected": rejected, "source": name, "extras": extras}


def _stream(name: str, seed: int, split: str, annotator: Annotator | None) -> Iterator[Row]:
    for number in itertools.count():
        yield from _block(name, seed, split, number, annotator)


def raw(name: str, count: int, seed: int, split: str = "train", annotator: Annotator | None = None) -> list[Row]:
    """The first rows of a source as collected; over all of mix2 about one in ten is of no use (p2.c13).

    annotator: labels the same pairs in place of the source's own (of SHP any pairs: there are no votes then).
    Raises SettingsError for an unknown source or split.
    """
    return list(itertools.islice(_stream(name, seed, split, annotator), count))


def _problem(row: Mapping[str, Any]) -> str | None:
    chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
    if not chosen or not rejected:
        return "empty"
    if chosen == rejected:
        return "equal"
    if (scores := row["extras"].get("scores")) is None:
        return None
    if scores[0] == scores[1]:
        return "tie"
    votes = row["extras"]["annotator"] == VOTES
    clear = _clear_votes(*scores) if votes else abs(scores[0] - scores[1]) >= constants.MARGIN
    return None if clear else "small margin"


def _clean(rows: Iterable[Row], tally: Counter[str]) -> Iterator[Row]:
    seen, asked = set(), Counter()
    for row in rows:
        prompt = str(row["prompt"])
        key = (prompt, row["chosen"], row["rejected"])
        full = row["extras"]["annotator"] == VOTES and asked[prompt] >= constants.SHP_PAIRS
        reason = _problem(row) or ("repeated" if key in seen else "prompt is full" if full else None)
        if reason:
            tally[reason] += 1
        else:
            seen.add(key)
            asked[prompt] += 1
            yield row


def clean(rows: Iterable[Row]) -> tuple[list[Row], Counter[str]]:
    """The rows of use, and how many were set aside why: empty, equal, tie, small margin, repeated, prompt is full (p2.c13, p2.shp)."""
    tally: Counter[str] = Counter()
    return list(_clean(rows, tally)), tally


def pairs(name: str, count: int, seed: int, split: str = "train", annotator: Annotator | None = None) -> list[Row]:
    """The first cleaned pairs of a source, as many as asked for. Raises SettingsError as `raw` does."""
    return list(itertools.islice(_clean(_stream(name, seed, split, annotator), Counter()), count))


def sizes(names: str | Sequence[str], total: int) -> dict[str, int]:
    """How many of `total` pairs each source of a mixture gives: in the proportion of the paper's #Pairs.

    names: "mix1", "mix2" or names of sources. Raises SettingsError for an unknown one.
    """
    names = _named(names, MIXTURES) if isinstance(names, str) else names
    shares = np.array([_named(name, SOURCES).pairs for name in names], dtype=float)
    ends = np.rint(np.cumsum(shares / shares.sum()) * total).astype(int)
    return dict(zip(names, np.diff(ends, prepend=0).tolist(), strict=True))


def mixture(
    names: str | Sequence[str], total: int, seed: int, split: str = "train", annotator: Annotator | None = None
) -> list[Row]:
    """`total` cleaned pairs of several sources, in the paper's proportions, shuffled. Raises as `sizes` does."""
    rows = [row for name, size in sizes(names, total).items() for row in pairs(name, size, seed, split, annotator)]
    return [rows[place] for place in _rng(seed, "mixture", split).permutation(len(rows))]


def demonstrations(count: int, seed: int, split: str = "train", style: str = "mixed") -> list[Row]:
    """Conversations {"messages": [...], "source", "category"} for SFT (p2.sft).

    style: "mixed" has each set's faults; "clean" is the stronger model's; "bare" says what is so and no more, for
    pretraining. Raises SettingsError for another style.
    """
    shares, rows = {name: share for name, (share, _, _) in DEMONSTRATIONS.items()}, []
    for index in range(count):
        rng = _rng(seed, "demonstrations", split, index)
        name = "pretraining" if style == "bare" else _pick(rng, shares)
        _, categories, scale = (1, PRETRAINING, 0) if style == "bare" else DEMONSTRATIONS[name]
        task = tasks.draw(_pick(rng, categories), rng, split)
        rates = _named(style, STYLES) or {fault: scale * rate for fault, rate in constants.FAULTS.items()}
        turns = (*task.turns, ("assistant", tasks.respond(task, rng, tasks.faults(rng, rates))))
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append({"messages": messages, "source": name, "category": task.category})
    return rows


def prompts(count: int, split: str, seed: int, names: Sequence[str] | None = None) -> list[Task]:
    """Tasks without answers from the prompt sources of iterative DPO, all six unless named. Raises SettingsError."""
    tables = [_named(name, PROMPTS) for name in names or PROMPTS]
    streams = (_rng(seed, "prompts", split, index) for index in range(count))
    return [tasks.draw(_pick(rng, choose(rng, tables)), rng, split) for rng in streams]


def lengths(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """One row a source as in p2.table5: prompts, pairs, and mean words of prompt, preferred and rejected answer."""
    table: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        table.setdefault(row["source"], []).append(row)

    def words(texts: Iterable[str]) -> float:
        return float(np.mean([len(text.split()) for text in texts]))

    return [
        {
            "source": name,
            "prompts": len({str(row["prompt"]) for row in found}),
            "prompt": words(" ".join(text for _, text in row["prompt"]) for row in found),
            "preferred": words(row["chosen"] for row in found),
            "rejected": words(row["rejected"] for row in found),
            "annotator": SOURCES[name].annotator,
            "pairs": len(found),
        }
        for name, found in table.items()
    ]
