"""Proximal policy optimisation of a language model against an ensemble of reward models (p3.eq2, p3.eq8).

    pi is the SFT model, pi_0 a frozen copy; V = 0; for i = 1 ... iterations:
        x_1 ... x_m    the next prompts, in an order that the seed draws
        y ~ pi(.|x)    an answer to each (or several), at a temperature; pi_old = pi
        r(x, y)        the ensemble's rewards, made one: mean, LCB, UWO, WCO
        k_t            estimate of KL(pi || pi_0) at token t; reward_t = -beta k_t, and r(x, y) at the last token
        A_t, R_t       generalised advantages and returns from reward_t and V; A whitened over all tokens
        for each epoch, each minibatch, one Adam step on
            mean max(-A q, -A clip(q, 1 - c, 1 + c))  +  c_v / 2 mean max((V - R)^2, (V_clipped - R)^2)
            with q = pi(token) / pi_old(token), exactly 1 at the first step
        beta           as it is, or moved towards a target KL

`Rules` (train/actor.py) holds every choice; `collect` (train/rollouts.py) is the upper half of the loop. A step, in
history, checkpoints and interactions, is the number of Adam steps done.
"""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError
from repro.core.progress import note, progress
from repro.core.settings import Section
from repro.data.schema import Turns
from repro.models.features import stored
from repro.models.generation import encode, end_tokens, sample_of
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.models.sampling import Drawn, check_lengths
from repro.objectives.ensemble import aggregate
from repro.objectives.ppo import next_coefficient, policy_loss, value_loss
from repro.train.actor import LINEAR, PPO_SETTINGS, Actor, rules_of
from repro.train.checkpoints import CHECKPOINTS, LOOP, Checkpoints, Run
from repro.train.ensemble import RewardEnsemble
from repro.train.rollouts import Combine, Rollouts, Score, collect, minibatches

SCORE_SETTINGS = ("ppo_aggregate", "ppo_aggregate_weight", "ppo_aggregate_ddof", "max_tokens", "calibrated", "device")
BETAS = (0.9, 0.999)


def ppo_training(
    prompts: Sequence[Turns], settings: Section, seed: int, *, policy: Artifact, scorer: Artifact
) -> dict[str, Any]:
    """What `artifacts.run`, or `run_all` with others, needs to train `policy` on the prompts by PPO (p3.eq2).

    scorer: an ensemble's artifact. settings: PPO_SETTINGS and SCORE_SETTINGS. Raises SettingsError for rules out of
    range, DataError naming how many prompts say nothing and the first of them.
    """
    rules_of(settings)
    empty = [place for place, turns in enumerate(prompts) if not turns or not turns[-1][1].strip()]
    if empty or not prompts:
        what = f"{len(empty)} of {len(prompts)} prompts are empty" if prompts else "no prompts"
        where = f"PPO, prompt {empty[0]}" if empty else "PPO"
        raise DataError(what, where=where, fix="drop them before training")
    inputs = {"policy": policy, "scorer": scorer, "prompts": stored("prompts", [list(map(list, t)) for t in prompts])}
    return {"step": ppo, "settings": settings.pick(*PPO_SETTINGS, *SCORE_SETTINGS), "inputs": inputs, "seed": seed}


