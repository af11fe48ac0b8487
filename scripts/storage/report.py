"""Tables of the runs of configs/sweeps/needles.gin, and of text that was read twice.

bmojo sweep configs/sweeps/needles.gin
for seed in 0 1 2; do bmojo eval runs/needles/bmojo-seed$seed needles drift; done
python -m scripts.storage.report runs/needles/bmojo-seed?
python -m scripts.storage.report runs/books/bmojo-seed? --rereading
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np


def read(runs, name):
    found = [run / "evaluation" / f"{name}.json" for run in runs]
    missing = [str(path) for path in found if not path.exists()]
    if missing:
        raise SystemExit(f"{', '.join(missing)}: not there; run bmojo eval RUN {name} first")
    return [json.loads(path.read_text()) for path in found]


def spread(values, digits=2):
    """Mean, lowest and highest."""
    mean, low, high = np.mean(values), min(values), max(values)
    return f"{mean:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def needles(runs):
    seeds = read(runs, "needles")
    rows = []
    for parts in zip(*(seed["rows"] for seed in seeds), strict=True):
        first, on = parts[0], parts[0]["store"]
        rows.append(
            [
                f"{first['filler']:,}",
                "on" if on else "off",
                spread([p["right"] for p in parts], 3),
                spread([p["milliseconds"] for p in parts]),
                f"{np.mean([p['entries'] for p in parts]):,.0f}" if on else "",
                f"{np.mean([p['bytes'] for p in parts]) / 2**20:,.1f}" if on else "",
            ]
        )
    chance = f"chance {seeds[0]['chance']:.3f}"
    print(f"{len(runs)} seeds, {seeds[0]['streams']} streams each, {chance}\n")
    table(["filler", "store", "facts recalled", "ms/token", "entries", "MiB on disk"], rows)


def drift(runs):
    seeds = read(runs, "drift")
    rows = []
    for parts in zip(*(seed["rows"] for seed in seeds), strict=True):
        half_life = parts[0]["half_life"]
        name = "none" if half_life is None else f"{half_life:,.0f}"
        rows.append(
            [
                "on" if parts[0]["store"] else "off",
                name if parts[0]["store"] else "",
                spread([p["right"] for p in parts], 3),
                spread([p["stale"] for p in parts], 3),
            ]
        )
    print(f"{seeds[0]['versions']} values of each key over {seeds[0]['filler']:,} tokens\n")
    table(["store", "half-life, tokens", "the last value", "a former value"], rows)


def rereading(runs):
    seeds = read(runs, "rereading")
    names = ("alone", "first", "second", "other_alone", "other")
    rows = []
    for number, parts in enumerate(zip(*(seed["rows"] for seed in seeds), strict=True)):
        bits = [[part[name] / math.log(2) for part in parts] for name in names]
        rows.append([number, f"{parts[0]['tokens']:,}", *(spread(b, 3) for b in bits)])
    head = ["chapter", "tokens", "without", "first", "second", "other, without", "other, with"]
    table(head, rows)
    change = {
        name: [np.mean([(row[a] - row[b]) / math.log(2) for row in seed["rows"]]) for seed in seeds]
        for name, a, b in (("second - first", "second", "first"), ("other", "other", "other_alone"))
    }
    for name, values in change.items():
        print(f"{name}: {spread(values, 3)} bits per token\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rereading", action="store_true")
    asked = parser.parse_args()
    for show in (rereading,) if asked.rereading else (needles, drift):
        show(asked.runs)
