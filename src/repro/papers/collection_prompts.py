"""Steps 1 and 2 of p1's framework: prompts that the SFT model does not do well yet, and a pair of answers to each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from repro.core.errors import SettingsError
from repro.core.progress import note
from repro.core.settings import Section
from repro.data import Pair
from repro.models.answers import sampled
from repro.papers.collection_rows import STEPS, Candidate, Graded, Tally, Writer, own_rng
from repro.papers.miniature import ROLES, policy, reward_model_of
from repro.world import tasks
from repro.world.task import TRAIN, Task

KEEPS_UP, NO_REWARD = "the SFT model keeps up", "no reward"
SOURCE = "collected"


# Step 1: prompts


def prompt_pool(count: int, seed: int) -> list[Task]:
    """Different prompts of the training side, equally many of every category; fewer, said so, where a category has fewer."""
    found: dict[Any, Task] = {}
    for place, name in enumerate(tasks.CATEGORIES):
        wanted = (count + place) // len(tasks.CATEGORIES)
        own, rng = {}, np.random.default_rng([seed, 53, place])  # its own, so that more prompts begin with the same
        for _ in range(4 * wanted):
            if len(own) == wanted:
                break
            task = tasks.draw(name, rng, TRAIN)
            own.setdefault(task.turns, task)
        found |= own
    if len(found) < count:
        note(f"prompts   {len(found):,} different ones of {count:,} asked for")
    return list(found.values())


def answered(asked: Sequence[Task], world: Section, settings: Section, seed: int) -> list[Candidate]:
    """Each prompt with the answers of the two writers that step 1 compares, and the proxy's reward of both."""
    sft, strong = _writers(settings.compared)
    said = {writer: _texts(writer, asked, world, settings, seed) for writer in (sft, strong)}
    prompts, both = [task.turns for task in asked], [list(row) for row in zip(said[sft], said[strong], strict=True)]
    rewards = reward_model_of(world, seed).pool_rewards(prompts, both)
    return [
        Candidate(task, {sft: texts[0], strong: texts[1]}, (float(row[0]), float(row[1])))
        for task, texts, row in zip(asked, both, rewards, strict=True)
    ]


def keep_hard(pool: Sequence[Candidate], epsilon: float) -> tuple[list[Candidate], Tally]:
    """p1.eq2: the prompts on which the strong model's answer has more than epsilon reward above the SFT model's."""
    dropped: Counter[str] = Counter()
    kept = []
    for each in pool:
        margin = each.rewards[1] - each.rewards[0]
        if margin > epsilon:
            kept.append(each)
        else:
            dropped[KEEPS_UP if margin <= epsilon else NO_REWARD] += 1
    cost = {"answers": 2 * len(pool), "proxy scores": 2 * len(pool)}
    return kept, Tally(STEPS[0], len(pool), len(kept), dict(dropped), cost)


# Step 2: responses


def completed(hard: Sequence[Candidate], world: Section, settings: Section, seed: int) -> list[Candidate]:
    """The prompts with an answer of every writer; those that step 1 drew already are not drawn again."""
    asked, new = [each.task for each in hard], {}
    for writer in _writers(settings.writers):
        if hard and writer not in hard[0].answers:
            new[writer] = _texts(writer, asked, world, settings, seed)
    return [
        replace(each, answers=each.answers | {writer: texts[place] for writer, texts in new.items()})
        for place, each in enumerate(hard)
    ]


def pair_up(hard: Sequence[Candidate], settings: Section, seed: int) -> tuple[list[Pair], Tally]:
    """One pair a prompt, of two writers drawn among those of which one has the stronger role; its answer is chosen for now.

    A prompt's draw is its own, so that it does not hang on which others there are. Raises SettingsError if no writer is
    stronger than another.
    """
    writers = _writers(settings.writers)
    couples = [(a, b) for a in writers for b in writers if ROLES.index(a[0]) > ROLES.index(b[0])]
    if not couples:
        fix = f"name at least two of the roles {', '.join(ROLES)}"
        raise SettingsError("no writer is stronger than another", where="p1_01_collection.writers", fix=fix)
    pairs = []
    for each in hard:
        stronger, other = couples[int(own_rng(seed, 59, each.task).integers(len(couples)))]
        extras = {"task": each.task.row(), "writers": [writer_name(stronger), writer_name(other)]}
        pairs.append(Pair(each.task.turns, each.answers[stronger], each.answers[other], SOURCE, extras))
    new = len([writer for writer in writers if writer not in _writers(settings.compared)])
    return pairs, Tally(STEPS[1], len(hard), len(pairs), {}, {"answers": new * len(hard)})


def with_gold(pairs: Sequence[Pair], graded: Graded) -> list[Pair]:
    """The pairs with the gold reward of both answers, which no step looks at."""
    worth = zip(*(side.gold.round(6).tolist() for side in graded.sides(pairs)), strict=True)
    return [replace(pair, extras={**pair.extras, "gold": list(both)}) for pair, both in zip(pairs, worth, strict=True)]


# What both share


def writer_name(writer: Writer) -> str:
    """A role and its temperature in words."""
    return f"{writer[0]}, T = {writer[1]:g}"


def _writers(listed: Sequence[Sequence[Any]]) -> list[Writer]:
    """Roles and temperatures as the settings list them, each once. Raises SettingsError for what is no role."""
    found = list(dict.fromkeys((str(role), float(temperature)) for role, temperature in listed))
    for role, _ in found:
        if role not in ROLES:
            fix = f"choose from {', '.join(ROLES)}"
            raise SettingsError(f"{role!r} is no role", where="p1_01_collection.writers", fix=fix)
    return found


def _texts(writer: Writer, asked: Sequence[Task], world: Section, settings: Section, seed: int) -> list[str]:
    """The writer's answer to each prompt; its draws are its own, also where another differs by temperature alone."""
    role, temperature = writer
    place = _writers([*settings.compared, *settings.writers]).index(writer)
    own, prompts = world.pick(*world, temperature=temperature), [task.turns for task in asked]
    return [row[0] for row in sampled(policy(role, world), prompts, own, n=1, seed=100 * seed + place).texts]
