"""Fill stores of several sizes and measure them.

    python -m scripts.storage.scale [--entries 10000 100000 1000000] [--heads 4] [--width 16]
        [--queries 64] [--nearest 8] [--exact-below 16384] [--directory DIR | --look DIR]

Keys lie in clusters with centres of different norms, queries near keys. One layer is written in
batches of 256 and published every 32 batches; the index is made meanwhile, and what is left of
it then is waited for. A line of a table for each size:

  entries   of the layer
  indexed   of them in an index
  rows, index   bytes on disk for an entry
  search    milliseconds for all queries and heads, median of 20, by the wall clock
  cpu       the same by the processor time of the thread
  recall    part of what comparison with every key finds that was found
  read      milliseconds for keys and values of 64 entries, median of 20
  open      seconds to open it for reading
  verify    seconds to verify it
  write     entries a second until the last was published
  waited    seconds from then until an index held all but the newest
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.storage import Entries, Identity, Store, verify

BATCH, PUBLISH_EVERY, CENTRES, REPEATS = 256, 32, 1024, 20
COLUMNS = "entries indexed rows index search cpu recall read open verify write waited".split()


class Keys:
    """Keys in clusters, the same for the same seed."""

    def __init__(self, heads: int, width: int):
        self.rng = np.random.default_rng(0)
        centres = self.rng.standard_normal((CENTRES, heads, width))
        self.centres = centres * np.exp(0.5 * self.rng.standard_normal((CENTRES, heads, 1)))
        self.shape = (heads, width)

    def draw(self, count: int) -> np.ndarray:
        chosen = self.centres[self.rng.integers(0, CENTRES, count)]
        noise = self.rng.standard_normal((count, *self.shape))
        return (chosen + 0.3 * noise).astype(np.float32)


def entries(key: np.ndarray, first: int) -> Entries:
    position = np.arange(first, first + len(key))
    context = np.maximum(position[:, None] - np.arange(16)[::-1], -1)
    return Entries(key, -key, np.ones(len(key)), position, position % 50000, context)


def best(keys: np.ndarray, queries: np.ndarray, nearest: int) -> set[int]:
    """What comparison with every key finds, for one head."""
    scores = queries @ keys.T
    columns = np.argpartition(-scores, nearest, axis=1)[:, :nearest]
    return set(columns.reshape(-1).tolist())


def median(act, clock=time.perf_counter) -> float:
    """Milliseconds."""
    times = []
    for _ in range(REPEATS):
        start = clock()
        act()
        times.append(1e3 * (clock() - start))
    return statistics.median(times)


def fill(directory: Path, count: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Entries written a second, and seconds until they were indexed."""
    made = Keys(arguments.heads, arguments.width)
    who = Identity("scale", "", arguments.heads, arguments.width, (0,))
    with Store.open(directory, who, write=True, exact_below=arguments.exact_below) as store:
        start = time.perf_counter()
        for number, first in enumerate(range(0, count, BATCH)):
            keys = made.draw(BATCH)[: count - first]
            store.write(0, entries(keys, first), "scale")
            store.advance(BATCH)
            if number % PUBLISH_EVERY == 0:
                store.publish()
        store.publish()
        rate = count / (time.perf_counter() - start)
        start = time.perf_counter()
        while store.unindexed(0) > store.exact_below:
            time.sleep(0.05)
        return rate, time.perf_counter() - start


def look(directory: Path, arguments: argparse.Namespace) -> list[str]:
    """Measure a store that was filled, perhaps in part."""
    start = time.perf_counter()
    store = Store.open(directory, write=False, exact_below=arguments.exact_below)
    opened = time.perf_counter() - start
    count = store.count(0)
    made = Keys(arguments.heads, arguments.width)
    keys = np.concatenate([made.draw(BATCH) for _ in range(-(-count // BATCH))])[:count]
    queries = keys[:: max(count // arguments.queries, 1)][: arguments.queries]
    queries = queries + 0.3 * made.rng.standard_normal(queries.shape).astype(np.float32)

    def search():
        limit = arguments.queries * arguments.nearest
        return store.search(0, queries, nearest=arguments.nearest, limit=limit)

    found, wall, cpu = search(), median(search), median(search, time.thread_time)
    right = total = 0
    for head in range(arguments.heads):
        wanted = best(keys[:, head], queries[:, head], arguments.nearest)
        right += len(wanted & set(found.id[head].tolist()))
        total += len(wanted)
    some = np.random.default_rng(1).integers(0, count, 64).tolist()
    rows = store.records.view.rows
    read = median(lambda: rows.payloads(some, (arguments.heads, arguments.width)))
    facts = store.records.stats()
    sizes = facts["bytes"]
    store.close()
    start = time.perf_counter()
    problems = verify(directory)
    verified = time.perf_counter() - start
    if problems:
        raise RuntimeError("\n".join(problems))
    return [
        f"{count:,}",
        f"{sum(layer['indexed'] for layer in facts['layers']):,}",
        *(f"{sizes[name] / count:.0f}" for name in ("rows", "index")),
        f"{wall:.1f}",
        f"{cpu:.1f}",
        f"{right / total:.4f}",
        f"{read:.2f}",
        f"{opened:.2f}",
        f"{verified:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--nearest", type=int, default=8)
    parser.add_argument("--exact-below", type=int, default=16384)
    parser.add_argument("--directory", type=Path, help="where the stores are made, for a while")
    parser.add_argument("--look", type=Path, help="measure a store that is there already")
    arguments = parser.parse_args()
    print("".join(f"{name:>10}" for name in COLUMNS))
    if arguments.look is not None:
        print("".join(f"{cell:>10}" for cell in look(arguments.look, arguments)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as temporary:
        for count in arguments.entries:
            rate, waited = fill(Path(temporary) / str(count), count, arguments)
            row = [*look(Path(temporary) / str(count), arguments), f"{rate:,.0f}", f"{waited:.1f}"]
            print("".join(f"{cell:>10}" for cell in row), flush=True)


if __name__ == "__main__":
    main()
