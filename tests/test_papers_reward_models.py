"""The reward-model study: no test prompt is trained on, and heads and whole models go through the same lines."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from repro.core import settings
from repro.data import Pair
from repro.papers import reward_models
from repro.papers.reward_models import (
    ALL_HH,
    BEYOND,
    HARMLESS,
    HELPFUL,
    OFF,
    OFF_SAFE,
    OTHER_SET,
    OWN_SET,
    PKU,
    SAFETY,
    SHUFFLED,
    TESTS,
)

WORDS = ["good", "bad", "user", "assistant", ":", *(f"w{k}" for k in range(40))]


def pairs(name, count=8):
    """To each of `count` prompts one pair, the chosen answer with the word good, the rejected one with bad."""

    def prompt(k):
        return (("user", f"w{k} w{(k * 7) % 40} {name.replace(' ', '')}"),)

    return [Pair(prompt(k), f"w{k} good", f"w{k} bad", name) for k in range(count)]


@pytest.fixture
def text():
    return reward_models.RealText({name: pairs(name) for name in (*TESTS, BEYOND, SAFETY)}, None, {})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A Llama of two layers in a folder, and settings that train all of it in a second."""
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    inner = Tokenizer(
        models.WordLevel({word: k for k, word in enumerate(["<unk>", "<pad>", *WORDS])}, unk_token="<unk>")
    )
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", model_max_length=64
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, pad_token_id=1, num_labels=1,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "toy")
    tokenizer.save_pretrained(tmp_path / "toy")
    changes = {"model": str(tmp_path / "toy"), "learning_rate": 3.0e-3, "batch_size": 8, "epochs": 8, "max_tokens": 32}
    changes |= {"precision": "fp32", "device": "cpu", "folds": 2, "curve": [2], "weight_decay": 0.0}
    return settings.load("paper", changes, "p2_02_reward_models").section("p2_02_reward_models")


def test_the_papers_way_trains_the_whole_model_through_the_same_study(text, toy):
    """`good` against `bad` is learnt from any set and holds on every other; shuffled labels teach less."""
    found = reward_models.accuracies(text, toy, [0])
    assert set(found.outcomes) == {OWN_SET, OTHER_SET, ALL_HH, OFF, OFF_SAFE, SHUFFLED}
    assert set(found.outcomes[OWN_SET]) == {HELPFUL, HARMLESS} and set(found.outcomes[ALL_HH]) == set(TESTS)
    assert all(found.interval(OFF, test).value == 100 for test in TESTS)
    assert found.interval(SHUFFLED, HELPFUL).value < 100
    assert len(reward_models.off_distribution(text, toy, 0).history.loss) == 8


class Spy:
    """A reward model that remembers which prompts it was trained on, and whom it was asked to judge."""

    def __init__(self, training):
        self.training = {pair.prompt_id for pair in training}
        self.judged = []

    def score(self, prompts, answers, encoded):
        self.judged.append({reward_models.Pair(turns, "a", "b", "").prompt_id for turns in prompts})
        return torch.zeros(len(answers)).numpy()


def test_no_model_judges_a_prompt_that_it_was_trained_on(text, toy, monkeypatch):
    spies = []

    def trained(training, encoded, section, seed):
        spies.append(Spy(training))
        return spies[-1]

    monkeypatch.setattr(reward_models, "trained", trained)
    reward_models.outcomes(text, toy, 1)
    reward_models.learning_curve(text, toy, [1])
    assert len(spies) > 8
    for spy in spies:
        assert spy.judged and all(not spy.training & judged for judged in spy.judged)


def test_an_even_mixture_has_as_many_helpful_as_safety_pairs(text, toy, monkeypatch):
    text.pairs[BEYOND] = pairs(BEYOND, 20)
    seen = []
    monkeypatch.setattr(
        reward_models, "trained", lambda training, *_: seen.append([p.source for p in training]) or Spy(training)
    )
    reward_models.outcomes(text, toy, 0)
    assert any(sources.count(BEYOND) == sources.count(SAFETY) == 8 for sources in seen)
    assert PKU not in {source for sources in seen for source in sources}


def test_every_seed_has_the_same_sizes_in_the_learning_curve(text, toy, monkeypatch):
    """Folds of prompts with several pairs differ in size; a curve with a point per seed would compare nothing."""
    for name in (HELPFUL, HARMLESS):
        text.pairs[name] = [pair for k, pair in enumerate(pairs(name, 30)) for _ in range(1 + k % 3)]
    monkeypatch.setattr(reward_models, "trained", lambda training, *_: Spy(training))
    curve = reward_models.learning_curve(text, toy, [0, 1, 2])
    assert [(row.row, row.column) for row in curve] == [
        (name, size) for name in (HELPFUL, HARMLESS) for size in ("2", "20")
    ]
    assert {row.seed for row in curve} == {"0-2"}
