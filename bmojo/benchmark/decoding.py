"""Time of a decoded token, and bytes of the state, against the position."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark.cases import LIMITS, Case, Check, Tell, compare, silent
from bmojo.benchmark.models import Candidate
from bmojo.benchmark.results import Row, by_fact
from bmojo.benchmark.rounds import SETTLING, exponent, growth
from bmojo.generation.generate import decode, prefill, single_steps, state_bytes

CHUNK = 512  # tokens that are read at once on the way to a position
CHECKED = 8  # tokens that are decoded in the check
WAYS: dict[str, Callable[[Any], Any] | None] = {"": None, ", a call a token": single_steps}
"""Ways to decode: suffix of the case's name -> maker of ``advance`` from a model."""


def _decode(way: str, model: Any, logits: Any, state: Any, **options: Any) -> Any:
    """A stream of tokens from copies of logits and state, since the loop donates both."""
    make, held = WAYS[way], jax.tree.map(jnp.copy, (logits, state))
    return decode(model, *held, advance=make and make(model), **options)


def check_decoding(chosen: Candidate) -> list[Check]:
    """Greedy decoding behind a prompt of a window and a half, against the parallel forward pass.

    The logits of single tokens must be those of all tokens at once. The tokens of ``decode``, in
    its loop and with a call a token, must be those with the largest logits: these differences are
    what a token lacks of the largest logit, relative to the root mean square of the logits.
    """
    structure, parameters = chosen.draw()
    model = structure.merge(parameters)
    size = chosen.window + chosen.window // 2 + 5
    prompt = chosen.tokens(1, size)
    logits, state = prefill(model, prompt, chunk_size=min(CHUNK, size), capacity=size + CHECKED)
    forward = jax.jit(lambda tokens: model(tokens)[0])
    checks = []
    for way in WAYS:
        stream = _decode(way, model, logits, state, max_new_tokens=CHECKED)
        drawn = np.stack(list(stream), axis=1)
        everything = np.concatenate([prompt, drawn], axis=1).astype(np.int32)
        parallel = np.asarray(forward(everything))[:, size - 1 : -1]
        taken = np.take_along_axis(parallel, drawn[..., None].astype(int), axis=-1)[..., 0]
        lacking = float((parallel.max(-1) - taken).max() / np.sqrt(np.mean(parallel**2)))
        what = "greedy tokens and largest logits at once"
        checks.append(Check(chosen.name + way, what, lacking, LIMITS[chosen.config.dtype]))

    step = jax.jit(lambda token, state: model(token, state))
    singles = [np.asarray(logits)[:, None]]
    for index in range(CHECKED - 1):
        out, state = step(jnp.asarray(drawn[:, index : index + 1]), state)
        singles.append(np.asarray(out))
    what, found = f"logits of {CHECKED} decoded tokens and at once", np.concatenate(singles, axis=1)
    return [compare(chosen.name, what, found, parallel, chosen.config.dtype), *checks]


def decode_cases(
    models: Sequence[Candidate],
    positions: Sequence[int],
    tokens: int,
    rounds: int,
    baseline: str | None,
    tell: Tell = silent,
) -> list[Case]:
    """Decoding of each model behind each number of tokens, all of which it has read.

    A sample is the time of ``tokens`` tokens of one continuing sequence, greedy, from the
    compiled loop that ``bmojo generate`` runs, at most ``tokens`` in a call of it; and from a
    call for each token. Full attention has room for all tokens of ``rounds`` samples.
    """
    cases = []
    budget = tokens * (rounds + SETTLING + 1)
    for chosen in models:
        structure, parameters = chosen.draw()
        model, state, seen = structure.merge(parameters), None, 0
        text = chosen.tokens(1, max(positions))
        for position in sorted(positions):
            tell(f"{chosen.name} reads {position:,} tokens")
            capacity = position + budget
            if state is not None:
                state = _with_capacity(model, state, capacity)
            part, seen = text[:, seen:position], position
            chunk = min(CHUNK, part.shape[1])
            logits, state = prefill(model, part, state=state, chunk_size=chunk, capacity=capacity)
            for way in WAYS:
                options = {"max_new_tokens": budget, "block": tokens}
                stream = _decode(way, model, logits, state, **options)
                run = functools.partial(_take, stream, tokens)
                name, group = chosen.name + way, f"decoding at position {position:,}, a token"
                facts = {"position": position, "state bytes": state_bytes(state)}
                cases.append(Case(name, group, run, tokens, baseline, facts=facts, calls=1))
    return sorted(cases, key=lambda case: case.facts["position"])


def conclude_decoding(rows: Sequence[Row]) -> list[str]:
    """For each model, how time and state grow with the position."""
    notes = []
    for name, found in by_fact(rows, "position", lambda row: row.case).items():
        positions = [row.facts["position"] for row in found]
        series = [row.seconds.median for row in found], [row.facts["state bytes"] for row in found]
        time, size = (growth(exponent(positions, values), "position") for values in series)
        notes.append(f"{name}: time of a token is {time}, state {size}")
    return notes


def _take(stream: Iterator[Any], tokens: int) -> None:
    for _ in range(tokens):
        next(stream)


def _with_capacity(model: Any, state: Any, capacity: int) -> Any:
    """The state with room for ``capacity`` tokens, where its room depends on that."""
    shapes = jax.eval_shape(lambda: model.init_state(1, capacity))

    def grown(old: Any, shape: Any) -> Any:
        widths = [(0, new - there) for there, new in zip(old.shape, shape.shape, strict=True)]
        return jnp.pad(old, widths) if any(more for _, more in widths) else old

    return jax.tree.map(grown, state, shapes)
