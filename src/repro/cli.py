"""The command line: `repro run | status | why | claims | inventory | records | data | doctor | book | clean`."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict

from repro.core import artifacts, inventory, paths, records, settings, why
from repro.core.errors import MissingInput, ReproError

WRONG_USE, SKIPPED = 2, 3
FLAGS = {
    "json": {"action": "store_true", "help": "for scripts"},
    "tier": {"help": "of this tier alone (claims: the one run last)"},
    "id": {"help": "of this inventory id alone"},
    "only": {"help": "the same as naming chapters"},
    "profile": {"help": "workflow/profiles/NAME: run on a cluster"},
    "no-book": {"action": "store_true", "help": "stop after the chapters"},
    "all": {"action": "store_true", "help": "everything that runs made"},
    "from": {
        "dest": "origin",
        "choices": ["source", "hub"],
        "default": "source",
        "help": "the public source repositories, or the hub (hh-rlhf only)",
    },
}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


def _known(tier: str | None) -> str | None:
    """The tier, if it is one. Raises SettingsError naming the nearest otherwise."""
    if tier is not None:
        settings.load(tier)
    return tier


def _columns(rows: list[list[str]]) -> None:
    """Print rows as aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))] if rows else []
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def run(arguments: argparse.Namespace) -> int:
    """Run chapters, the scorecard and the book."""
    from repro import run as runner

    only = ",".join(filter(None, [*arguments.chapters, arguments.only or ""])) or None
    seeds = records.parse_seeds(arguments.seeds)
    jobs = arguments.jobs or os.cpu_count() or 1
    return runner.run(
        arguments.tier, seeds, jobs, only=only, profile=arguments.profile, build_book=not arguments.no_book
    )


def status(arguments: argparse.Namespace) -> int:
    """Say which chapters ran at which tier, how long they took, and what failed."""
    from repro.batch import chapters

    states = paths.runs_folder() / "state"
    found = [row for tier in sorted(p.name for p in states.glob("*") if p.is_dir()) for row in chapters.statuses(tier)]
    rows = [row for row in found if row["state"] != "not run"]
    if arguments.json:
        _print_json(rows)
    elif not rows:
        print(
            "nothing has run yet; `make reproduce` runs everything, `repro run --tier smoke` a small version in minutes"
        )
    else:
        table = [["tier", "chapter", "state", "seconds", "error"]]
        table += [
            [
                r["tier"],
                r["chapter"],
                r.get("state", "?"),
                str(r.get("seconds") or ""),
                str((r.get("error") or {}).get("evalue", "")).split("\n")[0][:80],
            ]
            for r in rows
        ]
        _columns(table)
    return 0


def explain(arguments: argparse.Namespace) -> int:
    """Say what made an artifact stale."""
    print(why.explain(arguments.name))
    return 0


def claims(arguments: argparse.Namespace) -> int:
    """Print every claim with its rule, evidence and verdict."""
    from repro.report import ledger

    tier = _known(arguments.tier) or records.last_tier() or "laptop"
    judgements = ledger.scorecard(tier)
    if arguments.json:
        _print_json(
            [
                {
                    "claim": j.claim,
                    "court": j.court,
                    "text": j.text,
                    "paper": j.paper,
                    "verdict": j.verdict,
                    "n": j.n,
                    "seeds": j.seeds,
                    "terms": {
                        t: {"rule": b.text, "verdict": v, "evidence": asdict(r) if r else None}
                        for t, (b, r, v) in j.terms.items()
                    },
                }
                for j in judgements
            ]
        )
    else:
        print(f"tier {tier}")
        _columns([["claim", "court", "verdict", "text"], *([j.claim, j.court, j.verdict, j.text] for j in judgements)])
        print(", ".join(f"{count} {verdict}" for verdict, count in ledger.tally(judgements).items()))
    return 0


def show_inventory(arguments: argparse.Namespace) -> int:
    """Print each inventory id with the chapter and cell that meets it, or open."""
    rows = inventory.coverage()
    if arguments.json:
        _print_json(rows)
    else:
        _columns(
            [
                ["id", "status", "chapter", "cell", "title"],
                *(
                    [r["id"], r["status"], r["chapter"] or f"({r['planned']})", str(r["cell"] or ""), r["title"]]
                    for r in rows
                ),
            ]
        )
        met = sum(row["status"] == "met" for row in rows)
        print(f"{met} met, {len(rows) - met} open")
    return 0


