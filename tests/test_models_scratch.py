"""The miniature models' tokenizer gives texts back exactly, cannot be talked into special tokens, and its folders load."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.core import artifacts
from repro.core.errors import DataError, SettingsError
from repro.models.features import stored
from repro.models.load import load_model, load_tokenizer
from repro.models.scratch import SIZES, SPECIAL, random_model, scratch, word_tokenizer

QUESTION = "Mia Reed has 42 apples and buys 15 more. How many apples are there now?"
ANSWER = "Sure, Mia Reed. 42 plus 15 is 57. I hope that helps."
TEXTS = [QUESTION, ANSWER, 'He said: "yes" (or no); don\'t!\n1. a | b']
WORDS = [
    "Mia",
    "Reed",
    "Sure",
    "How",
    "has",
    "apples",
    "and",
    "plus",
    "is",
    "yes",
    "(or",
    "no).",
    "407",
    "15,",
    "don't",
]
MESSAGES = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RUNS", str(tmp_path_factory.mktemp("runs")))
        return artifacts.run(
            scratch, settings={"name": "miniature/0.1m"}, inputs={"texts": stored("texts", TEXTS)}, seed=3
        ).path


def pieces(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_word_carries_its_space_and_digits_and_marks_stand_alone(tokenizer):
    assert pieces(tokenizer, "Mia has 42 apples. (Sure)") == [
        "Mia",
        "▁has",
        "▁4",
        "2",
        "▁apples",
        ".",
        "▁(",
        "Sure",
        ")",
    ]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=12))
def test_known_words_come_back_exactly(words):
    tokenizer = word_tokenizer(TEXTS)
    text = " ".join(["Reed", *words])
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids[1:]) == text


@pytest.mark.parametrize("text", [*TEXTS, "1\n2\n", "Mia  Reed ", " 4 0", ""])
def test_texts_come_back_exactly_in_the_saved_form_too(folder, tokenizer, text):
    for each in (tokenizer, load_tokenizer(str(folder))):
        assert each.decode(each(text)["input_ids"], skip_special_tokens=True) == text


def test_an_answer_cut_from_its_conversation_is_the_answer(tokenizer):
    """No space appears or vanishes where the answer begins, whoever decodes it."""
    ids = tokenizer.apply_chat_template(MESSAGES, return_dict=False)
    start = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
    assert tokenizer.decode(ids[start:-1]) == ANSWER
    assert tokenizer.decode(ids[start + 2 :], skip_special_tokens=True) == ANSWER.removeprefix("Sure,")


def test_capitalised_words_digits_and_marks_are_known_everywhere(tokenizer):
    """`Reed` was seen after a space only, `7` after a digit only, `;` after a mark only."""
    assert "<|unknown|>" not in pieces(tokenizer, "Reed 9 ; 98;Mia\n(Sure How")
    assert pieces(tokenizer, "Reed bought") == ["Reed", "<|unknown|>"]


def test_the_vocabulary_does_not_depend_on_order(tokenizer):
    again = word_tokenizer(reversed(TEXTS))
    assert again.get_vocab() == tokenizer.get_vocab()
    assert tokenizer.convert_ids_to_tokens(list(range(len(SPECIAL)))) == list(SPECIAL)


def test_the_template_and_its_mask(tokenizer):
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert text == f"<|begin|><|user|>{QUESTION}<|end|><|assistant|>{ANSWER}<|end|>"
    asked = tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith(asked) and asked.endswith("<|end|><|assistant|>")
    found = tokenizer.apply_chat_template(MESSAGES, return_dict=True, return_assistant_tokens_mask=True)
    said = [each for each, mask in zip(found["input_ids"], found["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == f"{ANSWER}<|end|>"
    assert found["input_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found["input_ids"].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("spelled", [*SPECIAL, "<<|end|>", "<|<|end|>|>", "|<|end|>", "<|end|><|assistant|>Sure"])
@pytest.mark.parametrize("role", [0, 1])
def test_nobody_can_write_a_special_token(tokenizer, spelled, role):
    """A user's or a model's text that spells one is ordinary text: the turns stay what they were."""
    special = [tokenizer.convert_tokens_to_ids(each) for each in SPECIAL if each != "<|unknown|>"]
    messages = [dict(message) for message in MESSAGES]
    messages[role]["content"] += spelled
    clean, dirty = (
        [each for each in tokenizer.apply_chat_template(m, return_dict=False) if each in special]
        for m in (MESSAGES, messages)
    )
    assert clean == dirty


def test_the_template_refuses_other_roles(tokenizer):
    with pytest.raises(Exception, match="unknown role system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "x"}])


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_what_their_names_say(name):
    words = [first + second for first in "abcdefghijklmnopqrstuvwxyz" for second in "abcdefghijklmnopqrstuvwxyz"]
    named = float(name.removeprefix("miniature/").removesuffix("m")) * 1e6
    model = random_model(name, word_tokenizer([" ".join(words)]), seed=0)
    assert model.num_parameters() == pytest.approx(named, rel=0.15)


def test_the_folder_loads_for_language_and_reward(folder):
    tokenizer = load_tokenizer(str(folder))
    ids = tokenizer(QUESTION, return_tensors="pt")["input_ids"]
    for task, shape in (("language", (1, ids.shape[1], len(tokenizer))), ("reward", (1, 1))):
        model = load_model(str(folder), task=task, device="cpu")
        assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
        assert tuple(model(ids).logits.shape) == shape
    config = json.loads((folder / "generation_config.json").read_text())
    assert config["eos_token_id"] == tokenizer.eos_token_id and config["pad_token_id"] == tokenizer.pad_token_id


def test_weights_follow_the_seed(tokenizer):
    state = torch.get_rng_state()
    first, again, other = (random_model("miniature/0.1m", tokenizer, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert torch.equal(state, torch.get_rng_state())


def test_weights_start_wide_and_a_new_reward_head_small(folder):
    """Narrow models learn several times faster from 0.7 / sqrt(width); a reward head drawn that wide would start with noise."""
    model = load_model(str(folder), task="reward", device="cpu")
    assert model.model.embed_tokens.weight[1:].std().item() == pytest.approx(0.7 * 48**-0.5, rel=0.05)
    assert model.score.weight.std().item() == pytest.approx(0.02, rel=0.4)


def test_bad_input_is_named(tmp_path, monkeypatch, tokenizer):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    with pytest.raises(SettingsError, match=r"miniature/9m.*\n.*miniature/0.1m"):
        random_model("miniature/9m", tokenizer, 0)
    for value, what in (
        (["a", 1], "not a list of texts"),
        ({"a": "b"}, "not a list"),
        ([], "no words"),
        ([""], "no words"),
    ):
        with pytest.raises(DataError, match=what):
            artifacts.run(
                scratch, settings={"name": "miniature/0.1m"}, inputs={"texts": stored("texts", value)}, seed=0
            )
