"""Two turns: the second request leans on the first, so that it cannot be answered alone."""

from repro.world import knowledge, language
from repro.world.chat import _stranger, named
from repro.world.reasoning import draw_sum, off_by
from repro.world.task import Category, Rng, Task, choose, holds, on_side, person, replaced, several, side

SECOND = {
    "eats": "And what does it eat?",
    "calls": "And what sound does it make?",
    "lives": "And where does it live?",
    "wakes": "And when does it wake up?",
}
MORE = "Name one more, please."
ADD, TAKE = "Now add {} to that.", "Now take {} away from that."


def draw(rng: Rng, split: str, difficulty: int) -> Task:
    """1: another fact about the same creature; 2: one more of the same things; 3: a further step of a sum."""
    return {1: _creature, 2: _things, 3: _sum}[difficulty](rng, split)


def _creature(rng: Rng, split: str) -> Task:
    first = knowledge.draw_fact(rng, split, 1)
    creature, relation = first.facts["creature"], first.facts["relation"]
    asked = choose(rng, [other for other in knowledge.DIRECT if other != relation])
    reply = knowledge.sentence(creature, relation, knowledge.value_of(creature, relation))
    facts = {"kind": "fact", "name": None, "creature": creature, "relation": asked}
    return _task(first.turns, reply, SECOND[asked], facts, 1, split, first.keys)


def _things(rng: Rng, split: str) -> Task:
    def choice() -> tuple[tuple, str]:
        group = choose(rng, language.GROUPS)
        items = several(rng, language.GROUPS[group], 2)
        return (group, items), f"dialogue {group} {' '.join(sorted(items))}"

    (group, items), key = on_side(split, choice)
    name, name_key = person(rng, split)
    prompt = f"Name two {group} for {name}."
    reply = f"Two {group} are {items[0]} and {items[1]}."
    facts = {"kind": "more", "name": name, "group": group, "given": items}
    return _task((("user", prompt),), reply, MORE, facts, 2, split, (name_key, key))


def _sum(rng: Rng, split: str) -> Task:
    while True:
        first = draw_sum(rng, split, 1)
        (a, b), (sign,) = first.facts["numbers"], first.facts["signs"]
        start = a + b if sign == "plus" else a - b
        more = int(rng.integers(10, 80))
        signs = [s for s, result in (("plus", start + more), ("minus", start - more)) if 10 <= result < 100]
        if signs and side(f"dialogue {start} {more} {signs[0]}") == split:
            break
    reply = f"{a} {sign} {b} is {start}."
    asks = (ADD if signs[0] == "plus" else TAKE).format(more)
    facts = {"kind": "sum", "name": first.facts["name"], "start": start, "more": more, "sign": signs[0]}
    keys = (*first.keys, f"dialogue {start} {more} {signs[0]}")
    return _task(first.turns, reply, asks, facts, 3, split, keys)


def _task(turns: tuple, reply: str, asks: str, facts: dict, level: int, split: str, keys: tuple[str, ...]) -> Task:
    return Task("dialogue", (*turns, ("assistant", reply), ("user", asks)), facts, level, split, keys)


def _result(facts: dict) -> int:
    return facts["start"] + facts["more"] if facts["sign"] == "plus" else facts["start"] - facts["more"]


def body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """The second answer; wrong: one word of it is; part: the bare word."""
    facts = task.facts
    if facts["kind"] == "fact":
        return knowledge.fact_body(task, rng, wrong, part)
    if facts["kind"] == "sum":
        result = off_by(_result(facts), rng) if wrong else _result(facts)
        return [f"It is {result}." if part else f"{facts['start']} {facts['sign']} {facts['more']} is {result}."]
    fresh = [item for item in language.GROUPS[facts["group"]] if item not in facts["given"]]
    item = (choose(rng, facts["given"]) if rng.integers(2) else _stranger(facts["group"], rng)) if wrong else None
    item = item or choose(rng, fresh)
    return [f"{item.capitalize()}." if part else f"One more is {item}."]


def marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the word asked for, and new; complete: in a sentence that shows what it continues."""
    facts = task.facts
    if facts["kind"] == "fact":
        return knowledge.fact_marks(task, text)
    if facts["kind"] == "sum":
        right = text.rstrip(" .!").endswith(str(_result(facts))) or holds(text, f"is {_result(facts)}")
        shown = holds(text, f"{facts['start']} {facts['sign']} {facts['more']} is")
        return float(right), 0.5 * any(map(str.isdigit, text)) + 0.5 * shown
    given = named(text)
    fresh = [item for item in given if item in language.GROUPS[facts["group"]] and item not in facts["given"]]
    return float(len(fresh) == 1 and len(given) == 1), 0.5 * bool(given) + 0.5 * holds(text, "one more is")


def slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with its one telling word wrong."""
    facts = task.facts
    if facts["kind"] == "fact":
        return knowledge.fact_slip(task, text, rng)
    if facts["kind"] == "sum":
        return replaced(text, str(_result(facts)), str(off_by(_result(facts), rng)))
    item = named(text)[-1]
    old, other = facts["given"][0], facts["given"][1]
    new = choose(rng, (old, other))
    return replaced(text, item, new) if item in text else replaced(text, item.capitalize(), new.capitalize())


CATEGORIES = (Category("dialogue", (1, 2, 3), draw, body, marks, slip),)
