"""p2's benchmarks in the miniature world: SFT, offline DPO and iterative DPO beside a strong policy (p2.table2, p2.table3, p2.fig8).

Everything is judged by `chat_benchmarks`; here is which policies, and what the chapter makes of the scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repro.core import inventory
from repro.core.parallel import ahead
from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval
from repro.evaluate import academic
from repro.papers.chat_benchmarks import (
    BOTH,
    CHARACTERS,
    CHAT,
    CONTROLLED,
    HARD,
    WIN,
    Said,
    Scores,
    academic_nulls,
    academic_scores,
    chat_scores,
    everyone,
    longest,
    said,
    two_turn_scores,
)
from repro.papers.miniature import policy
from repro.papers.online_arms import ITERATIVE, OFFLINE, SFT, arms
from repro.world.annotators import Judge

STRONG, LONGER = "strong", "SFT, longest of 4"
PAPERS_ROWS = {SFT: "SFT baseline", OFFLINE: "DPO baseline", ITERATIVE: "Iterative RLHF"}
LC, TWO_TURN, ARENA = f"{CHAT}, {CONTROLLED}", BOTH, f"{HARD}, {WIN}"
TITLES = dict(zip(academic.WORLD, ("GSM-8K", "MMLU", "HumanEval", "TruthfulQA", "ARC", "MBPP"), strict=True))


@dataclass(frozen=True)
class Study:
    """The arms on every benchmark, with the strong policy and the longest of four answers as context.

    shown: one hard prompt, what each policy says to it, and the judge's level of each answer.
    """

    chat: Scores
    two_turn: Scores
    academic: Scores
    items: int
    shown: dict[str, str]


def study(world: Section, online: Section, items: int, seeds: Sequence[int]) -> Study:
    """SFT, offline and iterative DPO judged. world, online: the sections `world` and `p2_04_online_dpo`; items: of each set."""
    ahead(arms, [(world, online, seed) for seed in seeds], world.workers)
    made = [arms(world, online, seed) for seed in seeds]
    policies = {name: [each[name] for each in made] for name in (SFT, OFFLINE, ITERATIVE)}
    strong, first = policy(STRONG, world), policy(online.policy, world)
    asked = everyone(policies | {STRONG: [strong] * len(seeds)}, world, items, seeds)
    rivals = {name: each for name, each in asked.items() if name != STRONG}
    rivals[LONGER] = [longest(first, world, items, seed) for seed in seeds]
    return Study(
        chat_scores(rivals, said(strong, world, items, 0), seeds),
        two_turn_scores(asked, seeds),
        academic_scores(policies | {STRONG: [strong] * len(seeds)}, items, world.workers, seeds),
        items,
        _shown({name: each[0] for name, each in asked.items()}),
    )


def _shown(asked: Mapping[str, Said]) -> dict[str, str]:
    found = {}
    for name, one in asked.items():
        task, text = one.hard[0][0], one.hard[1][0]
        found.setdefault("prompt", task.turns[-1][1])
        found[f"{name}: level {Judge().score([task], [text])[0]} of 5"] = text
    return found


def chat_records(found: Study) -> list[Record]:
    """p2.table2: length-controlled win rate in percent, two-turn score of 1 to 10, win rate on the hard set in percent."""
    rows = found.chat.records("p2.table2", {LC: "LC AlpacaEval-2"}) + found.two_turn.records(
        "p2.table2", {TWO_TURN: "MT-Bench"}
    )
    return rows + found.chat.records("p2.table2", {ARENA: "Chat-Arena-Hard"})


def raw_records(found: Study) -> list[Record]:
    """p2_05.raw: beside table 2, win rates without and with length control on both sets, and characters."""
    return found.chat.records("p2_05.raw")


def academic_records(found: Study) -> list[Record]:
    """p2.table3: percent right in six sets, and by rules that read no question."""
    nulls = [
        record("p2.table3", row.column, TITLES[row.row], row.value, n=row.n) for row in academic_nulls(found.items, "")
    ]
    return found.academic.records("p2.table3", TITLES) + nulls


def setup_records(found: Study) -> list[Record]:
    """p2.table6: shots and items of each benchmark here; the metrics are the paper's."""
    items = {name: found.items for name in inventory.published("p2.table6")}
    return [
        record("p2.table6", name, column, float(value))
        for name, count in items.items()
        for column, value in (("#Shots", 0), ("#Items", count))
    ]


def chat_evidence(found: Study) -> dict[str, Interval]:
    """p2.c5: paired differences in percentage points, of the two-turn score in its own unit."""
    columns = {"lc": (found.chat, LC), "two_turn": (found.two_turn, TWO_TURN), "hard": (found.chat, ARENA)}
    steps = {"iterative_over_offline": (ITERATIVE, OFFLINE), "offline_over_sft": (OFFLINE, SFT)}
    return {
        f"{step}_{name}": scores.difference(column, *who)
        for step, who in steps.items()
        for name, (scores, column) in columns.items()
    }


def academic_evidence(found: Study) -> dict[str, Interval]:
    """p2.c6: iterative DPO less SFT by set, paired by item, percentage points."""
    return {task: found.academic.difference(task, ITERATIVE, SFT) for task in academic.WORLD}


def numbers(found: Study) -> dict[str, Interval | str]:
    """What the page's prose cites: how near the choice sets are to their ceiling, what length alone earns, where arms differ."""
    room = {f"sft_{task}": f"{found.academic.interval(task, SFT).value:.1f}" for task in academic.WORLD}
    return room | {
        "longer_raw": found.chat.difference(f"{CHAT}, {WIN}", LONGER, SFT),
        "longer_lc": found.chat.difference(LC, LONGER, SFT),
        "lengths": ", ".join(
            f"{name} {found.chat.interval(f'{HARD}, {CHARACTERS}', name).value:.0f}"
            for name in (SFT, OFFLINE, ITERATIVE)
        ),
    }
