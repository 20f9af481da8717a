"""Preference data: counts after each rule by hand, lengths by hand, and what is not at hand is named."""

import re

import numpy as np
import pytest

from repro.core import settings
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.data import Pair, miniature
from repro.papers import inputs, preference_data
from repro.papers.preference_data import ALL, KEPT, RULES, Collection
from repro.report import tables
from repro.world import sources


def row(chosen, rejected, annotator="human", scores=None, prompt="Why?"):
    extras = {"annotator": annotator} | ({"scores": scores} if scores else {})
    return {"prompt": (("user", prompt),), "chosen": chosen, "rejected": rejected, "source": "SHP", "extras": extras}


def section(**changes):
    return settings.load("smoke", changes, "p2_01_preference_data").section("p2_01_preference_data")


@pytest.fixture(scope="module")
def found():
    return preference_data.collected(section(rows=3000), [0, 1])


def full(count):
    return [row(f"A{k}.", "B.", "votes", [4.0, 2.0]) for k in range(count)]


def test_each_row_has_the_reason_for_which_it_was_set_aside():
    by_hand = [
        (row("Yes.", "No."), KEPT),
        (row("Yes.", "No."), "repeated"),
        (row("Yes.", "Yes. "), "equal"),
        (row(" ", "No."), "empty"),
        (row("A.", "B.", "judge", [3.0, 3.0]), "tie"),
        (row("A.", "B.", "judge", [3.02, 3.0]), "small margin"),
        (row("A.", "B.", "judge", [4.0, 3.0]), KEPT),
        *[(each, KEPT) for each in full(3)],  # with the two kept above, the prompt has its five
        (full(4)[3], "prompt is full"),
        (full(1)[0], "repeated"),
    ]
    rows = [each for each, _ in by_hand]
    assert preference_data.reasons(rows) == [why for _, why in by_hand]
    assert preference_data.reasons([]) == []


def test_reasons_add_up_to_what_cleaning_tallies(found):
    for name, by_seed in found.rows.items():
        for seed, rows in enumerate(by_seed):
            kept, tally = sources.clean(rows)
            reasons = found.reasons[name][seed]
            assert {why: reasons.count(why) for why in RULES if why in reasons} == tally
            assert found.kept(name)[seed] == kept


def test_counts_after_each_rule_fall_to_the_rows_kept(found):
    rows = {(each.row, each.column): each for each in preference_data.cleaning_records(found, 100)}
    for name in (*sources.TABLE5, ALL):
        left = [rows[name, "# collected"].value, *(rows[name, f"# after {rule}"].value for rule in RULES)]
        assert left == sorted(left, reverse=True) and left[-1] < left[0]
        removed = rows[name, "removed (%)"]
        assert removed.value == pytest.approx(100 * (1 - left[-1] / left[0]))
        assert removed.low <= removed.value <= removed.high
    assert rows[ALL, "# collected"].value == 3000  # a seed
    shown = preference_data.shares_removed(found)
    assert sum(shown[ALL].values()) == pytest.approx(rows[ALL, "removed (%)"].value)
    assert shown["HH-RLHF"]["small margin"] == shown["HH-RLHF"]["tie"] == 0  # people give no scores


def test_removed_counts_prompts_and_is_exact_by_hand():
    """Of four rows of two prompts one is empty: 25 percent, n two."""
    rows = [row("A.", "B."), row("", "B."), row("A.", "B.", prompt="Who?"), row("C.", "B.", prompt="Who?")]
    made = Collection({"SHP": [rows]}, {"SHP": [preference_data.reasons(rows)]}, (0,))
    share = preference_data.removed(made, ["SHP"], 100)
    assert share.value == 25 and share.n == 2


def test_sources_stand_in_the_papers_proportions(found):
    sizes = {name: len(by_seed[0]) for name, by_seed in found.rows.items()}
    assert sizes == sources.sizes("mix2", 3000) and tuple(sizes) == sources.TABLE5
    assert found.rows["HH-RLHF"][0] != found.rows["HH-RLHF"][1]


def test_too_few_rows_for_a_source_name_it():
    with pytest.raises(SettingsError, match="Argilla-Math without any"):
        preference_data.collected(section(rows=100), [0])
    with pytest.raises(SettingsError, match="mix3"):
        miniature.pairs("mix3", 10, 0)


def test_a_line_of_table_5_by_hand():
    """Two prompts, three pairs: means over pairs, as the paper's are."""
    pairs = [
        Pair((("user", "a b"),), "x y z", "x", "s"),
        Pair((("user", "a b"),), "x", "y", "s"),
        Pair((("user", "a"), ("assistant", "b"), ("user", "c d e")), "x y z w v", "x y z w", "s"),
    ]
    rows = {each.column: each for each in preference_data.table_rows("s", [pairs], preference_data.words, 100, [0])}
    assert {name: each.value for name, each in rows.items()} == {
        "#Prompts": 2, "Prompt len": 3, "Preferred len": 3, "Rejected len": 2, "#Pairs": 3,
    }  # fmt: skip
    assert rows["Preferred len"].low < 3 < rows["Preferred len"].high and rows["Preferred len"].n == 2
    with pytest.raises(DataError, match="no pair is left"):
        preference_data.table_rows("s", [[]], preference_data.words, 100, [0])


def test_world_tokens_count_words_digits_and_marks(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))
    monkeypatch.setattr(miniature, "LEXICON", 200)
    unit, count = preference_data.world_tokens(settings.load("smoke").section("world"))
    assert count(["What is 31 plus 67?", "", "What is 31 plus 67?"]).tolist() == [8, 0, 8]
    assert "words" in unit


def test_absent_sets_and_an_absent_tokenizer_are_named(monkeypatch):
    def nowhere(*_):
        raise MissingInput("is not here", where="x")

    monkeypatch.setattr(inputs, "pairs", nowhere)
    monkeypatch.setattr(preference_data, "tokens_of", nowhere)
    real = preference_data.real_sets("some/encoder")
    assert real.pairs == {} and len(real.absent) == 3 and real.records(100) == []
    assert real.unit == "words" and real.count(["two words"]).tolist() == [2]


def test_makers_stand_beside_the_papers():
    rows = {each[0]: each[1:] for each in preference_data.makers()}
    assert tuple(rows) == sources.TABLE5
    assert rows["SHP"][1:] == ["Human", "votes", "Human"] and rows["CodeUltraFeedback"][3] == "GPT-3.5"


def test_columns_of_counts_have_no_decimals_and_context_can_be_left_out(found):
    made = [miniature.as_pairs(rows) for rows in found.kept("SHP")]
    rows = preference_data.table_rows("SHP", made, preference_data.words, 100, [0, 1])
    options = {"id": "p2.table5", "caption": "c", "match": {"SHP": "SHP"}}
    shown = tables.beside_published(rows, **options, context=False)["text/html"]
    assert "31,003<" in shown and "186.2<" in shown and "HelpSteer" not in shown
    assert "HelpSteer" in tables.beside_published(rows, **options)["text/html"]
    assert re.search(r"ours</td><td>[\d,]+</td><td>\d+\.\d \[", shown)
    assert np.isfinite([each.value for each in rows]).all()
