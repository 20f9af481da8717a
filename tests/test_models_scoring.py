"""Prefix sharing must not change a reward: against one sequence at a time, through transformers' own forward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from repro.core.errors import DataError
from repro.models.scoring import kept_of_prompt, score, score_padded, score_texts, score_tokens

PAD, BOS, EOS = 0, 1, 2
VOCABULARY, LIMIT = 96, 64
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": LIMIT, "num_labels": 1}
SIZES |= {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}


def _spread(model):
    """The default initialisation makes rewards so alike that a wrong token would pass; spread them to about 1."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.15)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A reward model and a byte-pair tokenizer whose merges cross word boundaries, saved as the hub stores them."""
    path = tmp_path_factory.mktemp("reward_model")
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<pad>", "<s>", "</s>", "<unk>"])
    tokenizer.train_from_iterator(["what is two and two? it is four, it is four. what is it?"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(path)
    _spread(LlamaForSequenceClassification(LlamaConfig(**SIZES))).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def _alone(model, prompt, answers):
    """One by one through the model's own forward: a batch of one, no padding, so its pooling has nothing to search."""
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([[*prompt, *answer]])).logits for answer in answers]
    return torch.cat(rows).squeeze(-1)


def _same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def _tokens(length, seed):
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


lengths = st.lists(st.integers(1, 24), min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), lengths, st.integers(1, 10), st.integers(0, 10**6), st.sampled_from(["left", "right"]))
def test_rewards_equal_one_by_one(model, prompt_length, answer_lengths, batch_size, seed, side):
    """Whatever lengths (1 included), number of answers (1 included), batch size, order and padding side."""
    prompt = _tokens(prompt_length, seed)
    answers = [_tokens(length, seed + 1 + index) for index, length in enumerate(answer_lengths)]
    expected = _alone(model, prompt, answers)
    _same(score_tokens(model, prompt, answers, batch_size=batch_size), expected)
    _same(score_tokens(model, prompt, answers[::-1], batch_size=batch_size), expected.flip(0))
    _same(score_padded(model, prompt, answers, batch_size=batch_size, padding_side=side), expected)


def test_the_rewards_can_tell_tokens_apart(model):
    """The 1e-5 above means something only if one token more, less or other moves a reward by far more."""
    prompt, answer = _tokens(9, 0), _tokens(7, 1)
    changed = [answer, answer[:-1], [*answer, 5], [answer[0] ^ 1, *answer[1:]]]
    rewards = score_tokens(model, prompt, changed)
    assert (rewards[1:] - rewards[0]).abs().min() > 0.01
    assert (score_tokens(model, prompt[1:], [answer]) - rewards[0]).abs() > 0.01


def test_one_token_each(model):
    """The shortest case: a prompt of one token, answers of one token."""
    _same(score_tokens(model, [7], [[8], [9]]), _alone(model, [7], [[8], [9]]))


