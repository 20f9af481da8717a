"""Mixtures and SHP's rules: shares by hand, and filters that only ever take away."""

import numpy as np
import pytest

from repro.core import settings
from repro.core.errors import SettingsError
from repro.papers import mixtures
from repro.papers.mixtures import KEPT, LENGTH, LONGER, PAIRS, RIGHT, Votes
from repro.world import sources


def section(**changes):
    return settings.load("smoke", changes, "p2_01_preference_data").section("p2_01_preference_data")


def test_qualities_by_hand():
    """Longer and right; shorter and wrong; equal in both."""
    found = mixtures.qualities(np.array([[9.0, 4], [4, 9], [5, 5]]), np.array([[2.0, 1], [1, 2], [1, 1]]))
    assert found[LONGER].tolist() == [100, 0, 50] and found[LENGTH].tolist() == [5, -5, 0]
    assert found[RIGHT][:2].tolist() == [100, 0] and np.isnan(found[RIGHT][2])


def test_a_mixture_is_composed_in_the_papers_proportions():
    found = mixtures.mixtures(["mix1", "mix2"], section(rows=800), [0])
    for name, mixture in found.items():
        sizes = sources.sizes(name, 800)
        assert mixture.composition("source") == pytest.approx({key: size / 8 for key, size in sizes.items()})
        for part in mixtures.PARTS:
            assert sum(mixture.composition(part).values()) == pytest.approx(100)
    assert "weak judge" in found["mix2"].composition("annotator")
    assert "weak judge" not in found["mix1"].composition("annotator")
    rows = mixtures.mixture_records(found, 50, [0]) + mixtures.composition_records(found, 50, [0])
    assert len({(each.id, each.row, each.column) for each in rows}) == len(rows)
    assert all(each.low <= each.value <= each.high for each in rows)


def test_an_unknown_mixture_is_named():
    with pytest.raises(SettingsError, match="(?s)mix3.*choose from mix1, mix2"):
        mixtures.mixtures(["mix3"], section(), [0])


def test_ratio_and_cap_by_hand():
    """Post 0: 4 to 2, 3 to 2, 6 to 1, 4 to 1; post 1: 2 to 1."""
    votes = Votes(np.array([0, 0, 0, 0, 1]), np.array([[4, 2], [3, 2], [6, 1], [4, 1], [2, 1]]), {})
    assert votes.chosen(1, None).all()
    assert votes.chosen(2, None).tolist() == [True, False, True, True, True]
    assert votes.chosen(3, None).tolist() == [False, False, True, True, False]
    assert votes.chosen(2, 2).tolist() == [True, False, True, False, True]
    assert votes.chosen(3, 1).tolist() == [False, False, True, False, False]


def test_votes_have_a_winner_and_something_said():
    found = mixtures.voted(20, 8, 0)
    assert (found.votes[:, 0] > found.votes[:, 1]).all() and (found.votes >= 1).all()
    assert len(found.posts) <= 20 * 28 and set(found.posts) == set(range(20))
    again, other = mixtures.voted(20, 8, 0), mixtures.voted(20, 8, 1)
    assert np.array_equal(found.votes, again.votes) and not np.array_equal(found.posts, other.posts)


def test_a_post_keeps_pairs_of_more_than_its_first_answer():
    """Pairs stand in random order: in order, a cap of five would keep the first answer's pairs alone."""
    found = mixtures.voted(40, 8, 0)
    first = np.array([found.votes[np.flatnonzero(found.posts == post)[0]].sum() for post in range(40)])
    assert len(set(first.tolist())) > 3


def test_stricter_rules_keep_fewer_and_the_table_says_so():
    rows = {(each.row, each.column): each for each in mixtures.shp(section(shp_posts=150), [0, 1])}

    def at(ratio, cap, column):
        return rows[f"ratio at least {ratio}, {'no cap' if cap is None else f'at most {cap} a post'}", column].value

    assert at(1, None, KEPT) == 100
    for cap in (1, 5, None):
        assert at(1, cap, PAIRS) >= at(2, cap, PAIRS) >= at(3, cap, PAIRS)
    for ratio in (1, 2, 3):
        assert at(ratio, 1, PAIRS) <= 1 and at(ratio, 5, PAIRS) <= 5 and at(ratio, 1, KEPT) < at(ratio, 5, KEPT)
    # with Bradley-Terry voters a wider margin is surer; 13 points of 8 answers to 300 posts are not noise
    assert at(3, None, RIGHT) > at(1, None, RIGHT) > 50
