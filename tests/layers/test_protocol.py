"""The contract of mixers: members, their declarations, and the law for mixers of anybody."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bmojo import experiment
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.protocol import check_mixer_members, with_aux
from bmojo.model import ModelConfig
from bmojo.ops.positions import Positions
from bmojo.ops.time_sharding import open_context
from bmojo.testing import check_mixer


@dataclasses.dataclass(frozen=True)
class LastConfig:
    """out_t = u_t + u_{t-1}; ``leak``: also over the start of a document."""

    leak: bool = False

    def make(self, d_model, *, rngs, dtype, param_dtype):
        return Last(d_model, self.leak)


class Last(nnx.Module):
    """A mixer of a stranger."""

    def __init__(self, d_model, leak):
        self.gain = nnx.Param(jnp.ones(d_model))
        self.d_model, self.leak = d_model, leak

    def __call__(self, u, state=None, segment_ids=None, lengths=None, aux=None):
        context, before, tokens, positions = open_context(
            self.init_state, state, u, segment_ids, lengths
        )
        past = jnp.concatenate([context.tail(before.last, u).astype(u.dtype), u], axis=1)
        old = past[:, :-1]
        if not self.leak:
            old = jnp.where((tokens.segment_pos > 0)[..., None], old, 0)
        count = tokens.lengths[:, None, None]
        last = jnp.take_along_axis(past, count, axis=1).astype(before.last.dtype)
        return with_aux(aux, (u + old) * self.gain[...].astype(u.dtype), LastState(positions, last))

    def init_state(self, batch_size, capacity=None):
        return LastState(Positions.zero(batch_size), jnp.zeros((batch_size, 1, self.d_model)))

    def flops_per_token(self, length):
        return 2.0 * self.d_model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LastState:
    positions: Positions
    last: jnp.ndarray


def test_a_strangers_mixer_keeps_the_law():
    check_mixer(LastConfig())


def test_a_mixer_that_leaks_is_found():
    with pytest.raises(AssertionError):
        check_mixer(LastConfig(leak=True))


@pytest.mark.slow
def test_ours_keep_it():
    check_mixer(AttentionConfig(window=5))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("init_state", "Broken: has no method init_state; see bmojo.layers.protocol.Mixer"),
        ("flops_per_token", "Broken: has no method flops_per_token"),
        ("groups", "Broken.groups: must be a dict: path of a parameter, or '' for all"),
        ("undecayed", "Broken.undecayed: must be a tuple: paths of parameters"),
    ],
)
def test_a_missing_or_wrong_member_is_named(member, message):
    class Broken(Last):
        pass

    setattr(Broken, member, "text" if member in ("groups", "undecayed") else None)
    with pytest.raises(ValueError, match=message):
        check_mixer_members(Broken(4, False))


def test_a_model_refuses_a_mixer_that_lacks_a_member():
    class Partial(nnx.Module):
        def __call__(self, u, state=None, segment_ids=None, lengths=None, aux=None):
            return u, ()

    class PartialConfig(LastConfig):
        def make(self, d_model, *, rngs, dtype, param_dtype):
            return Partial()

    with pytest.raises(ValueError, match="Partial: has no method init_state"):
        ModelConfig(8, 4, 1, (PartialConfig(), PartialConfig())).make(nnx.Rngs(0))


def test_register_refuses_a_class_that_makes_nothing():
    @dataclasses.dataclass(frozen=True)
    class Nothing:
        size: int = 1

    with pytest.raises(ValueError, match="Nothing has no method make"):
        experiment.register("Nothing", Nothing)
    with pytest.raises(ValueError, match="int is no dataclass"):
        experiment.register("Number", int)
    assert "Nothing" not in experiment.REGISTRY
