"""Write the README's result block, a picture and the scorecard, from the pages and records of the last run.

.venv/bin/python scripts/readme.py [TIER]      (laptop by default)
"""

import base64
import json
import re
import sys
from pathlib import Path

from repro.core import inventory, paths
from repro.report import ledger, text
from repro.report.ledger import Judgement

START, END = (
    "<!-- result: written by scripts/readme.py from the last run; do not edit by hand -->",
    "<!-- end of result -->",
)
CHAPTER, FIGURE = "p2_03_length_bias", "p2.fig3"
PICTURE = Path("docs") / f"{FIGURE}.png"


def figure(page: Path, name: str) -> tuple[bytes, str]:
    """A page's figure by its inventory id: the PNG and its caption. Raises KeyError if the page has none."""
    for cell in json.loads(page.read_text())["cells"]:
        about = cell.get("metadata", {}).get("mystnb", {}).get("figure", {})
        for output in cell.get("outputs", []) if about.get("name") == name else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode("".join(output["data"]["image/png"])), about["caption"]
    raise KeyError(f"{page} has no figure {name}; run its chapter first")


def line(judgement: Judgement) -> str:
    """A claim's line: verdict, words, court and ours."""
    ours = "; ".join(
        f"{term.replace('_', ' ')} {text.interval(record, text.digits_for(record))}"
        for term, (_, record, _) in judgement.terms.items()
        if record
    )
    return f"| {judgement.verdict} | {judgement.claim} | {judgement.text} | {judgement.court} | {ours} | {judgement.paper} |"


def block(tier: str, caption: str) -> str:
    """The README's block: the picture, the tally, and the verdicts that are in, folded away."""
    cards = ledger.scorecard(tier)
    counts = ledger.tally(cards)
    ran = [line(card) for card in cards if card.verdict != "not run"]
    lines = [
        f"![{caption}]({PICTURE.as_posix()})",
        "",
        f"*{caption}*",
        "",
        f"Of {len(cards)} lines for {len(inventory.claims())} claims: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        + f". Tier `{tier}`, seeds {', '.join(sorted({c.seeds for c in cards if c.seeds}))}.",
        "",
        f"<details><summary>{len(ran)} verdicts, ours beside published</summary>",
        "",
        "| verdict | claim | in words | court | ours, 95% interval | the paper |",
        "|---|---|---|---|---|---|",
        *ran,
        "",
        "</details>",
    ]
    return "\n".join(lines)


def main(tier: str = "laptop") -> None:
    """Rewrite the block in README.md and the picture beside it."""
    image, caption = figure(paths.runs_folder() / "pages" / tier / f"{CHAPTER}.ipynb", FIGURE)
    (paths.ROOT / PICTURE).write_bytes(image)
    readme = paths.ROOT / "README.md"
    pattern = re.escape(START) + r".*?" + re.escape(END)
    new, found = re.subn(
        pattern, lambda _: f"{START}\n{block(tier, caption)}\n{END}", readme.read_text(), flags=re.DOTALL
    )
    if not found:
        raise SystemExit(f"README.md has no block between {START!r} and {END!r}")
    readme.write_text(new)


if __name__ == "__main__":
    main(*sys.argv[1:])
