"""Loading and encoding: what is missing is named, and a feature depends on its text alone."""

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.paths import models_folder
from repro.core.settings import Section
from repro.models.features import encode, feature_table, stored
from repro.models.load import find_model, load_model, load_tokenizer

WORDS = [f"w{number}" for number in range(50)]
ENCODER = {"layers": None, "max_tokens": 12, "truncation_side": "left", "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A two-layer BERT and a word tokenizer that adds [CLS] and [SEP], saved as the hub stores them."""
    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [("[CLS]", 2), ("[SEP]", 3)]
    words.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(path)
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    torch.manual_seed(0)
    BertModel(BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=64)).save_pretrained(path)
    return path


def texts_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 30))) for _ in range(count)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [16, 100, 5000])
def test_a_feature_depends_on_its_text_alone(folder, side, budget):
    """Every batch size and padding side against one text at a time, without padding, through BERT's own forward."""
    model, tokenizer = load_model(str(folder), device="cpu"), load_tokenizer(str(folder))
    tokenizer.padding_side = side
    texts = texts_of(40)
    values, _ = encode(model, tokenizer, texts, max_tokens=40, tokens_per_batch=budget)
    with torch.no_grad():
        alone = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for text in texts]
    assert np.abs(values - np.stack(alone)).max() < 1e-5
    assert np.abs(values[0] - values[1]).max() > 1e-2  # and texts do differ


def test_long_texts_lose_their_beginning_and_are_counted(folder):
    """Cap 5 leaves three words between [CLS] and [SEP]: the last three from the left, the first three from the right."""
    model = load_model(str(folder), device="cpu")
    long, last, first = "w1 w2 w3 w4 w5", "w3 w4 w5", "w1 w2 w3"
    for side, kept in (("left", last), ("right", first)):
        tokenizer = load_tokenizer(str(folder), truncation_side=side)
        values, tokens = encode(model, tokenizer, [long, kept], max_tokens=5)
        assert tokens.tolist() == [7, 5]
        assert np.allclose(values[0], values[1], atol=1e-6)


def test_fewer_layers_are_the_first_layers(folder):
    whole, cut = load_model(str(folder), device="cpu"), load_model(str(folder), layers=1, device="cpu")
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        expected = whole(ids, output_hidden_states=True).hidden_states[1]
        assert torch.allclose(cut(ids).last_hidden_state, expected, atol=1e-6)


def test_bf16_is_close_and_its_own_cache_entry(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    texts, settings = texts_of(30), {"model": str(folder), "tokens_per_batch": 256, **ENCODER}
    exact = feature_table(texts, Section(settings))
    again = feature_table(texts[::-1], Section(settings))
    rough = feature_table(texts, Section(settings | {"precision": "bf16"}))
    said = capsys.readouterr().out
    assert said.count("computing encode_texts") == 2 and said.count("cached") == 1
    assert np.array_equal(exact.rows(texts), again.rows(texts))
    error = np.linalg.norm(exact.values - rough.values) / np.linalg.norm(exact.values)
    assert 1e-4 < error < 0.05
    summary = json.loads((exact.artifact / "summary.json").read_text())
    assert summary["cut"] == (exact.tokens > 12).sum() > 0
    assert exact.share_cut(texts) == pytest.approx(np.mean([len(text.split()) + 2 > 12 for text in texts]))
    with pytest.raises(DataError, match="was not encoded"):
        exact.rows(["never seen"])


def test_stored_values_are_known_by_their_content(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    assert stored("texts", ["é", "b"]).path == stored("texts", ["é", "b"]).path
    assert stored("texts", ["b", "é"]).digest != stored("texts", ["é", "b"]).digest


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_MODELS", str(folder.parent))
    assert find_model("somebody/tiny-bert") == folder
    with pytest.raises(MissingInput, match="no such model folder"):
        load_model("./nowhere")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(DataError, match="no tokenizer") as error:
        load_tokenizer(str(bare))
    assert str(bare) in str(error.value) and "save_pretrained" in str(error.value)
    (bare / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match="no .safetensors"):
        load_model(str(bare))
    (bare / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match="cannot be loaded"):
        load_model(str(bare))
    with pytest.raises(SettingsError, match="for 3 layers"):
        load_model(str(folder), layers=3)
    with pytest.raises(SettingsError, match="unknown precision"):
        load_model(str(folder), precision="fp16")


def test_a_hub_id_out_of_reach_is_a_missing_input(monkeypatch, tmp_path):
    monkeypatch.setenv("REPRO_MODELS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingInput, match="reachable on the hub"):
        load_model("nobody/nothing-of-this-name")


def test_a_new_reward_head_is_drawn_from_the_seed(folder):
    heads = [load_model(str(folder), task="reward", device="cpu", seed=seed).classifier.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    with pytest.raises(SettingsError, match="unknown task"):
        load_model(str(folder), task="taste")


@pytest.mark.skipif(models_folder() is None, reason="no models folder: set REPRO_MODELS")
def test_the_real_encoder_reads_the_same_words_in_any_company():
    name = "sentence-transformers/all-MiniLM-L6-v2"
    if find_model(name) is None:
        pytest.skip("all-MiniLM-L6-v2 is not in the models folder")
    model, tokenizer = load_model(name, layers=3, device="cpu"), load_tokenizer(name)
    texts = ["Yes.", "I would rather not help with that. " * 3, "Bake it for 20 minutes. " * 40]
    together, tokens = encode(model, tokenizer, texts, max_tokens=64)
    for place, text in enumerate(texts):
        assert np.abs(encode(model, tokenizer, [text], max_tokens=64)[0][0] - together[place]).max() < 1e-5
    assert (tokens > 64).tolist() == [False, False, True]


def test_an_altered_input_file_is_written_again(tmp_path, monkeypatch, capsys):
    """The file's name is its digest; other bytes under it are damage, and never an input."""
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    first = stored("texts", ["a", "b"])
    first.path.write_text('["b","a"]')
    assert stored("texts", ["a", "b"]).digest == first.digest
    assert first.path.read_text() == '["a","b"]' and "damaged" in capsys.readouterr().out
