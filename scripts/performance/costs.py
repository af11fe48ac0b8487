"""ESTIMATES of what models of the paper's sizes would cost on accelerators. Nothing is run.

    python -m scripts.performance.costs [--sizes 130m 1b4] [--lengths 2048] [--out FILE.md]

A step of training and a decoded token, for each model, size, length and chip:

    time = max(matrix FLOPs / (peak x share), bytes / (bandwidth x share))
           + elementwise operations / (vector rate x share)

The forward operations are `Description.flops_per_token`, of which the scan and the short
convolution are elementwise; the operations of softmax are added. Everything else is an assumption,
and stands in the first tables of the page. No such chip was used.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bmojo.description import Description, describe
from bmojo.experiment import load
from bmojo.files import write_atomically
from scripts.performance import cost_rows
from scripts.performance.assumptions import VOCABULARY, assumptions, table
from scripts.performance.chips import CHIPS, Shares
from scripts.performance.work import TOKENS_OF_A_STEP

MODELS = ("transformer", "mamba", "mamba2", "hybrid", "bmojo_f", "bmojo")
SIZES = ("130m", "370m", "790m", "1b4")
LENGTHS = (2048, 8192, 32768)


def described(model: str, size: str) -> Description:
    """A model of the paper's configs at one of its sizes."""
    shared = [f"experiments/paper/shared/{part}.gin" for part in (size, "text")]
    vocabulary = f"Model.vocab_size={VOCABULARY}"
    experiment, _ = load("experiments/text.gin", [vocabulary], [f"models/{model}.gin", *shared])
    return describe(experiment.model)


def page(sizes: Sequence[str], lengths: Sequence[int], shares: Shares) -> str:
    """All of it in Markdown."""
    paragraphs = (__doc__ or "").strip().split("\n\n")
    lines = ["# ESTIMATES: the paper's sizes on accelerators", ""]
    lines += ["\n\n".join((paragraphs[0], *paragraphs[2:])), "", *assumptions(shares), ""]
    lines += [
        "Below, `matrix` or `memory` is the longer of the two, and what comes after the plus sign "
        f"is elementwise work. A step of training has {TOKENS_OF_A_STEP:,} tokens. Lengths between "
        "which nothing changes share a line.",
        "",
    ]
    for size in sizes:
        found = {model: described(model, size) for model in MODELS}
        lines += [f"## ESTIMATE, {size}: a step of training", ""]
        lines += table(
            ("model", "tokens of a row", "GFLOPs / token forward", "Mops / token elementwise")
            + tuple(f"{chip.name}: {what}" for chip in CHIPS for what in ("ms", "tokens / s")),
            cost_rows.lines(found, lengths, shares, cost_rows.training_cells),
        )
        lines += ["", f"## ESTIMATE, {size}: a decoded token", ""]
        rows = ("1 row", f"{cost_rows.ROWS} rows")
        lines += table(
            ("model", "tokens before", "MiB of state")
            + tuple(f"{chip.name}: ms, {count}" for chip in CHIPS for count in rows),
            cost_rows.lines(found, lengths, shares, cost_rows.decoding_cells),
        )
        lines.append("")
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    for field in dataclasses.fields(Shares):
        parser.add_argument(f"--{field.name}-share", type=float, default=field.default)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the page there")
    given = parser.parse_args(words)
    shares = Shares(given.matrix_share, given.memory_share, given.vector_share)
    text = page(given.sizes, given.lengths, shares)
    if given.out is None:
        print(text)
    else:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(given.out, text)


if __name__ == "__main__":
    main()
