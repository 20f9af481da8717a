"""Rewards of 8 answers to one prompt, a Llama of 4.9 million parameters with a scalar head, float32.

Plain: whole sequences, prompt and answer, in padded pairs as reward training scripts hold chosen and rejected. Fairer
plain ways: one batch of all 8, and one at a time as annotation scripts do. All lengths are equal, so no plain way pays
for padding or a mask. Ours: prompt encoded once. Tokens read: 8 x (256 + 128) = 3,072 or 256 + 8 x 128 = 1,280, so the
ratio of tokens is 2.4. Before the clock starts, the rewards must agree to 1e-5. One thread: with more, a busy
neighbour stalls every parallel step and the ratio measures the neighbour.
"""

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks.harness import Benchmark, compare
from repro.models.scoring import score_padded, score_tokens

PROMPT, ANSWER, ANSWERS = 256, 128, 8
WAYS = {2: ("padded pairs", 1.7), ANSWERS: ("one batch of all", 1.5), 1: ("one at a time", 1.3)}  # name, target


def _reward_model() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=512, max_position_embeddings=512, num_labels=1, **sizes)
    return LlamaForSequenceClassification(config).eval()


def bench() -> list[Benchmark]:
    """One line a plain way, on one thread; the number of threads is restored after. Raises as `_compare_all`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _compare_all()
    finally:
        torch.set_num_threads(threads)


def _compare_all() -> list[Benchmark]:
    """Raises AssertionError if a reward differs by 1e-5 between ours and a plain way, or if the rewards are all alike."""
    model = _reward_model()
    draws = torch.Generator().manual_seed(1)
    prompt = torch.randint(1, 512, (PROMPT,), generator=draws)
    answers = list(torch.randint(1, 512, (ANSWERS, ANSWER), generator=draws))
    rewards = score_tokens(model, prompt, answers)
    assert rewards.std() > 0.01, "rewards all alike: agreement would mean nothing"
    results = []
    for batch_size, (name, target) in WAYS.items():
        apart = (score_padded(model, prompt, answers, batch_size=batch_size) - rewards).abs().max()
        assert apart < 1e-5, f"{name}: rewards differ by {apart:.1e}"
        results.append(
            compare(
                f"rewards of {ANSWERS} answers, shared prompt or {name}",
                lambda: score_tokens(model, prompt, answers),
                lambda size=batch_size: score_padded(model, prompt, answers, batch_size=size),
                repeats=15,  # a busy machine disturbs single timings by a factor of two; the median of 7 was not enough
                target_ratio=target,
            )
        )
    return results
