"""Public names of the package: lazy imports, mixers by keywords, trained models."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import bmojo
from bmojo.cli import app
from bmojo.errors import UserError
from bmojo.loading import TrainedModel
from bmojo.runs import open_run
from tests.evaluation.byte_tokenizer import Bytes
from tests.numerics import relative_rms
from tests.small_models import VOCAB_SIZE, logits, model

MIXERS = ("Attention", "BMojo", "CanonicalSSM", "MLP", "SSD", "SelectiveSSM", "SlidingBMojo")
QUICK = ("bmojo", "transformer")
"""State of constant size, and one that grows."""


def test_import_loads_no_jax():
    program = (
        "import sys, bmojo; assert 'BMojo' in dir(bmojo); "
        "print(sorted({'jax', 'flax', 'numpy', 'gin'} & set(sys.modules))); "
        "bmojo.BMojoConfig; print('jax' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "[]\nTrue\n", shown.stderr


def test_every_public_name_is_there():
    assert set(bmojo.__all__) <= set(dir(bmojo))
    for name in bmojo.__all__:
        assert getattr(bmojo, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'BMoJo'"):
        bmojo.BMoJo  # noqa: B018


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.one_in(3)
def test_a_mixer_by_keywords_is_that_of_its_config(name):
    function, config = getattr(bmojo, name), getattr(bmojo, f"{name}Config")
    made = function(16)
    wanted = config().make(16, rngs=nnx.Rngs(0), dtype=jnp.float32, param_dtype=jnp.float32)
    assert type(made) is type(wanted)
    jax.tree.map(np.testing.assert_array_equal, *(nnx.state(x, nnx.Param) for x in (made, wanted)))
    half = function(16, rngs=nnx.Rngs(1), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("bfloat16")}
    assert half(jnp.ones((1, 3, 16), jnp.bfloat16))[0].dtype == jnp.bfloat16


def test_options_of_a_mixer():
    layer = bmojo.BMojo(16, window=4, num_fading=2, num_eidetic=3)
    assert layer.config == bmojo.BMojoConfig(window=4, num_fading=2, num_eidetic=3)
    with pytest.raises(TypeError, match=r"^BMojo: no option 'num_eidetc'; did you mean 'num_eid"):
        bmojo.BMojo(16, num_eidetc=3)
    with pytest.raises(ValueError, match="^window: must not be negative, got -1$"):
        bmojo.BMojo(16, window=-1)


@pytest.mark.parametrize("name", QUICK)
def test_reading_advances_the_state(name):
    """Logits, and what is drawn, are those of the whole sequence, in pieces and at once."""
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, 150)
    trained, whole = TrainedModel(model(name)), np.asarray(logits(model(name), tokens[None]))[0]
    assert relative_rms(trained.logits(tokens), whole) < 1e-5
    assert trained.position == 0
    trained.read(tokens[:11])
    kept = trained.state
    assert relative_rms(trained.logits(tokens[11:]), whole[11:]) < 1e-5
    trained.read(tokens[11:140])  # beyond the first room of full attention
    assert trained.position == 140
    assert relative_rms(trained.logits(tokens[140:]), whole[140:]) < 1e-5
    assert all(not leaf.is_deleted() for leaf in jax.tree.leaves(kept))

    other = TrainedModel(model(name))
    options = {"max_new_tokens": 6, "temperature": 0.7, "top_k": 9, "seed": 3}
    drawn = other.generate(tokens[:140], **options)
    np.testing.assert_array_equal(trained.generate([], **options), drawn)
    assert (trained.position, other.position) == (140, 0)
    np.testing.assert_array_equal(other.generate(tokens[:140], keep=True, **options), drawn)
    assert other.position == 146
    trained.read(drawn)
    for a, b in zip(*(jax.tree.leaves(x.state) for x in (trained, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    trained.reset()
    assert trained.position == 0
    np.testing.assert_array_equal(trained.generate(tokens[:140], **options), drawn)


class Letters(Bytes):
    """Tokens 1 .. 23 for the letters a .. w, and 0 for the end of a document."""

    eos = 0

    def encode(self, text):
        return np.asarray([ord(letter) - ord("a") + 1 for letter in text], np.int32)

    def decode(self, ids):
        return "".join(chr(ord("a") + int(token) - 1) for token in ids)


def test_text_is_a_document():
    trained = TrainedModel(model("bmojo"), Letters(), "run, step 3")
    assert repr(trained) == "TrainedModel(run, step 3: 0 tokens read)"
    np.testing.assert_array_equal(trained.encode("ab"), [0, 1, 2])
    np.testing.assert_array_equal(trained.logits("ab"), trained.logits([0, 1, 2]))
    text = trained.generate("ab", max_new_tokens=6, seed=5)
    assert text == Letters().decode(trained.generate([0, 1, 2], max_new_tokens=6, seed=5))
    assert len(text) > 2
    stopped = trained.generate("ab", max_new_tokens=6, seed=5, stop=text[1:3])
    assert stopped == text[: text.index(text[1:3])]
    trained.read("a")
    np.testing.assert_array_equal(trained.encode("b"), [2])  # the document goes on
    assert trained.generate("b", max_new_tokens=6, seed=5) == text
    trained.read("b")
    assert trained.generate(max_new_tokens=6, seed=5) == text


class Words(Letters):
    """Each token is a word, and the blank before the first one is left out."""

    def decode(self, ids):
        return " ".join(super(Words, self).decode([token]) for token in ids)


def test_a_continuation_begins_with_its_blank():
    trained, options = TrainedModel(model("bmojo"), Words()), {"max_new_tokens": 6, "seed": 5}
    text = " " + Words().decode(trained.generate([0, 1, 2], **options))
    assert trained.generate("ab", **options) == text
    assert trained.generate("ab", **options, stop=text[1:4]) == " "
    trained.read("ab")
    assert trained.generate(**options) == text


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.read("a"), "prompt: the run was trained on a task without text; give token"),
        (lambda m: m.read([0.5]), "prompt: not a row of token ids; give integers"),
        (lambda m: m.read([[1]]), "prompt: not a row of token ids; give integers"),
        (lambda m: m.logits([99]), "prompt: 99 is not a token of this model; give ids of 0 .. 23"),
        (lambda m: m.generate([]), "prompt: it is empty, and nothing was read; give at least"),
        (lambda m: m.generate([1], stop="x"), "stop: the run has no tokenizer"),
    ],
)
def test_errors_are_one_line(call, error):
    with pytest.raises(UserError) as caught:
        call(TrainedModel(model("bmojo")))
    assert str(caught.value).startswith(error)
    assert "\n" not in str(caught.value)


def test_a_run_is_loaded(tmp_path):
    words = [
        "train",
        "experiments/mqar.gin",
        "models/mamba.gin",
        "runs/smoke.gin",
        "Model.d_model=8",
    ]
    trained = CliRunner().invoke(app, [*words, "--run-dir", str(tmp_path / "run")])
    assert trained.exit_code == 0, trained.output
    loaded = bmojo.load(tmp_path / "run")
    assert repr(loaded) == f"TrainedModel({tmp_path / 'run'}, step 4: 0 tokens read)"
    assert (loaded.config.d_model, loaded.tokenizer) == (8, None)
    tokens = np.arange(9)
    expected = logits(open_run(tmp_path / "run", 4).model, tokens[None])[0]
    assert relative_rms(loaded.logits(tokens), expected) < 1e-5
    assert len(loaded.generate(tokens, max_new_tokens=3)) == 3
    for step, error in ((7, "there is no checkpoint of step 7; take one of"), ("x", "is no step")):
        with pytest.raises(UserError, match=error) as caught:
            bmojo.load(tmp_path / "run", step)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no run is here"):
        bmojo.load(tmp_path / "elsewhere")
