"""Kernels become programs for TPUs (Mosaic) and GPUs (Triton) on a machine that has neither.

Lowering checks that every operation of a kernel has a counterpart there, and the shapes of
blocks. The device's own compiler, which comes after, is not asked.
"""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.ops.attention_pallas import memory_attention
from bmojo.ops.axes import axis_rules
from bmojo.ops.masks import Slots
from bmojo.ops.pallas import targets
from bmojo.ops.pallas.scan import scan
from bmojo.ops.pallas.targets import Target
from bmojo.ops.recurrence import selective_scan

PLATFORM = {"tpu": "tpu", "gpu": "cuda"}
CALL = {"tpu": "tpu_custom_call", "gpu": "__gpu$xla.gpu.triton"}
every_device = pytest.mark.parametrize("device", PLATFORM)
ROWS, LENGTH = 2, 2048


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def calls(device, function, *operands):
    """Kernels in the program for a device."""
    # Triton's programs are not promised to be readable by other versions; nobody will read them.
    unstable = jax.export.DisabledSafetyCheck.custom_call(CALL["gpu"])
    made = jax.export.export(
        jax.jit(function), platforms=[PLATFORM[device]], disabled_checks=[unstable]
    )(*operands)
    return made.mlir_module().count(f"stablehlo.custom_call @{CALL[device]}(")


@every_device
@pytest.mark.parametrize(
    "width, d_state", [(512, 16), pytest.param(1024, 64, marks=pytest.mark.slow)]
)
def test_the_scan_forward_and_backward(device, width, d_state):
    channels, states = shape(ROWS, LENGTH, width), shape(ROWS, LENGTH, d_state)
    operands = (channels, channels, shape(width, d_state), states, states)
    operands += (shape(ROWS, width, d_state), shape(ROWS, LENGTH, dtype=bool))

    def loss(*operands):
        y, state = scan(*operands, target=Target(device))
        return jnp.sum(y) + jnp.sum(state)

    assert calls(device, loss, *operands) == 1
    assert calls(device, jax.grad(loss, range(6)), *operands) == 2


@every_device
@pytest.mark.parametrize(
    "window, num_slots, width, dtype",
    [(512, 80, 64, jnp.float32), (512, 80, 128, jnp.bfloat16), (100, 0, 80, jnp.float32)],
)
@pytest.mark.one_in(3)
def test_the_attention_forward_and_backward(device, window, num_slots, width, dtype):
    heads, groups, chunks = 8, 4, -(-LENGTH // window)
    tokens = shape(ROWS, LENGTH, groups, width, dtype=dtype)
    tail = shape(ROWS, window - 1, groups, width, dtype=dtype)
    held = shape(ROWS, chunks, num_slots, groups, width, dtype=dtype)
    operands = (shape(ROWS, LENGTH, heads, width, dtype=dtype), tokens, tokens, tail, tail)
    operands += (held, held, shape(ROWS, chunks, num_slots, dtype=jnp.int32))
    operands += (shape(ROWS, LENGTH, dtype=jnp.int32),)

    def loss(q, k, v, tail_k, tail_v, slot_k, slot_v, distance, segment_pos):
        out = memory_attention(
            q, k, v, tail_k, tail_v, segment_pos,
            window=window, slots=Slots(slot_k, slot_v, distance[:, :, None]), target=Target(device),
        )  # fmt: skip
        return jnp.sum(out.astype(jnp.float32))

    assert calls(device, loss, *operands) == 1
    assert calls(device, jax.grad(loss, range(7)), *operands) == (4 if num_slots else 3)


@pytest.mark.parametrize("device", ["tpu", pytest.param("gpu", marks=pytest.mark.slow)])
def test_a_layer_and_its_gradient(device, monkeypatch):
    """One kernel for the scan and one for the attention; two and four with the gradient."""
    monkeypatch.setattr(targets, "_of_backend", lambda backend: Target(device))
    config = BMojoConfig(
        window=512,
        num_fading=16,
        num_eidetic=64,
        n_kv_heads=2,
        fading=SelectiveSSMConfig(expand=1, implementation="pallas"),
        attention_implementation="pallas",
    )
    make = jax.eval_shape(
        lambda: config.make(256, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float32)
    )
    graph, parameters = nnx.split(make, nnx.Param)

    def loss(parameters, u):
        return jnp.sum(nnx.merge(graph, parameters)(u)[0].astype(jnp.float32))

    u = shape(ROWS, LENGTH, 256, dtype=jnp.bfloat16)
    assert calls(device, loss, parameters, u) == 2
    assert calls(device, jax.grad(loss), parameters, u) == 6


@pytest.mark.parametrize("nested", [False, True])
def test_a_kernel_on_a_mesh(nested, monkeypatch):
    """By itself it is refused; on each device it is lowered, also where time is cut already."""
    monkeypatch.setattr(targets, "_of_backend", lambda backend: Target("tpu"))
    kinds = (AxisType.Auto,) * 3
    mesh = jax.make_mesh((2, 2, 2), ("data", "tensor", "sequence"), axis_types=kinds)
    channels, states = shape(ROWS, 256, 256), shape(ROWS, 256, 16)
    operands = (channels, channels, shape(256, 16), states, states, shape(ROWS, 256, 16))

    def plain(*operands):
        return scan(*operands, None, None)[0]

    def each(*operands):
        return selective_scan(*operands, implementation="pallas")[0]

    def through(function):
        if not nested:
            return function
        time, whole = PartitionSpec(None, "sequence"), PartitionSpec()
        specs = (time, time, whole, time, time, whole)
        return jax.shard_map(
            function, mesh=mesh, in_specs=specs, out_specs=time,
            axis_names={"sequence"}, check_vma=False,
        )  # fmt: skip

    with jax.set_mesh(mesh), axis_rules({"batch": ("data",), "inner": ("tensor",)}):
        assert calls("tpu", through(each), *operands) == 1
        with pytest.raises(NotImplementedError, match="cannot be automatically partitioned"):
            calls("tpu", through(plain), *operands)