@pytest.mark.parametrize(
    "family, more",
    [
        ("mistral", {"sliding_window": 6}),  # keeps only a window of the prefix
        ("gemma", {"head_dim": 16}),
        ("qwen2", {}),
        ("gpt2", {}),  # positions learned, not rotary
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_decoders(family, more, attention):
    """p2 trains Gemma and Mistral reward models too; a window or learned positions must survive the shared cache."""
    config = AutoConfig.for_model(family, **SIZES, **more)
    model = _spread(AutoModelForSequenceClassification.from_config(config, attn_implementation=attention))
    prompt, answers = _tokens(17, 3), [_tokens(length, length) for length in (1, 9, 4, 20)]
    expected = _alone(model, prompt, answers)
    _same(score_tokens(model, prompt, answers, batch_size=3), expected)
    _same(score_padded(model, prompt, answers, batch_size=3, padding_side="left"), expected)


def test_lora_on_the_reward_model(model, folder):
    """An adapter that is not zero changes the rewards, and sharing still agrees with one by one."""
    adapted = AutoModelForSequenceClassification.from_pretrained(folder)
    lora = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=4)
    torch.manual_seed(2)
    adapted = get_peft_model(adapted, lora).eval()
    prompt, answers = _tokens(11, 4), [_tokens(length, length) for length in (5, 2, 8)]
    rewards = score_tokens(adapted, prompt, answers)
    _same(rewards, _alone(adapted, prompt, answers))
    assert (rewards - score_tokens(model, prompt, answers)).abs().min() > 1e-3


@pytest.mark.parametrize("pad", [EOS, None])
def test_pad_is_eos_or_absent(model, pad):
    """Trap: transformers pools before the eos when pad == eos, and refuses a batch without pad; neither touches us."""
    prompt, answers = _tokens(6, 5), [[*_tokens(4, 6), EOS], [*_tokens(9, 7), EOS]]
    expected = _alone(model, prompt, answers)
    before = model.config.pad_token_id
    try:
        model.config.pad_token_id = pad
        _same(score_tokens(model, prompt, answers), expected)
        _same(score_padded(model, prompt, answers), expected)
        if pad == EOS:  # the trap is real: their pooling reads the token before the end
            short = _alone(model, prompt, [answer[:-1] for answer in answers])
            with torch.no_grad():
                _same(model(input_ids=torch.tensor([[*prompt, *answers[0]]])).logits[0], short[:1])
            assert (short - expected).abs().min() > 0.01
    finally:
        model.config.pad_token_id = before


def test_a_long_prompt_loses_its_first_tokens(model):
    """Limit 12, prompt 10: an answer of 5 keeps the prompt's last 7 tokens, one of 2 all 10, one of 12 none."""
    prompt, answers = _tokens(10, 8), [_tokens(length, length) for length in (5, 2, 12, 5)]
    assert kept_of_prompt(10, [5, 2, 12, 5], 12) == [7, 10, 0, 7]
    expected = torch.cat(
        [_alone(model, prompt[10 - kept :], [answer]) for kept, answer in zip([7, 10, 0, 7], answers, strict=True)]
    )
    _same(score_tokens(model, prompt, answers, limit=12), expected)
    _same(score_padded(model, prompt, answers, limit=12), expected)


def test_the_models_own_limit_counts(model, tokenizer):
    """64 positions: what is too long loses its first tokens; a prompt is counted once, if any of its answers cut it."""
    long, short = "fa" * 25, "it"
    prompts, answers = ["hu" * 50, "hu" * 10, "what?"], [[long, short], [long, short], [short]]
    assert [len(tokenizer(p + a)["input_ids"]) > LIMIT for p in prompts[:2] for a in (long, short)] == [1, 1, 1, 0]
    scores = score(model, tokenizer, prompts, answers)
    assert scores.truncated == 2
    for prompt, texts, rewards in zip(prompts, answers, scores.rewards, strict=True):
        _same(rewards, _alone(model, [], [tokenizer(prompt + text)["input_ids"][-LIMIT:] for text in texts]))


@pytest.mark.parametrize("answers, named", [([[5], []], "answer 1.*empty"), ([[5], [5] * 65], "answer 1.*65 tokens")])
@pytest.mark.parametrize("way", [score_tokens, score_padded])
def test_bad_answers_are_named(model, way, answers, named):
    with pytest.raises(DataError, match=f"prompt 4, {named}"):
        way(model, [7, 8], answers, prompt_index=4)


def test_no_answers(model, tokenizer):
    with pytest.raises(DataError, match="prompt 0: no answers"):
        score_tokens(model, [7], [])
    with pytest.raises(DataError, match="2 prompts but answers to 1"):
        score(model, tokenizer, ["a", "b"], [["c"]])


def test_a_reward_that_is_not_finite_is_named(folder):
    """Token 50 has a NaN embedding; only the answer that holds it is at fault, and it is found by its own index."""
    broken = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        broken.model.embed_tokens.weight[50] = torch.nan
    with pytest.raises(DataError, match="prompt 2, answer 1: the reward is nan"):
        score_tokens(broken, [7, 8], [[9, 10, 11], [50], [12]], prompt_index=2)


def test_not_a_reward_model():
    """Two labels, or an encoder that looks both ways, cannot share a prefix; say so rather than return numbers."""
    two = LlamaForSequenceClassification(LlamaConfig(**{**SIZES, "num_labels": 2}))
    encoder = BertForSequenceClassification(BertConfig(**SIZES))
    for model in (two, encoder):
        with pytest.raises(DataError, match="one scalar head"):
            score_tokens(model, [7], [[8]])


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_score_as_whole_texts(model, tokenizer, side):
    """Each prompt + answer tokenised and scored alone, although merges cross the border; padding side is irrelevant."""
    prompts, answers = ["what is two and tw", "what"], [["o? it is four", "o", "elve"], [" is it?"]]
    parts = tokenizer(prompts[0])["input_ids"] + tokenizer(answers[0][0], add_special_tokens=False)["input_ids"]
    assert parts != tokenizer(prompts[0] + answers[0][0])["input_ids"], "no merge across the border: nothing is tested"
    tokenizer.padding_side = side
    scores = score(model, tokenizer, prompts, answers)
    for prompt, texts, rewards in zip(prompts, answers, scores.rewards, strict=True):
        _same(rewards, _alone(model, [], [tokenizer(prompt + text)["input_ids"] for text in texts]))
    assert scores.truncated == 0


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 8192])
def test_many_texts_score_as_each_alone(model, tokenizer, tokens_per_batch):
    """Order, batch and companions change nothing; a text over the limit keeps its end."""
    texts = ["what is two? it is four.", "it is", "what is it? it is two and two, it is four and it is two", "four"]
    found = score_texts(model, tokenizer, texts, limit=10, tokens_per_batch=tokens_per_batch)
    rows = [tokenizer(text)["input_ids"] for text in texts]
    assert max(map(len, rows)) > 10
    _same(found, torch.cat([_alone(model, [], [row[-10:]]) for row in rows]))
    with pytest.raises(DataError, match="text 1"):
        score_texts(model, tokenizer, ["it is", ""], add_special_tokens=False)


