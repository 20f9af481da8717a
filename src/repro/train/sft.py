"""Supervised fine-tuning on conversations, through TRL's SFTTrainer, packed into blocks (p2.sft).

Row: {"messages": [{"role": "user", "content": "Who ..."}, {"role": "assistant", "content": "It was ..."}]}

Whole conversations are packed best-fit into blocks by TRL. TRL's own collator then lays all blocks of a batch end to
end, which keeps conversations apart under flash attention but makes an ordinary attention as long as the batch. Here a
block stays a row, positions begin anew with each conversation, and transformers masks attention where they do, with any
attention: packed and unpacked training are the same numbers. A conversation longer than a block is set aside, not cut.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from datasets.utils import logging as datasets_logging
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging
from trl import SFTConfig, SFTTrainer, get_training_chat_template, pack_dataset

from repro.core.artifacts import Job
from repro.core.errors import DataError, SettingsError
from repro.core.progress import note, progress
from repro.core.settings import Section
from repro.data.reading import read_rows
from repro.data.schema import Malformed, Reason, Unusable, field_of, text_field
from repro.models.load import PRECISIONS, device_named, load_model, load_tokenizer, threads, threads_for
from repro.train.optimisers import optimiser

SFT_SETTINGS = ("sft_learning_rate", "sft_epochs", "sft_batch_size", "packing_block", "blocks_per_forward")
SFT_SETTINGS += ("warmup_ratio", "sft_weight_decay", "max_gradient_norm", "precision", "loss_on", "device")
SFT_SETTINGS += ("gradient_checkpointing", "sft_optimizer")
CHECKPOINT_STEPS = 200  # a killed run loses at most this many steps; a shorter run is made again
IGNORED = -100  # a label that is not learned from
LONGER = "longer than a block, or than the model holds"
LOGGED = {"loss": "loss", "gradient_norm": "grad_norm", "learning_rate": "learning_rate"}  # our names: transformers'
Messages = Sequence[Mapping[str, str]]


def sft(job: Job) -> None:
    """Step: `base` (a model folder) and `conversations` (.jsonl) to a model folder and history.json (p2.sft).

    settings: SFT_SETTINGS; and sft_base, a hub id, where there is no folder. History: loss in nats, gradient norm before
    clipping and learning rate of every step; conversations, tokens and blocks of an epoch, and what was set aside, by
    reason. A killed run goes on from its last checkpoint and ends with the same weights. Raises DataError if no
    conversation can be used, the base has no chat template or a loss is not finite, SettingsError if the batch cannot
    be split as asked.
    """
    file = job.inputs["conversations"].path
    base = str(job.inputs["base"].path) if "base" in job.inputs else job.settings.sft_base
    malformed = Malformed()
    conversations = malformed.collect(read_rows(file, malformed), file, _messages)
    tokenizer = load_tokenizer(base)
    aside = Counter({str(reason): count for reason, count in malformed.counts().items()})
    rows = encode(tokenizer, conversations, job.settings.loss_on) if conversations else []
    limit = min(job.settings.packing_block, tokenizer.model_max_length)
    kept = [row for row in rows if len(row["input_ids"]) <= limit]
    aside.update({LONGER: len(rows) - len(kept)})
    if not kept:
        reasons = ", ".join(f"{count} {reason}" for reason, count in aside.items() if count)
        fix = "check the rows, or use longer blocks"
        raise DataError(f"no conversation can be used ({reasons})", where=file, fix=fix)
    model = load_model(base, task="language", device="cpu")
    with threads(threads_for(model)):
        trainer, history = train(model, tokenizer, kept, job.settings, seed=job.seed or 0, scratch=job.scratch)
    with _one_bar():
        trainer.save_model(str(job.out))
    (job.out / "training_args.bin").unlink(missing_ok=True)  # a pickle
    if trainer.is_world_process_zero():
        (job.out / "history.json").write_text(json.dumps({**history, "set_aside": +aside}, indent=1))


def _messages(row: Any) -> Messages:
    """A row's messages; Unusable unless user and assistant alternate, from one to the other, and each says something."""
    turns = field_of(row, "messages")
    if not isinstance(turns, list) or not turns:
        raise Unusable(Reason.NO_TURNS)
    found = [{"role": text_field(turn, "role"), "content": text_field(turn, "content")} for turn in turns]
    spoken = found[1:] if found[0]["role"] == "system" else found
    if [turn["role"] for turn in spoken] != ["user", "assistant"] * max(1, len(spoken) // 2):
        raise Unusable(Reason.ROLES)
    if not all(turn["content"].strip() for turn in found):
        raise Unusable(Reason.EMPTY_TURN)
    return found


def encode(tokenizer: PreTrainedTokenizerBase, conversations: Sequence[Messages], loss_on: str) -> list[dict]:
    """Token ids and labels of each conversation through the chat template; labels are -100 where nothing is learned.

    loss_on: "assistant" (its turns and their end tokens) or "all". Raises SettingsError for another value, DataError if
    the tokenizer has no chat template, or one that cannot say which tokens are the assistant's.
    """
    if loss_on not in ("assistant", "all"):
        raise SettingsError(f"unknown value {loss_on!r}", where="loss_on", fix="choose from assistant, all")
    if tokenizer.chat_template is None:
        fix = "start from a base whose tokenizer has one"
        raise DataError("no chat template", where=tokenizer.name_or_path, fix=fix)
    try:
        # None if the template marks the assistant's tokens itself; TRL knows marked forms of the common ones.
        template = get_training_chat_template(tokenizer) if loss_on == "assistant" else None
        found = tokenizer.apply_chat_template(
            list(conversations), chat_template=template, return_dict=True, return_assistant_tokens_mask=True
        )
    except (TemplateError, ValueError) as error:
        fix = "use roles that the template knows, and mark the assistant's text with {% generation %} in it"
        raise DataError(f"the chat template fails: {error}", where=tokenizer.name_or_path, fix=fix) from error
    rows = []
    for ids, said in zip(found["input_ids"], found["assistant_masks"], strict=True):
        learned = said if loss_on == "assistant" else [1] * len(ids)
        learned[0] = 0  # nothing comes before it that could predict it
        rows.append({"input_ids": ids, "labels": [i if use else IGNORED for i, use in zip(ids, learned, strict=True)]})
    return rows


def pack(rows: Sequence[dict], block: int) -> Dataset:
    """Whole conversations in blocks of at most `block` tokens, best-fit decreasing: input_ids, labels, seq_lengths."""
    with _one_bar():
        return pack_dataset(Dataset.from_list(list(rows)), block, "bfd", {"batch_size": None})


def collate(blocks: Sequence[dict]) -> dict[str, Tensor]:
    """Blocks as rows (blocks, longest): ids, labels, and positions that begin anew with each conversation.

    No attention mask: with none given, transformers lets no token see across such a beginning. Padding is one more
    conversation, of which nothing is learned.
    """
    longest = max(len(block["input_ids"]) for block in blocks)
    lengths = [[*block["seq_lengths"], longest - len(block["input_ids"])] for block in blocks]
    positions = [torch.cat([torch.arange(length) for length in row]) for row in lengths]
    ids, labels = ([torch.tensor(block[name]) for block in blocks] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        "position_ids": torch.stack(positions),
    }


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict],
    settings: Section,
    *,
    seed: int,
    scratch: Path,
) -> tuple[SFTTrainer, dict[str, Any]]:
    """Train the model in place on encoded rows; the trainer, and the record of every step.

    Deterministic given `seed` and the number of threads. Raises DataError naming the step whose loss is not finite.
    """
    blocks = pack(rows, settings.packing_block)
    config = _config(settings, seed, scratch)
    with torch.random.fork_rng(), _one_bar():
        given = {
            "processing_class": tokenizer,
            "callbacks": [_Watch()],
            "optimizers": (optimiser(model, settings), None),
        }
        trainer = SFTTrainer(model, config, collate, train_dataset=blocks, **given)
        trainer.remove_callback(PrinterCallback)  # it would print every step
        checkpoint = _checkpoint(scratch)
        result = trainer.train(resume_from_checkpoint=checkpoint)
    model.eval()
    steps = [row for row in trainer.state.log_history if "loss" in row]
    tokens = sum(len(row["input_ids"]) for row in rows)
    rate = tokens * settings.sft_epochs / result.metrics["train_runtime"]
    if checkpoint is None:
        note(f"          {tokens * settings.sft_epochs:,} tokens, {rate:,.0f} a second")
    history = {name: [row[key] for row in steps] for name, key in LOGGED.items()}
    return trainer, history | {"conversations": len(rows), "tokens": tokens, "blocks": len(blocks)}