def show_records(arguments: argparse.Namespace) -> int:
    """Print records as tidy rows."""
    rows = [asdict(row) for row in records.load(tier=_known(arguments.tier), id=arguments.id)]
    if arguments.json:
        _print_json(rows)
    else:
        _columns(
            [
                list(records.Record.__dataclass_fields__),
                *(
                    [str("" if v is None else round(v, 4) if isinstance(v, float) else v) for v in row.values()]
                    for row in rows
                ),
            ]
        )
    return 0


def data(arguments: argparse.Namespace) -> int:
    """Fetch the public data sets that the real chapters read, or say which are here."""
    from repro.data import fetch
    from repro.data import status as data_status

    if arguments.action == "fetch":
        report = fetch.fetch(paths.fetch_folder(), arguments.names or None, from_hub=arguments.origin == "hub")
        print(report.summary())
        return 0
    _columns(
        [
            ["data set", "state", "detail"],
            *([row.name, row.state, row.detail] for row in data_status(paths.data_folder())),
        ]
    )
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Say in plain words what this machine can run, and what is missing for the next tier."""
    from repro.core import doctor as doctor_module

    print(doctor_module.report(doctor_module.diagnose()))
    return 0


def build_book(arguments: argparse.Namespace) -> int:
    """Build the book from the executed chapters."""
    from repro import book

    print(book.build(_known(arguments.tier)))
    return 0


def clean(arguments: argparse.Namespace) -> int:
    """Remove stale artifacts; with --all everything that runs made, data and environment excepted."""
    if arguments.all:
        made = [paths.runs_folder() / name for name in ("artifacts", "inputs", "pages", "records", "state")]
        for folder in (*made, paths.CHAPTERS, paths.BOOK / "_build"):
            shutil.rmtree(folder, ignore_errors=True)
        print("removed artifacts, records, pages and the built book")
        return 0
    everything = artifacts.stored()
    known = {str(artifact.path): artifact for artifact in everything}
    stale = [artifact for artifact in everything if why.reasons(artifact, known)]
    for artifact in stale:
        shutil.rmtree(artifact.path, ignore_errors=True)
    print(f"removed {len(stale)} stale of {len(everything)} artifacts; `repro clean --all` removes everything")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    about = "Reproduce three papers on reward modelling and RLHF, from the preference data to every table and figure."
    top = argparse.ArgumentParser(prog="repro", description=about)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, action: Callable[[argparse.Namespace], int], *flags: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=action.__doc__.split("\n")[0], description=action.__doc__)
        command.set_defaults(action_function=action)
        for flag in flags:
            command.add_argument(f"--{flag}", **FLAGS[flag])
        return command

    run_command = add("run", run, "only", "profile", "no-book")
    run_command.add_argument("chapters", nargs="*", help="chapters or prefixes such as p1; all by default")
    run_command.add_argument("--tier", default="laptop", help=f"{' | '.join(settings.tiers())} (default laptop)")
    run_command.add_argument("--seeds", default="0-2", help="0, 0-4 or 0,2,5 (default 0-2)")
    run_command.add_argument("--jobs", type=int, default=0, help="chapters at a time (default: by cores)")
    add("status", status, "json")
    add("why", explain).add_argument("name", help="part of a step's name, or a chapter")
    add("claims", claims, "tier", "json")
    add("inventory", show_inventory, "json")
    add("records", show_records, "id", "tier", "json")
    data_command = add("data", data, "from")
    data_command.add_argument("action", choices=["fetch", "status"])
    data_command.add_argument("names", nargs="*", help="data sets; all that the chapters read by default")
    add("doctor", doctor)
    add("book", build_book).add_argument("--tier", default="laptop", help="whose run the book shows (default laptop)")
    add("clean", clean, "all")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run one command; an error is said in plain words and decides the exit code (1 failed, 2 wrong use, 3 skipped)."""
    try:
        parsed = parser().parse_args(arguments)
        return parsed.action_function(parsed)
    except MissingInput as error:
        print(f"missing: {error}", file=sys.stderr)
        return SKIPPED
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return WRONG_USE
    except OSError as error:
        print(f"{error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
