"""Scalar reward heads on cached features: a linear one, and one that also reads the prompt."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from repro.core.errors import DataError, SettingsError

KINDS = ("linear", "mlp")


@dataclass(frozen=True)
class HeadConfig:
    """A head's shape. `linear` reads the answer; `mlp` reads answer and prompt through `hidden` units with dropout."""

    kind: str
    width: int
    hidden: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingsError(f"unknown head {self.kind!r}", where="head", fix=f"choose from {', '.join(KINDS)}")


class RewardHead(nn.Module):
    """Features to one reward an answer. Features are standardised by the training set's mean and spread, kept inside.

    A linear head cannot use the prompt: what both answers share cancels in every comparison.
    """

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = config
        width = config.width * (2 if self.reads_prompt else 1)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        if config.kind == "linear":
            self.layers = nn.Linear(width, 1, bias=False)
            nn.init.zeros_(self.layers.weight)  # the loss is convex: every seed starts where no answer is preferred
        else:
            drop = nn.Dropout(config.dropout)
            self.layers = nn.Sequential(
                drop, nn.Linear(width, config.hidden), nn.GELU(), drop, nn.Linear(config.hidden, 1)
            )

    @property
    def reads_prompt(self) -> bool:
        """Whether `forward` needs the prompt's features."""
        return self.config.kind == "mlp"

    def fit_scale(self, answers: Tensor, prompts: Tensor | None = None) -> None:
        """Set mean and spread from training features: answers and prompts (n, width)."""
        inputs = self._joined(answers, prompts)
        self.mean.copy_(inputs.mean(0))
        self.scale.copy_(inputs.std(0, correction=0).clamp(min=1e-6))

    def forward(self, answers: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Rewards (n,) of answers (n, width), given their prompts (n, width) if the head reads them.

        Raises DataError if the shapes do not fit the head.
        """
        return self.layers((self._joined(answers, prompts) - self.mean) / self.scale).squeeze(-1)

    def penalty(self) -> Tensor:
        """Half the squared norm of the weights, without the biases: times l2 it is the ridge term."""
        return sum(weight.square().sum() for weight in self.parameters() if weight.dim() == 2) / 2

    def _joined(self, answers: Tensor, prompts: Tensor | None) -> Tensor:
        if not self.reads_prompt:
            parts = [answers]
        elif prompts is None:
            raise DataError("this head reads the prompt too", where=self.config.kind, fix="pass the prompts' features")
        else:
            parts = [answers, prompts]
        if any(part.dim() != 2 or part.shape[1] != self.config.width for part in parts):
            shapes = ", ".join(str(tuple(part.shape)) for part in parts)
            fix = "use the encoder, depth and pooling that the head was trained on"
            raise DataError(f"features {shapes} for a head of width {self.config.width}", where="reward head", fix=fix)
        return torch.cat(parts, 1)


def save_head(head: RewardHead, folder: Path) -> None:
    """Weights to head.safetensors and shape to head.json in `folder`."""
    save_file(head.state_dict(), folder / "head.safetensors")
    (folder / "head.json").write_text(json.dumps(asdict(head.config), indent=1))


def load_head(folder: Path) -> RewardHead:
    """A saved head, in evaluation mode. Raises DataError naming the folder if it is not whole."""
    try:
        head = RewardHead(HeadConfig(**json.loads((folder / "head.json").read_text())))
        head.load_state_dict(load_file(folder / "head.safetensors"))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"no usable reward head ({error})", where=folder, fix="train it again") from error
    return head.eval()
