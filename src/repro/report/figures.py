"""Figures of one hand: records or plain arrays in, axes out; nothing is computed here but where ink goes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from repro.core.records import Record

# Okabe & Ito (2008): distinguishable with every common colour vision
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#777777"
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, RED, "#56B4E9", GREY, "#000000")
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 170,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


@contextmanager
def canvas(
    columns: int = 1, rows: int = 1, size: tuple[float, float] = (5.0, 3.2), **options: object
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure and its axes (always an array) in the house style, shown at the end; size is one panel's, in inches."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, **options
        )
        yield figure, axes.ravel()
        plt.show()


def training_record(values: Sequence[float], quantity: str, ax: Axes, *, colour: str = BLUE) -> Axes:
    """p2.fig6, p2.fig7: one training quantity (loss, gradient norm or learning rate) by step, with its running mean."""
    values = np.asarray(values, dtype=float)
    ax.set(xlabel="optimiser step", ylabel=quantity.replace("_", " "))
    if quantity == "learning_rate":  # set, not measured: there is no noise to smooth
        ax.plot(values, color=colour, lw=1.8)
        return ax
    ax.plot(values, color=colour, alpha=0.3, lw=0.8)
    width = max(1, len(values) // 20)
    smooth = np.convolve(values, np.ones(width) / width, mode="valid")
    ax.plot(np.arange(width - 1, len(values)), smooth, color=colour, lw=1.8)
    return ax


def intervals(
    records: Sequence[Record], ax: Axes, *, colours: Mapping[str, str] | None = None, reference: float | None = None
) -> Axes:
    """Values with 95% intervals: columns down the axis, one mark per row; a grey line at the reference."""
    columns = list(dict.fromkeys(record.column for record in records))
    rows = list(dict.fromkeys(record.row for record in records))
    places = {(record.row, record.column): record for record in records}
    for k, row in enumerate(rows):
        found = [(i, places[row, column]) for i, column in enumerate(columns) if (row, column) in places]
        y = [i + 0.7 * ((k + 0.5) / len(rows) - 0.5) for i, _ in found]
        values = [record.value for _, record in found]
        low = [record.value - (record.value if record.low is None else record.low) for _, record in found]
        high = [(record.value if record.high is None else record.high) - record.value for _, record in found]
        colour = (colours or {}).get(row, COLOURS[k % len(COLOURS)])
        ax.errorbar(values, y, xerr=[low, high], fmt="o", ms=4, lw=1.4, color=colour, label=row)
    if reference is not None:
        ax.axvline(reference, color=GREY, lw=1, ls="--")
    ax.set(yticks=range(len(columns)), yticklabels=columns)
    ax.invert_yaxis()
    return ax


def bars(records: Sequence[Record], ax: Axes, *, colours: Mapping[str, str] | None = None) -> Axes:
    """p2.fig8: values as bars with 95% intervals, a group of bars for each column and a bar for each row."""
    columns, rows = (list(dict.fromkeys(each)) for each in zip(*((r.column, r.row) for r in records), strict=True))
    width = 0.8 / len(rows)
    for k, row in enumerate(rows):
        found = [record for record in records if record.row == row]
        x = [columns.index(record.column) + width * (k + 0.5 - len(rows) / 2) for record in found]
        ends = [(r.value - r.interval.low, r.interval.high - r.value) for r in found]
        colour = (colours or {}).get(row, COLOURS[k % len(COLOURS)])
        ax.bar(x, [record.value for record in found], 0.9 * width, color=colour, label=row)
        ax.errorbar(x, [record.value for record in found], yerr=np.transpose(ends), fmt="none", color="black", lw=1)
    ax.set_xticks(range(len(columns)), columns)
    return ax


def _number_in(column: str) -> float:
    """The number a column stands for: 8 of `8` and of `n = 8`."""
    return float(column.rsplit("=", 1)[-1])


def curve(records: Sequence[Record], ax: Axes, *, colours: Mapping[str, str] | None = None) -> Axes:
    """p1.fig4 and its kin: value with its 95% band against a numeric column, one line per row."""
    for k, row in enumerate(dict.fromkeys(record.row for record in records)):
        line = sorted((_number_in(r.column), r) for r in records if r.row == row and r.value is not None)
        x, found = [place for place, _ in line], [record for _, record in line]
        colour = (colours or {}).get(row, COLOURS[k % len(COLOURS)])
        ax.plot(x, [r.value for r in found], marker="o", ms=3.5, color=colour, label=row)
        if all(r.low is not None for r in found):
            ax.fill_between(x, [r.low for r in found], [r.high for r in found], color=colour, alpha=0.15, lw=0)
    return ax


def log_ticks(records: Sequence[Record], ax: Axes) -> Axes:
    """A logarithmic horizontal axis whose ticks are the records' own numbers, written out."""
    places = sorted({_number_in(record.column) for record in records})
    shown = [place for k, place in enumerate(places) if k == 0 or place > 1.2 * places[k - 1]]
    ax.set_xscale("log")
    ax.set_xticks(shown, [f"{place:,.0f}" if place >= 1 else f"{place:g}" for place in shown])
    ax.minorticks_off()
    return ax


