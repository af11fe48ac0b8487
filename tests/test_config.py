"""Configs that are right: what gin files say is what comes out, and the shipped ones load."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

from bmojo import config
from bmojo.config.parse import config_folders, find
from bmojo.description import describe
from bmojo.errors import ConfigError, type_problem
from bmojo.experiment import REGISTRY, load

CONFIGS = Path(__file__).parent.parent / "configs"
MODELS = sorted(path.stem for path in CONFIGS.glob("models/*.gin"))
TASKS = sorted(
    str(path.relative_to(CONFIGS / "experiments").with_suffix(""))
    for path in CONFIGS.glob("experiments/**/*.gin")
    if "paper" not in path.parts and not path.stem.startswith("quickstart")
)
EXPERIMENTS = [  # with every model, and with every task
    ("experiments/quickstart.gin",),
    ("experiments/quickstart_text.gin",),
    *(("experiments/mqar.gin", f"models/{model}.gin") for model in MODELS),
    *((f"experiments/{task}.gin",) for task in TASKS),
]
SIZES = sorted(path.stem for path in CONFIGS.glob("sizes/*.gin"))


@dataclasses.dataclass(frozen=True)
class Cell:
    width: int = 4


@dataclasses.dataclass(frozen=True)
class Layer:
    cell: Any = dataclasses.field(default_factory=Cell)
    rate: float = 0.5
    name: str | None = None


@dataclasses.dataclass(frozen=True)
class Root:
    layers: tuple[Any, ...]
    other: Any = None


PRIVATE = config.Registry(shared_macros=("SHARED",))
for cls in (Cell, Layer, Root):
    PRIVATE.register(cls.__name__, cls)


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    return write


def made(*paths, overrides=()):
    """The root, after seeing that its text makes an equal one and the same text."""
    loaded = config.load(PRIVATE, "Root", paths, overrides)
    Path("again.gin").write_text(loaded.text)
    again = config.load(PRIVATE, "Root", ["again.gin"])
    assert again.value == loaded.value
    assert again.text == loaded.text
    return loaded


def test_scopes_reach_what_is_made_inside_them(write):
    write(
        "a.gin",
        "Root.layers = (@x/Layer(), @y/Layer(), @Layer())\nLayer.cell = @Cell()\n"
        "Layer.rate = 1\nx/Cell.width = 8\ny/Layer.rate = 2.5\n",
    )
    x, y, plain = made("a.gin").value.layers
    assert (x, y) == (Layer(Cell(8), 1), Layer(Cell(4), 2.5))
    assert plain == Layer(Cell(4), 1)


def test_text_holds_defaults_and_keeps_scopes(write):
    write("a.gin", "Root.layers = (@x/Layer(), @Layer())\nx/Layer.name = 'x'\n")
    assert made("a.gin").text == (
        "# Every binding in force, defaults included.\n\n"
        "Cell.width = 4\n\n"
        "x/Cell.width = 4\n\n"
        "Layer.cell = @Cell()\nLayer.name = None\nLayer.rate = 0.5\n\n"
        "x/Layer.cell = @x/Cell()\nx/Layer.name = 'x'\nx/Layer.rate = 0.5\n\n"
        "Root.layers = (@x/Layer(), @Layer())\nRoot.other = None\n"
    )


def test_a_bound_and_a_default_object_stay_apart(write):
    write("a.gin", "Root.layers = (@Layer(),)\nRoot.other = @Cell()\nCell.width = 9\n")
    value = made("a.gin").value
    assert (value.layers[0].cell, value.other) == (Cell(4), Cell(9))


def test_macros_hold_references_and_may_be_overridden(write):
    write(
        "a.gin",
        "Root.layers = %LAYERS\nLAYERS = (@Layer(), @Layer())\nLayer.rate = %RATE\nRATE = 1\n",
    )
    assert made("a.gin", overrides=["RATE=3"]).value.layers == (Layer(rate=3),) * 2


def test_what_a_macro_refers_to_is_made_in_the_scope_that_reads_it(write):
    write(
        "a.gin",
        "Root.layers = (@x/Layer(),)\nLayer.cell = %CELL\nCELL = @Cell()\nx/Cell.width = 8\n",
    )
    assert made("a.gin").value.layers == (Layer(Cell(8)),)


def test_an_overridden_binding_needs_no_macro(write):
    write("a.gin", "Root.layers = (@Layer(),)\nLayer.rate = %RATE\n")
    assert made("a.gin", overrides=["Layer.rate=3"]).value.layers == (Layer(rate=3),)


def test_block_syntax(write):
    write("a.gin", "Root.layers = (@Layer(),)\nLayer:\n  rate = 2\n  name = 'block'\n")
    assert made("a.gin").value.layers == (Layer(rate=2, name="block"),)


def test_later_files_and_the_command_line_win(write):
    write("a.gin", "Root.layers = (@Layer(),)\nLayer.rate = 1\nLayer.name = 'a'\n")
    write("b.gin", "Layer.rate = 2\nLayer.name = 'b'\n")
    value = made("a.gin", "b.gin", overrides=["Layer.rate=3"]).value
    assert value.layers == (Layer(rate=3, name="b"),)


def test_a_bare_word_on_the_command_line_is_a_string(write):
    write("a.gin", "Root.layers = (@Layer(),)\n")
    assert made("a.gin", overrides=["Layer.name=bfloat16"]).value.layers[0].name == "bfloat16"


def test_bindings_of_what_was_replaced_are_excused(write):
    write(
        "a.gin",
        "Root.layers = (@x/Layer(),)\nx/Layer.rate = 1\nCell.width = 8\nLayer.cell = @Cell()\n",
    )
    write("b.gin", "include 'a.gin'\nRoot.layers = ()\n")
    assert made("b.gin").value == Root(())


def test_but_not_those_that_come_after(write):
    write("a.gin", "Root.layers = (@x/Layer(),)\nx/Layer.rate = 1\n")
    write("b.gin", "include 'a.gin'\nRoot.layers = ()\nx/Layer.rate = 2\n")
    with pytest.raises(ConfigError, match=r"b.gin:3: x/Layer.rate: .* never entered"):
        made("b.gin")


def test_shared_macros_need_no_reader_in_included_files_and_overlays(write):
    write("shared.gin", "SHARED = 1\n")
    write("a.gin", "include 'shared.gin'\nRoot.layers = ()\n")
    made("a.gin", "shared.gin")
    with pytest.raises(ConfigError, match="command line: SHARED=2: SHARED: nobody"):
        made("a.gin", overrides=["SHARED=2"])


def test_includes_are_found_beside_the_file_then_in_its_tree(write):
    write("lab/configs/exp/deep/a.gin", "include 'near.gin'\ninclude 'models/far.gin'\n")
    write("lab/configs/exp/deep/near.gin", "Root.layers = (@Layer(),)\n")
    write("lab/configs/models/far.gin", "Layer.rate = 7\n")
    write("configs/models/far.gin", "Layer.rate = 8\n")
    assert made("lab/configs/exp/deep/a.gin").value.layers[0].rate == 7


def test_a_byte_order_mark_is_no_part_of_a_config(write):
    write("a.gin", "\ufeffRoot.layers = ()\n")
    assert made("a.gin").value == Root(())


@pytest.mark.parametrize(
    "value",
    ["/abs/books", "~/books", "~me/b", "./x", "../x", ".", "..", "~", "data/books", "hf:a/b:en",
     "/a [b=1]/c d", "/a\\b", "/it's", "/a\nb", "books.v2"],
)  # fmt: skip
def test_a_path_on_the_command_line_needs_no_inner_quotes(write, value):
    write("a.gin", "Root.layers = (@Layer(),)\nLayer.name = %TEXT\nTEXT = 'stdlib'\n")
    for given in (value, repr(value)):
        assert made("a.gin", overrides=[f"TEXT={given}"]).value.layers[0].name == value


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("-.5e1", -5.0), ("1e-3", 1e-3)])
def test_a_number_on_the_command_line_stays_one(write, text, value):
    write("a.gin", "Root.layers = (@Layer(),)\n")
    assert made("a.gin", overrides=[f"Layer.rate={text}"]).value.layers[0].rate == value


def test_a_config_of_the_package_may_be_named_by_its_path_in_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "experiments/mqar.gin"
    assert find(f"configs/{name}", tmp_path) == find(name, tmp_path) == CONFIGS / name
    (tmp_path / "experiments").mkdir()
    (tmp_path / name).touch()
    assert find(f"configs/{name}", tmp_path) == CONFIGS / name


def test_a_module_beside_the_config_is_found_and_shadows_nothing(write, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("colorsys", "beside_it"):  # one of the standard library, and one of no other
        monkeypatch.delitem(sys.modules, module, raising=False)
        write(f"lab/{module}.py", "raise LookupError('taken\\nhere')")
    write("lab/a.gin", "import colorsys\nRoot.layers = ()\n")
    assert made("lab/a.gin").value == Root(())
    write("lab/b.gin", "import beside_it\nRoot.layers = ()\n")
    words = r"lab/b.gin:1: cannot import 'beside_it': .*beside_it.py:1: LookupError: taken"
    with pytest.raises(ConfigError, match=words):
        made("lab/b.gin")
    write("lab/beside_it.py", "")
    assert made("lab/b.gin").text.count("import beside_it") == 1


def test_import_registers_a_class_of_the_users_own(write, monkeypatch):
    write(
        "my_layers.py",
        "import dataclasses, sys\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine:\n    size: int = 1\n"
        "sys.modules['__test_config__'].PRIVATE.register('Mine', Mine)\n",
    )
    monkeypatch.setitem(sys.modules, "__test_config__", sys.modules[__name__])
    monkeypatch.syspath_prepend(Path.cwd())
    write("a.gin", "import my_layers\nRoot.layers = (@Mine(),)\nMine.size = 3\n")
    Path("again.gin").write_text("")
    loaded = config.load(PRIVATE, "Root", ["a.gin"])
    assert loaded.value.layers[0].size == 3
    assert loaded.text.startswith(
        "# Every binding in force, defaults included.\n\nimport my_layers\n"
    )


def test_a_name_means_one_class():
    with pytest.raises(ValueError, match="already means"):
        PRIVATE.register("Cell", Layer)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (1, float),
        (None, int | None),
        ((), tuple[int, ...]),
        ((1, "a"), tuple[int, str]),
        (Cell(), Cell),
        ("x", Any),
    ],
)
def test_types_that_fit(value, annotation):
    assert type_problem(value, annotation) is None


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, float),
        (True, int),
        (0, bool),
        (None, int),
        ((1,), tuple[int, str]),
        (Cell, Cell),
        (Layer(), Cell),
        ("x", int | None),
    ],
)
def test_types_that_do_not(value, annotation):
    assert type_problem(value, annotation)


@pytest.mark.parametrize("paths", EXPERIMENTS, ids="-".join)
@pytest.mark.one_in(5)
def test_experiments_load_and_their_text_loads_the_same(paths, tmp_path):
    for overlays in ([], ["runs/smoke.gin"]):
        experiment, text = load(CONFIGS / paths[0], overlays=[*paths[1:], *overlays])
        (tmp_path / "again.gin").write_text(text)
        again = config.load(REGISTRY, "Experiment", [tmp_path / "again.gin"], [])
        assert (again.value, again.text) == (experiment, text)


def made_of(*paths):
    return config.load(REGISTRY, "Experiment", paths, []).value


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.one_in(7)
def test_every_task_trains_every_model(task, model):
    name = f"experiments/{task}.gin"
    experiment, _ = load(name, overlays=[f"models/{model}.gin"])
    assert describe(experiment.model).parameters > 0
    alone = made_of(name)
    assert dataclasses.replace(experiment, model=alone.model) == alone, "the task stays its own"
    assert (experiment == alone) == (model == "bmojo"), "alone it trains B'MOJO"
    parts = (*experiment.curriculum, *experiment.evaluations)
    assert {part.data.vocab_size for part in parts} == {experiment.model.vocab_size}


# The others have a size, a window or slots of their own.
@pytest.mark.parametrize(
    "task", [t for t in TASKS if t not in ("text", "needles", "rereading", "returning")]
)
def test_models_of_small_tasks_are_those_of_mqar_but_for_the_vocabulary(task):
    text = (CONFIGS / f"experiments/{task}.gin").read_text()
    assert f"bmojo train configs/experiments/{task}.gin" in text
    assert len(text.splitlines()) < 15
    for model in MODELS:
        made = made_of(f"experiments/{task}.gin", f"models/{model}.gin").model
        alike = made_of("experiments/mqar.gin", f"models/{model}.gin").model
        assert dataclasses.replace(made, vocab_size=alike.vocab_size) == alike


def test_window_and_slots_are_the_tasks_in_every_model():
    for task, window, slots in (("mqar", 32, 32), ("text", 64, 32), ("needles", 32, 64)):
        model = made_of(f"experiments/{task}.gin", "models/bmojo.gin").model
        assert (model.pattern[0].window, model.pattern[0].num_eidetic) == (window, slots)
        for name, index in (("swa", 0), ("hybrid", 2), ("canonical", 0), ("bmojo_f", 0)):
            model = made_of(f"experiments/{task}.gin", f"models/{name}.gin").model
            assert model.pattern[index].window == window


@pytest.mark.parametrize("model", MODELS)
def test_a_model_replaces_any_other_without_a_rest(model):
    alone = made_of("experiments/mqar.gin", f"models/{model}.gin")
    for other in MODELS:
        both = [f"models/{other}.gin", f"models/{model}.gin"]
        assert made_of("experiments/mqar.gin", *both) == alone, other


@pytest.mark.parametrize("part", ["models/mamba.gin", "sizes/tiny.gin", "data/mqar.gin"])
def test_a_part_in_the_place_of_the_experiment_is_refused(part):
    path = CONFIGS / part
    if part.startswith("data"):  # it binds the curriculum, so that only the model is missing
        expected = r"data/mqar.gin: Experiment.model must be set; add Experiment.model = \.\.\."
    else:
        expected = (
            rf"{part}: is a part of an experiment \(it binds no Experiment.model\); name the "
            rf"experiment first, as in: experiments/mqar.gin {path}"
        )
    for others in ([], ["experiments/mqar.gin"]):
        if others and part.startswith("data"):
            continue
        with pytest.raises(ConfigError, match=f"{expected}$"):
            load(path, overlays=others)


def test_a_macro_on_the_command_line_that_only_a_replaced_model_reads_is_refused():
    with pytest.raises(
        ConfigError, match="WINDOW=96: WINDOW: only .* replaced read the macro; leave"
    ):
        load("experiments/mqar.gin", ["WINDOW=96"], ["models/transformer.gin"])
    experiment, _ = load("experiments/mqar.gin", ["WINDOW=96"], ["models/swa.gin"])
    assert experiment.model.pattern[0].window == 96


def test_smoke_makes_an_experiment_tiny():
    experiment, _ = load("experiments/mqar.gin", overlays=["runs/smoke.gin"])
    assert [stage.steps for stage in experiment.curriculum] == [2, 2]
    assert [evaluation.batches for evaluation in experiment.evaluations] == [1]
    assert describe(experiment.model).parameters < 30_000


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.one_in(7)
def test_models_of_one_size_have_equal_parameters(size, model):
    overlays = [f"models/{model}.gin", f"sizes/{size}.gin"]
    experiment, text = load("experiments/mqar.gin", overlays=overlays)
    target = experiment.model.parameters
    assert target is not None
    found = describe(experiment.model)
    assert found.parameters - found.embedding_parameters == pytest.approx(target, rel=0.02)


def test_sizes_and_models_are_all_there():
    assert set(SIZES) >= {"tiny", "small", "130m", "370m", "790m", "1b4"}
    assert len(MODELS) == 9


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin"), key=str), ids=lambda p: p.stem)
def test_files_open_with_a_header_and_fit_on_a_screen(path):
    lines = path.read_text().splitlines()
    header = " ".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("# ")
    assert "ust be set" in header or "Dimensions only" in header
    assert "sually overridden" in header
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


def test_configs_of_the_checkout_are_among_the_folders():
    assert CONFIGS in config_folders()


@pytest.mark.slow
@pytest.mark.parametrize("paths", EXPERIMENTS, ids="-".join)
def test_experiments_train(paths, tmp_path):
    from rich.console import Console

    from bmojo.training.train import train

    overlays = [*paths[1:], "runs/smoke.gin"]
    experiment, text = load(CONFIGS / paths[0], ["Trainer.compilation_cache=False"], overlays)
    console = Console(quiet=True)
    outcome = train(experiment, tmp_path / "run", config_text=text, console=console)
    assert outcome.exit_code == 0
    assert outcome.step == sum(stage.steps for stage in experiment.curriculum) >= 2


def test_every_name_is_a_frozen_dataclass():
    for name in REGISTRY.names():
        assert REGISTRY[name].__dataclass_params__.frozen, name
