"""Influence scores of 2,000 samples against 2 validation subtasks and 3 checkpoints, against the plain way, one thread.

A Llama of 0.3 million parameters, LoRA of rank 8 on every linear layer (36 thousand weights), samples of 16 to 48
tokens.
The plain way takes a sample at a time: backward, Adam's direction, its projection to 8192, store; then one product with
the stored validation features. All its signs are in memory before the clock starts (1.1 GiB), which is in its favour:
the projectors in use draw them again and again. It is timed on 32 samples, and its seconds are scaled to 2,000.

Both ways' scores must agree first: exact ones to 1e-5 of the largest, projected ones too. The rank correlation is that
of 2,000 projected scores with exact ones: above 0.99 because the samples mix the words of both subtasks in shares drawn
at random, so that their cosines spread by 0.1 and more; `projection.expected_correlation` says what to expect.
Seconds are the processor's, which a busy machine stretches less than the wall's. Memory: the peak above what stood
before scoring, in processes of their own.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import psutil
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.harness import Benchmark
from repro.gradients.checkpoints import Checkpoint
from repro.gradients.directions import Moments, directions
from repro.gradients.influence import EXACT, Influence, Scoring, influence_scores
from repro.gradients.losses import answer_losses
from repro.gradients.per_example import layout, per_example_gradients
from repro.gradients.projection import Projection
from repro.models.logprobs import Tree
from repro.models.scratch import random_model, word_tokenizer
from repro.objectives.influence import subtask_influence

SAMPLES, PLAIN, SUBTASK, CHECKPOINTS, DIMENSION = 2000, 32, 32, 3, 8192
RATES = (3e-5, 2e-5, 1e-5)
STEPS, LEARNING = 32, 5e-3  # of Adam between checkpoints, on batches of 16
MEMORY = (500, 2000)  # samples
WORDS, TOPIC = 640, 16  # in the vocabulary, and those that a subtask is about

Result = TypeVar("Result")


def _samples(count: int, seed: int, share: float | None = None) -> list[Tree]:
    """Prompts and answers of 8 to 24 tokens, a share of them from the first subtask's words, the rest the second's."""
    draw, found = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        mine = torch.rand((), generator=draw) if share is None else share
        left, right = torch.randint(8, 25, (2,), generator=draw).tolist()
        first = torch.rand(left + right, generator=draw) < mine
        words = 6 + torch.randint(TOPIC, (left + right,), generator=draw) + torch.where(first, 0, WORDS // 2)
        found.append(Tree(words[:left], (words[left:],), (0,)))
    return found


def _policy(seed: int = 0) -> PeftModel:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"word{first}{second}" for first in letters for second in letters][:WORDS]
    torch.manual_seed(seed)
    base = random_model("miniature/0.3m", word_tokenizer([" ".join(words)]), seed)
    return get_peft_model(
        base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    ).eval()


def _checkpoints() -> list[Checkpoint]:
    """The adapter after every STEPS steps of Adam on samples like those scored, each with its moments."""
    policy, found = _policy(), []
    names = layout(policy).names
    weights = [policy.get_parameter(name) for name in names]
    adam = torch.optim.Adam(weights, lr=LEARNING)
    for step in range(1, STEPS * CHECKPOINTS + 1):
        adam.zero_grad()
        answer_losses(policy, _samples(16, seed=1000 + step)).mean().backward()
        adam.step()
        if step % STEPS == 0:
            state = [
                torch.cat([adam.state[each][key].flatten().clone() for each in weights])
                for key in ("exp_avg", "exp_avg_sq")
            ]
            model = _policy()
            model.load_state_dict(policy.state_dict())
            found.append(Checkpoint(str(step), model, RATES[len(found)], Moments(*state, step=step)))
    return found


def _plain(points: Sequence[Checkpoint], samples: Sequence[Tree], signs: Tensor | None) -> Tensor:
    """Directions (checkpoints, samples, features), a sample at a time, projected if there are signs, all kept."""
    kept = []
    for point in points:
        kept.append([])
        for sample in samples:
            gradient = per_example_gradients(point.model, answer_losses, [sample], batched=False)
            direction = directions(gradient, point.moments)
            kept[-1].append((direction if signs is None else direction @ signs)[0])
    return torch.stack([torch.stack(rows) for rows in kept])


def _subtasks() -> dict[str, list[Tree]]:
    return {"first": _samples(SUBTASK, 1, 1.0), "second": _samples(SUBTASK, 2, 0.0)}


def _ours(points: Sequence[Checkpoint], samples: Sequence[Tree], *dimensions: int) -> Influence:
    return influence_scores(points, samples, _subtasks(), answer_losses, Scoring(dimensions=dimensions))


def _timed(call: Callable[..., Result], *given: object) -> tuple[float, Result]:
    """Seconds of the processor, and the result."""
    start = time.process_time()
    result = call(*given)
    return time.process_time() - start, result


def _check(points: Sequence[Checkpoint], features: Tensor, signs: Tensor | None, found: Tensor) -> None:
    """Raises AssertionError if our scores of the first samples are not the formula's on the plain way's features."""
    validation = []
    for rows in _subtasks().values():
        each = torch.stack([per_example_gradients(point.model, answer_losses, rows) for point in points])
        validation.append(each if signs is None else each @ signs)
    plain = subtask_influence(features, validation, torch.tensor(RATES))
    assert (plain - found[: features.shape[1]]).abs().max() < 1e-5 * found.abs().max(), "the scores differ"


def _peak(count: int) -> float:
    """MiB that scoring so many samples needs at its peak, in a process of its own."""
    code = f"from benchmarks.influence import print_peak; print_peak({count})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_peak(count: int) -> None:
    """Print the MiB by which scoring `count` samples at one checkpoint raises this process' memory at its peak.

    Looked at every few milliseconds: what the system keeps as a peak may be that of the process that started this one.
    """
    torch.set_num_threads(1)
    points, samples, process = _checkpoints()[:1], _samples(count, seed=0), psutil.Process()
    before, done, seen = process.memory_info().rss, threading.Event(), [0]

    def look() -> None:
        while not done.wait(0.003):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=look)
    watcher.start()
    _ours(points, samples, EXACT)
    done.set()
    watcher.join()
    print((max(seen) - before) / 2**20)


def bench() -> list[Benchmark]:
    """Three lines: seconds for all samples without and with projection, and MiB; threads are restored after."""
    os.environ.setdefault("REPRO_BATCH", "1")  # no bars between the lines
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _bench()
    finally:
        torch.set_num_threads(threads)


def _bench() -> list[Benchmark]:
    points, samples = _checkpoints(), _samples(SAMPLES, seed=0)
    signs = Projection(DIMENSION).signs(0, layout(points[0].model).weights)
    _ours(points[:1], samples[:64], EXACT)  # pays for imports and buffers
    _plain(points[:1], samples[:2], signs)
    ours, exact = _timed(_ours, points, samples, EXACT)
    plain, features = _timed(_plain, points, samples[:PLAIN], signs)
    ours_projected, projected = _timed(_ours, points, samples, DIMENSION)
    _check(points, features, signs, projected.scores[DIMENSION])
    _check(points, _plain(points, samples[:PLAIN], None), None, exact.scores[EXACT])
    pairs = zip(exact.scores[EXACT].T, projected.scores[DIMENSION].T, strict=True)
    rank = min(float(spearmanr(*pair).statistic) for pair in pairs)
    plain *= SAMPLES / PLAIN
    small, large = (_peak(count) for count in MEMORY)
    ranks = f"at least 20 times faster than {PLAIN} samples scaled, Spearman at least 0.99 ({rank:.4f})"
    growth = f"{MEMORY[1]} samples in the peak of {MEMORY[0]}, within 10% and 8 MiB"
    return [
        Benchmark("influence, exact", ours, plain, "s", ranks, plain >= 20 * ours and rank >= 0.99),
        Benchmark("influence, projected", ours_projected, plain, "s", "faster", plain > ours_projected),
        Benchmark("influence, memory", large, small, "MiB", growth, large <= 1.1 * small + 8),
    ]
