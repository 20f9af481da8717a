"""Packed fine-tuning is the unpacked one, learns only what it should, repeats bit for bit and survives a kill."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from repro.core import artifacts
from repro.core.artifacts import external
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer
from repro.models.scratch import random_model, scratch, word_tokenizer
from repro.train import sft as module
from repro.train.sft import LONGER, SFT_SETTINGS, collate, encode, pack, sft

NAMES = ["Mia", "Tom", "Ann", "Bob", "Eve", "Sam"]
THINGS = ["pears", "apples", "plums", "nuts"]
CHATS = [
    [("user", f"{name} has {count} {thing}. Who has {thing}?"), ("assistant", f"{name} has " + f"{thing}, " * count + "I hope so.")]
    for name in NAMES for thing in THINGS for count in (1, 2)
]  # fmt: skip
CHATS += [[*CHATS[place], *CHATS[place + 9]] for place in range(8)]  # two turns each
MESSAGES = [[{"role": role, "content": text} for role, text in turns] for turns in CHATS]
TEXTS = [text for turns in CHATS for _, text in turns]
SETTINGS = {
    "sft_learning_rate": 1e-2, "sft_epochs": 1, "sft_batch_size": 4, "packing_block": 64, "blocks_per_forward": 4,
    "warmup_ratio": 0.03, "sft_weight_decay": 0.0, "max_gradient_norm": 1.0, "precision": "fp32",
    "loss_on": "assistant", "device": "cpu", "gradient_checkpointing": False, "sft_optimizer": "adamw_torch",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No bars."""
    monkeypatch.setenv("REPRO_BATCH", "1")


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def model(tokenizer):
    """Weights spread, so that a token of another conversation would move a logit by far more than 1e-5."""
    model = random_model("miniature/0.1m", tokenizer, seed=0).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.15)
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(tmp_path_factory.mktemp("runs")))
        inputs = {"texts": stored("texts", TEXTS)}
        return artifacts.run(scratch, settings={"name": "miniature/0.1m"}, inputs=inputs, seed=0)


def rows_file(folder, rows):
    path = folder / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return external(path)


def tuned(folder, monkeypatch, base, rows=None, seed=0, **changes):
    """The step's artifact, in a runs folder of its own."""
    folder.mkdir(exist_ok=True)
    monkeypatch.setenv("REPRO_RUNS", str(folder / "runs"))
    rows = [{"messages": messages} for messages in MESSAGES] if rows is None else rows
    settings = Section(SETTINGS | changes)
    assert set(settings) == set(SFT_SETTINGS)
    return artifacts.run(
        sft, settings=settings, inputs={"base": base, "conversations": rows_file(folder, rows)}, seed=seed
    )


def history(artifact):
    return json.loads((artifact / "history.json").read_text())


def by_hand(model, rows):
    """Mean loss in nats over all learned tokens, each conversation alone, and the norm of its gradient."""
    total, count = 0.0, 0
    for row in rows:
        logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        total = total + cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        count += (labels != -100).sum()
    grads = torch.autograd.grad(total / count, list(model.parameters()))
    return (total / count).item(), math.sqrt(sum(grad.square().sum().item() for grad in grads))


def test_packed_logits_are_the_lone_ones(model, tokenizer):
    """In every block, whatever stands before, behind or beside a conversation, padding and shorter blocks too."""
    rows = encode(tokenizer, MESSAGES, "assistant")
    blocks = pack(rows, 150)
    alone = {tuple(row["input_ids"]): model(torch.tensor([row["input_ids"]])).logits[0] for row in rows}
    batch = collate(list(blocks))
    batch.pop("labels")
    with torch.no_grad():
        packed = model(**batch, use_cache=False).logits
        leaky = model(input_ids=batch["input_ids"], use_cache=False).logits
    seen, worst = 0, 0.0
    for place, block in enumerate(blocks):
        start = 0
        for length in block["seq_lengths"]:
            expected = alone[tuple(block["input_ids"][start : start + length])]
            torch.testing.assert_close(packed[place, start : start + length], expected, rtol=0, atol=1e-5)
            worst = max(worst, (leaky[place, start : start + length] - expected).abs().max().item())
            start, seen = start + length, seen + 1
    assert seen == len(rows) and len(blocks) < len(rows) / 2
    assert worst > 0.1  # without the positions conversations do see each other, and the test above could fail


