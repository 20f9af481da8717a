"""All members in one pass must equal one by one through PEFT's own switching; members are trained, kept and named."""

import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.load import load_model
from repro.models.lora import load_adapters, save_adapter, with_lora
from repro.models.members import Members
from repro.models.scoring import score_padded, score_texts
from repro.train.ensemble import RewardEnsemble, ensemble_training, member_training
from repro.train.reward_tokens import reward_text

WORDS = ["user", "assistant", ":", "good", "bad", *(f"w{number}" for number in range(20))]
SETTINGS = {"max_tokens": 24, "precision": "fp32", "device": "cpu", "learning_rate": 0.02, "batch_size": 16}
SETTINGS |= {"pairs_per_forward": None, "epochs": 2, "warmup_ratio": 0.03, "weight_decay": 0.0, "max_gradient_norm": 1.0}
SETTINGS |= {"lora_rank": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_targets": "all-linear", "lora_layers": None}
SETTINGS |= {"members": 2, "calibrated": True, "gradient_checkpointing": False}
SIZES = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_labels": 1}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}


def backbone(family="llama", **more):
    """A reward model whose weights are spread, so that a wrong token or member would show."""
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **SIZES, **more))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.15)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-llama")
    vocabulary = {word: place for place, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(path)
    backbone().save_pretrained(path)
    return path


def adapters(model_of, path, members=3, **changes):
    """Folders of adapters that are not zero, each of another rank, as PEFT writes them."""
    for member in range(members):
        settings = Section(SETTINGS | changes | {"lora_rank": 2 + member})
        adapted = with_lora(model_of(), settings, seed=member)
        with torch.no_grad():
            for name, weights in adapted.named_parameters():
                if weights.requires_grad:
                    draws = torch.Generator().manual_seed(100 * member + len(name))
                    weights.copy_(0.2 * torch.randn(weights.shape, generator=draws))
        save_adapter(adapted, path / f"member_{member}", "tiny")
    return [path / f"member_{member}" for member in range(members)]


def in_turn(model, folders, rows, side):
    """The plain way: PEFT's own switching, whole padded sequences with their masks."""
    adapted, found = load_adapters(model, folders), []
    for member in range(len(folders)):
        adapted.set_adapter(f"member_{member}")
        found.append(score_padded(adapted, [], rows, limit=64, batch_size=4, padding_side=side))
    return torch.stack(found)


def rows_of(seed=0, prompts=3, each=5):
    """Answers of different lengths behind shared prompts, a token the shortest; and the prompt of each."""
    rng = np.random.default_rng(seed)
    begun = [rng.integers(3, 28, length).tolist() for length in rng.integers(2, 9, prompts)]
    rows = [begun[place // each] + rng.integers(3, 28, rng.integers(1, 12)).tolist() for place in range(prompts * each)]
    return rows, [place // each for place in range(prompts * each)]


@pytest.mark.parametrize(
    "family, merged, changes",
    [
        ("llama", True, {}),
        ("llama", False, {}),
        ("llama", True, {"lora_layers": 1}),  # two layers are computed once for all members
        ("llama", False, {"lora_targets": ["q_proj", "v_proj"], "lora_layers": 2}),
        ("mistral", True, {"sliding_window": 6}),
        ("qwen2", True, {}),  # q, k and v with a bias
    ],
)
def test_one_pass_is_one_by_one(family, merged, changes, tmp_path, monkeypatch):
    """Whatever is adapted, merged or not; batch size, padding side and prefix sharing change nothing beyond 1e-5."""
    more = {name: changes[name] for name in ("sliding_window",) if name in changes}
    folders = adapters(lambda: backbone(family, **more), tmp_path, **{k: v for k, v in changes.items() if k not in more})
    monkeypatch.setattr("repro.models.members.SAVED", 1)  # share even where it does not pay
    rows, groups = rows_of()
    members = Members(backbone(family, **more), folders, merged)
    expected = in_turn(backbone(family, **more), folders, rows, "left")
    torch.testing.assert_close(in_turn(backbone(family, **more), folders, rows, "right"), expected, rtol=0, atol=1e-5)
    for tokens, shared in ((10**6, None), (10**6, groups), (25, groups), (1, None)):
        torch.testing.assert_close(members.scores(rows, 64, shared, tokens), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(members.scores(rows[::-1], 64, groups[::-1]).flip(1), expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().min() > 1e-3 and expected.std(1).min() > 0.05  # 1e-5 means something


def test_a_row_over_the_limit_loses_its_beginning_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("repro.models.members.SAVED", 1)
    folders, (rows, groups) = adapters(backbone, tmp_path, members=2), rows_of()
    members, limit = Members(backbone(), folders), 10
    assert any(len(row) > limit for row in rows) and any(len(row) < limit for row in rows)
    expected = in_turn(backbone(), folders, [row[-limit:] for row in rows], "right")
    torch.testing.assert_close(members.scores(rows, limit, groups), expected, rtol=0, atol=1e-5)
    assert members.scores([], limit).shape == (2, 0)
    with pytest.raises(DataError, match="row 1: empty"):
        members.scores([[3], []], limit)


def test_an_adapter_that_is_missing_damaged_or_strange_is_named(tmp_path):
    folders = adapters(backbone, tmp_path, members=3)
    (folders[1] / "adapter_model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"member_1: member 1 is missing, no adapter_model"):
        Members(backbone(), folders)
    (folders[1] / "adapter_model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="member 1 does not fit"):
        Members(backbone(), folders)
    weights = load_file(tmp_path / "kept")
    save_file({name: value for name, value in weights.items() if "score" not in name}, folders[1] / "adapter_model.safetensors")
    with pytest.raises(DataError, match="member 1 does not fit: no reward head"):
        Members(backbone(), folders)
    shutil.copy(tmp_path / "kept", folders[1] / "adapter_model.safetensors")
    Members(backbone(), folders)
    with pytest.raises(DataError, match="member 0 does not fit"):
        Members(_wider(), folders)
    with pytest.raises(DataError, match="no adapters"):
        Members(backbone(), [])
    weights["base_model.model.score.weight"][0, 0] = math.nan
    save_file(weights, folders[1] / "adapter_model.safetensors")
    with pytest.raises(DataError, match="member 1, row 0: the reward is nan"):
        Members(backbone(), folders).scores([[5, 6], [7]], 64)


def _wider():
    config = AutoConfig.for_model("llama", **(SIZES | {"hidden_size": 64}))
    return AutoModelForSequenceClassification.from_config(config)


def test_settings_that_do_not_fit_the_model_are_named():
    for changes, match in (({"lora_layers": 4}, "4 layers"), ({"lora_targets": ["wrong"]}, "wrong"), ({"lora_rank": 0}, "positive")):
        with pytest.raises(SettingsError, match=match):
            with_lora(backbone(), Section(SETTINGS | changes), 0)


def test_a_new_adapter_changes_no_reward_and_two_are_drawn_differently():
    rows, _ = rows_of()
    rewards, drawn = [], []
    for seed in (0, 0, 1):
        adapted = with_lora(backbone(), Section(SETTINGS), seed)
        rewards.append(score_padded(adapted, [], rows, limit=64))
        drawn.append(torch.cat([value.flatten() for name, value in adapted.named_parameters() if "lora_A" in name]))
    torch.testing.assert_close(rewards[0], score_padded(backbone(), [], rows, limit=64), rtol=0, atol=1e-6)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def pairs_of(count, seed=0):
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS[5:], rng.integers(1, 6))) for _ in range(count)]
    return [Pair((("user", text),), f"good {text}", f"bad {text}", "here") for text in said]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("runs")
        patch.setenv("REPRO_RUNS", str(path))
        yield path


@pytest.fixture(scope="module")
def trained(folder, runs):
    settings = Section({"model": str(folder), **SETTINGS})
    return RewardEnsemble(artifacts.run(**ensemble_training(pairs_of(96), settings, seed=0, workers=1)), settings)


def test_members_learn_what_is_visible_and_differ(trained, folder):
    held = pairs_of(40, seed=1)
    found = trained.member_rewards([pair.prompt for pair in held], [(pair.chosen, pair.rejected) for pair in held])
    assert found.shape == (2, 40, 2)
    assert ((found[..., 0] > found[..., 1]).mean(1) > 0.9).all()
    assert np.abs(found[0] - found[1]).min(1).max() > 1e-3
    first, second = trained.histories
    assert first.loss[0] != second.loss[0] and first.loss[-1] < first.loss[0]
    kept = load_file(trained.folders[0] / "adapter_model.safetensors")
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in kept} == {"lora_A", "lora_B", "score"}


def test_rewards_are_those_of_each_adapter_in_a_reward_model(trained, folder):
    """Each member, loaded by PEFT on the backbone and read by the scoring that every reward model has."""
    held = pairs_of(6, seed=2)
    tokenizer = trained.load().tokenizer
    texts = [reward_text(tokenizer, pair.prompt, pair.chosen) for pair in held]
    adapted = load_adapters(load_model(str(folder), task="reward", device="cpu"), trained.folders)
    raw = RewardEnsemble(trained.artifact, Section(SETTINGS | {"calibrated": False}))
    found = raw.member_rewards([pair.prompt for pair in held], [[pair.chosen] for pair in held])
    for member in (1, 0):
        adapted.set_adapter(f"member_{member}")
        expected = score_texts(adapted, tokenizer, texts, limit=24).double().numpy()
        assert np.allclose(found[member, :, 0], expected, rtol=0, atol=1e-5)
    rows = tokenizer(texts)["input_ids"]
    assert np.allclose(raw.load().scores(rows).numpy(), found[..., 0], rtol=0, atol=1e-5)


def test_calibrated_members_are_on_one_scale(trained):
    """The reference pool is the answers of the pairs: there each member has mean 0 and SD 1."""
    few = pairs_of(96)
    prompts, texts = [pair.prompt for pair in few], [(pair.chosen, pair.rejected) for pair in few]
    found = trained.member_rewards(prompts, texts).reshape(2, -1)
    assert np.allclose(found.mean(1), 0, atol=1e-5) and np.allclose(found.std(1), 1, atol=1e-5)
    rows = [row for row, _ in zip(rows_of()[0], range(6), strict=False)]
    raw = RewardEnsemble(trained.artifact, Section(SETTINGS | {"calibrated": False})).load().scores(rows)
    scale = torch.from_numpy(trained.scale).float()
    torch.testing.assert_close(trained.load().scores(rows), (raw - scale[:, :1]) / scale[:, 1:])


def test_many_answers_to_a_prompt_are_what_each_is_alone(trained, monkeypatch):
    """Six answers share a prompt's encoding, one does not; nor does the tokenizer's padding side matter."""
    prompts = [(("user", "w1 w2 w3"),), (("user", "w4"),)]
    texts = [["good", "bad w5", "w6 w7 w8", "good", "w1", "w2 good"], ["w1", "w2", "w3", "w4", "w5", "w6 bad"]]
    monkeypatch.setattr("repro.models.members.SAVED", 1)
    together = trained.member_rewards(prompts, texts)
    scorer = trained.load()
    scorer.tokenizer.padding_side = "left"
    alone = [scorer.text_scores([turns], [[text]]) for turns, said in zip(prompts, texts, strict=True) for text in said]
    assert np.allclose(together.reshape(2, -1), np.concatenate(alone, 1), rtol=0, atol=1e-5)
    with pytest.raises(DataError, match="prompt 1: 5 answers"):
        trained.member_rewards(prompts, [texts[0], texts[1][:5]])


def test_a_member_is_the_same_in_any_ensemble_and_is_found_again(trained, folder):
    settings = Section({"model": str(folder), **SETTINGS, "members": 1})
    call = member_training(pairs_of(96), settings, 0, 1)
    assert artifacts.known(**call)
    smaller = ensemble_training(pairs_of(96), settings, 0)
    assert smaller["inputs"]["member_0"].key in str(trained.artifact.manifest["from"]["member_0"]["path"])
    again = ensemble_training(pairs_of(96), Section({"model": str(folder), **SETTINGS}), 0)
    assert artifacts.run(**again).path == trained.artifact.path
    with pytest.raises(SettingsError, match="0 members"):
        ensemble_training(pairs_of(4), Section({"model": str(folder), **SETTINGS, "members": 0}), 0)
    with pytest.raises(DataError, match="no pairs"):
        ensemble_training([], settings, 0)


def test_constant_rewards_are_named_where_they_would_divide(trained, folder):
    """A reference pool of one answer said over again: no spread to divide by; raw rewards are still there."""
    settings = Section({"model": str(folder), **SETTINGS})
    pool = [(("user", "w1"),)] * 3, [["good"]] * 3
    flat = artifacts.run(**ensemble_training(pairs_of(96), settings, 0, reference=pool))
    with pytest.raises(DataError, match="member 0, reference pool: all 3 rewards are"):
        RewardEnsemble(flat, settings).load()
    raw = RewardEnsemble(flat, Section(SETTINGS | {"calibrated": False}))
    assert np.ptp(raw.member_rewards(*pool)) >= 0 and raw.described["reference_answers"] == 3
