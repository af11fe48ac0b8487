"""Table of eidetic slots on text by training length.

    bmojo sweep configs/sweeps/text_slots.gin "TEXT='DIR'"
    python -m scripts.books.slots [--runs runs/text_slots] [--records results]

Records the summaries of finished runs in books_slots.json, beside those recorded before, and
prints bits a byte: mean over seeds, lowest and highest in brackets.
"""

import re

from scripts.records import by_cell, markdown, parser, record, spread

LENGTHS = ("512", "2048", "8192")


def main() -> None:
    """Print the table."""
    args = parser(__doc__, "runs/text_slots").parse_args()
    cells = by_cell(record(args.runs, args.records / "books_slots.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    found = {}
    for name, runs in cells.items():
        length = next(x for x in LENGTHS if re.search(rf"(^|[^\d]){x}([^\d]|$)", name))
        slots = int(re.search(r"slots=?-?(\d+)", name)[1])
        found[length, slots] = [run["evaluations"][-1]["bits_per_byte"] for run in runs]
    counts = sorted({slots for _, slots in found})
    rows = [
        [length, *(spread(found[length, n], 3) if (length, n) in found else "" for n in counts)]
        for length in LENGTHS
    ]
    print(markdown(["trained on", *(f"{n} slots" for n in counts)], rows))
    seeds = {len(bits) for bits in found.values()}
    print(f"\nseeds of a cell: {', '.join(map(str, sorted(seeds)))}")


if __name__ == "__main__":
    main()
