"""AlpacaEval: many models' answers to 805 instructions, and GPT-4's preferences among them.

Prompt:     {"instruction": "How did US states…", "output": "…", "generator": "…", "dataset": "helpful_base"}
Answer:     {"instruction": "How did US states…", "output": "US states got…", "generator": "alpaca-7b", "dataset": …}
Annotation: {"instruction": "…", "output_1": "Several famous…", "generator_1": "gpt4_1106_preview",
"output_2": "Some…", "generator_2": "alpaca-7b", "preference": 1.0000001827, …}
→ 1: the baseline (output_1) wins; 2: the model (output_2) wins.
A model is named by its folder, as in the leaderboards; the generator field differs for two of them. NullModel, one
constant text that attacks the judge, is left out of answers by default. vicuna-13b-v1.5 has annotations but no
outputs: its answers are output_2 of its annotations.
Li et al. 2023; length control: Dubois et al. 2024, arXiv 2404.04475; hub id tatsu-lab/alpaca_eval; data CC-BY-NC-4.0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.core.errors import DataError, MissingInput
from repro.core.paths import HOW_TO_GET_DATA
from repro.data.hub import file_of, folder_with
from repro.data.reading import find_file, read_csv, read_rows
from repro.data.schema import (
    Answer,
    Loaded,
    Malformed,
    Prompt,
    Reason,
    Turns,
    Unusable,
    field_of,
    prompt_id,
    text_field,
)

NAME = "alpaca_eval"
HUB_ID = "tatsu-lab/alpaca_eval"
HUB_PROMPTS = "alpaca_eval.json"
BASELINE = "gpt4_1106_preview"
ATTACKS = ("NullModel",)
ONLY_ANNOTATED = "vicuna-13b-v1.5"

PROMPTS = "alpaca_eval.jsonl.gz"
OUTPUTS = "results/{model}/model_outputs.json.gz"
JUDGED = "results/{model}/weighted_alpaca_eval_gpt4_turbo/annotations.json.gz"
JUDGED_ONLY = "results/{model}/weighted_alpaca_eval_gpt4_turbo/annotations_with_glm_preference.json.gz"
LEADERBOARDS = {
    "alpaca_eval_2": "leaderboards/data_AlpacaEval_2/weighted_alpaca_eval_gpt4_turbo_leaderboard.csv",
    "alpaca_eval_1": "leaderboards/data_AlpacaEval/alpaca_eval_gpt4_leaderboard.csv",
    "evaluators": "leaderboards/evaluators/evaluators_leaderboard.csv",
}
WEIGHTS = "metrics/weights/weighted_alpaca_eval_gpt4_turbo/length_controlled_v1/baseline_gpt4_1106_preview.csv"
DIFFICULTY = "metrics/instruction_difficulty_recovered.csv"


@dataclass(frozen=True)
class Annotation:
    """GPT-4's continuous preference in [1, 2] between the baseline's answer (1) and the model's (2)."""

    prompt_id: str
    index: int  # the instruction's row in the evaluation set, from 0
    model: str
    baseline: str
    text: str
    baseline_text: str
    preference: float
    instruction: str
    glm_preference: float | None = None  # length-controlled probability that the model wins; rare


@dataclass(frozen=True)
class Weights:
    """Published weights of a model's length-control regression: on length, difficulty, and the constant."""

    length: float
    difficulty: float
    constant: float


def prompts(folder: Path | str | None = None, *, hub: str = HUB_ID, revision: str | None = None) -> Loaded:
    """The 805 instructions, in order; `extras` is {"index", "dataset", "reference"}, the last AlpacaEval 1's answer.

    folder: a data folder, None for the project's own, else the hub's alpaca_eval.json. Raises MissingInput, DataError.
    """
    home, malformed = folder_with(NAME, folder), Malformed()
    local = home is not None and find_file(home, PROMPTS) is not None
    name = PROMPTS if local or folder is not None else HUB_PROMPTS
    path = file_of(home if local or folder is not None else None, name, False, hub, revision)
    where = f"{NAME}/{name}"
    numbered = read_rows(path, malformed, where=where)
    rows = malformed.collect(((number, (number, row)) for number, row in numbered), where, _prompt_from)
    return Loaded(tuple(rows), tuple(malformed.records), f"{NAME} prompts")


