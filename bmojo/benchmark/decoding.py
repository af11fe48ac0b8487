"""Time of a token as users decode it, against the position."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.lengths import growth
from bmojo.benchmark.models import Chosen, draw
from bmojo.benchmark.results import Row
from bmojo.benchmark.rounds import SETTLING
from bmojo.benchmark.statistics import exponent
from bmojo.generation.generate import decode, prefill, single_steps, state_bytes

__all__ = ["conclude", "check_decoding", "decode_cases"]

CHUNK = 512
"""Tokens that are read at once on the way to a position."""
CHECKED = 8
"""Tokens that are decoded in the check."""
WAYS: dict[str, Callable[[Any], Any] | None] = {"": None, ", a call a token": single_steps}
"""Ways to decode, by what is put behind a model's name, and what makes ``advance`` of a model."""

Tell = Callable[[str], None]


def check_decoding(chosen: Chosen, seed: int = 0) -> list[Check]:
    """Greedy decoding behind a prompt of a window and a half, against the parallel forward pass.

    The logits of single tokens have to be those of all tokens at once, and the tokens that
    :func:`bmojo.generation.generate.decode` gives, in its loop and with a call a token, those
    with the largest logits: the other differences are what a token lacks of the largest one,
    relative to the root mean square of the logits.
    """
    model = _model(chosen, seed)
    window = max((getattr(mixer, "window", 0) or 0 for mixer in chosen.config.pattern), default=0)
    size = window + window // 2 + 5
    prompt = _tokens(chosen, size, seed)
    places = size + CHECKED
    chunk = min(CHUNK, size)
    logits, state = prefill(model, prompt, chunk_size=chunk, capacity=places)
    forward = jax.jit(lambda tokens: model(tokens)[0])
    allowed = limit(chosen.config.dtype)
    checks = []
    for suffix, advance in WAYS.items():
        held = jax.tree.map(jnp.copy, state)
        steps = decode(
            model, logits, held, max_new_tokens=CHECKED, advance=advance and advance(model)
        )
        drawn = np.stack(list(steps), axis=1)
        everything = np.concatenate([prompt, drawn], axis=1).astype(np.int32)
        parallel = np.asarray(forward(everything))[:, size - 1 : -1]
        taken = np.take_along_axis(parallel, drawn[..., None].astype(int), axis=-1)[..., 0]
        lacking = float((parallel.max(-1) - taken).max() / np.sqrt(np.mean(parallel**2)))
        what = "greedy tokens and largest logits at once"
        checks.append(Check(chosen.name + suffix, what, lacking, allowed))

    step = jax.jit(lambda token, state: model(token, state))
    singles = [np.asarray(logits)[:, None]]
    for index in range(CHECKED - 1):
        out, state = step(jnp.asarray(drawn[:, index : index + 1]), state)
        singles.append(np.asarray(out))
    found = difference(np.concatenate(singles, axis=1), parallel)
    what = f"logits of {CHECKED} decoded tokens and at once"
    return [Check(chosen.name, what, found, allowed), *checks]


def decode_cases(
    models: Sequence[Chosen],
    positions: Sequence[int],
    tokens: int,
    rounds: int,
    baseline: str | None,
    tell: Tell = lambda text: None,
    seed: int = 0,
) -> list[Case]:
    """Decoding of each model behind each number of tokens, all of which it has read.

    A sample is the time of ``tokens`` tokens of one continuing sequence, greedy, from the
    compiled loop that ``bmojo generate`` runs, at most ``tokens`` in a call of it; and from a
    call for each token. Full attention has as many places as its tokens need.

    Args:
      models: what decodes.
      positions: tokens before the first one that is timed.
      tokens: of a sample.
      rounds: samples that will be taken.
      baseline: model that others are compared with at the same position.
      tell: called with what is being done.
      seed: of parameters and tokens.
    """
    cases = []
    budget = tokens * (rounds + SETTLING + 1)
    for chosen in models:
        model, state, seen = _model(chosen, seed), None, 0
        text = _tokens(chosen, max(positions), seed)
        for position in sorted(positions):
            tell(f"{chosen.name} reads {position:,} tokens")
            places = position + budget
            if state is not None:
                state = _with_places(model, state, places)
            part = text[:, seen:position]
            chunk = min(CHUNK, part.shape[1])
            logits, state = prefill(model, part, state=state, chunk_size=chunk, capacity=places)
            seen = position
            for suffix, advance in WAYS.items():
                held = jax.tree.map(jnp.copy, state)
                facts = {"position": position, "state bytes": state_bytes(held)}
                stream = decode(
                    model,
                    jnp.copy(logits),
                    held,
                    max_new_tokens=budget,
                    block=tokens,
                    advance=advance and advance(model),
                )
                case = Case(
                    chosen.name + suffix,
                    f"decoding at position {position:,}, a token",
                    _taking(stream, tokens),
                    units=tokens,
                    baseline=baseline,
                    facts=facts,
                    calls=1,
                )
                cases.append(case)
    return sorted(cases, key=lambda case: case.facts["position"])


def conclude(rows: Sequence[Row]) -> list[str]:
    """For each model, how time and state grow with the position."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        if "position" in row.facts:
            models.setdefault(row.case, []).append(row)
    notes = []
    for name, found in models.items():
        positions = [row.facts["position"] for row in found]
        times = [row.seconds.median for row in found]
        sizes = [row.facts["state bytes"] for row in found]
        taken, held = (growth(exponent(positions, v), "position") for v in (times, sizes))
        notes.append(f"{name}: time of a token is {taken}, state {held}")
    return notes


def _taking(stream: Any, tokens: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(tokens):
            next(stream)

    return run


def _model(chosen: Chosen, seed: int) -> Any:
    structure, parameters = draw(chosen, seed)
    return structure.merge(parameters)


def _tokens(chosen: Chosen, count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, chosen.config.vocab_size, (1, count)).astype(np.int32)


def _with_places(model: Any, state: Any, places: int) -> Any:
    """The state with room for more tokens, where it has room for a number of tokens only."""
    shapes = jax.eval_shape(lambda: model.init_state(1, places))

    def grown(old: Any, shape: Any) -> Any:
        widths = [(0, new - there) for there, new in zip(old.shape, shape.shape, strict=True)]
        return jnp.pad(old, widths) if any(more for _, more in widths) else old

    return jax.tree.map(grown, state, shapes)
