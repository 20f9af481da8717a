"""Sums of one or two steps, in three grades of difficulty, and programs over lists of numbers."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from repro.world import language, programs
from repro.world.task import Category, Rng, Task, choose, holds, on_side, person, phrase, replaced, side

PLUS, MINUS = "plus", "minus"
STORIES = {
    PLUS: ("{name} has {a} {things} and buys {b} more.", "{name} finds {b} {things} and had {a} before."),
    MINUS: ("{name} has {a} {things} and sells {b} of them.", "Of {a} {things}, {name} gives away {b}."),
}


def _operands(rng: Rng, difficulty: int) -> tuple[int, int, str]:
    """Two numbers whose sum or difference has two digits; 1: the second is 1, 2 or 3 and nothing is carried."""
    while True:
        a, sign = int(rng.integers(20, 100)), choose(rng, (PLUS, MINUS))
        b = int(rng.integers(1, 4) if difficulty == 1 else rng.integers(10, 80))
        result = a + b if sign == PLUS else a - b
        if 10 <= result < 100 and (difficulty > 1 or result // 10 == a // 10):
            return a, b, sign


def steps(facts: Mapping[str, Any]) -> list[tuple[int, str, int, int]]:
    """(left, sign, right, result) of each step."""
    left, found = facts["numbers"][0], []
    for sign, right in zip(facts["signs"], facts["numbers"][1:], strict=True):
        result = left + right if sign == PLUS else left - right
        found.append((left, sign, right, result))
        left = result
    return found


def step_keys(numbers: list[int], signs: list[str]) -> list[str]:
    """The keys that the split knows the steps of a sum by: 15 plus 42 is 42 plus 15."""
    found = []
    for left, sign, right, _ in steps({"numbers": numbers, "signs": signs}):
        first, second = sorted((left, right)) if sign == PLUS else (left, right)
        found.append(f"sums {first} {second} {sign}")
    return found


def draw_sum(rng: Rng, split: str, difficulty: int) -> Task:
    """1: 1, 2 or 3 more or less, nothing carried; 2: two numbers of two digits; 3: two steps."""

    def operands() -> tuple[tuple, str]:
        a, b, sign = _operands(rng, difficulty)
        numbers, signs = [a, b], [sign]
        if difficulty == 3:
            left = a + b if sign == PLUS else a - b
            sign = PLUS if left < 50 else MINUS
            numbers.append(int(rng.integers(10, 99 - left) if sign == PLUS else rng.integers(10, left - 9)))
            signs.append(sign)
        keys = step_keys(numbers, signs)
        there = all(side(key) == split for key in keys)  # each step is a sum that the other side must not show
        return (numbers, signs, keys), keys[0] if there else next(key for key in keys if side(key) != split)

    (numbers, signs, sum_keys), _ = on_side(split, operands)
    name, name_key = person(rng, split)
    things = choose(rng, language.THINGS)
    story = choose(rng, STORIES[signs[0]]).format(name=name, a=numbers[0], b=numbers[1], things=things)
    if difficulty == 3:
        more = "Then {0} come on top." if signs[1] == PLUS else "Then {0} get lost."
        story += " " + more.format(numbers[2])
    asks = (story + " How many {things} are left?", story + " What is the number of {things} now?")
    if difficulty < 3:
        asks += (f"What is {numbers[0]} {signs[0]} {numbers[1]}?",)
    prompt = phrase(rng, split, asks, things=things)
    facts = {"name": name if name in prompt else None, "numbers": numbers, "signs": signs}
    keys = (*sum_keys, name_key) if name in prompt else tuple(sum_keys)
    return Task("sums", (("user", prompt),), facts, difficulty, split, keys)


def sum_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """Each step as a sentence; wrong: one digit of the last result is off; part: the bare result, or one step of two."""
    *before, (left, sign, right, result) = steps(task.facts)
    result = off_by(result, rng) if wrong else result
    sentences = [f"{a} {sign} {b} is {c}." for a, sign, b, c in before]
    if part:
        return sentences if sentences and not wrong else [f"It is {result}."]
    return [*sentences, f"{left} {sign} {right} is {result}."]


def off_by(number: int, rng: Rng) -> int:
    """A number with one digit of this one made another."""
    digits = list(str(number))
    place = int(rng.integers(len(digits)))
    digits[place] = choose(rng, [d for d in "123456789" if d != digits[place]])
    return int("".join(digits))


def numbers_in(text: str) -> list[int]:
    """The whole numbers that a text says, in order; of an absurdly long one its first nine digits."""
    return [int(number[:9]) for number in re.findall(r"[0-9]+", text)]


def sum_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the last number said is the result (half for the first of two steps); complete: each step is shown."""
    known, said = steps(task.facts), numbers_in(text)
    if not said:
        return 0.0, 0.0
    shown = sum(holds(text, f"{a} {sign} {b} is") for a, sign, b, _ in known) / len(known)
    halfway = len(known) > 1 and known[0][3] in said
    return (1.0 if said[-1] == known[-1][3] else 0.5 if halfway else 0.0), 0.5 + 0.5 * shown


