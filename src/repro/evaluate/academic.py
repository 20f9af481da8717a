"""Six academic benchmarks by lm-eval 0.4.13: the world's from rows on disk, the real ones by name from the hub (p2.table6).

Row of gsm8k:           {"prompt": "What is 42 plus 15?", "answer": "57", ...}: the last number of the answer counts.
Row of mmlu, arc, truthfulqa: {"question": ..., "choices": [four sentences], "answer": 2, ...}: the likeliest choice counts.
Row of humaneval, mbpp: {"prompt": ..., "tests": [[[5, 2], [2, 5]], ...]}: the pipeline after `Program:` is run by the
world's own interpreter and must meet every test. No code that a model wrote is ever executed.

lm-eval decides how a task is rendered, shot and scored (tasks/*.yaml); what is ours keeps it quiet, off the network and
away from the cutting of over-long requests that it does in silence.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import lm_eval.api.task
import numpy as np
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from repro.core import hub
from repro.core.artifacts import Job
from repro.core.errors import DataError, MissingInput, SettingsError
from repro.core.progress import progress
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.data import reading
from repro.data.schema import Malformed
from repro.models.load import load_model, load_tokenizer, threads, threads_for
from repro.world import programs, reasoning

TASKS = Path(__file__).with_name("tasks")
WORLD = ("gsm8k", "mmlu", "humaneval", "truthfulqa", "arc", "mbpp")  # as p2.table6 orders them
NEED_CODE = ("humaneval", "mbpp")  # on the hub their answers are Python
REAL_FILTER = "flexible-extract"  # of gsm8k's two ways to find the number, the one that reads it as we do
PART = 4  # batches between two moves of the bar
PERCENT = 100.0

Rows = list[dict[str, Any]]


def _is_number(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value) is not None


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) and each.strip() for each in value)


def _is_tests(value: object) -> bool:
    def numbers(each: object) -> bool:
        return isinstance(each, list) and all(type(number) is int for number in each)

    pairs = value if isinstance(value, list) else []
    return bool(pairs) and all(isinstance(pair, list) and len(pair) == 2 and all(map(numbers, pair)) for pair in pairs)


TEXT = (lambda value: isinstance(value, str) and bool(value.strip()), "a text that is not empty")
CHOICE = {
    "question": TEXT,
    "choices": (_is_texts, "a list of two or more texts"),
    "answer": (lambda value: type(value) is int and value >= 0, "the place of the right choice, from 0"),
}
PROGRAM = {"prompt": TEXT, "tests": (_is_tests, "a list of [list of whole numbers, list of whole numbers]")}
FIELDS: dict[str, dict[str, tuple[Callable[[Any], bool], str]]] = {
    "gsm8k": {"prompt": TEXT, "answer": (_is_number, 'a number as text, such as "57"')},
    **dict.fromkeys(("mmlu", "truthfulqa", "arc"), CHOICE),
    **dict.fromkeys(("humaneval", "mbpp"), PROGRAM),
}


def read_rows(file: str, **_: Any) -> dict[str, datasets.Dataset]:
    """The rows of one of the world's files, in memory, for lm-eval: no data set cache and no request to the hub.

    file: path of <task>.jsonl, whose name says which fields its rows hold. Raises MissingInput without the file, DataError
    naming file, row and field for a row that cannot be used.
    """
    path, malformed = Path(file), Malformed()
    numbered, fields = reading.read_rows(path, malformed), FIELDS[path.stem]
    if malformed.records:
        bad = malformed.records[0]
        raise DataError(str(bad.reason), where=f"{path}, row {bad.row}", fix="write one JSON object a line")
    rows = [{name: _field(path, number, row, name) for name in fields} for number, row in numbered]
    for (number, _row), row in zip(numbered, rows, strict=True):
        if "choices" in row and row["answer"] >= len(row["choices"]):
            what = f"'answer' is {row['answer']} and there are {len(row['choices'])} choices, counted from 0"
            raise DataError(what, where=f"{path}, row {number}", fix="give the place of the right choice")
    return {"test": datasets.Dataset.from_list(rows)}


def _field(path: Path, number: int, row: object, name: str) -> Any:
    holds, words = FIELDS[path.stem][name]
    where = f"{path}, row {number}"
    if not isinstance(row, dict) or name not in row:
        raise DataError(f"no field {name!r}", where=where, fix=f"give it {words}")
    if not holds(row[name]):
        raise DataError(f"{name!r} is {json.dumps(row[name])[:80]}", where=where, fix=f"make it {words}")
    return row[name]


def ends_in_number(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """acc: 1 if the last number of the answer equals the row's, thousands written 1,000 or 1000; else 0."""
    found = re.findall(r"-?\d+(?:\.\d+)?", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", results[0]))
    return {"acc": float(bool(found) and float(found[-1]) == float(doc["answer"]))}


def passes_tests(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """acc (pass@1): 1 if the answer's program gives every test's output, 0 if not or if it is no program."""
    program = reasoning.written(results[0])
    try:
        return {"acc": float(all(programs.run(program, given) == wanted for given, wanted in doc["tests"]))}
    except ValueError:
        return {"acc": 0.0}


class _Bench(HFLM):
    """lm-eval's model, which refuses what it would cut and shows one bar at a time."""

    def loglikelihood(self, requests: list, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._in_parts(super().loglikelihood, requests, "log-likelihoods")

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        return self._in_parts(super().generate_until, requests, "answers")

    def _in_parts(self, ask: Callable[..., list], requests: list, label: str) -> list:
        size, answers = PART * self.batch_size, []
        for start in progress(range(0, len(requests), size), label=label):
            answers += ask(requests[start : start + size], disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(self, requests: list, **options: Any) -> list[tuple[float, bool]]:
        self._check_fits(max(len(context) + len(answer) for _, context, answer in requests), self.max_length)
        return super()._loglikelihood_tokens(requests, **options)

    def tok_batch_encode(self, strings: Sequence[str], left_truncate_len: int | None = None, **options: Any) -> tuple:
        ids, mask = super().tok_batch_encode(list(strings), **options)
        self._check_fits(ids.shape[1], left_truncate_len or self.max_length)
        return ids, mask

    def _check_fits(self, tokens: int, room: int) -> None:
        if tokens > room:
            what = f"a request has {tokens} tokens and the model has room for {room}"
            raise SettingsError(what, where="shots", fix="set fewer shots for the task, or take a longer model")


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval's, datasets' and transformers' words and bars kept away, but for errors; restored after."""
    logger, level, other = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level, transformers_logging
    before, bars = other.get_verbosity(), datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    other.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with mock.patch.object(lm_eval.api.task, "tqdm", lambda items, **_: items):  # it has no switch of its own
            yield
    finally:
        logger.setLevel(level)
        other.set_verbosity(before)
        if not bars:
            datasets.enable_progress_bars()


def _world_task(folder: Path, name: str, shots: int | None) -> dict[str, lm_eval.api.task.Task]:
    if name not in WORLD:
        raise SettingsError(f"unknown task {name!r}", where="tasks", fix=f"choose from {', '.join(WORLD)}")
    own = {"task": f"world_{name}", "dataset_kwargs": {"file": str(folder / f"{name}.jsonl")}}
    manager = TaskManager(include_path=TASKS, include_defaults=False)
    return manager.load([{"group": "world", "task": [own | ({} if shots is None else {"num_fewshot": shots})]}])[
        "tasks"
    ]


def _real_task(manager: TaskManager, name: str, shots: int | None) -> dict[str, lm_eval.api.task.Task]:
    if name.startswith(NEED_CODE):
        what = f"{name} runs the code that a model wrote, and this project has no sandbox to run it in"
        raise SettingsError(
            what, where="tasks", fix="take the world's humaneval and mbpp, whose programs are interpreted"
        )
    if name not in manager.all_tasks:
        raise SettingsError(f"lm-eval has no task {name!r}", where="tasks", fix="`lm-eval ls tasks` lists them")
    if not hub.reachable():
        raise MissingInput("its data set is on the hub only", where=name, fix="connect, or give the world's folder")
    tasks = manager.load([name])["tasks"]
    for task in tasks.values():
        task.set_config("num_fewshot", shots if shots is not None else task.get_config("num_fewshot") or 0)
    return tasks


def _check_shots(name: str, task: lm_eval.api.task.Task) -> None:
    shots = task.get_config("num_fewshot") or 0
    rows = len(task.eval_docs)
    if not isinstance(shots, int) or shots < 0 or (shots and name in NEED_CODE):
        raise SettingsError(f"{shots} shots for {name}", where="shots", fix="0, or more where rows hold answers")
    if name in WORLD and shots and shots >= rows:
        raise SettingsError(
            f"{shots} shots for {name} from {rows} rows", where="shots", fix="fewer shots, or more rows"
        )


def _row(task: str, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One item of lm-eval's log: item (its task, place and a digest of its text), metrics, and what was answered."""
    row = {"item": f"{task}/{sample['doc_id']}/{sample['doc_hash'][:12]}"}
    row |= {name: float(sample[name]) for name in sample["metrics"]}
    row.setdefault("acc", row.get("exact_match"))
    answers = [answer[0] for answer in sample["resps"]]
    if isinstance(answers[0], str):
        return row | {"answer": answers[0]}
    likely = [float(each[0]) for each in answers]
    return row | {"answer": sample["arguments"][int(np.argmax(likely))][1], "logprobs": likely}


def outcomes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Path | None,
    *,
    tasks: Sequence[str] = WORLD,
    shots: Mapping[str, int] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> dict[str, Rows]:
    """Each task's items: their `item`, `acc` (0 or 1), other metrics, and the answer, in the file's order (p2.table6).

    data: folder of the world's <task>.jsonl, or None for the real tasks as lm-eval names them (gsm8k, mmlu, truthfulqa_mc1,
    truthfulqa_mc2, arc_challenge). The chat template is applied, shots are earlier turns, decoding is greedy. shots: by
    task, else p2.table6's; limit: items of each task, the first ones; seed: of the shots' draw. Raises SettingsError for a
    task, shots or limit that cannot be, or a request longer than the model; DataError and MissingInput for its data.
    """
    if not tokenizer.chat_template:
        raise DataError("the tokenizer has no chat template", where=tokenizer.name_or_path, fix="save one with it")
    unknown = sorted(set(shots or {}) - set(tasks))
    if unknown or not tasks or (limit is not None and limit < 1):
        what = f"shots for {', '.join(unknown)}" if unknown else f"tasks {list(tasks)}, limit {limit}"
        raise SettingsError(what, where="academic", fix="name at least one task, shots for those only, limit from 1")
    with _quiet(), threads(threads_for(model)):
        manager = None if data else TaskManager()
        loaded = {}
        for name in tasks:
            wanted = (shots or {}).get(name)
            loaded[name] = _world_task(Path(data), name, wanted) if data else _real_task(manager, name, wanted)
            for task in loaded[name].values():
                _check_shots(name, task)
                task.set_fewshot_seed(seed)
        bench = _Bench(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        every = {key: task for group in loaded.values() for key, task in group.items()}
        options = {"apply_chat_template": True, "fewshot_as_multiturn": True, "bootstrap_iters": 0}
        samples = evaluate(bench, {"tasks": every}, limit=limit, log_samples=True, **options)["samples"]
    kept = {key: [_row(key, s) for s in samples[key] if s["filter"] in ("none", REAL_FILTER)] for key in every}
    return {name: [row for key in group for row in kept[key]] for name, group in loaded.items()}


def academic(job: Job) -> None:
    """Step: `model` (a folder) on `data` (the world's folder; left out, the real tasks) to outcomes.json (p2.table6).

    inputs: also `tasks`, external(TASKS), so that an edited task is a new result. settings: tasks, shots, limit,
    batch_size. Raises as `outcomes`.
    """
    name, data = str(job.inputs["model"].path), job.inputs.get("data")
    options = {key: job.settings[key] for key in ("tasks", "shots", "limit", "batch_size")}
    model, tokenizer = load_model(name, task="language"), load_tokenizer(name)
    rows = outcomes(model, tokenizer, data and data.path, seed=job.seed or 0, **options)
    (job.out / "outcomes.json").write_text(json.dumps(rows), encoding="utf-8")


def score(rows: Rows, metric: str = "acc", seed: int = 0) -> Interval:
    """A task's mean in percent with its 95% bootstrap interval over items. Raises DataError if there are no items."""
    return mean_interval([row[metric] for row in rows], seed=seed).scaled(PERCENT)


def score_difference(first: Rows, second: Rows, metric: str = "acc", seed: int = 0) -> Interval:
    """Mean of first - second in points with its 95% interval, paired by item. Raises DataError if the items differ."""
    if [row["item"] for row in first] != [row["item"] for row in second]:
        raise DataError(
            "the two models met different items", where="score_difference", fix="same data, tasks and limit"
        )
    ours, theirs = ([row[metric] for row in rows] for rows in (first, second))
    return difference_interval(ours, theirs, seed=seed).scaled(PERCENT)
