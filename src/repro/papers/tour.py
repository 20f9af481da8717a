"""What the tour shows beside the court: one prompt followed, the policies judged, and what each stage cost."""

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.artifacts import HISTORY
from repro.core.paths import BOOK
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, mean_interval
from repro.evaluate.length_bias import LengthHeatmap, length_heatmap
from repro.models.load import load_model
from repro.papers import chat_benchmarks
from repro.papers.court import (
    BIASED,
    GOLD,
    LARGE,
    SMALL,
    STRONG,
    UNBIASED,
    Contrast,
    Curve,
    Pools,
    Pressure,
    benchmark_accuracy,
)
from repro.papers.miniature import MINIATURE, ROLES, base, history, policy
from repro.world import annotators, benchmarks
from repro.world.gold import grade
from repro.world.task import Task

Grid = tuple[list[str], list[list[str]]]
SHOWN = ("all", "chat", "constraints", "harmful", "sums", "programs", "facts")
FOLLOWED = "constraints"  # the category of the prompt that the tour follows: short, and easily overlooked
QUANTITIES = ("loss", "gradient_norm", "learning_rate")
REACHED = 65.0  # percent: a kind of item is within a reward model's reach if its whole interval lies above
PERCENT = 100.0
CHAT_COLUMNS = {
    f"{name}, {kind}": f"{name}, {kind}" for name in ("chat", "hard") for kind in ("win rate", "length-controlled")
}


