"""Facts asked for at the end of long streams, with a store and without."""

import dataclasses
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.console import Progress, unseen
from bmojo.data.haystack import Haystack, HaystackConfig
from bmojo.data.noisy_mqar import NoisyMQARConfig
from bmojo.generation.generate import check_tokens
from bmojo.session import Session, Use, identify
from bmojo.storage import Identity, Policy, Store


@dataclasses.dataclass(frozen=True)
class Answered:
    """Shares of questions answered with the key's last value (right) or a former one (stale).

    ``milliseconds`` are per token, writing and looking up included; ``entries`` and ``bytes`` (on
    disk) those of the store at the end.
    """

    right: float
    stale: float
    milliseconds: float
    entries: int
    bytes: int


def ask(
    model: Any,
    task: NoisyMQARConfig,
    haystack: HaystackConfig,
    use: Use,
    policy: Policy | None,
    streams: int = 1,
    seed: int = 0,
    progress: Progress = unseen,
) -> list[Answered]:
    """Read ``streams`` streams, each with a new store that is thrown away; no policy: no store.

    The task is the one that the model was trained on; ``seed`` is that of the first stream.
    """
    found = []
    for number in range(seed, seed + streams):
        stream = haystack.make(task, number)
        if policy is None:
            found.append(answer(model, stream, None, use, progress))
            continue
        with fresh_store(identify(model, None, "haystack"), policy) as store:
            found.append(answer(model, stream, store, use, progress))
    return found


def answer(
    model: Any, stream: Haystack, store: Store | None, use: Use, progress: Progress = unseen
) -> Answered:
    """Read one stream and see what the model says to its questions."""
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
    return Answered(
        right=float((stream.answers[-1] == said).mean()),
        stale=float(former.mean()),
        milliseconds=1000 * seconds / len(stream.tokens),
        entries=0 if store is None else len(store),
        bytes=0 if store is None else store.bytes(),
    )


@contextmanager
def fresh_store(identity: Identity, policy: Policy) -> Iterator[Store]:
    """A store in a temporary folder, in synchronous mode, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bmojo-store-") as folder:
        path = Path(folder) / "store"
        with Store.open(path, identity, policy, write=True, synchronous=True) as store:
            yield store


def summary(answers: Sequence[Answered]) -> dict[str, float]:
    """Means over streams."""
    return {
        field.name: float(np.mean([getattr(a, field.name) for a in answers]))
        for field in dataclasses.fields(Answered)
    }
