"""Bits a byte of whole books by what a read-out may read, of one model that was trained on a ring.

    python -m scripts.readout.entries RUN --documents FOLDER [--bytes 262144] [--form ring-1024 ...]

The first --bytes of each text are read in segments. Bits are those of the last quarter of them, and
of the texts' blocks of 4,096 bytes. Nothing is trained for what is read. Results go to
RUN/evaluation/entries.json, beside those of other forms.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.evaluation.documents import encode_document
from bmojo.evaluation.readout import with_readout
from bmojo.evaluation.streaming import score
from bmojo.runs import open_run

SEGMENT, BLOCK = 1024, 4096
RULES = ("redundancy", "random", "recent", "first")


def forms() -> dict[str, list[str]]:
    """Bindings by name; none: the head alone, the gate is shut."""
    found: dict[str, list[str]] = {"head": []}
    found |= {f"ring-{r}": [f"Readout.ring={r}"] for r in (256, 512, 1024, 2048, 4096, 16384)}
    for n in (3, 4, 6):
        more = [f"Readout.match_order={n}", "Readout.matches=256", "Readout.capacity=262144"]
        found[f"ring-1024-matched-{n}"] = ["Readout.ring=1024", *more]
    for ring, slots in ((256, 256), (1024, 1024)):
        for rule in RULES:
            for life in (0, 1000, 3000, 10000, 30000) if rule in ("redundancy", "random") else (0,):
                found[f"slots-{ring}+{slots}-{rule}-{life}"] = [
                    f"Readout.ring={ring}",
                    f"Readout.slots={slots}",
                    f"Readout.rule={rule!r}",
                    f"Readout.half_life={float(life)}",
                ]
    return found


def measure(run: Path, name: str, texts: list[Path], size: int) -> dict[str, Any]:
    """Bits a byte by blocks, means of the last quarter by text, and seconds."""
    opened = open_run(run, overrides=forms()[name] or ())
    model = opened.model if forms()[name] else with_readout(opened.model, None)
    documents = [
        encode_document(opened.tokenizer, text.read_text("utf-8"))[: size + 1] for text in texts
    ]
    began = time.perf_counter()
    losses = np.stack([found.losses for found in score(model, documents, SEGMENT, len(texts))])
    seconds, bits = time.perf_counter() - began, losses / np.log(2)
    return {
        "bits": [float(x) for x in bits[:, -(size // 4) :].mean(axis=1)],
        "blocks": [float(x) for x in bits.reshape(len(texts), -1, BLOCK).mean(axis=(0, 2))],
        "milliseconds": 1000 * seconds / losses.size,
        "step": opened.step,
        "bytes": size,
        "texts": [text.name for text in texts],
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--documents", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=262144)
    parser.add_argument("--form", nargs="+", default=list(forms()), choices=list(forms()))
    args = parser.parse_args()
    texts = sorted(args.documents.rglob("*.txt"))
    path = args.run / "evaluation" / "entries.json"
    path.parent.mkdir(exist_ok=True)
    for name in args.form:
        found = measure(args.run, name, texts, args.bytes)
        kept = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(kept | {name: found}, indent=1) + "\n")
        each = " ".join(f"{x:.3f}" for x in found["bits"])
        mean = np.mean(found["bits"])
        print(f"{name:28} {mean:.3f} ({each}) {found['milliseconds']:.3f} ms a byte", flush=True)


if __name__ == "__main__":
    main()
