"""Who agrees with whom in the miniature world: people, judges, gold and length, on the same pairs."""

import numpy as np

from repro.core.records import Record, record
from repro.core.statistics import Interval
from repro.world import annotators, tasks
from repro.world.task import TEST

PERCENT = 100.0


def agreements(count: int) -> tuple[list[str], np.ndarray, list[Record]]:
    """Who agrees with whom on `count` pairs of mixed writers' answers to test prompts, in percent (world.annotators)."""
    rng = np.random.default_rng(17)
    names = list(tasks.CATEGORIES)
    asked = [tasks.draw(names[i % len(names)], rng, TEST) for i in range(count)]
    first, second = ([tasks.respond(task, rng, tasks.faults(rng)) for task in asked] for _ in "12")
    who = {
        "people": annotators.panel(),
        "people, unbiased": annotators.panel(verbosity=0.0),
        "judge": annotators.Judge(),
        "weak judge": annotators.weak_judge(),
    }
    found, matrix, pairs = annotators.agreement(asked, first, second, who, rng)
    rows = []
    for i, one in enumerate(found):
        for j, other in enumerate(found[: i + 1]):
            if one in who or other in who:
                both = int(pairs[i, j])
                width = 1.96 * np.sqrt(matrix[i, j] * (1 - matrix[i, j]) / both)
                value = Interval(matrix[i, j], matrix[i, j] - width, matrix[i, j] + width, both).scaled(PERCENT)
                rows.append(record("world.annotators", one, other, value, unit="%", seeds=[0]))
    return found, matrix, rows
