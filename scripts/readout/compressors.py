"""Bits a byte of the last quarter of texts by compressors, alone and after training texts.

    pip install pyppmd
    python -m scripts.readout.compressors FOLDER [--train FOLDER] [--bytes 262144]

The size of all --bytes less that of all but their last quarter: PPMd (variant H, orders 6 and 8,
1 GiB) and xz -9e. With --train, PPMd has read those texts before, the first 2,048,000 bytes of them
and all.
"""

import argparse
import lzma
from collections.abc import Callable
from pathlib import Path

import pyppmd

MEMORY, TRAINED = 1 << 30, 2_048_000


def ppmd(order: int) -> Callable[[bytes], int]:
    """Compressed size by PPMd."""

    def size(data: bytes) -> int:
        encoder = pyppmd.Ppmd7Encoder(order, MEMORY)
        return len(encoder.encode(data)) + len(encoder.flush())

    return size


def xz(data: bytes) -> int:
    """Compressed size by xz -9e."""
    return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path)
    parser.add_argument("--train", type=Path)
    parser.add_argument("--bytes", type=int, default=262144)
    args = parser.parse_args()
    texts = [path.read_bytes()[: args.bytes] for path in sorted(args.documents.rglob("*.txt"))]
    before = {"": b""}
    if args.train:
        read = b"".join(path.read_bytes() for path in sorted(args.train.rglob("*.txt")))
        before |= {" after 2 MB": read[:TRAINED], f" after {len(read) / 1e6:.0f} MB": read}
    for name, size in {"PPMd, order 6": ppmd(6), "PPMd, order 8": ppmd(8), "xz -9e": xz}.items():
        for words, prefix in before.items():
            if size is xz and prefix:
                continue  # its window does not reach back so far
            quarter = args.bytes // 4
            bits = [
                8 * (size(prefix + text) - size(prefix + text[:-quarter])) / quarter
                for text in texts
            ]
            each = " ".join(f"{x:.3f}" for x in bits)
            print(f"{name + words:28} {sum(bits) / len(bits):.3f} ({each})", flush=True)


if __name__ == "__main__":
    main()
