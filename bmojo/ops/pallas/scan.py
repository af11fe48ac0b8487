"""The selective scan by a kernel: what is laid out where, its tiles, and its derivative."""

import dataclasses
import functools
from types import ModuleType

import jax
import jax.numpy as jnp

from bmojo.ops import chunks
from bmojo.ops.pallas import scan_gpu, scan_tpu
from bmojo.ops.pallas.targets import LANES, SUBLANES, VMEM, Target, here, pad, power_of_2, round_up
from bmojo.types import Array, DType


@dataclasses.dataclass(frozen=True)
class Tiles:
    """What one step of a kernel works on."""

    target: Target
    tokens: int  # of a chunk
    channels: int  # of a block
    d_state: int  # N, with the states that are added to fill a tile

    @property
    def kernels(self) -> ModuleType:
        """Where the kernels are."""
        return scan_tpu if self.target.device == "tpu" else scan_gpu


def tiles(
    target: Target, length: int, width: int, d_state: int, chunk_size: int | None = None
) -> Tiles:
    """The tiles for so many tokens, channels and states.

    On a TPU a chunk has 128 tokens, or as many fewer as ``chunk_size`` asks for (in multiples
    of 8, at least 8), and a block 512, 256 or 128 channels, whichever first divides the
    channels and fits vector memory (:func:`bmojo.ops.pallas.scan_tpu.vmem_bytes`); where none
    fits, the chunk is halved. On a GPU a chunk has 16 tokens or ``chunk_size`` if that is less,
    and a block 32 channels, fewer where N is more than 64. Chunks are then made as equal as
    their number allows.

    Where not even the smallest fit, see :func:`unfit`, the answer is the smallest.
    """
    if target.device == "gpu":
        states = power_of_2(d_state)
        channels = max(8, min(32, 8 * 32 * scan_gpu.EACH // states))
        most = min(chunk_size or scan_gpu.TOKENS, scan_gpu.TOKENS)
        return Tiles(target, chunks.plan(length, most)[1], channels, states)

    states, lanes = round_up(d_state, SUBLANES), round_up(width, LANES)
    most = LANES if chunk_size is None else max(SUBLANES, chunk_size // SUBLANES * SUBLANES)
    tokens = min(most, round_up(length, SUBLANES))
    while True:
        for channels in (4 * LANES, 2 * LANES, LANES):
            if lanes % channels == 0 and scan_tpu.vmem_bytes(tokens, channels, states) <= VMEM:
                even = round_up(chunks.plan(length, tokens)[1], SUBLANES)
                return Tiles(target, even, channels, states)
        if tokens == SUBLANES:
            return Tiles(target, tokens, LANES, states)
        tokens = max(SUBLANES, tokens // 2 // SUBLANES * SUBLANES)


def unfit(width: int, d_state: int, dtype: DType, target: Target | None = None) -> str | None:
    """Why the kernels cannot run with so many channels and states; None: they can."""
    target = here() if target is None else target
    if not target.interpret and jnp.dtype(dtype) == jnp.float64:
        return "the pallas scan computes in float32, not in float64"
    if target.device == "gpu":
        if d_state > 256:
            return f"the pallas scan for GPUs holds at most 256 states of a channel, got {d_state}"
        return None
    least = tiles(target, 1, width, d_state)
    taken = scan_tpu.vmem_bytes(least.tokens, least.channels, least.d_state)
    if taken <= VMEM:
        return None
    return (
        f"{least.tokens} tokens and {least.channels} channels of the pallas scan with d_state = "
        f"{d_state} take {taken / 2**20:.0f} MiB of a TPU's vector memory, more than "
        f"{VMEM / 2**20:.0f}"
    )


def scan(
    x, dt, A, B, C, state, start, chunk_size=None, target: Target | None = None
) -> tuple[Array, Array]:
    """The scan of :func:`bmojo.ops.recurrence.selective_scan`.

    The state stays on the chip; what is written besides the outputs is the state before each
    chunk, for the backward pass, which computes those within a chunk again. Time is filled up
    with tokens of dt = 0 and channels and states with zeros; neither changes anything.
    ``target`` is the device (None: JAX's default one); for ``chunk_size`` see :func:`tiles`.

    Raises:
      ValueError: the sizes fit no tile, or the operands are float64 on a device.
    """
    target = here() if target is None else target
    (_, length, width), d_state = x.shape, A.shape[1]
    why = unfit(width, d_state, x.dtype, target)
    if why is not None:
        raise ValueError(f"implementation: {why}; take 'associative'")
    plan = tiles(target, length, width, d_state, chunk_size)
    time, wide = round_up(length, plan.tokens), round_up(width, plan.channels)

    def channels(v: Array) -> Array:
        return pad(pad(v, 2, wide), 1, time)

    def states(v: Array) -> Array:
        return pad(pad(v, 2, plan.d_state), 1, time)

    keep = None if start is None else pad(jnp.where(start, 0, 1).astype(x.dtype), 1, time, 1)
    transition = pad(pad(A.T, 1, wide), 0, plan.d_state)
    h = pad(pad(jnp.swapaxes(state, 1, 2), 2, wide), 1, plan.d_state)
    y, h = _scan(plan, channels(x), channels(dt), transition, states(B), states(C), keep, h)
    return y[:, :length, :width], jnp.swapaxes(h[:, :d_state, :width], 1, 2)


# Below, everything fills whole tiles, and states are (N, E).


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(plan, x, dt, A, B, C, keep, h):
    return _run(plan, x, dt, A, B, C, keep, h, save=False)[:2]


def _run(plan: Tiles, *operands: Array | None, save: bool) -> tuple[Array, Array, Array | None]:
    return plan.kernels.forward(
        plan.tokens, plan.channels, plan.target.interpret, *operands, save=save
    )


def _save(plan, x, dt, A, B, C, keep, h):
    y, h, bounds = _run(plan, x, dt, A, B, C, keep, h, save=True)
    return (y, h), (x, dt, A, B, C, keep, bounds)


def _backward(plan, saved, cotangents):
    dx, ddt, dA, dB, dC, dh = plan.kernels.backward(
        plan.tokens, plan.channels, plan.target.interpret, *saved, *cotangents
    )
    return dx, ddt, dA, dB, dC, None, dh


_scan.defvjp(_save, _backward)
