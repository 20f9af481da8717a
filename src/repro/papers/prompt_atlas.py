"""p2.fig5: prompts on a plane, coloured by where they come from and by topics that clustering finds.

The world's prompts are embedded by their words (TF-IDF, then a truncated SVD), real ones by the frozen encoder of
p2_02 (its features' first principal components). Topics are k-means clusters of the embedding, as many as the silhouette likes best; the plane is t-SNE's, which no
topic is read from. In the world every prompt's category is known, so the topics can be compared with the truth.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load_file, save_file

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.errors import DataError, MissingInput
from repro.core.progress import progress
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import LEVEL, Interval
from repro.data import Pair, llmbar
from repro.models.features import feature_table, stored
from repro.papers import inputs
from repro.world import sources

MAP_SETTINGS = ("dimension", "topics", "perplexity", "silhouette_prompts")
WORDS = r"(?u)\b[a-z]{3,}\b"  # numbers and single letters name no topic
FILE = "map.safetensors"


@dataclass(frozen=True)
class Atlas:
    """Distinct prompts with their source and, in the world, category; (prompts, 2) places; (prompts,) topics.

    silhouette: mean over prompts, by the number of topics tried; names: the topics' words, by topic.
    """

    texts: list[str]
    sources: list[str]
    categories: list[str] | None
    places: np.ndarray
    topics: np.ndarray
    silhouette: dict[int, float]
    names: list[str]

    @property
    def labels(self) -> list[str]:
        """Each prompt's topic by number and words."""
        return [self.topic_labels[topic] for topic in self.topics]

    @property
    def topic_labels(self) -> list[str]:
        """Every topic by number and words, the largest first."""
        return [f"{topic + 1} {words}" for topic, words in enumerate(self.names)]


