"""Sampling against transformers' own forward and generate, and against arithmetic done by hand."""

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from repro.core.errors import DataError, MissingInput, SettingsError
from repro.models import sampling as loop
from repro.models.generation import Sampling, encode, engine, generate
from repro.models.sampling import choose, sample_tokens
from repro.models.scratch import random_model, word_tokenizer

WORDS = "How many apples has Mia Reed now? She has 12 apples and buys some more. Name three red fruits please."
END = 3


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([WORDS, *WORDS.split()])


def spread(model):
    """The default weights make all tokens alike likely; spread them so that a wrong cache would show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return spread(random_model("miniature/0.1m", tokenizer, 0))


@pytest.fixture(scope="module")
def prompts():
    words = WORDS.split()
    return [(("user", " ".join(words[i % 7 : i % 7 + 1 + i % 5])),) for i in range(35)]


def ids_of(length, seed, size=60):
    return torch.randint(8, size, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


MIXED = [ids_of(length, length) for length in (5, 1, 17, 30, 2, 16)]


def full_logprobs(model, prompt, tokens):
    with torch.no_grad():
        scores = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(-1)
    return scores[range(len(prompt) - 1, len(prompt) + len(tokens) - 1), list(tokens)]


def test_greedy_is_transformers_greedy(model):
    for prompt, [sample] in zip(
        MIXED, sample_tokens(model, MIXED, Sampling(40, temperature=0), ends=[END]), strict=True
    ):
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=END)
        assert list(sample.tokens) == expected[0, len(prompt) :].tolist()


def test_logprobs_equal_a_full_forward(model):
    """Each step's log-probability, whatever temperature and nucleus drew it, over a cache that grows and is thinned."""
    found = sample_tokens(model, MIXED * 9, Sampling(90, temperature=1.3, top_p=0.95, n=2), ends=range(20, 28))
    assert len({len(sample.tokens) for samples in found for sample in samples}) > 7  # rows left at many steps
    for prompt, samples in zip(MIXED, found[: len(MIXED)], strict=True):
        for sample in samples:
            expected = full_logprobs(model, prompt, sample.tokens)
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected, rtol=0, atol=2e-5)


def test_a_samples_tokens_depend_on_nothing_but_its_prompt(model, tokenizer, prompts):
    """Order, batch size, companions and a smaller n or limit change no token; another seed, sample or prompt does."""
    sampling = Sampling(16, n=8, seed=5)
    prompts = prompts[:20]
    alike = generate(model, tokenizer, prompts, sampling)
    for size in (1, 3, 64):
        assert generate(model, tokenizer, prompts[: 6 * size], sampling, batch_size=size) == alike[: 6 * size]
    assert generate(model, tokenizer, prompts[::-1], sampling) == alike[::-1]
    fewer = generate(model, tokenizer, prompts[:9], Sampling(16, n=4, seed=5))
    assert fewer == [samples[:4] for samples in alike[:9]]
    shorter = generate(model, tokenizer, prompts[:9], Sampling(6, n=8, seed=5))
    assert [[s.tokens for s in row] for row in shorter] == [[s.tokens[:6] for s in row] for row in alike[:9]]
    assert len({sample.tokens for sample in alike[0]}) == 8
    other = generate(model, tokenizer, prompts[:1], Sampling(24, n=8, seed=6))[0]
    assert not {sample.tokens for sample in other} & {sample.tokens for sample in alike[0]}


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma", "mistral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_decoders(family, attention):
    """Learned positions, shared keys, both attention kernels; positions (50) that are no multiple of a block."""
    sizes = {"vocab_size": 60, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 50}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": END, "sliding_window": None}
    config = AutoConfig.for_model(family, **sizes)
    model = spread(AutoModelForCausalLM.from_config(config, attn_implementation=attention))
    for prompt, [sample] in zip(MIXED, sample_tokens(model, MIXED, Sampling(20)), strict=True):
        expected = full_logprobs(model, prompt, sample.tokens)
        torch.testing.assert_close(torch.tensor(sample.logprobs), expected, rtol=0, atol=2e-5)


