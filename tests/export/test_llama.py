import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.errors import UserError
from bmojo.export import families, huggingface
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.training.parameters import split
from tests.export import llama_in_numpy

pytest.importorskip("safetensors", reason="it is an extra")

ATTENTION = AttentionConfig(n_heads=4, n_kv_heads=2, rope=True, rope_theta=500.0)
FULL = ModelConfig(24, 16, 2, (ATTENTION, MLPConfig(20)))
WINDOW = dataclasses.replace(ATTENTION, window=5)
UNTIED = ModelConfig(24, 16, 4, (WINDOW, MLPConfig(20)) * 2, tie_embeddings=False)


def exported(config, folder):
    """A model whose every parameter matters, and its folder."""
    structure, parameters = split(config.make(nnx.Rngs(0)))
    keys = jax.random.split(jax.random.key(1), len(parameters))
    parameters = {
        name: x + 0.3 * jax.random.normal(key, x.shape)
        for key, (name, x) in zip(keys, sorted(parameters.items()), strict=True)
    }
    found = families.config_json(config, parameters, 64, 3)
    (folder / "config.json").write_text(json.dumps(found))
    huggingface.write_weights(folder, config, parameters)
    return structure.merge(parameters)


BOTH = pytest.mark.parametrize("config", [FULL, UNTIED], ids=["llama", "mistral, untied"])
TOKENS = np.random.default_rng(0).integers(0, 24, 19)


def difference(model, theirs):
    """The largest difference of two logits of the same token."""
    ours = np.asarray(model(jnp.asarray(TOKENS)[None])[0][0])
    assert np.std(theirs) > 0.1
    return np.abs(ours - theirs).max()


@BOTH
def test_logits_are_those_of_llama_in_numpy(config, tmp_path):
    model = exported(config, tmp_path)
    assert difference(model, llama_in_numpy.logits(tmp_path, TOKENS)) < 2e-5


@BOTH
def test_logits_are_those_of_transformers(config, tmp_path):
    package = pytest.importorskip("transformers", reason="it is no dependency")
    torch = pytest.importorskip("torch", reason="transformers needs it")
    model = exported(config, tmp_path)
    loaded = package.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ in ("LlamaForCausalLM", "MistralForCausalLM")
    with torch.no_grad():
        theirs = loaded(torch.tensor(TOKENS)[None]).logits[0].numpy()
    found = difference(model, theirs)
    print(f"{type(loaded).__name__}: largest difference {found:.1e} at {np.abs(theirs).max():.1f}")
    assert found < 2e-5


def with_pattern(*pattern):
    return dataclasses.replace(FULL, pattern=pattern)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (with_pattern(SSDConfig(), MLPConfig(8)), "express SSD, sublayer 1 of its pattern"),
        (with_pattern(ATTENTION, ATTENTION), "express Attention, sublayer 2"),
        (with_pattern(ATTENTION), "an attention without an MLP after it"),
        (with_pattern(AttentionConfig(4), MLPConfig(8)), r"Attention.rope=False"),
        (
            with_pattern(ATTENTION, MLPConfig(8), WINDOW, MLPConfig(8)),
            r"differ in window \(None and 5\)",
        ),
        (
            with_pattern(ATTENTION, MLPConfig(8), ATTENTION, MLPConfig(12)),
            "MLPs of the widths 8 and 12",
        ),
        (
            with_pattern(dataclasses.replace(WINDOW, qkv_bias=True), MLPConfig(8)),
            "a window .* beside biases",
        ),
        (with_pattern(dataclasses.replace(ATTENTION, o_bias=True), MLPConfig(8)), "without"),
        (
            with_pattern(
                dataclasses.replace(ATTENTION, qk_norm=True, norm_epsilon=1e-5), MLPConfig(8)
            ),
            "Attention.norm_epsilon = 1e-05 beside Model.norm_epsilon = 1e-06",
        ),
        (with_pattern(SSDConfig(norm_epsilon=1e-5)), "SSD.norm_epsilon = 1e-05 beside"),
        (
            with_pattern(SSDConfig(), SSDConfig(chunk_size=8)),
            r"SSD that differ in chunk_size \(64 and 8\)",
        ),
        (with_pattern(SSDConfig(d_inner=24)), "an inner width of 24, no multiple of d_model = 16"),
    ],
)
def test_what_cannot_be_expressed_is_named(config, words):
    shapes = split(nnx.eval_shape(lambda: config.make(nnx.Rngs(0))))[1]
    with pytest.raises(UserError, match=words + r".*; take --format safetensors"):
        families.config_json(config, shapes, 64)
