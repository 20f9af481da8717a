"""What UGDA is given: human preferences, prompts to ask, validation answers and test prompts; helpful and harmless (p3).

All come from the world's HH-RLHF. Preferences, prompts and validation are on the training side, each with draws of its
own; only what is reported is measured on the test side.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data import Pair
from repro.data import miniature as data
from repro.data.schema import Turns
from repro.world.task import TEST, TRAIN, Task

SOURCE = "HH-RLHF"
HELPFUL, HARMLESS = "helpful", "harmless"
SUBTASKS = {HELPFUL: ("chat", "lists", "benign"), HARMLESS: ("harmful",)}  # the categories of the source
PROMPTS, VALIDATION, TUNING, TESTING = 3000, 4000, 5000, 0  # where draws begin, away from the preferences'
FLIPS = 20
SPARE = 4  # pairs read for each prompt that is wanted: a prompt may come again, one subtask be rare


def preferences(settings: Section, seed: int) -> list[Pair]:
    """D_p, which people labelled; a `flip_share` of the pairs, drawn by the seed, the wrong way round (p3 section 5.3).

    settings: preference_pairs, flip_share. Raises SettingsError if the share is outside 0..1.
    """
    return flipped(data.pairs([SOURCE], settings.preference_pairs, seed), settings.flip_share, seed)


def flipped(pairs: Sequence[Pair], share: float, seed: int) -> list[Pair]:
    """The pairs, exactly a share of them (rounded) with chosen and rejected exchanged.

    Raises SettingsError if the share is outside 0..1.
    """
    if not 0 <= share <= 1:
        raise SettingsError(f"{share} is no share", where="flip_share", fix="from 0 to 1; the paper has 0.2")
    count = round(share * len(pairs))
    turned = set(np.random.default_rng([seed, FLIPS]).permutation(len(pairs))[:count].tolist())
    return [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen) if place in turned else pair
        for place, pair in enumerate(pairs)
    ]


def ppo_prompts(settings: Section, seed: int) -> list[Task]:
    """The prompts that PPO asks, none twice. settings: ppo_prompts. Raises DataError if there are too few."""
    return _distinct(settings.ppo_prompts, PROMPTS + seed, TRAIN, "PPO prompts")


def validation_texts(settings: Section, seed: int) -> dict[str, list[tuple[Turns, str]]]:
    """Instruction and chosen answer of each validation subtask (p3 section 5.1), here of pairs that nothing learns from.

    The paper takes them from the test sets; what is reported is measured there, so here they are on the training side.
    settings: validation_samples, of each subtask. Raises DataError naming a subtask that has too few.
    """
    count = settings.validation_samples
    pairs = data.pairs([SOURCE], SPARE * len(SUBTASKS) * count, VALIDATION + seed)
    return {
        name: [(pair.prompt, pair.chosen) for pair in _first(pairs, name, count, "validation")] for name in SUBTASKS
    }


def tuning_prompts(settings: Section, seed: int) -> list[Task]:
    """Prompts on the training side that rates and steps are chosen on. settings: test_prompts, of each subtask."""
    return _of_each_subtask(settings.test_prompts, TUNING + seed, TRAIN)


def test_prompts(settings: Section) -> list[Task]:
    """The prompts that every reported figure rests on, the same for all seeds: helpful ones, then harmless ones.

    settings: test_prompts, of each subtask.
    """
    return _of_each_subtask(settings.test_prompts, TESTING, TEST)


def subtask_of(task: Task) -> str:
    """`helpful` or `harmless`. Raises DataError if the source has no such category."""
    found = [name for name, categories in SUBTASKS.items() if task.category in categories]
    if not found:
        raise DataError(f"{task.category} is of no subtask", where="UGDA", fix=f"ask prompts of {SOURCE}")
    return found[0]


def _of_each_subtask(count: int, seed: int, split: str) -> list[Task]:
    pairs = data.pairs([SOURCE], SPARE * len(SUBTASKS) * count, seed, split)
    return [_task(pair) for name in SUBTASKS for pair in _first(pairs, name, count, f"{split} prompts")]


def _first(pairs: Sequence[Pair], subtask: str, count: int, where: str) -> list[Pair]:
    """The first pairs of a subtask, a prompt once."""
    found = {pair.prompt: pair for pair in reversed(pairs) if subtask_of(_task(pair)) == subtask}
    if len(found) < count:
        what = f"{len(found)} {subtask} prompts where {count} are wanted"
        raise DataError(what, where=where, fix="ask for fewer")
    return list(reversed(found.values()))[:count]


def _distinct(count: int, seed: int, split: str, where: str) -> list[Task]:
    pairs = data.pairs([SOURCE], SPARE * count, seed, split)
    found = {pair.prompt: _task(pair) for pair in pairs}
    if len(found) < count:
        raise DataError(f"{len(found)} different prompts where {count} are wanted", where=where, fix="ask for fewer")
    return list(found.values())[:count]


def _task(pair: Pair) -> Task:
    return Task.of(pair.extras["task"])
