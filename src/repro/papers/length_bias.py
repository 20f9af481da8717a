"""p2.fig3 on real text: do reward models like long answers, and does it come from the preferences they learnt from?

Two reward models, trained alike on equally many pairs of one source; in one set the longer answer was preferred in a stated
share of the pairs, in the other in half of them. Both score the same real answers of many models to each prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import Pair, alpaca_eval
from repro.data.schema import Answer
from repro.evaluate.length_bias import LengthBias, LengthHeatmap, length_correlations, length_heatmap
from repro.models.load import load_tokenizer
from repro.papers import inputs
from repro.papers.reward_models import BEYOND, HEAD, HELPFUL, RealText, opening, trained
from repro.train.pairs import longer_share, with_longer_share
from repro.train.reward import EncodedTexts, RewardModel, encode_conversations
from repro.train.reward_tokens import TokenRewardModel

LONG, EVEN = "longer preferred", "balanced"
MODELS = (LONG, EVEN)


@dataclass(frozen=True)
class AnswerPool:
    """Real answers by prompt and model: texts (prompts, models), None where a model gave none; their features."""

    models: list[str]
    prompts: list[tuple]
    indices: list[int]
    tally: dict
    texts: list[list[str | None]]
    encoded: EncodedTexts | None
    too_long: frozenset[str]

    def lengths(self) -> np.ndarray:
        """Characters of each answer, nan where there is none: (prompts, models)."""
        return np.array([[np.nan if text is None else len(text) for text in row] for row in self.texts])

    def cut(self) -> np.ndarray:
        """Whether the reward model's cap cut the answer: (prompts, models), False where there is none."""
        return np.array([[text in self.too_long for text in row] for row in self.texts])

    def scores(self, model: RewardModel | TokenRewardModel) -> np.ndarray:
        """The reward of each answer, nan where there is none: (prompts, models)."""
        places = [(i, j) for i, row in enumerate(self.texts) for j, text in enumerate(row) if text is not None]
        rewards = model.score([self.prompts[i] for i, _ in places], [self.texts[i][j] for i, j in places], self.encoded)
        found = np.full((len(self.texts), len(self.models)), np.nan)
        found[tuple(np.transpose(places))] = rewards
        return found


def answer_pool(settings: Section, encoder: Section) -> AnswerPool:
    """All models' answers to the first `pool_prompts` AlpacaEval prompts (None for all), encoded once as `encoder` says; no attack on the judge.

    Raises MissingInput without the data.
    """
    folder = inputs.required(alpaca_eval.NAME).path.parent
    loaded = alpaca_eval.load(folder, also_annotated=True)
    answers: Sequence[Answer] = loaded.rows
    count = settings.pool_prompts
    models = list(dict.fromkeys(answer.model for answer in answers))
    prompts = dict(
        sorted(
            {
                answer.extras["index"]: answer.prompt
                for answer in answers
                if count is None or answer.extras["index"] < count
            }.items()
        )
    )
    place = {index: row for row, index in enumerate(prompts)}
    texts: list[list[str | None]] = [[None] * len(models) for _ in prompts]
    for answer in answers:
        if answer.extras["index"] in place:
            texts[place[answer.extras["index"]]][models.index(answer.model)] = answer.text
    asked = [turns for turns, row in zip(prompts.values(), texts, strict=True) for text in row if text is not None]
    given = [text for row in texts for text in row if text is not None]
    encoded = encode_conversations(asked, given, encoder) if encoder.trainable == HEAD else None
    return AnswerPool(
        models,
        list(prompts.values()),
        list(prompts),
        inputs.counted(loaded),
        texts,
        encoded,
        _too_long(given, encoded, encoder),
    )


def _too_long(texts: Sequence[str], encoded: EncodedTexts | None, encoder: Section) -> frozenset[str]:
    """The answers with more tokens than the cap."""
    if encoded is not None:
        counts = encoded.answers.tokens[encoded.answers.places(texts)]
    else:
        counts = [len(ids) for ids in load_tokenizer(encoder.model)(list(texts), verbose=False)["input_ids"]]
    return frozenset(text for text, count in zip(texts, counts, strict=True) if count > encoder.max_tokens)


def training_sets(text: RealText, pool: AnswerPool, settings: Section, seed: int) -> dict[str, list[Pair]]:
    """Pairs that begin with none of the pool's prompts, in two sets of equally many helpful pairs of one source: longer preferred in `longer_share` of them, and in half."""
    asked = {opening(turns) for turns in pool.prompts}
    source = [pair for pair in text.pairs[HELPFUL] + text.pairs[BEYOND] if opening(pair.prompt) not in asked]
    count = min(settings.pairs_each, _most(source, settings.longer_share), _most(source, 0.5))
    return {
        LONG: with_longer_share(source, settings.longer_share, count, seed),
        EVEN: with_longer_share(source, 0.5, count, seed),
    }


