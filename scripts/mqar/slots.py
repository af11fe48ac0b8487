"""What the eidetic slots of a trained recall model hold.

    python scripts/mqar/slots.py RUN [RUN ...] [--examples 64]

For each run, layer and number of pairs, after the whole sequence: the share of the context's
keys and values that sit in a slot, what the slots hold, and how surprising values and keys
of the context are beside the tokens after it that ask nothing (median innovation, as a ratio).
"""

import argparse
import dataclasses

import numpy as np
from rich.console import Console
from rich.table import Table

from bmojo.evaluation.memory.trace import read
from bmojo.model import Model
from bmojo.runs import open_run


def examples(task, pairs: int, count: int) -> dict[str, np.ndarray]:
    """Test examples with that many pairs."""
    source = dataclasses.replace(task, num_pairs=(pairs,)).source(0, "test")
    items = [source[i] for i in range(count)]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def memories(model: Model, inputs: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each B'MOJO layer, innovation and whether a token is kept to the end (examples, L)."""
    read_all = [read(model, tokens).layers for tokens in inputs]
    found = []
    for layers in zip(*read_all, strict=True):
        if layers[0].chunk:
            held = np.zeros(inputs.shape, bool)
            for row, layer in zip(held, layers, strict=True):
                row[layer.kept] = True
            found.append((np.stack([layer.innovation for layer in layers]), held))
    return found


def main() -> None:
    """Print one table a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--examples", type=int, default=64)
    args = parser.parse_args()
    for run in args.runs:
        opened = open_run(run)
        task, model = opened.experiment.evaluations[0].data, opened.model
        table = Table(title=run)
        for heading in ("pairs", "layer", "keys kept", "values kept", "slots: context",
                        "questions", "other", "innovation: keys", "values"):  # fmt: skip
            table.add_column(heading, justify="right")
        for pairs in task.num_pairs:
            batch = examples(task, pairs, args.examples)
            context = 2 * pairs * task.passes
            asks = batch["targets"] >= 0
            asks[:, :context] = False
            quiet = ~asks
            quiet[:, :context] = False
            for layer, (innovation, held) in enumerate(memories(model, batch["inputs"])):
                base = np.median(innovation[quiet])
                ratios = [np.median(innovation[:, k:context:2]) / base for k in (0, 1)]
                slots = held.sum()
                table.add_row(
                    str(pairs), str(layer + 1),
                    f"{held[:, 0:context:2].mean():.2f}", f"{held[:, 1:context:2].mean():.2f}",
                    f"{held[:, :context].sum() / slots:.2f}", f"{held[asks].sum() / slots:.2f}",
                    f"{held[quiet].sum() / slots:.2f}", *(f"{ratio:.1f}" for ratio in ratios),
                )  # fmt: skip
        Console().print(table)


if __name__ == "__main__":
    main()
