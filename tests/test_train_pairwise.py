"""The preference model: where its labels stand and are read, both orders, padding, bad input, and that it learns."""

import math

import numpy as np
import pytest
import torch

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.data.schema import Pair
from repro.models.generation import encode as encode_prompts
from repro.models.scratch import CHAT_TEMPLATE, random_model, word_tokenizer
from repro.objectives.pairwise import first_preferred, preference_loss
from repro.train import pairwise
from repro.train.pairwise import TEMPLATES, PreferenceModel, conversations, judge, label_logits, label_tokens, rendered
from repro.train.sft import encode

TEXTS = ["[CONTEXT] A B [RESPONSE user assistant", "One Two < one > < two > < question > < answer > turn \n"]
TEXTS += [" ".join(["good", "bad", *(f"w{letter}" for letter in "abcdefghijkl")])]
TEXTS += [f" {word}" for text in TEXTS for word in text.split(" ")]
SETTINGS = {"pm_template": "words", "device": "cpu", "pm_learning_rate": 2e-3, "pm_epochs": 6, "pm_batch_size": 2}
SETTINGS |= {"pm_weight_decay": 0.0, "pm_optimizer": "adamw_torch", "pm_packing_block": 128, "blocks_per_forward": 2}
SETTINGS |= {"warmup_ratio": 0.03, "max_gradient_norm": 1.0, "precision": "fp32", "loss_on": "assistant"}
SETTINGS |= {"gradient_checkpointing": False, "max_tokens": 64}
ASKED = (("user", "wa wb"),)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def model(tokenizer):
    return random_model("miniature/0.1m", tokenizer, 0).eval()


def pairs_of(count, seed=0):
    """`good` beats `bad`, whatever stands beside it."""
    rng = np.random.default_rng(seed)
    said = [
        " ".join(f"w{letter}" for letter in rng.choice(list("abcdefghijkl"), rng.integers(1, 4))) for _ in range(count)
    ]
    return [Pair((("user", text),), f"{text} good", f"{text} bad", "here") for text in said]


def compared(pairs):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]


def test_the_released_words():
    template = TEMPLATES["brackets"]
    found = rendered(template, (("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")), "Because.", "No.")
    assert found == (
        "[CONTEXT] \n\n<turn> user\n Hi\n\n<turn> assistant\n Yes?\n\n<turn> user\n Why?\n\n\n "
        "[RESPONSE A] Because. [RESPONSE B] No. \n"
    )
    with pytest.raises(DataError, match="tool"):
        rendered(template, (("tool", "42"),), "a", "b")
    with pytest.raises(SettingsError, match="brackets, words"):
        pairwise.template_named("wrods")


