"""Where the time of a B'MOJO layer goes, beside what this machine can do.

    python -m scripts.performance.parts [--length 2048] [--width 256] [--out DIR]

Times the parts of one layer, forward and with gradients, with the cell of Mamba and with that of
Mamba-2; the whole layer; and what stands beside the layers. All take turns with matrix products
and copies, by whose rates each part is judged. Prints tables and writes parts.md, parts.png (time
by part) and roofline.png to the folder, and with --json FILE all samples.

Operations are counted by formula, those of a gradient as twice those forward; bytes are those of
arguments and results. What a step reads twice, keeps between, or computes again is in neither.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bmojo.benchmark import machine
from bmojo.benchmark.models import Dimensions, choose
from bmojo.benchmark.results import Results, markdown, measure, sheets, write_folder
from bmojo.cli.common import told
from bmojo.files import write_atomically
from scripts.performance.bars import draw_parts
from scripts.performance.beside import beside
from scripts.performance.programs import parts_of
from scripts.performance.rates import TITLES, brief, judged
from scripts.performance.roofline import draw_roofline

MODELS = {"mamba": "bmojo", "mamba2": "bmojo_ssd"}
SIZES = {"batch": 1, "length": 2048, "width": 256, "heads": 4, "window": 512, "fading": 16}
SIZES |= {"eidetic": 64, "vocabulary": 256, "rounds": 15}


def measured(arguments: argparse.Namespace, command: str, console: Console) -> Results:
    """Compile, check and time everything; ``command`` is for the record."""
    sizes = {n: getattr(arguments, n) for n in ("width", "heads", "vocabulary", "window")}
    slots = {"num_fading": arguments.fading, "num_eidetic": arguments.eidetic}
    dimensions = Dimensions(layers=1, **sizes, **slots)
    facts = {**machine.record(), "command": command}
    for warning in machine.warnings(facts):
        console.print(f"warning: {warning}", style="bold yellow", markup=False)
    cases, checks = [], []
    chosen = choose([MODELS[cell] for cell in arguments.cells], dimensions)
    for cell, model in zip(arguments.cells, chosen, strict=True):
        console.print(f"compiling {TITLES[cell]}", style="dim")
        some, ours = parts_of(model, TITLES[cell], arguments.batch, arguments.length)
        cases += some
        checks += ours
    cases += beside(chosen[0], arguments.batch, arguments.length)
    cases += machine.calibration(arguments.length, arguments.width)
    checks += machine.check_calibration()
    console.print(f"timing {len(cases)} cases in {arguments.rounds} rounds", style="dim")
    settings = {
        name: value for name, value in vars(arguments).items() if name not in ("out", "json")
    }
    return judged(measure("parts", settings, facts, checks, cases, arguments.rounds))


def page(results: Results) -> str:
    """The results in Markdown."""
    text = markdown(results).replace("# bmojo bench parts", "# Parts of a layer", 1)
    paragraphs = [part.replace("\n", " ") for part in (__doc__ or "").strip().split("\n\n")]
    return text.replace("\n\n", f"\n\n{paragraphs[-1]}\n\n", 1)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--cells", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for tables and figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for all samples")
    given = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(given)
    command = shlex.join(["python", "-m", "scripts.performance.parts", *given])
    console = Console(highlight=False, width=140)
    if arguments.out is not None:
        write_folder(arguments.out)
    results = measured(arguments, command, console)
    for sheet in sheets(results):
        console.print(brief(sheet).table())
    for note in results.notes:
        console.print(note, markup=False)
    if arguments.json is not None:
        write_atomically(arguments.json, results.as_json())
    if arguments.out is not None:
        write_atomically(arguments.out / "parts.md", page(results))
        draw_parts(results, arguments.out / "parts.png")
        draw_roofline(results, arguments.out / "roofline.png")


if __name__ == "__main__":
    with told():
        main()
