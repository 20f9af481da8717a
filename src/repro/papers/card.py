"""The data card of the miniature world: samples of all that it holds, and what can be counted without any model.

Words come from where they are true: a category's from its functions' docstrings, a constant's reason from the comment behind it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from repro.core import inventory
from repro.core.errors import DataError
from repro.core.records import Record, record
from repro.core.statistics import mean_interval
from repro.world import academic, annotators, benchmarks, gold, sources, tasks
from repro.world import constants as world
from repro.world.task import TEST, TRAIN, Task, Turns, words

Row = dict[str, Any]
Grid = tuple[list[str], list[list[str]]]
PREFERRED, REJECTED = "preferred", "rejected"
HASTY = world.WRITERS["hasty"]
SIDES = (TRAIN, TEST)
REWARDS = ("gold", "helpful", "harmless")


def _asked(turns: Turns | Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"{role}: {said}" for role, said in turns)


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


def _spoken(row: Row) -> list[int]:
    """Words of a pair's prompt (all its turns), preferred and rejected answer."""
    return [_words(*(text for _, text in row["prompt"])), _words(row["chosen"]), _words(row["rejected"])]


def _worth(task: Task, text: str, label: str) -> str:
    return f"{tasks.grade(task, text).gold:5.2f}  {label}: {text}"


def _block(turns: Turns, *answers: str) -> str:
    return "\n".join([_asked(turns), "", *answers])


def _weights(table: Mapping[str, float]) -> str:
    return "all ten alike" if len(table) == len(tasks.CATEGORIES) else ", ".join(f"{n} {w:g}" for n, w in table.items())


def categories() -> Grid:
    """One line a category: what it stands for, what a prompt is made of, what makes an answer correct and complete."""
    rows = []
    for name, category in tasks.CATEGORIES.items():
        correct, _, complete = (category.marks.__doc__ or "").removeprefix("Correct: ").partition("; complete: ")
        rows.append([name, tasks.MEASURES[name], category.draw.__doc__ or "", correct, complete])
    return ["category", "stands for", "prompts", "correct", "complete"], rows


def samples(seed: int) -> dict[str, str]:
    """A test prompt of each category with a good answer, the same with one slip, and a hasty writer's; gold before each."""
    rng, found = np.random.default_rng(seed), {}
    for name in tasks.CATEGORIES:
        task = tasks.draw(name, rng, TEST)
        good = tasks.respond(task, rng)
        said = {"good": good, "one slip": tasks.slip(task, good, rng)}
        said["hasty"] = tasks.respond(task, rng, tasks.faults(rng, HASTY))
        answers = [_worth(task, text, label) for label, text in said.items()]
        level = f", level {task.difficulty}" if len(tasks.CATEGORIES[name].levels) > 1 else ""
        found[name + level] = _block(task.turns, *answers)
    return found


def split(count: int) -> tuple[list[Record], Grid]:
    """world.split: of `count` prompts a side, how many differ, and what both sides share; and examples of keys.

    Keys are the entities and operands that stay on one side (`world.task.side`). New words: those of test prompts that no
    training prompt or good answer of the sample has.
    """
    rng, found, examples = np.random.default_rng(5), [], []
    drawn = {name: [[tasks.draw(name, rng, side) for _ in range(count)] for side in SIDES] for name in tasks.CATEGORIES}
    shown = [task for train, _ in drawn.values() for task in train]
    known = {word for task in shown for word in words(_asked(task.turns) + " " + tasks.respond(task, rng))}
    for name, sides in drawn.items():
        prompts = [{task.turns for task in side} for side in sides]
        keys = [{key for task in side for key in task.keys} for side in sides]
        new = {word for turns in prompts[1] for word in words(_asked(turns))} - known
        columns = {}
        for what, (train, test) in (("prompts", prompts), ("keys", keys)):
            columns |= {f"{what}, train": len(train), f"{what}, test": len(test), f"{what}, both": len(train & test)}
        columns["new words"] = len(new)
        found += [record("world.split", name, column, value, n=count) for column, value in columns.items()]
        examples.append([name, *("; ".join(side[0].keys) for side in sides)])
    return found, (["category", "keys of a train prompt", "keys of a test prompt"], examples)


def graded(seed: int) -> tuple[dict[str, str], Grid]:
    """A harmful request and a sum, each answered well and with faults; and the parts and rewards of every answer (`world.gold`)."""
    rng, texts, rows = np.random.default_rng(seed), {}, []
    for name in ("harmful", "sums"):
        task = tasks.draw(name, rng, TEST, 1)
        for flaws in ((), ("curt", "part"), ("rude",), ("padded",), ("wrong",)):
            answer, letter = tasks.respond(task, rng, flaws), chr(ord("A") + len(rows))
            texts.setdefault(f"{name}: {task.turns[0][1]}", []).append(f"{letter}  {answer}")
            grade = tasks.grade(task, answer)
            parts = (getattr(grade, part) for part in (*annotators.PARTS, *REWARDS))
            marks = [f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in parts]
            rows.append([letter, name, " ".join(flaws) or "none", *marks])
    header = ["answer", "request", "faults", *annotators.PARTS, *REWARDS]
    return {label: "\n".join(lines) for label, lines in texts.items()}, (header, rows)


