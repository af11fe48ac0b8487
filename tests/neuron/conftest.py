"""What the tests for PyTorch share: one short run, and the mark of what needs PyTorch."""

import importlib.util
import io

import pytest

NEEDS_TORCH = ("test_layer.py", "test_model.py", "test_weights.py")
WITHOUT_TORCH = importlib.util.find_spec("torch") is None
collect_ignore = ["parity.py"]

BINDINGS = (
    "BMojo.num_fading=3",
    "BMojo.num_eidetic=5",
    "BMojo.n_kv_heads=1",
    "SelectiveSSM.d_state=4",
    "Model.tie_embeddings=False",  # a tied model of two steps repeats its last token
    "Trainer.compilation_cache=False",
    "Experiment.curriculum=(@short/Stage(),)",
    "Experiment.evaluations=()",
    "short/MQAR.length=32",
    "short/Stage.batch_size=2",
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a run of two steps, of a model of two layers."""
    from rich.console import Console

    from bmojo.experiment import load
    from bmojo.training.loop import train

    experiment, text = load("experiments/mqar/bmojo.gin", BINDINGS, ["runs/smoke.gin"])
    directory = tmp_path_factory.mktemp("neuron") / "run"
    parts = experiment.model, experiment.optimizer, experiment.trainer, experiment.curriculum
    train(*parts, experiment.evaluations, str(directory), text, Console(file=io.StringIO()))
    return directory
