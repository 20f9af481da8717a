"""k reward adapters on one frozen backbone, read in one pass.

Switching adapters in turn calls the model k times. Here a batch of n rows becomes k x n rows where the first adapter
sits, the i-th n of them member i's, and every adapted layer is one batched product; what lies below the first adapter
is computed once for all members.
"""

import copy
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from repro.core.errors import DataError
from repro.models.load import SMALL
from repro.models.lora import decoder_layers, load_adapters

TOKENS = {True: 256, False: 32768}  # of a batch before it is repeated for each member; on a processor its cache decides
SAVED = 200  # tokens a shared beginning must spare, to be worth a call of its own


class MemberLinear(nn.Module):
    """A linear layer of k members: (k n, …, in) to (k n, …, out), the i-th n rows through member i's weights.

    Merged, every member has its whole matrix: the fewest operations, k times the memory. Not merged, all share the
    frozen one and add their own low-rank part, padded to the largest rank.
    """

    def __init__(self, layer: LoraLayer, members: Sequence[str], merged: bool) -> None:
        super().__init__()
        base = layer.get_base_layer()
        if not isinstance(base, nn.Linear) or layer.lora_variant:
            raise DataError(f"not plain LoRA on a linear layer: {layer}", where="ensemble", fix="use peft's plain LoRA")
        self.base, self.merged = base, merged
        if merged:
            whole = [base.weight + (layer.get_delta_weight(name) if name in layer.lora_A else 0.0) for name in members]
            self.register_buffer("weight", torch.stack(whole).detach().mT.contiguous())
            return
        rank = max(weights.out_features for weights in layer.lora_A.values())
        down = base.weight.new_zeros(len(members), base.in_features, rank)
        up = base.weight.new_zeros(len(members), rank, base.out_features)
        for member, name in enumerate(members):
            if name in layer.lora_A:
                first, second = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
                down[member, :, : len(first)] = first.T
                up[member, : len(first)] = second.T * layer.scaling[name]
        self.register_buffer("down", down)
        self.register_buffer("up", up)

    def forward(self, rows: Tensor) -> Tensor:
        """(k n, …, in) to (k n, …, out)."""
        members = len(self.weight if self.merged else self.down)
        flat = rows.reshape(members, -1, rows.shape[-1])
        if not self.merged:
            found = torch.baddbmm(self.base(flat), torch.bmm(flat, self.down), self.up)
        elif self.base.bias is None:
            found = torch.bmm(flat, self.weight)
        else:
            found = torch.baddbmm(self.base.bias, flat, self.weight)
        return found.view(*rows.shape[:-1], found.shape[-1])


class Ends(nn.Module):
    """A part of the last layer behind its attention, computed at the one place of a row that is read, else left at zero."""

    def __init__(self, inner: nn.Module, width: int) -> None:
        super().__init__()
        self.inner, self.width = inner, width
        self.last: Tensor | None = None  # (rows,) the place read in each row; None where no row is read

    def forward(self, hidden: Tensor) -> Tensor:
        """(rows, T, in) to (rows, T, width)."""
        found = hidden.new_zeros(*hidden.shape[:2], self.width)
        if self.last is not None:
            rows = torch.arange(len(hidden), device=hidden.device)
            found[rows, self.last] = self.inner(hidden[rows, self.last][:, None])[:, 0]
        return found


