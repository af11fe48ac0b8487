"""``python -m neuron.verify``: every kernel against what it must agree with.

With ``--report``, what kernels cost instead, by the emulator's rules of thumb; with
``--roofline``, the least time of the paper's models on one core of each generation.
"""

import argparse
import importlib
import sys
from typing import Any

from neuron.checks import MODULES
from neuron.checks.check import Bound, Check, Cost
from neuron.emulator import targets
from neuron.emulator.cost import Report
from neuron.nki import BACKEND


def registered(kind: str, only: str | None = None) -> list[Any]:
    """``CHECKS`` or ``COSTS`` of all modules, of kernels with ``only`` in their name."""
    found: list[Any] = []
    for name in MODULES:
        module = importlib.import_module(f"neuron.checks.{name}")
        found += getattr(module, kind, ())
    return [item for item in found if only is None or only in item.kernel]


def verify(checks: list[Check]) -> int:
    """Run checks and print the worst result of each; the number of checks that failed."""
    bad = 0
    for check in checks:
        try:
            results = check.run()
        except Exception as error:
            bad += 1
            print(f"FAILED  {check.kernel}  {check.case}: {type(error).__name__}: {error}")
            continue
        worst = max(results, key=lambda r: (not r.good, r.error / r.limit if r.limit else r.error))
        bad += not worst.good
        word = "good  " if worst.good else "FAILED"
        numbers = f"{worst.name:<7}{worst.error:8.1e} <= {worst.limit:.1e}"
        print(f"{word}  {check.kernel}  {numbers}  {check.case}", flush=True)
    return bad


def costs(items: list[Cost]) -> None:
    """Run kernels and print what they cost."""
    for item in items:
        report, bound = item.run()
        print(f"{item.kernel}: {item.case}")
        print("    " + "\n    ".join(summary(report, bound)), flush=True)


def summary(report: Report, bound: Bound) -> list[str]:
    """What a kernel cost, beside its bound, as lines."""
    busy = "  ".join(f"{name} {time * 1e6:.1f}" for name, time in report.seconds.items())
    cycles = "  ".join(f"{name} {work.cycles}" for name, work in report.engines.items())
    worst = report.seconds[report.bottleneck]
    moved = report.hbm_read + report.hbm_written
    least = bound.seconds(targets.resolve())
    limit = max(least, key=lambda name: least[name])
    return [
        f"microseconds  {busy}",
        f"cycles  {cycles}",
        f"{report.bottleneck} {worst * 1e6:.1f}, at least {limit} {least[limit] * 1e6:.1f}: "
        f"{worst / least[limit]:.2f} times",
        f"HBM bytes {moved}, at least {bound.bytes}: {moved / bound.bytes:.2f} times",
        f"SBUF {report.sbuf_high_water} and PSUM {report.psum_high_water} bytes a partition at "
        f"most; {report.instructions} instructions",
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m neuron.verify", description=__doc__)
    parser.add_argument("--only", help="kernels with this in their name")
    parser.add_argument("--report", action="store_true", help="print costs instead")
    parser.add_argument("--roofline", action="store_true", help="print bounds of whole models")
    parser.add_argument("--emulate", action="store_true", help="with --roofline: kernels too")
    chosen = parser.parse_args(arguments)
    if chosen.emulate and not chosen.roofline:
        parser.error("--emulate: goes with --roofline")
    if chosen.roofline:
        from neuron import roofline

        for line in roofline.rows(chosen.emulate):
            print(line, flush=True)
        return 0
    if chosen.report:
        items = registered("COSTS", chosen.only)
        if not items:
            parser.error(f"--only: no cost is registered for a kernel named {chosen.only}")
        costs(items)
        return 0
    checks = registered("CHECKS", chosen.only)
    if not checks:
        parser.error(f"--only: no check is registered for a kernel named {chosen.only}")
    bad = verify(checks)
    print(f"{len(checks)} checks in {BACKEND}, {bad} failed")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
