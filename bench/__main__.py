"""`python -m bench [NAME …]`: run the measures, print the table, and write it into docs/performance.md when all were run."""

from __future__ import annotations

import importlib
import sys
import time

from bench.figures import Figure, line, machine, table, write_page
from bench.limits import bare_loop_speed

MEASURES = (
    *("start", "memory", "requests", "lists", "training", "warm_child", "latency", "fanout", "backlog"),
    *("verify", "time_travel", "rebuild", "recovery"),
)


def main() -> None:
    """Each measure is a module with `measure() -> list[Figure]` and starts what it needs."""
    names = sys.argv[1:] or list(MEASURES)
    if unknown := [name for name in names if name not in MEASURES]:
        sys.exit(f"no such measure: {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    figures: list[Figure] = []
    speeds: list[float] = []
    for name in names:
        began = time.monotonic()
        speeds.append(bare_loop_speed())
        print(f"{name} … (a bare loop of Python: {speeds[-1]:.0f} million turns a second)", flush=True)
        found: list[Figure] = importlib.import_module(f"bench.{name}").measure()
        for figure in found:
            print(f"  {line(figure)}")
        print(f"{name} took {time.monotonic() - began:.0f} s", flush=True)
        figures += found
    print(f"\n{machine(speeds)}\n\n{table(figures)}")
    if not sys.argv[1:]:
        write_page(figures, speeds)


if __name__ == "__main__":
    main()