class Members:
    """k reward adapters on one backbone, read together; holds the backbone's decoder, changed for them."""

    def __init__(self, model: PreTrainedModel, folders: Sequence[Path], merged: bool | None = None) -> None:
        """merged: see MemberLinear; None merges for a small backbone. Changes `model`; raises as `load_adapters` does."""
        self.count = len(folders)
        merged = model.num_parameters() < SMALL if merged is None else merged
        names, adapted = [f"member_{member}" for member in range(self.count)], load_adapters(model, folders)
        bare = adapted.get_base_model()
        heads = getattr(getattr(bare, "score", None), "modules_to_save", None)
        if heads is None or bare.config.num_labels != 1:
            fix = "load it as AutoModelForSequenceClassification with num_labels=1"
            raise DataError("not a decoder with one scalar head", where=type(bare).__name__, fix=fix)
        self.heads = torch.cat([heads[name].weight for name in names]).detach()  # (k, width)
        self.decoder = bare.base_model.requires_grad_(False).eval()
        for name, layer in [*self.decoder.named_modules()]:
            if isinstance(layer, LoraLayer):
                parent, _, leaf = name.rpartition(".")
                setattr(self.decoder.get_submodule(parent), leaf, MemberLinear(layer, names, merged))
        self._widen()
        self._narrow_the_last()

    def _narrow_the_last(self) -> None:
        """Where the last layer is of the usual make, nothing behind its attention is computed that no head reads."""
        layer, width, self.ends = decoder_layers(self.decoder)[-1], self.heads.shape[1], []
        for parent, name in ((layer, "mlp"), (getattr(layer, "self_attn", None), "o_proj")):
            part = getattr(parent, name, None)
            if isinstance(getattr(part, "down_proj", part), (nn.Linear, MemberLinear)):
                self.ends.append(Ends(part, width))
                setattr(parent, name, self.ends[-1])

    def _widen(self) -> None:
        """From the first adapted layer on, each row stands k times; the layers below see it once."""
        layers = decoder_layers(self.decoder)
        adapted = [any(isinstance(module, MemberLinear) for module in layer.modules()) for layer in layers]
        first = adapted.index(True)

        def repeat(module: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
            return (given[0].repeat(self.count, 1, 1), *given[1:]), named

        def narrow(module: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:
            # Only the causal pattern is left in a mask, for rows are padded on the right: one row of it serves all.
            mask = named.get("attention_mask")
            return given, named | {"attention_mask": mask[:1] if isinstance(mask, Tensor) else mask}

        layers[first].register_forward_pre_hook(repeat, with_kwargs=True)
        for layer in layers[first:]:
            layer.register_forward_pre_hook(narrow, with_kwargs=True)

    @property
    def device(self) -> torch.device:
        return self.heads.device

    def encode(self, prefix: Tensor) -> DynamicCache:
        """Keys and values of all members for the tokens (P,) that rows begin with, for `rewards`; P may be 0."""
        cache = DynamicCache(config=self.decoder.config)
        for each in self.ends:
            each.last = None
        if len(prefix):
            with torch.no_grad():
                self.decoder(input_ids=prefix[None], past_key_values=cache, use_cache=True)
        return cache

    def rewards(self, rows: Sequence[Tensor], cache: DynamicCache | None = None) -> Tensor:
        """Every member's reward at the last token of each row, (k, rows), at least float32.

        rows: (T_i,) tokens, T_i > 0, behind what `cache` holds. Padded on the right without a mask,
        for no real token looks right; so neither padding nor companions change a reward.
        """
        padded = pad_sequence(list(rows), batch_first=True)
        if cache is not None:
            cache = copy.deepcopy(cache)  # the next batch needs it as it is
            cache.batch_repeat_interleave(len(rows))
        last = torch.tensor([len(row) - 1 for row in rows], device=padded.device)
        for each in self.ends:
            each.last = last.repeat(self.count)
        with torch.no_grad():
            found = self.decoder(input_ids=padded, past_key_values=cache, use_cache=cache is not None)
            hidden = found.last_hidden_state.view(self.count, *padded.shape, -1)
            ends = hidden[:, torch.arange(len(rows), device=hidden.device), last]
            product = torch.bmm(ends, self.heads.to(ends.dtype)[..., None]).squeeze(-1)
        return product.to(torch.promote_types(product.dtype, torch.float32))

    def scores(
        self,
        token_rows: Sequence[Sequence[int]],
        limit: int,
        groups: Sequence[int] | None = None,
        tokens: int | None = None,
    ) -> Tensor:
        """Rewards (k, rows) on the CPU, all members at once (the terms of p3.eq8).

        token_rows: whole conversations, no padding; over `limit` tokens they lose their first. groups: a number a row,
        equal for answers to one prompt, whose common beginning is then read once. tokens: of a batch, TOKENS if None,
        which changes memory and speed, not rewards. Raises DataError for an empty row, or naming member and row of a reward that is
        not finite.
        """
        if empty := [place for place, row in enumerate(token_rows) if not len(row)]:
            raise DataError("empty", where=f"row {empty[0]}", fix="drop it before scoring")
        rows, tokens = [list(row)[-limit:] for row in token_rows], tokens or TOKENS[self.device.type == "cpu"]
        found = torch.full((self.count, len(rows)), torch.nan)
        rest = set(range(len(rows)))
        for prefix, places in _shared(rows, groups, [len(row) <= limit for row in token_rows]):
            rest -= set(places)
            self._behind(rows, prefix, places, tokens, found)
        self._behind(rows, [], sorted(rest), tokens, found)
        if len(bad := (~found.isfinite()).nonzero()):
            member, row = bad[0].tolist()
            fix = "check that member's adapter and its training record, or leave the member out"
            raise DataError(f"the reward is {found[member, row].item()}", where=f"member {member}, row {row}", fix=fix)
        return found

    def _behind(self, rows: list[list[int]], prefix: list[int], places: list[int], tokens: int, found: Tensor) -> None:
        """Fill in the rewards of rows that begin with the prefix, those of like length together, the longest first."""
        left = sorted(places, key=lambda place: len(rows[place]), reverse=True)
        to = {"dtype": torch.long, "device": self.device}
        cache = self.encode(torch.tensor(prefix, **to)) if prefix else None
        while left:
            count = max(1, tokens // (len(rows[left[0]]) - len(prefix)))
            batch, left = left[:count], left[count:]
            ends = [torch.tensor(rows[place][len(prefix) :], **to) for place in batch]
            found[:, batch] = self.rewards(ends, cache).to(found)


def _shared(
    rows: list[list[int]], groups: Sequence[int] | None, whole: Sequence[bool]
) -> list[tuple[list[int], list[int]]]:
    """Common beginnings and the rows that have them, where that saves work; at least one token of a row stays behind it."""
    members: dict[int, list[int]] = {}
    for place, group in enumerate(groups if groups is not None else ()):
        if whole[place]:  # a row that lost its beginning shares none
            members.setdefault(group, []).append(place)
    found = []
    for places in members.values():
        prefix = commonprefix([rows[place][:-1] for place in places])
        if prefix and len(prefix) * (len(places) - 1) >= SAVED:
            found.append((prefix, places))
    return found
