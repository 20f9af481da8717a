"""What PPO learns from: answers drawn from the policy, their scores, and what its models say of every token.

`collect` draws an iteration's answers and works out each token's reward and advantage, with the pure functions of
`repro.objectives.ppo`. All draws depend on seed and iteration alone, so that a run can be taken up anywhere.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from repro.core.errors import DataError
from repro.models.sampling import Drawn, Sampling, sample_tokens
from repro.objectives.ppo import advantages, kl_estimate, token_rewards, whiten
from repro.train.actor import BOOTSTRAP, Actor, Answers, Rules

ORDER, SPLIT, DRAWS = range(3)  # what a seed is for: the order of prompts, the split of an epoch, the draws

Score = Callable[[list[list[int]]], Tensor]  # whole conversations in tokens -> rewards of k members (k, rows)
Combine = Callable[[Tensor], Tensor]  # rewards (k, rows) -> the score that is optimised (rows,)


@dataclass(frozen=True)
class Rollouts:
    """An iteration's answers. prompts: whose they are (rows,); members: (k, rows); scores: (rows,), penalty taken off.

    logprobs, values, kl, rewards, estimates (advantages), returns: (rows, steps), of when they were drawn.
    """

    prompts: np.ndarray
    drawn: list[Drawn]
    answers: Answers
    members: Tensor
    scores: Tensor
    logprobs: Tensor
    values: Tensor
    kl: Tensor
    rewards: Tensor
    estimates: Tensor
    returns: Tensor


def collect(
    actor: Actor,
    prompts: Sequence[Sequence[int]],
    score: Score,
    combine: Combine,
    *,
    ends: Sequence[int],
    coefficient: float,
    seed: int,
    iteration: int,
) -> Rollouts:
    """One iteration's answers, scored, with every token's reward and advantage; ends: the first closes a cut answer.

    A cut answer is shown to the reward models closed, as all that they have learned from is. Raises DataError naming
    member, answer and iteration if a reward is not finite, and as `sample_tokens` does.
    """
    rules = actor.rules
    asked = np.repeat(prompt_order(len(prompts), rules, seed, iteration), rules.answers_per_prompt)
    drawn = _drawn(actor, [tuple(prompts[place]) for place in asked], ends, seed, iteration)
    whole = [[*prompts[place], *each.tokens] for place, each in zip(asked, drawn, strict=True)]
    cut = torch.tensor([not each.finished for each in drawn])
    closed = [row + list(ends[:1]) * stopped for row, stopped in zip(whole, cut.tolist(), strict=True)]
    answers = _padded(whole, [len(each.tokens) for each in drawn], actor.core.device)
    with torch.no_grad():
        members, scores = _scored(score, combine, closed, iteration)
        scores = scores - rules.missing_end_penalty * cut
        read = _readings(actor, answers, seed, iteration)
        found = _credited(
            answers.mask, scores.to(answers.ids.device), cut.to(answers.ids.device), read, rules, coefficient
        )
    return Rollouts(asked, drawn, answers, members, scores, read.logprobs, read.values, *found)


class _Readings(NamedTuple):
    """What the models say when the answers are drawn: (rows, steps), and after: values (rows,) of the states behind."""

    logprobs: Tensor
    values: Tensor
    reference: Tensor
    after: Tensor


def _credited(
    mask: Tensor, scores: Tensor, cut: Tensor, read: _Readings, rules: Rules, coefficient: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL, rewards, advantages and returns of every token, (rows, steps) each."""
    kl = torch.where(mask, kl_estimate(read.logprobs, read.reference, rules.kl_estimator), 0)
    rewards = token_rewards(scores.to(kl), kl, mask, coefficient, rules.score_at)
    rewards = whiten(rewards, mask, shift_mean=False)[0] if rules.whiten_rewards else rewards
    last = read.after * cut if rules.truncation == BOOTSTRAP else None
    estimates, returns = advantages(rewards, read.values, mask, gamma=rules.gamma, lam=rules.lam, last=last)
    return kl, rewards, whiten(estimates, mask)[0] if rules.whiten_advantages else estimates, returns