def test_an_empty_text_is_named_even_where_merges_shorten_the_prefix(model, tokenizer):
    with pytest.raises(DataError, match="prompt 1, answer 1: empty"):
        score(model, tokenizer, ["what", "what is two and tw"], [["?"], ["o? it is four", ""]])


def test_special_tokens_are_the_callers_choice(model, tokenizer):
    """A rendered chat template already begins with <s>; asking for special tokens again would double it."""
    rendered = score(model, tokenizer, ["<s>what"], [[" is it?"]], add_special_tokens=False)
    _same(rendered.rewards[0], score(model, tokenizer, ["what"], [[" is it?"]]).rewards[0])


def test_dropout_gradients_and_modes_are_left_as_they_were(folder):
    """Scoring inside a training loop: no dropout in the rewards, same modes after, and backward still works."""
    config = AutoConfig.from_pretrained(folder, attention_dropout=0.5)
    model = AutoModelForSequenceClassification.from_pretrained(folder, config=config)
    prompt, answers = _tokens(8, 9), [_tokens(5, 10), _tokens(3, 11)]
    expected = score_tokens(model, prompt, answers)
    model.train()
    model.score.eval()
    rewards = score_tokens(model, prompt, answers)
    assert torch.equal(rewards, expected) and not rewards.requires_grad
    assert model.training and model.model.layers[0].training and not model.score.training
    model(input_ids=torch.tensor([prompt])).logits.sum().backward()
    assert model.score.weight.grad is not None


def test_half_precision_returns_float32(model, folder):
    """bfloat16 has 8 bits of mantissa: two rewards of about 1 agree to a few hundredths, and come back as float32."""
    half = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16)
    prompt, answers = _tokens(8, 9), [_tokens(5, 10), _tokens(3, 11)]
    rewards = score_tokens(half, prompt, answers)
    assert rewards.dtype == torch.float32
    torch.testing.assert_close(rewards, score_tokens(model, prompt, answers), rtol=0.1, atol=0.1)
