"""What the chapter on ablations reports of its study: p2.table4, the sweeps, the curves, and what each claim rests on."""

from collections.abc import Sequence

import numpy as np

from repro.core.records import Record, record
from repro.core.statistics import Interval, difference_interval, mean_interval, statistic_interval
from repro.evaluate import academic
from repro.evaluate.length_bias import length_correlations
from repro.papers.ablations import BIASED, CONCISE, JUDGED, OURS, RESTART, Study
from repro.papers.chat_benchmarks import CHARACTERS, CHAT, CONTROLLED, HARD, WIN
from repro.papers.miniature import concordance
from repro.papers.online_arms import Measured, Run
from repro.papers.online_rlhf import Iteration

LC, ARENA, LENGTH = (
    f"{CHAT}, {CONTROLLED}",
    f"{HARD}, {WIN}",
    f"{HARD}, {CHARACTERS}",
)  # the paper's length is Arena-Hard's
PAPERS_ROWS = {OURS: "Ours", CONCISE: "Ours-concise", BIASED: "UltraRM-13B"}
TITLES = {LC: "LC AlpacaEval", ARENA: "Arena-Hard", LENGTH: "Length"}
SETS = dict(zip(academic.WORLD, ("GSM-8K", "MMLU", "HumanEval", "TruthfulQA", "ARC", "MBPP"), strict=True))
QUANTITIES = {"gold": "gold", CHARACTERS: "characters", "KL": "log_ratio", "win rate": "won"}
PERCENT = 100.0


def table_records(found: Study) -> list[Record]:
    """p2.table4: lambda, percent of wins, characters on the hard set, percent right; with where all began."""
    rows = found.chat.records("p2.table4", TITLES, JUDGED) + found.academic.records("p2.table4", SETS, JUDGED)
    return [record("p2.table4", CONCISE, "Len. penalty", float(np.mean(found.penalties)), seeds=found.seeds), *rows]


def reward_model_records(found: Study) -> list[Record]:
    """p2_06.reward_models: of pi_0's answers to a prompt, rewards' correlation with length, and percent of pairs in gold's order."""
    rows = []
    for name, each in found.first.items():
        bias = np.array([length_correlations(one.proxy, one.characters).correlation for one in each])
        right = PERCENT * np.array([concordance(one.proxy, one.gold) for one in each])
        for column, values in (("correlation with length", bias), ("gold order (%)", right)):
            rows.append(record("p2_06.reward_models", f"{name}'s", column, mean_interval(values), seeds=found.seeds))
    return rows


def sweep_values(found: Study, what: str) -> list[float]:
    """The values of what was swept, in their order."""
    return [value for name, value in found.sweeps if name == what]


def sweep_curve(found: Study, what: str, quantity: str) -> list[Record]:
    """p2_06.sweep: one quantity of the policy after one batch, by the value of what was swept."""
    return [
        record(
            f"p2_06.sweep.{what}",
            quantity,
            f"{what} = {value:g}",
            mean_interval(last_of(found.sweeps[what, value], QUANTITIES[quantity])),
            seeds=found.seeds,
        )
        for value in sweep_values(found, what)
    ]


def last_of(runs: Sequence[Run], quantity: str) -> np.ndarray:
    """The last iterate of each run, (seeds, prompts)."""
    return np.array([run.measured[-1].by_prompt(quantity) for run in runs])


def in_deviations(each: Sequence[Measured], first: Sequence[Measured], quantity: str) -> np.ndarray:
    """A quantity of a policy above pi_0's, in standard deviations of pi_0's answers, (seeds, prompts)."""
    return np.array(
        [
            (one.by_prompt(quantity) - start.by_prompt(quantity)) / getattr(start, quantity).std()
            for one, start in zip(each, first, strict=True)
        ]
    )


def overfitting_records(found: Study) -> list[Record]:
    """p2_06.overfitting: gold and proxy above pi_0's in its standard deviations, by reward model and iteration."""
    rows = []
    for name in (OURS, BIASED):
        runs, first = found.runs[name], found.first[name]
        for place in range(len(runs[0].measured)):
            each = [run.measured[place] for run in runs]
            for what, quantity in (("proxy", "proxy"), ("gold", "gold")):
                value = mean_interval(in_deviations(each, first, quantity))
                rows.append(
                    record("p2_06.overfitting", f"{name}, {what}", f"iteration = {place + 1}", value, seeds=found.seeds)
                )
    return rows


def epoch_records(found: Study) -> list[Record]:
    """p2_06.epochs: the same after one batch, by the number of epochs on its pairs."""
    return [
        record(
            "p2_06.epochs",
            what,
            f"epochs = {value:g}",
            mean_interval(
                in_deviations([run.measured[-1] for run in found.sweeps["epochs", value]], found.first[OURS], what)
            ),
            seeds=found.seeds,
        )
        for what in ("proxy", "gold")
        for value in sweep_values(found, "epochs")
    ]


