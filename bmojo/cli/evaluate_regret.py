"""The part of `bmojo eval` that compares with the best known predictor."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from bmojo.cli.common import progress_bar, tell
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.data.universal.sequences import SequenceSource
    from bmojo.experiment import Experiment
    from bmojo.runs import TrainedRun


def by_regret(
    console: Console,
    run: Path,
    experiment: "Experiment",
    loaded: "TrainedRun",
    lengths: Sequence[int] | None,
    count: int,
    batch_size: int,
) -> None:
    """Bits above the best known predictor, by length, complexity and position."""
    from bmojo.evaluation.outputs import save
    from bmojo.evaluation.regret import by_length, by_position, costs
    from bmojo.evaluation.regret_outputs import plot_regret, regret_table

    trained = max(stage.data.length for stage in experiment.curriculum)
    lengths = sorted(set(lengths or (trained, 4 * trained, 16 * trained)))
    source = known_source(run, experiment, lengths[-1])
    with progress_bar("reading", count * lengths[-1]) as done:
        found = costs(loaded.model, source, count, batch_size=batch_size, progress=done)
    rows, positions = by_length(found, lengths), by_position(found, trained)
    counted = source.config.slices
    console.print(regret_table(rows, counted))
    facts = {"step": loaded.step, "sequences": count, "training_length": trained}
    results = {**facts, "counted": counted, "rows": rows, "positions": positions}
    tell(console, save(run, "regret", results, plot_regret(rows, positions, counted, trained)))


def known_source(
    run: Path, experiment: "Experiment", length: int | None = None
) -> "SequenceSource":
    """Test sequences of the run's last stage, as it has them or of another length.

    Raises:
      UserError: it was trained on something else.
    """
    import dataclasses

    from bmojo.data.universal.sequences import SequenceSource

    data = experiment.curriculum[-1].data
    if length is not None:
        data = dataclasses.replace(data, length=length)
    source = data.source(0, "test")
    if not isinstance(source, SequenceSource):
        raise UserError(
            f"--eval regret: {run} was not trained on a task whose best predictor is known; take "
            "--eval recall, or train on one of configs/experiments/solomonoff"
        )
    return source
