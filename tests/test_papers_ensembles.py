"""Ensembles by hand: who is asked what, errors at gold's place, correlations of ranks, picks; and a run of the smallest models."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from repro.core import artifacts
from repro.core.settings import load
from repro.data import miniature as sets
from repro.models.answers import Answers
from repro.models.scratch import scratch
from repro.papers import ensembles, miniature, uncertainty
from repro.papers.ensembles import EVERY, FULL, GOLD, KNOWN, LONGEST, RANDOM, RAW, STRANGE, EnsembleStudy
from repro.papers.uncertainty import ANSWER, LENGTH, MARGIN, PAIR, VARIANCE
from repro.world import sources

TINY = {"world.workers": 1, "world.max_new_tokens": 8, "p3_01_ensembles.pairs": 24}


def study_of(members, gold, mean=None):
    """One seed's study from members' rewards (k, prompts, n) and gold (prompts, n)."""
    asked = miniature.balanced(1, seed=0)[: len(gold)]
    texts = [["word " * (k + 1) for k in range(gold.shape[1])] for _ in gold]
    done = np.ones(gold.shape, dtype=bool)
    pool = miniature.Pool(asked, Answers(None, texts, done, done.astype(int)), gold)
    members = np.asarray(members, dtype=float)[None]
    scorers = {f"member {k + 1}": members[:, k] for k in range(members.shape[1])}
    scorers |= {name: members.mean(1) for name in (*ensembles.AGGREGATES, RAW, FULL)}
    scorers |= {LONGEST: pool.characters[None].astype(float), RANDOM: members[:, 0]}
    groups = ensembles.groups_of(pool, ["HH-RLHF"])
    return EnsembleStudy(pool, members, members, scorers, groups, [1, 2], (0,), [])


class TestUncertainty:
    def test_ranks_have_mean_0_and_sd_1_and_ties_share(self):
        ranks = uncertainty.standardised_ranks(np.array([[3.0, 1.0, 1.0, 9.0], [2.0, 2.0, 2.0, 2.0]]))
        assert ranks[0].mean() == pytest.approx(0) and ranks[0].std() == pytest.approx(1) and ranks[0, 1] == ranks[0, 2]
        assert not ranks[1].any()

    def test_the_coefficient_is_spearmans(self):
        one, other = np.random.default_rng(0).normal(size=(2, 1, 50)).round(1)
        found = uncertainty.rank_correlation(one, one + other, np.arange(50))
        assert found.value == pytest.approx(spearmanr(one[0], (one + other)[0]).statistic)

    def test_an_answers_error_is_the_way_to_golds_place(self):
        """Rewards 10, 20, 40 where gold orders them 20 < 10 < 40: the first two are ten from their place, the third at it."""
        errors = uncertainty.answer_errors(np.array([[10.0, 20.0, 40.0]]), np.array([1.0, 0.0, 2.0]))
        assert errors[0] == pytest.approx([10, 10, 0])

    def test_answers_of_equal_gold_share_a_place(self):
        errors = uncertainty.answer_errors(np.array([[0.0, 2.0, 9.0, 9.0]]), np.array([0.0, 0.0, 1.0, 1.0]))
        assert errors[0] == pytest.approx([1, 1, 0, 0])

    def test_variance_that_knows_and_pairs_by_hand(self):
        """Members agree where the mean is right and part where it is wrong; the pair of equal gold has no order."""
        gold = np.array([[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]])
        first = [[2.0, 0.0, 0.0, 1.0], [1.0, 1.0, 0.0, 2.0]]
        second = [[2.0, 0.0, 0.0, 5.0], [1.0, 1.0, 0.0, 2.0]]
        doubt = uncertainty.uncertainty(study_of([first, second], gold))
        assert doubt.wrong.tolist() == [[0.0, 1.0, 0.0]] and doubt.pair_prompts.tolist() == [0, 0, 1]
        assert doubt.signals[VARIANCE].tolist() == [[0.0, 4.0, 0.0]]
        assert doubt.correlation(PAIR).value == pytest.approx(1)
        assert doubt.correlation(ANSWER).value > 0.3
        assert {each.column for each in doubt.correlation_records()} <= {EVERY, KNOWN, STRANGE}
        assert doubt.selected(1 / 8).value > 0 and doubt.selected(1.0).value == pytest.approx(0, abs=1e-12)

    def test_constant_members_know_nothing(self):
        gold = np.array([[1.0, 0.0], [0.0, 1.0]])
        doubt = uncertainty.uncertainty(study_of(np.zeros((2, 2, 2)), gold))
        assert doubt.correlation(PAIR).value == 0 and doubt.wrong.tolist() == [[0.5, 0.5]]
        assert doubt.correlation(PAIR, MARGIN).value == 0 and doubt.correlation(ANSWER, LENGTH).value == 0


class TestStudy:
    def test_groups_are_what_the_sources_ask(self):
        asked = miniature.balanced(1, seed=0)
        done = np.ones((len(asked), 1), dtype=bool)
        pool = miniature.Pool(asked, Answers(None, [["x"]] * len(asked), done, done), done.astype(float))
        groups = ensembles.groups_of(pool, ["HH-RLHF"])
        names = {task.category for task, known in zip(asked, groups[KNOWN], strict=True) if known}
        assert names == set(sources.SOURCES["HH-RLHF"].categories)
        assert (groups[KNOWN] ^ groups[STRANGE]).all() and groups[EVERY].all()

    def test_accuracy_picks_and_agreement_by_hand(self):
        """Member 1 knows gold and member 2 the reverse of it: 100 and 0 percent, and the best and the worst pick of 2."""
        gold = np.array([[0.0, 2.0], [1.0, 3.0]])
        study = study_of([gold, -gold], gold)
        study = replace(study, scorers=study.scorers | {FULL: gold[None]})
        assert study.accuracy("member 1").value == 100 and study.accuracy("member 2").value == 0
        assert study.gain("member 1", "member 2").value == 100
        assert study.pick(FULL)[0, :, 1].tolist() == [2, 3] and study.pick("mean")[0, :, 1].tolist() == [1, 2]
        assert study.over_mean(FULL).value == 1 and study.over_mean(FULL, 1).value == 0
        assert study.agreement_of_members().value == pytest.approx(-1)
        last = {each.row: each.value for each in study.pick_records() if each.column == "n = 2"}
        assert last[GOLD] == 2.5


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A study of two seeds at smoke whose policies are random weights: what they say is noise, and cheap."""
    patch = pytest.MonkeyPatch()
    patch.setenv("REPRO_RUNS", str(tmp_path_factory.mktemp("runs")))

    def random_policy(role, settings):
        texts = artifacts.external(sets.lexicon() / sets.TEXTS)
        return artifacts.run(scratch, settings={"name": settings[role]}, inputs={"texts": texts}, seed=len(role))

    patch.setattr(sets, "LEXICON", 300)
    for module in (miniature, ensembles):
        patch.setattr(module, "policy", random_policy)
    settings = load("smoke", TINY)
    world, own = (settings.section(name) for name in ("world", "p3_01_ensembles"))
    answers = miniature.pool(own.policy, miniature.balanced(1, seed=0), world, n=4)
    yield world, own, answers, ensembles.study(world, own, answers, [0, 1])
    patch.undo()


