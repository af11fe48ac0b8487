"""What a read-out is worth: forms of one model."""

import dataclasses

import numpy as np
from flax import nnx

from bmojo.evaluation.readout import BLOCK, curve, forms, measure_forms, rows, with_readout
from bmojo.evaluation.streaming import stream_losses
from bmojo.layers.readout import ReadoutConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from tests.numerics import assert_close

CONFIG = ModelConfig(
    vocab_size=7, d_model=8, n_layers=1, pattern=(SSDConfig(d_state=4, n_heads=2),),
    readout=ReadoutConfig(ring=8, chunk=4, d_key=4),
)  # fmt: skip


def test_the_head_alone_is_the_model_without_a_read_out():
    model = CONFIG.make(nnx.Rngs(0))
    bare = dataclasses.replace(CONFIG, readout=None)
    structure, _ = nnx.split(nnx.eval_shape(lambda: bare.make(nnx.Rngs(0))))
    parameters = nnx.state(model)
    del parameters["readout"]
    text = np.random.default_rng(0).integers(0, 7, 40)
    found = measure_forms(model, [text], times=2)
    again = np.concatenate([text, text[1:]])
    plain = stream_losses(nnx.merge(structure, parameters), [again])
    assert_close(found["head alone"][0], plain[0], "float32")
    assert_close(found["as trained"][0], stream_losses(model, [again])[0], "float32")
    whole = with_readout(model, {"ring": 128})
    assert np.abs(stream_losses(whole, [again])[0] - found["as trained"][0]).max() > 1e-3
    assert set(found) == set(forms(1))
    first, second = (row for row in rows(found, 2, 39) if row["form"] == "as trained")
    assert (first["reading"], second["reading"]) == (1, 2)
    nats = found["as trained"][0][:39].sum()
    assert_close(first["bits_per_byte"] * 39 * np.log(2), nats, "float32")


def test_a_curve_is_of_the_documents_that_reach_so_far():
    found = curve([np.full(2 * BLOCK, np.log(2)), np.full(BLOCK, 3 * np.log(2))])
    np.testing.assert_allclose(found, [2, 1], rtol=1e-6)