def _most(pairs: Sequence[Pair], share: float) -> int:
    """The most pairs that can be drawn with that share of longer winners."""
    longer = sum(len(pair.chosen) > len(pair.rejected) for pair in pairs)
    shorter = sum(len(pair.chosen) < len(pair.rejected) for pair in pairs)
    return int(min(longer / share, shorter / (1 - share))) - 1


@dataclass(frozen=True)
class LengthStudy:
    """Per model, each seed's correlations and the heatmap of their mean over seeds; the training sets' longer share."""

    correlations: dict[str, np.ndarray]
    by_cut: dict[tuple[str, bool], np.ndarray]
    share_cut: float
    heatmaps: dict[str, LengthHeatmap]
    shares: dict[str, float]
    pairs: int
    prompts: int
    answers: int
    models: int
    seeds: tuple[int, ...]

    def mean(self, model: str) -> Interval:
        """Mean coefficient over prompts and seeds."""
        return mean_interval(self.correlations[model])

    def difference(self) -> Interval:
        """How much more the one trained on longer winners likes length, paired by prompt and seed."""
        return difference_interval(self.correlations[LONG], self.correlations[EVEN])

    def within(self, model: str, cut: bool) -> Interval:
        """Mean coefficient among the answers that the encoder reads whole, or among those that it cuts."""
        return mean_interval(self.by_cut[model, cut])

    def cut_records(self) -> list[Record]:
        """How far the encoder's cap hides length: the coefficients among answers it reads whole and among those it cuts."""
        names = {False: "answers read whole", True: "answers cut"}
        rows = [
            record("p2_03.cap", model, names[cut], self.within(model, cut), seeds=self.seeds)
            for model, cut in self.by_cut
        ]
        for cut, name in names.items():
            apart = difference_interval(self.by_cut[LONG, cut], self.by_cut[EVEN, cut])
            rows.append(record("p2_03.cap", "difference", name, apart, seeds=self.seeds))
        return rows

    def records(self) -> list[Record]:
        """p2.fig3's mean coefficients, and their difference."""
        rows = [record("p2.fig3", model, "mean coefficient", self.mean(model), seeds=self.seeds) for model in MODELS]
        return [*rows, record("p2.fig3", "difference", "mean coefficient", self.difference(), seeds=self.seeds)]


def _correlate(rewards: np.ndarray, lengths: np.ndarray, among: np.ndarray) -> LengthBias:
    """Correlations among some of the answers."""
    return length_correlations(np.where(among, rewards, np.nan), np.where(among, lengths, np.nan))


def study(
    text: RealText, pool: AnswerPool, settings: Section, reward_settings: Section, seeds: Sequence[int]
) -> LengthStudy:
    """Train both models for every seed and correlate their rewards with length, prompt by prompt."""
    models = [place for place, name in enumerate(pool.models) if name != alpaca_eval.ONLY_ANNOTATED]
    lengths, cut = pool.lengths()[:, models], pool.cut()[:, models]
    present = np.isfinite(lengths)
    among = {None: present, False: present & ~cut, True: present & cut}
    found: dict[tuple[str, bool | None], list[LengthBias]] = {}
    for seed in seeds:
        sets = training_sets(text, pool, settings, seed)
        for model, pairs in sets.items():
            rewards = pool.scores(trained(pairs, text.encoded, reward_settings, seed))[:, models]
            for part, kept in among.items():
                found.setdefault((model, part), []).append(_correlate(rewards, lengths, kept))
    stacked = {name: np.stack([bias.correlation for bias in biases]) for name, biases in found.items()}
    heatmaps = {
        model: length_heatmap(
            replace(found[model, None][0], correlation=stacked[model, None].mean(axis=0)), settings.length_edges
        )
        for model in MODELS
    }
    return LengthStudy(
        correlations={model: stacked[model, None] for model in MODELS},
        by_cut={(model, part): stacked[model, part] for model in MODELS for part in (False, True)},
        share_cut=float(cut[present].mean()),
        heatmaps=heatmaps,
        shares={model: longer_share(pairs) for model, pairs in sets.items()},
        pairs=len(sets[LONG]),
        prompts=len(lengths),
        answers=int(present.sum()),
        models=len(models),
        seeds=tuple(seeds),
    )
