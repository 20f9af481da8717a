"""The README's first screen shows a result that a run made, and its commands exist."""

import re

from repro.core import inventory
from repro.core.paths import ROOT
from repro.report.ledger import VERDICTS

README = (ROOT / "README.md").read_text()


def result() -> str:
    return re.search(r"<!-- result: .*? -->\n(.*?)<!-- end of result -->", README, re.DOTALL)[1]


def test_the_result_has_its_picture_and_verdicts_of_known_claims():
    picture = re.search(r"!\[[^\]]+\]\(([^)]+)\)", result())[1]
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    lines = re.findall(r"^\| (\w[\w ]*) \| (p\d\.c\d+) \| ([^|]+) \| ([^|]+) \|", result(), re.MULTILINE)
    assert lines
    for verdict, claim, words, court in lines:
        assert verdict in VERDICTS and words == inventory.claims()[claim]["text"]
        assert court in inventory.claims()[claim]["courts"]


def test_the_counts_add_up():
    total = int(re.search(r"Of (\d+) lines for 29 claims", result())[1])
    assert total == sum(len(about["courts"]) for about in inventory.claims().values())
    assert total == sum(int(count) for count in re.findall(rf"(\d+) (?:{'|'.join(VERDICTS)})\b", result()))


def test_every_make_target_and_folder_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for folder in re.findall(r"^  (\w+)/  ", README, re.MULTILINE):
        assert (ROOT / "src" / "repro" / folder).is_dir(), folder
