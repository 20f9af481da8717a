"""Log-probabilities under a tree mask against each conversation alone, unshared and unpadded, and against a count by hand."""

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from repro.core import artifacts
from repro.core.errors import DataError
from repro.core.settings import Section
from repro.models.generation import Sampling, encode, generate
from repro.models.logprobs import answer_logprobs, encode_answers, logprobs_of, read_logprobs
from repro.models.scratch import random_model, word_tokenizer

WORDS = "How many apples has Mia Reed now? She has 12 apples and buys some more. Name three red fruits please."
END = 3


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([WORDS, *WORDS.split()])


def spread(model):
    """The default weights make all tokens alike likely; spread them so that a wrong mask or position would show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights.normal_(std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return spread(random_model("miniature/0.1m", tokenizer, 0))


def of_family(family, tokenizer, attention="sdpa"):
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 90, "head_dim": 16}
    sizes |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": END, "sliding_window": None}
    if family == "gemma2":
        sizes |= {"final_logit_softcapping": 2.0, "sliding_window": 90}
    config = AutoConfig.for_model(family, **sizes)
    return spread(AutoModelForCausalLM.from_config(config, attn_implementation=attention))


def ragged(prompts, most, seed=0):
    """Prompts of one to three turns and 1 to `most` answers each, all of different lengths."""
    rng, words = np.random.default_rng(seed), WORDS.split()

    def text():
        return " ".join(rng.choice(words, rng.integers(1, 15)))

    asked = [
        (("user", text()), ("assistant", text()), ("user", text())) if rng.random() < 0.3 else (("user", text()),)
        for _ in range(prompts)
    ]
    return asked, [[text() for _ in range(rng.integers(1, most + 1))] for _ in asked]


def alone(model, tokenizer, turns, answer, cut=0):
    """The plain way: one whole conversation, the log-probabilities of what stands behind the prompt, summed."""
    chat = [{"role": role, "content": text} for role, text in turns]
    start = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": answer}], tokenize=True)["input_ids"]
    assert whole[: len(start)] == start
    ids = torch.tensor(whole[cut:])
    scores = model(ids[None]).logits[0].log_softmax(-1)
    taken = range(len(start) - cut, len(ids))
    return scores[[place - 1 for place in taken], ids[len(start) - cut :]].sum()


def assert_same(found, model, tokenizer, prompts, answers, atol):
    for sums, turns, texts in zip(found, prompts, answers, strict=True):
        expected = torch.stack([alone(model, tokenizer, turns, text) for text in texts])
        torch.testing.assert_close(sums, expected.double(), rtol=1e-7, atol=atol)


@pytest.mark.parametrize(("count", "most", "batch_size"), [(1, 1, 1), (7, 2, 3), (9, 8, 4), (5, 3, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_each_alone(model, tokenizer, count, most, batch_size, dtype):
    model, (prompts, answers) = copy.deepcopy(model).to(dtype), ragged(count, most, seed=count)
    with torch.no_grad():
        found = answer_logprobs(model, tokenizer, prompts, answers, limit=512, batch_size=batch_size)
        assert_same(found, model, tokenizer, prompts, answers, 1e-5 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize(("family", "close"), [("llama", 1e-5), ("gpt2", 1e-11)])
def test_gradients_equal_each_alone(tokenizer, family, close):
    """Every weight's gradient of a sum in which each answer has its own factor; a Llama's norms compute in float32."""
    model, (prompts, answers) = of_family(family, tokenizer).double(), ragged(6, 4)
    factors = [torch.linspace(-1, 2, len(texts), dtype=torch.float64) for texts in answers]
    found = answer_logprobs(model, tokenizer, prompts, answers, limit=90, batch_size=4)
    sum((factor * sums).sum() for factor, sums in zip(factors, found, strict=True)).backward()
    shared = [weights.grad.clone() for weights in model.parameters()]
    model.zero_grad()
    for turns, texts, row in zip(prompts, answers, factors, strict=True):
        for text, factor in zip(texts, row, strict=True):
            (factor * alone(model, tokenizer, turns, text)).backward()
    for one, weights in zip(shared, model.parameters(), strict=True):
        torch.testing.assert_close(one, weights.grad, rtol=0, atol=close * max(1, weights.grad.abs().max().item()))
    assert max(weights.abs().max() for weights in shared) > 0.1


@pytest.mark.parametrize("family", ["gpt2", "qwen2", "gemma", "gemma2", "mistral"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_other_decoders(tokenizer, family, attention):
    """Learned positions, shared keys, a soft cap behind the output layer, both attention kernels."""
    model, (prompts, answers) = of_family(family, tokenizer, attention), ragged(5, 4)
    with torch.no_grad():
        found = answer_logprobs(model, tokenizer, prompts, answers, limit=90, batch_size=3)
        assert_same(found, model, tokenizer, prompts, answers, 2e-5)


def test_a_lora_and_its_gradients(model, tokenizer):
    model = get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1)
    prompts, answers = ragged(3, 3)
    found = answer_logprobs(model, tokenizer, prompts, answers, limit=512)
    assert_same([each.detach() for each in found], model, tokenizer, prompts, answers, 1e-5)
    torch.cat(found).sum().backward()
    assert all(w.grad.abs().max() > 0 for w in model.parameters() if w.requires_grad)


def test_which_tokens_count_by_hand(model, tokenizer):
    """`Mia has 12` is four tokens and its end the fifth; the prompt is begin, user, one word, end, assistant."""
    [[tree]] = encode_answers(model, tokenizer, [(("user", "Name"),)], [["Mia has 12"]], limit=99)
    assert tokenizer.convert_ids_to_tokens(tree.prompt) == ["<|begin|>", "<|user|>", "Name", "<|end|>", "<|assistant|>"]
    assert tokenizer.convert_ids_to_tokens(tree.answers[0]) == ["Mia", "▁has", "▁1", "2", "<|end|>"]
    ids = torch.tensor([[*tree.prompt.tolist(), *tree.answers[0].tolist()]])
    with torch.no_grad():
        [[found]] = answer_logprobs(model, tokenizer, [(("user", "Name"),)], [["Mia has 12"]], limit=99)
        scores = model(ids).logits[0].log_softmax(-1)
    steps = [scores[place - 1, ids[0, place]].item() for place in range(5, 10)]
    assert found.item() == pytest.approx(sum(steps), abs=1e-5)
    assert abs(steps[-1]) > 0.1  # so that an end left out would show


def test_a_sample_has_the_logprob_that_it_was_drawn_with(model, tokenizer):
    """Of answers that the tokenizer writes as the model drew them: text, end token and log-probability agree."""
    prompts, _ = ragged(30, 1)
    drawn = generate(model, tokenizer, prompts, Sampling(12, n=16))
    answers = [[each.text for each in row] for row in drawn]
    encoded = encode_answers(model, tokenizer, prompts, answers, limit=512)
    with torch.no_grad():
        found = answer_logprobs(model, tokenizer, prompts, answers, limit=512)
    agreed = 0
    for row, trees, sums in zip(drawn, encoded, found, strict=True):
        for place, (sample, total) in enumerate(zip(row, sums, strict=True)):
            if sample.finished and tuple(trees[0].answers[place].tolist()) == sample.tokens:
                assert total.item() == pytest.approx(sample.logprob, abs=2e-5)
                agreed += 1
    assert agreed > 5


def test_what_a_template_writes_after_the_end_is_no_part_of_an_answer(model, tokenizer):
    """Qwen's and Gemma's templates end a turn with a newline that no model draws."""
    other = copy.deepcopy(tokenizer)
    other.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|>\n")
    [[tree]] = encode_answers(model, other, [(("user", "Name"),)], [["Mia has"]], limit=99)
    assert other.convert_ids_to_tokens(tree.answers[0]) == ["Mia", "▁has", "<|end|>"]


def byte_pairs():
    """A tokenizer that merges two newlines, as GPT-2's and its heirs do, behind a template that ends with one."""
    letters = {letter: place for place, letter in enumerate(["<e>", "Ċ", "ĊĊ", "a", "b", ":"])}
    core = Tokenizer(models.BPE(letters, [("Ċ", "Ċ")]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    found = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<e>", model_max_length=64)
    found.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}a:{{ m.content }}<e>{% else %}b:\n{{ m.content }}<e>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}b:\n{% endif %}"
    )
    return found


