"""What the chapter on flipped preferences reports of its two arms: p3.table3, losses, labels, ensembles, the judge, seeds."""

from collections.abc import Mapping
from dataclasses import replace

from repro.core.records import Record, record
from repro.core.settings import Section
from repro.core.statistics import Interval, difference_interval, mean_interval
from repro.papers import ugda_records
from repro.papers.robustness import (
    BEFORE,
    CLEAN,
    COLUMNS,
    COMPARED,
    FLIPPED,
    LEFT,
    OFF,
    ON,
    PERCENT,
    RLR,
    TURNED,
    Robustness,
    apart,
    labels_of,
)
from repro.papers.ugda_judged import LOSSES, WINS, Judged
from repro.papers.ugda_methods import PPO
from repro.papers.ugda_prompts import SUBTASKS, preferences
from repro.papers.ugda_study import OTHERS, SFT, UGDA


def table_records(found: Robustness) -> list[Record]:
    """p3.table3: what p3.table2 has, of the flipped arm."""
    return [replace(row, id="p3.table3") for row in ugda_records.table_records(found.arms[FLIPPED])]


def gain_records(found: Robustness) -> list[Record]:
    """p3_04.gain: by method, gold above SFT in either arm, paired."""
    return [
        record("p3_04.gain", name, f"above SFT, {arm}", each.gain(name, SFT), seeds=found.seeds)
        for name in COMPARED
        for arm, each in found.arms.items()
    ]


def loss_records(found: Robustness) -> list[Record]:
    """p3_04.loss: by method, clean gold less flipped gold on both subtasks together and on each, paired."""
    return [
        record("p3_04.loss", name, f"loss, {subtask or 'both'}", found.loss(name, subtask), seeds=found.seeds)
        for name in COMPARED
        for subtask in (None, *SUBTASKS)
    ]


def power_records(found: Robustness, at: float) -> list[Record]:
    """p3_04.power: UGDA's loss less each other's in gold, the SD of one seed's, and the seeds that see it, or one of `at`.

    The SD is between seeds; of one seed it is what its prompts alone leave, which is less.
    """
    rows = []
    for name in OTHERS:
        deviation = ugda_records.spread_of(found.lost(UGDA) - found.lost(name)).value
        seen = found.loss_against(UGDA, name)
        columns: dict[str, Interval | float | None] = {"difference": seen, "SD of one seed's": deviation}
        for what, size in (("as seen", seen.value), (f"{at:g}", at)):
            columns[f"#seeds for {what}"] = ugda_records.seeds_needed(deviation, size)
        rows += [record("p3_04.power", name, title, value, seeds=found.seeds) for title, value in columns.items()]
    return rows


def label_records(found: Robustness) -> list[Record]:
    """p3_04.labels: by arm, percent of labels that gold contradicts; percent of pairs that gold does not tell apart."""
    level = mean_interval(apart(found.labels.margins == 0)).scaled(PERCENT)
    return [
        record("p3_04.labels", arm, title, value, unit="%", seeds=found.seeds)
        for arm in found.arms
        for title, value in (("wrong labels", found.labels.wrong(arm)), ("gold is level", level))
    ]


def model_records(found: Robustness) -> list[Record]:
    """p3_04.models: by arm and ensemble, percent of answer pairs in gold's order."""
    return [
        record("p3_04.models", f"{arm}, {model}", column, found.order((arm, model), column), seeds=found.seeds)
        for arm, model in found.ordered
        for column in COLUMNS
    ]


def lead_records(verdicts: Mapping[str, Judged]) -> list[Record]:
    """p3_04.leads: UGDA's wins less losses in percent against each method in either arm, and flipped less clean, paired."""
    rows = []
    for other in OTHERS:
        leads = {arm: (found := each.shares(UGDA, other))[WINS] - found[LOSSES] for arm, each in verdicts.items()}
        columns = {arm: mean_interval(lead) for arm, lead in leads.items()}
        columns["change"] = difference_interval(leads[FLIPPED], leads[CLEAN])
        seeds = verdicts[CLEAN].seeds
        rows += [record("p3_04.leads", other, title, value, seeds=seeds) for title, value in columns.items()]
    return rows


def shown(settings: Section, own: Section, seed: int) -> dict[str, str]:
    """The first pair that is turned: its prompt, and both answers with gold and what each arm is told of them.

    settings, own: the sections `p3_03_ugda` and the chapter's.
    """
    clean = preferences(settings, seed)
    flipped = preferences(settings.pick(*settings, flip_share=own.flip_share), seed)
    place = int(labels_of([clean], [flipped]).turned[0].argmax())
    pair, gold = clean[place], clean[place].extras["gold"]
    text = {"prompt": "\n".join(f"{role}: {said}" for role, said in pair.prompt)}
    text[f"chosen by people; rejected, once turned (gold {gold[0]:.2f})"] = pair.chosen
    return text | {f"rejected by people; chosen, once turned (gold {gold[1]:.2f})": pair.rejected}


def numbers(found: Robustness) -> dict[str, Interval | str]:
    """What the page's prose cites."""
    labels, broken = found.labels, (FLIPPED, BEFORE)
    clean, share = labels.wrong(CLEAN), float(labels.turned.mean())
    return {
        "wrong_clean": clean,
        "wrong_flipped": labels.wrong(FLIPPED),
        "predicted": f"{clean.value * (1 - 2 * share) + PERCENT * share:.1f}",
        "turned": f"{labels.turned.sum(1).mean():,.0f}",
        "pairs": f"{labels.turned.shape[1]:,}",
        "ppo_gain": found.arms[CLEAN].gain(PPO, SFT),
        "ppo_loss": found.loss(PPO),
        "rlr_loss": found.loss(RLR),
        "ugda_loss": found.loss(UGDA),
        "damage": found.order_gain(broken, (CLEAN, BEFORE), OFF),
        "damage_turned": found.order_gain(broken, (CLEAN, BEFORE), TURNED),
        "damage_left": found.order_gain(broken, (CLEAN, BEFORE), LEFT),
        "repair": found.order_gain((FLIPPED, UGDA), broken, OFF),
        "repair_rlr": found.order_gain((FLIPPED, RLR), broken, OFF),
        "repair_on": found.order_gain((FLIPPED, UGDA), broken, ON),
        "repair_turned": found.order_gain((FLIPPED, UGDA), broken, TURNED),
        "repair_left": found.order_gain((FLIPPED, UGDA), broken, LEFT),
        "doubt_clean": found.doubted(CLEAN),
        "doubt_flipped": found.doubted(FLIPPED),
    }