def last_epoch_loss(done: Iteration, epochs: int) -> float:
    """Mean training loss in nats over the steps of the last epoch."""
    steps = done.history["loss"]
    return float(np.mean(steps[-(len(steps) // epochs) :]))


def loss_records(found: Study, epochs: int) -> list[Record]:
    """p2_06.loss: DPO loss in nats by reward model: the last epoch's by iteration, and after training over all its pairs."""
    rows = []
    for name in (OURS, BIASED):
        for place in range(len(found.runs[name][0].iterations)):
            each = [last_epoch_loss(run.iterations[place], epochs) for run in found.runs[name]]
            rows.append(record("p2_06.loss", name, f"iteration = {place + 1}", float(np.mean(each)), seeds=found.seeds))
        rows.append(record("p2_06.loss", name, "after training", mean_interval(found.losses[name]), seeds=found.seeds))
    return rows


def restart_records(found: Study) -> list[Record]:
    """p2_06.restart: the last iterate's win rate against SFT in percent, gold and KL; seconds of an epoch of its trainings, and their pairs."""
    rows = []
    for name in (OURS, RESTART):
        for column, quantity in (("win rate", "won"), ("gold", "gold"), ("KL", "log_ratio")):
            rows.append(
                record("p2_06.restart", name, column, mean_interval(found.last(name, quantity)), seeds=found.seeds)
            )
        pairs = trained_pairs(found.runs[name]).mean(0)
        spent = found.seconds[name].mean(0)
        for column, each in (("an epoch of each training (s)", spent), ("#pairs", pairs)):
            rows.append(record("p2_06.restart", name, column, float(each.sum()), seeds=found.seeds))
    return rows


def trained_pairs(runs: Sequence[Run]) -> np.ndarray:
    """Pairs that each training of the runs went over, (seeds, iterations)."""
    return np.array([[float(each.history["pairs"]) for each in run.iterations] for run in runs])


def time_ratio(seconds: np.ndarray, pairs: np.ndarray, other_seconds: np.ndarray, other_pairs: np.ndarray) -> Interval:
    """Training time of one recipe in percent of another's, all (seeds, iterations); the interval is that of the seconds a pair took.

    Trainings are resampled for their pace alone: each recipe's pairs stay what they are.
    """
    seconds, pairs, theirs, their_pairs = (each.ravel() for each in (seconds, pairs, other_seconds, other_pairs))

    def ratio(places: np.ndarray) -> float:
        pace, other = (s[places].sum() / p[places].sum() for s, p in ((seconds, pairs), (theirs, their_pairs)))
        return PERCENT * float(pace * pairs.sum() / (other * their_pairs.sum()))

    return statistic_interval(ratio, len(seconds))


def evidence(found: Study) -> dict[str, dict[str, Interval]]:
    """What p2.c7 to p2.c11 rest on: characters, percentage points, nats a pair, and percent of time."""
    length, lc, raw = (lambda a, b, c=column: found.chat.difference(c, a, b) for column in (LENGTH, LC, ARENA))
    won = difference_interval(found.last(OURS, "won"), found.last(RESTART, "won"))
    return {
        "p2.c7": {"length_change": length(CONCISE, OURS), "lc_win_change": lc(CONCISE, OURS)},
        "p2.c8": {"raw_win_change": raw(CONCISE, OURS)},
        "p2.c9": {"length_change": length(BIASED, OURS), "lc_win_change": lc(BIASED, OURS)},
        "p2.c10": {"loss_change": difference_interval(found.losses[BIASED], found.losses[OURS])},
        "p2.c11": {"win_rate_change": won, "time_ratio": time_ratio(*_work(found, OURS), *_work(found, RESTART))},
    }


def _work(found: Study, name: str) -> tuple[np.ndarray, np.ndarray]:
    return found.seconds[name], trained_pairs(found.runs[name])


def numbers(found: Study) -> dict[str, Interval | str]:
    """What the page's prose cites."""
    claims = evidence(found)
    pairs, others = (trained_pairs(found.runs[name]).sum() for name in (OURS, RESTART))
    return {
        "penalty": f"{np.mean(found.penalties):.4f}",
        "concise_length": claims["p2.c7"]["length_change"],
        "concise_lc": claims["p2.c7"]["lc_win_change"],
        "biased_length": claims["p2.c9"]["length_change"],
        "biased_lc": claims["p2.c9"]["lc_win_change"],
        "pairs_ratio": f"{PERCENT * pairs / others:.0f}",
    }
