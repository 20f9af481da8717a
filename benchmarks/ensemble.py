"""Rewards of an ensemble of three LoRA members: all in one pass, or PEFT's adapters switched in turn.

Rank 8 on every linear layer, a head each, a Llama of 0.3 million parameters as in the miniature world. Rows are whole
conversations of 30 to 60 tokens, those of like length together, as many as a PPO batch has and a pool. Plain: PEFT's
own call with an attention mask, all batches through one adapter after the other. A fairer plain way drops the mask,
which padding on the right does not need, and reads the head at the last place alone, so that it pays for nothing but the
switching, its small products and one call a member. Before the clock starts, the rewards must agree to 1e-5. One
thread, for a model this small.
"""

import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForSequenceClassification

from benchmarks.harness import Benchmark, compare
from repro.core.settings import Section
from repro.models.load import threads
from repro.models.lora import load_adapters, save_adapter, with_lora
from repro.models.members import Members
from repro.models.scratch import SIZES

MEMBERS = 3
TOKENS = 1024  # of the plain ways' batches: the fastest for them of 512, 1,024 and 2,048
ROWS = {32: "PPO batch of 32", 256: "pool of 256"}
WAYS = {True: ("switched", 1.5), False: ("switched, no mask", 1.3)}  # masked -> name, target
LORA = {"lora_rank": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_targets": "all-linear", "lora_layers": None}


def _backbone() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    width, layers, inner = SIZES["miniature/0.3m"]
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=700, max_position_embeddings=512, num_labels=1, pad_token_id=0, initializer_range=0.07, **sizes
    )
    return LlamaForSequenceClassification(config).eval()


def _adapters(folder: Path) -> list[Path]:
    """Adapters that are not zero, and so not alike."""
    for member in range(MEMBERS):
        adapted = with_lora(_backbone(), Section(LORA), member)
        draws = torch.Generator().manual_seed(member)
        with torch.no_grad():
            for weights in adapted.parameters():
                if weights.requires_grad:
                    weights.copy_(0.05 * torch.randn(weights.shape, generator=draws))
        save_adapter(adapted, folder / f"member_{member}", "miniature/0.3m")
    return [folder / f"member_{member}" for member in range(MEMBERS)]


def _in_turn(adapted: PeftModel, rows: list[list[int]], masked: bool) -> Tensor:
    """(members, rows): each adapter made active, then all batches through it. No token of a row is the padding's."""
    ordered = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
    bare, found = adapted.get_base_model(), torch.empty(MEMBERS, len(rows))
    with torch.no_grad():
        for member in range(MEMBERS):
            adapted.set_adapter(f"member_{member}")
            left = ordered
            while left:
                count = max(1, TOKENS // len(rows[left[0]]))
                batch, left = left[:count], left[count:]
                ids = [torch.tensor(rows[place]) for place in batch]
                padded = pad_sequence(ids, batch_first=True)
                if masked:
                    logits = adapted(input_ids=padded, attention_mask=(padded != 0).long(), use_cache=False).logits
                else:
                    hidden = bare.base_model(padded, use_cache=False).last_hidden_state
                    logits = bare.score(hidden[torch.arange(len(batch)), torch.tensor([len(row) - 1 for row in ids])])
                found[member, batch] = logits.squeeze(-1)
    return found


def bench() -> list[Benchmark]:
    """Raises AssertionError if a reward differs by 1e-5 between the ways, or if members are alike."""
    draws = torch.Generator().manual_seed(1)
    results = []
    with tempfile.TemporaryDirectory() as scratch, threads(1):
        folders = _adapters(Path(scratch))
        members, adapted = Members(_backbone(), folders), load_adapters(_backbone(), folders)
        for count, name in ROWS.items():
            lengths = torch.randint(30, 61, (count,), generator=draws).tolist()
            rows = [torch.randint(1, 700, (length,), generator=draws).tolist() for length in lengths]
            rewards = members.scores(rows, 512)
            assert rewards.std(0).min() > 1e-3, "members all alike: agreement would mean nothing"
            for masked, (way, target) in WAYS.items():
                apart = (rewards - _in_turn(adapted, rows, masked)).abs().max()
                assert apart < 1e-5, f"{name}, {way}: rewards differ by {apart:.1e}"
                results.append(
                    compare(
                        f"ensemble of {MEMBERS}, {name}, {way}",
                        lambda rows=rows: members.scores(rows, 512),
                        lambda rows=rows, masked=masked: _in_turn(adapted, rows, masked),
                        repeats=9,
                        target_ratio=target,
                    )
                )
    return results