def test_a_merge_across_the_border_leaves_the_prompts_tokens(model):
    other = byte_pairs()
    prompt = [(("user", "ab"),)]
    [[tree]] = encode_answers(model, other, prompt, [["a", "\na"]], limit=99)
    assert tree.prompt.tolist() == encode(other, prompt)[0]
    assert [other.convert_ids_to_tokens(ids) for ids in tree.answers] == [["a", "<e>"], ["Ċ", "a", "<e>"]]
    other.chat_template = other.chat_template.replace("a:", "{{ 'ab' if messages | length > 1 }}a:")
    with pytest.raises(DataError, match="changes an answered prompt"):
        encode_answers(model, other, prompt, [["a"]], limit=99)


def test_a_long_prompt_loses_its_first_tokens(model, tokenizer):
    """Each answer as alone behind what it leaves of the prompt, whatever stands beside it: two trees here."""
    turns, answers = (
        (("user", "How many apples has Mia Reed now?"),),
        ["Mia", "She has some more apples please", "Reed"],
    )
    [trees] = encode_answers(model, tokenizer, [turns], [answers], limit=12)
    assert sorted(tree.places for tree in trees) == [(0, 2), (1,)]
    whole = len(encode(tokenizer, [turns])[0])
    with torch.no_grad():
        [found] = answer_logprobs(model, tokenizer, [turns], [answers], limit=12)
        cuts = [whole + len(tree.answers[0]) - 12 for place in range(3) for tree in trees if place in tree.places]
        expected = [alone(model, tokenizer, turns, text, cut=cut) for text, cut in zip(answers, cuts, strict=True)]
    assert min(cuts) > 0 and len(set(cuts)) == 2
    torch.testing.assert_close(found, torch.stack(expected).double(), rtol=0, atol=1e-5)


