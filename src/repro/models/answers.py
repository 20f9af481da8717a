"""Answers as artifacts: a policy's samples to a list of prompts, drawn once and shared by whoever picks, scores or judges them.

Row: {"texts": ["Sure. 42 plus 15 is 57.", ...], "finished": [true, ...], "tokens": [14, ...]}, one row a prompt, in order.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from repro.core import artifacts
from repro.core.artifacts import Artifact, Job
from repro.core.settings import Section
from repro.models.features import stored
from repro.models.generation import Sampling, Turns, engine
from repro.models.load import threads

FILE = "answers.jsonl"
SAMPLING_SETTINGS = ("max_new_tokens", "temperature", "top_p", "engine", "generation_batch", "precision", "device")


@dataclass(frozen=True)
class Answers:
    """n answers to each prompt: texts (prompts)(n), whether each ended by itself and its tokens, (prompts, n)."""

    artifact: Artifact
    texts: list[list[str]]
    finished: np.ndarray
    tokens: np.ndarray


def sampled(policy: Artifact, prompts: Sequence[Turns], settings: Section, *, n: int, seed: int = 0) -> Answers:
    """n answers of a policy to each prompt, from the artifacts if they were drawn before.

    settings: SAMPLING_SETTINGS. Raises as `generation.engine` and `generation.generate` do.
    """
    inputs = {"policy": policy, "prompts": stored("prompts", [[list(turn) for turn in turns] for turns in prompts])}
    found = artifacts.run(sample, settings=settings.pick(*SAMPLING_SETTINGS, n=n), inputs=inputs, seed=seed)
    rows = [json.loads(line) for line in (found / FILE).read_text(encoding="utf-8").splitlines()]
    finished, tokens = (np.array([row[name] for row in rows]).reshape(-1, n) for name in ("finished", "tokens"))
    return Answers(found, [row["texts"] for row in rows], finished, tokens)


def sample(job: Job) -> None:
    """Step: `policy` (a model folder) and `prompts` (a JSON list of turns) to answers.jsonl."""
    settings = job.settings
    prompts = [tuple(map(tuple, turns)) for turns in json.loads(job.inputs["prompts"].path.read_text())]
    ask = engine(
        settings.engine,
        str(job.inputs["policy"].path),
        batch_size=settings.generation_batch,
        precision=settings.precision,
        device=settings.device,
    )
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_p, n=settings.n, seed=job.seed or 0)
    with threads():
        answers = ask(prompts, sampling)
    with (job.out / FILE).open("w", encoding="utf-8") as stream:
        for samples in answers:
            row = {
                "texts": [each.text for each in samples],
                "finished": [each.finished for each in samples],
                "tokens": [len(each.tokens) for each in samples],
            }
            stream.write(json.dumps(row) + "\n")
