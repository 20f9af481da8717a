"""Over-optimisation by hand: units, best of n, a run's course, the form's parameters, falls that luck cannot make; and a run of the smallest models."""

import json
from dataclasses import replace

import numpy as np
import pytest

from repro.core import artifacts
from repro.core.artifacts import Artifact
from repro.core.settings import load
from repro.papers import miniature, overoptimization, ugda, ugda_measures
from repro.papers import overoptimization_course as course_of
from repro.papers.online_arms import ITERATIVE
from repro.papers.overoptimization import (
    CAUTIOUS,
    LOOSE,
    MEAN,
    best_of_n_course,
    evenly,
    relation_of,
    rollouts,
    unit_of,
)
from repro.papers.overoptimization_course import BON, Course, coefficients, curve
from repro.world import sources
from tests import online_loop

SMALL = {"preference_pairs": 24, "ppo_prompts": 12, "reference_prompts": 6, "test_prompts": 3, "members": 2}
SMALL |= {"ppo_rollouts": 8, "ppo_iterations": 3, "ppo_max_new_tokens": 6, "batch_size": 8, "ppo_epochs": 1}
OWN = {"answers": 4, "windows": 3}


def course(gold, kl=None, proxy=None):
    """One course from gold (points, seeds, prompts); KL is the point's number unless given."""
    gold = np.asarray(gold, dtype=float)
    kl = np.broadcast_to(np.arange(len(gold))[:, None, None], gold.shape) if kl is None else np.asarray(kl, dtype=float)
    return Course(gold, gold if proxy is None else np.asarray(proxy, dtype=float), kl)


def records(study):
    ends = course_of.end_records(study.ends, study.relation, study.seeds)
    return course_of.point_records(study.courses, study.seeds) + ends


class TestUnits:
    def test_means_by_prompt_and_one_sd_about_them(self):
        """Deviations 1, 1, 0, 0 and four answers less two means: an SD of 1."""
        unit = unit_of(np.array([[1.0, 3.0], [5.0, 5.0]]))
        assert unit.mean.tolist() == [2, 5] and unit.sd == pytest.approx(1)
        assert unit.above(np.array([[2.0, 7.0], [3.0, 5.0]])).tolist() == [[0, 2], [1, 0]]

    def test_answers_all_alike_and_another_pools_sd(self):
        assert unit_of(np.full((2, 3), 4.0)).sd == 1
        assert unit_of(np.array([[1.0, 3.0]]), sd=4.0).above(np.array([6.0])).tolist() == [1]

    @pytest.mark.parametrize(("factor", "expected"), [(2.0, 1.0), (-3.0, -1.0)])
    def test_a_proxy_that_is_gold_on_another_scale_is_wholly_related(self, factor, expected):
        gold = np.random.default_rng(0).normal(size=(5, 6))
        proxies = np.stack([factor * gold + 7])
        units = [{"gold": unit_of(gold), "proxy": unit_of(proxies[0])}]
        assert relation_of(gold, proxies, units).mean() == pytest.approx(expected)


class TestBestOfN:
    def test_gold_as_its_own_proxy(self):
        """Of 1, 2, 3, 4 the best of one is 2.5 on average, the best of four 4; SD sqrt(5/3)."""
        gold = np.array([[1.0, 2.0, 3.0, 4.0]])
        units = [{"gold": unit_of(gold), "proxy": unit_of(gold)}]
        found = best_of_n_course(gold, gold[None], units, [1, 4])
        assert found.gold[:, 0, 0] == pytest.approx([0, 1.5 / np.sqrt(5 / 3)])
        assert found.gold.tolist() == found.proxy.tolist()
        assert found.distances == pytest.approx([0, np.sqrt(np.log(4) - 0.75)])

    def test_a_proxy_turned_round_loses_what_it_gains(self):
        gold = np.random.default_rng(1).normal(size=(4, 8))
        units = [{"gold": unit_of(gold), "proxy": unit_of(-gold)}]
        found = best_of_n_course(gold, -gold[None], units, [1, 2, 8])
        assert found.gold[-1].mean() < 0 < found.proxy[-1].mean()
        assert found.fall().low > 0 and found.peak().value == 0
        assert found.gap().value == pytest.approx(found.proxy[-1].mean() - found.gold[-1].mean())


