"""Six academic benchmarks of the miniature world as rows on disk, which lm-eval reads (p2.table6).

gsm8k: {"prompt": "What is 31 plus 67?", "answer": "98", "solution": "31 plus 67 is 98.", "difficulty": 1}
humaneval, mbpp (which shows an example): {"prompt": ..., "tests": [[[5, 2], [2, 5]]], "solution": "Program: sort.", ...}
mmlu (one hop), arc (two), truthfulqa (premises): {"question": ..., "choices": [four], "answer": 2, "subject": "eats"}
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from repro.core.errors import DataError
from repro.world import knowledge, language, reasoning, tasks
from repro.world.benchmarks import Draw, Row, collect
from repro.world.task import TEST, TRAIN, Rng, Task, choose, several

Source = Callable[..., Row | None]  # a row for (place, rng, split), or None for another try


def _number_row(place: int, rng: Rng, split: str) -> Row:
    task = tasks.draw("sums", rng, split, 1 + place % 3)
    solution = " ".join(reasoning.sum_body(task, rng, False, False))
    answer = str(reasoning.steps(task.facts)[-1][3])
    return {"prompt": task.turns[0][1], "answer": answer, "solution": solution, "difficulty": task.difficulty}


def _program_row(place: int, rng: Rng, split: str, example: bool) -> Row | None:
    task = tasks.draw("programs", rng, split, 1 + place % 3)
    row = {"prompt": task.turns[0][1], "tests": reasoning.tests(task), "difficulty": task.difficulty}
    return row | {"solution": f"Program: {task.facts['program']}."} if task.facts["example"] == example else None


def choices_of(task: Task, rng: Rng) -> list[str]:
    """Four answers to a question of facts or premises, the right one first, each style and length as often wrong.

    Two hops: two foods times the places that both come from, so that neither hop alone finds the answer. Premises: two
    that deny and two that agree.
    """
    creature, relation = task.facts["creature"], task.facts["relation"]
    value = knowledge.value_of(creature, relation)
    if task.category == "premises":
        said, true = task.facts["said"], task.facts["said"] == value
        free = several(rng, [each for each in knowledge.others(relation, value) if each != said], 2)
        denied, agreed = (free, [value, free[0]]) if true else ([value, free[0]], [said, free[0]])
        no = [f"{knowledge.DENIES} {knowledge.sentence(creature, relation, each)}" for each in denied]
        yes = [f"{knowledge.sentence(creature, relation, each)} {knowledge.AGREES}" for each in agreed]
        return yes + no if true else no + yes
    if relation != "comes":
        values = [value, *several(rng, knowledge.others(relation, value), 3)]
        return [knowledge.sentence(creature, relation, each) for each in values]
    food = language.EATS[creature.split()[1]]
    other = choose(rng, knowledge.others("eats", food))
    said = knowledge.RELATIONS["comes"][1]
    ways = [(way, language.COMES[end]) for way in (food, other) for end in (food, other)]
    return [said.format(creature=creature, food=way, value=end) for way, end in ways]


def _choice_row(place: int, rng: Rng, split: str, category: str, level: int) -> Row:
    task = tasks.draw(category, rng, split, level)
    right, *wrong = choices_of(task, rng)
    choices = several(rng, wrong, 3)
    choices.insert(place % 4, right)  # each place holds the right answer equally often
    return {"question": task.turns[0][1], "choices": choices, "answer": place % 4, "subject": task.facts["relation"]}


def _longest(row: Row) -> float:
    """What choosing the longest answer earns on this row; ties share."""
    longest = max(map(len, row["choices"]))
    ties = [place for place, choice in enumerate(row["choices"]) if len(choice) == longest]
    return (row["answer"] in ties) / len(ties)


def academic(count: int, seed: int, split: str = TEST) -> dict[str, list[Row]]:
    """Rows of the six benchmarks of p2.table6; split TRAIN gives examples in the same form.

    Raises DataError if the world has too few different prompts.
    """
    sources: dict[str, Source] = {
        "gsm8k": _number_row,
        "mmlu": partial(_choice_row, category="facts", level=1),
        "humaneval": partial(_program_row, example=False),
        "truthfulqa": partial(_choice_row, category="premises", level=1),
        "arc": partial(_choice_row, category="facts", level=2),
        "mbpp": partial(_program_row, example=True),
    }

    def keyed(source: Source) -> Draw:
        def draw(place: int, rng: Rng) -> tuple[str, Row] | None:
            row = source(place, rng, split)
            return row and (row.get("prompt") or row["question"], row)

        return draw

    def lean(row: Row) -> float:  # the longest choice is right once in four
        return 3 * (_longest(row) - 1 / 4) if "choices" in row else 0.0

    return {name: collect(keyed(source), count, (seed, i), lean) for i, (name, source) in enumerate(sources.items())}


def write_academic(folder: Path, count: int, examples: int, seed: int) -> None:
    """Writes <name>.jsonl of the test side and train/<name>.jsonl of examples, a row a line. Raises as `academic`."""
    for where, size, split in ((folder, count, TEST), (folder / "train", examples, TRAIN)):
        where.mkdir(parents=True, exist_ok=True)
        for name, rows in academic(size, seed, split).items():
            (where / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def null_baselines(rows: Sequence[Row]) -> dict[str, float]:
    """What knowing nothing earns, in [0, 1]: random and longest choice, or the most frequent answer (or test results).

    Raises DataError if there are no rows.
    """
    if not rows:
        raise DataError("no rows", where="null_baselines", fix="give a benchmark's rows")
    if "choices" in rows[0]:
        chance = [1 / len(row["choices"]) for row in rows]
        return {"random": float(np.mean(chance)), "longest": float(np.mean([_longest(row) for row in rows]))}
    answers = Counter(json.dumps(row.get("tests") or row["answer"]) for row in rows)
    return {"constant": answers.most_common(1)[0][1] / len(rows)}