def world_atlas(settings: Section, seed: int) -> Atlas:
    """The atlas of `atlas_prompts` training prompts, as many from each of the six sets of iterative DPO (p2.fig5)."""
    names, asked = list(sources.PROMPTS), []
    each = max(1, settings.atlas_prompts // len(names))
    for place, name in enumerate(names):  # seeds apart: one seed would ask two sets the same things
        drawn = sources.prompts(each, "train", seed * len(names) + place, [name])
        asked += [("\n".join(text for _, text in task.turns), name, task.category) for task in drawn]
    found = {text: (name, category) for text, name, category in reversed(asked)}
    texts = sorted(found)
    made = artifacts.run(
        draw_map, settings=settings.pick(*MAP_SETTINGS), inputs={"texts": stored("texts", texts)}, seed=seed
    )
    return _read(made, texts, [found[text][0] for text in texts], [found[text][1] for text in texts], settings)


def real_atlas(pairs: Sequence[Pair], settings: Section, encoder: Section, seed: int) -> Atlas:
    """The atlas of at most `atlas_prompts` real conversations' first turns, encoded as `encoder` says.

    A set gives as many as any other while it has them. Raises MissingInput without the encoder, DataError without pairs.
    """
    first = {pair.prompt[0][1]: _set_of(pair.source) for pair in reversed(pairs)}
    by_source: dict[str, list[str]] = {}
    for text, name in sorted(first.items()):
        by_source.setdefault(name, []).append(text)
    if not by_source:
        raise DataError("no real prompt to draw", where="real_atlas", fix="see which sets are at hand")
    each = -(-settings.atlas_prompts // len(by_source))
    texts = sorted(text for found in by_source.values() for text in inputs.sample(found, each, seed))
    table = feature_table(texts, encoder)
    given = {"texts": stored("texts", texts), "features": table.artifact}
    made = artifacts.run(draw_map, settings=settings.pick(*MAP_SETTINGS), inputs=given, seed=seed)
    return _read(made, texts, [first[text] for text in texts], None, settings)


def _set_of(source: str) -> str:
    """The name a prompt's source has in the atlas: LLMBar's five small parts are one."""
    return llmbar.NAME if source.startswith(f"{llmbar.NAME}/") else source


def real_atlases(
    pairs: Sequence[Pair], settings: Section, encoder: Section, seeds: Sequence[int]
) -> tuple[list[Atlas], str]:
    """The real prompts' atlas for each seed, or none and a sentence that says what is not at hand."""
    if not pairs:
        return [], "No real set of pairs is at hand, so no real prompts are drawn."
    try:
        return [real_atlas(pairs, settings, encoder, seed) for seed in seeds], ""
    except MissingInput:
        return [], f"The encoder {encoder.model} is not at hand, so no real prompts are drawn."


def _read(made: Artifact, texts: list[str], names: list[str], categories: list[str] | None, settings: Section) -> Atlas:
    found = load_file(made / FILE)
    tried = {int(k): float(value) for k, value in json.loads((made / "silhouette.json").read_text()).items()}
    said = topic_names(texts, found["topics"], settings.topic_words)
    return Atlas(texts, names, categories, found["places"], found["topics"], tried, said)


def draw_map(job: Job) -> None:
    """Step: `texts` (a JSON list), with their features in its order or without, to map.safetensors and silhouette.json.

    settings: dimension of the SVD, numbers of topics to try, perplexity of t-SNE, prompts behind a silhouette.
    Raises DataError if there are too few different prompts for the topics.
    """
    from sklearn.manifold import TSNE

    texts = json.loads(job.inputs["texts"].path.read_text())
    settings, seed = job.settings, job.seed or 0
    _check(len(texts), settings.topics)
    if "features" in job.inputs:
        found = load_file(job.inputs["features"] / "features.safetensors")["values"]
        values = reduced_features(found, settings.dimension, seed)
    else:
        values = word_features(texts, settings.dimension, seed)
    topics, tried = clusters(values, settings.topics, settings.silhouette_prompts, seed)
    # PCA begins it, so that far parts of the plane keep some meaning; one thread and one seed give one plane
    perplexity = min(settings.perplexity, (len(texts) - 1) / 3)
    places = TSNE(init="pca", perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(values)
    save_file({"places": places.astype(np.float32), "topics": topics.astype(np.int64)}, job.out / FILE)
    (job.out / "silhouette.json").write_text(json.dumps(tried))


def word_features(texts: Sequence[str], dimension: int, seed: int) -> np.ndarray:
    """TF-IDF of words and pairs of words, reduced by a truncated SVD, of unit length: (texts, at most `dimension`)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    counted = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2).fit_transform(texts)
    size = min(dimension, min(counted.shape) - 1)
    return normalize(TruncatedSVD(size, random_state=seed).fit_transform(counted))


def reduced_features(features: np.ndarray, dimension: int, seed: int) -> np.ndarray:
    """An encoder's features on their first principal components, of unit length: (texts, at most `dimension`)."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    size = min(dimension, *features.shape)
    return normalize(PCA(size, random_state=seed).fit_transform(normalize(features.astype(float))))


def clusters(values: np.ndarray, numbers: Sequence[int], sample: int, seed: int) -> tuple[np.ndarray, dict[int, float]]:
    """k-means for the number of clusters of highest mean silhouette, the largest cluster first; and every silhouette.

    values: (texts, width); sample: texts behind a silhouette, at most. Returns clusters (texts,). Raises DataError if
    fewer texts differ than there are to be clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    _check(len(np.unique(values.round(6), axis=0)), numbers)
    found, tried = {}, {}
    for k in progress(numbers, label="trying topics"):
        found[k] = KMeans(k, n_init=4, random_state=seed).fit_predict(values)
        tried[k] = float(silhouette_score(values, found[k], sample_size=min(sample, len(values)), random_state=seed))
    best = found[max(tried, key=tried.get)]
    order = np.argsort(-np.bincount(best), kind="stable")
    return np.argsort(order)[best], tried


def _check(different: int, numbers: Sequence[int]) -> None:
    if different <= max(numbers):
        fix = "use more prompts or fewer topics"
        raise DataError(f"{different} different prompts for {max(numbers)} topics", where="prompt_atlas", fix=fix)


def topic_names(texts: Sequence[str], topics: Sequence[int], count: int) -> list[str]:
    """The `count` most characteristic words of each topic, by class TF-IDF (Grootendorst 2022).

    A word's weight in a topic is its share of the topic's words times log(1 + A / f): A is the mean number of words of a
    topic, f the word's number in all of them. English stop words are left out.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    topics = np.asarray(topics)
    merged = [" ".join(text for text, at in zip(texts, topics, strict=True) if at == k) for k in range(max(topics) + 1)]
    try:
        counter = CountVectorizer(token_pattern=WORDS, stop_words="english")
        counted = counter.fit_transform(merged).toarray().astype(float)
    except ValueError:  # nothing but numbers and stop words
        return ["no words"] * len(merged)
    names, total = counter.get_feature_names_out(), counted.sum(axis=1, keepdims=True)
    weight = counted / np.maximum(total, 1) * np.log1p(total.mean() / counted.sum(axis=0))
    best = np.argsort(-weight, axis=1, kind="stable")[:, :count]
    return [
        ", ".join(names[i] for i in row if weights[i] > 0) or "no words"
        for row, weights in zip(best, weight, strict=True)
    ]


# how well topics match what is known


def agreement(atlases: Sequence[Atlas], known: str, draws: int) -> Interval:
    """Adjusted mutual information of topics with `sources` or `categories`: 0 by chance, 1 if they are the same.

    The mean over the atlases. The interval is over prompts, topics kept as they are, by random halves without
    replacement, whose error about the whole is the whole's own: a bootstrap's repeated prompts would agree with themselves.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    rng = np.random.default_rng(0)
    sides = [(np.unique(getattr(atlas, known), return_inverse=True)[1], atlas.topics) for atlas in atlases]

    def mean(share: float) -> float:
        picked = [rng.permutation(len(topics))[: round(share * len(topics))] for _, topics in sides]
        both = zip(sides, picked, strict=True)
        return float(np.mean([adjusted_mutual_info_score(truth[at], topics[at]) for (truth, topics), at in both]))

    value, halves = mean(1.0), np.array([mean(0.5) for _ in range(draws)])
    low, high = value + np.quantile(halves - halves.mean(), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(min(low, value)), float(max(high, value)), sum(len(atlas.texts) for atlas in atlases))


def topic_records(atlases: dict[str, Sequence[Atlas]], settings: Section, seeds: Sequence[int]) -> list[Record]:
    """p2_01.topics: by set of prompts, the number of topics, their silhouette, and agreement with what is known."""
    rows = []
    for name, found in atlases.items():
        options = {"seeds": seeds, "n": sum(len(atlas.texts) for atlas in found)}
        best = [max(atlas.silhouette.values()) for atlas in found]
        columns: dict[str, Interval | float] = {"topics": float(np.mean([len(atlas.names) for atlas in found]))}
        columns["silhouette"] = float(np.mean(best))
        columns["agreement with source"] = agreement(found, "sources", settings.draws)
        if all(atlas.categories for atlas in found):
            columns["agreement with category"] = agreement(found, "categories", settings.draws)
        rows += [record("p2_01.topics", name, column, value, **options) for column, value in columns.items()]
    return rows


def within_topics(atlas: Atlas) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: each topic's words, prompts, commonest source and category with their shares."""
    header = ["topic", "prompts", "commonest source", *(["commonest category"] if atlas.categories else [])]
    rows = []
    for topic, words in enumerate(atlas.topic_labels):
        members = np.flatnonzero(atlas.topics == topic)
        kinds = [atlas.sources] + ([atlas.categories] if atlas.categories else [])
        rows.append([words, f"{len(members):,}", *(_commonest(kind, members) for kind in kinds)])
    return header, rows


def _commonest(names: Sequence[str], members: np.ndarray) -> str:
    found, counts = np.unique([names[i] for i in members], return_counts=True)
    return f"{found[counts.argmax()]} ({100 * counts.max() / counts.sum():.0f}%)"
