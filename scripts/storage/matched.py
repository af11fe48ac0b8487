"""Fill matched stores with text, and measure appending, looking up and bytes of an entry.

    python -m scripts.storage.matched [--entries 10000 100000 1000000] [--cap 256] [--n 4]
        [--width 32] [--hashes 8] [--dtype float32] [--text DIR]

Text: the sources of Python's own library. Columns: microseconds of processor time a token to append
chunks of 128, to look up tokens one by one and 1,024 at once, to gather what 128 found; the mean
number found; bytes an entry; seconds of processor time to open and to verify. Looking up and
gathering: the lowest of three.
"""

import argparse
import sysconfig
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.storage import MatchedIdentity, MatchedStore, matched_records

CHUNK, MANY, BLOCK = 128, 1024, 128
COLUMNS = "entries append one many gather found bytes open verify".split()


def read(folder, count):
    """Bytes of the sources below a folder."""
    parts = [path.read_bytes() for path in sorted(Path(folder).glob("*.py"))]
    whole = np.frombuffer(b"".join(parts), np.uint8)
    return np.resize(whole, count).astype(np.uint64)


def seconds(function):
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def lowest(function):
    """The shortest of three runs."""
    return min((seconds(function) for _ in range(3)), key=lambda pair: pair[0])


def fill(store, tokens, gram, key):
    hashes = np.zeros((len(key), store.identity.hashes), np.uint32)
    store.begin("text")
    for first in range(0, len(key), CHUNK):
        part = slice(first, first + CHUNK)
        store.append(key[part], tokens[1:][part], gram[part], hashes[part])
    store.publish()


def measure(folder, tokens, identity, cap):
    gram = tokens[:-1].copy()
    for back in range(1, identity.n):
        gram[back:] |= tokens[: -1 - back] << np.uint64(8 * back)
    key = np.random.default_rng(0).standard_normal((len(gram), identity.width), np.float32)
    with MatchedStore.open(folder, identity, write=True) as store:
        append, _ = seconds(lambda: fill(store, tokens, gram, key))
    opened, store = seconds(lambda: MatchedStore.open(folder, write=False))
    with store:
        asked = gram[-8 * MANY :]
        one, _ = lowest(lambda: [store.lookup(x[None], cap) for x in asked[-MANY:]])
        groups = asked.reshape(-1, MANY)
        many, found = lowest(lambda: np.concatenate([store.lookup(x, cap) for x in groups]))
        blocks = np.split(found, len(found) // BLOCK)
        gather, _ = lowest(lambda: [store.gather(x) for x in blocks])
        verified, (_, problems) = seconds(lambda: matched_records.verify(folder))
        assert not problems
        times = (append / len(key), one / MANY, many / len(asked), gather / len(asked))
        cells = [f"{len(key):,}", *(f"{1e6 * x:.1f}" for x in times)]
        cells += [f"{(found >= 0).sum(1).mean():.0f}", f"{store.bytes() / len(key):.0f}"]
    return [*cells, f"{opened:.2f}", f"{verified:.2f}"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("cap", 256), ("n", 4), ("width", 32), ("hashes", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dtype", choices=("float32", "int8"), default="float32")
    parser.add_argument("--text", default=sysconfig.get_path("stdlib"))
    parser.add_argument("--entries", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    asked = parser.parse_args()
    print("".join(f"{name:>10}" for name in COLUMNS))
    for count in asked.entries:
        kind = MatchedIdentity("scale", "", asked.width, asked.n, asked.hashes, asked.dtype)
        with tempfile.TemporaryDirectory() as folder:
            row = measure(folder, read(asked.text, count + 1), kind, asked.cap)
        print("".join(f"{cell:>10}" for cell in row), flush=True)