def constants(opening: str = "") -> tuple[list[str], list[list[str]], str]:
    """Name, value and reason of the constants under the comments that begin so, as their file has them; and these comments.

    The entries of a table that have no reason of their own stand in the table's line. Raises DataError if no comment begins so.
    """
    rows, above, said, kept = [], [], [], False
    for line in Path(world.__file__).read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            above.append(line[2:])
            continue
        if above:
            kept = " ".join(above).startswith(opening)
            said, above = said + above * kept, []
        if kept and (found := re.fullmatch(r'( *)"?([\w ]+?)"? ?[:=] (.+?),?(?:  # (.+))?', line)):
            indent, name, value, reason = found.groups(default="")
            value = value.strip("{}").replace('"', "")
            if not indent:
                rows.append([name, value, reason])
                table = rows[-1]
            elif reason:
                rows.append([f"{table[0]}: {name}", value, reason])
            else:
                table[1] += f"{'; ' if table[1] else ''}{name} {value}"
    if not rows:
        raise DataError(f"no constants under {opening!r}", where=world.__name__, fix="give a comment's first words")
    caption = " ".join(said).replace("`", "")  # a directive's first line cannot hold one
    return ["constant", "value", "reason"], rows, caption


def sampled(count: int) -> dict[str, list[Row]]:
    """The first `count` training rows of every source, less those of no use (p2.c13)."""
    return {name: sources.clean(sources.raw(name, count, 0))[0] for name in sources.SOURCES}


def described() -> Grid:
    """What each source is made of (`world.sources.SOURCES`), and the paper's lengths beside it (p2.table5)."""
    published, rows = inventory.published("p2.table5") or {}, []
    for name, source in sources.SOURCES.items():
        lengths = published.get(name, {})
        paper = " / ".join(str(lengths[f"{side} len"]) for side in ("Preferred", "Rejected")) if lengths else ""
        mixes = ", ".join(mix for mix, members in sources.MIXTURES.items() if name in members)
        asked = [_weights(source.categories), ", ".join(source.writers), source.annotator]
        rows.append([name, *asked, f"{source.answers}", f"{source.each:g}", f"{source.pairs:,}", paper, mixes])
    header = ["source", "asks", "writers", "labelled by", "answers", "pairs", "paper's pairs", "paper's lengths", "in"]
    return header, rows


def source_samples(found: Mapping[str, list[Row]]) -> dict[str, str]:
    """The first pair of every source, gold before each answer, and the label's scores where the source has any."""
    texts = {}
    for name, rows in found.items():
        row = rows[0]
        extras, task = row["extras"], Task.of(row["extras"]["task"])
        scores = f", {extras['scores'][0]:g} against {extras['scores'][1]:g}" if "scores" in extras else ""
        answers = [_worth(task, row[key], label) for key, label in (("chosen", PREFERRED), ("rejected", REJECTED))]
        texts[f"{name}, labelled by {extras['annotator']}{scores}"] = _block(row["prompt"], *answers)
    return texts


def source_records(found: Mapping[str, list[Row]], collected: int) -> list[Record]:
    """world.sources: mean words, and in percent longer winners, labels in gold's order (ties left out), and rows set aside of those collected."""
    table = []
    for name, rows in found.items():
        prompts = [str(row["prompt"]) for row in rows]
        sizes = np.array([_spoken(row) for row in rows])
        worth = np.array([row["extras"]["gold"] for row in rows])
        margin = np.round(worth[:, 0] - worth[:, 1], 9)
        longer = 0.5 + 0.5 * np.sign(sizes[:, 1] - sizes[:, 2])
        shares = {"longer preferred (%)": longer, "in gold's order (%)": np.where(margin == 0, np.nan, margin > 0)}
        columns = dict(zip(("prompt", PREFERRED, REJECTED), sizes.mean(0), strict=True))
        columns |= {name: mean_interval(share, groups=prompts).scaled(100.0) for name, share in shares.items()}
        columns["set aside (%)"] = 100 * (1 - len(rows) / collected)
        options = {"n": len(set(prompts)), "seeds": [0]}
        table += [record("world.sources", name, column, value, **options) for column, value in columns.items()]
    return table


def gold_by_source(found: Mapping[str, list[Row]]) -> dict[str, list[list[float]]]:
    """Gold rewards of the preferred and of the rejected answers of each source."""
    return {name: np.transpose([row["extras"]["gold"] for row in rows]).tolist() for name, rows in found.items()}