@pytest.mark.parametrize("loss_on", ["assistant", "all"])
@pytest.mark.parametrize("forward", [1, 16])
def test_a_packed_step_has_the_unpacked_loss_and_gradient(tmp_path, monkeypatch, base, loss_on, forward):
    """One step on everything, in one forward or one block at a time: the mean over tokens, not over blocks."""
    found = history(tuned(tmp_path, monkeypatch, base, sft_batch_size=64, blocks_per_forward=forward, loss_on=loss_on))
    rows = encode(load_tokenizer(str(base.path)), MESSAGES, loss_on)
    loss, norm = by_hand(load_model(str(base.path), task="language", device="cpu"), rows)
    assert found["loss"] == [pytest.approx(loss, abs=1e-5)]
    assert found["gradient_norm"] == [pytest.approx(norm, abs=1e-5)]
    assert found["tokens"] == sum(len(row["input_ids"]) for row in rows)


def test_only_the_assistant_and_its_end_are_learned(tokenizer):
    for messages, row in zip(MESSAGES, encode(tokenizer, MESSAGES, "assistant"), strict=True):
        learned = tokenizer.decode([label for label in row["labels"] if label != -100])
        assert learned == "".join(turn["content"] + "<|end|>" for turn in messages if turn["role"] == "assistant")
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        assert row["input_ids"].count(tokenizer.bos_token_id) == 1
    everything = encode(tokenizer, MESSAGES, "all")
    assert all(row["labels"] == [-100, *row["input_ids"][1:]] for row in everything)


