"""From a sweep's file to the cells it stands for."""

from pathlib import Path

import pytest

from bmojo.errors import UserError
from bmojo.sweep.plan import Sweep, cells, read

CONFIGS = Path(__file__).parent.parent.parent / "configs"
SWEEPS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("sweeps/*.gin"))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "over"):
        Path(f"{name}.gin").touch()


def plan(text, *words):
    Path("mine.gin").write_text(text)
    return read("mine.gin", words)


def names(plan):
    return [cell.name for cell in plan.cells]


def test_every_combination_once_and_seed_after_seed():
    made = plan(
        "Sweep.configs = ('a.gin', 'b.gin')\n"
        "Sweep.seeds = (3, 5)\n"
        "Sweep.cells = (('',), ('wide', 'over.gin', 'X.y=1'))\n"
        "Sweep.grid = {'O.rate': (1e-3, 0.02), 'M.kind': ('conv', '@Cell()')}\n"
        "Sweep.overrides = ('T.every=400',)\n"
    )
    grid = [f"rate{r}-kind_{k}" for r in ("0.001", "0.02") for k in ("conv", "Cell")]
    variants = [f"{c}{v}-{g}" for c in "ab" for v in ("", "-wide") for g in grid]
    assert names(made) == [f"{v}-seed{s}" for s in (3, 5) for v in variants]
    assert made.out == Path("runs/mine")
    cell = next(c for c in made.cells if c.name == "b-wide-rate0.02-kind_Cell-seed5")
    assert (cell.config, cell.overlays, cell.seed) == ("b.gin", ("over.gin",), 5)
    assert cell.bindings == ("T.every=400", "X.y=1", "O.rate=0.02", "M.kind=@Cell()")
    conv = next(c for c in made.cells if "conv" in c.name)
    assert conv.bindings[-1] == "M.kind='conv'"
    assert cell.command() == (
        "bmojo train b.gin over.gin T.every=400 X.y=1 O.rate=0.02 'M.kind=@Cell()' --seed 5 "
        "--run-dir runs/mine/b-wide-rate0.02-kind_Cell-seed5"
    )


def test_gin_files_in_the_grid_are_overlays_and_labels_name_keys():
    made = plan(
        "Sweep.configs = ('a.gin',)\n"
        "Sweep.grid = {'size': ('over.gin', 'b.gin'), 'near/A.w': (8,), 'far/A.w': (16,), "
        "'O.learning_rate': (2e-3,)}\n"
        "Sweep.labels = {'O.learning_rate': 'lr'}\n"
    )
    end = "near_A.w8-far_A.w16-lr0.002-seed0"
    assert names(made) == [f"a-over-{end}", f"a-b-{end}"]
    assert [cell.overlays for cell in made.cells] == [("over.gin",), ("b.gin",)]


def test_models_are_overlays_of_every_config_and_name_the_run():
    both = plan("Sweep.configs = ('a.gin', 'b.gin')\nSweep.models = ('over.gin',)\n")
    assert names(both) == ["a-over-seed0", "b-over-seed0"]
    one = plan(
        "Sweep.configs = ('a.gin',)\nSweep.models = ('over.gin', 'b.gin')\n"
        "Sweep.cells = (('',), ('x', 'X.y=1'))\nSweep.overrides = ('a.gin',)\n"
    )
    assert names(one) == ["over-seed0", "over-x-seed0", "b-seed0", "b-x-seed0"]
    assert one.cells[3].config == "a.gin" and one.cells[3].overlays == ("b.gin", "a.gin")


