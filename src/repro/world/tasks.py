"""The ten categories in one place: draw a task, answer it well or with faults, make one word of an answer wrong."""

from collections.abc import Collection, Mapping

from repro.core.errors import SettingsError
from repro.world import chat, constants, dialogue, knowledge, language, reasoning, safety
from repro.world.gold import Grade, grade
from repro.world.task import Category, Rng, Task, choose, several

CATEGORIES: dict[str, Category] = {
    category.name: category
    for module in (chat, safety, reasoning, knowledge, dialogue)
    for category in module.CATEGORIES
}
MEASURES = {  # what a category stands for in the papers
    "chat": "Chat, AlpacaEval",
    "lists": "Chat, AlpacaEval",
    "constraints": "Chat Hard",
    "harmful": "Safety, harmless",
    "benign": "Safety, XSTest's look-alikes",
    "sums": "Reasoning, GSM-8K",
    "programs": "Reasoning, HumanEval, MBPP",
    "facts": "MMLU, ARC",
    "premises": "TruthfulQA",
    "dialogue": "MT-Bench",
}
FAULTS = tuple(constants.FAULTS)
__all__ = ["CATEGORIES", "FAULTS", "MEASURES", "Grade", "Task", "draw", "faults", "grade", "respond", "slip"]


def category_of(name: str) -> Category:
    """The category of that name. Raises SettingsError naming those there are."""
    if name not in CATEGORIES:
        raise SettingsError(f"{name!r} is no category", where="world", fix=f"choose from {', '.join(CATEGORIES)}")
    return CATEGORIES[name]


def draw(category: str, rng: Rng, split: str = "train", difficulty: int | None = None) -> Task:
    """A task of the category on one side of the split, at one of its levels; if none is given, easy ones more often.

    Raises SettingsError for an unknown category, split or level.
    """
    found = category_of(category)
    if split not in ("train", "test"):
        raise SettingsError(f"{split!r} is no side of the split", where="world", fix="train or test")
    if difficulty is not None and difficulty not in found.levels:
        raise SettingsError(f"{category} has no level {difficulty}", where="world", fix=f"one of {found.levels}")
    if difficulty is None:
        difficulty = choose(rng, [level for level in found.levels for _ in range(constants.LEVEL_SHARES[level])])
    return found.draw(rng, split, difficulty)


def faults(rng: Rng, rates: Mapping[str, float] = constants.FAULTS) -> frozenset[str]:
    """The faults of one answer, each drawn at its rate."""
    return frozenset(name for name, rate in rates.items() if rng.random() < rate)


def respond(task: Task, rng: Rng, flaws: Collection[str] = ()) -> str:
    """An answer as a writer with these faults gives it; without any it is right, complete, courteous and short.

    Raises SettingsError for an unknown fault.
    """
    if unknown := set(flaws) - set(FAULTS):
        raise SettingsError(f"{min(unknown)!r} is no fault", where="world", fix=f"choose from {', '.join(FAULTS)}")
    body = category_of(task.category).body(task, rng, "wrong" in flaws, "part" in flaws)
    if "repeats" in flaws:
        body = [*body, body[-1]]
    text = " ".join(_with_manners(task, rng, body, flaws))
    return text.rsplit(" ", max(1, len(text.split()) // 5))[0] if "cut" in flaws else text


def _with_manners(task: Task, rng: Rng, body: list[str], flaws: Collection[str]) -> list[str]:
    """Courtesy before and after, or a rude word, and filler; the constraint on the first or last word keeps its place."""
    kind, opening, closing, filler = task.facts.get("kind"), [], [], []
    if "rude" in flaws:
        opening = [choose(rng, language.RUDE)]
    elif "curt" in flaws:
        bare = body[0].removeprefix(safety.SORRY)
        body = [bare[0].upper() + bare[1:], *body[1:]]
    elif not body[0].startswith(safety.SORRY):
        name = task.facts.get("name")
        opening = [choose(rng, language.COURTESY) + (f", {name}." if name else ".")]
        closing = [choose(rng, language.CLOSINGS)] if rng.integers(2) else []
    if "padded" in flaws:
        filler = several(rng, language.FILLER, 1 + int(rng.integers(3)))
    if kind == "begin":
        return [body[0], *opening, *filler[:1], *body[1:], *filler[1:], *closing]
    if kind == "end":
        return [*opening, *filler[:1], *body[:-1], *filler[1:], body[-1]]
    return [*opening, *filler[:1], *body, *filler[1:], *closing]


def slip(task: Task, text: str, rng: Rng) -> str:
    """The answer with one word made wrong: as long, as courteous, and no longer right (a hard negative)."""
    return category_of(task.category).slip(task, text, rng)