def heatmap(
    counts: np.ndarray, lengths: np.ndarray, correlations: np.ndarray, ax: Axes, *, mean: float, title: str
) -> Axes:
    """p2.fig3: share of the prompts of each mean-length group (rows) by their reward-length correlation (columns).

    counts: (length groups, correlation bins); lengths, correlations: bin edges, one more than bins.
    """
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.pcolormesh(correlations, np.arange(len(lengths)), share, cmap="Blues", vmin=0)
    ax.axvline(0, color=GREY, lw=1)
    ax.axvline(mean, color=RED, lw=1.6)
    ax.set(xlabel="correlation of reward with length", ylabel="mean answer length (characters)")
    ax.set(title=f"{title}: mean {mean:.2f}".replace("-", "\N{MINUS SIGN}"), xticks=[-1, -0.5, 0, 0.5, 1])
    ax.set_yticks(np.arange(len(lengths)), [f"{edge:,.0f}" for edge in lengths])
    return ax


def boxes(groups: Mapping[str, Sequence[Sequence[float]]], ax: Axes, *, names: Sequence[str] = ()) -> Axes:
    """Spread by group, down the axis: one box for each of a group's series, quartiles with whiskers from 5 to 95 percent.

    names: what the series are called, in their order within every group.
    """
    series = max(map(len, groups.values()))
    for k in range(series):
        places = [i + 0.8 * ((k + 0.5) / series - 0.5) for i, group in enumerate(groups.values()) if k < len(group)]
        ax.boxplot(
            [group[k] for group in groups.values() if k < len(group)],
            positions=places,
            widths=0.6 / series,
            whis=(5, 95),
            showfliers=False,
            orientation="horizontal",
            patch_artist=True,
            boxprops={"facecolor": COLOURS[k], "alpha": 0.65, "lw": 0.8},
            medianprops={"color": "black", "lw": 1.6},
            whiskerprops={"color": COLOURS[k], "lw": 1.2},
            capprops={"lw": 0},
            label=names[k] if names else None,
        )
    ax.set_yticks(range(len(groups)), list(groups))
    ax.invert_yaxis()
    return ax


def matrix(values: np.ndarray, names: Sequence[str], ax: Axes, *, digits: int = 0) -> Axes:
    """A square of values between the named, darker where larger, each written in its cell; a dash where there is none.

    values: (names, names).
    """
    values = np.asarray(values, dtype=float)
    low, high = np.nanmin(values), np.nanmax(values)
    ax.imshow(values, cmap="Blues", vmin=low - 0.15 * (high - low), vmax=high + 0.15 * (high - low))
    for (row, column), value in np.ndenumerate(values):
        words = f"{value:.{digits}f}" if np.isfinite(value) else "\N{EN DASH}"
        dark = np.isfinite(value) and value > low + 0.6 * (high - low)
        ax.text(column, row, words, ha="center", va="center", color="white" if dark else "black")
    ax.set_yticks(range(len(names)), names)
    ax.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def stacked(shares: Mapping[str, Mapping[str, float]], ax: Axes, *, colours: Mapping[str, str] | None = None) -> Axes:
    """Parts of a whole by row, side by side from zero; a part keeps its colour in every row. shares: row -> part -> size."""
    parts = list(dict.fromkeys(part for row in shares.values() for part in row))
    shade = dict(zip(parts, many_colours(len(parts)), strict=True)) | dict(colours or {})
    ends = dict.fromkeys(shares, 0.0)
    for part in parts:
        sizes = [row.get(part, 0.0) for row in shares.values()]
        ax.barh(list(shares), sizes, left=list(ends.values()), height=0.7, color=shade[part], label=part)
        ends = {row: end + size for (row, end), size in zip(ends.items(), sizes, strict=True)}
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    return ax


def many_colours(count: int) -> list[str]:
    """As many colours as there are groups: the house's first, then lighter ones of the same hues."""
    lighter = ("#7FB8DA", "#F4D08A", "#7FCFB9", "#E5BCD3", "#EAAE80", "#AADAF4", "#BBBBBB", "#7F7F7F")
    return [(*COLOURS, *lighter)[k % (2 * len(COLOURS))] for k in range(count)]


