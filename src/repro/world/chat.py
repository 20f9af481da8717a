"""Open requests: advice for a feeling, lists of things that belong together, and lists under a constraint that is easily overlooked."""

from collections.abc import Collection

from repro.world import language
from repro.world.task import (
    Category,
    Rng,
    Task,
    choose,
    holds,
    listed,
    on_side,
    person,
    phrase,
    replaced,
    several,
    words,
)

ADVICE_ASKS = (
    "I am {name} and I feel {feeling} after the {cause}. What should I do?",
    "My name is {name}. The {cause} left me {feeling}. Any ideas?",
    "{name} feels {feeling} because of the {cause}. What helps?",
    "What can {name} do when the {cause} makes one {feeling}?",
)


def fitting(feeling: str) -> list[str]:
    """The advice that helps with a feeling."""
    return [advice for advice, fits in language.ADVICE.items() if feeling in fits]


def draw_advice(rng: Rng, split: str, difficulty: int) -> Task:
    """A person, a feeling and its cause; feeling and cause together are split, as is the person."""

    def topic() -> tuple[tuple, str]:
        feeling, cause = choose(rng, language.FEELINGS), choose(rng, language.CAUSES)
        return (feeling, cause), f"chat {feeling} {cause}"

    (feeling, cause), key = on_side(split, topic)
    name, name_key = person(rng, split)
    prompt = phrase(rng, split, ADVICE_ASKS, name=name, feeling=feeling, cause=cause)
    facts = {"name": name, "feeling": feeling, "cause": cause}
    return Task("chat", (("user", prompt),), facts, difficulty, split, (name_key, key))


def advice_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """Two pieces of advice and a word on the cause; wrong: one piece does not fit; part: one piece, no word on the cause."""
    good = fitting(task.facts["feeling"])
    given = several(rng, good, 2)
    if wrong:
        given[int(rng.integers(2))] = choose(rng, [advice for advice in language.ADVICE if advice not in good])
    feeling = task.facts["feeling"]
    if part:
        return [f"When you feel {feeling}, {given[0]}."]
    return [f"When you feel {feeling}, {given[0]} and {given[1]}.", f"The {task.facts['cause']} will soon be over."]


def advice_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the pieces of advice that fit, two at most, less those that do not, out of two; complete: two, the feeling, the cause."""
    given = [advice for advice in language.ADVICE if holds(text, advice)]
    fits = sum(task.facts["feeling"] in language.ADVICE[advice] for advice in given)
    correct = max(0.0, min(fits, 2) - (len(given) - fits)) / 2
    asked = [len(given) >= 2, holds(text, task.facts["feeling"]), holds(text, task.facts["cause"])]
    return correct, sum(asked) / 3


def advice_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with one piece of advice for another feeling."""
    feeling = task.facts["feeling"]
    given = [advice for advice in language.ADVICE if holds(text, advice)]
    bad = choose(rng, [advice for advice in language.ADVICE if feeling not in language.ADVICE[advice]])
    return replaced(text, given[-1], bad) if given else text


LIST_ASKS = (
    "Name {first} and {second} for the {occasion} of {name}.",
    "{name} needs {first} and {second}. Which ones?",
    "What are {first} and {second} for the {occasion}?",
    "Give {name} {first} and also {second}.",
)


def _counted(group: str, count: int) -> str:
    return f"{language.NUMBER_WORDS[count]} {group if count > 1 else group.removesuffix('s')}"


def draw_list(rng: Rng, split: str, difficulty: int) -> Task:
    """Things of two groups, one to three of each; the pair of groups is split."""

    def groups() -> tuple[list, str]:
        pair = several(rng, language.GROUPS, 2)
        return pair, f"lists {' '.join(sorted(pair))}"

    pair, key = on_side(split, groups)
    name, name_key = person(rng, split)
    counts = [int(rng.integers(1, 4)), int(rng.integers(1, 3))]
    first, second = (_counted(group, count) for group, count in zip(pair, counts, strict=True))
    prompt = phrase(
        rng, split, LIST_ASKS, first=first, second=second, name=name, occasion=choose(rng, language.OCCASIONS)
    )
    facts = {"name": name if name in prompt else None, "groups": pair, "counts": counts}
    return Task("lists", (("user", prompt),), facts, difficulty, split, (name_key, key) if name in prompt else (key,))


KNOWN = frozenset(item for items in language.GROUPS.values() for item in items)


def stranger(groups: Collection[str], rng: Rng) -> str:
    """A thing of none of the groups."""
    return choose(rng, [item for name, items in language.GROUPS.items() if name not in groups for item in items])


def named(text: str) -> list[str]:
    """The things of the world that a text names, each once, in order."""
    return list(dict.fromkeys(word for word in words(text) if word in KNOWN))


def _sentence(group: str, items: list[str]) -> str:
    return f"{_counted(group, len(items)).capitalize()} {'is' if len(items) == 1 else 'are'} {listed(items)}."


