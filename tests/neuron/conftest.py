"""What the tests for PyTorch share: one short run, and the mark of what needs PyTorch."""

import functools
import importlib.util
import io

import pytest

NEEDS_TORCH = ("test_layer.py", "test_model.py", "test_weights.py")
MISSING = [name for name in ("torch", "safetensors") if importlib.util.find_spec(name) is None]

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


class NeedsTorch(pytest.File):
    """A file that can't be imported without PyTorch, as one test that is skipped."""

    def collect(self):
        yield Skipped.from_parent(self, name=self.path.stem)


class Skipped(pytest.Item):
    def runtest(self):
        pytest.skip(f"needs the extra torch: no {' and no '.join(MISSING)}")


def pytest_pycollect_makemodule(module_path, parent):
    if MISSING and module_path.name in NEEDS_TORCH:
        return NeedsTorch.from_parent(parent, path=module_path)
    return None


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "neuron" and item.path.name in NEEDS_TORCH:
            item.add_marker("torch")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The directory of a run of two steps, of a model of two layers."""
    from rich.console import Console

    from bmojo.experiment import load
    from bmojo.training.train import train

    experiment, text = load("experiments/mqar.gin", BINDINGS, ["runs/smoke.gin"])
    directory = tmp_path_factory.mktemp("neuron") / "run"
    train(experiment, directory, config_text=text, console=Console(file=io.StringIO()))
    return directory


@pytest.fixture(scope="session")
def imported(trained):
    """The model of that run for PyTorch, by implementation; each is read once."""
    from neuron import weights

    return functools.cache(functools.partial(weights.load_run, trained))
