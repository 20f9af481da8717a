"""Agreement by hand and against the other module, Tulu's rows, the published table, and people who score as they choose."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from repro.core.errors import DataError, MissingInput
from repro.core.settings import Section
from repro.core.statistics import Interval
from repro.data import tulu_human_eval
from repro.data.schema import Reason
from repro.judges.agreement import agreement
from repro.models.answers import Answers
from repro.papers import judge_agreement, miniature, recorded_verdicts, world_agreement
from repro.papers.judge_agreement import LESS, LONGER, NULL, PERSON, TWO, Compared, kappas_of, mean_kappa
from repro.papers.recorded_verdicts import ALPACA, Recorded, mean_of
from repro.world import annotators, tasks

ROW = {
    "prompt": "Correct this.",
    "model_a": "tulu_65B",
    "model_b": "chatgpt",
    "completion_a": "one",
    "completion_b": "two",
    "preference": "a-is-slightly-better",
    "evaluator": "annotator_1",
}


def compared(**said):
    """Four pairs of two prompts; the first answer is the longer one in the first three."""
    texts = [("aaaa", "b"), ("cccc", "d"), ("eeee", "f"), ("g", "hhhh")]
    rows = {name: np.array([values], dtype=float) for name, values in said.items()}
    rows[LONGER] = judge_agreement.longer(texts)
    people = tuple(name for name in said if name.startswith("person"))
    judges = tuple(name for name in said if name.startswith("judge"))
    return Compared("made", rows, people, judges, ["x", "x", "y", "y"], texts)


@pytest.fixture
def made():
    return compared(judge=[1, 0, 0.5, 0], person1=[1, 1, 0.5, 0], person2=[1, 0, 1, np.nan])


class TestShares:
    def test_by_hand(self, made):
        """The judge is as person 1 on pairs 1, 3, 4 and as person 2 on pairs 1, 2; the people are alike on the first of three."""
        assert made.same("judge")[0] == pytest.approx([1, 0.5, 0.5, 1])
        assert made.same()[0] == pytest.approx([1, 0, 0, np.nan], nan_ok=True)
        assert made.share("judge").value == pytest.approx(75) and made.share().value == pytest.approx(100 / 3)
        assert made.less_person("judge").value == pytest.approx(100 * (0 + 0.5 + 0.5) / 3)
        assert made.share(LONGER).value == pytest.approx(100 * (1 + 0.5 + 0.5 + 1) / 4)

    def test_without_ties_a_tie_is_no_label(self, made):
        assert made.without_ties().same()[0] == pytest.approx([1, 0, np.nan, np.nan], nan_ok=True)

    def test_what_nobody_recorded_has_no_value_and_no_record(self):
        alone = compared(person1=[1, 0, 1, 0])
        measures = alone.measures()
        assert measures[PERSON] is None and measures[TWO] is None and measures[LESS] is None
        found = judge_agreement.share_records([("alone", measures)])
        assert [each.column for each in found] == [NULL] and judge_agreement.by_set(found)[0].column == "alone"
        assert alone.kappa() is None


class TestKappa:
    def test_by_hand(self):
        """7 of 10 alike, 5 by chance: (0.7 - 0.5) / (1 - 0.5)."""
        assert kappas_of(np.array([[4, 1], [2, 3]])) == pytest.approx(0.4)

    def test_of_one_label_throughout_there_is_none(self):
        assert np.isnan(kappas_of(np.array([[5, 0], [0, 0]]))) and mean_kappa(np.array([[[[5, 0], [0, 0]]]])) is None

    @pytest.mark.parametrize("quadratic", [False, True])
    def test_is_the_librarys(self, quadratic):
        one, other = np.random.default_rng(0).integers(0, 5, (2, 200))
        table = judge_agreement.counted(one[None] / 4, other[None] / 4, np.zeros(200, dtype=int), 5)[0]
        weights = {"weights": "quadratic"} if quadratic else {}
        assert kappas_of(table, quadratic) == pytest.approx(cohen_kappa_score(one, other, **weights))

    def test_is_that_of_the_judges_module_on_the_same_labels(self):
        rng = np.random.default_rng(3)
        texts = [(f"a{k}", f"bb{k}") for k in range(60)]
        said = {name: rng.choice([0, 0.5, 1], (1, 60)) for name in ("person1", "person2")}
        both = Compared("made", said, ("person1", "person2"), (), [str(k // 2) for k in range(60)], texts)
        between = agreement(both.labels()).between[0]
        found = both.kappa()
        assert found.value == pytest.approx(between.kappa.value.value)
        assert both.share().value == pytest.approx(100 * between.share.value.value)
        assert found.low < found.value < found.high and found.n == 30


class TestTulu:
    def folder(self, tmp_path, rows):
        home = tmp_path / tulu_human_eval.NAME
        home.mkdir()
        with gzip.open(home / tulu_human_eval.FILE, "wt") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in rows)
        return tmp_path

    def test_both_orders_of_two_answers_are_one_comparison(self, tmp_path):
        turned = ROW | {"model_a": "chatgpt", "model_b": "tulu_65B", "completion_a": "two", "completion_b": "one"}
        rows = [ROW, turned | {"evaluator": "annotator_2", "preference": "b-is-better"}, ROW | {"preference": "tie"}]
        rows += [ROW | {"preference": "?"}, ROW | {"completion_b": "one"}, ROW | {"completion_a": None}]
        loaded = tulu_human_eval.load(self.folder(tmp_path, rows))
        (only,) = loaded.rows
        assert only.models == ("chatgpt", "tulu_65B") and only.answers == ("two", "one")
        assert only.people == {"annotator_1": 2, "annotator_2": 2}
        reasons = {Reason.REPEATED: 1, Reason.NO_CHOICE: 1, Reason.EQUAL: 1, Reason.WRONG_TYPE: 1}
        assert loaded.counts() == reasons

    def test_without_its_file_it_is_missing(self, tmp_path):
        with pytest.raises(MissingInput):
            tulu_human_eval.load(tmp_path)


class TestRecorded:
    def test_the_mean_of_sets_counts_each_alike(self):
        found = mean_of([Interval(80, 77, 83, 10), Interval(60, 56, 64, 90)])
        assert (found.value, found.low, found.high, found.n) == pytest.approx((70, 67.5, 72.5, 100))

    def test_without_a_judge_there_is_no_evidence(self):
        columns = {PERSON: None, TWO: Interval(60, 50, 70, 5), LESS: None, NULL: None}
        assert Recorded([], [("alone", columns)], {}).evidence() == {}

    def test_published_agreements_are_read_with_a_binomial_interval(self, monkeypatch):
        rows = {"alpaca_eval_gpt4": 70.0, "humans": 66.0, "longest": 62.0}
        table = {name: {"Human agreement": value, "# parsed": 2592.0} for name, value in rows.items()}
        monkeypatch.setattr(recorded_verdicts.alpaca_eval, "leaderboard", lambda which: table)
        found = recorded_verdicts._alpaca()
        assert found[PERSON].n == 648 and found[LESS].value == pytest.approx(4)
        assert found[PERSON].half_width == pytest.approx(100 * 1.96 * np.sqrt(0.7 * 0.3 / 648), rel=1e-3)

    def test_sets_that_are_not_here_are_left_out(self, monkeypatch):
        def missing(*_, **__):
            raise MissingInput("is not here", where="there")

        for name in ("pandalm", "tulu_human_eval", "llmbar"):
            monkeypatch.setattr(getattr(recorded_verdicts, name), "load", missing)
        monkeypatch.setattr(recorded_verdicts.alpaca_eval, "leaderboard", missing)
        found = recorded_verdicts.recorded(Section({"real_pairs": None}))
        assert found.sets == [] and found.measures == [] and found.evidence() == {} and ALPACA not in found.tallies


@pytest.fixture(scope="module")
def answers():
    """A right, a wrong, a short and again the right answer to four prompts of each category."""
    asked, rng = miniature.balanced(4, seed=3), np.random.default_rng(0)
    said = [[tasks.respond(t, rng), tasks.respond(t, rng, tasks.faults(rng)), "Yes.", "Yes."] for t in asked]
    done = np.ones((len(said), 4), dtype=bool)
    return miniature.Pool(asked, Answers(None, said, done, done.astype(int)), miniature.graded(asked, said))


class TestWorld:
    def test_measures_and_records(self, answers):
        found = world_agreement.study(answers, [0, 1], 4)
        assert all(first != second for first, second in found.compared.texts)  # equal answers are left out
        assert found.compared.said["person 1"].shape == (2, len(found.compared.texts))
        assert set(found.evidence()) == {"agreement", "judge_less_human"}
        assert {each.column for each in found.level_records()} == {"equal", "at most one apart", "weighted kappa"}
        assert len(found.category_records()) == 2 * len(tasks.CATEGORIES)
        again = world_agreement.study(answers, [0, 1], 4)
        assert again.level_records() == found.level_records() and again.evidence() == found.evidence()

    def test_levels_are_used_as_often_as_the_judge_does(self, answers):
        read = annotators.read(answers.tasks, [row[0] for row in answers.texts])
        like = np.arange(len(answers.tasks)) % 5 + 1
        sure = annotators.Human(temperature_inverse=1e9, careless=0.0)
        levels = world_agreement.scored(sure, read, like, np.random.default_rng(0))
        assert sorted(levels) == sorted(like)
        worth = sure.utility(read)
        above = worth[:, None] > worth + 1e-6
        assert (levels[:, None] - levels)[above].min() >= 0

    def test_views_differ_as_choices_do(self):
        """Two Gumbel views put the first above the second as often as the person's sigmoid says."""
        person = SimpleNamespace(temperature_inverse=4.0, careless=0.0, utility=lambda _: np.array([0.3, 0.0]))
        rng = np.random.default_rng(0)
        first = [world_agreement.scored(person, None, np.array([1, 2]), rng)[0] == 2 for _ in range(4000)]
        assert np.mean(first) == pytest.approx(1 / (1 + np.exp(-1.2)), abs=0.02)

    def test_answers_all_alike_are_named(self, answers):
        alike = [["Yes.", "Yes."] for _ in answers.tasks]
        done = np.ones((len(alike), 2), dtype=bool)
        pool = miniature.Pool(answers.tasks, Answers(None, alike, done, done.astype(int)), answers.gold[:, :2])
        with pytest.raises(DataError, match="alike"):
            world_agreement.study(pool, [0], 2)
