"""Kill writers of a store at random moments, and see that all they had published is there.

    python -m scripts.storage.kills [--kills 20] [--seed 0] [--directory DIR]

A writer publishes entries that follow from their numbers, and sometimes compacts. It is killed with
SIGKILL; the store is verified, a reader compares every entry, and the next writer goes on.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.storage import Entries, Identity, Store, verify

HEADS, WIDTH, LAYERS, CONTEXT, BATCH = 2, 8, (1, 3), 4, 64
MOMENT = (0.3, 2.5)  # seconds of a kill, from and to, after a writer has begun
IDENTITY = Identity("feed", "", HEADS, WIDTH, LAYERS, "scripts.storage.kills")


def entries(first: int, count: int) -> Entries:
    """Entries that follow from their positions."""
    position = np.arange(first, first + count)
    key = np.sin(position[:, None, None] * np.arange(1, HEADS * WIDTH + 1).reshape(HEADS, WIDTH))
    context = np.maximum(position[:, None] - np.arange(CONTEXT)[::-1], -1)
    return Entries(key, -key, position % 7, position, position, context)


def write(directory: Path) -> None:
    """Write until killed; a line for each publication."""
    with Store.open(directory, IDENTITY, write=True) as store:
        number = store.count(LAYERS[0])
        print("begun", flush=True)
        while True:
            for _ in range(random.randint(1, 8)):
                for layer in LAYERS:
                    store.write(layer, entries(number, BATCH), f"source {number // 1000}")
                number += BATCH
            store.publish()
            if random.random() < 0.05:
                store.compact()
            print(number, flush=True)


def kill(directory: Path, after: float) -> int:
    """Start a writer and kill it; how many entries of a layer it reported as published."""
    command = [sys.executable, "-m", "scripts.storage.kills", "--write", str(directory)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as writer:
        first = writer.stdout.readline()
        time.sleep(after)
        writer.kill()
        lines = [line for line in writer.stdout if line.endswith("\n")]
    assert first == "begun\n", "the writer did not begin"
    return int(lines[-1]) if lines else 0


def check(directory: Path, published: int) -> int:
    """See that a store is whole and holds what was published; the number of entries of a layer."""
    assert not (problems := verify(directory)), problems
    with Store.open(directory, IDENTITY, write=False) as store:
        counts = [store.count(layer) for layer in LAYERS]
        assert min(counts) >= published, f"{counts} of {published} published entries"
        assert not any(count % BATCH for count in counts), f"a part of a batch, {counts}"
        records = [store.records[number] for number in store.records.select()]
        wanted = entries(0, max(counts))
        for record in records:
            place = record.position
            assert np.array_equal(record.key, wanted.key[place]), f"{record.id}: key"
            assert np.array_equal(record.value, wanted.value[place]), f"{record.id}: value"
        for layer, count in zip(LAYERS, counts, strict=True):
            positions = {record.position for record in records if record.layer == layer}
            assert positions == set(range(count)), f"layer {layer}: gaps"
        if counts[0]:
            probe = wanted.key[counts[0] // 2]
            found = store.assign(LAYERS[0], probe[None, :, None], nearest=1).key[0, 0] @ probe[0]
            assert np.isclose(found, (wanted.key[: counts[0], 0] @ probe[0]).max()), "search"
    return counts[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, kind, default in (("kills", int, 20), ("seed", int, 0), ("directory", Path, None)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    if (asked := parser.parse_args()).write:
        write(asked.write)
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        path = asked.directory or Path(temporary) / "store"
        Store.open(path, IDENTITY, write=True).close()
        for number in range(asked.kills):
            count = check(path, kill(path, chance.uniform(*MOMENT)))
            print(f"kill {number + 1}: {count:,} entries a layer", flush=True)
    print(f"{asked.kills} kills, everything published was there")
