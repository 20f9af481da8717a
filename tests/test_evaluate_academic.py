"""The academic benchmarks: every row scored as said, log-likelihoods equal to a hand computation, quiet and off the network."""

import json
import socket

import datasets
import numpy as np
import pytest
import torch
import yaml

from repro.core import artifacts, hub
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.settings import Section
from repro.evaluate import academic
from repro.evaluate.academic import ends_in_number, outcomes, passes_tests, read_rows, score, score_difference
from repro.models.scratch import random_model, word_tokenizer

CHOICES = ["The lion eats meat.", "The lion eats grass and hay.", "The lion sleeps.", "It eats cake, fish and rice."]
WORDS = "Mia has 1 apples and buys more. How many now? Write a program that sorts list. Program: sort | reverse"


def made(name: str, count: int) -> list[dict]:
    if name == "gsm8k":
        return [
            {"prompt": f"Mia has {n} apples and buys {n} more. How many now?", "answer": str(2 * n), "difficulty": 1}
            for n in range(count)
        ]
    if name in ("humaneval", "mbpp"):
        return [{"prompt": f"Write a program that sorts list {n}.", "tests": [[[2, 1], [1, 2]]]} for n in range(count)]
    return [
        {"question": f"What eats lion {n}?", "choices": CHOICES, "answer": n % 4, "subject": "x"} for n in range(count)
    ]


def write(folder, name, rows):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmarks")
    for name in academic.WORLD:
        write(path, name, made(name, 9))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([WORDS, *CHOICES, "What eats lion 3?"])


@pytest.fixture(scope="module")
def model(tokenizer):
    """Random weights, made large: its answers differ from prompt to prompt, so that a wrong padding shows."""
    model = random_model("miniature/0.1m", tokenizer, seed=0).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(5)
    return model


def of(model, tokenizer, folder, name, **options):
    return outcomes(model, tokenizer, folder, tasks=[name], **options)[name]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Sure. 42 plus 15 is 57. I hope that helps.", True),
        ("It is 57, not 58.", False),
        ("57.0", True),
        ("5 7", False),
        ("no number", False),
        ("", False),
        ("9" * 5000, False),
    ],
)
def test_the_last_number_counts(text, right):
    assert ends_in_number({"answer": "57"}, [text]) == {"acc": float(right)}


def test_numbers_with_thousands_and_signs():
    assert ends_in_number({"answer": "1200"}, ["That makes 1,200."]) == {"acc": 1.0}
    assert ends_in_number({"answer": "3"}, ["One of 1,2,3."]) == {"acc": 1.0}
    assert ends_in_number({"answer": "-4"}, ["It is -4."]) == {"acc": 1.0}


def test_a_program_is_interpreted_and_must_meet_every_test():
    doc = {"tests": [[[3, 1, 2], [1, 2]], [[9, 8], [8, 9]]]}
    assert passes_tests(doc, ["Gladly. Program: sort | first 2. Have a nice day."]) == {"acc": 1.0}
    for bad in (
        "Program: first 2.",
        "sort | first 2",
        "",
        "Program: sort | __import__('os')",
        "Program: sort | first x.",
    ):
        assert passes_tests(doc, [bad]) == {"acc": 0.0}


def test_all_six_without_network_without_words_and_the_same_twice(
    model, tokenizer, folder, monkeypatch, capfd, tmp_path
):
    """Any name look-up or connection fails the test; nothing may appear in the home folder."""
    asked = []

    def refuse(*request, **_):
        asked.append(request)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("REPRO_BATCH", "1")
    few = {"gsm8k": 2, "mmlu": 1, "arc": 3}
    first = outcomes(model, tokenizer, folder, shots=few, limit=5)
    assert first == outcomes(model, tokenizer, folder, shots=few, limit=5)
    assert asked == [] and list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert {name: len(rows) for name, rows in first.items()} == dict.fromkeys(academic.WORLD, 5)
    assert all(row["acc"] in (0.0, 1.0) for rows in first.values() for row in rows)
    assert {"item", "acc", "acc_norm", "answer", "logprobs"} == set(first["mmlu"][0])


def test_one_bar_at_a_time_outside_a_batch(model, tokenizer, folder, monkeypatch, capfd):
    monkeypatch.delenv("REPRO_BATCH", raising=False)
    monkeypatch.setattr("repro.core.progress.PATIENCE", -1.0)  # two items take no second
    of(model, tokenizer, folder, "truthfulqa", limit=2)
    out, err = capfd.readouterr()
    assert out == "" and "log-likelihoods" in err
    assert "Running" not in err and "Tokenizing" not in err and "WARNING" not in err


def by_hand(model, tokenizer, turns):
    """Log-likelihood of the last turn's text, and its letters, from our own rendering: ends before <|end|>."""
    prompt = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(turns)["input_ids"][:-1]
    assert whole[: len(prompt)] == prompt and whole.count(tokenizer.bos_token_id) == 1
    with torch.no_grad():
        logs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(logs[place - 1, whole[place]].item() for place in range(len(prompt), len(whole)))


