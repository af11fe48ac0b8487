"""What a preflight finds on the eight devices of the tests."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from bmojo.multihost import Processes
from bmojo.training import machine, preflight


def test_devices_are_counted():
    facts = machine.devices(Processes())
    assert (facts["all"], facts["by_process"], facts["platform"]) == (8, [8], "cpu")
    assert facts["memory_bytes"] is None and facts["machine_memory_bytes"] > 2**20


def test_the_cache_is_counted_and_tried(tmp_path, monkeypatch):
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path))
    assert preflight.cache()["entries"] == 0
    (tmp_path / "jax" / "jit_step-abc-cache").write_bytes(b"12345")
    (tmp_path / "jax" / "jit_step-abc-atime").write_bytes(b"1")
    facts = preflight.cache()
    assert (facts["entries"], facts["bytes"], facts["problem"]) == (1, 5, None)
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "jax" / "jit_step-abc-cache"))
    assert preflight.cache()["problem"] == "Not a directory"


def test_collectives_do_what_they_are_called(monkeypatch):
    """Over the second axis of a mesh, each device with numbers of its own."""
    kinds = (AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 4), ("other", "axis"), axis_types=kinds)
    seen = []

    def look(program, arguments, repeats):
        (x,) = arguments
        mine = jax.device_put(np.arange(x.size, dtype=np.float32), x.sharding)
        seen.append(np.asarray(program(mine)).reshape(2, 4, -1))
        return 0.5, 0.25

    monkeypatch.setattr(preflight, "_time", look)
    rows = list(preflight.collectives(mesh, "axis", 1))
    numbers = 2**18
    assert [row["bytes"] for row in rows] == [4 * numbers] * 4
    sent = {"all-gather": 0.75, "reduce-scatter": 0.75, "all-reduce": 1.5, "ppermute": 1.0}
    for row in rows:
        expected = sent[row["name"]] * 4 * numbers / 0.25 / 1e9
        assert row["gigabytes_per_second"] == pytest.approx(expected)
    gathered, scattered, reduced, passed = seen
    whole = np.arange(8 * numbers, dtype=np.float32).reshape(2, 4, numbers)
    part = np.arange(2 * numbers, dtype=np.float32).reshape(2, 1, numbers)
    assert (gathered == part).all()
    assert (reduced == whole.sum(1, keepdims=True)).all()
    assert (scattered.reshape(2, numbers) == whole.sum(1)).all()
    assert (passed == np.roll(whole, 1, axis=1)).all()


def test_times_are_of_running(monkeypatch):
    rows = list(preflight.products(8, repeats=1))
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    assert all(row["gigaflops"] == 2 * 8**3 / row["seconds"] / 1e9 for row in rows)


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "unknown"), (0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (2**40, "1 TiB")],
)
def test_sizes_are_told_in_words(number, text):
    assert preflight.size(number) == text