def test_places_are_drawn_with_the_seed():
    """Half of the labels say first, another seed says otherwise, and more pairs begin with the same conversations."""
    pairs, template = pairs_of(400), TEMPLATES["words"]
    rows = list(conversations(pairs, template, 3))
    labels = [row["messages"][1]["content"] for row in rows]
    assert 160 < labels.count("One") < 240 and set(labels) == {"One", "Two"}
    assert list(conversations(pairs[:40], template, 3)) == rows[:40]
    assert list(conversations(pairs, template, 4)) != rows
    for pair, row, label in zip(pairs, rows, labels, strict=True):
        text = row["messages"][0]["content"]
        assert (text.index(pair.chosen) < text.index(pair.rejected)) == (label == "One")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_label_is_judged_where_it_was_trained(tokenizer, model, name):
    """One BOS; the prompt for judging is the trained conversation up to its label; the logits there are the model's own."""
    template, pair = TEMPLATES[name], Pair(ASKED, "wc good", "wd", "here")
    (row,) = conversations([pair], template, 0)
    (trained,) = encode(tokenizer, [row["messages"]], "assistant")
    place = next(place for place, label in enumerate(trained["labels"]) if label >= 0)
    (asked,) = encode_prompts(tokenizer, [(("user", row["messages"][0]["content"]),)])
    assert asked == trained["input_ids"][:place] and asked.count(tokenizer.bos_token_id) == 1
    assert asked[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")  # not the user's end of turn
    labels = label_tokens(tokenizer, template)
    said = template.labels.index(row["messages"][1]["content"])
    assert trained["input_ids"][place] == labels[said]
    ids = torch.tensor(trained["input_ids"])[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits[0, place - 1, list(labels)]
        end_of_user = model(input_ids=ids).logits[0, place - 2, list(labels)]
    found = label_logits(model, [asked], labels, 1000)[0]
    assert found.tolist() == pytest.approx(whole.tolist(), abs=1e-5)
    assert found.tolist() != pytest.approx(end_of_user.tolist(), abs=1e-3)


def test_a_label_has_no_space_before_it_unless_the_template_puts_one(tokenizer):
    """`A` and ` A` are two tokens; which one the assistant's turn begins with is the chat template's to say."""
    plain, spaced = (tokenizer.convert_tokens_to_ids(piece) for piece in ("A", "▁A"))
    assert plain != spaced and tokenizer.unk_token_id not in (plain, spaced)
    assert label_tokens(tokenizer, TEMPLATES["brackets"])[0] == plain
    other = word_tokenizer(TEXTS)
    other.chat_template = CHAT_TEMPLATE.replace("{{ text }}<|end|>{% endgen", " {{ text }}<|end|>{% endgen")
    assert label_tokens(other, TEMPLATES["brackets"])[0] == spaced


def test_labels_that_cannot_be_told_apart_are_named(tokenizer):
    same = TEMPLATES["words"]._replace(labels=("One", "One"))
    unknown = TEMPLATES["words"]._replace(labels=("Zebra", "One"))
    for template in (same, unknown):
        with pytest.raises(DataError, match="labels begin with"):
            label_tokens(tokenizer, template)
    other = word_tokenizer(TEXTS)
    closed = CHAT_TEMPLATE.replace("{% if add_generation_prompt %}<|assistant|>{% endif %}", "")
    other.chat_template = closed  # ignores the generation prompt: the next token would be the turn's mark, not a label
    with pytest.raises(DataError, match="labels begin with"):
        label_tokens(other, TEMPLATES["words"])
    other.chat_template = CHAT_TEMPLATE.replace("<|assistant|>{% generation", "<|pad|>{% generation")
    with pytest.raises(DataError, match="generation prompt"):
        label_tokens(other, TEMPLATES["words"])


def test_companions_and_padding_change_nothing(tokenizer, model):
    """Each pair alone, all in one batch, and with the end of turn as padding: the same probabilities to 1e-5."""
    rows = compared(pairs_of(12, seed=2)) + [(ASKED, " ".join(["wa"] * 30), "wb")]
    whole = judge(model, tokenizer, rows, TEMPLATES["words"])
    alone = torch.cat([judge(model, tokenizer, [row], TEMPLATES["words"], tokens_per_batch=1) for row in rows])
    assert torch.allclose(whole, alone, atol=1e-5)
    other = word_tokenizer(TEXTS)
    other.pad_token = other.eos_token
    assert torch.allclose(judge(model, other, rows, TEMPLATES["words"]), whole, atol=1e-5)


def test_exchanged_answers_are_one_minus_and_equal_ones_half(tokenizer, model):
    rows = compared(pairs_of(8, seed=5))
    found = judge(model, tokenizer, rows, TEMPLATES["words"])
    turned = judge(model, tokenizer, [(turns, two, one) for turns, one, two in rows], TEMPLATES["words"])
    assert torch.allclose(found + turned, torch.ones(8, dtype=torch.float64), atol=1e-9)
    assert (found != 0.5).any()
    assert judge(model, tokenizer, [*rows, (ASKED, "wa", "wa")], TEMPLATES["words"])[-1].item() == 0.5


@pytest.mark.parametrize(
    ("pair", "why"),
    [(("wa", "wa "), "equal"), (("", "wa"), "empty"), (("wa", "  "), "empty")],
)
def test_a_pair_without_a_winner_is_named_before_training(pair, why):
    pairs = [*pairs_of(2), Pair(ASKED, *pair, "here")]
    with pytest.raises(DataError, match=why) as caught:
        list(conversations(pairs, TEMPLATES["words"], 0))
    assert "pair 2" in str(caught.value)


def test_what_cannot_be_judged_is_named(tokenizer, model):
    fine = compared(pairs_of(1))[0]
    with pytest.raises(DataError, match="pair 1.*empty|empty.*pair 1|pair 1"):
        judge(model, tokenizer, [fine, (ASKED, " ", "wa")], TEMPLATES["words"])
    with pytest.raises(DataError, match="exceed the context of 512") as caught:
        judge(model, tokenizer, [fine, (ASKED, " ".join(["wa"] * 600), "wb")], TEMPLATES["words"])
    assert "pair 1" in str(caught.value)
    broken = random_model("miniature/0.1m", tokenizer, 0).eval()
    torch.nn.init.constant_(broken.model.norm.weight, math.nan)
    with pytest.raises(DataError, match="logits"):
        judge(broken, tokenizer, [fine], TEMPLATES["words"])


def test_a_visible_preference_is_learnt_from_packed_comparisons_and_found_again(
    tokenizer, model, tmp_path, monkeypatch
):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    base = tmp_path / "base"
    model.save_pretrained(base), tokenizer.save_pretrained(base)
    settings, held = Section(SETTINGS), compared(pairs_of(60, seed=1))
    call = pairwise.preference_training(pairs_of(400), settings, 0, artifacts.external(base))
    trained, untrained = (
        PreferenceModel(artifacts.run(**call), settings),
        PreferenceModel(call["inputs"]["base"], settings),
    )
    assert (trained.probabilities(held) > 0.5).mean() >= 0.95 > (untrained.probabilities(held) > 0.5).mean()
    again = pairwise.preference_training(pairs_of(400), settings, 0, artifacts.external(base))
    assert artifacts.known(**again) and artifacts.run(**again).path == trained.artifact.path
    history = trained.history
    assert history["blocks"] < history["conversations"] == 400  # several to a block
    assert len(history["loss"]) == len(history["gradient_norm"]) == len(history["learning_rate"])
    assert np.mean(history["loss"][-5:]) < history["loss"][0]


def test_next_token_training_is_the_preference_loss_of_its_label(tokenizer, model):
    """The label's cross-entropy over the vocabulary is the preference loss less log of what both labels hold together."""
    template = TEMPLATES["words"]
    (row,) = conversations(pairs_of(1), template, 0)
    (asked,) = encode_prompts(tokenizer, [(("user", row["messages"][0]["content"]),)])
    labels, said = label_tokens(tokenizer, template), template.labels.index(row["messages"][1]["content"])
    with torch.no_grad():
        logprobs = model(input_ids=torch.tensor(asked)[None]).logits[0, -1].double().log_softmax(0)
    pair = label_logits(model, [asked], labels, 1000)
    loss = preference_loss(pair, torch.tensor([said == 0])).item()
    both = logprobs[list(labels)].logsumexp(0).item()
    assert -logprobs[labels[said]].item() == pytest.approx(loss - both, abs=1e-5)
    assert first_preferred(pair)[0].item() == pytest.approx(math.exp(logprobs[labels[0]].item() - both), abs=1e-5)
