"""A loop small enough for tests: a policy of random weights, a reward model of sixteen pairs; and it as a program that can be killed.

python -m tests.online_loop SEED [STOP]    follows the paper's recipe; ends the process itself after STOP trainings
"""

import os
import sys

from repro.core import artifacts
from repro.core.settings import Section, load
from repro.data import miniature as data
from repro.models import scratch
from repro.models.features import stored
from repro.papers import miniature, online_rlhf
from repro.train.reward_tokens import TokenRewardModel, finetuning
from repro.world import sources

SMALL = {
    "iterations": 2,
    "prompts_per_iteration": 6,
    "n": 4,
    "answers": 2,
    "tasks_per_category": 1,
    "validation_prompts": 4,
}


def sections() -> tuple[Section, Section]:
    """The sections `world` and `p2_04_online_dpo` at smoke, smaller still."""
    found = load("smoke")
    world, settings = found.section("world"), found.section("p2_04_online_dpo")
    return world.pick(*world, max_new_tokens=8), settings.pick(*settings, **SMALL)


def first(role: str = "", world: Section | None = None) -> artifacts.Artifact:
    """pi_0: random weights that know the world's words."""
    rows = sources.demonstrations(200, 0)
    texts = stored("texts", sorted({message["content"] for row in rows for message in row["messages"]}))
    return artifacts.run(scratch.scratch, settings={"name": "miniature/0.1m"}, inputs={"texts": texts}, seed=0)


def reward_model(world: Section) -> TokenRewardModel:
    """Any order is good enough."""
    chosen = world.renamed(model="small")
    made = artifacts.run(**finetuning(data.pairs("mix2", 16, 0), chosen, 0, first()))
    return TokenRewardModel(made, chosen)


def recipe(**choices: object) -> online_rlhf.Recipe:
    """The paper's recipe at this size."""
    world, settings = sections()
    return online_rlhf.recipe_of(world, settings, 0, **{"reward_model": reward_model(world), **choices})


def follow(seed: int = 0, **choices: object) -> list[online_rlhf.Iteration]:
    """The loop on pi_0 above."""
    miniature.policy = online_rlhf.policy = first
    return online_rlhf.run_recipe(recipe(**choices), *sections(), seed)


def weights(done: online_rlhf.Iteration) -> str:
    """Digest of an iterate's weights."""
    return artifacts.file_digest(done.policy / "model.safetensors")


def _end_after(trainings: int) -> None:
    """End this process like a kill, in the middle of a step, once so many trainings are done."""
    original = artifacts.run

    def run(step, **words):
        done = [line for line in artifacts.HISTORY if line["step"].endswith("dpo.dpo")]
        if len(done) >= trainings and step.__name__ == "rewards":
            os._exit(9)
        return original(step, **words)

    artifacts.run = run


if __name__ == "__main__":
    recipe()  # what the loop starts from is no part of it
    if len(sys.argv) > 2:
        _end_after(int(sys.argv[2]))
    artifacts.HISTORY.clear()
    last = follow(int(sys.argv[1]))[-1]
    print("computed", sum(not line["cached"] for line in artifacts.HISTORY), "weights", weights(last))
