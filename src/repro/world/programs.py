"""The little pipeline language in which the world's policies write programs, and its interpreter.

`sort | first 2 | reverse` takes a list of whole numbers through three operations. Nothing of Python is ever run.
"""

from collections.abc import Callable

LONGEST = 12  # operations; a longer text is no program of this world
Numbers = list[int]

PLAIN: dict[str, Callable[[Numbers], Numbers]] = {
    "sort": sorted,
    "reverse": lambda numbers: numbers[::-1],
    "double": lambda numbers: [2 * number for number in numbers],
    "even": lambda numbers: [number for number in numbers if number % 2 == 0],
}
COUNTED: dict[str, Callable[[Numbers, int], Numbers]] = {
    "first": lambda numbers, count: numbers[:count],
    "last": lambda numbers, count: numbers[-count:] if count else [],
    "drop": lambda numbers, count: numbers[count:],
    "add": lambda numbers, count: [number + count for number in numbers],
}


def parse(program: str) -> list[tuple[str, int | None]]:
    """(operation, count or None) of each stage. Raises ValueError naming the first stage that is none."""
    stages = []
    for stage in program.split("|"):
        match stage.split():
            case [name] if name in PLAIN:
                stages.append((name, None))
            case [name, count] if name in COUNTED and count.isascii() and count.isdigit() and len(count) < 4:
                stages.append((name, int(count)))
            case _:
                raise ValueError(f"{stage.strip()[:40]!r} is no operation")
    if len(stages) > LONGEST:
        raise ValueError(f"{len(stages)} operations, at most {LONGEST}")
    return stages


def run(program: str, numbers: Numbers) -> Numbers:
    """The list after every stage of the program. Raises ValueError if the program cannot be read."""
    for name, count in parse(program):
        numbers = PLAIN[name](numbers) if count is None else COUNTED[name](numbers, count)
    return numbers


def text(stages: list[tuple[str, int | None]]) -> str:
    """The program of (operation, count) stages as a policy writes it."""
    return " | ".join(name if count is None else f"{name} {count}" for name, count in stages)
