"""The models of a PPO run and its rules: the policy that learns, its reference, the value head, and every choice made.

The policy learns through all its weights or through LoRA adapters, whose absence is the reference.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from repro.core.errors import SettingsError
from repro.core.settings import Section
from repro.models.logprobs import half
from repro.models.lora import with_lora
from repro.objectives.ppo import EACH, ESTIMATORS, LAST

SEPARATE, SHARED = "separate", "shared"
END, BOOTSTRAP = "end", "bootstrap"
LINEAR, CONSTANT = "linear", "constant"
CHOICES = {"value_head": (SEPARATE, SHARED), "truncation": (END, BOOTSTRAP), "anneal": (LINEAR, CONSTANT)}
CHOICES |= {"score_at": (LAST, EACH), "kl_estimator": ESTIMATORS}
PREFIX = "ppo_"
LORA = ("lora_rank", "lora_alpha", "lora_targets", "lora_layers")


@dataclass(frozen=True)
class Rules:
    """A run's choices. Each is a parameter `ppo_<name>`; the switches name known details of PPO on language models.

    Raises SettingsError for a value out of range.
    """

    iterations: int
    rollouts: int  # answers an iteration
    max_new_tokens: int
    learning_rate: float
    answers_per_prompt: int = 1
    temperature: float = 1.0
    epochs: int = 4  # over the answers of an iteration
    minibatches: int = 1  # updates an epoch
    rows_per_forward: int | None = None  # memory and speed: the gradient is the same
    clip: float | None = 0.2
    value_clip: float | None = 0.2
    value_coefficient: float = 0.1
    value_head: str = SEPARATE  # a value model of its own, or a head that shares the policy's decoder
    gamma: float = 1.0
    lam: float = 0.95
    kl_coefficient: float = 0.05  # beta of p3.eq2, the first if it adapts
    kl_estimator: str = "k1"
    kl_target: float | None = None  # nats an answer; None: the coefficient is fixed
    kl_horizon: float = 10_000.0  # answers
    whiten_advantages: bool = True
    whiten_rewards: bool = False  # their mean stays
    score_at: str = LAST
    missing_end_penalty: float = 0.0  # taken off the score of an answer that max_new_tokens cut
    truncation: str = END  # what comes after a cut answer: nothing, or what the value model expects
    at_temperature: bool = True  # ratio and KL of the distribution drawn from, or of the model as it is
    anneal: str = LINEAR  # the learning rate, to 0 after the last iteration
    adam_epsilon: float = 1e-5
    max_gradient_norm: float | None = 1.0
    lora_rank: int | None = None  # None: all weights learn
    lora_alpha: float = 16.0
    lora_targets: str | Sequence[str] = "all-linear"
    lora_layers: int | None = None  # the last ones; None: all
    checkpoint_every: int = 10  # iterations; the last is always kept
    precision: str = "fp32"

    def __post_init__(self) -> None:
        counts = ("iterations", "rollouts", "max_new_tokens", "answers_per_prompt", "epochs", "minibatches")
        wrong = {name: (getattr(self, name) >= 1, "give at least 1") for name in (*counts, "checkpoint_every")}
        wrong |= {name: (getattr(self, name) in known, f"choose {known}") for name, known in CHOICES.items()}
        wrong |= {name: (0 <= getattr(self, name) <= 1, "from 0 to 1") for name in ("gamma", "lam")}
        wrong["temperature"] = (self.temperature > 0, "above 0: greedy answers explore nothing")
        wrong["rollouts"] = (
            self.rollouts % self.answers_per_prompt == 0 < self.rollouts,
            "a multiple of answers_per_prompt",
        )
        wrong["minibatches"] = (1 <= self.minibatches <= self.rollouts, "at least 1, at most one an answer")
        for name, (right, fix) in wrong.items():
            if not right:
                raise SettingsError(f"{name} is {getattr(self, name)!r}", where="PPO", fix=fix)


PPO_SETTINGS = tuple(PREFIX + each.name for each in fields(Rules) if each.name != "precision") + ("precision",)


def rules_of(settings: Section) -> Rules:
    """The rules that a section's parameters state: PPO_SETTINGS."""
    return Rules(**{name.removeprefix(PREFIX): settings[name] for name in PPO_SETTINGS})


class Answers(NamedTuple):
    """Prompts and answers as tokens: ids (rows, columns), right-padded; starts and lengths (rows,) of the answers."""

    ids: Tensor
    starts: Tensor
    lengths: Tensor

    @property
    def mask(self) -> Tensor:
        return torch.arange(int(self.lengths.max()), device=self.ids.device) < self.lengths[:, None]

    def part(self, rows: Tensor) -> "Answers":
        """Some of the rows, as narrow as they allow."""
        ids, starts, lengths = (each[rows] for each in self)
        return Answers(ids[:, : int((starts + lengths).max())], starts, lengths)


