"""The Bradley-Terry training loop: whatever scores pairs, AdamW, a cosine with warm-up, and a record of every step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from repro.core.errors import DataError
from repro.core.progress import progress
from repro.core.settings import Section
from repro.objectives.bradley_terry import bradley_terry_loss

PairScores = Callable[[Tensor], tuple[Tensor, Tensor]]  # places of pairs (n,) -> rewards of chosen and rejected (n,)
OPTIMISER_SETTINGS = ("learning_rate", "batch_size", "pairs_per_forward", "epochs", "warmup_ratio", "weight_decay")
OPTIMISER_SETTINGS += ("max_gradient_norm",)


@dataclass
class History:
    """Per step: loss in nats, gradient norm before clipping, learning rate (p2.fig7). Per epoch: validation."""

    loss: list[float] = field(default_factory=list)
    gradient_norm: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    best_epoch: int = 0
    l2: float = 0.0


def train_bradley_terry(
    module: nn.Module,
    scores: PairScores,
    training: Tensor,
    validation: Tensor,
    settings: Section,
    *,
    seed: int,
    l2: float = 0.0,
) -> History:
    """Train `module` on pairs by p1.eq1 and leave it with the weights of the epoch best on validation loss.

    scores: rewards of pairs by their places, called with gradients on; training, validation: places (n,). Validation
    may be empty: then the last epoch stays. settings: OPTIMISER_SETTINGS. l2 adds l2 x module.penalty() to the loss.
    Deterministic given `seed` and the number of threads. Raises DataError naming step and batch if the loss is not
    finite.
    """
    history, best = History(l2=l2), None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimiser, schedule = _optimiser(module, len(training), settings)
        for epoch in range(settings.epochs):
            module.train()
            for batch in progress(
                _epoch(training, settings.batch_size), label=f"epoch {epoch + 1} of {settings.epochs}"
            ):
                _step(module, scores, batch, optimiser, settings, history, l2)
                schedule.step()
            if len(validation):
                _validate(module, scores, validation, settings, history)
                if history.validation_loss[-1] <= min(history.validation_loss):
                    best = {name: value.detach().clone() for name, value in module.state_dict().items()}
                    history.best_epoch = epoch
            else:
                history.best_epoch = epoch
    if best is not None:
        module.load_state_dict(best)
    module.eval()
    return history


def _optimiser(
    module: nn.Module, pairs: int, settings: Section
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    trainable = [weight for weight in module.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trainable, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = settings.epochs * math.ceil(pairs / settings.batch_size)
    return optimiser, get_cosine_schedule_with_warmup(optimiser, math.ceil(settings.warmup_ratio * steps), steps)


def _epoch(places: Tensor, size: int) -> Sequence[Tensor]:
    """The places in a new order, in batches as even as can be: a last batch of three would be three pairs' noise."""
    return places[torch.randperm(len(places))].tensor_split(math.ceil(len(places) / size))


def _step(
    module: nn.Module,
    scores: PairScores,
    batch: Tensor,
    optimiser: torch.optim.Optimizer,
    settings: Section,
    history: History,
    l2: float,
) -> None:
    """One update on a batch, computed `pairs_per_forward` pairs at a time: the same gradient in less memory."""
    optimiser.zero_grad()
    total = 0.0
    for part in batch.split(settings.pairs_per_forward or len(batch)):
        loss = bradley_terry_loss(*scores(part)) * (len(part) / len(batch))
        loss.backward()
        total += loss.item()
    if l2:
        (l2 * module.penalty()).backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), settings.max_gradient_norm or math.inf).item()
    if not (math.isfinite(total) and math.isfinite(norm)):
        raise DataError(
            f"loss {total}, gradient norm {norm}",
            where=f"step {len(history.loss)}, pairs {batch[:8].tolist()}{'...' if len(batch) > 8 else ''}",
            fix="lower learning_rate, use fp32, and look at these pairs",
        )
    history.loss.append(total)
    history.gradient_norm.append(norm)
    history.learning_rate.append(optimiser.param_groups[0]["lr"])
    optimiser.step()


@torch.no_grad()
def _validate(module: nn.Module, scores: PairScores, places: Tensor, settings: Section, history: History) -> None:
    module.eval()
    parts = [scores(part) for part in places.split(settings.pairs_per_forward or len(places))]
    chosen, rejected = (torch.cat(side) for side in zip(*parts, strict=True))
    history.validation_loss.append(bradley_terry_loss(chosen, rejected).item())
    accuracy = (chosen > rejected).double() + 0.5 * (chosen == rejected)
    history.validation_accuracy.append(accuracy.mean().item())
