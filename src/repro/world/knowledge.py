"""A small knowledge base of creatures: questions about them, questions of two hops, and questions that presume what is not so."""

from repro.world import language
from repro.world.task import Category, Rng, Task, choose, holds, on_side, person, phrase, replaced

RELATIONS = {  # relation: question, sentence, values, which half of the name decides it
    "eats": ("What does the {creature} eat?", "The {creature} eats {value}.", language.FOODS),
    "calls": ("What sound does the {creature} make?", "The {creature} makes a {value}.", language.SOUNDS),
    "lives": ("Where does the {creature} live?", "The {creature} lives in the {value}.", language.HOMES),
    "wakes": ("When does the {creature} wake up?", "The {creature} wakes up at {value}.", language.TIMES),
    "comes": (
        "Where does the food of the {creature} come from?",
        "The {creature} eats {food}, and that comes from {value}.",
        language.ORIGINS,
    ),
}
DIRECT = ("eats", "calls", "lives", "wakes")
WHY = {
    "eats": "Why does the {creature} eat {value}?",
    "calls": "Why does the {creature} make a {value}?",
    "lives": "Why does the {creature} live in the {value}?",
    "wakes": "Why does the {creature} wake up at {value}?",
}
DENIES, AGREES = "That is not so.", "That is just how it likes to be."


def value_of(creature: str, relation: str) -> str:
    """What is true of a creature; the first or the second half of its name decides."""
    adjective, animal = creature.split()
    tables = {"eats": language.EATS, "calls": language.CALLS, "lives": language.LIVES, "wakes": language.WAKES}
    if relation == "comes":
        return language.COMES[language.EATS[animal]]
    return tables[relation][adjective if relation in ("lives", "wakes") else animal]


def sentence(creature: str, relation: str, value: str) -> str:
    """The fact as a sentence."""
    return RELATIONS[relation][1].format(creature=creature, value=value, food=language.EATS[creature.split()[1]])


def others(relation: str, value: str) -> list[str]:
    """The relation's other values."""
    return [each for each in RELATIONS[relation][2] if each != value]


def creature_on(rng: Rng, split: str) -> tuple[str, str]:
    """A creature of that side and its key: new pairs of known halves on the test side."""

    def draw() -> tuple[str, str]:
        creature = f"{choose(rng, language.ADJECTIVES)} {choose(rng, language.ANIMALS)}"
        return creature, f"creature {creature}"

    return on_side(split, draw)


ASKERS = ("{question}", "{name} would like to know: {question}", "A question from {name}. {question}")


def draw_fact(rng: Rng, split: str, difficulty: int) -> Task:
    """1: one hop; 2: two hops, through the food to where that comes from."""
    creature, key = creature_on(rng, split)
    relation = "comes" if difficulty == 2 else choose(rng, DIRECT)
    name, name_key = person(rng, split)
    prompt = phrase(rng, split, ASKERS, question=RELATIONS[relation][0].format(creature=creature), name=name)
    facts = {"name": name if name in prompt else None, "creature": creature, "relation": relation}
    return Task("facts", (("user", prompt),), facts, difficulty, split, (key, name_key) if name in prompt else (key,))


def fact_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """The fact; wrong: another value; part: the bare value."""
    creature, relation = task.facts["creature"], task.facts["relation"]
    value = value_of(creature, relation)
    value = choose(rng, others(relation, value)) if wrong else value
    return [f"{value.capitalize()}."] if part else [sentence(creature, relation, value)]


def fact_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: the true value and no other of its kind (half if it is reached by a wrong food); complete: about the creature."""
    creature, relation = task.facts["creature"], task.facts["relation"]
    value = value_of(creature, relation)
    said = [each for each in RELATIONS[relation][2] if holds(text, each)]
    way = relation == "comes" and any(holds(text, each) for each in others("eats", language.EATS[creature.split()[1]]))
    return (said == [value]) * (0.5 if way else 1.0), 0.5 * bool(said) + 0.5 * (bool(said) and holds(text, creature))


def fact_slip(task: Task, text: str, rng: Rng) -> str:
    """The same answer with another value."""
    value = value_of(task.facts["creature"], task.facts["relation"])
    return replaced(text, value, choose(rng, others(task.facts["relation"], value)))


def draw_premise(rng: Rng, split: str, difficulty: int) -> Task:
    """Why is it so? Half of the time it is not."""
    creature, key = creature_on(rng, split)
    relation = choose(rng, DIRECT)
    value, true = value_of(creature, relation), bool(rng.integers(2))
    said = value if true else choose(rng, others(relation, value))
    name, name_key = person(rng, split)
    prompt = phrase(rng, split, ASKERS, question=WHY[relation].format(creature=creature, value=said), name=name)
    facts = {"name": name if name in prompt else None, "creature": creature, "relation": relation, "said": said}
    keys = (key, name_key) if name in prompt else (key,)
    return Task("premises", (("user", prompt),), facts, difficulty, split, keys)


def premise_body(task: Task, rng: Rng, wrong: bool, part: bool) -> list[str]:
    """A correction where the premise is false, agreement where it is true; wrong: the other way; part: without the fact."""
    creature, relation = task.facts["creature"], task.facts["relation"]
    value, said = value_of(creature, relation), task.facts["said"]
    true = said == value
    if true != wrong:
        return [AGREES] if part else [sentence(creature, relation, said), AGREES]
    claimed = value if not wrong else choose(rng, others(relation, value))
    return [DENIES] if part else [DENIES, sentence(creature, relation, claimed)]


def premise_marks(task: Task, text: str) -> tuple[float, float]:
    """Correct: denies a false premise or accepts a true one (half), states what is so (half), nothing if it takes the wrong side; complete: both are there."""
    creature, relation = task.facts["creature"], task.facts["relation"]
    value = value_of(creature, relation)
    denied, agreed = holds(text, DENIES), holds(text, AGREES)
    false = task.facts["said"] != value
    if (agreed and denied) or (agreed if false else denied):
        stance = None  # it takes the wrong side, or both
    else:
        stance = 0.5 * (denied or agreed)
    stated = [each for each in RELATIONS[relation][2] if holds(text, each)]
    complete = (bool(stated) + (denied or agreed)) / 2
    return (0.0 if stance is None else stance + 0.5 * (stated == [value])), complete


CATEGORIES = (
    Category("facts", (1, 2), draw_fact, fact_body, fact_marks, fact_slip),
    Category("premises", (1,), draw_premise, premise_body, premise_marks, fact_slip),
)