class TestRun:
    def test_shapes_scale_and_seeds(self, run):
        world, own, answers, study = run
        assert study.members.shape == (2, own.members, *answers.gold.shape) and study.ns == [1, 2, 4]
        assert not np.allclose(study.members[0], study.members[1])
        assert study.scorers["mean"] == pytest.approx(study.members.mean(1), abs=1e-6)
        made = ensembles.ensembles(world, own, [0])[0]
        scale = made.scale
        back = (study.raw[0] - scale[:, :1, None]) / scale[:, 1:, None]
        assert back == pytest.approx(study.members[0])
        assert len(study.histories[0]) == own.members

    def test_records_of_every_part_are_there_once(self, run):
        study = run[3]
        doubt = uncertainty.uncertainty(study)
        rows = study.accuracy_records() + study.scale_records() + study.pick_records() + study.over_mean_records()
        rows += doubt.correlation_records() + doubt.part_records() + doubt.category_records()
        names = [(each.id, each.row, each.column) for each in rows]
        assert len(names) == len(set(names))
        assert all(each.value is not None for each in rows)
        assert "prompt" in ensembles.shown(study)

    def test_later_chapters_find_the_same_ensemble(self, run):
        world, own, _, _ = run
        first, again = (ensembles.ensembles(world, own, [0])[0].artifact.path for _ in "12")
        assert first == again