def ppo(job: Job) -> None:
    """Step: `policy` (a folder), `prompts` (rows of turns) and `scorer` (an ensemble) to a folder like policy's.

    Beside the weights, LoRA merged into them: history.json, as `train_ppo` returns it; interactions.jsonl, a line an
    answer: {"prompt": [["user", "..."]], "answer": "...", "rewards": [a member each], "step": 40, ...};
    checkpoints/<step>/ as `Checkpoints` keeps them.
    """
    settings, folder = job.settings, str(job.inputs["policy"].path)
    prompts = [tuple(map(tuple, turns)) for turns in json.loads(job.inputs["prompts"].path.read_text())]
    model, tokenizer = load_model(folder, task="language", device=settings.device), load_tokenizer(folder)
    ends = sorted(end_tokens(model, tokenizer), key=lambda token: token != tokenizer.eos_token_id)
    scorer = RewardEnsemble(job.inputs["scorer"], settings).load()
    ways = {"weight": settings.ppo_aggregate_weight, "ddof": settings.ppo_aggregate_ddof}
    combine = partial(aggregate, how=settings.ppo_aggregate, **ways)
    with threads(threads_for(model)):
        actor = Actor(model, rules_of(settings), job.seed or 0)
        found = train_ppo(
            actor, encode(tokenizer, prompts), scorer.scores, combine, job.seed or 0, ends=ends, scratch=job.scratch
        )
    merged = actor.policy.merge_and_unload() if actor.rules.lora_rank else actor.policy
    merged.save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
    (job.out / "history.json").write_text(json.dumps(found.history))
    lines = (json.dumps(_in_words(each, prompts, tokenizer, ends), ensure_ascii=False) for each in found.interactions)
    (job.out / "interactions.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    ignore = shutil.ignore_patterns(LOOP)
    shutil.copytree(job.scratch / CHECKPOINTS, job.out / CHECKPOINTS, ignore=ignore)


def _in_words(
    interaction: dict[str, Any], prompts: Sequence[Turns], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> dict[str, Any]:
    drawn = Drawn(tuple(interaction["tokens"]), (), interaction["finished"])
    text = sample_of(tokenizer, drawn, ends, ()).text
    return interaction | {"prompt": prompts[interaction["prompt"]], "answer": text}


def train_ppo(
    actor: Actor,
    prompts: Sequence[Sequence[int]],
    score: Score,
    combine: Combine,
    seed: int,
    *,
    ends: Sequence[int],
    scratch: Path | None = None,
) -> Run:
    """Train the actor in place on prompts in tokens; what was recorded on the way.

    score: whole conversations in tokens -> rewards (k, rows); combine: (k, rows) -> the score to raise (rows,). ends:
    tokens that end an answer. scratch: where checkpoints go, and where a killed run is taken up, to end as it would
    have. History, means over answers unless said: score, its SD (score_sd), member_<i>, kl (nats an answer),
    kl_coefficient, length (tokens), finished and only_end (shares), constant_scores (0 or 1); of the updates: policy_loss, value_loss,
    clipped and value_clipped (shares of tokens), gradient_norm before clipping, learning_rate, ratio_error (how far the
    first ratios are from 1). Raises DataError if there are no prompts, one is empty or too long, a reward, a loss or a
    gradient is not finite, naming iteration, step and answers.
    """
    if not prompts:
        raise DataError("no prompts", where="PPO", fix="look at the filters before it")
    positions = getattr(actor.core.config.get_text_config(), "max_position_embeddings", None)
    check_lengths(prompts, actor.rules.max_new_tokens, positions)
    optimiser, run = _optimiser(actor), Run(coefficient=actor.rules.kl_coefficient)
    kept = Checkpoints(actor, optimiser, scratch) if scratch else None
    if kept:
        kept.restore(run)
    for _ in progress(range(run.iteration, actor.rules.iterations), label="PPO"):
        rollouts = collect(
            actor, prompts, score, combine, ends=ends, coefficient=run.coefficient, seed=seed, iteration=run.iteration
        )
        _learn(actor, optimiser, rollouts, ends, seed, run)
        if kept and (run.iteration % actor.rules.checkpoint_every == 0 or run.iteration == actor.rules.iterations):
            kept.save(run)
    return run


def _learn(
    actor: Actor, optimiser: torch.optim.Adam, rollouts: Rollouts, ends: Sequence[int], seed: int, run: Run
) -> None:
    """The lower half of the loop: the run is one iteration on."""
    rules, figures = actor.rules, _figures(rollouts, ends, run)
    run.interactions += _interactions(rollouts, run)
    figures |= _updates(actor, optimiser, rollouts, seed, run)
    for name, value in figures.items():
        run.history.setdefault(name, []).append(value)
    how = {"target": rules.kl_target, "answers": rules.rollouts, "horizon": rules.kl_horizon}
    run.coefficient = next_coefficient(run.coefficient, figures["kl"], **how)
    run.iteration += 1


def _optimiser(actor: Actor) -> torch.optim.Adam:
    """Adam over policy and value model; fused where it can be: on a small model the plain loop costs as much as a pass."""
    weights = [weight for part in actor.weights() for weight in part.values()]
    fused = actor.core.device.type in ("cpu", "cuda")
    return torch.optim.Adam(weights, actor.rules.learning_rate, BETAS, actor.rules.adam_epsilon, fused=fused)


def _figures(rollouts: Rollouts, ends: Sequence[int], run: Run) -> dict[str, float]:
    """What the answers say before anything is learnt from them; a collapse is noted when it begins."""
    only_end = [len(each.tokens) == 1 and each.tokens[0] in ends for each in rollouts.drawn]
    scores = rollouts.scores.double()
    figures = {f"member_{place}": each.item() for place, each in enumerate(rollouts.members.double().mean(1))}
    figures |= {"score": scores.mean().item(), "score_sd": scores.std(correction=0).item()}
    figures |= {"constant_scores": float(bool((scores == scores[0]).all())), "only_end": sum(only_end) / len(only_end)}
    figures |= {"finished": sum(each.finished for each in rollouts.drawn) / len(only_end)}
    figures |= {"length": rollouts.answers.lengths.double().mean().item(), "kl_coefficient": run.coefficient}
    figures |= {"kl": rollouts.kl.double().sum(1).mean().item()}
    meanings = {"only_end": "every answer is only its end token", "constant_scores": "every answer has the same score"}
    for name, meaning in meanings.items():
        if figures[name] == 1 and run.history.get(name, [0])[-1] != 1:
            note(f"PPO       iteration {run.iteration}: {meaning}")
    return figures


def _interactions(rollouts: Rollouts, run: Run) -> Iterator[dict[str, Any]]:
    for row, (place, drawn) in enumerate(zip(rollouts.prompts.tolist(), rollouts.drawn, strict=True)):
        yield {
            "prompt": place,
            "tokens": list(drawn.tokens),
            "finished": drawn.finished,
            "rewards": rollouts.members[:, row].tolist(),
            "score": rollouts.scores[row].item(),
            "kl": rollouts.kl[row].sum().item(),
            "iteration": run.iteration,
            "step": run.step,
        }


def _updates(actor: Actor, optimiser: torch.optim.Adam, rollouts: Rollouts, seed: int, run: Run) -> dict[str, float]:
    """All Adam steps on an iteration's answers; their mean figures, and the error of the first ratios."""
    rules, sums, first, done = actor.rules, {}, None, 0
    rate = rules.learning_rate
    if rules.anneal == LINEAR:
        rate *= 1 - run.iteration / rules.iterations
    optimiser.param_groups[0]["lr"] = rate
    for epoch in range(rules.epochs):
        for parts in minibatches(rules, seed, run.iteration, epoch):
            figures, error = _step(actor, optimiser, rollouts, parts, run)
            first = error if first is None else first
            sums = {name: sums.get(name, 0.0) + value for name, value in figures.items()}
            run.step, done = run.step + 1, done + 1
    return {name: value / done for name, value in sums.items()} | {"learning_rate": rate, "ratio_error": first}


def _step(
    actor: Actor, optimiser: torch.optim.Adam, rollouts: Rollouts, parts: Sequence[torch.Tensor], run: Run
) -> tuple[dict[str, float], float]:
    """One Adam step on a minibatch: its figures, each a mean over its tokens, and the largest |ratio - 1| before it."""
    rules, figures, error = actor.rules, {}, 0.0
    tokens = sum(int(rollouts.answers.lengths[rows].sum()) for rows in parts)
    optimiser.zero_grad()
    for rows in parts:
        answers = rollouts.answers.part(rows)
        mask, share = answers.mask, int(answers.lengths.sum()) / tokens
        old, old_values, estimates, returns = (
            each[rows][:, : mask.shape[1]]
            for each in (rollouts.logprobs, rollouts.values, rollouts.estimates, rollouts.returns)
        )
        logprobs, values = actor.read(answers)
        policy, clipped = policy_loss(logprobs, old, estimates, mask, rules.clip)
        value, value_clipped = value_loss(values, old_values, returns, mask, rules.value_clip)
        ((policy + rules.value_coefficient * value) * share).backward()
        found = {"policy_loss": policy, "value_loss": value, "clipped": clipped, "value_clipped": value_clipped}
        for name, each in found.items():
            figures[name] = figures.get(name, 0.0) + each.item() * share
        error = max(error, (logprobs.detach() - old).exp().sub(1).abs().max().item())
    weights = optimiser.param_groups[0]["params"]
    figures["gradient_norm"] = nn.utils.clip_grad_norm_(weights, rules.max_gradient_norm or math.inf).item()
    if not all(math.isfinite(value) for value in figures.values()):
        rows = torch.cat(list(parts)).tolist()
        what = ", ".join(f"{name} {figures[name]:g}" for name in ("policy_loss", "value_loss", "gradient_norm"))
        where = f"iteration {run.iteration}, step {run.step}, answers {rows[:8]}{'...' if len(rows) > 8 else ''}"
        raise DataError(what, where=where, fix="lower the learning rate, use fp32, and look at these answers' rewards")
    optimiser.step()
    return figures, error