def test_an_answer_that_fills_the_limit_is_named(model, tokenizer):
    prompts, answers = [(("user", "Name"),), (("user", "How many"),)], [["Mia"], ["Mia", "has " * 9, "some " * 20]]
    with pytest.raises(DataError, match=r"prompt 1, answer 1, 'How many'.*: 2 answers fill the limit of 10 tokens"):
        answer_logprobs(model, tokenizer, prompts, answers, limit=10)
    with pytest.raises(DataError, match="limit of 512"):  # the model's own, whatever was asked
        answer_logprobs(model, tokenizer, prompts[:1], [["has " * 600]], limit=4096)


def test_bad_input_is_named(model, tokenizer):
    with pytest.raises(DataError, match="prompt 1: no answers"):
        answer_logprobs(model, tokenizer, [(("user", "a"),)] * 2, [["b"], []], limit=9)
    with pytest.raises(DataError, match="1 prompts but answers to 2"):
        answer_logprobs(model, tokenizer, [(("user", "a"),)], [["b"], ["c"]], limit=9)
    broken = copy.deepcopy(model)
    broken.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(DataError, match="prompt 0: a log-probability is not finite"):
        answer_logprobs(broken, tokenizer, [(("user", "a"),)], [["b"]], limit=9)
    windowed = copy.deepcopy(model)
    windowed.config.sliding_window = 8
    with pytest.raises(DataError, match="window of 8"):
        answer_logprobs(windowed, tokenizer, [(("user", "How many apples has Mia"),)], [["some more"]], limit=99)


def test_the_output_layer_reads_everything_again(model, tokenizer):
    """After a call, and after one that fails: a hook left behind would choose places in the next forward."""
    ids = torch.arange(8, 20)[None]
    with torch.no_grad():
        before = model(ids).logits
        answer_logprobs(model, tokenizer, *ragged(3, 3), limit=99)
        assert torch.equal(model(ids).logits, before)


def test_the_step_is_found_again(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    prompts, answers = ragged(20, 3)
    settings = Section({"max_tokens": 512, "precision": "fp32", "device": "cpu", "epochs": 3})
    call = logprobs_of(artifacts.external(tmp_path / "policy"), prompts, answers, settings)
    made = artifacts.run(**call)
    assert artifacts.known(**call) and "epochs" not in call["settings"]
    with torch.no_grad():
        assert_same(map(torch.tensor, read_logprobs(made)), model, tokenizer, prompts, answers, 1e-5)
