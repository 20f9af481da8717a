"""UGDA before the judge: shares of answer pairs by hand, the order of dimensions, what three benchmarks are called."""

from types import SimpleNamespace

import numpy as np
import pytest

from repro.core.errors import SettingsError
from repro.core.settings import load
from repro.papers import ugda_judged
from repro.papers.chat_benchmarks import Scores
from repro.papers.ugda_judged import LOSSES, TIES, WINS, Benchmarks, Judged
from repro.papers.ugda_prompts import test_prompts as prompts_of
from repro.world.annotators import Judge

SETTINGS = load("smoke").section("p3_03_ugda")


def judged(**levels):
    """One seed, levels (prompts, answers)."""
    return Judged({name: np.array([each]) for name, each in levels.items()}, (0,))


class TestTwoByTwo:
    def test_every_answer_meets_every_other(self):
        """4 beats 3 and 2, 2 loses to 3 and ties with 2; on the second prompt 5 beats both."""
        found = judged(ours=[[4, 2], [5, 5]], theirs=[[3, 2], [1, 4]]).shares("ours", "theirs")
        assert {name: each.tolist() for name, each in found.items()} == {
            WINS: [[50, 100]],
            TIES: [[25, 0]],
            LOSSES: [[25, 0]],
        }

    def test_the_other_way_round_wins_are_losses(self):
        rng = np.random.default_rng(0)
        both = Judged({name: rng.integers(1, 6, (2, 30, 4)) for name in "ab"}, (0, 1))
        there, back = both.shares("a", "b"), both.shares("b", "a")
        assert np.array_equal(there[WINS], back[LOSSES]) and np.array_equal(there[TIES], back[TIES])
        assert np.allclose(sum(there.values()), 100)
        one, other = both.lead("a", ["b"]), both.lead("b", ["a"])
        assert one.value == pytest.approx(-other.value) and one.n == 30

    def test_nobody_leads_itself(self):
        found = judged(ours=[[4, 2], [1, 5]]).lead("ours", ["ours"])
        assert found.value == found.low == found.high == 0

    def test_a_lead_is_the_mean_over_the_others_prompt_by_prompt(self):
        """It wins both prompts against one and loses both against the other: 0 on every prompt, without doubt."""
        found = judged(ours=[[3], [3]], low=[[1], [2]], high=[[4], [5]])
        assert found.lead("ours", ["low"]).value == 100 and found.lead("ours", ["high"]).value == -100
        assert found.lead("ours", ["low", "high"]).half_width == 0 and found.lead("ours", ["low", "high"]).value == 0

    def test_rows_and_what_is_drawn(self):
        rows = judged(ours=[[4, 2]], theirs=[[3, 2]]).records("p3.fig2", ["ours"], ["theirs"])
        assert [(row.row, row.column, row.value) for row in rows] == [
            ("ours against theirs", name, value)
            for name, value in ((WINS, 50), (TIES, 25), (LOSSES, 25), ("wins less losses", 25))
        ]
        assert ugda_judged.stacks(rows) == {"ours": {"theirs": {WINS: 50, TIES: 25, LOSSES: 25}}}

    def test_answers_are_judged_in_their_order_and_once(self, monkeypatch):
        """A good and an empty answer to every prompt; the same policy under two names and seeds is asked once."""
        asked, calls = prompts_of(SETTINGS), []

        def sampled(model, turns, world, *, n, seed):
            calls.append((model.digest, n, seed))
            assert list(turns) == [task.turns for task in asked]
            return SimpleNamespace(texts=[["Sure. Happy to help.", ""]] * len(asked))

        monkeypatch.setattr(ugda_judged, "sampled", sampled)
        model = SimpleNamespace(digest="one")
        found = ugda_judged.judged({"SFT": [model, model], "again": [model, model]}, None, SETTINGS, [0, 1])
        assert calls == [("one", 2, 0)] and found.levels["SFT"].shape == (2, 12, 2) and found.seeds == (0, 1)
        assert found.levels["again"][1, :, 0].tolist() == Judge().score(asked, ["Sure. Happy to help."] * 12).tolist()
        assert (found.levels["SFT"][..., 1] == Judge().score(asked, [""] * 12)).all()


