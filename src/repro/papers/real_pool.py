"""What UGDA's real-text half learns from and is judged by: people's pairs, and real models' answers with GPT-4's verdicts.

Training pairs are HH-RLHF's online and rejection-sampled ones; tests are its base splits, of which a part is kept for
validation, and AlpacaEval's answers of nine models, each with GPT-4's recorded preference over one baseline. No
conversation that begins with one of AlpacaEval's prompts is trained or tested on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from repro.core.errors import DataError
from repro.core.settings import Section
from repro.data import Pair, alpaca_eval, hh_rlhf
from repro.data.schema import Turns
from repro.evaluate.preference import pair_outcomes
from repro.models.heads import RewardHead
from repro.papers.best_of_n import judged_pool
from repro.papers.length_bias import AnswerPool, answer_pool
from repro.papers.miniature import concordance
from repro.papers.reward_models import BEYOND, HARMLESS, HEAD, HELPFUL, RealText, opening, real_text
from repro.train.pairs import prompt_folds
from repro.train.reward import EncodedTexts, conversation_text

ORDER, DIRECT = "GPT-4, two models", "GPT-4, model or baseline"
PEOPLE = {HELPFUL: "people, helpful", HARMLESS: "people, harmless"}
TESTS = (ORDER, DIRECT, *PEOPLE.values())
ANSWERS, BASELINE = "answers", "baseline"  # groups of texts
VALIDATION, TEST, CHOSEN, REJECTED = "validation", "test", "chosen", "rejected"


@dataclass(frozen=True)
class Texts:
    """Features of answers and, if the head reads them, of their prompts: (n, width) each."""

    answers: Tensor
    prompts: Tensor | None

    def of(self, places: np.ndarray | Tensor) -> "Texts":
        """Some of the texts."""
        places = torch.as_tensor(places)
        return Texts(self.answers[places], None if self.prompts is None else self.prompts[places])

    def rewards(self, head: RewardHead) -> Tensor:
        """The head's reward of each, (n,)."""
        return head(self.answers, self.prompts)

    def rows(self) -> list[tuple[Tensor, ...]]:
        """Each text's features."""
        return list(zip(*(part for part in (self.answers, self.prompts) if part is not None), strict=True))


@dataclass(frozen=True)
class RealPool:
    """preference: GPT-4's for a model over the baseline, 0..1, and its level 1 to 5, (prompts, models).

    turns: the prompts; said: the models' answers, (prompts x models) in rows; training: pairs of HH-RLHF, with their
    features; prompts: of every test's outcomes; features, lengths (characters): by group of texts.
    """

    models: list[str]
    turns: list[Turns]
    said: list[str]
    preference: np.ndarray
    levels: np.ndarray
    training: list[Pair]
    encoded: EncodedTexts
    prompts: dict[str, list[str]]
    features: dict[str, Texts]
    lengths: dict[str, np.ndarray]
    tallies: dict[str, dict]

    @property
    def groups(self) -> np.ndarray:
        """The prompt of each answer, by its number: (prompts x models,)."""
        return np.repeat(np.arange(len(self.turns)), len(self.models))

    def outcomes(self, scores: Mapping[str, np.ndarray], pooled: np.ndarray) -> dict[str, np.ndarray]:
        """By test the share of right orders: by GPT-4, (prompts,), nan where `pooled` says so; by people, (pairs,).

        scores: of every group of texts, (n,). Two models are ordered by their levels, where these differ; a model and
        the baseline by whether the preference is above one half.
        """
        own = scores[ANSWERS].reshape(self.preference.shape)
        margin = own - scores[BASELINE][:, None]
        right = 0.5 + 0.5 * np.sign(margin) * np.sign(self.preference - 0.5)
        judged = {ORDER: concordance(own, self.levels), DIRECT: right.mean(1)}
        judged = {name: np.where(pooled, np.nan, values) for name, values in judged.items()}
        for name, test in PEOPLE.items():
            judged[test] = pair_outcomes(*(scores[f"{name} {TEST} {side}"] for side in (CHOSEN, REJECTED)))
        return judged

    def nulls(self, pooled: np.ndarray) -> dict[str, np.ndarray]:
        """What knowing the writers alone gets on GPT-4's two tests, as `outcomes`: no text is read.

        Two models are ordered by their mean level on the pool's prompts; of a model and the baseline, the baseline wins.
        """
        fame = np.broadcast_to(self.levels[pooled].mean(0), self.levels.shape)
        found = {ORDER: concordance(fame, self.levels), DIRECT: (0.5 - 0.5 * np.sign(self.preference - 0.5)).mean(1)}
        return {name: np.where(pooled, np.nan, values) for name, values in found.items()}


