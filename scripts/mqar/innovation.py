"""How the innovation of content and filler develops in training.

    bmojo train configs/experiments/mqar.gin data/mqar_random.gin Trainer.keep=40 \
        Trainer.checkpoint_every=100 --run-dir runs/innovation/random
    python scripts/mqar/innovation.py runs/innovation/random

For each run, draws innovation.png there and prints a table: by checkpoint and layer, the median
innovation of the context's keys and values as a multiple of that of the tokens after it that ask
nothing, and the shares of keys and values that are in a slot behind the last token.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.table import Table
from slots import examples, memories

from bmojo.runs import open_run

KINDS = ("keys", "values")


def measure(run: Path, pairs: int, count: int) -> dict[int, list[dict[str, np.ndarray]]]:
    """For each checkpoint and layer: ratios of innovation and shares kept, of keys and values."""
    task = open_run(run).experiment.evaluations[0].data
    batch = examples(task, pairs, count)
    context = 2 * pairs * task.passes
    quiet = batch["targets"] < 0
    quiet[:, :context] = False
    found = {}
    for step in sorted(int(path.name) for path in (run / "checkpoints").glob("[0-9]*")):
        model = open_run(run, step).model
        found[step] = [
            {
                "ratio": np.array(
                    [np.median(innovation[:, k:context:2]) for k in (0, 1)]
                    / np.median(innovation[quiet])
                ),
                "kept": np.array([held[:, k:context:2].mean() for k in (0, 1)]),
            }
            for innovation, held in memories(model, batch["inputs"])
        ]
    return found


def draw(found: dict[int, list[dict[str, np.ndarray]]], title: str, path: Path) -> None:
    """Ratios above, shares kept below, a column for each layer."""
    layers = len(next(iter(found.values())))
    figure, axes = plt.subplots(
        2, layers, figsize=(4.4 * layers, 5.6), layout="constrained", sharex=True, squeeze=False
    )
    for layer in range(layers):
        for kind, name in enumerate(KINDS):
            for axis, what in zip(axes[:, layer], ("ratio", "kept"), strict=True):
                values = [by_layer[layer][what][kind] for by_layer in found.values()]
                axis.plot(list(found), values, "o-", markersize=3, label=name)
        axes[0, layer].set(title=f"layer {layer + 1}", yscale="log")
        axes[0, layer].axhline(1, color="grey", linestyle=":")
        axes[1, layer].set(xlabel="step", ylim=(-0.02, 1.02))
    axes[0, 0].set_ylabel("innovation / that of filler")
    axes[1, 0].set_ylabel("share in a slot at the end")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Print a table and draw a figure for each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--out", type=Path, help="file of the figure, of one run")
    args = parser.parse_args()
    for run in args.runs:
        found = measure(run, args.pairs, args.examples)
        table = Table(title=f"{run}, {args.pairs} pairs")
        for heading in ("step", "layer", "keys", "values", "keys kept", "values kept"):
            table.add_column(heading, justify="right")
        for step, layers in found.items():
            for layer, row in enumerate(layers):
                numbers = [f"{x:.3g}" for x in row["ratio"]] + [f"{x:.2f}" for x in row["kept"]]
                table.add_row(str(step), str(layer + 1), *numbers)
        Console().print(table)
        path = args.out or run / "innovation.png"
        draw(found, f"{run.name} filler, {args.pairs} pairs", path)
        print(path)


if __name__ == "__main__":
    main()
