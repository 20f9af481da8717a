"""Small Llamas from nothing: a word-level tokenizer with its chat template, four sizes, and the step that saves one.

`Mia has 42 apples.` is ``Mia ▁has ▁4 2 ▁apples .``: a word carries the space before it, a digit and a mark stand alone,
so that decoding gives the exact text and sums line up by digit. Like Llama's, the tokenizer puts `<|begin|>` before a
bare text, and so does the chat template: tokenise a rendered conversation with `add_special_tokens=False`.
"""

import json
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from repro.core.artifacts import Job
from repro.core.errors import DataError, SettingsError

LONGEST = 512  # tokens a miniature model holds
NAMES = {"pad_token": "<|pad|>", "unk_token": "<|unknown|>", "bos_token": "<|begin|>", "eos_token": "<|end|>"}
SPECIAL = (*NAMES.values(), "<|user|>", "<|assistant|>")
SPACE = "▁"
PIECE = rf"{SPACE}?\p{{L}}+|{SPACE}?\d|{SPACE}?[^\s\p{{L}}\d{SPACE}]|{SPACE}|\s"
ALWAYS = set("0123456789,.?!:;|()'\"<>")  # "<" and ">": see CHAT_TEMPLATE

# A text that spells `<|end|>` must not end its turn: "<|" becomes "< |" in all that a user or a model wrote.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% set text = message['content'] | replace('<|', '< |') %}"
    "{% if message['role'] == 'user' %}<|user|>{{ text }}<|end|>"
    "{% elif message['role'] == 'assistant' %}<|assistant|>{% generation %}{{ text }}<|end|>{% endgeneration %}"
    "{% else %}{{ raise_exception('unknown role ' ~ message['role'] ~ ': use user or assistant') }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

SIZES = {  # width, layers, inner width of the perceptron; four heads; parameters as named with a vocabulary of 700
    "miniature/0.1m": (48, 2, 192),
    "miniature/0.3m": (96, 3, 144),
    "miniature/1.2m": (160, 4, 352),
    "miniature/2.5m": (224, 4, 576),
}


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer of the words in `texts`, special tokens first, then all pieces in sorted order.

    Every word seen is known after a space, and at the start of a text too if it was seen there or has a capital; digits
    and marks always are. Any other word becomes `<|unknown|>`. Raises DataError if there is no word.
    """
    core = Tokenizer(WordLevel(unk_token=NAMES["unk_token"]))
    core.normalizer = normalizers.Replace(" ", SPACE)
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    core.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    seen = {piece for text in texts for piece, _ in core.pre_tokenizer.pre_tokenize_str(text.replace(" ", SPACE))}
    if not seen:
        raise DataError("no words to make a vocabulary of", where="word_tokenizer", fix="give the world's texts")
    words = {piece.removeprefix(SPACE) for piece in seen if not piece.isspace()} - {""} | ALWAYS
    first = {word for word in words if word[0].isupper()} | ALWAYS
    pieces = seen | first | {SPACE + word for word in words} | {SPACE, "\n"}
    vocabulary = {piece: place for place, piece in enumerate([*SPECIAL, *sorted(pieces)])}
    core.model = WordLevel(vocabulary, NAMES["unk_token"])
    core.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    begin = NAMES["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, core.token_to_id(begin))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        **NAMES,
        additional_special_tokens=list(SPECIAL[len(NAMES) :]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=LONGEST,
        clean_up_tokenization_spaces=False,
    )


def random_model(name: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama of the named size with weights drawn from `seed`, fp32, input and output embeddings shared.

    Raises SettingsError for a size that is not in SIZES.
    """
    if name not in SIZES:
        raise SettingsError(f"unknown size {name!r}", where="model", fix=f"choose from {', '.join(SIZES)}")
    width, layers, inner = SIZES[name]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=LONGEST,
        initializer_range=0.7
        * width**-0.5,  # the usual 0.02 suits models ten times as wide, and learns far slower here
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.config.initializer_range = 0.02  # for a reward head that is drawn later: rewards begin near 0
    return model


def scratch(job: Job) -> None:
    """Step: `texts` (a JSON list) and a size to a `from_pretrained` folder of random weights, tokenizer and template.

    settings: name, one of SIZES. Raises SettingsError for another name, DataError if `texts` is no list of texts.
    """
    file = job.inputs["texts"].path
    texts = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError("not a list of texts", where=file, fix="write a JSON list of strings")
    tokenizer = word_tokenizer(texts)
    random_model(job.settings.name, tokenizer, job.seed or 0).save_pretrained(job.out)
    tokenizer.save_pretrained(job.out)
