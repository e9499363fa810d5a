"""`python -m storm --seed S --minutes M`: exit status 0 when every promise held, 1 when one was broken."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import uvloop

from storm.run import Options, Outcome, run

SHOWN = 40
"""Violations that are printed; the file beside the state holds all."""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m storm", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="what is done, and in which order; drawn when not given")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults happen")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--brokers", type=int, default=1, choices=(1, 3), help="with three, two of them fail at times")
    parser.add_argument("--only", nargs="*", default=(), metavar="FAULT", help="nothing but these kinds of faults")
    parser.add_argument("--keep", action="store_true", help="keep the state folder of a run that went well, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else secrets.randbelow(2**31)
    options = Options(seed, given.minutes, given.workers, brokers=given.brokers, only=tuple(given.only))
    folder = Path(tempfile.mkdtemp(prefix=f"ravand-storm-{seed}-"))
    command = f"python -m storm --seed {seed} --minutes {given.minutes:g} --workers {given.workers}"
    if options.brokers > 1:
        command += f" --brokers {options.brokers}"
    if options.only:
        command += " --only " + " ".join(f"'{kind}'" for kind in options.only)
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {text}", flush=True)

    say(f"seed {seed}, {given.minutes:g} minutes, in {folder}")
    try:
        outcome = uvloop.run(run(folder, options, say))
    except BaseException:
        print(f"\nThe run itself failed. Its state is in {folder}; again: {command}", file=sys.stderr)
        raise
    _show(outcome)
    (folder / "figures.json").write_text(json.dumps(_figures(outcome), indent=2))
    if given.json:
        given.json.write_text(json.dumps(_figures(outcome), indent=2))
    if outcome.violations:
        (folder / "violations.txt").write_text("\n".join(map(str, outcome.violations)))
        print(f"\nThe state is kept in {folder}. Again: {command}")
        return 1
    if given.keep:
        print(f"\nThe state is kept in {folder}.")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _figures(outcome: Outcome) -> dict[str, object]:
    report = outcome.report
    return {
        "options": asdict(outcome.options),
        "cycles": sum(outcome.faults.values()),
        "faults": dict(outcome.faults),
        "records": report.records,
        "effective": report.effective,
        "refused": dict(report.refused),
        "fenced_by_processes": outcome.own_fenced,
        "calls": dict(outcome.outcomes),
        "unknown": report.unknown_outcomes,
        "frames": report.frames,
        "resyncs": outcome.resyncs,
        "reads": outcome.reads,
        "jobs": len(report.fold.jobs),
        "attempts": sum(job.attempt for job in report.fold.jobs.values()),
        "twins": list(outcome.twins.values()),
        "restarts": outcome.restarts,
        "quiet_after": outcome.quiet_after,
        "recoveries": [asdict(recovery) for recovery in outcome.recoveries],
        "violations": [str(violation) for violation in outcome.violations],
    }


def _show(outcome: Outcome) -> None:
    report, figures = outcome.report, _figures(outcome)
    print(f"\n{figures['cycles']} faults, {report.records:,} records, {report.effective:,} took effect,", end=" ")
    print(f"{figures['jobs']} jobs in {figures['attempts']} attempts, {report.frames:,} messages over sockets")
    for name, counts in (("faults", outcome.faults), ("refused", report.refused), ("answers", outcome.outcomes)):
        print(f"  {name}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    print(
        f"  fenced records by processes themselves: {outcome.own_fenced}; unknown outcomes: {report.unknown_outcomes}"
    )
    print(f"  twins that completed, by attempts: {sorted(outcome.twins.values())}; restarts: {outcome.restarts}")
    print(
        f"  at rest {outcome.quiet_after:.1f} s after the last fault; {outcome.resyncs} resyncs, {outcome.reads} reads"
    )
    print("  recovery in seconds (median, worst):")
    for one in outcome.recoveries:
        overlapped = f", {one.overlapped} overlapped" if one.overlapped else ""
        print(f"    {one.kind:<56} {one.count:>3} ×  {one.median:6.1f} {one.worst:6.1f}{overlapped}")
    if report.proved_nothing:
        print(f"  This run proved nothing: {report.proved_nothing}.")
    elif not outcome.own_fenced:
        print("  This run did not prove the fencing of real processes: only the storm's own records were fenced.")
    print(f"  violations: {len(outcome.violations)}")
    for violation in outcome.violations[:SHOWN]:
        print(f"    {str(violation)[:600]}")


if __name__ == "__main__":
    sys.exit(main())