def turn(role, text):
    return {"role": role, "content": text}


def test_a_choice_has_the_log_likelihood_of_our_own_rendering(model, tokenizer, folder):
    """acc takes the likeliest choice, acc_norm the likeliest by character; the shot is an earlier turn."""
    for number, row in enumerate(of(model, tokenizer, folder, "truthfulqa")):
        question = turn("user", f"What eats lion {number}?")
        hand = [by_hand(model, tokenizer, [question, turn("assistant", choice)]) for choice in CHOICES]
        assert row["logprobs"] == pytest.approx(hand, abs=1e-4)
        assert row["answer"] == CHOICES[int(np.argmax(hand))]
        assert row["acc"] == float(np.argmax(hand) == number % 4)
        assert row["acc_norm"] == float(
            np.argmax([h / len(c) for h, c in zip(hand, CHOICES, strict=True)]) == number % 4
        )


def test_a_shot_is_another_row_as_an_earlier_turn(model, tokenizer, tmp_path):
    """With two rows, the one shot of each can only be the other."""
    write(tmp_path, "mmlu", made("mmlu", 2))
    rows = of(model, tokenizer, tmp_path, "mmlu", shots={"mmlu": 1})
    for number, row in enumerate(rows):
        other = 1 - number
        shot = [turn("user", f"What eats lion {other}?"), turn("assistant", CHOICES[other])]
        question = turn("user", f"What eats lion {number}?")
        hand = [by_hand(model, tokenizer, [*shot, question, turn("assistant", choice)]) for choice in CHOICES]
        assert row["logprobs"] == pytest.approx(hand, abs=1e-4)


def test_the_beginning_of_text_is_there_once_and_an_answer_is_greedy(model, tokenizer, folder, monkeypatch):
    """Padding on the left may not change an answer: each equals generating from its prompt alone."""
    seen, forward = [], model.forward

    def watch(input_ids=None, **options):
        seen.append(input_ids)
        return forward(input_ids=input_ids, **options)

    monkeypatch.setattr(model, "forward", watch)
    write(folder, "humaneval", [{**row, "prompt": row["prompt"] + " Mia has apples." * (n % 3)}
                                for n, row in enumerate(made("humaneval", 9))])  # fmt: skip
    rows = of(model, tokenizer, folder, "humaneval", limit=3)
    of(model, tokenizer, folder, "arc", shots={"arc": 2}, limit=3)
    monkeypatch.undo()
    assert len({row["answer"] for row in rows}) == 3
    for batch in (ids for ids in seen if ids.shape[1] > 1):
        assert ((batch == tokenizer.bos_token_id).sum(1) == 1).all()
    for number, row in enumerate(rows):
        prompt = f"Write a program that sorts list {number}." + " Mia has apples." * (number % 3)
        ids = tokenizer.apply_chat_template([turn("user", prompt)], add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=128, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        assert row["answer"] == tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("name", ["gsm8k", "arc"])
def test_batch_size_and_padding_side_change_nothing(model, tokenizer, folder, name):
    def run(batch_size, side):
        tokenizer.padding_side = side
        rows = of(model, tokenizer, folder, name, shots={name: 2}, batch_size=batch_size, limit=6)
        return [{key: value for key, value in row.items() if key != "logprobs"} for row in rows], rows

    first, whole = run(1, "right")
    for batch_size, side in ((4, "right"), (32, "left")):
        other, rows = run(batch_size, side)
        assert other == first
        for one, two in zip(whole, rows, strict=True):
            assert two.get("logprobs", []) == pytest.approx(one.get("logprobs", []), abs=1e-4)


def test_the_seed_draws_the_shots_and_limit_takes_the_first_rows(model, tokenizer, folder):
    def logs(seed, **options):
        return [
            row["logprobs"] for row in of(model, tokenizer, folder, "mmlu", shots={"mmlu": 2}, seed=seed, **options)
        ]

    assert logs(0) != logs(1)
    assert np.allclose(logs(0)[:4], logs(0, limit=4), atol=1e-4)


BAD = [
    ("gsm8k", {"prompt": "x"}, "no field 'answer'"),
    ("gsm8k", {"prompt": "x", "answer": 57}, "'answer' is 57"),
    ("gsm8k", {"prompt": " ", "answer": "57"}, "'prompt'"),
    ("arc", {"question": "x", "choices": ["a"], "answer": 0}, "'choices'"),
    ("arc", {"question": "x", "choices": ["a", "b"], "answer": 2}, "'answer' is 2 and there are 2"),
    ("arc", {"question": "x", "choices": ["a", "b"], "answer": True}, "'answer' is true"),
    ("mbpp", {"prompt": "x", "tests": []}, "'tests'"),
    ("mbpp", {"prompt": "x", "tests": [[[1], ["1"]]]}, "'tests'"),
    ("mbpp", [1], "no field 'prompt'"),
]


@pytest.mark.parametrize(("name", "row", "says"), BAD)
def test_a_row_that_cannot_be_used_is_named(tmp_path, name, row, says):
    write(tmp_path, name, [made(name, 1)[0], row])
    with pytest.raises(DataError, match=says) as raised:
        read_rows(str(tmp_path / f"{name}.jsonl"))
    assert str(raised.value.where).endswith(f"{name}.jsonl, row 2") and raised.value.fix


def test_a_missing_file_a_broken_line_and_a_lost_field_of_a_task(model, tokenizer, tmp_path):
    with pytest.raises(MissingInput):
        of(model, tokenizer, tmp_path, "mbpp")
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(made("mbpp", 1)[0]) + "\n{\n")
    with pytest.raises(DataError, match="mbpp.jsonl, row 2"):
        of(model, tokenizer, tmp_path, "mbpp")