def costs(world: Section, policies: Pools) -> Grid:
    """One line a base and a role: size, parameters, conversations, tokens, steps, last loss, seconds, gold of its answers."""
    made = {f"base of {role}": world[role] for role in (SMALL, LARGE) if world[role].startswith(MINIATURE)}
    models = {name: base(size, world) for name, size in made.items()} | {role: policy(role, world) for role in ROLES}
    lines = []
    for name, found in models.items():
        steps = history(found)
        size = load_model(str(found.path), task="language", device="cpu").num_parameters()
        tail = np.mean(steps["loss"][-max(1, len(steps["loss"]) // 20) :])
        line = [name, made.get(name) or world[name], f"{size:,}", f"{steps['conversations']:,}", f"{steps['tokens']:,}"]
        line += [f"{len(steps['loss']):,}", f"{tail:.3f}", f"{found.manifest['seconds']:.0f}"]
        gold = mean_interval(policies[name].gold.mean(1)) if name in policies else None
        lines.append([*line, f"{gold.value:.2f} [{gold.low:.2f}, {gold.high:.2f}]" if gold else ""])
    return ["model", "size", "parameters", "conversations", "tokens", "steps", "last loss", "seconds", "gold"], lines


def sizes() -> Grid:
    """What other sizes, lengths and rates cost and earn: the table that `scripts/measure_sizes.py` left."""
    with (BOOK / "sizes.csv").open(newline="", encoding="utf-8") as stream:
        header, *lines = csv.reader(stream)
    return header, lines


@dataclass(frozen=True)
class Followed:
    """One task, an answer of each policy and the large one's worst, with their grades."""

    task: Task
    answers: dict[str, str]
    grades: Grid
    pair: tuple[str, str]


def follow(asked: Sequence[Task], policies: Pools) -> Followed:
    """The first task of one category whose answers by the large policy differ in gold, and what the policies say to it."""
    large = policies[LARGE]
    spread = np.ptp(large.gold, axis=1)
    place = next(
        (i for i, task in enumerate(asked) if task.category == FOLLOWED and spread[i] > 0), int(spread.argmax())
    )
    task = asked[place]
    best, worst = (large.texts[place][int(pick)] for pick in (large.gold[place].argmax(), large.gold[place].argmin()))
    said = {role: policies[role].texts[place][0] for role in (SMALL, LARGE, STRONG)}
    said |= {"large, its best by gold": best, "large, its worst by gold": worst}
    parts = ("correct", "complete", "safe", "polite", "concise", "gold", "helpful", "harmless")
    lines = []
    for name, text in said.items():
        found = grade(task, text)
        lines.append([name, *(f"{getattr(found, part):.2f}" for part in parts)])
    prompt = {
        role if i == len(task.turns) - 1 else f"{role}, turn {i + 1}": text for i, (role, text) in enumerate(task.turns)
    }
    return Followed(
        task,
        {f"prompt ({who})": text for who, text in prompt.items()} | said,
        (["answer", *parts], lines),
        (best, worst),
    )


def labels(followed: Followed, study: Curve) -> Grid:
    """Gold, the judges' levels, the share of people who prefer the first, and the largest reward model's view of the pair."""
    best, worst = followed.pair
    asked = [followed.task] * 2
    gold = [grade(followed.task, text).gold for text in followed.pair]
    lines = [["gold reward", *(f"{value:.2f}" for value in gold)]]
    for name, judge in (("judge, levels 1 to 5", annotators.Judge()), ("weak judge", annotators.weak_judge())):
        lines.append([name, *map(str, judge.score(asked, [best, worst]))])
    reading = [annotators.read([followed.task], [text]) for text in followed.pair]
    people = annotators.panel()
    votes = people.everyone(*reading, np.random.default_rng(3)).mean()
    lines.append([f"people ({len(people.people)} asked)", f"{PERCENT * votes:.0f}%", f"{PERCENT * (1 - votes):.0f}%"])
    model = study.models[max(study.models)][0]
    reward = model.pool_rewards([followed.task.turns], [[best, worst]])[0]
    lines.append([f"reward model, {max(study.models):,} pairs", *(f"{value:.2f}" for value in reward)])
    return ["annotator", "its best answer", "its worst answer"], lines


def benchmark_records(study: Curve, rows: Sequence[Mapping]) -> list[Record]:
    """world.rewardbench: accuracy of the reward models of each size by section and subset, percent."""
    found = []
    for count, models in study.models.items():
        for name, value in benchmark_accuracy(models, rows).items():
            options = {"unit": "%", "seeds": study.seeds}
            found.append(record("world.rewardbench", name, f"pairs = {count}", value, **options))
    return found


def heatmaps(contrast: Contrast) -> dict[str, LengthHeatmap]:
    """The contrast's correlations of the first seed by mean length, on edges that all three share."""
    longest = max(float(np.max(each.mean_length)) for found in contrast.bias.values() for each in found)
    edges = np.arange(0, longest + 40, 40)
    return {who: length_heatmap(contrast.bias[who][0], edges) for who in (BIASED, UNBIASED, GOLD)}


@dataclass(frozen=True)
class Judged:
    """Records of the chat and of the academic benchmarks."""

    chat: list[Record]
    academic: list[Record]


def judged(world: Section, tour: Section) -> Judged:
    """Small and large against the strong policy through the judge, raw and length-controlled; two turns; six academic sets."""
    policies, items = {role: [policy(role, world)] for role in ROLES}, tour.benchmark_items
    answers = chat_benchmarks.everyone(policies, world, items, [0])
    rivals = {role: answers[role] for role in (SMALL, LARGE)}
    talk = chat_benchmarks.chat_scores(rivals, answers[STRONG][0], [0]).records("world.chat", CHAT_COLUMNS)
    talk += chat_benchmarks.two_turn_scores(answers, [0]).records("world.chat")
    exams = chat_benchmarks.academic_scores(policies, items, world.workers, [0])
    rows = [replace(row, unit="%") for row in turned(exams.records("world.academic"))]
    return Judged(talk, rows + chat_benchmarks.academic_nulls(items, "world.academic"))


def turned(rows: Sequence[Record]) -> list[Record]:
    """The records with rows and columns exchanged, where a figure wants the other way round."""
    return [replace(row, row=row.column, column=row.row) for row in rows]


def stages() -> Grid:
    """Seconds of each kind of step that this page needed, whenever they were computed, and how many there were."""
    seconds: dict[str, dict[str, float]] = defaultdict(dict)
    for line in HISTORY:
        seconds[line["step"]][line["key"]] = line["seconds"]
    lines = [[name, str(len(each)), f"{sum(each.values()):.1f}"] for name, each in seconds.items()]
    lines.sort(key=lambda line: -float(line[2]))
    return ["step", "artifacts", "seconds"], lines


def numbers(
    headroom: Sequence[Record], study: Curve, bench: Sequence[Record], biased: Contrast, pressed: Pressure
) -> dict[str, Interval | str]:
    """What the page's prose cites."""
    last = {row.row: row.interval.low for row in bench if row.column == f"pairs = {max(study.accuracy)}"}
    reached = [name for name in benchmarks.SECTIONS["Reasoning"] if last[name] > REACHED]
    missed = [name for name in benchmarks.SECTIONS["Reasoning"] if name not in reached]
    every = {row.column: row for row in headroom if row.row == "all"}
    curve = {row.column: row for row in study.records() if row.row == "all"}
    counts = sorted(study.accuracy)
    return {
        "large": every[LARGE],
        "random": every["random"],
        "picked": next(row for column, row in every.items() if column.startswith("best of")),
        "most": f"{counts[-1]:,}",
        "fewest": f"{counts[0]:,}",
        "accuracy": curve[f"pairs = {counts[-1]}"],
        "accuracy_few": curve[f"pairs = {counts[0]}"],
        "reached": ", ".join(reached) or "none",
        "missed": ", ".join(missed) or "none",
        "biased": biased.mean(BIASED),
        "unbiased": biased.mean(UNBIASED),
        "proxy_change": pressed.change(pressed.proxy),
        "gold_change": pressed.change(pressed.gold),
    }
