"""`bmojo memory` for the matched store of a read-out."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bmojo.cli.stored_text import find_tokenizer, shown, spaced, when

if TYPE_CHECKING:
    from bmojo.storage import MatchedStore

CONTEXT = 24
"""Tokens that are shown before an entry."""
MANY_SOURCES = 20


def is_one(directory: Path) -> bool:
    """Whether a directory holds a matched store."""
    from bmojo.storage.matched_description import NAME

    return (directory.expanduser() / NAME).is_file()


def stats(directory: Path, as_json: bool) -> None:
    """Print counts and sizes."""
    from bmojo.storage import matched_records

    with _open(directory) as store:
        found = matched_records.stats(store)
    if as_json:
        return typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    identity, sources = found["identity"], found["sources"]
    lines = {
        "entries": f"{found['entries']:,}",
        "bytes": f"{found['bytes'] / 1e6:,.1f} MB ({identity['dtype']})",
        "n-grams": f"{found['ngrams']:,} of {identity['n']} tokens",
        "model": f"{identity['model'][:12]}  {identity['description']}".rstrip(),
        "tokenizer": f"{identity['tokenizer'][:12]}  {identity['tokenizer_spec']}".strip()
        or "none",
        "keys": f"of width {identity['width']}, with {identity['hashes']} hashes",
        "sources": f"{len(sources):,}",
    }
    typer.echo("\n".join(f"{name:<10} {value}" for name, value in lines.items()))
    for name, count in list(sources.items())[:MANY_SOURCES]:
        typer.echo(f"  {count:>12,}  {name}")
    if len(sources) > MANY_SOURCES:
        typer.echo(f"  and {len(sources) - MANY_SOURCES:,} more; --json has them all")


def search(directory: Path, text: str, limit: int) -> None:
    """Print the entries just behind a text, the oldest first."""
    from bmojo.storage import matched_records

    with _open(directory) as store:
        coder = find_tokenizer(store.identity)
        ids = [int(x) for x in spaced(text).split()] if coder is None else coder.encode(text)
        hits = matched_records.search(store, ids).tolist()
        for number in hits[:limit]:
            document = matched_records.document_of(store, number)
            context = matched_records.text_at(store, number, CONTEXT)
            place = f"{document.name}:{number - document.first}"
            answer = shown(store.column("token")[number : number + 1], coder)
            typer.echo(f"{number}  {place}  {shown(context, coder)} then {answer}")
    if hits[limit:]:
        typer.echo(f"{len(hits) - limit:,} more; --limit shows them")
    if not hits:
        typer.echo("no entry comes behind it")


def show(directory: Path, number: int, as_json: bool) -> None:
    """Print all that is stored of an entry."""
    import numpy as np

    from bmojo.storage import matched_records

    with _open(directory) as store:
        facts = matched_records.entry(store, number)
        coder = find_tokenizer(store.identity)
        facts["context"] = shown(matched_records.text_at(store, number, CONTEXT), coder)
        facts["answer"] = shown(store.column("token")[number : number + 1], coder)
        facts["written"] = when(facts["written"])
        key = store.gather(np.array([number])).key[0]
    if as_json:
        typer.echo(json.dumps(facts | {"key": key.tolist()}, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(f"{name:<11}  {value}" for name, value in facts.items()))


def forget(directory: Path, source: str, yes: bool) -> None:
    """Delete the entries of a source."""
    from bmojo.storage import matched_records

    with _open(directory, write=True) as store:
        count = matched_records.stats(store)["sources"].get(source, 0)
        question = f"Forget {count:,} of {len(store):,} entries?"
        if count and not yes and not typer.confirm(question):
            raise typer.Exit
        count = store.forget([source])
    typer.echo(f"{directory}: {count:,} entries forgotten")


def verify(directory: Path) -> tuple[int, list[str]]:
    """Number of entries, and what is wrong."""
    from bmojo.storage import matched_records

    return matched_records.verify(directory)


def _open(directory: Path, write: bool = False) -> "MatchedStore":
    from bmojo.storage import MatchedStore

    return MatchedStore.open(directory, write=write)
