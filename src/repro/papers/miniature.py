"""The miniature world at a tier: policies, their answers and reward models, each made once and shared by every chapter.

Roles: `small` and `large` are the papers' two sizes, `strong` stands where they use GPT-4 or a larger model. A name that
begins with `miniature/` is a Llama of that size, pretrained here from random weights; any other is a model folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact, canonical
from repro.core.errors import MissingInput
from repro.core.parallel import ahead, run_all
from repro.core.paths import HOW_TO_GET_MODELS, runs_folder
from repro.core.settings import Section
from repro.data import Pair, miniature
from repro.models.answers import Answers, sampled
from repro.models.load import find_model
from repro.models.scratch import scratch
from repro.train.reward_tokens import TokenRewardModel, finetuning
from repro.train.sft import SFT_SETTINGS, sft
from repro.world import gold, tasks
from repro.world.task import TEST, Task

ROLES = ("small", "large", "strong")
MINIATURE = "miniature/"  # how the names of models begin that are made here
_POLICIES: dict[tuple[str, str], list[Artifact]] = {}  # found once a process, not at every mention
_REWARD_MODELS: dict[tuple, TokenRewardModel] = {}  # likewise
SECTION = "world"  # the settings that every chapter of the miniature world shares


def base(name: str, settings: Section) -> Artifact:
    """The base model: a miniature size pretrained on the world's bare answers, or a model folder as it is.

    Raises MissingInput if the folder is nowhere, SettingsError for an unknown size.
    """
    if name.startswith(MINIATURE):
        return artifacts.run(**_pretraining(name, settings))
    if (folder := find_model(name)) is None:
        raise MissingInput("no such model folder", where=name, fix=HOW_TO_GET_MODELS)
    return artifacts.external(folder)


def _pretraining(name: str, settings: Section) -> dict[str, Any]:
    texts = artifacts.external(miniature.lexicon() / miniature.TEXTS)
    start = artifacts.run(scratch, settings={"name": name}, inputs={"texts": texts}, seed=0)
    read = miniature.demonstrations(settings.pretraining_conversations, style="bare", seed=1)
    inputs = {"base": start, "conversations": artifacts.external(read / miniature.CONVERSATIONS)}
    return {"step": sft, "settings": _rated(name, settings), "inputs": inputs, "seed": 0}


def _rated(name: str, settings: Section) -> Section:
    """What `sft` reads; all models but the small one learn at the rate of the larger ones."""
    if name == settings.small:
        return settings.pick(*SFT_SETTINGS)
    return settings.renamed(sft_learning_rate="larger_sft_learning_rate").pick(*SFT_SETTINGS)


def policy(role: str, settings: Section) -> Artifact:
    """The SFT policy of a role, trained once a tier and shared by all seeds (p2.sft); the strong one on clean answers.

    settings: the section `world`. All roles are trained at once, since who needs one will need the others. Raises as
    `base` and `train.sft.sft` do.
    """
    known = (str(runs_folder()), canonical(settings))
    if known not in _POLICIES:
        longest_first = [each for each in ("large", "small", "strong") if _missing(each, settings)]
        ahead(_policy, [(each, settings) for each in longest_first], settings.workers)
        _POLICIES[known] = [_policy(each, settings) for each in ROLES]
    return _POLICIES[known][ROLES.index(role)]


def _policy(role: str, settings: Section) -> Artifact:
    return artifacts.run(**_fine_tuning(role, settings))


def _missing(role: str, settings: Section) -> bool:
    """Whether a role's policy, or the base that it starts from, is still to be trained."""
    name = settings[role]
    if name.startswith(MINIATURE) and not artifacts.known(**_pretraining(name, settings)):
        return True
    return not artifacts.known(**_fine_tuning(role, settings))


def _fine_tuning(role: str, settings: Section) -> dict[str, Any]:
    if role == "strong":
        return _tuning(settings.strong, settings, settings.strong_demonstrations, "clean")
    return _tuning(settings[role], settings, settings.demonstrations, "mixed")


def _tuning(name: str, settings: Section, count: int, style: str) -> dict[str, Any]:
    shown = miniature.demonstrations(count, style=style)
    conversations = artifacts.external(shown / miniature.CONVERSATIONS)
    inputs = {"base": base(name, settings), "conversations": conversations}
    return {"step": sft, "settings": _rated(name, settings), "inputs": inputs, "seed": 0}


def policy_from(name: str, settings: Section) -> Artifact:
    """The SFT policy of any base on demonstrations of mixed quality, as `small` and `large` are. Raises as `policy`."""
    return artifacts.run(**_tuning(name, settings, settings.demonstrations, "mixed"))


