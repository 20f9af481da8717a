"""Words and numbers for pages: model and data text arrives as text, whatever it holds."""

import html
import math
import re

from repro.core.records import Record
from repro.core.statistics import Interval

MINUS = "\N{MINUS SIGN}"
NARROW = "\N{NARROW NO-BREAK SPACE}"  # a line may break before an interval, not within it


def escape(text: str) -> str:
    """Text for a Markdown cell or paragraph: every ASCII punctuation mark escaped, line breaks and controls made spaces."""
    text = re.sub(r"[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]+", " ", text)
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", text)


def block(text: str, label: str = "") -> str:
    """Text as an HTML block that shows exactly what it holds: no markup, no mathematics, line breaks kept."""
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", text)
    caption = f'<div class="repro-label">{html.escape(label)}</div>' if label else ""
    return f'{caption}<pre class="repro-text mathjax_ignore tex2jax_ignore">{html.escape(clean)}</pre>'


def number(value: float | None, digits: int = 1) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def interval(found: Interval | Record, digits: int = 1) -> str:
    """value [low, high]; the value alone where there is no sampling error."""
    if found.low is None or found.low == found.high:
        return number(found.value, digits)
    return f"{number(found.value, digits)} [{number(found.low, digits)},{NARROW}{number(found.high, digits)}]"


def digits_for(found: Interval | Record) -> int:
    """Decimals that show two significant digits of the smallest of value and bounds, at least 2 and at most 4."""
    sizes = [abs(number) for number in (found.value, found.low, found.high) if number]
    return min(4, max(2, 1 - math.floor(math.log10(min(sizes))))) if sizes else 2
