"""What a size of the miniature models costs and earns: the table by which both tiers' sizes were chosen.

`.venv/bin/python scripts/measure_sizes.py [--tier laptop]` trains each line's base and policy (found again if they are
there), grades their answers to test prompts, and writes book/sizes.csv, which the tour shows. About
a quarter of an hour. Cost is in operations of training, six a parameter and token: the same on every machine.
"""

import argparse
import csv
import sys
from typing import Any

from repro.core.paths import BOOK
from repro.core.settings import Section, load
from repro.core.statistics import mean_interval
from repro.models.load import load_model
from repro.papers.miniature import balanced, base, history, policy_from, pool

LINES = (  # size, conversations of pretraining, learning rate
    ("miniature/0.1m", 1_500, 4e-3),
    ("miniature/0.1m", 32_000, 4e-3),
    ("miniature/0.3m", 8_000, 4e-3),
    ("miniature/0.3m", 32_000, 2e-3),
    ("miniature/0.3m", 32_000, 4e-3),
    ("miniature/1.2m", 32_000, 2e-3),
    ("miniature/1.2m", 32_000, 4e-3),
)
PROMPTS, ANSWERS = 20, 4  # a category's test prompts, and answers to each


def line(size: str, conversations: int, rate: float, world: Section) -> dict[str, Any]:
    """One line of the table: a base of this size and the policy fine-tuned from it on mixed demonstrations."""
    chosen = {"small": size, "pretraining_conversations": conversations, "sft_learning_rate": rate}
    settings = Section({**world, **chosen}, world.origin)
    start, tuned = base(size, settings), policy_from(size, settings)
    answers = pool(tuned, balanced(PROMPTS, 0), settings, n=ANSWERS)
    parameters = load_model(str(tuned.path), task="language", device="cpu").num_parameters()
    gold, steps = mean_interval(answers.gold.mean(1)), history(start)
    return {
        "size": size,
        "pretraining conversations": conversations,
        "learning rate": rate,
        "10^12 operations": round(6e-12 * parameters * (steps["tokens"] + history(tuned)["tokens"]), 2),
        "loss of the base": round(sum(steps["loss"][-50:]) / 50, 3),
        "gold": round(gold.value, 3),
        "low": round(gold.low, 3),
        "high": round(gold.high, 3),
    }


def main() -> int:
    """Write the table, a line at a time, so that a killed run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tier", default="laptop")
    world = load(parser.parse_args().tier).section("world")
    rows = []
    for each in LINES:
        rows.append(line(*each, world))
        print(rows[-1], flush=True)
        with (BOOK / "sizes.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
