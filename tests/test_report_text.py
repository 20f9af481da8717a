"""Whatever a model or a data set holds shows as text."""

import re

import pytest
from markdown_it import MarkdownIt

from repro.core.records import record
from repro.core.statistics import Interval
from repro.report import tables, text

HOSTILE = [
    "<script>alert(1)</script>",
    "| a | b |",
    "**bold** _it_",
    "$x^2$ \\(y\\)",
    "# head",
    "```{raw} html\n<b>\n```",
    "[link](javascript:alert(1))",
    "{ref}`x`",
    "&lt;b&gt;",
    "\x00\x1b[31m",
    "a\n\n- list",
    "\\",
    "{{ sub }}",
    "\ud800",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_escaped_text_renders_as_itself(hostile):
    rendered = MarkdownIt("commonmark").enable("table").render("start " + text.escape(hostile) + " end")
    assert re.fullmatch(r"<p>start [^<>]* end</p>\n", rendered)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_block_holds_no_markup_of_the_text(hostile):
    inside = re.fullmatch(r"(?s)<pre [^>]*>(.*)</pre>", text.block(hostile))[1]
    assert "<" not in inside and ">" not in inside


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_table_keeps_its_shape(hostile):
    shown = tables.grid(["a", "b"], [[hostile, "1"]], caption=hostile, name="x")
    lines = shown["text/markdown"].splitlines()
    assert len(lines) == 7 and "<script" not in shown["text/html"]
    assert len(re.findall(r"(?<!\\)\|", lines[-2])) == 3


def test_numbers():
    assert text.number(-0.04) == "0.0" and text.number(-1234.56) == "−1,234.6" and text.number(None) == "–"
    assert text.interval(Interval(0.5, -0.25, 1, 3), 2) == "0.50 [−0.25,\N{NARROW NO-BREAK SPACE}1.00]"


def test_published_stands_under_ours():
    rows = [record("p2.fig3", "ours more", "value", Interval(0.2, 0.1, 0.3, 805), seeds=[0])]
    shown = tables.beside_published(rows, id="p2.fig3", caption="c", match={"ours more": "UltraRM-13B_mean"}, digits=2)[
        "text/markdown"
    ]
    assert re.search(r"UltraRM.*published \| 0\\\.19", shown) and "805" in shown


def test_what_the_text_lost_is_said():
    rows = [record("p3.table2", "PPO", "helpful", Interval(1, 0, 2, 9), seeds=[0])]
    assert "not in the text" in tables.beside_published(rows, id="p3.table2", caption="c")["text/markdown"]