def list_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """One sentence a group; wrong: one thing is of another group; part: the second group is forgotten."""
    picks = [
        several(rng, language.GROUPS[group], count)
        for group, count in zip(task.facts["groups"], task.facts["counts"], strict=True)
    ]
    if wrong:
        place = 0 if part else int(rng.integers(len(picks)))
        picks[place][int(rng.integers(len(picks[place])))] = stranger(task.facts["groups"], rng)
    sentences = [_sentence(group, items) for group, items in zip(task.facts["groups"], picks, strict=True)]
    return sentences[:1] if part else sentences


def list_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: share of the named things that belong and were asked for; complete: share of the asked number."""
    given = named(text)
    if not given:
        return 0.0, 0.0
    right = 0
    for group, count in zip(task.facts["groups"], task.facts["counts"], strict=True):
        right += min(count, len({item for item in given if item in language.GROUPS[group]}))
    asked = sum(task.facts["counts"])
    return right / len(given), right / asked


def list_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with one thing of another group."""
    given = named(text)
    return replaced(text, given[-1], stranger(task.facts["groups"], rng)) if given else text


CONSTRAINTS = {
    "without": "Do not name {word}.",
    "begin": "Begin your answer with the word {word}.",
    "end": "End your answer with the word {word}.",
    "order": "Put them in the order of the alphabet.",
}
CONSTRAINT_ASKS = (
    "Name {things} for {name}. {rule}",
    "{name} wants {things}. {rule}",
    "Which {things} would you give {name}? {rule}",
)


def draw_constraint(rng: Rng, split: str, difficulty: int) -> Task:
    """Things of one group under a rule; group, rule and its word together are split. 1: begin or end; 2: without; 3: order."""

    def choice() -> tuple[tuple, str]:
        kind = {1: choose(rng, ("begin", "end")), 2: "without", 3: "order"}[difficulty]
        group = choose(rng, language.GROUPS)
        pool = language.GROUPS[group] if kind == "without" else language.CODE_WORDS
        word = choose(rng, pool) if kind != "order" else choose(rng, language.OCCASIONS)
        return (kind, group, word), f"constraints {kind} {group} {word}"

    (kind, group, word), key = on_side(split, choice)
    count = 2 if kind == "without" else 3 if kind == "order" else int(rng.integers(1, 4))
    name, name_key = person(rng, split)
    things = _counted(group, count) + (f" for a {word}" if kind == "order" else "")
    prompt = phrase(rng, split, CONSTRAINT_ASKS, things=things, name=name, rule=CONSTRAINTS[kind].format(word=word))
    facts = {"name": name, "kind": kind, "group": group, "count": count, "word": word}
    return Task("constraints", (("user", prompt),), facts, difficulty, split, (name_key, key))


def constraint_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """The list under its rule; wrong: the rule is overlooked; part: one thing too few."""
    kind, group, word = task.facts["kind"], task.facts["group"], task.facts["word"]
    pool = [item for item in language.GROUPS[group] if kind != "without" or item != word]
    items = several(rng, pool, task.facts["count"])
    if kind == "without" and wrong:
        items[int(rng.integers(len(items)))] = word
    if kind == "order":
        items = sorted(items)
        items = items[1:] + items[:1] if wrong else items
    sentence = _sentence(group, items[1:] if part and len(items) > 1 else items)
    said = choose(rng, [other for other in language.CODE_WORDS if other != word]) if wrong else word
    return {"begin": [f"{said}.", sentence], "end": [sentence, f"{said}."]}.get(kind, [sentence])


def obeys(task: Task, text: str) -> bool:
    """Whether the answer keeps the rule."""
    kind, word = task.facts["kind"], task.facts["word"].lower()
    said, given = words(text), named(text)
    if kind in ("begin", "end"):
        return bool(said) and said[0 if kind == "begin" else -1] == word
    return word not in said if kind == "without" else given == sorted(given) and len(given) > 1


def constraint_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the things belong (a third) and the rule is kept (two thirds, with any thing that belongs); complete: how many of those asked for."""
    given = named(text)
    right = {item for item in given if item in language.GROUPS[task.facts["group"]]}
    if not right:
        return 0.0, 0.0
    return len(right) / len(given) / 3 + 2 / 3 * obeys(task, text), min(len(right) / task.facts["count"], 1.0)


def constraint_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with the rule broken by one word."""
    kind, word, given = task.facts["kind"], task.facts["word"], named(text)
    if kind in ("begin", "end"):
        return replaced(text, word, choose(rng, [other for other in language.CODE_WORDS if other != word]))
    if kind == "without":
        return replaced(text, given[-1], word) if given else text
    left = [item for item in language.GROUPS[task.facts["group"]] if item not in given]
    if len(given) < 2 or not left:
        return text
    new = choose(rng, left)  # a third thing too early in the alphabet for the end of the list is too late for its front
    return replaced(text, given[-1] if new < given[-2] else given[0], new)


CATEGORIES = (
    Category("chat", (1,), draw_advice, advice_body, advice_marks, advice_slip),
    Category("lists", (1,), draw_list, list_body, list_marks, list_slip),
    Category("constraints", (1, 2, 3), draw_constraint, constraint_body, constraint_marks, constraint_slip),
)