def test_lora_and_training_mode_and_a_backward_pass_after(tokenizer):
    """An adapter samples its own tokens; dropout is off while sampling, on after; the rotary table stays usable."""
    model = spread(random_model("miniature/0.1m", tokenizer, 0))
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=0.5, init_lora_weights=False)
    adapted = get_peft_model(model, lora).train()
    [[first]], [[second]] = (sample_tokens(adapted, MIXED[:1], Sampling(20)) for _ in range(2))
    assert first == second and adapted.training
    adapted.eval()
    expected = full_logprobs(adapted, MIXED[0], first.tokens)
    torch.testing.assert_close(torch.tensor(first.logprobs), expected, rtol=0, atol=2e-5)
    adapted(torch.tensor([MIXED[0]])).logits.sum().backward()


FOUR = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()


@pytest.mark.parametrize(
    "draw, temperature, top_p, token",
    [
        (0.05, 1, 1, 0),  # cumulated .1 .5 .7 1
        (0.1000001, 1, 1, 1),
        (0.69, 1, 1, 2),
        (0.9999999, 1, 1, 3),
        (0.9999999, 0, 1, 1),
        (0.03, 0.5, 1, 0),  # squares .01 .16 .04 .09 of .30: cumulated .033 .567 .7 1
        (0.04, 0.5, 1, 1),
        (0.0, 1, 0.6, 1),  # .4 + .3 reach .6: tokens 1 and 3, cumulated 4/7 and 1
        (0.57, 1, 0.6, 1),
        (0.58, 1, 0.6, 3),
        (0.9999999, 1, 0.3, 1),  # the likeliest alone
        (0.7, 0.5, 0.8, 3),  # squares: .533 + .3 reach .8; cumulated .64 and 1
    ],
)
def test_a_draw_by_hand(draw, temperature, top_p, token):
    tokens, scores = choose(FOUR, torch.tensor([draw]), temperature, top_p)
    assert tokens.item() == token and scores.item() == pytest.approx(FOUR[0, token].item())


def test_frequencies_match_the_softmax(model):
    """First tokens of 4,000 samples: every count within 4.5 standard deviations of the softmax's."""
    count = 4000
    found = sample_tokens(model, [MIXED[0]], Sampling(1, n=count, temperature=2.0))[0]
    with torch.no_grad():
        chances = (model(torch.tensor([MIXED[0]])).logits[0, -1] / 2).double().softmax(-1).numpy()
    seen = np.bincount([sample.tokens[0] for sample in found], minlength=len(chances))
    assert (np.abs(seen - count * chances) <= 4.5 * np.sqrt(count * chances * (1 - chances)) + 1).all()
    assert (seen > 0).sum() > 5


def says(model, tokenizer, text, monkeypatch):
    """Make the sampler pick the tokens of `text`, one after another."""
    script = tokenizer(text, add_special_tokens=False)["input_ids"]
    steps = iter(range(10**6))

    def scripted(logits, draws, temperature, top_p):
        step = next(steps)
        tokens = torch.full((len(logits),), script[step % len(script)])
        return tokens, torch.full((len(logits),), -0.5)

    monkeypatch.setattr(loop, "choose", scripted)
    return script


def test_a_stop_text_ends_an_answer_and_is_no_part_of_it(model, tokenizer, prompts, monkeypatch):
    script = says(model, tokenizer, "has 12 apples and buys some more.", monkeypatch)
    [[sample]] = generate(model, tokenizer, prompts[:1], Sampling(30, stop=("12 apples", "more")))
    assert (sample.text, sample.finished) == ("has ", True)
    assert sample.tokens == tuple(script[:4]) and sample.logprob == -2.0  # "has", " 1", "2", " apples"


def test_the_end_token_is_drawn_but_not_read(model, tokenizer, prompts, monkeypatch):
    script = says(model, tokenizer, "buys some more.<|end|>", monkeypatch)
    [[sample]] = generate(model, tokenizer, prompts[:1], Sampling(30))
    assert sample.tokens == tuple(script) and sample.tokens[-1] == tokenizer.eos_token_id
    assert (sample.text, sample.finished, sample.logprob) == ("buys some more.", True, -2.5)


def test_an_endless_answer_is_cut(model, tokenizer, prompts, monkeypatch):
    says(model, tokenizer, "more", monkeypatch)
    [[sample]] = generate(model, tokenizer, prompts[:1], Sampling(30))
    assert (len(sample.tokens), sample.finished, sample.text) == (30, False, "more" * 30)


