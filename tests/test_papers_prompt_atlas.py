"""The prompt atlas: the same each time, topics that are there are found, and words that name them by hand."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
from safetensors.numpy import load_file

from repro.core import artifacts, settings
from repro.core.errors import DataError
from repro.data import Pair
from repro.models.features import stored
from repro.papers import prompt_atlas
from repro.papers.prompt_atlas import Atlas
from repro.report import figures


def section(**changes):
    return settings.load("smoke", changes, "p2_01_preference_data").section("p2_01_preference_data")


@pytest.fixture(autouse=True)
def own_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path))


def blobs(count=40, groups=4, width=6):
    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(groups), count)
    return np.eye(width)[truth] * 5 + rng.normal(0, 0.1, (len(truth), width)), truth


def test_the_silhouette_finds_as_many_groups_as_there_are():
    values, truth = blobs()
    topics, tried = prompt_atlas.clusters(values, [2, 3, 4, 5, 6], 1000, 0)
    assert max(tried, key=tried.get) == 4
    assert len({(a, b) for a, b in zip(topics, truth, strict=True)}) == 4


def test_the_largest_topic_comes_first():
    values, _ = blobs()
    topics, _ = prompt_atlas.clusters(values[: 40 + 40 + 20], [3], 1000, 0)
    sizes = np.bincount(topics)
    assert sizes.tolist() == sorted(sizes, reverse=True) == [40, 40, 20]


def test_topic_names_by_hand():
    """`cat` is all of topic 0's own words and none of topic 1's; `pay` is in both; stop words and numbers name nothing."""
    texts = ["The cat pay", "a cat cat", "bank pay 12", "the bank bank bank"]
    assert prompt_atlas.topic_names(texts, [0, 0, 1, 1], 1) == ["cat", "bank"]
    assert prompt_atlas.topic_names(texts, [0, 0, 1, 1], 9) == ["cat, pay", "bank, pay"]
    assert prompt_atlas.topic_names(["12 7", "the"], [0, 1], 3) == ["no words", "no words"]


def test_the_weight_is_class_tf_idf():
    """Shares 3/4 and 1/4; A = 4 words a topic; `a..` stands 3 times in all, `b..` 5: 0.75 log(1 + 4/3) > 0.25 log(1 + 4/5)."""
    assert prompt_atlas.topic_names(["aaa aaa aaa bbb", "bbb bbb bbb bbb"], [0, 1], 2) == ["aaa, bbb", "bbb"]


def made(topics, categories, texts=None):
    n = len(topics)
    names = [f"words {k}" for k in range(max(topics) + 1)]
    return Atlas(
        texts or [f"t{k}" for k in range(n)], ["s"] * n, categories, np.zeros((n, 2)), np.array(topics), {2: 0.5}, names
    )


def test_agreement_is_one_for_the_truth_and_nothing_by_chance():
    truth = ["a", "b", "c", "d"] * 60
    same = prompt_atlas.agreement([made([0, 1, 2, 3] * 60, truth)], "categories", 50)
    assert (same.value, same.low, same.high) == (1, 1, 1) and same.n == 240
    rng = np.random.default_rng(0)
    chance = prompt_atlas.agreement([made(rng.integers(4, size=240).tolist(), truth)], "categories", 50)
    assert abs(chance.value) < 0.03
    mostly = [topic if rng.random() < 0.8 else int(rng.integers(4)) for topic in [0, 1, 2, 3] * 60]
    some = prompt_atlas.agreement([made(mostly, truth)], "categories", 200)
    assert (
        some.low < some.value - 0.02 and some.value + 0.02 < some.high
    )  # no draw is nearer the truth by repeating prompts
    both = [made([0, 1, 2, 3] * 60, truth), made(rng.integers(4, size=240).tolist(), truth)]
    assert prompt_atlas.agreement(both, "categories", 50).value == pytest.approx(0.5, abs=0.05)


def test_the_world_has_one_atlas_for_a_seed_and_its_topics_know_categories():
    one, again, other = (prompt_atlas.world_atlas(section(), seed) for seed in (0, 0, 1))
    assert np.array_equal(one.places, again.places) and one.labels == again.labels and one.texts != other.texts
    assert one.texts == sorted(set(one.texts)) and len(one.sources) == len(one.texts) == len(one.places)
    assert set(one.silhouette) == {8, 10} and len(one.names) in (8, 10)
    assert len(set(one.sources)) == 6
    assert prompt_atlas.agreement([one], "categories", 50).low > 0.2
    rows = prompt_atlas.topic_records({"world": [one, other]}, section(), [0, 1])
    assert {each.column for each in rows} >= {
        "topics",
        "silhouette",
        "agreement with source",
        "agreement with category",
    }
    header, table = prompt_atlas.within_topics(one)
    assert len(header) == 4 and sum(int(line[1]) for line in table) == len(one.texts)


def test_a_map_is_drawn_again_with_the_same_points():
    texts = sorted(
        {f"what is {a} plus {b}" for a in ("ant", "bee", "cat", "dog") for b in ("one", "two", "six", "ten", "nil")}
    )
    call = {
        "settings": section().pick(*prompt_atlas.MAP_SETTINGS),
        "inputs": {"texts": stored("texts", texts)},
        "seed": 3,
    }
    first = artifacts.run(prompt_atlas.draw_map, **call)
    job = artifacts.Job(first.path.parent / "twice", first.path, call["settings"], call["inputs"], 3)
    job.out.mkdir()
    prompt_atlas.draw_map(job)
    one, two = (load_file(folder / prompt_atlas.FILE) for folder in (first.path, job.out))
    assert np.array_equal(one["places"], two["places"]) and np.array_equal(one["topics"], two["topics"])
    assert json.loads((first / "silhouette.json").read_text()).keys() == {"8", "10"}


def test_too_few_prompts_and_no_real_prompt_are_errors():
    with pytest.raises(DataError, match="different prompts for 10 topics"):
        prompt_atlas.world_atlas(section(atlas_prompts=6), 0)
    with pytest.raises(DataError, match="1 different prompts for 4 topics"):
        prompt_atlas.clusters(np.ones((9, 3)), [2, 4], 9, 0)
    with pytest.raises(DataError, match="no real prompt"):
        prompt_atlas.real_atlas([], section(), settings.load("smoke").section("p2_02_reward_models"), 0)


def test_real_prompts_use_each_set_alike_and_the_first_turn(monkeypatch):
    def table(texts, _encoder):
        from types import SimpleNamespace

        from safetensors.numpy import save_file

        folder = stored("texts", texts).path.parent / "fake"
        folder.mkdir(exist_ok=True)
        values = np.array([[len(text), text.count("a"), hash_of(text)] for text in texts], dtype=np.float32)
        save_file({"values": values}, folder / "features.safetensors")
        return SimpleNamespace(artifact=artifacts.external(folder))

    def hash_of(text):
        return sum(map(ord, text)) % 17

    monkeypatch.setattr(prompt_atlas, "feature_table", table)
    pairs = [
        Pair((("user", f"{'a' * (k % 5)} b{k}"), ("assistant", "no"), ("user", "z")), "x", "y", "large")
        for k in range(90)
    ]
    pairs += [Pair((("user", f"c{k}"),), "x", "y", "small") for k in range(10)]
    pairs += [Pair((("user", f"d{k}"),), "x", "y", f"llmbar/{k}") for k in range(9)]
    found = prompt_atlas.real_atlas(pairs, section(atlas_prompts=60), None, 0)
    assert (
        found.sources.count("large") == 20
        and found.sources.count("small") == 10
        and found.sources.count("llmbar") == 9
        and found.categories is None
    )
    assert all("z" not in text for text in found.texts)


def test_hostile_names_show_as_text_and_groups_keep_apart():
    places, labels = np.random.default_rng(0).normal(size=(20, 2)), [f"${k}_{{$ <b>" for k in range(20)]
    with figures.canvas(columns=2) as (figure, (left, right)):
        figures.atlas(places, labels, left)
        figures.stacked({"a": {"x": 1.0, "y": 2.0}, "b": {"y": 3.0}}, right)
        figure.canvas.draw()
        assert [text.get_text() for text in left.get_legend().get_texts()] == sorted(labels)
        looks = {(str(c.get_facecolor()), c.get_paths()[0].vertices.shape) for c in left.collections}
        assert len(looks) >= 16
        widths = [bar.get_width() for bar in right.patches]
        assert widths == [1.0, 0.0, 2.0, 3.0] and right.patches[2].get_x() == 1.0 and right.patches[3].get_x() == 0.0
        plt.close(figure)