def real_pool(settings: Section, encoder: Section, asked: Section) -> RealPool:
    """The pairs and the judged answers, encoded once; a head sits on a frozen encoder at every tier.

    settings: real_cuts; encoder, asked: the sections `p2_02_reward_models` and `p2_03_length_bias`, whose features are
    shared. Raises MissingInput without data or encoder, and as `put_together` does.
    """
    encoder = encoder.pick(*encoder, trainable=HEAD)
    pool = answer_pool(asked, encoder)
    return put_together(real_text(encoder), pool, settings.real_cuts, encoder.validation_folds)


def put_together(text: RealText, pool: AnswerPool, cuts: Sequence[float], folds: int) -> RealPool:
    """Pairs and answers in one; one part in `folds` of each base split's prompts is for validation, the others test.

    cuts: preferences (0..1) from which levels 2 to 5 begin. Raises DataError if no prompt has every model's answer.
    """
    judged, base = judged_pool(pool), pool.models.index(alpaca_eval.BASELINE)
    here = [all(row[place] is not None for place in (*judged.columns, base)) for row in pool.texts]
    kept = np.flatnonzero(np.isfinite(judged.preference).all(1) & here)
    if not len(kept):
        raise DataError("no prompt has every model's answer and preference", where="pool", fix="use more prompts")
    turns = [pool.prompts[row] for row in kept]
    said = [pool.texts[row][place] for row in kept for place in judged.columns]
    texts = {ANSWERS: ([each for each in turns for _ in judged.columns], said, pool.encoded)}
    texts[BASELINE] = turns, [pool.texts[row][base] for row in kept], pool.encoded
    pairs = _apart(text, {opening(each) for each in pool.prompts}, folds)
    for name, own in pairs.items():
        for side in (CHOSEN, REJECTED):
            texts[f"{name} {side}"] = [pair.prompt for pair in own], [getattr(pair, side) for pair in own], text.encoded
    training = pairs.pop(BEYOND)
    preference, prompts = judged.preference[kept] / 100, [opening(each) for each in turns]
    people = {test: [opening(pair.prompt) for pair in pairs[f"{name} {TEST}"]] for name, test in PEOPLE.items()}
    return RealPool(
        models=judged.models,
        turns=turns,
        said=said,
        preference=preference,
        levels=1 + np.searchsorted(cuts, preference, side="right"),
        training=training,
        encoded=text.encoded,
        prompts={ORDER: prompts, DIRECT: prompts} | people,
        features={name: _features(*group) for name, group in texts.items()},
        lengths={name: np.array([len(each) for each in own], dtype=float) for name, (_, own, _) in texts.items()},
        tallies=_tallies(text, {BEYOND: training, **pairs}, judged.preference.size, len(said)),
    )


def _apart(text: RealText, begun: set[str], folds: int) -> dict[str, list[Pair]]:
    """Pairs that begin as no prompt of the pool does: to train on, and of each base split for validation and test."""
    left = {name: [p for p in text.pairs[name] if opening(p.prompt) not in begun] for name in (BEYOND, *PEOPLE)}
    found = {BEYOND: left[BEYOND]}
    for name in PEOPLE:
        fold_of = prompt_folds([opening(pair.prompt) for pair in left[name]], folds, 0)
        for part, first in ((VALIDATION, True), (TEST, False)):
            own = zip(left[name], fold_of, strict=True)
            found[f"{name} {part}"] = [pair for pair, fold in own if (fold == 0) == first]
    return found


def _features(asked: Sequence[Turns], said: Sequence[str], encoded: EncodedTexts) -> Texts:
    table = encoded.prompts
    known = None if table is None else torch.from_numpy(table.rows([conversation_text(turns) for turns in asked]))
    return Texts(torch.from_numpy(encoded.answers.rows(said)), known)


def _tallies(text: RealText, pairs: Mapping[str, Sequence[Pair]], judged: int, kept: int) -> dict[str, dict]:
    shared = sum(len(text.pairs[name]) for name in (BEYOND, *PEOPLE)) - sum(map(len, pairs.values()))
    aside = {"a prompt of the pool begins alike": shared}
    found = {f"{hh_rlhf.NAME}, {name}": {"rows": len(own), "set_aside": {}} for name, own in pairs.items()}
    found |= {f"{hh_rlhf.NAME}, not used": {"rows": 0, "set_aside": aside}}
    lacking = {"a model's answer to the prompt is not there": judged - kept}
    return found | {f"{alpaca_eval.NAME}, answers with a preference": {"rows": kept, "set_aside": lacking}}