def _config(settings: Section, seed: int, scratch: Path) -> SFTConfig:
    """The paper's schedule in transformers' words; nothing is reported, and no state is kept outside `scratch`."""
    if settings.precision not in PRECISIONS:
        fix = f"choose from {', '.join(PRECISIONS)}"
        raise SettingsError(f"unknown value {settings.precision!r}", where="precision", fix=fix)
    cpu = device_named(settings.device).type == "cpu"
    config = SFTConfig(
        output_dir=str(scratch),
        per_device_train_batch_size=settings.blocks_per_forward,
        num_train_epochs=settings.sft_epochs,
        learning_rate=settings.sft_learning_rate,
        optim="adamw_torch" if settings.sft_optimizer == "muon" else settings.sft_optimizer,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_ratio,
        weight_decay=settings.sft_weight_decay,
        max_grad_norm=settings.max_gradient_norm,
        bf16=settings.precision == "bf16",
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},  # the rows come packed
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=CHECKPOINT_STEPS,
        save_total_limit=2,
        seed=seed,
        data_seed=seed,
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        report_to="none",
        disable_tqdm=True,
    )
    config._n_gpu = min(config.n_gpu, 1)  # several devices are several processes, never copies in this one
    config.gradient_accumulation_steps = _accumulation(settings, config.world_size)
    return config