@dataclass(frozen=True)
class Pool:
    """n answers of one policy to each task, and what each is worth: texts (prompts)(n); gold, (prompts, n)."""

    tasks: list[Task]
    answers: Answers
    gold: np.ndarray

    @property
    def texts(self) -> list[list[str]]:
        return self.answers.texts

    @property
    def characters(self) -> np.ndarray:
        """Length of each answer, (prompts, n)."""
        return np.array([[len(text) for text in row] for row in self.texts])

    def first(self, n: int) -> "Pool":
        """The pool with the first n answers of each prompt."""
        answers = self.answers
        texts = [row[:n] for row in answers.texts]
        kept = Answers(answers.artifact, texts, answers.finished[:, :n], answers.tokens[:, :n])
        return Pool(self.tasks, kept, self.gold[:, :n])


def graded(asked: Sequence[Task], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Gold reward of each answer, (prompts, n). Raises DataError as `world.gold.grade` does."""
    return np.array([[gold.grade(task, text).gold for text in row] for task, row in zip(asked, texts, strict=True)])


def pool(who: str | Artifact, asked: Sequence[Task], settings: Section, *, n: int, seed: int = 0) -> Pool:
    """n answers to each task by a role's policy, or by any other, drawn once and graded."""
    model = policy(who, settings) if isinstance(who, str) else who
    found = sampled(model, [task.turns for task in asked], settings, n=n, seed=seed)
    return Pool(list(asked), found, graded(asked, found.texts))


def balanced(per_category: int, seed: int, split: str = TEST) -> list[Task]:
    """Equally many tasks of every category, its levels in turn: what headroom and reward models are measured on.

    A prompt drawn before is drawn anew, twenty times at most: a level can have few.
    """
    rng, found, seen = np.random.default_rng([seed, 11]), [], set()
    for name, category in tasks.CATEGORIES.items():
        for place in range(per_category):
            level = category.levels[place % len(category.levels)]
            drawn = (tasks.draw(name, rng, split, level) for _ in range(20))
            new = (task for task in drawn if task.turns not in seen)
            found.append(next(new, None) or tasks.draw(name, rng, split, level))
            seen.add(found[-1].turns)
    return found


def reward_models(
    sets: Sequence[tuple[Sequence[Pair], int]], settings: Section, role: str = "small"
) -> list[TokenRewardModel]:
    """A Bradley-Terry reward model (p2.eq4) for each (pairs, seed), from a role's SFT policy; several are trained at once.

    settings: the section `world`.
    """
    chosen, start = settings.renamed(model=role), policy(role, settings)
    made = run_all([finetuning(pairs, chosen, seed, start) for pairs, seed in sets], settings.workers)
    return [TokenRewardModel(each, chosen) for each in made]


def reward_model_of(settings: Section, seed: int, mixture: str = "mix2") -> TokenRewardModel:
    """The reward model that later chapters optimise: p2.eq4 on `reward_pairs` pairs of a mixture.

    settings: the section `world`. Found once a process, since drawing the pairs again takes seconds.
    """
    known = (str(runs_folder()), canonical(settings), seed, mixture)
    if known not in _REWARD_MODELS:
        pairs = miniature.pairs(mixture, settings.reward_pairs, seed)
        _REWARD_MODELS[known] = reward_models([(pairs, seed)], settings)[0]
    return _REWARD_MODELS[known]


def rewards(models: Sequence[TokenRewardModel], answers: Pool) -> np.ndarray:
    """Each model's reward of each answer of a pool, (models, prompts, n)."""
    prompts = [task.turns for task in answers.tasks]
    if models:
        run_all([model.scoring(prompts, answers.texts) for model in models], models[0].settings.workers)
    return np.array([model.pool_rewards(prompts, answers.texts) for model in models])


def concordance(reward: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Per prompt, the share of its answer pairs of different gold that the reward puts in gold's order; ties half.

    reward, worth: (prompts, n). nan where all answers of a prompt are worth the same. The accuracy on gold order.
    """
    sign_reward = np.sign(reward[:, :, None] - reward[:, None, :])
    sign_gold = np.sign(np.round(worth[:, :, None] - worth[:, None, :], 9))
    differ = np.triu(np.ones(worth.shape[1:] * 2, dtype=bool), 1)[None] & (sign_gold != 0)
    agree = (0.5 + 0.5 * sign_reward * sign_gold) * differ
    count = differ.sum((1, 2))
    return np.where(count > 0, agree.sum((1, 2)) / np.maximum(count, 1), np.nan)


def history(model: Artifact) -> dict:
    """The training record of a policy: loss, gradient norm and learning rate of every step, tokens, set aside."""
    return json.loads((model / "history.json").read_text())