def prompt_order(count: int, rules: Rules, seed: int, iteration: int) -> np.ndarray:
    """Places of an iteration's prompts, (prompts,): all in a new order, again and again, none left out."""
    size = rules.rollouts // rules.answers_per_prompt
    places = np.arange(iteration * size, (iteration + 1) * size)
    orders = {turn: _rng(seed, ORDER, turn).permutation(count) for turn in set((places // count).tolist())}
    return np.array([orders[place // count][place % count] for place in places.tolist()])


def minibatches(rules: Rules, seed: int, iteration: int, epoch: int) -> Iterator[list[Tensor]]:
    """The rows of each update of an epoch, in the parts that go through the models at a time."""
    order = torch.from_numpy(_rng(seed, SPLIT, iteration, epoch).permutation(rules.rollouts))
    for batch in order.tensor_split(rules.minibatches):
        yield list(batch.split(rules.rows_per_forward or len(batch)))


def _rng(seed: int, *what: int) -> np.random.Generator:
    """Draws that depend on nothing but these numbers: a run that is taken up again needs no generator's state."""
    return np.random.default_rng([seed, *what, len(what)])


def _drawn(
    actor: Actor, prompts: Sequence[tuple[int, ...]], ends: Sequence[int], seed: int, iteration: int
) -> list[Drawn]:
    """An answer to each prompt; a prompt that comes more than once has as many answers drawn."""
    counts, rules, number = Counter(prompts), actor.rules, int(_rng(seed, DRAWS, iteration).integers(2**62))
    sampling = Sampling(rules.max_new_tokens, rules.temperature, n=max(counts.values()), seed=number)
    found = sample_tokens(actor.core, list(counts), sampling, ends=ends)
    stock = {prompt: iter(each) for prompt, each in zip(counts, found, strict=True)}
    return [next(stock[prompt]) for prompt in prompts]


def _padded(whole: Sequence[Sequence[int]], lengths: Sequence[int], device: torch.device) -> Answers:
    counts = torch.tensor(lengths, device=device)
    ids = pad_sequence([torch.tensor(row) for row in whole], batch_first=True).to(device)
    return Answers(ids, torch.tensor([len(row) for row in whole], device=device) - counts, counts)


def _scored(score: Score, combine: Combine, rows: list[list[int]], iteration: int) -> tuple[Tensor, Tensor]:
    """Every member's rewards (k, rows) and the score made of them (rows,), on the processor."""
    members = torch.as_tensor(score(rows)).detach().cpu()
    if members.dim() != 2 or members.shape[1] != len(rows):
        what = f"rewards of shape {tuple(members.shape)} for {len(rows)} answers"
        raise DataError(what, where=f"iteration {iteration}", fix="a scorer gives (members, answers)")
    if not bool(members.isfinite().all()):
        member, row = (~members.isfinite()).nonzero()[0].tolist()
        what, where = f"reward {members[member, row].item()}", f"iteration {iteration}, member {member}, answer {row}"
        raise DataError(what, where=where, fix="look at that reward model's training")
    return members, combine(members)


def _readings(actor: Actor, answers: Answers, seed: int, iteration: int) -> _Readings:
    """In the parts of the first epoch: another split would change last digits, and the first ratio would not be 1."""
    rules, mask = actor.rules, answers.mask
    dtype = torch.promote_types(actor.core.dtype, torch.float32)
    logprobs, values, reference = torch.zeros(3, *mask.shape, dtype=dtype, device=mask.device)
    after = values.new_zeros(len(values))
    for rows in [part for batch in minibatches(rules, seed, iteration, 0) for part in batch]:
        mine = answers.part(rows)
        width = mine.mask.shape[1]
        logprobs[rows, :width], values[rows, :width] = actor.read(mine)
        reference[rows, :width] = actor.reference_logprobs(mine)
        if rules.truncation == BOOTSTRAP:
            after[rows] = actor.values_after(mine)
    return _Readings(logprobs, values, reference, after)
