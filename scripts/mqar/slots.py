"""What the eidetic slots of a trained recall model hold.

    python scripts/mqar/slots.py RUN [RUN ...] [--examples 64]

For each run, layer and number of pairs, after the whole sequence: the share of the context's
keys and values that sit in a slot, what the slots hold, and how surprising values and keys
of the context are beside the tokens after it that ask nothing (median innovation, as a ratio;
first layer only, where the innovation does not depend on the slots).
"""

import argparse
import dataclasses

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

from bmojo.evaluation.recall import load_run
from bmojo.experiment import load
from bmojo.layers.bmojo import BMojoConfig
from bmojo.model import Model


def examples(task, pairs: int, count: int) -> dict[str, np.ndarray]:
    """Test examples with that many pairs."""
    source = dataclasses.replace(task, num_pairs=(pairs,)).source(0, "test")
    items = [source[i] for i in range(count)]
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def kept(model: Model, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and innovations in the slots of the first B'MOJO sublayer of each period."""
    graph, parameters = nnx.split(model)
    run = jax.jit(lambda parameters, tokens: nnx.merge(graph, parameters)(tokens)[1])
    states = run(parameters, tokens)
    index = [isinstance(m, BMojoConfig) for m in model.config.pattern].index(True)
    slots = states[index].eidetic
    return np.asarray(slots.position), np.asarray(slots.score)


def with_slots(model: Model, slots: int) -> Model:
    """The same parameters with another number of slots."""
    pattern = tuple(
        dataclasses.replace(m, num_eidetic=slots) if isinstance(m, BMojoConfig) else m
        for m in model.config.pattern
    )
    config = dataclasses.replace(model.config, pattern=pattern)
    graph, _ = nnx.split(nnx.eval_shape(lambda: config.make(nnx.Rngs(0))))
    return nnx.merge(graph, nnx.state(model))


def innovations(model: Model, tokens: np.ndarray) -> np.ndarray:
    """Innovation of every token in the first layer, in order of time."""
    position, score = kept(with_slots(model, tokens.shape[1]), tokens)
    return np.take_along_axis(score[0], np.argsort(position[0], axis=1), axis=1)


def main() -> None:
    """Print one table a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--examples", type=int, default=64)
    args = parser.parse_args()
    for run in args.runs:
        experiment, _ = load(f"{run}/config.gin")
        task = experiment.evaluations[0].data
        abstract = nnx.eval_shape(lambda e=experiment: e.model.make(nnx.Rngs(0)))
        model = load_run(run, abstract).model
        table = Table(title=run)
        for heading in ("pairs", "layer", "keys kept", "values kept", "slots: context",
                        "questions", "other", "innovation: keys", "values"):  # fmt: skip
            table.add_column(heading, justify="right")
        for pairs in task.num_pairs:
            batch = examples(task, pairs, args.examples)
            context = 2 * pairs * task.passes
            every = innovations(model, batch["inputs"])
            asks = batch["targets"] >= 0
            asks[:, :context] = False
            quiet = ~asks
            quiet[:, :context] = False
            base = np.median(every[quiet])
            ratios = [np.median(every[:, k:context:2]) / base for k in (0, 1)]
            positions, scores = kept(model, batch["inputs"])
            for layer, (position, score) in enumerate(zip(positions, scores, strict=True)):
                held = np.zeros(batch["inputs"].shape, bool)
                for row in range(len(held)):
                    held[row, position[row][score[row] >= 0]] = True
                slots = held.sum()
                table.add_row(
                    str(pairs), str(layer + 1),
                    f"{held[:, 0:context:2].mean():.2f}", f"{held[:, 1:context:2].mean():.2f}",
                    f"{held[:, :context].sum() / slots:.2f}", f"{held[asks].sum() / slots:.2f}",
                    f"{held[quiet].sum() / slots:.2f}",
                    *(f"{r:.1f}" if layer == 0 else "" for r in ratios),
                )  # fmt: skip
        Console().print(table)


if __name__ == "__main__":
    main()
