"""The influence study on a tiny policy: every score against the room of gradients, every truth against arithmetic."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from repro.core.artifacts import external, run
from repro.core.errors import DataError, SettingsError
from repro.core.settings import Section
from repro.gradients.influence import Scoring, influence_scores
from repro.gradients.losses import answer_losses
from repro.models.features import stored
from repro.models.lora import with_lora
from repro.models.scratch import random_model, word_tokenizer
from repro.papers import influence_study, influence_truth
from repro.papers.influence_scores import INNER, LAST, NORM, PRINTED, RANDOM, STILL, WAYS, score
from repro.papers.influence_study import Run, Study, Texts, rank_correlation
from repro.papers.influence_truth import leave_out, opened, points, probed_places, take_steps, tune

ASK = (("user", "say"),)
ANSWERS = ["yes", "no and why", "or not", "yes or no", "why not", "and no", "yes and yes", "not"]
TEXTS = {"samples": [[ASK, text] for text in ANSWERS]}
TEXTS |= {"subtasks": {"helpful": [[ASK, "yes or not"], [ASK, "why"]], "harmless": [[ASK, "no"], [ASK, "no no"]]}}
SETTINGS = Section(
    {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.1, "lora_targets": "all-linear", "lora_layers": None}
    | {"learning_rate": 3e-3, "epochs": 2, "batch_size": 3, "max_tokens": 32, "device": "cpu"}
    | {"probed": 4, "dimensions": [32, 4096], "projections": 2}
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The four steps on a random policy: inputs, and what each left."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("influence")
        patch.setenv("REPRO_RUNS", str(folder / "runs"))
        patch.setenv("REPRO_BATCH", "1")
        tokenizer = word_tokenizer(["say yes or no and why not"])
        random_model("miniature/0.1m", tokenizer, 0).save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        inputs = {"base": external(folder / "base"), "texts": stored("influence", TEXTS)}
        inputs["run"] = run(tune, settings=SETTINGS, inputs=inputs, seed=0)
        steps = {each.__name__: run(each, settings=SETTINGS, inputs=inputs, seed=0) for each in (leave_out, take_steps, score)}
        yield inputs, {name: load_file(next(each.path.glob("*.safetensors"))) for name, each in steps.items()}


def bench(inputs):
    return opened(SimpleNamespace(inputs=inputs, settings=SETTINGS))


class TestScores:
    @pytest.mark.parametrize("way", list(WAYS))
    def test_one_pass_is_the_room_of_gradients_way_by_way(self, made, way):
        inputs, found = made
        model, samples, subtasks = bench(inputs)
        scoring = Scoring(*WAYS[way])
        expected = influence_scores(points(model, inputs["run"]), samples, subtasks, answer_losses, scoring).scores[0]
        torch.testing.assert_close(found["score"][way], expected, rtol=1e-4, atol=1e-8)

    def test_projected_scores_are_those_of_the_room(self, made):
        inputs, found = made
        model, samples, subtasks = bench(inputs)
        last = list(points(model, inputs["run"]))[-1]
        for draw in (0, 1):
            scoring = Scoring(dimensions=(0, 32, 4096), seed=draw)
            expected = influence_scores([last], samples, subtasks, answer_losses, scoring).scores
            for d in (32, 4096):
                torch.testing.assert_close(found["score"][f"{LAST}.{d}.{draw}"] * last.rate, expected[d], rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(found["score"][LAST] * last.rate, expected[0], rtol=1e-4, atol=1e-8)

    def test_the_inner_product_is_what_an_sgd_step_is_predicted_to_do(self, made):
        """p3.eq5 sums over checkpoints what p3.eq3_4 predicts at each."""
        _, found = made
        places = probed_places(len(ANSWERS), 4, 0)
        torch.testing.assert_close(
            found["take_steps"]["SGD.predicted"].sum(0), found["score"][INNER][places], rtol=1e-4, atol=1e-9
        )

    def test_scores_that_know_nothing(self, made):
        _, found = made
        assert torch.equal(found["score"][NORM][:, 0], found["score"][NORM][:, 1]) and (found["score"][NORM] > 0).all()
        assert not torch.allclose(found["score"][RANDOM], found["score"]["SGD, cosine"])
        assert not torch.allclose(found["score"][STILL], found["score"][PRINTED])


class TestTruth:
    def test_a_short_step_does_what_is_predicted(self, made):
        steps = made[1]["take_steps"]
        assert steps["SGD.actual"].shape == (2, 4, 2)
        torch.testing.assert_close(steps["SGD.actual"], steps["SGD.predicted"], rtol=0.05, atol=2e-6)

    def test_a_sample_that_counts_nothing_may_say_anything(self, made):
        inputs, _ = made
        weights = []
        for other in (None, 5):
            model, samples, _ = bench(inputs)
            adapter = with_lora(model, SETTINGS, 0, "language")
            samples = list(samples)
            if other is not None:  # "and no" becomes another answer of as many tokens
                changed = samples[other].answers[0].clone()
                changed[0] = samples[0].answers[0][0]
                samples[other] = samples[other]._replace(answers=(changed,))
            influence_truth.fine_tune(adapter, samples, SETTINGS, 0, without=5)
            weights.append(torch.cat([w.detach().flatten() for w in adapter.parameters() if w.requires_grad]))
        assert torch.equal(*weights)

    def test_what_is_left_out_is_measured_against_the_whole_run(self, made):
        inputs, found = made
        model, samples, subtasks = bench(inputs)
        adapter = with_lora(model, SETTINGS, 0, "language")
        place = probed_places(len(samples), 4, 0)[1]
        influence_truth.fine_tune(adapter, samples, SETTINGS, 0, without=place)
        after = influence_truth.subtask_losses(adapter, subtasks.values())
        whole = torch.tensor(json.loads((inputs["run"] / "history.json").read_text())["after"])
        torch.testing.assert_close(found["leave_out"]["left out"][1], after - whole, rtol=1e-3, atol=1e-6)

    def test_bad_input(self, made):
        with pytest.raises(SettingsError, match="9 of 8"):
            probed_places(8, 9, 0)
        empty = stored("influence", TEXTS | {"subtasks": {"helpful": []}})
        with pytest.raises(DataError, match="helpful"):
            bench({**made[0], "texts": empty})
        model, samples, _ = bench(made[0])
        with pytest.raises(DataError, match="step 2"):
            wild = Section({**SETTINGS, "learning_rate": float("inf"), "lora_dropout": 0.0})
            influence_truth.fine_tune(with_lora(model, wild, 0, "language"), samples, wild, 0)


class TestRankCorrelation:
    def test_limits_and_order_alone(self):
        x = np.arange(12.0)
        same, turned = rank_correlation(x, np.exp(x)), rank_correlation(x, -x)
        assert same.value == pytest.approx(1, abs=1e-6) and turned.value == pytest.approx(-1, abs=1e-6)
        assert same.n == 12 and same.low <= same.value <= same.high <= 1

    def test_by_hand(self):
        """Ranks 1 2 3 4 against 2 1 4 3: 1 - 6 x 4 / (4 x 15) = 0.6."""
        assert rank_correlation([1, 2, 3, 4], [20, 10, 40, 30]).value == pytest.approx(0.6)

    def test_the_interval_covers(self):
        """Normal pairs of correlation 0.5, whose Spearman is 6/pi asin(0.25) = 0.483: 95 of 100 intervals hold it."""
        rng, held = np.random.default_rng(0), 0
        for _ in range(60):
            x = rng.normal(size=(1, 40))
            found = rank_correlation(x, 0.5 * x + np.sqrt(0.75) * rng.normal(size=(1, 40)))
            held += found.low <= 0.483 <= found.high
        assert 52 <= held <= 60

    def test_nothing_to_correlate(self):
        for first in ([1, 2, 3], [1, 1, 1, 1, 1]):
            with pytest.raises(DataError, match="nothing to correlate"):
                rank_correlation(first, first)


class TestStudy:
    def study(self):
        """Four samples of two categories; scores choose places 1 and 2 by the maximum, 1 and 3 by the mean."""
        tasks = [SimpleNamespace(category=name, turns=ASK) for name in ("chat", "chat", "sums", "sums")]
        scores = {PRINTED: np.array([[0.0, 0.1], [0.9, 0.8], [-0.9, 0.7], [0.4, 0.5]])}
        scores |= {LAST: scores[PRINTED], f"{LAST}.8.0": scores[PRINTED][:, ::-1].copy()}
        drawn = Texts(tasks, ["a", "b", "c", "d"], {})
        settings = Section({"eta": 0.5, "dimensions": [8], "projections": 1})
        return Study([Run(drawn, scores, [0, 1], {}, {}, {})], settings)

    def test_selections_and_shares_by_hand(self):
        found = self.study()
        assert [list(found.selections(over)[0].places) for over in ("max", "mean")] == [[1, 2], [1, 3]]
        assert [r.value for r in found.category_records([0])] == [50.0, 50.0]
        assert found.shared(found.selections(), found.selections("mean")).value == 50.0
        assert found.harmless_share().value == 75.0
        assert found.random_band() == (0.0, 100.0)

    def test_what_a_projection_costs(self):
        rows = {(r.id, r.row): r.value for r in self.study().dimension_records([0])}
        difference = np.diff(self.study().runs[0].scores[PRINTED], axis=1)
        assert rows["p3_02.deviation", "measured"] == pytest.approx(np.sqrt((difference**2).mean()))
        assert rows["p3_02.kept selection", "measured"] == 100.0

    def test_the_ends_of_the_ranking(self):
        first, last = self.study().extremes("helpful", 1).items()
        assert first[0].startswith("1 of 4, chat, +1.00") and first[1].endswith("\nb")
        assert last[0].startswith("4 of 4, sums, \N{MINUS SIGN}1.00") or last[0].startswith("4 of 4, sums, -1.00")

    def test_what_a_seed_draws(self):
        settings = Section({"samples_per_category": 1, "validation": 2})
        found, other = influence_study.texts(settings, 0), influence_study.texts(settings, 1)
        assert len(found.tasks) == len(found.answers) == 10 and {len(rows) for rows in found.subtasks.values()} == {2}
        assert found.answers != other.answers and isinstance(influence_study.texts(settings, 0), Texts)
        assert influence_study.texts(settings, 0).answers == found.answers
