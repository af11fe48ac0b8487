"""Fill stores of several sizes, compare their search with brute force, and measure them.

    python -m scripts.storage.scale [--entries 10000 100000 1000000] [--heads 4] [--width 16]
        [--tokens 32] [--nearest 8]

Keys lie in clusters, queries near them. Columns: bytes of an entry; ms to assign 2 entries
to each token and head of a cell, median of 20, for a token, and that by processor time; recall by
brute force in float64; seconds to open and to verify; entries written a second.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.storage import Entries, Identity, Store, verify

BATCH, PUBLISH_EVERY, CENTRES, REPEATS = 256, 32, 1024, 20
COLUMNS = "entries bytes search token cpu recall open verify write".split()


def near(rng, keys):
    return keys + np.float32(0.3) * rng.standard_normal(keys.shape, np.float32)


def draw(rng, count, heads, width):
    """Keys in clusters."""
    centres = rng.standard_normal((CENTRES, heads, width))
    centres *= np.exp(0.5 * rng.standard_normal((CENTRES, heads, 1)))
    return near(rng, centres[rng.integers(0, CENTRES, count)].astype(np.float32))


def fill(directory, keys):
    """Entries written a second."""
    start = time.perf_counter()
    with Store.open(directory, Identity("scale", "", *keys.shape[1:], (0,)), write=True) as store:
        for number, first in enumerate(range(0, len(keys), BATCH)):
            key = keys[first : first + BATCH]
            position = np.arange(first, first + len(key))
            context = np.maximum(position[:, None] - np.arange(16)[::-1], -1)
            made = Entries(key, -key, np.ones(len(key)), position, position % 50000, context)
            store.write(0, made, "scale")
            store.advance(BATCH)
            if number % PUBLISH_EVERY == 0:
                store.publish()
    return len(keys) / (time.perf_counter() - start)


def recall(store, keys, queries, nearest):
    """Part of the best entries of every query by brute force that a search finds."""
    best, found = set(), set()
    for query in queries:
        ids = store.assign(0, query[None, :, None], nearest=nearest).id.tolist()
        found |= {(head, x) for head, row in enumerate(ids) for x in row}
    for head in range(keys.shape[1]):
        for query in queries[:, head]:
            score = np.einsum("np,p->n", keys[:, head], query, dtype=np.float64)
            best |= {(head, x) for x in np.argpartition(-score, nearest)[:nearest].tolist()}
    return len(best & found) / len(best)


def look(directory, keys, queries, nearest):
    """Measure a store that was filled."""
    start = time.perf_counter()
    store = Store.open(directory, write=False)
    opened = time.perf_counter() - start
    part = recall(store, keys, queries, nearest)
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter(), time.process_time()
        store.assign(0, queries[:, :, None], nearest=2)
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    search, cpu = (1e3 * statistics.median(x) for x in np.transpose(times))
    cells = [f"{store.bytes() / len(keys):.0f}", f"{search:.2f}"]
    store.close()
    start = time.perf_counter()
    assert not verify(directory)
    verified = time.perf_counter() - start
    cells += [f"{x / len(queries):.3f}" for x in (search, cpu)] + [f"{part:.4f}"]
    return [f"{len(keys):,}", *cells, f"{opened:.2f}", f"{verified:.1f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("heads", 4), ("width", 16), ("tokens", 32), ("nearest", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--entries", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    asked = parser.parse_args()
    print("".join(f"{name:>10}" for name in COLUMNS))
    for count in asked.entries:
        rng = np.random.default_rng(0)
        keys = draw(rng, count, asked.heads, asked.width)
        queries = near(rng, keys[rng.integers(0, count, asked.tokens)])
        with tempfile.TemporaryDirectory() as folder:
            rate = fill(Path(folder) / "store", keys)
            row = [*look(Path(folder) / "store", keys, queries, asked.nearest), f"{rate:,.0f}"]
        print("".join(f"{cell:>10}" for cell in row), flush=True)
