"""Kill writers of a store at random moments, and see that all they had published is there.

    python -m scripts.storage.kills [--kills 20] [--seed 0] [--directory DIR]

A writer adds entries that follow from their numbers, publishes every few batches, and says how
many are published. It is killed with SIGKILL; then the store is verified, opened by a reader that
compares what is in it with what was written, and given to the next writer. The index is made of
few entries at a time, so that kills meet it too.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.storage import Entries, Identity, Policy, Store, verify

HEADS, WIDTH, LAYERS, CONTEXT = 2, 8, (1, 3), 4
BATCH, EXACT_BELOW = 64, 512
MOMENT = (0.3, 2.5)
"""Seconds of a kill, from and to, after a writer has begun."""


def identity() -> Identity:
    return Identity("feed", "", HEADS, WIDTH, LAYERS, "scripts.storage.kills")


def entries(first: int, count: int) -> Entries:
    """Entries that follow from their positions."""
    position = np.arange(first, first + count)
    key = np.sin(position[:, None, None] * np.arange(1, HEADS * WIDTH + 1).reshape(HEADS, WIDTH))
    context = np.maximum(position[:, None] - np.arange(CONTEXT)[::-1], -1)
    return Entries(key, -key, position % 7, position, position, context)


def write(directory: Path) -> None:
    """Write until killed; a line for each publication."""
    with Store.open(directory, identity(), write=True, exact_below=EXACT_BELOW) as store:
        numbers = {layer: store.count(layer) for layer in LAYERS}
        print("begun", flush=True)
        while True:
            for _ in range(random.randint(1, 8)):
                for layer, number in numbers.items():
                    store.write(layer, entries(number, BATCH), f"source {number // 1000}")
                    numbers[layer] += BATCH
                store.advance(BATCH)
            store.publish()
            if random.random() < 0.05:
                store.compact()
            print(min(numbers.values()), flush=True)


def kill(directory: Path, after: float) -> int:
    """Start a writer and kill it; how many entries of a layer it had said to be published."""
    command = [sys.executable, "-m", "scripts.storage.kills", "--write", str(directory)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(after)
        writer.kill()
        lines = [first, *writer.stdout]
    whole = [line for line in lines if line.endswith("\n") and line.strip().isdecimal()]
    if first != "begun\n":
        raise RuntimeError("the writer did not begin")
    return int(whole[-1]) if whole else 0


def check(directory: Path, published: int) -> str:
    """See that a store is whole and holds what was published; how much it holds.

    Raises:
      AssertionError: it does not.
    """
    problems = verify(directory)
    assert not problems, problems
    with Store.open(directory, identity(), write=False, exact_below=EXACT_BELOW) as store:
        for layer in LAYERS:
            count = store.count(layer)
            assert count >= published, f"layer {layer}: {count} of {published} published entries"
            assert count % BATCH == 0, f"layer {layer}: a part of a batch, {count} entries"
        count = store.count(LAYERS[0])
        positions = {layer: set() for layer in LAYERS}
        for number in store.records.select():
            record = store.records[number]
            wanted = entries(record.position, 1)
            assert np.array_equal(record.key, wanted.key[0]), f"entry {number} has another key"
            assert np.array_equal(record.value, wanted.value[0]), f"entry {number}: value"
            positions[record.layer].add(record.position)
        for layer in LAYERS:
            assert positions[layer] == set(range(store.count(layer))), f"layer {layer}: gaps"
        if count:
            probe = entries(count // 2, 1)
            found = store.search(LAYERS[0], probe.key, nearest=1, limit=1)
            best = float(np.max(np.sum(probe.key[0, 0] ** 2)))
            assert found.score[0, 0] >= 0.98 * best, "the index does not find an entry by its key"
        indexed = sum(layer["indexed"] for layer in store.records.stats()["layers"])
    return f"{count:,} entries a layer, {indexed:,} indexed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write)
    chance = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary) / "store"
        Store.open(directory, identity(), Policy(), write=True).close()
        for number in range(arguments.kills):
            after = chance.uniform(*MOMENT)
            published = kill(directory, after)
            print(f"kill {number + 1}, {after:.2f} s: {check(directory, published)}", flush=True)
    print(f"{arguments.kills} kills, everything published was there")


if __name__ == "__main__":
    main()
