"""256 answers of 64 tokens from a random Llama of 1.2 million parameters, sampled by our loop and by `model.generate`.

Plain: transformers' `generate` with a static cache, left padding and its mask, sampling at temperature 1 as ours does,
on the same number of threads. Nothing ends early on either side, so both draw 256 x 64 tokens. Prompts all of 24 tokens
or of 8 to 40. Before the clock starts, 99% of the greedy tokens must agree. The last line holds our floating-point
operations a second against the machine's in a product of two 1024 x 1024 matrices, measured in the same run.
"""

import os
import statistics

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LlamaForCausalLM

from benchmarks.harness import Benchmark, _seconds, compare
from repro.models.sampling import Sampling, sample_tokens
from repro.models.scratch import random_model, word_tokenizer

ROWS, NEW, SIDE = 256, 64, 1024


def _model() -> LlamaForCausalLM:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"word{first}{second}" for first in letters for second in letters][:645]
    model = random_model("miniature/1.2m", word_tokenizer([" ".join(words)]), 0).eval()
    model.generation_config.eos_token_id = None  # else `generate` ends early where the config it is given has none
    return model


def _plain(model: LlamaForCausalLM, prompts: list[list[int]], sample: bool) -> torch.Tensor:
    """New tokens (rows, NEW) from transformers."""
    texts = [torch.tensor(prompt) for prompt in prompts]
    mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True, padding_side="left")
    ids = pad_sequence(texts, batch_first=True, padding_side="left")
    more = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
    config = GenerationConfig(max_new_tokens=NEW, cache_implementation="static", pad_token_id=0, **more)
    with torch.no_grad():
        return model.generate(ids, attention_mask=mask, generation_config=config)[:, -NEW:]


def _compare(model: LlamaForCausalLM, name: str, prompts: list[list[int]]) -> Benchmark:
    """Raises AssertionError if over 1% of greedy tokens differ: near-ties of random weights tip, then all after them."""
    greedy = sample_tokens(model, prompts, Sampling(NEW, temperature=0))
    same = torch.tensor([each[0].tokens for each in greedy]) == _plain(model, prompts, sample=False)
    assert same.double().mean() > 0.99, f"{name}: {1 - same.double().mean():.1%} of the greedy tokens differ"
    sampling = Sampling(NEW)
    found = compare(
        f"{ROWS} answers of {NEW} tokens, {name}",
        lambda: sample_tokens(model, prompts, sampling),
        lambda: _plain(model, prompts, sample=True),
        target_ratio=1.3,
    )
    ours, plain = (ROWS * NEW / seconds for seconds in (found.ours, found.plain))
    return found._replace(target=f"{found.target} ({ours:,.0f} against {plain:,.0f} tokens/s)")


def bench() -> list[Benchmark]:
    """Two lines of seconds, equal and mixed lengths, and the share of the matrix-product peak. Raises as `_compare`."""
    os.environ.setdefault("REPRO_BATCH", "1")  # no bars between the lines
    model, draws = _model(), torch.Generator().manual_seed(0)
    sizes = {
        "prompts of 24": [24] * ROWS,
        "prompts of 8 to 40": torch.randint(8, 41, (ROWS,), generator=draws).tolist(),
    }
    vocabulary = model.config.vocab_size
    asked = {
        name: [torch.randint(8, vocabulary, (length,), generator=draws).tolist() for length in lengths]
        for name, lengths in sizes.items()
    }
    results = [_compare(model, name, prompts) for name, prompts in asked.items()]
    square = torch.randn(SIDE, SIDE, generator=draws)
    peak = 2 * SIDE**3 / statistics.median(_seconds(lambda: square @ square) for _ in range(30)) / 1e9
    # Two operations a weight and token; embeddings are tied, so their weights count once, as the output layer.
    weights = 2 * sum(weight.numel() for weight in model.parameters()) * ROWS * (NEW + 23)
    rate = weights / results[0].ours / 1e9
    share = f"{rate / peak:.0%} of the matrix-product peak, stated"
    return [*results, Benchmark("operations a second, prompts of 24", rate, peak, "GF/s", share, True)]
