"""Trained models for use in Python: text generation, logits, and a state that reading advances."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.generation.generate import CHUNK, check_tokens, decode, prefill, room, rows_seen, start
from bmojo.generation.sampling import Sampling
from bmojo.generation.stopping import CONTEXT, Continuation, Stop, cut
from bmojo.layers.protocol import State
from bmojo.model import ModelConfig
from bmojo.runs import open_run
from bmojo.types import Array, Float


def load(run: str | Path, step: int | str | None = None) -> "TrainedModel":
    """Load the model of a run directory.

    Args:
      run: a directory that ``bmojo train`` made; it is only read, and may be in use.
      step: training step of the checkpoint, or 'best'; None: the newest.

    Raises:
      UserError: there is no run, no such checkpoint, or the checkpoint is damaged; one line with
        the path and the remedy.
    """
    found = open_run(run, step)
    return TrainedModel(found.model, found.tokenizer, name=f"{run}, step {found.step}")


class TrainedModel:
    """A model, its tokenizer, and the state after the tokens that it has read.

    The state starts empty. :meth:`read` advances it; :meth:`generate` does so only with
    ``keep=True``; :meth:`logits` never does. All three continue from it. Text is read as the
    beginning of a document while the state is empty: behind the token that ends documents.

    Attributes:
      model: the :class:`bmojo.model.Model`; ``model(tokens, state)`` is its call.
      tokenizer: with ``encode``, ``decode`` and ``eos``; None: the model reads token ids alone.
      state: after the tokens that were read, one row. It is never changed in place: keep it, and
        it stays what it was.
    """

    def __init__(self, model: Any, tokenizer: Any | None = None, name: str = "") -> None:
        self.model, self.tokenizer, self._name = model, tokenizer, name
        self.reset()

    def __repr__(self) -> str:
        return f"TrainedModel({self._name}: {self.position} tokens read)"

    @property
    def config(self) -> ModelConfig:
        """Of the model, with the widths that it was made with."""
        return self.model.config

    @property
    def position(self) -> int:
        """Tokens that were read."""
        return int(rows_seen(self.state)[0])

    def reset(self) -> None:
        """Empty the state."""
        self.state: State = start(self.model, 1, CHUNK)
        self._next: Array | None = None  # logits (1, V) of the token after the state
        self._last = np.zeros(0, np.int32)  # tokens before it, which text depends on

    def encode(self, prompt: str | Sequence[int] | np.ndarray) -> np.ndarray:
        """Token ids (L,) of a text behind the state, or the given ids.

        Raises:
          UserError: a text without a tokenizer, or ids that are not tokens of the model.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise UserError(
                    "prompt: the run was trained on a task without text; give token ids, such as "
                    "[1, 2, 3]"
                )
            ids = np.asarray(self.tokenizer.encode(prompt), np.int32)
            return ids if self.position else np.concatenate([[self.tokenizer.eos], ids])
        ids = np.asarray(prompt)
        if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
            raise UserError("prompt: not a row of token ids; give integers, such as [1, 2, 3]")
        check_tokens(ids, self.config.vocab_size, "prompt")
        return ids.astype(np.int32)

    def read(self, prompt: str | Sequence[int] | np.ndarray) -> None:
        """Read a text or token ids: the state is then the one after them."""
        ids = self.encode(prompt)
        self._next, self.state = self._after(ids, 0)
        self._last = np.append(self._last, ids)[-CONTEXT:]

    def logits(self, prompt: str | Sequence[int] | np.ndarray) -> Float[Array, "L V"]:
        """Logits of the token after each token of a text or of token ids, behind the state.

        They are those of :meth:`encode`'s ids, float32 or wider; the state stays as it is.
        """
        ids = self.encode(prompt)
        tokens = np.zeros((1, max(-(-len(ids) // CHUNK), 1) * CHUNK), np.int32)
        tokens[0, : len(ids)] = ids
        state, lengths = self._copy(tokens.size), np.asarray([len(ids)], np.int32)
        return _logits(self.model, tokens, state, lengths)[0, : len(ids)]

    def generate(
        self,
        prompt: str | Sequence[int] | np.ndarray = "",
        *,
        max_new_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        min_p: float = 0.0,
        stop: str | Sequence[str] = (),
        seed: int = 0,
        keep: bool = False,
    ) -> Any:
        """Continue a text or token ids, behind the state.

        Args:
          prompt: what is read first; empty: the continuation follows the state.
          max_new_tokens: of the continuation; it ends earlier with its document.
          temperature: logits are divided by it; 0: the most likely token. It and the next three
            are those of :class:`bmojo.generation.sampling.Sampling`.
          top_k: draw among so many most likely tokens; None: all.
          top_p: draw among the most likely tokens that sum to it.
          min_p: draw among tokens at least so many times as likely as the likeliest.
          stop: texts before which the continuation ends.
          seed: of the draws; the same seed gives the same tokens.
          keep: let the state advance over prompt and continuation.

        Returns:
          The continuation: a text for a text, token ids (N,) for token ids.

        Raises:
          UserError: of the prompt, or because nothing was read and the prompt is empty.
          ValueError: of the sampling.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p)
        strings = (stop,) if isinstance(stop, str) else tuple(stop)
        tokenizer, ends = self.tokenizer, Stop()
        if tokenizer is not None:
            ends = Stop((int(tokenizer.eos),), strings, tokenizer.decode)
        elif strings:
            raise UserError("stop: the run has no tokenizer to find a text with; leave it out")
        ids = self.encode(prompt)
        before = np.append(self._last, ids)
        logits, state = self._after(ids, max_new_tokens)
        if logits is None:
            raise UserError("prompt: it is empty, and nothing was read; give at least one token")
        if keep:
            self._next, self.state = logits, jax.tree.map(jnp.copy, state)
            self._last = before[-CONTEXT:]
        options: dict[str, Any] = {"sampling": sampling, "stop": ends, "seed": seed}
        options |= {"max_new_tokens": max_new_tokens, "prompts": [before]}
        steps = decode(self.model, logits, state, **options)
        drawn = np.asarray([int(step[0]) for step in steps], np.int32)
        if keep:
            self.read(drawn)
        if not isinstance(prompt, str) or tokenizer is None:
            return drawn
        return cut(Continuation(tokenizer.decode, before, drawn).whole, strings)

    def _after(self, ids: np.ndarray, count: int) -> tuple[Array | None, State]:
        """Next logits (1, V) and state after ids, the latter with room for ``count`` more."""
        state = self._copy(len(ids) + count)
        if not len(ids):
            return self._next, state
        return prefill(self.model, ids[None], state=state)

    def _copy(self, count: int) -> State:
        """A copy of the state in which full attention has room for so many further tokens."""
        places = room(self.model, self.state)
        if places is None:
            return jax.tree.map(jnp.copy, self.state)
        while places < self.position + count:
            places *= 2

        def copied(large: Array, small: Array) -> Array:
            return large.at[tuple(map(slice, small.shape))].set(small)

        return jax.tree.map(copied, start(self.model, 1, places), self.state)


@nnx.jit
def _logits(model: Any, tokens: Array, state: State, lengths: Array) -> Array:
    return model(tokens, state, None, lengths)[0]