def sum_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with one digit of the result wrong."""
    result = steps(task.facts)[-1][3]
    return replaced(text, str(result), str(off_by(result, rng)))


SAID = {
    "sort": "sorts the list",
    "reverse": "reverses the list",
    "double": "doubles each number",
    "even": "keeps the even numbers",
    "first": "keeps the first {} numbers",
    "last": "keeps the last {} numbers",
    "drop": "drops the first {} numbers",
    "add": "adds {} to each number",
}
COUNTS = {"first": (2, 3), "last": (2, 3), "drop": (2, 3), "add": (1, 2, 3, 4, 5)}
# hidden tests tell all operations apart: their lengths differ, else `drop 2` of six numbers would pass for `last 4`
INPUTS = ([5, 2, 8, 1, 9, 4], [7, 3, 6, 2, 4, 8, 10], [9, 1, 5, 12, 6, 3, 7, 2])


PROGRAM_ASKS = ("Write a program that", "I want code that", "{name} needs a program that")


def _stages(rng: Rng, count: int) -> list[tuple[str, int | None]]:
    names = [choose(rng, SAID)]
    while len(names) < count:
        names.append(choose(rng, [name for name in SAID if name != names[-1]]))
    return [(name, int(choose(rng, COUNTS[name])) if name in COUNTS else None) for name in names]


def draw_program(rng: Rng, split: str, difficulty: int) -> Task:
    """1: two operations; 2: three; 3: three, the last one named first. With an example on every second prompt."""

    def stages() -> tuple[list, str]:
        while True:
            found = _stages(rng, 2 if difficulty == 1 else 3)
            if all(programs.run(programs.text(found), numbers) for numbers in INPUTS):
                return found, f"programs {programs.text(found)}"

    found, key = on_side(split, stages)
    said = [SAID[name].format(count) for name, count in found]
    if difficulty == 3:
        order = "{c}, but only after it {a} and {b}."
    elif difficulty == 2:
        order = "{a}, then {b}, and then {c}."
    else:
        order = "{a} and then {b}."
    name, name_key = person(rng, split)
    asks = tuple(f"{opening} {order}" for opening in PROGRAM_ASKS)
    prompt = phrase(rng, split, asks, name=name, **dict(zip("abc", said, strict=False)))
    given = [int(number) for number in rng.permutation(9)[:5] + 1]
    made = programs.run(programs.text(found), given) if rng.integers(2) else []
    if made:
        prompt += f" For example, {_plain(given)} becomes {_plain(made)}."
    facts = {"name": name if name in prompt else None, "program": programs.text(found), "example": bool(made)}
    keys = (name_key, key) if name in prompt else (key,)
    return Task("programs", (("user", prompt),), facts, difficulty, split, keys)


def _plain(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))


def tests(task: Task) -> list[list[list[int]]]:
    """[input, output] pairs that a right program meets; no prompt shows them."""
    return [[numbers, programs.run(task.facts["program"], numbers)] for numbers in INPUTS]


def _altered(program: str, rng: Rng) -> str:
    """The program with one word made another: some hidden test fails, and yet a request could have asked for it."""
    right = [programs.run(program, numbers) for numbers in INPUTS]
    while True:
        stages = programs.parse(program)
        place = int(rng.integers(len(stages)))
        name, count = stages[place]
        if count is None:
            stages[place] = (choose(rng, [other for other in programs.PLAIN if other != name]), None)
        elif rng.integers(2):
            stages[place] = (name, int(choose(rng, [c for c in COUNTS[name] if c != count])))
        else:
            stages[place] = (choose(rng, [other for other in programs.COUNTED if other != name]), count)
        asked = all(count is None or count in COUNTS[name] for name, count in stages)
        asked &= all(one[0] != two[0] for one, two in pairwise(stages))
        if asked and [programs.run(programs.text(stages), numbers) for numbers in INPUTS] != right:
            return programs.text(stages)


def program_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """The program; wrong: one word of it is; part: without its last operation."""
    program = _altered(task.facts["program"], rng) if wrong else task.facts["program"]
    return [f"Program: {program.rpartition(' | ')[0] if part else program}."]


def written(text: str) -> str:
    """The program that an answer holds: what stands behind the last `Program:`, to the end of its sentence."""
    found = re.findall(r"Program:\s*([^.]*)", text)
    return found[-1].strip() if found else ""


def passed(task: Task, text: str) -> float:
    """Share of the hidden tests that the written program meets."""
    try:
        met = [programs.run(written(text), given) == wanted for given, wanted in tests(task)]
    except ValueError:
        return 0.0
    return sum(met) / len(met)


def program_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: every hidden test is met, else half the share met; complete: as many operations as asked for. Nothing if unreadable."""
    try:
        given = len(programs.parse(written(text)))
    except ValueError:
        return 0.0, 0.0
    share = passed(task, text)
    return (1.0 if share == 1 else share / 2), min(given / len(programs.parse(task.facts["program"])), 1.0)


def program_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with one word of the program wrong."""
    return replaced(text, task.facts["program"], _altered(task.facts["program"], rng))


CATEGORIES = (
    Category("sums", (1, 2, 3), draw_sum, sum_body, sum_marks, sum_slip),
    Category("programs", (1, 2, 3), draw_program, program_body, program_marks, program_slip),
)