def test_a_runs_course_in_windows(tmp_path, monkeypatch):
    """Four iterations in two windows; gold is the answer's length; prompt 1 is not asked in the second window."""
    asked = sources.prompts(2, "train", 0)
    monkeypatch.setattr(overoptimization, "graded", lambda _, texts: np.array([[len(row[0])] for row in texts]))
    said = [(0, 0, "a", 0.0), (0, 1, "bbb", 0.0), (1, 0, "ccc", 2.0), (2, 0, "d", 3.0), (3, 0, "eeeee", 5.0)]
    rows = [
        {"prompt": asked[place].turns, "answer": text, "rewards": [1.0, 3.0], "kl": kl, "iteration": number}
        for number, place, text, kl in said
    ]
    (tmp_path / "interactions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rollouts(Artifact(tmp_path, "ppo", "x", "x"), asked, 2)
    assert found["gold"].tolist()[0] == [2, 3] and found["gold"][1, 0] == 3 and np.isnan(found["gold"][1, 1])
    assert found["kl"][:, 0].tolist() == [1, 4] and np.nanmin(found["proxy"]) == np.nanmax(found["proxy"]) == 2
    assert len(rollouts(Artifact(tmp_path, "ppo", "x", "x"), asked, 9)["kl"]) == 4  # no window without an iteration
    other = rollouts(Artifact(tmp_path, "ppo", "x", "x"), asked[1:], 2)  # of prompt 1 alone, in the same windows
    assert all(np.array_equal(other[name], found[name][:, 1:], equal_nan=True) for name in found)


def test_prompts_are_read_evenly():
    """The test prompts' mixture: as many harmless as helpful ones, no more than the seed with the fewest has."""
    asked = [sources.prompts(200, "train", seed) for seed in (0, 1)]
    asked = [[task for task in row if task.category in ("chat", "harmful")] for row in asked]
    harmful = [sum(task.category == "harmful" for task in row) for row in asked]
    few = min(min(harmful), *(len(row) - count for row, count in zip(asked, harmful, strict=True)))
    read = evenly(asked)
    assert [[task.category for task in row] for row in read] == [["chat"] * few + ["harmful"] * few] * 2
    assert few and all(task in row for row, own in zip(asked, read, strict=True) for task in own)


class TestForm:
    @pytest.mark.parametrize("form", [BON, MEAN])
    def test_points_on_the_form_give_its_parameters_back(self, form):
        far = np.array([0.0, 0.3, 0.9, 1.7, 2.4])
        gold = np.array([0.0, *curve(far[1:], 1.2, 0.4, form)])
        assert coefficients(far, gold, form) == pytest.approx([1.2, 0.4])

    @pytest.mark.parametrize(("form", "best"), [(BON, 1.5), (MEAN, np.exp(2))])
    def test_where_it_is_best(self, form, best):
        """alpha 1.5, beta 0.5: 1.5 / (2 * 0.5) for best of n, exp(1.5 / 0.5 - 1) for what is trained."""
        near = best * np.array([0.99, 1, 1.01])
        assert curve(near, 1.5, 0.5, form).argmax() == 1

    def test_too_few_points_are_no_form(self):
        assert np.isnan(coefficients(np.array([0.0, 1.0]), np.array([0.0, 1.0]), BON)).all()
        near = course(np.zeros((3, 1, 4)), kl=np.full((3, 1, 4), np.nan))
        assert np.isnan(near.fit(MEAN)["beta"].value) and np.isnan(near.peak().value) and near.fall().value == 0
        assert course_of.fit_records({MEAN: near}, [0])[0].value is None

    def test_the_interval_holds_the_truth_and_narrows_with_prompts(self):
        rng, kl = np.random.default_rng(0), np.array([0.5, 1, 2, 4, 6])
        widths = []
        for prompts in (60, 960):
            gold = curve(np.sqrt(kl), 1.0, 0.3, MEAN)[:, None, None] + rng.normal(0, 0.5, (5, 2, prompts))
            found = course(gold, np.broadcast_to(kl[:, None, None], gold.shape)).fit(MEAN)
            both = zip(found.values(), (1, 0.3), strict=True)
            assert all(each.low < truth < each.high and each.n == prompts for each, truth in both)
            widths.append(found["beta"].half_width)
        assert widths[1] < widths[0] / 2

    def test_a_seed_is_fitted_alone_and_the_parameters_are_averaged(self):
        kl, far = np.array([1.0, 4.0, 9.0]), np.array([1.0, 2.0, 3.0])
        gold = np.stack([curve(far, alpha, 0.2, BON) for alpha in (1.0, 2.0)], 1)[..., None].repeat(4, 2)
        found = course(gold, np.broadcast_to(kl[:, None, None], gold.shape)).fit(BON)
        assert found["alpha"].value == pytest.approx(1.5) and found["beta"].value == pytest.approx(0.2)


class TestFall:
    def test_by_hand(self):
        """Both halves put the best at the second point; from there gold falls by 2 for one and by 1 for the other."""
        gold = np.array([[0.0, 0.0], [3.0, 2.0], [1.0, 1.0]])[:, None, :]
        found = course(gold).fall()
        assert found.value == pytest.approx(1.5) and course(gold).peak().value == 1

    def test_luck_makes_no_fall(self):
        """Eight flat points: the highest is above the last by luck, the fall is 0 on average and rarely called one."""
        rng, naive, fair, called = np.random.default_rng(0), [], [], 0
        for _ in range(60):
            flat = course(rng.normal(size=(8, 1, 60)))
            found = flat.fall()
            means = flat.gold.mean((1, 2))
            naive.append(means.max() - means[-1])
            fair.append(found.value)
            called += found.low > 0
        assert np.mean(naive) > 0.15 and abs(np.mean(fair)) < 3 * np.std(fair) / np.sqrt(60) and called <= 3

    def test_a_real_fall_is_found_though_no_prompt_is_asked_at_every_point(self):
        rng = np.random.default_rng(1)
        gold = np.array([0.0, 0.6, 1.0, 0.4])[:, None, None] + rng.normal(0, 0.5, (4, 1, 400))
        gold[rng.random(gold.shape) < 0.6] = np.nan
        found = course(gold).fall()
        assert found.low > 0 and found.low < 0.6 < found.high

    def test_differences_of_partly_known_means(self):
        values = np.array([[1.0, np.nan, 5.0, np.nan]])
        spread = course_of._share_of_mean(values)
        assert spread.mean() == pytest.approx(3) and spread.tolist() == [[-1, 3, 7, 3]]
        whole = np.array([[1.0, 2.0, 6.0]])
        assert course_of._share_of_mean(whole) == pytest.approx(whole)


class TestEnds:
    def test_gold_that_keeps_its_promise(self):
        proxy, relation = np.array([[1.0, 2.0, 3.0]]), np.full((1, 3), 0.5)
        kept = Course((0.5 * proxy)[None], proxy[None], proxy[None])
        assert kept.beyond(relation).value == pytest.approx(0) and kept.gap().value == pytest.approx(1)
        short = replace(kept, gold=kept.gold - 0.4)
        assert short.beyond(relation).value == pytest.approx(-0.4)

    def test_doubt_about_the_promise_widens_the_interval(self):
        rng = np.random.default_rng(0)
        proxy = rng.normal(2, 0.1, (1, 200))
        end = Course((0.5 * proxy)[None], proxy[None], proxy[None])
        assert end.beyond(0.5 + rng.normal(0, 1, (1, 200))).half_width > 0.2
        assert end.beyond(np.full((1, 200), 0.5)).half_width < 0.01

    def test_the_start_is_a_point(self):
        found = course(np.full((2, 1, 4), -1.0)).from_start()
        assert found.distances.tolist() == [0, 0, 1] and found.peak().value == 0
        assert found.fall().value == pytest.approx(1)


class TestRun:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
        monkeypatch.setenv("REPRO_BATCH", "1")
        start = online_loop.first()
        for module in (miniature, ugda, ugda_measures):
            monkeypatch.setattr(module, "policy", lambda *_: start)

    def test_the_smallest_models_from_end_to_end(self, monkeypatch):
        found = load("smoke")
        world, ugda_settings = found.section("world"), found.section("p3_03_ugda")
        own, online = found.section("90_overoptimization"), found.section("p2_04_online_dpo")
        parts = world.pick(*world, max_new_tokens=6), ugda_settings.pick(*ugda_settings, **SMALL), online
        parts = (*parts, own.pick(*own, **OWN))
        ranked, original = [], overoptimization.preference_pairs

        def spy(recipe, asked, *rest):
            ranked.extend(asked)
            return original(recipe, asked, *rest)

        monkeypatch.setattr(overoptimization, "preference_pairs", spy)
        study = overoptimization.study(*parts, [0])
        assert sorted(task.turns for task in ranked) == sorted(task.turns for task in ugda.ppo_prompts(parts[1], 0))
        assert {name: len(each.gold) for name, each in study.courses.items()} == {BON: 3, ITERATIVE: 3} | dict.fromkeys(
            [*overoptimization.TRAINED, CAUTIOUS, LOOSE], 4
        )
        # nothing is learnt before the first answers are drawn
        assert study.courses[MEAN].distances[1] == pytest.approx(0, abs=1e-3)
        assert all(len(each.gold) == 1 and each.gold.shape[2] == 6 for each in study.ends.values())
        rows = records(study)
        artifacts.HISTORY.clear()
        again = overoptimization.study(*parts, [0])
        assert all(line["cached"] for line in artifacts.HISTORY)
        assert rows == records(again)
        assert set(study.shown()) > {"prompt"}
