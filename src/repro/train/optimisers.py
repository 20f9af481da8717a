"""Muon beside AdamW: from random weights it takes a small model further on the same tokens; pretrained models keep AdamW."""

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.training_args import OptimizerNames

from repro.core.errors import SettingsError
from repro.core.settings import Section


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for the matrices between embeddings and head, AdamW for the rest (Jordan et al. 2024), as one optimiser."""

    def __init__(self, model: PreTrainedModel, rate: float, decay: float) -> None:
        hidden = [
            weight
            for name, weight in model.named_parameters()
            if weight.ndim == 2 and "embed" not in name and "lm_head" not in name
        ]
        known = {id(weight) for weight in hidden}
        others = [weight for weight in model.parameters() if id(weight) not in known]
        muon = torch.optim.Muon(hidden, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        self.parts = (muon, torch.optim.AdamW(others, lr=rate, weight_decay=decay, betas=(0.9, 0.95)))
        super().__init__([group for part in self.parts for group in part.param_groups], {})

    def step(self, closure: None = None) -> None:
        """One update of every weight."""
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Both parts' states, for a checkpoint."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both parts' states back."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def optimiser(model: PreTrainedModel, settings: Section) -> torch.optim.Optimizer | None:
    """Muon with AdamW where `sft_optimizer` asks for it; None leaves the choice to the trainer.

    Raises SettingsError for a name that neither knows.
    """
    if settings.sft_optimizer == "muon":
        return MuonWithAdamW(model, settings.sft_learning_rate, settings.sft_weight_decay)
    if settings.sft_optimizer not in {each.value for each in OptimizerNames}:
        raise SettingsError(
            f"unknown value {settings.sft_optimizer!r}",
            where="sft_optimizer",
            fix="adamw_torch, muon, or transformers' names",
        )
    return None
