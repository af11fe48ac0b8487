"""Facts asked for at the end of long streams, with a store and without."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.data.haystack import Haystack, HaystackConfig
from bmojo.data.mad import NoisyMQARConfig
from bmojo.generation.generate import check_tokens
from bmojo.session import Session, Use, identify
from bmojo.storage import Identity, Policy, Store


def ask(
    model: Any,
    task: NoisyMQARConfig,
    haystack: HaystackConfig,
    use: Use,
    policy: Policy | None,
    streams: int = 1,
    progress: Progress = unseen,
) -> dict[str, float]:
    """Read streams, each with a new store that is thrown away; no policy: no store.

    The task is the one that the model was trained on.

    Returns:
      Means over streams of :func:`answer`.
    """
    found = []
    for number in range(streams):
        stream = haystack.make(task, number)
        if policy is None:
            found.append(answer(model, stream, None, use, progress))
            continue
        with fresh_store(identify(model, None, "haystack"), policy) as store:
            found.append(answer(model, stream, store, use, progress))
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def answer(
    model: Any, stream: Haystack, store: Store | None, use: Use, progress: Progress = unseen
) -> dict[str, float]:
    """Read one stream and see what the model says to its questions.

    Returns:
      Shares of answers with the key's last value (``right``) or a former one (``stale``),
      ``milliseconds`` a token with the store's work, and its ``entries`` and ``bytes`` on disk.
    """
    check_tokens(stream.tokens, model.config.vocab_size, "haystack")
    session = Session(model, store, use, source="haystack")
    asked = {int(place): i for i, place in enumerate(stream.asked)}
    said = np.zeros(len(asked), np.int32)
    started = time.perf_counter()
    for piece in session.pieces(stream.tokens):
        places = range(piece.start, piece.start + len(piece.logits))
        if asked.keys() & set(places):
            best = np.asarray(piece.logits).argmax(axis=1)
            for place in asked.keys() & set(places):
                said[asked[place]] = best[place - piece.start]
        progress(len(places))
    session.finish()
    seconds = time.perf_counter() - started
    former = (stream.answers[:-1] == said).any(axis=0) & (stream.answers[-1] != said)
    return {
        "right": float((stream.answers[-1] == said).mean()),
        "stale": float(former.mean()),
        "milliseconds": 1000 * seconds / len(stream.tokens),
        "entries": 0 if store is None else len(store),
        "bytes": 0 if store is None else store.bytes(),
    }


@contextmanager
def fresh_store(identity: Identity, policy: Policy) -> Iterator[Store]:
    """A store in a temporary folder, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bmojo-store-") as folder:
        path = Path(folder) / "store"
        with Store.open(path, identity, policy, write=True) as store:
            yield store
