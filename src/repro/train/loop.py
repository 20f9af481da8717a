"""The one training loop: any objective of batches of pairs, AdamW, a cosine with warm-up, and a record of every step.

`train_pairs` is the loop; `train_bradley_terry` is that loop on whatever scores pairs, with validation after an epoch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import get_cosine_schedule_with_warmup

from repro.core.errors import DataError
from repro.core.progress import progress
from repro.core.settings import Section
from repro.objectives.bradley_terry import bradley_terry_loss

# places of pairs (n,) -> their mean loss (), with gradients, and what else to record of them, each a mean over them too
Objective = Callable[[Tensor], tuple[Tensor, Mapping[str, float]]]
PairScores = Callable[[Tensor], tuple[Tensor, Tensor]]  # places of pairs (n,) -> rewards of chosen and rejected (n,)
Record = dict[str, list[float]]
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


def train_pairs(
    module: nn.Module,
    objective: Objective,
    training: Tensor,
    settings: Section,
    *,
    seed: int,
    l2: float = 0.0,
    after_epoch: Callable[[int], None] | None = None,
) -> Record:
    """Train `module` in place; of every step the loss, gradient norm, learning rate and the objective's own figures.

    training: places of pairs (n,), drawn in a new order each epoch and given to the objective `pairs_per_forward` at a
    time: the same gradient in less memory. settings: OPTIMISER_SETTINGS. l2 adds l2 x module.penalty() to the loss;
    after_epoch: called with each epoch's number from 0. Deterministic given `seed` and the number of threads. Raises
    DataError if there are no pairs, or naming step and pairs if the loss is not finite.
    """
    if not len(training):
        raise DataError("no pairs to train on", where="training", fix="look at the filters before it")
    record: Record = {"loss": [], "gradient_norm": [], "learning_rate": []}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        optimiser, schedule = _optimiser(module, len(training), settings)
        for epoch in range(settings.epochs):
            module.train()
            for batch in progress(
                _epoch(training, settings.batch_size), label=f"epoch {epoch + 1} of {settings.epochs}"
            ):
                _step(module, objective, batch, optimiser, settings, record, l2)
                schedule.step()
            if after_epoch is not None:
                after_epoch(epoch)
    module.eval()
    return record


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
    may be empty: then the last epoch stays. Other arguments, and what is raised, as in `train_pairs`.
    """
    history, best = History(l2=l2), {}

    def loss(batch: Tensor) -> tuple[Tensor, Mapping[str, float]]:
        return bradley_terry_loss(*scores(batch)), {}

    def validate(epoch: int) -> None:
        if len(validation):
            _validate(module, scores, validation, settings, history)
            if not history.validation_loss[-1] <= min(history.validation_loss):
                return
            best.update({name: value.detach().clone() for name, value in module.state_dict().items()})
        history.best_epoch = epoch

    record = train_pairs(module, loss, training, settings, seed=seed, l2=l2, after_epoch=validate)
    if best:
        module.load_state_dict(best)
    history.loss, history.gradient_norm = record["loss"], record["gradient_norm"]
    history.learning_rate = record["learning_rate"]
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
    objective: Objective,
    batch: Tensor,
    optimiser: torch.optim.Optimizer,
    settings: Section,
    record: Record,
    l2: float,
) -> None:
    """One update on a batch, its figures added to the record as means over its pairs."""
    optimiser.zero_grad()
    figures = {"loss": 0.0}
    for part in batch.split(settings.pairs_per_forward or len(batch)):
        share = len(part) / len(batch)
        mean, more = objective(part)
        loss = mean * share
        loss.backward()
        figures["loss"] += loss.item()
        for name, value in more.items():
            figures[name] = figures.get(name, 0.0) + value * share
    if l2:
        (l2 * module.penalty()).backward()
    norm = nn.utils.clip_grad_norm_(module.parameters(), settings.max_gradient_norm or math.inf).item()
    if not (math.isfinite(figures["loss"]) and math.isfinite(norm)):
        raise DataError(
            f"loss {figures['loss']}, gradient norm {norm}",
            where=f"step {len(record['loss'])}, pairs {batch[:8].tolist()}{'...' if len(batch) > 8 else ''}",
            fix="lower learning_rate, use fp32, and look at these pairs",
        )
    figures |= {"gradient_norm": norm, "learning_rate": optimiser.param_groups[0]["lr"]}
    for name, value in figures.items():
        record.setdefault(name, []).append(value)
    optimiser.step()


@torch.no_grad()
def _validate(module: nn.Module, scores: PairScores, places: Tensor, settings: Section, history: History) -> None:
    module.eval()
    parts = [scores(part) for part in places.split(settings.pairs_per_forward or len(places))]
    chosen, rejected = (torch.cat(side) for side in zip(*parts, strict=True))
    history.validation_loss.append(bradley_terry_loss(chosen, rejected).item())
    accuracy = (chosen > rejected).double() + 0.5 * (chosen == rejected)
    history.validation_accuracy.append(accuracy.mean().item())
