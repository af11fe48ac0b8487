"""Tables and figures of the study of books, from the runs that are there.

    python -m scripts.books.report [--runs runs/paper/figure2_cpu] [--records results]

Records the summaries of finished runs in books.json, beside those recorded before; prints
Markdown tables (mean over seeds, lowest and highest in brackets) of bits per byte and of their
slopes by size; and draws books_scaling.png (bits per byte by parameters) and books_length.png
(loss by position, for runs that `bmojo eval RUN length` has measured). Runs of
configs/sweeps/text_documents.gin are shown beside them once recorded, by --runs
runs/text_documents.
"""

from scripts.books.length import draw_length, length
from scripts.books.scaling import MODELS, SIZES, bits, draw_scaling, size, slopes
from scripts.records import by_cell, markdown, parser, record, spread

DOCUMENTS = "bmojo-8192"


def quality(cells: dict[str, list[dict]]) -> str:
    """Bits per byte, with what training took."""
    head = ["cell", "seeds", "parameters", "tokens", "bits a byte", "tokens a second", "minutes"]
    rows = []
    for name in (*(f"{model}-{s}" for s in SIZES for model in MODELS), DOCUMENTS):
        if name not in cells:
            continue
        runs = cells[name]
        speed = spread([run["tokens_per_second"] for run in runs], 0)
        minutes = spread([run["wall_seconds"] / 60 for run in runs], 1)
        facts = [name, len(runs), f"{size(runs[0]):,}", f"{runs[0]['tokens']:,}"]
        rows.append([*facts, spread([bits(run) for run in runs], 3), speed, minutes])
    return markdown(head, rows)


def main() -> None:
    """Print the tables and draw the figures."""
    args = parser(__doc__, "runs/paper/figure2_cpu").parse_args()
    cells = by_cell(record(args.runs, args.records / "books.json"))
    if not cells:
        raise SystemExit(f"no finished runs in {args.runs}; make some with bmojo sweep")
    print(quality(cells), end="\n\n")
    print(slopes(cells), end="\n\n")
    draw_scaling(cells, args.out / "books_scaling.png")
    measured = {name: [run for run in runs if "length" in run] for name, runs in cells.items()}
    measured = {name: runs for name, runs in measured.items() if runs}
    if measured:
        print(length(measured))
        draw_length(measured, args.out / "books_length.png")


if __name__ == "__main__":
    main()