class Actor:
    """The policy that learns, what it must stay close to, and what expects its rewards; dropout is off in all of them.

    policy: trained in place, or through LoRA adapters put into it; then the reference is the policy without them,
    else a frozen copy. The value head begins at 0, on a copy of the policy's decoder or on the policy's own.
    """

    def __init__(self, policy: PreTrainedModel, rules: Rules, seed: int):
        self.rules, self.core = rules, policy.eval()
        self.reference = None if rules.lora_rank else copy.deepcopy(policy).requires_grad_(False)
        lora = Section({name: getattr(rules, name) for name in LORA} | {"lora_dropout": 0.0})
        self.policy = with_lora(policy, lora, seed, "language").eval() if rules.lora_rank else policy
        self.decoder = copy.deepcopy(policy.base_model) if rules.value_head == SEPARATE else None
        to = {"device": policy.device, "dtype": policy.dtype}
        self.head = nn.utils.skip_init(nn.Linear, policy.config.get_text_config().hidden_size, 1, **to)
        for weight in self.head.parameters():
            nn.init.zeros_(weight)

    def weights(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """What learns, by name: the policy's weights and the value model's."""
        values = nn.ModuleDict({"head": self.head} | ({"decoder": self.decoder} if self.decoder is not None else {}))
        found = (module.named_parameters() for module in (self.policy, values))
        return tuple({name: weight for name, weight in each if weight.requires_grad} for each in found)

    def read(self, answers: Answers) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the answers' tokens and values of the states before them, (rows, steps), 0 elsewhere."""
        mask = answers.mask
        with half(self.core, self.rules.precision):
            logprobs, hidden = self._logprobs(self.core, answers, mask)
            if self.decoder is not None:
                places = _places(answers, mask)
                hidden = self.decoder(input_ids=answers.ids, use_cache=False).last_hidden_state
                hidden = hidden.flatten(0, 1).index_select(0, places)
        values = self.head(hidden.to(self.head.weight.dtype)).squeeze(-1)  # in half precision a value has three digits
        return logprobs, logprobs.new_zeros(mask.shape).masked_scatter(mask, values.to(logprobs.dtype))

    def reference_logprobs(self, answers: Answers) -> Tensor:
        """The same log-probabilities under the model that the policy began as."""
        adapters_off = nullcontext() if self.reference is not None else self.policy.disable_adapter()
        with torch.no_grad(), adapters_off, half(self.core, self.rules.precision):
            return self._logprobs(self.core if self.reference is None else self.reference, answers, answers.mask)[0]

    def values_after(self, answers: Answers) -> Tensor:
        """Values of the states after the last tokens, (rows,)."""
        ids = nn.functional.pad(answers.ids, (0, 1))  # one more column: `read` asks for the token that follows
        ends = answers.starts + answers.lengths
        with torch.no_grad():
            return self.read(Answers(ids, ends, torch.ones_like(ends)))[1][:, 0]

    def _logprobs(self, model: PreTrainedModel, answers: Answers, mask: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, steps), and the last hidden states that they were read from, (tokens, width).

        Right padding and no mask: no token looks right, so attention takes its fast causal kernel. A hook lets the
        output layer read only where an answer's token is predicted, inside the model's own forward pass.
        """
        places, kept = _places(answers, mask), []

        def read(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            kept.append(given[0].flatten(0, 1).index_select(0, places))
            return (kept[0][None],)

        handle = model.get_output_embeddings().register_forward_pre_hook(read)
        try:
            logits = model(input_ids=answers.ids, use_cache=False).logits[0]
        finally:
            handle.remove()
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.rules.at_temperature and self.rules.temperature != 1:
            logits = logits / self.rules.temperature
        found = -cross_entropy(logits, answers.ids.flatten()[places + 1], reduction="none")
        return found.new_zeros(mask.shape).masked_scatter(mask, found), kept[0]


def _places(answers: Answers, mask: Tensor) -> Tensor:
    """Where the tokens stand behind which the answers' tokens come, (tokens,), counted row after row.

    For index_select: its backward pass adds whole rows, where that of indexing by row and column takes a third of an
    update on a processor.
    """
    rows, steps = mask.nonzero(as_tuple=True)
    return rows * answers.ids.shape[1] + answers.starts[rows] - 1 + steps
