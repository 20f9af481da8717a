"""p2's benchmarks as far as recorded judgements carry them: AlpacaEval 2 recomputed offline, RewardBench's arithmetic.

Nothing is judged anew. GPT-4's recorded preferences give every annotated model's win rate and length-controlled win rate, which
the public leaderboard prints too; printed section scores give the overall scores that the RewardBench paper prints.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core import artifacts, inventory
from repro.core.artifacts import Job
from repro.core.errors import DataError
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval
from repro.data import alpaca_eval
from repro.evaluate import alpacaeval, rewardbench
from repro.papers import inputs

WIN, LC = "win rate", "length-controlled"
GAMED = ("gpt4_1106_preview_concise", "gpt4_1106_preview_verbose")
SECTIONS = ("Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets")
# section scores and overall as the RewardBench paper prints them (Lambert et al. 2024, arXiv:2403.13787)
PRINTED = {
    "FsfairX-LLaMA3-RM (p2's BT)": ((99.4, 65.1, 87.8, 86.4, 74.9), 83.6),
    "pair-preference-model-LLaMA3-8B (p2's PM)": ((98.3, 65.8, 89.7, 94.7, 74.6), 85.7),
    "UltraRM-13b": ((96.4, 55.5, 56.0, 62.4, 72.9), 68.2),
    "Meta-Llama-3-8B-Instruct, prompted": ((85.5, 41.6, 67.5, 64.8, 60.8), 64.4),
}
# the same reward model's Safety under both weight sets, as others recomputed it from its public subset accuracies
FSFAIRX_SAFETY = {"paper": 87.82, "today": 86.76}


@dataclass(frozen=True)
class ModelResult:
    """One model's recomputed win rates in percent, beside the leaderboard's (None where it has no row)."""

    model: str
    win: Interval
    lc: Interval
    lc_from_weights: float | None
    published_win: float | None
    published_lc: float | None


def _by_index(rows: Sequence[alpaca_eval.Annotation], count: int, value) -> np.ndarray:
    found = np.full(count, np.nan)
    for row in rows:
        found[row.index] = value(row)
    return found


def alpaca(job: Job) -> None:
    """Step: win rates of every annotated model, raw and length-controlled, from annotations and from published weights."""
    folder = job.inputs["data"].path.parent
    difficulty = np.array(alpaca_eval.difficulty(folder))
    weights, board = alpaca_eval.weights(folder), alpaca_eval.leaderboard(folder)
    annotations = alpaca_eval.annotations(folder).rows
    answers = alpaca_eval.load(folder).rows
    baseline = _lengths(answers, alpaca_eval.BASELINE, len(difficulty))
    gamed = [
        alpacaeval.gamed_baseline(weights[name], baseline, _lengths(answers, name, len(difficulty)), difficulty)
        for name in GAMED
    ]
    results = []
    for model in alpaca_eval.annotated_models(folder):
        rows = [row for row in annotations if row.model == model]
        preference = _by_index(rows, len(difficulty), lambda row: row.preference)
        length = alpacaeval.length_term(
            _by_index(rows, len(difficulty), lambda row: len(row.baseline_text)),
            _by_index(rows, len(difficulty), lambda row: len(row.text)),
        )
        win = alpacaeval.win_rate_interval(preference)
        lc = alpacaeval.length_controlled_interval(preference, length, difficulty, gamed, draws=job.settings.draws)
        exact = alpacaeval.length_controlled(weights[model], difficulty).win_rate if model in weights else None
        row = board.get(model, {})
        results.append(
            {
                "model": model,
                "win": vars(win),
                "lc": vars(lc),
                "lc_from_weights": exact,
                "published_win": row.get("win_rate"),
                "published_lc": row.get("length_controlled_winrate"),
            }
        )
    (job.out / "models.json").write_text(json.dumps(results, indent=1))


def _lengths(answers: Sequence, model: str, count: int) -> np.ndarray:
    found = np.full(count, np.nan)
    for answer in answers:
        if answer.model == model:
            found[answer.extras["index"]] = len(answer.text)
    if np.isnan(found).any():
        raise DataError(
            f"{int(np.isnan(found).sum())} answers are missing", where=model, fix="`repro data fetch` brings them again"
        )
    return found


def win_rates(settings: Section) -> list[ModelResult]:
    """AlpacaEval 2 recomputed for every annotated model. Raises MissingInput without the data."""
    made = artifacts.run(alpaca, settings=settings.pick("draws"), inputs={"data": inputs.required(alpaca_eval.NAME)})
    rows = json.loads((made / "models.json").read_text())
    return [ModelResult(**{**row, "win": Interval(**row["win"]), "lc": Interval(**row["lc"])}) for row in rows]


def win_rate_records(results: Sequence[ModelResult]) -> list[Record]:
    """Ours and published by model: win rate, and LC from annotations and from weights; percent."""
    rows = []
    for r in results:
        rows += [
            record("p2_05.alpaca_eval", r.model, WIN, r.win, unit="%"),
            record("p2_05.alpaca_eval", r.model, "published win rate", r.published_win, unit="%"),
        ]
        rows += [
            record("p2_05.alpaca_eval", r.model, LC, r.lc, unit="%"),
            record("p2_05.alpaca_eval", r.model, "from weights", r.lc_from_weights, unit="%"),
        ]
        rows.append(record("p2_05.alpaca_eval", r.model, "published LC", r.published_lc, unit="%"))
    return rows


def largest_differences(results: Sequence[ModelResult]) -> dict[str, float]:
    """The largest distance from the leaderboard, in points, over its models but the attack on the judge, and their number."""
    known = [r for r in results if r.published_lc is not None and r.model not in alpaca_eval.ATTACKS]
    return {
        "models": len(known),
        "win rate": max(abs(r.win.value - r.published_win) for r in known),
        "refitted": max(abs(r.lc.value - r.published_lc) for r in known),
        "from weights": max(abs(r.lc_from_weights - r.published_lc) for r in known),
    }


def overall_records() -> list[Record]:
    """RewardBench's overall score from printed sections, beside the overall it prints; percent."""
    rows = []
    for model, (sections, printed) in PRINTED.items():
        overall = rewardbench.overall_score(dict(zip(SECTIONS, sections, strict=True)))
        rows += [
            record("p2_05.overall", model, name, score, unit="%")
            for name, score in zip(SECTIONS, sections, strict=True)
        ]
        rows += [
            record("p2_05.overall", model, "overall, ours", overall, unit="%"),
            record("p2_05.overall", model, "overall, printed", printed, unit="%"),
        ]
    return rows


def safety_records() -> list[Record]:
    """How far p2.table1's Safety column can move when the two swapped subset weights are put right; percent."""
    rows = []
    for model, scores in inventory.published("p2.table1").items():
        low, high = (100 * end for end in rewardbench.reweighted_range(scores["Safety"] / 100, "Safety"))
        rows += [record("p2_05.safety", model, "Safety, as printed", scores["Safety"], unit="%")]
        rows += [
            record("p2_05.safety", model, "least under today's weights", low, unit="%"),
            record("p2_05.safety", model, "most", high, unit="%"),
        ]
    return rows
