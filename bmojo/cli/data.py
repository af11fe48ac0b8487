"""`bmojo data`: prepare text once, and show or check a prepared directory."""

from pathlib import Path
from typing import Annotated

import typer

from bmojo.cli.common import EXIT_CODES, told
from bmojo.errors import UserError

app = typer.Typer(
    help="Prepare text for training.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  bmojo data prepare books --out data/books",
)

INTERRUPTED = 130

SOURCE = (
    "A folder or file of text (.txt, .jsonl, .parquet), 'stdlib' for the source code of Python's "
    "standard library, or hf:NAME[:CONFIG][:SPLIT]."
)
Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A directory that bmojo data prepare made.")
]
Field = Annotated[
    str, typer.Option(help="Field of a JSON object, column of a table, that holds the text.")
]
Suffix = Annotated[
    list[str] | None,
    typer.Option(
        metavar="END",
        help="Read files with this ending in folders, such as .md; repeat for more. Default: "
        ".txt, .jsonl, .parquet.",
        show_default=False,
    ),
]
SkipCorrupt = Annotated[
    bool, typer.Option("--skip-corrupt", help="Leave out unreadable documents instead of stopping.")
]


@app.command(epilog=EXIT_CODES)
def prepare(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The directory to make.")],
    tokenizer: Annotated[
        str,
        typer.Option(metavar="SPEC", help="bytes, sentencepiece:FILE.model or tokenizers:FILE."),
    ] = "bytes",
    validation: Annotated[
        float | None,
        typer.Option(help="Fraction of documents for validation. Default: 0.01, or by folder."),
    ] = None,
    test: Annotated[
        float | None,
        typer.Option(help="Fraction of documents for the test. Default: 0.01, or by folder."),
    ] = None,
    split_by: Annotated[
        str | None,
        typer.Option(
            metavar="folder",
            help="Take the subfolders train, validation and test as the splits. Without this and "
            "without fractions that is done if they are there.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one for each core.", show_default=False),
    ] = None,
    field: Field = "text",
    suffix: Suffix = None,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Turn text into tokens once, so that training can read any part of it.

    Interrupting is safe: the same command goes on. The result does not depend on the number
    of workers. Equal documents come into the same split.

    \b
    Examples:
      bmojo data prepare books --out data/books
      bmojo data prepare corpus.jsonl --out data/corpus --tokenizer tokenizers:bpe.json
      bmojo data prepare notes --suffix .md --suffix .rst --out data/notes --validation 0.1
    """
    with told():
        fractions = validation is not None or test is not None
        if split_by not in (None, "folder"):
            raise UserError(f"--split-by: {split_by!r} is unknown; the only choice is 'folder'")
        if split_by and fractions:
            raise UserError("--split-by: goes without --validation and --test; give one of both")
        from rich.console import Console

        from bmojo.data.text import prepare as work

        request = work.Request(
            source,
            tokenizer,
            0.01 if validation is None else validation,
            0.01 if test is None else test,
            True if split_by else False if fractions else None,
            field,
            tuple(suffix) if suffix else None,
            skip_corrupt,
        )
        console = Console()
        try:
            work.prepare(request, out, workers or work.cores(), console)
        except KeyboardInterrupt:
            typer.echo(f"stopped; finished jobs are kept in {out}, the same command goes on")
            raise typer.Exit(INTERRUPTED) from None
        _show(out)


@app.command(epilog=EXIT_CODES)
def train_tokenizer(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=SOURCE)],
    vocab_size: Annotated[int, typer.Option(metavar="N", help="Ids of the tokenizer.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The JSON file to write.")],
    field: Field = "text",
    suffix: Suffix = None,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Train a byte-level BPE tokenizer on the training split of text.

    Subfolders train, validation and test, if they are there, are taken as splits, and only
    the first is read.

    \b
    Example:
      bmojo data train-tokenizer books --vocab-size 4096 --out bpe.json
      bmojo data prepare books --out data/books --tokenizer tokenizers:bpe.json
    """
    with told():
        from bmojo.data.text.corpus import open_corpus, texts
        from bmojo.data.text.tokenizers import tokenizer
        from bmojo.data.text.tokenizers import train_tokenizer as train
        from bmojo.files import write_atomically

        if not out.absolute().parent.is_dir():
            raise UserError(f"--out: the folder {out.parent} does not exist; make it")
        if out.is_dir():
            raise UserError(f"--out: {out} is a folder; name a file in it, as {out / 'bpe.json'}")
        skipped: list[str] = []
        parts = [
            part
            for source in sources
            for split, found in open_corpus(source, suffix).parts.items()
            if split in ("", "train")
            for part in found
        ]
        content = train(texts(parts, field, skipped if skip_corrupt else None), vocab_size)
        write_atomically(out, content)
        size = tokenizer(f"tokenizers:{out}").vocab_size
        for line in skipped:
            typer.echo(f"skipped {line}", err=True)
        typer.echo(f"{out}: {size:,} ids; use it with --tokenizer tokenizers:{out}")


@app.command(epilog=EXIT_CODES)
def show(directory: Directory) -> None:
    """Show the content of a prepared directory.

    \b
    Example:
      bmojo data show data/books
    """
    with told():
        _show(directory)


@app.command(epilog=EXIT_CODES)
def check(directory: Directory) -> None:
    """Compare every file of a prepared directory with its SHA-256.

    \b
    Example:
      bmojo data check data/books
    """
    with told():
        from bmojo.data.text.store import open_prepared

        open_prepared(directory).check(whole=True)
        typer.echo(f"{directory}: every file is as it was written")


def _show(directory: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from bmojo.data.text.store import open_prepared

    manifest = open_prepared(directory).manifest
    coder = manifest["tokenizer"]
    table = Table(title=f"{manifest['source']}, {coder['spec']}, {coder['vocab_size']:,} ids")
    for name in ("split", "documents", "tokens", "bytes", "bytes/token", "shards"):
        table.add_column(name, justify="left" if name == "split" else "right")
    for split, facts in manifest["splits"].items():
        ratio = f"{facts['bytes'] / facts['tokens']:.3f}" if facts["tokens"] else ""
        counts = [f"{facts[name]:,}" for name in ("documents", "tokens", "bytes")]
        table.add_row(split, *counts, ratio, str(len(facts["shards"])))
    console = Console()
    console.print(table)
    if manifest["skipped"]:
        console.print(
            f"{manifest['skipped']:,} documents were skipped; {directory / 'skipped.txt'} "
            "names them",
            highlight=False,
            soft_wrap=True,
        )
