"""Where the time of a layer goes, at sizes where it goes quickly."""

import json

import jax.numpy as jnp
import pytest
from flax import nnx

from bmojo.benchmark import machine
from bmojo.benchmark.cases import WrongError, difference, require
from bmojo.benchmark.models import Dimensions, choose
from bmojo.model import Block
from scripts.performance import layer as layers
from scripts.performance import parts, programs, steps

SIZES = "--length 24 --width 64 --heads 2 --window 8 --fading 2 --eidetic 3 --vocabulary 16"
TINY = Dimensions(width=64, layers=1, heads=2, vocabulary=16, window=8, num_fading=2, num_eidetic=3)


@pytest.fixture(autouse=True)
def small_calibration(monkeypatch):
    for name, size in (("SQUARE", 8), ("COPIED", 64), ("EXPONENTIALS", 64)):
        monkeypatch.setattr(machine, name, size)


@pytest.mark.slow
def test_every_part_is_measured_and_drawn(tmp_path, capsys):
    parts.main(
        [
            *SIZES.split(),
            "--rounds",
            "1",
            "--cells",
            "mamba",
            "--out",
            str(tmp_path),
            "--json",
            str(tmp_path / "parts.json"),
        ]
    )
    assert "memory attention" in capsys.readouterr().out
    rows = json.loads((tmp_path / "parts.json").read_text())["rows"]
    names = {row["group"]: [] for row in rows}
    for row in rows:
        names[row["group"]].append(row["case"])
    title = parts.TITLES["mamba"]
    for kind in ("forward", "forward and gradient"):
        assert names[f"{title}, {kind}"] == [*steps.PARTS, programs.WHOLE_LAYER]
        members = [row for row in rows if row["group"] == f"{title}, {kind}"]
        shares = [row["facts"]["% of the parts"] for row in members[:-1]]
        assert sum(shares) == pytest.approx(100)
        assert members[-1]["flops"] == pytest.approx(sum(row["flops"] for row in members[:-1]))
    assert "| memory attention |" in (tmp_path / "parts.md").read_text()
    for name in ("parts.png", "roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def wrong(run, period, x):
    """All parts, and none does anything."""
    for part in steps.PARTS:
        x = run(part, 1.0, lambda _, x: x, (), x)
    return x


def test_parts_that_are_not_the_layer_s_are_not_timed(monkeypatch):
    monkeypatch.setattr(programs, "layer", wrong)
    (chosen,) = choose(["bmojo"], TINY)
    _, checks = programs.parts_of(chosen, "layer", 1, 9)
    assert [check.passed for check in checks] == [False, False]
    with pytest.raises(WrongError, match="by parts and of the layer"):
        require(checks)


def test_parts_with_the_cell_of_mamba2():
    (chosen,) = choose(["bmojo_ssd"], TINY)
    period = Block(chosen.config, rngs=nnx.Rngs(0))
    x = jnp.cos(jnp.arange(2 * 19 * 64.0)).reshape(2, 19, 64)
    by_parts = nnx.jit(lambda period, x: layers.layer(steps.call, period, x))(period, x)
    at_once = nnx.jit(lambda period, x: period(x, (None, None))[0])(period, x)
    assert difference(by_parts, at_once) < 1e-5


@pytest.mark.parametrize("model", ["bmojo_f", "canonical"])
def test_another_layer_is_refused(model):
    (chosen,) = choose([model], TINY)
    period = nnx.eval_shape(lambda: Block(chosen.config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="num_eidetic|pattern"):
        layers.layer(steps.call, period, jnp.zeros((1, 8, 64)))
