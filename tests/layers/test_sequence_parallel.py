"""Every mixer over the devices of a mesh axis is the mixer over the whole sequence."""

import jax.numpy as jnp
import pytest

from tests.layers import sharded, test_attention, test_bmojo, test_canonical, test_ssm

CASES = {
    **test_ssm.CASES,
    **test_canonical.CASES,
    **test_attention.CASES,
    **test_bmojo.CASES,
}
CHUNKED = {"bmojo", "f", "conv", "normalized", "wide"}


@pytest.mark.parametrize("case", CASES)
def test_shards_are_the_whole_sequence(case):
    sharded.check(CASES[case], jnp.dtype("float32"), 3, 6 if case != "wide" else 4, warm=12)
