"""What was measured, as a page for the docs, raw JSON and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from benchmarks.cases import CASES
from benchmarks.result import Median
from benchmarks.transfer import LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PLOT: Final = "images/benchmarks.svg"
_COLORS: Final = {"limit": "#9aa5b1", "chain": "#2f6fbd", "peer": "#c9772b"}
_GROUPS: Final = {
    "limit": "limit: PostgreSQL alone",
    "chain": "this package",
    "peer": "other ways",
}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are set to the right where they are numbers."""
    right = [
        all(cell[:1].isdigit() or cell in {"", "-"} for cell in column)
        for column in zip(*rows, strict=True)
    ] or [False] * len(header)
    lines = [
        _line(header),
        _line(["---:" if numeric else "---" for numeric in right]),
        *(_line(row) for row in rows),
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def transfer_table(raw: Mapping[str, Any]) -> str:
    """Return every way with what it took, and how far that is from the limit."""
    medians = {one["name"]: Median.from_json(one) for one in raw["medians"]}
    limit = medians[LIMIT].rows_a_second if LIMIT in medians else None
    rows = [_transfer_row(one, limit) for one in medians.values()]
    header = (
        "way",
        "rows",
        "s (lowest to highest)",
        "rows/s",
        "times the limit's time",
        "stages, s",
        "client CPU, s",
        "peak, MB",
        "content",
    )
    return markdown_table(header, rows)


def _transfer_row(one: Median, limit: float | None) -> tuple[str, ...]:
    low, high = one.spread
    return (
        f"**{one.name}**<br>{one.words}",
        f"{one.rows:,}",
        f"{one.seconds:.1f} ({low:.1f} to {high:.1f})",
        f"{one.rows_a_second:,.0f}",
        _ratio(one, limit),
        " + ".join(f"{seconds:.1f}" for seconds in one.stages.values()) or "-",
        f"{one.cpu_seconds:.1f}",
        f"{one.peak_bytes / 1e6:.0f}",
        content_words(one),
    )


def _ratio(one: Median, limit: float | None) -> str:
    if limit is None:
        return "-"
    goal = next((case.goal for case in CASES if case.name == one.name), None)
    return f"{limit / one.rows_a_second:.2f}" + (f" (goal {goal:g})" if goal else "")


def against(raw: Mapping[str, Any], peer: str, ways: Sequence[str]) -> str:
    """Say how many times as fast as a peer some ways are; "" when the peer was not measured."""
    speeds = {one["name"]: one["rows_a_second"] for one in raw["medians"]}
    if peer not in speeds:
        return ""
    told = [f"{way} {speeds[way] / speeds[peer]:.1f}" for way in ways if way in speeds]
    return f"Times as fast as {peer}: {', '.join(told)}." if told else ""


def content_words(one: Median) -> str:
    """Say how the target compared with the source."""
    verdict = one.verdict
    if not verdict.exact:
        return f"**not the source's**: {verdict.words}"
    return f"exact; {verdict.words}" if verdict.words else "exact"


def failures_list(raw: Mapping[str, Any]) -> str:
    """Return what could not be measured, and why."""
    return "\n".join(
        f"* {one['name']} ({one['words']}): {one['reason']}." for one in raw["failures"]
    )


def plot(raw: Mapping[str, Any], path: Path) -> None:
    """Draw rows per second of every way, in the colours of the groups."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("svg")
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9}
    from matplotlib import pyplot as plt  # noqa: PLC0415
    from matplotlib.patches import Patch  # noqa: PLC0415

    medians = [Median.from_json(one) for one in raw["medians"]][::-1]
    groups = raw["groups"]
    limit = next((one.rows_a_second for one in medians if one.name == LIMIT), None)
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.34 * len(medians)), layout="constrained")
    bars = axes.barh(
        [one.name for one in medians],
        [one.rows_a_second / 1000 for one in medians],
        color=[_COLORS[groups[one.name]] for one in medians],
    )
    labels = [
        f"{one.rows_a_second / 1000:,.0f}k/s"
        + (f"  ({limit / one.rows_a_second:.1f}x)" if limit else "")
        + ("" if one.verdict.exact else "  changed values")
        for one in medians
    ]
    axes.bar_label(bars, labels=labels, padding=4)
    axes.set_xlabel("thousand rows per second, source to warehouse (more is better)")
    axes.margins(x=0.22)
    axes.spines[["top", "right"]].set_visible(False)
    present = {groups[one.name] for one in medians}
    axes.legend(
        handles=[
            Patch(color=color, label=_GROUPS[group])
            for group, color in _COLORS.items()
            if group in present
        ],
        loc="lower right",
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