def test_words_change_the_sweep_or_go_to_every_cell_last():
    made = plan(
        "Sweep.configs = ('a.gin',)\nSweep.overrides = ('X.y=1',)\nSweep.out = 'kept'\n",
        "Sweep.seeds=(7,)", "X.y=2", "over.gin",
    )  # fmt: skip
    (cell,) = made.cells
    assert (cell.seed, cell.bindings, cell.overlays) == (7, ("X.y=1", "X.y=2"), ("over.gin",))
    assert made.out == Path("kept")
    assert read("mine.gin", (), Path("there")).out == Path("there")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sweep.seed = 3", "mine.gin:2: Sweep.seed: Sweep has no parameter 'seed'; did you mean "
         "'seeds'?"),
        ("Sweep.seeds = 3", "mine.gin:2: Sweep.seeds: 3 is not a tuple; write (3,), with the "
         "comma"),
        ("Sweep.seeds = ()", "mine.gin:2: Sweep.seeds: is empty; give at least one"),
        ("Sweep.seeds = (1, 1)", "mine.gin:2: Sweep.seeds: (1, 1) names one of them twice; remove "
         "it"),
        ("Sweep.models = ('over.gin', 'over.gin')", "mine.gin:2: Sweep.models: ('over.gin', "
         "'over.gin') names one of them twice; remove it"),
        ("Sweep.models = ('over',)", "mine.gin:2: Sweep.models: 'over' is no gin file; give a name "
         "that ends in .gin"),
        ("Sweep.grid = 3", "mine.gin:2: Sweep.grid: 3 is not a dictionary, {key: value}"),
        ("Sweep.grid = {'X.y': 3}", "mine.gin:2: Sweep.grid: 'X.y' has 3; give a tuple of values, "
         "such as (1, 2)"),
        ("Sweep.labels = {'X.z': 'z'}", "mine.gin:2: Sweep.labels: 'X.z' is not in the grid; there "
         "are none"),
        ("Sweep.cells = (('a/b', 'X.y=1'),)", "mine.gin:2: Sweep.cells: ('a/b', 'X.y=1') does not "
         "start with a name; give letters, digits and . + - _, then the overrides"),
        ("Sweep.overrides = ('Trainer.seed=4',)", "mine.gin:2: Sweep.overrides: Trainer.seed is "
         "bound; give seeds in Sweep.seeds"),
        ("Sweep.cells = (('c', 'X.y=1'), ('c', 'X.y=2'))", "mine.gin: two runs are called "
         "'a-c-seed0': a.gin X.y=1 and a.gin X.y=2; give them names of their own in Sweep.cells "
         "or Sweep.labels"),
    ],
)  # fmt: skip
def test_errors_say_where_and_what(text, message):
    with pytest.raises(UserError) as error:
        plan("Sweep.configs = ('a.gin',)\n" + text)
    assert str(error.value) == message


def test_a_missing_config_is_named_with_the_nearest():
    with pytest.raises(UserError, match="no config file 'experiments/mqra.gin'; did you mean"):
        plan("Sweep.configs = ('experiments/mqra.gin',)\n")
    with pytest.raises(UserError, match="seeds are the sweep's"):
        plan("Sweep.configs = ('a.gin',)\n", "Trainer.seed=3")


@pytest.mark.parametrize("path", SWEEPS)
def test_shipped_sweeps_are_read(path):
    assert read(path).cells


def test_the_recall_study_has_the_names_that_its_report_knows():
    stems = {
        cell.name.removesuffix("-seed0")
        for path in SWEEPS
        if "mqar" in path
        for cell in read(path).cells
        if cell.seed == 0
    }
    models = ("bmojo", "bmojo_f", "hybrid", "swa", "mamba", "transformer")
    assert stems == {
        *models,
        *(f"bmojo-slots{n}" for n in (8, 16, 64)),
        *(
            f"{m}-{t}"
            for m in ("bmojo", "bmojo_f")
            for t in ("ssm-unread", "conv", "conv-unread", "input", "input-unread")
        ),
        *(f"{m}-lr{rate}" for m in models for rate in ("0.002", "0.01")),
        *(f"{m}-random" for m in ("bmojo", "bmojo_f", "hybrid")),
        *(f"{m}-memory{lr}" for m in ("hybrid", "swa") for lr in ("", "-lr0.002")),
        *(f"{m}-gradual" for m in models),
        *("bmojo-gradual-slots64", "hybrid-gradual-bytes"),
        *("hybrid-gradual-memory", "swa-gradual-memory"),
    }


def test_a_sweep_can_be_written_and_read_again():
    from bmojo import config
    from bmojo.sweep.plan import REGISTRY

    text = "Sweep.configs = ('a.gin',)\nSweep.grid = {'X.y': (1, 2), 'Z.w': ('s',)}\n"
    Path("mine.gin").write_text(text)
    first = config.load(REGISTRY, "Sweep", ["mine.gin"])
    Path("again.gin").write_text(first.text)
    assert config.load(REGISTRY, "Sweep", ["again.gin"]).value == first.value
    assert (
        isinstance(first.value, Sweep)
        and len(list(cells(first.value, Path("mine.gin"), Path()))) == 2
    )