def _accumulation(settings: Section, processes: int) -> int:
    """Forward passes of a process for one step, so that the batch is the same however many processes share it."""
    forward = settings.blocks_per_forward * processes
    if settings.sft_batch_size % forward:
        fix = f"choose a multiple of {forward} (blocks_per_forward times the processes)"
        raise SettingsError(f"{settings.sft_batch_size} blocks cannot be split", where="sft_batch_size", fix=fix)
    return settings.sft_batch_size // forward


def _checkpoint(scratch: Path) -> str | None:
    """The newest whole checkpoint of a killed run; its trainer_state.json is written last."""
    for folder in sorted(scratch.glob("checkpoint-*"), key=lambda path: -int(path.name.split("-")[1])):
        try:
            json.loads((folder / "trainer_state.json").read_text())
        except (OSError, ValueError):
            continue
        return str(folder)
    return None


@contextmanager
def _one_bar() -> Iterator[None]:
    """The libraries' own bars, one for each shard and each map, stay out of the page."""
    for library in (datasets_logging, transformers_logging):
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in (datasets_logging, transformers_logging):
            library.enable_progress_bar()


class _Watch(TrainerCallback):
    """One bar for the whole training, and an end to it as soon as a loss is not finite."""

    bar: Iterator[int] = iter(())

    def on_train_begin(self, args, state, control, **more):
        self.bar = iter(progress(range(state.max_steps - state.global_step), label="fine-tuning"))
        next(self.bar, None)

    def on_step_end(self, args, state, control, **more):
        control.should_save &= state.global_step < state.max_steps  # the end is the artifact's, not a checkpoint

    def on_log(self, args, state, control, logs=None, **more):
        if "loss" not in logs:
            return
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["grad_norm"])):
            what = f"loss {logs['loss']}, gradient norm {logs['grad_norm']}"
            raise DataError(what, where=f"step {state.global_step}", fix="lower sft_learning_rate, or use fp32")
        next(self.bar, None)