def _prompt_from(numbered: tuple[int, Any]) -> Prompt:
    number, row = numbered
    instruction = text_field(row, "instruction")
    if not instruction.strip():
        raise Unusable(Reason.EMPTY_TURN)
    extras = {"index": number - 1, "dataset": text_field(row, "dataset"), "reference": text_field(row, "output")}
    return Prompt(_turns(instruction), NAME, extras)


def _turns(instruction: str) -> Turns:
    return (("user", instruction),)


def models(folder: Path | str | None = None, *, leave_out: Collection[str] = ATTACKS) -> tuple[str, ...]:
    """Names of the models with outputs (23 without NullModel). Raises MissingInput if there are none."""
    home = _home(folder)
    return tuple(each for each in _folders(home, leave_out) if find_file(home, OUTPUTS.format(model=each)))


def annotated_models(folder: Path | str | None = None, *, leave_out: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the models with annotations. Raises MissingInput if there are none."""
    home = _home(folder)
    return tuple(each for each in _folders(home, leave_out) if _judged(home, each))


def _home(folder: Path | str | None) -> Path:
    home = folder_with(NAME, folder)
    if home is None:
        what = "answers and annotations are not in a data folder, and the hub has the instructions only"
        raise MissingInput(what, where=NAME, fix=HOW_TO_GET_DATA)
    return home


def _folders(home: Path, leave_out: Collection[str]) -> list[str]:
    found = sorted(each.name for each in (home / "results").glob("*") if each.is_dir() and each.name not in leave_out)
    if not found:
        raise MissingInput("no model's results are there", where=home / "results", fix=HOW_TO_GET_DATA)
    return found


def _judged(home: Path, model: str) -> Path | None:
    return find_file(home, JUDGED.format(model=model)) or find_file(home, JUDGED_ONLY.format(model=model))


def load(
    folder: Path | str | None = None,
    *,
    leave_out: Collection[str] = ATTACKS,
    also_annotated: bool = False,
) -> Loaded:
    """Answers of all models but `leave_out`, model by model in the order of the instructions.

    also_annotated: add vicuna-13b-v1.5, whose answers stand in its annotations. `extras` is {"index", "dataset"}.
    Raises MissingInput without the files, DataError if a file is useless.
    """
    home, malformed, answers = _home(folder), Malformed(), []
    known = {each.turns[0][1]: each for each in prompts(home.parent).rows}
    wanted = [(model, OUTPUTS, "output") for model in models(home.parent, leave_out=leave_out)]
    if also_annotated and ONLY_ANNOTATED not in leave_out:
        wanted.append((ONLY_ANNOTATED, JUDGED_ONLY, "output_2"))
    for model, name, field in wanted:
        path = file_of(home, name.format(model=model), False, HUB_ID)
        where = f"{NAME}/{name.format(model=model)}"

        def build(row: Any, model: str = model, field: str = field) -> Answer:
            return answer_from(row, model, field, known)

        answers += malformed.collect(read_rows(path, malformed, where=where), where, build)
    return Loaded(tuple(answers), tuple(malformed.records), f"{NAME} answers of {len(wanted)} models")


def answer_from(row: Any, model: str, field: str, known: dict[str, Prompt]) -> Answer:
    """One output row as an Answer; raises Unusable with the reason."""
    prompt, text = _known(row, known), text_field(row, field)
    if not text.strip():
        raise Unusable(Reason.EMPTY_ANSWER)
    extras = {"index": prompt.extras["index"], "dataset": prompt.extras["dataset"]}
    return Answer(prompt.prompt_id, model, text, prompt.turns, NAME, extras)


def _known(row: Any, known: dict[str, Prompt]) -> Prompt:
    instruction = text_field(row, "instruction")
    if instruction not in known:
        raise Unusable(Reason.UNKNOWN_PROMPT, instruction[:80])
    return known[instruction]


def annotations(folder: Path | str | None = None, *, models: Sequence[str] | None = None) -> Loaded:
    """GPT-4's preferences for the named models, all annotated ones by default; NullModel is among them.

    An empty or an equal answer stays: the judge did compare it, and the published win rates count it.
    Raises MissingInput if a model has none, DataError if a file is useless.
    """
    home, malformed, rows = _home(folder), Malformed(), []
    known = {each.turns[0][1]: each for each in prompts(home.parent).rows}
    for model in annotated_models(home.parent) if models is None else models:
        path = _judged(home, model)
        if path is None:
            raise MissingInput("has no annotations", where=f"{NAME}/results/{model}", fix=HOW_TO_GET_DATA)
        where = f"{NAME}/{path.relative_to(home).as_posix()}"

        def build(row: Any, model: str = model) -> Annotation:
            return annotation_from(row, model, known)

        rows += malformed.collect(read_rows(path, malformed, where=where), where, build)
    return Loaded(tuple(rows), tuple(malformed.records), f"{NAME} annotations")


def annotation_from(row: Any, model: str, known: dict[str, Prompt]) -> Annotation:
    """One annotation row; raises Unusable with the reason."""
    prompt = _known(row, known)
    preference = _number(field_of(row, "preference"), "preference", 1.0, 2.0)
    glm = _number(row["glm_preference"], "glm_preference", 0.0, 1.0) if "glm_preference" in row else None
    return Annotation(
        prompt_id=prompt_id(prompt.turns),
        index=prompt.extras["index"],
        model=model,
        baseline=text_field(row, "generator_1"),
        text=text_field(row, "output_2"),
        baseline_text=text_field(row, "output_1"),
        preference=preference,
        instruction=prompt.turns[0][1],
        glm_preference=glm,
    )


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Unusable(Reason.WRONG_TYPE, f"{name} is {type(value).__name__}, not a number")
    if not low <= value <= high:  # false for nan too
        raise Unusable(Reason.OUT_OF_RANGE, f"{name} is {value}, not in [{low}, {high}]")
    return float(value)


def leaderboard(folder: Path | str | None = None, which: str = "alpaca_eval_2") -> dict[str, dict[str, float | str]]:
    """Published rows by model (or evaluator), in the published order; a number where it is one, an empty cell nan.

    which: a key of LEADERBOARDS. Raises MissingInput, or DataError if the file is damaged.
    """
    rows = read_csv(file_of(_home(folder), LEADERBOARDS[which], False, HUB_ID), columns=("",))
    return {row[""]: {name: _cell(text) for name, text in row.items() if name} for row in rows}


def _cell(text: str) -> float | str:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return text


def weights(folder: Path | str | None = None) -> dict[str, Weights]:
    """Published length-control weights by model, against BASELINE (Dubois et al. 2024).

    Raises MissingInput, or DataError if the file is damaged or a weight is not a number.
    """
    names = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
    path = file_of(_home(folder), WEIGHTS, False, HUB_ID)
    return {row[""]: Weights(*numbers(row, names, path)) for row in read_csv(path, columns=("", *names))}


def numbers(row: dict[str, str], names: Sequence[str], path: Path) -> tuple[float, ...]:
    """The named cells as finite numbers; raises DataError for any other text."""
    try:
        values = tuple(float(row[name]) for name in names)
    except ValueError as problem:
        raise DataError(str(problem), where=path, fix=HOW_TO_GET_DATA) from problem
    if not all(map(math.isfinite, values)):
        raise DataError("a number is not finite", where=path, fix=HOW_TO_GET_DATA)
    return values


def difficulty(folder: Path | str | None = None) -> tuple[float, ...]:
    """Difficulty of each instruction, by its index; recovered from published numbers (see `data/difficulty.py`).

    Raises MissingInput, or DataError if the rows are not 0, 1, 2, … with finite numbers.
    """
    path = file_of(_home(folder), DIFFICULTY, False, HUB_ID)
    rows = [numbers(row, ("index", "instruction_difficulty"), path) for row in read_csv(path, columns=("index",))]
    if [index for index, _ in rows] != list(range(len(rows))):
        raise DataError("the indices are not 0, 1, 2, …", where=path, fix=HOW_TO_GET_DATA)
    return tuple(value for _, value in rows)
