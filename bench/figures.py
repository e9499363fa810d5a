"""A measured figure, and the page on which it stands."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PAGE = Path("docs/performance.md")
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `value` is what the aim speaks of, in `unit`; the rest says how far to believe it."""

    name: str
    value: float
    unit: str
    aim: str
    met: bool
    spread: str = ""
    beside: str = ""
    """The limit of its parts in the same run, as `bare Kafka append p50 0.8 ms`."""
    ratio: float | None = None
    command: str = ""


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile of measurements."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread_of(values: Sequence[float], unit: str = "ms") -> str:
    """`min 1.2, p50 1.4, p99 3.1, max 9.0 ms (n 1000)`."""
    low, mid, high, most = min(values), statistics.median(values), percentile(values, 99), max(values)
    return f"min {low:.3g}, p50 {mid:.3g}, p99 {high:.3g}, max {most:.3g} {unit} (n {len(values)})"


def latency_figures(
    name: str,
    milliseconds: Sequence[float],
    *,
    p50: float,
    p99: float | None,
    beside: str = "",
    part: float | None = None,
    command: str = "",
) -> list[Figure]:
    """The p50 (and p99) of latencies against their aims; `part` is the p50 of the limit named in `beside`."""
    mid = statistics.median(milliseconds)
    spread = spread_of(milliseconds)
    ratio = mid / part if part else None
    figures = [Figure(f"{name}, p50", mid, "ms", f"≤ {p50:g}", mid <= p50, spread, beside, ratio, command)]
    if p99 is not None:
        high = percentile(milliseconds, 99)
        figures.append(Figure(f"{name}, p99", high, "ms", f"≤ {p99:g}", high <= p99, spread, beside, None, command))
    return figures


def line(figure: Figure) -> str:
    """`POST …, p50: 9.8 ms (aim ≤ 10)`: for whoever watches."""
    return f"{figure.name}: {figure.value:,.4g} {figure.unit} (aim {figure.aim}{'' if figure.met else ', missed'})"


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| figure | measured | aim | | beside it, in the same run | ratio | spread |",
        "|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        ratio = f"{f.ratio:.2f}" if f.ratio is not None else ""
        mark = "met" if f.met else "**missed**"
        lines.append(f"| {f.name} | {f.value:,.4g} {f.unit} | {f.aim} | {mark} | {f.beside} | {ratio} | {f.spread} |")
    return "\n".join(lines)


def machine(speeds: Sequence[float]) -> str:
    """What it was measured on, without naming it, and how fast its cores were meanwhile (million turns of a bare loop a second)."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model}), {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}; the platform and the load on the same cores; "
        f"a bare loop of Python made {min(speeds):.0f} to {max(speeds):.0f} million turns a second meanwhile"
    )


def write_page(figures: Sequence[Figure], speeds: Sequence[float]) -> None:
    """Replace the figures on the page; the prose around them stays."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\nMachine: {machine(speeds)}.\n\n{table(figures)}\n\n{END}{after}")
