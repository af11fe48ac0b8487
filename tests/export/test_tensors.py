import sys

import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.errors import UserError
from bmojo.export import tensors

pytest.importorskip("safetensors", reason="it is an extra")


def test_there_and_back(tmp_path):
    arrays = {
        "a.kernel": np.arange(6, dtype="f4").reshape(2, 3).T,
        "b": jnp.linspace(0, 1, 5, dtype=jnp.bfloat16),
        "count": np.int32(7),
    }
    path = tmp_path / "model.safetensors"
    tensors.write(path, arrays, "step", "7")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    found, metadata = tensors.read(path)
    assert metadata == {"step": "7"} and found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == np.shape(array)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def test_what_is_no_such_file(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"something else entirely")
    with pytest.raises(UserError, match="model.safetensors: no safetensors file"):
        tensors.read(path)


def test_without_the_package_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"not installed; pip install 'bmojo\[export\]'"):
        tensors.write(tmp_path / "x", {}, "a", "b")