def lengths(found: Mapping[str, list[Row]]) -> dict[str, list[int]]:
    """Words of every prompt, preferred and rejected answer of all sources."""
    spoken = zip(*(_spoken(row) for rows in found.values() for row in rows), strict=True)
    return dict(zip(("prompts", f"{PREFERRED} answers", f"{REJECTED} answers"), map(list, spoken), strict=True))


def demonstrations() -> tuple[Grid, dict[str, str]]:
    """The SFT mix (`world.sources.DEMONSTRATIONS`, p2.sft) and a conversation of each of its sets."""
    shares = {name: share for name, (share, _, _) in sources.DEMONSTRATIONS.items()}
    rows = [
        [name, f"{100 * share / sum(shares.values()):.0f}%", _weights(asked), f"{faults:g}"]
        for name, (share, asked, faults) in sources.DEMONSTRATIONS.items()
    ]
    drawn = {
        row["source"]: row["messages"] for row in reversed(sources.demonstrations(100, 0))
    }  # the first of each set
    texts = {name: _asked((each["role"], each["content"]) for each in drawn[name]) for name in shares}
    return (["set", "share", "asks", "faults, times the usual"], rows), texts


def verdicts(seed: int) -> dict[str, str]:
    """Two answers of mixed writers to a test prompt of every third category, and what gold, twelve people and both judges say of each answer."""
    rng, texts = np.random.default_rng(seed), {}
    people, judge, weak = annotators.panel(), annotators.Judge(), annotators.weak_judge()
    for name in list(tasks.CATEGORIES)[::3]:
        task = tasks.draw(name, rng, TEST)
        said = [tasks.respond(task, rng, tasks.faults(rng)) for _ in "AB"]
        one, two = (annotators.read([task], [text]) for text in said)
        first = people.everyone(one, two, rng).sum()
        votes, levels = (first, len(people.people) - first), [who.score([task, task], said) for who in (judge, weak)]
        answers = [
            f"{letter}  gold {gold.grade(task, text).gold:.2f}, people {vote:.0f} of {len(people.people)}, "
            f"judge {strong}, weak judge {weaker}:\n   {text}"
            for letter, text, vote, strong, weaker in zip("AB", said, votes, *levels, strict=True)
        ]
        texts[name] = _block(task.turns, *answers)
    return texts


def subsets() -> Grid:
    """The subsets of the RewardBench-like set by section and by how their pairs are made (`world.benchmarks.SECTIONS`)."""
    alike: dict[tuple[str, str], list[str]] = {}
    for section, members in benchmarks.SECTIONS.items():
        for name, subset in members.items():
            alike.setdefault((section, (subset.pair.__doc__ or "").split("\n")[0]), []).append(name)
    rows = [[section, ", ".join(names), made] for (section, made), names in alike.items()]
    return ["section", "subsets", "the better answer, and the other"], rows


def pair_samples(section: str) -> dict[str, str]:
    """A pair of every subset of a section (`world.benchmarks.rewardbench`), gold before each answer."""
    texts = {}
    for row in (each for each in benchmarks.rewardbench(1, seed=0) if each["section"] == section):
        task = Task.of(row["extras"]["task"])
        answers = [_worth(task, row[key], label) for key, label in (("chosen", "better"), ("rejected", "other"))]
        texts[f"{section}, {row['subset']}"] = _block(row["prompt"], *answers)
    return texts


def request_samples() -> dict[str, str]:
    """A request of each open benchmark; of the two-turn one with a reply to its first turn and what follows."""
    first = benchmarks.two_turn(1, seed=0)
    reply = tasks.respond(first[0], np.random.default_rng(0))
    drawn = {
        "one turn (AlpacaEval's place)": benchmarks.chat(1, seed=0),
        "hard (Arena-Hard's place)": benchmarks.hard(1, seed=0),
    }
    drawn["two turns (MT-Bench's place), after a good first reply"] = benchmarks.second_turns(first, [reply], seed=0)
    return {label: _asked(task.turns) for label, (task,) in drawn.items()}


def academic_sets(count: int) -> tuple[dict[str, str], list[Record]]:
    """An item of each of the six academic sets as its file holds it, and world.academic_nulls: percent for knowing nothing."""
    made, table = academic.academic(count, seed=0), []
    for name, rows in made.items():
        for rule, share in academic.null_baselines(rows).items():
            table.append(record("world.academic_nulls", name, rule, 100 * share, n=len(rows), seeds=[0]))

    def plain(value: Any) -> str:
        return "".join(f"\n  {each}" for each in value) if isinstance(value, list) else str(value)

    items = {name: "\n".join(f"{key}: {plain(value)}" for key, value in rows[0].items()) for name, rows in made.items()}
    return items, table