def atlas(places: np.ndarray, labels: Sequence[str], ax: Axes, *, order: Sequence[str] | None = None) -> Axes:
    """p2.fig5: points on a plane, coloured by label and, so that colours can repeat, marked too; legend below.

    places: (points, 2); labels: (points,). order: the labels in the legend's order, each beginning with its number, which
    then stands above their middle; else by name. Names show as text.
    """
    names = list(order or sorted(set(labels)))
    found = np.array(labels)
    size = float(np.clip(8000 / len(labels), 5, 18))
    for k, (name, colour) in enumerate(zip(names, many_colours(len(names)), strict=True)):
        own = places[found == name]
        ax.scatter(*own.T, s=size, color=colour, alpha=0.75, lw=0, marker="os^D"[k // len(COLOURS) % 4], label=name)
        if order:
            x, y = own[np.linalg.norm(own - np.median(own, axis=0), axis=1).argmin()]
            halo = [withStroke(linewidth=2.5, foreground="white")]
            beside = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "path_effects": halo}
            ax.annotate(name.split()[0], (x, y), **beside, fontsize=9, weight="bold")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    shown = ax.legend(
        loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize=8, markerscale=2.2, handletextpad=0.2
    )
    for text in shown.get_texts():
        text.set_parse_math(False)
    return ax


def agreement(
    ours: Sequence[float], published: Sequence[float], ax: Axes, *, label: str = "", colour: str = BLUE
) -> Axes:
    """Recomputed against published figures, with the diagonal on which they agree."""
    ax.scatter(published, ours, s=22, color=colour, label=label or None, zorder=3)
    ends = [min(*ours, *published), max(*ours, *published)]
    ax.plot(ends, ends, color=GREY, lw=1, zorder=1)
    ax.set(xlabel="published", ylabel="recomputed")
    return ax


VERDICT_COLOURS = {"holds": GREEN, "fails": RED, "inconclusive": ORANGE, "not run": "#D9D9D9"}


def verdicts(cards: Sequence[tuple[str, str, str]], ax: Axes) -> Axes:
    """Every claim (columns) in every court (rows) as a tile of its verdict's colour and mark; blank without a rule.

    cards: (claim, court, verdict) in the order of the inventory.
    """
    claims, courts = (list(dict.fromkeys(card[k] for card in cards)) for k in (0, 1))
    marks = {"holds": "\N{CHECK MARK}", "fails": "\N{MULTIPLICATION X}", "inconclusive": "~", "not run": ""}
    for claim, court, verdict in cards:
        x, y = claims.index(claim), courts.index(court)
        ax.add_patch(plt.Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, color=VERDICT_COLOURS[verdict], lw=0))
        ax.text(x, y, marks[verdict], ha="center", va="center", color="white", weight="bold")
    for verdict, colour in VERDICT_COLOURS.items():
        ax.scatter([], [], marker="s", s=60, color=colour, label=verdict)
    ax.set(
        xlim=(-0.6, len(claims) - 0.4), ylim=(len(courts) - 0.4, -0.6), yticks=range(len(courts)), yticklabels=courts
    )
    ax.set_xticks(range(len(claims)), claims, rotation=90, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)
    return ax


def score_matrix(counts: np.ndarray, kept: np.ndarray, ax: Axes) -> Axes:
    """p1.table1: pairs by the levels of both answers, each cell's count and share; those kept outlined, the others grey.

    counts, kept: (levels, levels), r+ down and r- across, from level 1.
    """
    levels = range(1, len(counts) + 1)
    share = counts / max(counts.sum(), 1)
    ax.imshow(share, cmap="Greens", interpolation="nearest", vmin=0, vmax=1.3 * max(share.max(), 1e-9))
    grey = np.ma.masked_array(share, kept)
    ax.imshow(grey, cmap="Greys", interpolation="nearest", vmin=0, vmax=2 * max(share.max(), 1e-9))
    for (row, column), count in np.ndenumerate(counts):
        words = f"{count:,.0f}\n{100 * share[row, column]:.1f}%"
        ax.text(column, row, words, ha="center", va="center", fontsize=8.5)
        if kept[row, column]:
            corner = (column - 0.46, row - 0.46)
            ax.add_patch(plt.Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=GREEN, lw=1.8))
    ax.set(xlabel="level of the other answer, $r^-$", ylabel="level of the stronger model's answer, $r^+$")
    ax.set_xticks(range(len(counts)), levels)
    ax.set_yticks(range(len(counts)), levels)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax
