"""p1_02's contrast on real labels: what each arm learns from, no prompt on both sides, and the power's arithmetic."""

from collections import Counter

import numpy as np
import pytest

from repro.core import settings
from repro.core.errors import DataError
from repro.core.paths import data_folder, models_folder
from repro.data import Pair
from repro.data.pandalm import GPT, Comparison
from repro.papers import real_labels
from repro.papers.real_labels import ARMS, CONTRASTS, PANDALM, PART, PEOPLE, SELECTED, SHUFFLED, STEP3, STEP4, TESTS


def comparison(k, people, judge):
    return Comparison((("user", f"prompt {k}"),), (f"first {k}", f"second {k}"), people, {GPT: judge})


SAID = [((1, 1, 1), 1), ((2, 2, 2), 1), ((1, 1, 2), 2), ((0, 0, 0), 1), ((0, 1, 2), 2), ((2, 2, 0), 2)]


@pytest.fixture
def comparisons():
    return [comparison(k, *SAID[k % len(SAID)]) for k in range(24)]


def firsts(pairs):
    """Whether the first answer is the chosen one, by prompt."""
    return {pair.prompt[0][1]: pair.chosen.startswith("first") for pair in pairs}


def test_each_arm_changes_one_thing(comparisons):
    sets = real_labels.training_sets(comparisons, 0)
    assert list(sets) == list(ARMS)
    assert {arm: len(pairs) for arm, pairs in sets.items()} == {
        STEP3: 24, STEP4: 8, PART: 8, SELECTED: 8, PEOPLE: 16, SHUFFLED: 24,
    }  # fmt: skip
    step3, step4, selected = (firsts(sets[arm]) for arm in (STEP3, STEP4, SELECTED))
    assert Counter(step3.values()) == {True: 12, False: 12}
    assert set(step4) == set(selected) and selected == {name: step3[name] for name in selected}
    assert Counter(step4.values()) == {True: 4, False: 4} and set(selected.values()) == {True}
    part, shuffled = firsts(sets[PART]), firsts(sets[SHUFFLED])
    assert part == {name: step3[name] for name in part}
    assert set(shuffled) == set(step3) and shuffled != step3
    assert firsts(sets[PEOPLE])["prompt 2"] is True and "prompt 3" not in firsts(sets[PEOPLE])


def test_arms_differ_by_seed_only_where_they_draw(comparisons):
    one, other = (real_labels.training_sets(comparisons, seed) for seed in (0, 1))
    assert [arm for arm in ARMS if one[arm] != other[arm]] == [PART, SHUFFLED]
    assert real_labels.training_sets(comparisons, 1) == other


def test_without_agreement_there_is_no_step_4():
    with pytest.raises(DataError, match="agree on no pair"):
        real_labels.training_sets([comparison(0, (0, 0, 0), 1)], 0)


class Spy:
    """A reward model that prefers first answers, remembers its training prompts, and whom it judged."""

    def __init__(self, pairs):
        self.training = {pair.prompt for pair in pairs}

    def score(self, prompts, answers, encoded):
        self.judged = list(prompts)
        return np.array([float(answer.startswith("first")) for answer in answers])


@pytest.fixture
def found(comparisons):
    tests = {PANDALM: [each.pair(each.majority) for each in comparisons if each.majority]}
    for name in TESTS[1:]:
        tests[name] = [Pair((("user", f"{name} {k}"),), "first a", "second b", name) for k in range(5)]
    return real_labels.Labelled(comparisons, tests, None, {})


def test_pandalm_is_judged_out_of_fold(found, monkeypatch):
    """Every model sees all test pairs, and what counts on PandaLM is the one model that saw nothing of the prompt."""
    encoder = settings.load("smoke").section("p2_02_reward_models")
    spies = []
    monkeypatch.setattr(real_labels, "reward_model", lambda pairs, *_: spies.append(Spy(pairs)) or spies[-1])

    def judged(model, pairs, encoded):
        return np.array([np.nan if pair.prompt in model.training else 1.0 for pair in pairs])

    monkeypatch.setattr(real_labels, "_outcomes", judged)
    result = real_labels.outcomes(found, encoder, 3)
    assert len(spies) == encoder.folds * len(ARMS)
    assert all(np.isfinite(result[arm][test]).all() for arm in ARMS for test in TESTS)
    assert any(pair.prompt in spy.training for spy in spies for pair in found.tests[PANDALM])


def test_outcomes_are_people_s_majority(found, monkeypatch):
    """A model that prefers first answers is right where the majority names them: (1,1,1) and (1,1,2), half of four."""
    encoder = settings.load("smoke").section("p2_02_reward_models")
    monkeypatch.setattr(real_labels, "reward_model", lambda pairs, *_: Spy(pairs))
    results = real_labels.contrast(found, encoder, [0, 1])
    assert results.interval(STEP3, PANDALM).value == pytest.approx(50)
    assert all(results.interval(STEP4, test).value == 100 for test in TESTS[1:])
    assert all(results.gain(name, PANDALM).value == 0 for name in CONTRASTS)
    assert results.spread("step 4 less step 3", PANDALM) == (0.0, 0.0)
    rows = real_labels.accuracy_records(found, results)
    assert {row.row for row in rows} == {*ARMS, "pick the longer", "random"}
    assert len(real_labels.contrast_records(results)) == len(CONTRASTS) * len(TESTS)


def test_review_shares_by_hand(found):
    """Of six kinds of row: people agree in two, once with and once against the judge; in four they differ or tie."""
    shares = {row.row: row.value for row in real_labels.review(found)}
    assert shares["people differ or tie"] == pytest.approx(100 * 4 / 6)
    assert shares["people agree, with the judge"] == shares["people agree, against the judge"] == pytest.approx(100 / 6)


def test_numbers_needed_by_hand():
    """(1.960 + 0.842)^2 = 7.849: an effect of one deviation needs 8 differences, of half of one 32."""
    assert real_labels.needed(1.0, 1.0) == 8 and real_labels.needed(2.0, 1.0) == 32
    assert real_labels.needed(0.0, 1.0) == 0
    with pytest.raises(DataError):
        real_labels.needed(1.0, 0.0)


def test_the_spread_is_of_prompts_and_of_seeds():
    """Two prompts, the first with two pairs: differences 1, 0 and 1 in one seed, 1, 0, 0 in the other."""
    first = np.array([[1.0, 0, 1], [1, 0, 0]])
    outcomes = {arm: {PANDALM: np.zeros((2, 3))} for arm in ARMS} | {STEP4: {PANDALM: first}}
    results = real_labels.Contrast(outcomes, {PANDALM: ["a", "a", "b"]}, (0, 1))
    by_prompt, by_seed = results.spread("step 4 less step 3", PANDALM)
    assert by_prompt == pytest.approx(0.0) and by_seed == pytest.approx(100 * np.std([2 / 3, 1 / 3], ddof=1))
    rows = {(row.column): row.value for row in real_labels.power_records(_only(results), 1.0) if row.row == PANDALM}
    assert rows["# prompts here"] == 2 and rows["# prompts needed"] == 0


def _only(results):
    """The same contrast with the other test sets empty of difference."""
    zeros = {test: np.zeros((2, 3)) for test in TESTS[1:]}
    outcomes = {arm: {**zeros, **tests} for arm, tests in results.outcomes.items()}
    return real_labels.Contrast(
        outcomes, results.prompts | {test: ["a", "b", "c"] for test in TESTS[1:]}, results.seeds
    )


@pytest.mark.skipif(data_folder() is None or models_folder() is None, reason="no data or encoder on this machine")
def test_the_real_pairs_go_through_at_smoke(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    tier = settings.load("smoke")
    own, encoder = (tier.section(name) for name in ("p1_02_reward_models", "p2_02_reward_models"))
    found = real_labels.labelled(own, encoder)
    assert len(found.comparisons) <= own.real_pairs and len(found.tests[TESTS[1]]) == own.real_test_pairs
    assert found.tallies["pandalm"]["rows"] == own.real_pairs
    assert found.tallies["pandalm"]["rows"] + sum(found.tallies["pandalm"]["set_aside"].values()) == 999
    assert found.tallies["pandalm, to test"]["rows"] == len(found.tests[PANDALM])
    begun = {real_labels.opening(each.prompt) for each in found.comparisons}
    assert all(not begun & set(found.prompts(test)) for test in TESTS[1:])
    results = real_labels.contrast(found, encoder, [0])
    assert all(0 <= results.interval(arm, test).value <= 100 for arm in ARMS for test in TESTS)
    assert sum(row.value for row in real_labels.review(found)[1:]) == pytest.approx(100)


def test_without_data_the_study_is_left_out_with_a_note(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    tier = settings.load("smoke")
    assert real_labels.at_hand(tier.section("p1_02_reward_models"), tier.section("p2_02_reward_models")) is None
    assert "pandalm" in "".join(capsys.readouterr())
