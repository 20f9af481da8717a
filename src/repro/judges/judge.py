"""What a judge is, and the two that ask nobody: the gold reward and a reward model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from repro.core.errors import DataError
from repro.core.progress import note

Turns = tuple[tuple[str, str], ...]  # (role, text), the last one the user's


class Judge(Protocol):
    """Anything that compares and scores answers; nan stands where it gives no verdict."""

    name: str

    def compare(self, prompts: Sequence[Turns], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """Probability (n,) in [0, 1] that the first answer is the better one; 0.5 is a tie."""
        ...

    def score(self, prompts: Sequence[Turns], answers: Sequence[str]) -> np.ndarray:
        """Score (n,) on the judge's own scale, nan where it has none."""
        ...


def dialogue(turns: Turns) -> str:
    """A prompt as one text: a single user's turn as it is, more turns each behind its role."""
    if len(turns) == 1:
        return turns[0][1]
    return "\n\n".join(f"{role.capitalize()}: {text}" for role, text in turns)


def check(prompts: Sequence[Turns], *answers: Sequence[str]) -> None:
    """Raises DataError unless there is one answer a prompt in each list, and all of it is text that UTF-8 can hold."""
    if any(len(each) != len(prompts) for each in answers):
        counts = " and ".join(str(len(each)) for each in answers)
        raise DataError(f"{len(prompts)} prompts but {counts} answers", where="judge", fix="pass one answer a prompt")
    for index, (turns, *texts) in enumerate(zip(prompts, *answers, strict=True)):
        try:
            for text in (*texts, turns[-1][1], dialogue(turns)):
                text.encode()
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # not a string, no turns, a lone surrogate
            fix = "a prompt is a tuple of (role, text) and an answer a string without lone surrogates; mend or drop it"
            raise DataError("the prompt or an answer is not text", where=f"judge, pair {index}", fix=fix) from error


def tell(name: str, values: np.ndarray) -> np.ndarray:
    """The same values (n,), after saying how many of them are nan, if any."""
    if missing := int(np.isnan(values).sum()):
        note(f"{name}: no verdict on {missing} of {len(values)}")
    return values


@dataclass(frozen=True)
class Gold:
    """The gold reward as a judge: the higher wins, equal ones tie. `reward(turns, answer)` is the caller's look-up."""

    reward: Callable[[Turns, str], float]
    name: str = "gold"

    def score(self, prompts: Sequence[Turns], answers: Sequence[str]) -> np.ndarray:
        """Gold rewards (n,). Raises DataError as `check`."""
        check(prompts, answers)
        return np.array([self.reward(*pair) for pair in zip(prompts, answers, strict=True)], dtype=float)

    def compare(self, prompts: Sequence[Turns], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """1, 0.5 or 0 (n,) by the sign of the difference of gold rewards. Raises DataError as `check`."""
        difference = self.score(prompts, first) - self.score(prompts, second)
        return tell(self.name, (np.sign(difference) + 1) / 2)


@dataclass(frozen=True)
class RewardModel:
    """A reward model as a judge, by Bradley-Terry. `rewards(prompts, answers)` gives (n,) scalars."""

    rewards: Callable[[Sequence[Turns], Sequence[str]], ArrayLike]
    name: str = "reward model"

    def score(self, prompts: Sequence[Turns], answers: Sequence[str]) -> np.ndarray:
        """Rewards (n,). Raises DataError as `check`, or if the model gives another number of rewards."""
        check(prompts, answers)
        rewards = np.asarray(self.rewards(prompts, answers), dtype=float)
        if rewards.shape != (len(answers),):
            fix = "give one scalar an answer"
            raise DataError(f"rewards of shape {rewards.shape} for {len(answers)} answers", where=self.name, fix=fix)
        return rewards

    def compare(self, prompts: Sequence[Turns], first: Sequence[str], second: Sequence[str]) -> np.ndarray:
        """P(first better) = σ(r_first - r_second), (n,) (p2.def2). Raises DataError as `score`."""
        return tell(self.name, expit(self.score(prompts, first) - self.score(prompts, second)))
