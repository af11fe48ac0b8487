"""Speed of this checkout beside another one, in one run.

    git worktree add ../before COMMIT
    python -m scripts.performance.compare ../before [--rounds 15]

A process of each checkout has the default B'MOJO model, as `bmojo bench step` has it, in float32,
with the configs and code of that checkout. Training steps, and greedy decoding behind a
text, take turns. Prints medians with quartiles, and the ratio within rounds. Nothing is timed
unless parameters and the loss of the first step are the same.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bmojo.benchmark import machine
from bmojo.benchmark.cases import Case, compare, require
from bmojo.benchmark.peers import PAUSE, start_worker
from bmojo.benchmark.rounds import SETTLING, quantiles, ratios, take_turns
from bmojo.cli.common import told

ROOT = Path(__file__).parents[2]
GROUPS = ("step", "decode", "decode, a call a token")
SIZES = {
    "width": (256, "of the residual stream"),
    "layers": (4, "pairs of a mixer and an MLP"),
    "length": (2048, "tokens of a step"),
    "position": (1024, "tokens before decoding"),
    "tokens": (16, "tokens of a sample of decoding"),
}
TUNABLES = "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
"""One heap of large pages, as `bmojo train` and `bmojo bench` ask for."""


def worker(name: str, checkout: Path):
    """A process that imports bmojo from a checkout."""
    paths = os.pathsep.join(map(str, (checkout, Path(__file__).parent)))
    environment = {"GLIBC_TUNABLES": TUNABLES, **os.environ, "PYTHONPATH": paths}
    serve = ROOT / "scripts" / "peers" / "serve.py"
    command = [sys.executable, str(serve), "compare_worker"]
    return start_worker(name, command, env=environment, cwd=checkout)


def main(words: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="path of the other checkout")
    parser.add_argument("--model", default="bmojo")
    for name, (default, text) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(words)
    checkouts = {"other": args.other.resolve(), "this": ROOT}
    sizes = {name: getattr(args, name) for name in ("model", *SIZES)}
    console, cases, made = Console(highlight=False, width=120), [], {}
    for warning in machine.warnings(machine.record()):
        console.print(f"warning: {warning}", markup=False)
    with contextlib.ExitStack() as held:
        for name, path in checkouts.items():
            console.print(f"making {name}: {path}", markup=False)
            process = held.enter_context(worker(name, path))
            rounds = 2 * args.rounds + SETTLING  # a call that is not measured before each sample
            made[name] = process.ask("make", rounds=rounds, **sizes)
            if Path(made[name]["path"]) != path:
                raise SystemExit(f"{name}: bmojo comes from {made[name]['path']}, not {path}")
            for group in GROUPS:
                run = lambda ask=process.ask, g=group: ask("run", case=g)["seconds"]  # noqa: E731
                units = 1 if group == "step" else args.tokens
                cases.append(Case(name, group, run, units=units, calls=1, pause=PAUSE))
        pairs = {name: (made["this"][name], made["other"][name]) for name in ("parameters", "loss")}
        require([compare("this", f"{n} and the other's", *pair) for n, pair in pairs.items()])
        samples = take_turns(cases, args.rounds)[0]
    taken = {(c.group, c.name): values for c, values in zip(cases, samples, strict=True)}
    table = Table(title=f"{args.model}, {args.rounds} rounds, ms")
    for heading in ("", *checkouts, "this / other"):
        table.add_column(heading, justify="right")
    for group in GROUPS:
        other, this = ([1e3 * x for x in taken[group, name]] for name in checkouts)
        found = quantiles(other), quantiles(this), ratios(this, other)
        table.add_row(group, *(f"{q.median:.3f} ({q.low:.3f}–{q.high:.3f})" for q in found))
    console.print(table)


if __name__ == "__main__":
    with told():
        main()
