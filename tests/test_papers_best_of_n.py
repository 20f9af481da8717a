"""Best-of-n on recorded judgements: each answer keeps its own prompt's judgement, and chances by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from repro.papers import best_of_n
from repro.papers.length_bias import AnswerPool


def pool(indices):
    texts = [["short", "a longer answer"] for _ in indices]
    prompts = [(("user", f"prompt {index}"),) for index in indices]
    return AnswerPool(["m1", "m2"], prompts, indices, {}, texts, None, frozenset())


def test_a_prompt_that_is_missing_shifts_nothing(monkeypatch, tmp_path):
    """Instruction 1 was set aside: the judgement of instruction 2 must stay with instruction 2's answers."""
    rows = [
        SimpleNamespace(index=index, model=model, preference=1 + index / 10 + place / 100)
        for index in (0, 1, 2)
        for place, model in enumerate(("m1", "m2"))
    ]
    adapter = SimpleNamespace(
        NAME="alpaca_eval", ATTACKS=(), annotated_models=lambda folder, leave_out: ("m1", "m2"),
        annotations=lambda folder, models: SimpleNamespace(rows=rows),
    )  # fmt: skip
    monkeypatch.setattr(best_of_n, "alpaca_eval", adapter)
    monkeypatch.setattr(best_of_n.inputs, "required", lambda name: SimpleNamespace(path=tmp_path))
    judged = best_of_n.judged_pool(pool([0, 2]))
    assert judged.preference == pytest.approx(np.array([[0, 1], [20, 21]]))


def test_the_favourite_of_one_prompt():
    value = np.array([[0.0, 10.0, 20.0]])
    assert best_of_n._favourite(["a", "b", "c"], value) == ("c", 1.0)