def test_a_small_set_is_memorised(tmp_path, monkeypatch, base):
    """The answers follow from the questions, so the loss can go to 0; the step's greedy answer is the learned one."""
    artifact = tuned(tmp_path, monkeypatch, base, sft_epochs=15)
    found = history(artifact)
    assert found["loss"][0] > 3.5 and sum(found["loss"][-5:]) / 5 < 0.2
    steps = len(found["loss"])
    assert steps == len(found["gradient_norm"]) == len(found["learning_rate"]) == 15 * math.ceil(found["blocks"] / 4)
    assert found["learning_rate"][0] == 0 and max(found["learning_rate"]) == pytest.approx(1e-2)
    assert found["learning_rate"].index(max(found["learning_rate"])) == math.ceil(0.03 * steps)
    assert 0 < found["learning_rate"][-1] < 1e-4
    tokenizer = load_tokenizer(str(artifact.path))
    model = load_model(str(artifact.path), task="language", device="cpu")
    asked = tokenizer.apply_chat_template(
        MESSAGES[3][:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    said = model.generate(**asked, do_sample=False, max_new_tokens=30)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said) == MESSAGES[3][1]["content"] + "<|end|>"
    load_model(str(artifact.path), task="reward", device="cpu")


def test_the_same_seed_gives_the_same_bytes(tmp_path, monkeypatch, base):
    """Weights, tokenizer and record; nothing of the machine or the clock is in them, and nothing pickled."""
    first, again, other = (
        tuned(tmp_path / name, monkeypatch, base, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.manifest["files"] == again.manifest["files"]
    assert first.manifest["files"]["model.safetensors"] != other.manifest["files"]["model.safetensors"]
    assert {name.rsplit(".")[-1] for name in first.manifest["files"]} == {"json", "jinja", "safetensors"}


class Killed(BaseException):
    """Stands for the kill; no `except Exception` may catch it."""


@pytest.mark.parametrize("optimiser", ["adamw_torch", "muon"])
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path, monkeypatch, base, optimiser):
    """Killed in the second epoch, with a half-written newer checkpoint beside the whole one: the same bytes in the end."""
    asked = {"sft_epochs": 2, "sft_optimizer": optimiser}
    whole = tuned(tmp_path / "whole", monkeypatch, base, **asked)
    steps = len(history(whole)["loss"])
    monkeypatch.setattr(module, "CHECKPOINT_STEPS", 3)
    original, done = module._Watch.on_log, []

    def killing(self, args, state, control, logs=None, **more):
        original(self, args, state, control, logs=logs, **more)
        done.append(state.global_step)
        if len(done) == steps // 2 + 1:
            raise Killed

    monkeypatch.setattr(module._Watch, "on_log", killing)
    with pytest.raises(Killed):
        tuned(tmp_path / "killed", monkeypatch, base, **asked)
    [left] = (tmp_path / "killed").rglob("*.scratch")
    saved = max(int(path.name.split("-")[1]) for path in left.glob("checkpoint-*"))
    (left / f"checkpoint-{saved + 1}").mkdir()
    resumed = tuned(tmp_path / "killed", monkeypatch, base, **asked)
    assert done[steps // 2 + 1] == saved + 1 > steps / 3
    assert resumed.manifest["files"] == whole.manifest["files"]
    assert not list((tmp_path / "killed").rglob("*.pt"))


def test_half_precision_is_another_run_in_the_same_process(tmp_path, monkeypatch, base):
    """The libraries keep global state; fp32 weights come out, near those of fp32 and not equal."""
    losses = [history(tuned(tmp_path / name, monkeypatch, base, precision=name))["loss"] for name in ("fp32", "bf16")]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)
    [weights] = (tmp_path / "bf16" / "runs" / "artifacts").glob("train.sft.sft/*/model.safetensors")
    assert {tensor.dtype for tensor in load_file(weights).values()} == {torch.float32}


def test_what_cannot_be_used_is_set_aside_and_counted(tmp_path, monkeypatch, base):
    user, assistant = ({"role": role, "content": "Mia has nuts."} for role in ("user", "assistant"))
    long = {"role": "assistant", "content": "nuts " * 70 + "."}
    bad = [
        [],
        [user],
        [assistant],
        [user, user, assistant],
        [user, assistant, user],
        [user, long],
        [user, {**assistant, "content": " "}],
    ]
    rows = [{"messages": messages} for messages in [*bad, *MESSAGES]] + [{"text": "x"}, "x", {"messages": [3]}]
    found = history(tuned(tmp_path, monkeypatch, base, rows))
    assert found["conversations"] == len(MESSAGES)
    expected = {"there is no 'Human:' turn": 1, "the roles do not alternate, beginning with the human": 4}
    expected |= {
        LONGER: 1,
        "a turn of the prompt is empty": 1,
        "a field is missing": 1,
        "the row is not an object": 2,
    }
    assert found["set_aside"] == expected
    with pytest.raises(DataError, match=r"no conversation can be used \(.*4 the roles.*1 longer than a block"):
        tuned(tmp_path / "none", monkeypatch, base, [{"messages": messages} for messages in bad])
    with pytest.raises(DataError, match="is empty"):
        tuned(tmp_path / "empty", monkeypatch, base, [])


def test_a_base_must_have_a_chat_template_that_knows_the_roles(tokenizer):
    bare = word_tokenizer(TEXTS)
    bare.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        encode(bare, MESSAGES, "assistant")
    bare.chat_template = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"
    with pytest.raises(DataError, match="generation"):
        encode(bare, MESSAGES, "assistant")
    assert len(encode(bare, MESSAGES, "all")) == len(MESSAGES)
    with pytest.raises(DataError, match="unknown role system"):
        encode(tokenizer, [[{"role": "system", "content": "Be kind."}, *MESSAGES[0]]], "assistant")
    with pytest.raises(SettingsError, match="assistant, all"):
        encode(tokenizer, MESSAGES, "user")


def test_a_batch_that_cannot_be_split_and_an_unknown_precision_are_refused(tmp_path, monkeypatch, base):
    with pytest.raises(SettingsError, match="fp32, bf16"):
        tuned(tmp_path, monkeypatch, base, precision="fp16")
    with pytest.raises(SettingsError, match="multiple of 3"):
        tuned(tmp_path, monkeypatch, base, blocks_per_forward=3)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch, base, tokenizer):
    model = random_model("miniature/0.1m", tokenizer, seed=0)
    with torch.no_grad():
        model.model.norm.weight.fill_(math.inf)
    model.save_pretrained(tmp_path / "broken")
    tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(DataError, match=r"step 1: loss nan"):
        tuned(tmp_path, monkeypatch, external(tmp_path / "broken"))