def test_the_prompt_has_one_beginning_and_an_open_answer(tokenizer):
    [ids] = encode(tokenizer, [(("user", "red apples"), ("assistant", "some"), ("user", "now?"))])
    text = "<|begin|><|user|>red apples<|end|><|assistant|>some<|end|><|user|>now?<|end|><|assistant|>"
    assert tokenizer.decode(ids) == text and ids.count(tokenizer.bos_token_id) == 1


def test_no_prompts_no_samples(model, tokenizer):
    assert generate(model, tokenizer, [], Sampling(4)) == []


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": math.nan}, {"n": 0}, {"max_new_tokens": 0}, {"top_p": 0}, {"stop": "a"}],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Sampling(**{"max_new_tokens": 4, **wrong})


def test_wrong_input_is_named(model, tokenizer):
    with pytest.raises(DataError, match=r"prompt 1: 500 tokens and 13 new ones exceed the 512.*\n.*to 12"):
        sample_tokens(model, [[8], [8] * 500], Sampling(13))
    assert sample_tokens(model, [[8] * 500], Sampling(12))
    with pytest.raises(DataError, match="prompt 0: empty"):
        sample_tokens(model, [[]], Sampling(3))
    with pytest.raises(DataError, match="prompt 0: does not end with a user's turn"):
        encode(tokenizer, [(("user", "apples"), ("assistant", "red"))])
    with pytest.raises(SettingsError, match="unknown engine 'tgi'"):
        engine("tgi", "anywhere")


def test_weights_that_are_no_numbers_are_named(tokenizer):
    broken = random_model("miniature/0.1m", tokenizer, 0).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    for temperature in (0, 1):
        with pytest.raises(DataError, match="prompt 0: a log-probability is not finite"):
            sample_tokens(broken, [[8]], Sampling(3, temperature=temperature))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, tokenizer):
    path = tmp_path_factory.mktemp("policy")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_the_engine_on_a_folder_is_generate(folder, model, tokenizer, prompts):
    sampling = Sampling(9, n=2)
    assert engine("transformers", folder, device="cpu")(prompts, sampling) == generate(
        model, tokenizer, prompts, sampling
    )


class Vllm:
    """A fake `vllm` that keeps what it is asked and answers token 9, then the end, for every sample."""

    def __init__(self):
        self.asked = []
        self.SamplingParams = lambda **given: SimpleNamespace(**given)

    def LLM(self, **given):
        self.loaded = given
        engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=40))
        return SimpleNamespace(llm_engine=engine, generate=self.generate)

    def generate(self, prompts, params):
        self.asked += zip(prompts, params, strict=True)
        made = {"text": "red", "token_ids": [9, END], "finish_reason": "stop", "cumulative_logprob": -1.5}
        return [
            SimpleNamespace(outputs=[SimpleNamespace(index=i, **made) for i in reversed(range(each.n))])
            for each in params
        ]


def test_vllm_is_asked_the_same(folder, tokenizer, prompts, monkeypatch):
    fake = Vllm()
    monkeypatch.setitem(sys.modules, "vllm", fake)
    run = engine("vllm", folder, precision="bf16")
    assert fake.loaded["dtype"] == "bfloat16" and fake.loaded["model"] == folder
    found = run(prompts[:3], Sampling(9, temperature=0.7, top_p=0.9, n=2, stop=("now",), seed=4))
    assert [len(samples) for samples in found] == [2, 2, 2]
    assert found[0][0].tokens == (9, END) and found[0][0].finished and found[0][0].logprob == -1.5
    given = [prompt["prompt_token_ids"] for prompt, _ in fake.asked]
    assert given == encode(tokenizer, prompts[:3])  # token ids: vLLM adds no second BOS
    first = vars(fake.asked[0][1])
    seeds = [params.seed for _, params in fake.asked]
    expected = {"n": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 9, "stop": ["now"], "logprobs": 0}
    assert {**first, "seed": None} == {**expected, "seed": None} and len(set(seeds)) == 3
    run(prompts[2::-1], Sampling(9, seed=4))
    assert [params.seed for _, params in fake.asked[3:]] == seeds[::-1]  # a prompt's seed is its own
    assert len(run(prompts[:1], Sampling(9, temperature=0, n=3))[0]) == 3 and fake.asked[-1][1].n == 1
    with pytest.raises(DataError, match="exceed the 40"):
        run(prompts[:1], Sampling(39))
    assert run([], Sampling(3)) == []


def test_vllm_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingInput, match="vLLM is not installed"):
        engine("vllm", folder)