def test_every_task_is_whole_versioned_and_takes_the_papers_shots():
    """p2.table6: GSM-8K 8, MMLU 5, HumanEval 0, TruthfulQA 0, ARC 25, MBPP 0."""
    from lm_eval.tasks import TaskManager

    index = TaskManager(include_path=academic.TASKS, include_defaults=False).task_index
    assert set(index) == {f"world_{name}" for name in academic.WORLD}
    shots = {name.removeprefix("world_"): entry.cfg["num_fewshot"] for name, entry in index.items()}
    assert shots == {"gsm8k": 8, "mmlu": 5, "humaneval": 0, "truthfulqa": 0, "arc": 25, "mbpp": 0}
    assert {entry.cfg["metadata"]["version"] for entry in index.values()} == {1.0}
    assert "academic" in (academic.TASKS / "base.yaml").read_text()
    assert yaml.safe_load((academic.TASKS / "arc.yaml").read_text())["include"] == "choice.yaml"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tasks": ["gsm9k"]}, "unknown task 'gsm9k'"),
        ({"tasks": []}, "tasks"),
        ({"tasks": ["arc"], "shots": {"arc": 9}}, "9 shots for arc from 9 rows"),
        ({"tasks": ["arc"], "shots": {"arc": -1}}, "-1 shots"),
        ({"tasks": ["arc"], "shots": {"mmlu": 1}}, "mmlu"),
        ({"tasks": ["mbpp"], "shots": {"mbpp": 1}}, "1 shots for mbpp"),
        ({"tasks": ["arc"], "limit": 0}, "limit 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, tokenizer, folder, options, says):
    with pytest.raises(SettingsError, match=says):
        outcomes(model, tokenizer, folder, **options)


@pytest.mark.parametrize("name", ["arc", "gsm8k"])
def test_a_request_longer_than_the_model_is_refused_not_cut(model, tokenizer, tmp_path, name):
    rows = made(name, 9)
    for row in rows:
        row["question" if name == "arc" else "prompt"] += " apples" * 60
    write(tmp_path, name, rows)
    with pytest.raises(SettingsError, match="room for (512|384)"):
        of(model, tokenizer, tmp_path, name, shots={name: 8})


def test_no_template_no_evaluation(model, folder):
    plain = word_tokenizer([WORDS])
    plain.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        outcomes(model, plain, folder)


def test_real_tasks_need_the_hub_and_code_is_never_run(model, tokenizer, monkeypatch):
    monkeypatch.setattr(hub, "reachable", lambda: False)
    index = type("Index", (), {"all_tasks": ["gsm8k", "mmlu"]})
    monkeypatch.setattr(academic, "TaskManager", index)  # reading its 13,000 real tasks takes 7 s
    with pytest.raises(MissingInput, match="mmlu"):
        of(model, tokenizer, None, "mmlu")
    for name in ("humaneval", "mbpp", "humaneval_instruct", "mbpp_plus"):
        with pytest.raises(SettingsError, match="no sandbox"):
            of(model, tokenizer, None, name)
    with pytest.raises(SettingsError, match="no task 'gsm9k'"):
        of(model, tokenizer, None, "gsm9k")


def test_scores_and_paired_differences_by_hand():
    def rows(*accs):
        return [{"item": str(n), "acc": acc} for n, acc in enumerate(accs)]

    ours, theirs = rows(1.0, 1.0, 0.0, 1.0), rows(1.0, 0.0, 0.0, 0.0)
    assert score(ours).value == 75.0 and score(ours).n == 4
    assert score_difference(ours, theirs).value == 50.0
    assert score_difference(ours, ours) == type(score(ours))(0.0, 0.0, 0.0, 4)
    with pytest.raises(DataError, match="different items"):
        score_difference(ours, theirs[::-1])


def test_the_step_writes_what_the_function_gives(model, tokenizer, folder, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    settings = Section({"tasks": ["truthfulqa"], "shots": {}, "limit": 4, "batch_size": 8})
    inputs = {"model": artifacts.external(tmp_path / "model"), "data": artifacts.external(folder)}
    inputs["tasks"] = artifacts.external(academic.TASKS)
    academic.academic(artifacts.Job(tmp_path, tmp_path, settings, inputs, 0))
    wanted = outcomes(model, tokenizer, folder, tasks=["truthfulqa"], limit=4, batch_size=8)
    assert json.loads((tmp_path / "outcomes.json").read_text()) == wanted
