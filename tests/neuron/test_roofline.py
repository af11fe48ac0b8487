"""Bounds of whole models: counted parts, shared engines, and the table."""

import dataclasses
import os

import jax
import pytest
from flax import nnx

from bmojo.layers.mlp import MLPConfig
from bmojo.model import Block
from neuron import roofline, verify
from neuron.checks.check import Bound
from neuron.emulator import targets
from neuron.emulator.targets import GEN2, GEN3
from neuron.roofline import Part


@pytest.fixture(scope="module")
def config():
    return roofline.model_of("130m")


def test_products_are_the_models_matrices(config):
    shape = roofline.shape_of(config, 128)
    period = nnx.eval_shape(lambda: Block(config, rngs=nnx.Rngs(0)))
    leaves = jax.tree_util.tree_leaves_with_path(nnx.state(period, nnx.Param))
    matrices = [x for path, x in leaves if "_proj" in str(path)]
    assert len(matrices) == 10
    parts = {part.name: part for part in shape.parts()}
    made = {name for name in parts if f"{name}, weights" in parts} - {"fading slots"}
    cycles = sum(parts[name].bound.cycles["tensor"] for name in made)
    assert cycles * roofline.ARRAY == 128 * sum(x.size for x in matrices)


def test_a_step_makes_the_forward_pass_again(config):
    parts = {part.name: part for part in roofline.shape_of(config, 2048).parts()}
    assert config.remat == "full" and parts["selective_scan"].times == parts["queries"].times == 2
    assert parts["selective_scan_backward"].times == parts["queries, backward"].times == 1
    once = roofline.shape_of(dataclasses.replace(config, remat="none"), 2048).parts()
    assert {part.times for part in once} == {1}


def test_engines_that_share_are_bound_together():
    parts = [
        Part("a", Bound({"vector": 3e9, "vector+gpsimd": 4e9}, 0), 2),
        Part("b", Bound({"gpsimd": 1e9}, 0)),
    ]
    busiest, seconds = roofline.overlapped(parts, GEN3)
    assert busiest == "vector" and seconds == pytest.approx(6 / 0.96)
    parts.append(Part("c", Bound({"vector+gpsimd": 9e9}, 0)))
    busiest, seconds = roofline.overlapped(parts, GEN3)
    assert busiest == "vector+gpsimd" and seconds == pytest.approx(18 / 2.16)
    assert roofline.least(parts[0], GEN3) == pytest.approx(2 * 3 / 0.96)
    far = [Part("d", Bound({"tensor": 1.0}, 10**12))]
    assert roofline.overlapped(far, GEN3) == ("dma", pytest.approx(1e12 / 362e9))


def test_other_models_are_refused(config):
    for pattern in ((MLPConfig(),), (MLPConfig(), MLPConfig())):
        with pytest.raises(ValueError, match="pattern"):
            roofline.shape_of(dataclasses.replace(config, pattern=pattern), 64)


def test_rows_add_up(config, monkeypatch):
    monkeypatch.setattr(roofline, "model_of", lambda size: config)
    short, long = (cells("130m", length, GEN3, {}) for length in (2048, 8192))
    assert short[2] == "trn2" and short[-1] == "-"
    assert 3.9 < number(long[5]) / number(short[5]) < 4.1
    assert number(short[6]) < number(short[5]) and number(short[3]) * 12 < number(short[5])
    slow = cells("130m", 2048, GEN3, {"selective_scan_backward": 2.0})
    parts = {part.name: part for part in roofline.shape_of(config, 2048).parts()}
    more = 12e3 * roofline.least(parts["selective_scan_backward"], GEN3)
    assert number(slow[-1]) == pytest.approx(number(short[5]) + more, abs=0.11)


def cells(*words):
    return [cell.strip() for cell in roofline.row(*words).strip("|").split("|")]


def number(cell):
    return float(cell.replace(",", ""))


def test_the_command_prints_the_table(monkeypatch, capsys):
    monkeypatch.setattr(roofline, "rows", lambda emulate: [f"emulate {emulate}"])
    assert verify.main(["--roofline", "--emulate"]) == 0
    assert capsys.readouterr().out == "emulate True\n"
    with pytest.raises(SystemExit):
        verify.main(["--emulate"])


def test_a_target_is_named_for_a_while(monkeypatch):
    monkeypatch.delenv(targets.VARIABLE, raising=False)
    with targets.named(GEN2):
        assert targets.resolve() is GEN2
    assert targets.VARIABLE not in os.environ
    monkeypatch.setenv(targets.VARIABLE, "trn3")
    with targets.named(GEN2):
        pass
    assert targets.resolve().device == "trn3"
