"""Time a decoded token with stores of several sizes beside a model, and without.

    python -m scripts.storage.decode RUN [--entries 10000 100000 1000000] [--tokens 256]
        [--directory DIR]

The run is one of B'MOJO; its layers share the entries. Keys are drawn around those that the model
makes of random tokens. Cases take turns, medians over rounds. Stores are thrown away, unless there
is a directory for them; those that are there are taken.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bmojo.runs import open_run
from bmojo.session import Session, Use, identify
from bmojo.storage import Entries, Store

BATCH, ROUNDS, SAMPLE = 4096, 5, 2048


def sample_keys(model, tokens):
    """Keys of some tokens, by layer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample"
        with Store.open(path, identify(model, None, ""), write=True) as store:
            session = Session(model, store, Use(threshold=0.0, ask="before"))
            session.read(tokens)
            session.finish()
            records = [store.records[number] for number in store.records.select()]
    layers = sorted({record.layer for record in records})
    return {x: np.stack([r.key for r in records if r.layer == x]) for x in layers}


def fill(store, keys, count, rng):
    for layer, known in keys.items():
        for first in range(0, count, BATCH):
            size = min(BATCH, count - first)
            spread = known.std(axis=0) * 0.3
            key = known[rng.integers(0, len(known), size)]
            key = (key + spread * rng.standard_normal(key.shape)).astype(np.float32)
            place = np.arange(first, first + size)
            ones = np.ones(size, np.float32)
            store.write(layer, Entries(key, key, ones, place, place % 100, place[:, None]), "drawn")
        store.publish()


def decode(model, store, use, prompt, count):
    """Milliseconds of a token, all that a session does included."""
    session = Session(model, store, use)
    session.read(prompt)
    session.ask = "before"
    token = int(np.asarray(session.read([1])).argmax())
    start = time.perf_counter()
    for _ in range(count):
        token = int(np.asarray(session.read([token])).argmax())
    return 1e3 * (time.perf_counter() - start) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--entries", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--directory", type=Path)
    asked = parser.parse_args()
    run = open_run(asked.run, overrides=["BMojo.num_eidetic=16"])
    experiment, model = run.experiment, run.model
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, experiment.model.vocab_size, SAMPLE)
    keys, use = sample_keys(model, tokens), Use(nearest=1, write=False)
    with contextlib.ExitStack() as stack:
        folder = asked.directory or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {}
        for count in asked.entries:
            path = folder / str(count)
            if not path.exists():
                with Store.open(path, identify(model, None, "decode"), write=True) as store:
                    fill(store, keys, count // len(keys), rng)
            stores[count] = stack.enter_context(Store.open(path, write=False))
        cases = {"no store": None, **{f"{n:,} entries": s for n, s in stores.items()}}
        times = {name: [] for name in cases}
        for _ in range(ROUNDS + 1):
            for name, store in cases.items():
                times[name].append(decode(model, store, use, tokens[:64], asked.tokens))
        print("| store | ms/token | relative | MiB on disk |\n| --- | ---: | ---: | ---: |")
        base = statistics.median(times["no store"][1:])
        for name, store in cases.items():
            middle = statistics.median(times[name][1:])
            size = "" if store is None else f"{store.bytes() / 2**20:,.0f}"
            print(f"| {name} | {middle:.3f} | {middle / base:.2f} | {size} |")


if __name__ == "__main__":
    main()