class TestDimensions:
    def test_none_counts_as_the_largest(self):
        found = ugda_judged.dimension_methods(SETTINGS.pick(influence_dimensions=[0, 1024, 64]))
        assert {name: each.dimension for name, each in found.items()} == {
            "UGDA, d = 64": 64,
            "UGDA, d = 1024": 1024,
            "UGDA, exact": 0,
        }
        assert list(found) == ["UGDA, d = 64", "UGDA, d = 1024", "UGDA, exact"]

    @pytest.mark.parametrize("tier", ["paper", "gpu", "laptop", "smoke"])
    def test_every_tier_has_the_claims_three(self, tier):
        names = list(ugda_judged.dimension_methods(load(tier).section("p3_03_ugda")))
        levels = {name: [[place]] for place, name in enumerate(names, start=1)} | {"PPO": [[2]], "LCB": [[2]]}
        found = ugda_judged.dimension_evidence(judged(**levels), names, ["PPO", "LCB"])
        assert {term: each.value for term, each in found.items()} == {
            "gain_smallest_dimension": -100, "gain_middle_dimension": 0, "gain_largest_dimension": 100,
        }  # fmt: skip
        with pytest.raises(SettingsError, match="2 dimensions where the claim has three"):
            ugda_judged.dimension_evidence(judged(**levels), names[:2], ["PPO"])

    def test_samples_in_common_and_leads_by_hand(self):
        """Of places 1 and 5 the largest dimension has 5 alone; gold is 3 against a mean of 1 and 2."""

        def outcome(*places):
            return SimpleNamespace(selection=SimpleNamespace(places=np.array(places)))

        gold = {"small": 3.0, "large": 1.5, "PPO": 1.0, "LCB": 2.0}
        study = SimpleNamespace(
            outcomes=[{"small": outcome(1, 5), "large": outcome(5, 7)}],
            gold=lambda name: np.full((1, 4), gold[name]),
            seeds=(0,),
        )
        verdicts = judged(small=[[3]], large=[[1]], PPO=[[2]], LCB=[[3]])
        rows = ugda_judged.dimension_records(study, verdicts, ["small", "large"], ["PPO", "LCB"])
        assert [(row.row, row.value) for row in rows] == [
            ("small", 50),
            ("small", 1.5),
            ("small", 50),
            ("large", 100),
            ("large", 0),
            ("large", -100),
        ]
        assert rows[0].n == 2 and rows[1].n == 4


def test_the_policies_of_a_study_with_the_one_that_all_begin_with():
    outcomes = [{"UGDA": SimpleNamespace(policy=f"ours {seed}")} for seed in (0, 1)]
    study = SimpleNamespace(found=[SimpleNamespace(sft="first")] * 2, outcomes=outcomes)
    assert ugda_judged.policies_of(study, ["SFT", "UGDA"]) == {"SFT": ["first", "first"], "UGDA": ["ours 0", "ours 1"]}


def test_benchmarks_have_the_papers_names_and_paired_gains():
    def scores(*columns):
        values = {column: {"UGDA": np.array([[50.0, 70.0]]), "SFT": np.array([[40.0, 60.0]])} for column in columns}
        return Scores(values, (0,))

    found = Benchmarks(scores("chat, win rate", "chat, length-controlled", "hard, win rate"), scores("two-turn score"))
    assert [row.column for row in found.records() if row.row == "UGDA"] == [
        "AlpacaEval",
        "AlpacaEval, length-controlled",
        "Arena-Hard",
        "MT-Bench",
    ]
    gains = found.gain_records(["SFT"])
    assert {(row.row, row.value, row.low, row.high) for row in gains} == {("UGDA less SFT", 10, 10, 10)}
