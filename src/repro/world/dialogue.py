"""Two turns: the second request leans on the first, so that it cannot be answered alone."""

from typing import Any

from repro.core.errors import DataError
from repro.world import knowledge, language, reasoning
from repro.world.chat import list_body, named, stranger
from repro.world.task import Category, Rng, Task, choose, holds, on_side, person, phrase, replaced

SECOND = {
    "eats": "And what does it eat?",
    "calls": "And what sound does it make?",
    "lives": "And where does it live?",
    "wakes": "And when does it wake up?",
}
ASKS = ("Name two {group} for the {occasion} of {name}.", "{name} needs two {group} for the {occasion}. Which ones?")
MORE = "Name one more, please."
ADD, TAKE = "Now add {} to that.", "Now take {} away from that."
REPLIES = {"facts": knowledge.fact_body, "lists": list_body, "sums": reasoning.sum_body}


def draw(rng: Rng, split: str, difficulty: int) -> Task:
    """1: another fact about the same creature; 2: one more of the same things; 3: a further step of a sum."""
    first = opening(rng, split, difficulty)
    return follow_up(first, " ".join(REPLIES[first.category](first, rng, False, False)), rng)


def opening(rng: Rng, split: str, difficulty: int) -> Task:
    """A first turn that a follow-up can lean on: a fact, two things of one group, or a sum of one step."""
    if difficulty == 1:
        return knowledge.draw_fact(rng, split, 1)
    return _two_things(rng, split) if difficulty == 2 else reasoning.draw_sum(rng, split, 1)


def _two_things(rng: Rng, split: str) -> Task:
    def topic() -> tuple[tuple[str, str], str]:
        group, occasion = choose(rng, language.GROUPS), choose(rng, language.OCCASIONS)
        return (group, occasion), f"dialogue {group} {occasion}"

    (group, occasion), key = on_side(split, topic)
    name, name_key = person(rng, split)
    prompt = phrase(rng, split, ASKS, group=group, occasion=occasion, name=name)
    facts = {"name": name, "groups": [group], "counts": [2]}
    return Task("lists", (("user", prompt),), facts, 1, split, (name_key, key))


def follow_up(first: Task, answer: str, rng: Rng) -> Task:
    """The second turn of a dialogue whose first turn got this answer, right or wrong (MT-Bench's second question).

    A further step starts from the true result, another fact is the world's; what the answer named is no longer new.
    Raises DataError if the first turn is no fact, sum, or list of one group.
    """
    facts = first.facts
    if first.category == "facts":
        asked = choose(rng, [other for other in knowledge.DIRECT if other != facts["relation"]])
        facts = {"kind": "fact", "name": None, "creature": facts["creature"], "relation": asked}
        return _second(first, answer, SECOND[asked], facts, 1)
    if first.category == "lists" and len(facts["groups"]) == 1:
        (group,) = facts["groups"]
        given = [item for item in named(answer) if item in language.GROUPS[group]][:3]  # one at least stays new
        facts = {"kind": "more", "name": facts["name"], "group": group, "given": given}
        return _second(first, answer, MORE, facts, 2)
    if first.category == "sums":
        (start, more, sign), key = _further(first, rng)
        asks = (ADD if sign == reasoning.PLUS else TAKE).format(more)
        facts = {"kind": "sum", "name": facts["name"], "start": start, "more": more, "sign": sign}
        return _second(first, answer, asks, facts, 3, key)
    raise DataError("no second turn leans on it", where=first.category, fix="a fact, a sum, or a list of one group")


def _further(first: Task, rng: Rng) -> tuple[tuple[int, int, str], str]:
    """(result so far, the next number, its sign), of two digits each, on the first turn's side of the split of sums."""
    start = reasoning.steps(first.facts)[-1][3]

    def step() -> tuple[tuple[int, int, str], str]:
        sign = choose(rng, [reasoning.PLUS] * (start < 90) + [reasoning.MINUS] * (start > 19))
        more = int(rng.integers(10, 100 - start) if sign == reasoning.PLUS else rng.integers(10, start - 9))
        return (start, more, sign), reasoning.step_keys([start, more], [sign])[0]

    return on_side(first.split, step)


def _second(first: Task, reply: str, asks: str, facts: dict[str, Any], level: int, *keys: str) -> Task:
    turns = (*first.turns, ("assistant", reply), ("user", asks))
    return Task("dialogue", turns, facts, level, first.split, (*first.keys, *keys))


def _result(task: Task) -> int:
    facts = task.facts
    return facts["start"] + facts["more"] if facts["sign"] == reasoning.PLUS else facts["start"] - facts["more"]


def body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """The second answer; wrong: one word of it is; part: the bare word."""
    facts = task.facts
    if facts["kind"] == "fact":
        return knowledge.fact_body(task, rng, wrong, part)
    if facts["kind"] == "sum":
        result = reasoning.off_by(_result(task), rng) if wrong else _result(task)
        return [f"It is {result}." if part else f"{facts['start']} {facts['sign']} {facts['more']} is {result}."]
    item = choose(rng, [each for each in language.GROUPS[facts["group"]] if each not in facts["given"]])
    item = _worse(task, rng) if wrong else item
    return [f"{item.capitalize()}." if part else f"One more is {item}."]


def _worse(task: Task, rng: Rng) -> str:
    """A thing that was named before, or one of another group."""
    given = task.facts["given"]
    return choose(rng, given) if given and rng.integers(2) else stranger((task.facts["group"],), rng)


def marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the word or the last number asked for, and new; complete: in a sentence that shows what it continues."""
    facts = task.facts
    if facts["kind"] == "fact":
        return knowledge.fact_marks(task, text)
    if facts["kind"] == "sum":
        said = reasoning.numbers_in(text)
        shown = holds(text, f"{facts['start']} {facts['sign']} {facts['more']} is")
        return float(said[-1:] == [_result(task)]), 0.5 * bool(said) + 0.5 * shown
    given = named(text)
    new = len(given) == 1 and given[0] in language.GROUPS[facts["group"]] and given[0] not in facts["given"]
    return float(new), 0.5 * bool(given) + 0.5 * holds(text, "one more is")


def slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with its one telling word wrong."""
    if task.facts["kind"] == "fact":
        return knowledge.fact_slip(task, text, rng)
    if task.facts["kind"] == "sum":
        return replaced(text, str(_result(task)), str(reasoning.off_by(_result(task), rng)))
    return replaced(text, named(text)[-1], _worse(task, rng)) if named(text) else text


CATEGORIES = (Category("dialogue", (1, 2, 3), draw, body, marks, slip),)
