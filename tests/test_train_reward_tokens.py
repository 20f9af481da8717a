"""Reward training through tokens: what is frozen stays, a visible preference is learnt, and the folder loads again."""

import copy
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from repro.core.errors import SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.load import load_model, load_tokenizer
from repro.models.scoring import score_texts
from repro.train.reward_tokens import _pair_scores, finetuned_reward_model, freeze, reward_text, train_on_tokens

WORDS = ["user", "assistant", ":", "good", "bad", *(f"w{number}" for number in range(20))]
SETTINGS = {"max_tokens": 16, "precision": "fp32", "device": "cpu", "trainable": "all", "learning_rate": 0.01}
SETTINGS |= {"batch_size": 16, "pairs_per_forward": 8, "epochs": 3, "warmup_ratio": 0.03, "weight_decay": 0.0}
SETTINGS |= {"max_gradient_norm": 1.0, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tiny-llama")
    vocabulary = {word: place for place, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(path)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, num_attention_heads=4, max_position_embeddings=64, num_labels=1, pad_token_id=0)
    LlamaForSequenceClassification(config).save_pretrained(path)
    return path


def pairs_of(count, seed=0):
    rng = np.random.default_rng(seed)
    said = [" ".join(rng.choice(WORDS[5:], rng.integers(1, 6))) for _ in range(count)]
    return [Pair((("user", text),), f"good {text}", f"bad {text}", "here") for text in said]


def rows_of(count, seed=0):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs_of(count, seed)]


def test_only_the_last_layers_and_the_head_move(folder):
    model = load_model(str(folder), task="reward", device="cpu")
    before = copy.deepcopy(model.state_dict())
    settings = Section(SETTINGS | {"trainable": 1, "epochs": 1})
    history = train_on_tokens(model, load_tokenizer(str(folder)), rows_of(32), settings, 0)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith(("model.layers.1.", "score.")) for name in moved)
    assert any(name.startswith("model.layers.1.") for name in moved) and "score.weight" in moved
    assert len(history.loss) == 2 and history.loss[0] == pytest.approx(math.log(2), abs=0.1)
    for wrong in (3, "some", -1):
        with pytest.raises(SettingsError, match="0 to 2 layers"):
            freeze(model, wrong)


def test_activations_computed_again_change_nothing(folder):
    models = [load_model(str(folder), task="reward", device="cpu", recompute=each) for each in (False, True)]
    tokenizer, settings = load_tokenizer(str(folder)), Section(SETTINGS | {"epochs": 1})
    plain, again = (train_on_tokens(model, tokenizer, rows_of(32), settings, 0) for model in models)
    assert plain == again and models[1].is_gradient_checkpointing and not models[0].is_gradient_checkpointing
    assert all(torch.equal(weights, models[0].state_dict()[name]) for name, weights in models[1].state_dict().items())


def test_a_visible_preference_is_learnt_saved_and_found_again(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    settings = Section({"model": str(folder), **SETTINGS})
    artifact = finetuned_reward_model(pairs_of(128), settings, seed=0)
    model, tokenizer = load_model(str(artifact.path), task="reward", device="cpu"), load_tokenizer(str(artifact.path))
    right = 0
    for prompt, chosen, rejected in rows_of(40, seed=1):
        with torch.no_grad():
            rewards = [
                model(**tokenizer(reward_text(tokenizer, prompt, answer), return_tensors="pt")).logits.item()
                for answer in (chosen, rejected)
            ]
        right += rewards[0] > rewards[1]
    assert right >= 36
    assert finetuned_reward_model(pairs_of(128), settings, seed=0).path == artifact.path


def test_padding_does_not_change_a_loss(folder):
    """One pair alone and the same pair beside a longer one: the first step's loss of both is the mean of each alone."""
    rows = [((("user", "w1"),), "good", "bad"), ((("user", "w1 w2 w3"),), "w4 w5 good", "bad w6")]
    losses = []
    for chosen_rows in (rows[:1], rows[1:], rows):
        model, settings = load_model(str(folder), task="reward", device="cpu"), Section(SETTINGS | {"epochs": 1})
        losses.append(train_on_tokens(model, load_tokenizer(str(folder)), chosen_rows, settings, 0).loss[0])
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, abs=1e-6)


def test_the_text_has_one_beginning(folder):
    tokenizer = load_tokenizer(str(folder))
    plain = reward_text(tokenizer, (("user", "w1"),), "good")
    assert plain == "user: w1\n\nassistant: good"
    tokenizer.chat_template = "<s>{% for m in messages %}{{ m.role }} : {{ m.content }} {% endfor %}"
    templated = reward_text(tokenizer, (("user", "w1"),), "good")
    assert templated == "user : w1 assistant : good "
    assert tokenizer(templated)["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("pad", ["<pad>", "bad"])
def test_training_reads_the_token_that_scoring_reads_whatever_the_padding(folder, pad):
    """Where the padding is the last token of an answer, a search for it would read the token before."""
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder), task="reward", device="cpu")
    tokenizer.pad_token, model.config.pad_token_id = pad, tokenizer.convert_tokens_to_ids(pad)
    texts = [reward_text(tokenizer, (("user", "w1"),), answer) for answer in ("w2 bad", "w3 w4 good bad")]
    ids = [torch.tensor(row) for row in tokenizer(texts)["input_ids"]]
    with torch.no_grad():
        found = torch.cat(_pair_scores(model, ids, "fp32")(torch.tensor([0])))
    assert found.tolist() == pytest.approx(score_texts(model, tokenizer, texts, limit=64).tolist(), abs=1e-6)
