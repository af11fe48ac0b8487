"""`bmojo eval`."""

from rich.console import Console

from bmojo.cli.common import Overrides, Run, load, run_config, told
from bmojo.validation import UserError


def evaluate_run(run: Run, overrides: Overrides = None) -> None:
    """Measure the newest checkpoint of a run with the evaluations of its config.

    \b
    Examples:
      bmojo eval runs/quickstart
      bmojo eval runs/quickstart recall/MQAR.length=512 Evaluation.batches=8
    """
    with told():
        experiment = load(run_config(run), overrides)
        if not experiment.evaluations:
            raise UserError(
                f"{run}: its config has no evaluations; add one, such as "
                "'Experiment.evaluations=(@Evaluation(),)'"
            )
        from flax import nnx

        from bmojo.evaluation.recall import accuracy_table, evaluate, load_run
        from bmojo.experiment import prepare_data

        prepare_data(experiment)
        loaded = load_run(run, nnx.eval_shape(lambda: experiment.model.make(nnx.Rngs(0))))
        rows = evaluate(loaded.model, experiment.evaluations)
        console = Console()
        console.print(f"{run}, step {loaded.step}", highlight=False, soft_wrap=True)
        console.print(accuracy_table(rows, experiment.evaluations))
