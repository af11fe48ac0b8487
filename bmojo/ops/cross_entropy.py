"""Cross-entropy of next tokens, from logits or, for large vocabularies, without them."""

import functools

import jax
import jax.numpy as jnp
import optax

from bmojo.types import Array, Bool, Float, Int, at_least_float32

WORDS = 2048
"""Of a block of the vocabulary."""

TOKENS = 512
"""Of a block of tokens."""


def cross_entropy(
    logits: Float[Array, "B L V"], answers: Int[Array, "B L"], cut: bool = False
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """-log softmax(logits)[answer] in nats, and whether the answer is the likeliest word.

    Args:
      logits: of the words.
      answers: in 0 .. V - 1.
      cut: the words are cut over devices, each of which looks among its own.
    """
    if cut:
        words = jnp.arange(logits.shape[-1], dtype=answers.dtype)
        right = jnp.where(words == answers[..., None], logits, 0).sum(-1)
        losses = jax.nn.logsumexp(logits, axis=-1) - right
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, answers)
    return losses, jnp.argmax(logits, axis=-1) == answers


def blocked_cross_entropy(
    x: Float[Array, "T D"],
    table: Float[Array, "V D"],
    answers: Int[Array, "T"],
    words: int = WORDS,
    tokens: int = TOKENS,
) -> tuple[Float[Array, "T"], Bool[Array, "T"]]:
    """-log softmax(x table^T)[answer], and whether the answer is the likeliest word.

    The logits of ``tokens`` tokens and ``words`` words exist at a time; the backward pass
    computes them again. There are derivatives of the first output, of first order, in reverse
    mode.

    Args:
      x: features, scaled as the logits want them.
      table: a row for each word.
      answers: in 0 .. V - 1. Of equally likely words the first counts as the likeliest.
      words: of a block.
      tokens: of a block.

    Returns:
      The loss in nats, float32 or wider, and whether it was right.
    """
    (length, _), count = x.shape, len(table)
    tokens, words = min(tokens, length), min(words, count)
    padding = -length % tokens
    x = jnp.pad(x, [(0, padding), (0, 0)]).reshape(-1, tokens, x.shape[1])
    answers = jnp.pad(answers, (0, padding)).reshape(-1, tokens)
    table = jnp.pad(table, [(0, -count % words), (0, 0)])
    losses, best = _losses(count, words, x, table, answers)
    return losses.reshape(-1)[:length], (best == answers).reshape(-1)[:length]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _losses(count, words, x, table, answers):
    """Losses and likeliest words (n, T); ``count`` rows of the padded table mean something."""
    return _save(count, words, x, table, answers)[0]


def _save(count, words, x, table, answers):
    number = at_least_float32(x.dtype)

    def block(now):
        x, answers = now

        def look(index, so_far):
            peak, total, right, best = so_far
            logits = _logits(count, words, x, table, index)
            top = logits.max(axis=-1)
            first = jnp.argmax(logits, axis=-1).astype(answers.dtype)
            best = jnp.where(top > peak, index * words + first, best)
            higher = jnp.maximum(peak, top)
            total = total * jnp.exp(peak - higher) + jnp.exp(logits - higher[:, None]).sum(axis=-1)
            right = right + jnp.where(_is_answer(words, answers, index), logits, 0).sum(axis=-1)
            return higher, total, right, best

        nothing = jnp.zeros(answers.shape, number)
        start = (nothing - jnp.inf, nothing, nothing, jnp.zeros_like(answers))
        peak, total, right, best = jax.lax.fori_loop(0, len(table) // words, look, start)
        lse = peak + jnp.log(total)
        return lse - right, best, lse

    losses, best, lse = jax.lax.map(block, (x, answers))
    return (losses, best), (x, table, answers, lse)


def _gradient(count, words, saved, grads):
    x, table, answers, lse = saved

    def block(d_table, now):
        x, answers, lse, grad = now

        def look(index, sums):
            dx, d_table = sums
            logits = _logits(count, words, x, table, index)
            moved = jnp.exp(logits - lse[:, None]) - _is_answer(words, answers, index)
            moved = (moved * grad[:, None]).astype(x.dtype)
            dot = functools.partial(jnp.einsum, preferred_element_type=lse.dtype)
            rows = dot("tv,td->vd", moved, x)
            old = jax.lax.dynamic_slice_in_dim(d_table, index * words, words)
            d_table = jax.lax.dynamic_update_slice_in_dim(d_table, old + rows, index * words, 0)
            return dx + dot("tv,vd->td", moved, _rows(words, table, index)), d_table

        start = (jnp.zeros(x.shape, lse.dtype), d_table)
        dx, d_table = jax.lax.fori_loop(0, len(table) // words, look, start)
        return d_table, dx.astype(x.dtype)

    start = jnp.zeros(table.shape, lse.dtype)
    d_table, dx = jax.lax.scan(block, start, (x, answers, lse, grads[0]))
    return dx, d_table.astype(table.dtype), None


_losses.defvjp(_save, _gradient)


def _rows(words, table, index):
    return jax.lax.dynamic_slice_in_dim(table, index * words, words)


def _logits(count, words, x, table, index):
    """Of one block of words, minus infinity for those that only fill it up."""
    number = at_least_float32(x.dtype)
    rows = _rows(words, table, index)
    logits = jnp.einsum("td,vd->tv", x, rows, preferred_element_type=number)
    return jnp.where(index * words + jnp.arange(words) < count, logits, -jnp.inf)


def _is_answer(words, answers, index):
    return answers[:, None] - index * words == jnp.arange(words, dtype=answers.dtype)
