"""`bmojo data`: preparation of text for training."""

from pathlib import Path
from typing import Annotated

import typer

from bmojo.cli.common import EXIT_CODES, INTERRUPTED, Number, Words, argument, make_app, option
from bmojo.console import line, make_console, make_table
from bmojo.errors import UserError

app = make_app(
    "Prepare text for training.", epilog="\b\nExample:\n  bmojo data prepare books --out data/books"
)

SOURCE = (
    "A folder or file of text (.txt, .jsonl, .parquet), 'stdlib' for the source code of Python's "
    "standard library, or hf:NAME[:CONFIG][:SPLIT]."
)
Directory = Annotated[Path, argument("DIR", "A directory that bmojo data prepare made.")]
Field = Annotated[str, option("TEXT", "Field of JSON objects, column of tables, with the text.")]
Suffix = Annotated[
    Words,
    option("END", "Ending of files in folders; repeat for more. Default: .txt, .jsonl, .parquet."),
]
SkipCorrupt = Annotated[bool, option(None, "Leave out unreadable documents.", "--skip-corrupt")]
Fraction = Annotated[float | None, option("X", "Part of the text. Default: 0.01, or by subfolder.")]


@app.command(epilog=EXIT_CODES)
def prepare(
    source: Annotated[str, argument("SOURCE", SOURCE)],
    out: Annotated[Path, option("DIR", "The directory to make.")],
    tokenizer: Annotated[str, option("SPEC", "sentencepiece:FILE or tokenizers:FILE.")] = "bytes",
    validation: Fraction = None,
    test: Fraction = None,
    workers: Annotated[Number, option("N", "Processes. Default: one for each core.", min=1)] = None,
    field: Field = "text",
    suffix: Suffix = None,
    skip_corrupt: SkipCorrupt = False,
) -> None:
    """Turn text into tokens once, so that training can read any part of it.

    Interrupting is safe: the same command goes on. The result does not depend on the number
    of workers. Equal documents come into the same split; where so few documents leave a split
    empty, each is cut, and its end goes to validation and test. Without fractions, subfolders
    train, validation and test, if they are there, are the splits.

    \b
    Examples:
      bmojo data prepare books --out data/books
      bmojo data prepare corpus.jsonl --out data/corpus --tokenizer tokenizers:bpe.json
      bmojo data prepare notes --suffix .md --suffix .rst --out data/notes --validation 0.1
    """
    from bmojo.data.text import prepare as work

    request = work.Request(
        source,
        tokenizer,
        0.01 if validation is None else validation,
        0.01 if test is None else test,
        None if validation is None and test is None else False,
        field,
        tuple(suffix) if suffix else None,
        skip_corrupt,
    )
    try:
        work.prepare(request, out, workers or work.cores(), make_console(lasting=True))
    except KeyboardInterrupt:
        typer.echo(f"stopped; finished work is kept in {out}, the same command goes on")
        raise typer.Exit(INTERRUPTED) from None
    _show(out)


@app.command(epilog=EXIT_CODES)
def train_tokenizer(
    sources: Annotated[list[str], argument("SOURCE...", SOURCE)],
    vocab_size: Annotated[int, option("N", "Number of ids.")],
    out: Annotated[Path, option("FILE", "The JSON file to write.")],
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
    remedy = "mend it, or leave it out with --skip-corrupt"
    content = train(texts(parts, field, skipped if skip_corrupt else None, remedy), vocab_size)
    write_atomically(out, content)
    size = tokenizer(f"tokenizers:{out}").vocab_size
    for problem in skipped:
        typer.echo(f"skipped {problem}", err=True)
    typer.echo(f"{out}: {size:,} ids; use it with --tokenizer tokenizers:{out}")


@app.command(epilog=EXIT_CODES)
def show(directory: Directory) -> None:
    """Show the contents of a prepared directory.

    \b
    Example:
      bmojo data show data/books
    """
    _show(directory)


@app.command(epilog=EXIT_CODES)
def check(directory: Directory) -> None:
    """Compare every file of a prepared directory with its SHA-256.

    \b
    Example:
      bmojo data check data/books
    """
    from bmojo.data.text.store import open_prepared

    open_prepared(directory).check(whole=True)
    typer.echo(f"{directory}: every file is as it was written")


def _show(directory: Path) -> None:
    from bmojo.data.text.store import open_prepared

    manifest = open_prepared(directory).manifest
    coder = manifest["tokenizer"]
    rows = [
        (
            split,
            *(f"{facts[name]:,}" for name in ("documents", "tokens", "bytes")),
            f"{facts['bytes'] / facts['tokens']:.3f}" if facts["tokens"] else "",
            len(facts["shards"]),
        )
        for split, facts in manifest["splits"].items()
    ]
    title = f"{manifest['source']}, {coder['spec']}, {coder['vocab_size']:,} ids"
    columns = ("split", "documents", "tokens", "bytes", "bytes/token", "shards")
    (console := make_console()).print(make_table(title, columns, rows, left=["split"]))
    if manifest["skipped"]:
        path = directory / "skipped.txt"
        line(console, f"{manifest['skipped']:,} documents were skipped; {path} names them")
