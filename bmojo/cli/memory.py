"""`bmojo memory`: reports of a store of memory on disk, forgetting, compaction, verification."""

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli import matched
from bmojo.cli.common import EXIT_CODES, Numbers, Words, argument, make_app, option
from bmojo.cli.stored_text import decoded, find_tokenizer, shown, spaced, when
from bmojo.console import make_console, make_table, progress_bar
from bmojo.errors import UserError, suggestion

if TYPE_CHECKING:
    from bmojo.data.text.tokenizers import Tokenizer
    from bmojo.storage import Policy, Record, Store

app = make_app("Look into a memory on disk, and forget parts of it.")

DAMAGED = 1
VERIFY_EXIT_CODES = f"""{EXIT_CODES}
  1         something is not as it was written; the lines say what"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MANY_SOURCES = 20

Directory = Annotated[Path, argument("DIR", "The directory of a store.")]
Json = Annotated[bool, option(None, "Print JSON in place of text.", "--json")]


@app.command(epilog=EXIT_CODES)
def stats(directory: Directory, as_json: Json = False) -> None:
    """Show counts, sizes, sources, ages, policy and identity."""
    if matched.is_one(directory):
        return matched.stats(directory, as_json)
    with _open(directory) as store:
        found = store.records.stats()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_stats(found)


@app.command(epilog=EXIT_CODES)
def search(
    directory: Directory,
    text: Annotated[str, argument("TEXT", "Text, or ids with blanks between them.")],
    limit: Annotated[int, option("N", "Show so many at most.", min=1)] = 20,
) -> None:
    """Show entries whose context contains a text, the oldest first.

    The context of an entry are its token and those before it, as many as were stored. Without a
    tokenizer, contexts are ids, and so is what is looked for.

    \b
    Examples:
      bmojo memory search memories/prose "the treaty of"
      bmojo memory search memories/recall "17 4 4"
    """
    if matched.is_one(directory):
        return matched.search(directory, text, limit)
    with _open(directory) as store:
        coder = find_tokenizer(store.identity)
        if coder is None:
            text = spaced(text)
        hits: list[int] = []
        with progress_bar("contexts", len(store)) as done:
            for number, context in store.records.contexts():
                done(1)
                if text in (spaced(context) if coder is None else decoded(context, coder)):
                    hits.append(number)
        for number in hits[:limit]:
            record = store.records[number]
            typer.echo(
                f"{number}  layer {record.layer}  {record.source}:{record.position}  "
                f"innovation {record.innovation:.4g}  {_context(record, coder)}"
            )
        if hits[limit:]:
            typer.echo(f"{len(hits) - limit:,} more; --limit shows them")
        if not hits:
            typer.echo("no entry contains it")


@app.command(epilog=EXIT_CODES)
def show(
    directory: Directory,
    number: Annotated[int, argument("ID", "Number of the entry.")],
    as_json: Json = False,
) -> None:
    """Show all that is stored of an entry."""
    if matched.is_one(directory):
        return matched.show(directory, number, as_json)
    with _open(directory) as store:
        record, coder = store.records[number], find_tokenizer(store.identity)
    facts = _facts(record, coder)
    if as_json:
        facts |= {"key": record.key.tolist(), "value": record.value.tolist()}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(f"{name:<11}  {value}" for name, value in facts.items()))


@app.command(epilog=EXIT_CODES)
def forget(
    directory: Directory,
    source: Annotated[str | None, option("NAME", "Entries of this source.")] = None,
    older_than: Annotated[str | None, option("AGE", "Entries older than 30d, 12h, 90s.")] = None,
    ids: Annotated[Numbers, option("ID", "This entry; may be given several times.", "--id")] = None,
    yes: Annotated[bool, option(None, "Do not ask.", "--yes")] = False,
) -> None:
    """Delete entries for good.

    With several of the options, entries that all of them name. No model may write to the store
    meanwhile.

    \b
    Examples:
      bmojo memory forget memories/prose --source letters.txt
      bmojo memory forget memories/prose --older-than 30d --yes
    """
    if matched.is_one(directory):
        if source is None or older_than is not None or ids:
            raise UserError(f"{directory}: forgets whole sources; give --source, and that alone")
        return matched.forget(directory, source, yes)
    if source is None and older_than is None and not ids:
        raise UserError("forget: says nothing to forget; give --source, --older-than or --id")
    age = None if older_than is None else _seconds(older_than)
    with _open(directory, write=True) as store:
        chosen = set(store.records.select(source, age))
        if ids:
            missing = set(ids) - chosen
            if missing:
                raise UserError(
                    f"--id: {directory} has no entry {min(missing)} of that kind; bmojo memory "
                    "search shows some"
                )
            chosen &= set(ids)
        question = f"Forget {len(chosen):,} of {len(store):,} entries?"
        if chosen and not yes and not typer.confirm(question):
            raise typer.Exit
        count = store.forget(chosen)
    typer.echo(f"{directory}: {count:,} entries forgotten")


@app.command(epilog=EXIT_CODES)
def policy(
    directory: Directory,
    bounds: Annotated[Words, argument("[KEY=VALUE]...", "A bound, and a number or None.")] = None,
) -> None:
    """Show what bounds a store, or change it.

    Capacity holds at once, decay for every later search. The next bmojo memory compact deletes
    the entries that have become too weak.

    \b
    Examples:
      bmojo memory policy memories/prose
      bmojo memory policy memories/prose half_life_tokens=100000 capacity=50000
    """
    changes = _bounds(bounds or [])
    with _open(directory) as store:
        try:
            now = dataclasses.replace(store.policy, **changes)
        except ValueError as error:
            raise UserError(str(error)) from None
    if changes:
        with _open(directory, write=True, policy=now):
            pass
    for name, value in dataclasses.asdict(now).items():
        typer.echo(f"{name} = {value}")


@app.command(epilog=EXIT_CODES)
def compact(directory: Directory) -> None:
    """Forget entries below the policy's floor, and make the file as small as it can be.

    No model may write to the store meanwhile.
    """
    with _open(directory, write=True) as store:
        before = store.records.stats()["bytes"]
        count, left = store.compact(), len(store)
        after = store.records.stats()["bytes"]
    typer.echo(
        f"{directory}: {count:,} entries forgotten, {left:,} left, {before / 1e6:,.1f} MB before, "
        f"{after / 1e6:,.1f} MB now"
    )


@app.command(epilog=VERIFY_EXIT_CODES)
def verify(directory: Directory) -> None:
    """Read everything and compare it with the checksums that were written."""
    if matched.is_one(directory):
        total, problems = matched.verify(directory)
        return _print_problems(directory, total, problems)
    from bmojo.storage import verify as compare
    from bmojo.storage.verify import size

    total = size(directory)
    with progress_bar("entries", total or None) as done:
        problems = compare(directory, done)
    _print_problems(directory, total, problems)


def _print_problems(directory: Path, total: int, problems: list[str]) -> None:
    for problem in problems:
        typer.echo(f"{directory}: {problem}")
    if problems:
        raise typer.Exit(DAMAGED)
    typer.echo(f"{directory}: {total:,} entries, all as they were written")


def _open(directory: Path, write: bool = False, policy: "Policy | None" = None) -> "Store":
    from bmojo.storage import Store

    if matched.is_one(directory):
        raise UserError(f"{directory}: a store of a read-out has no bounds; forget sources of it")
    return Store.open(directory, policy=policy, write=write)


def _bounds(given: list[str]) -> dict[str, Any]:
    """Fields of a policy from KEY=VALUE."""
    from bmojo.storage import Policy

    known = [field.name for field in dataclasses.fields(Policy)]
    changes: dict[str, Any] = {}
    for word in given:
        name, _, text = word.partition("=")
        if name not in known:
            raise UserError(f"{word}: a policy has no {name!r}; {suggestion(name, known)}")
        try:
            changes[name] = None if text == "None" else int(text) if text.isdigit() else float(text)
        except ValueError:
            raise UserError(f"{word}: {text!r} is not a number; give one, as {name}=1000") from None
    return changes


def _context(record: "Record", coder: "Tokenizer | None") -> str:
    return shown(record.context, coder, len(record.context) > record.position)


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", age)
    if match is None:
        raise UserError(
            f"--older-than: {age!r} is no age; give a number with s, m, h or d, such as 30d"
        )
    return float(match[1]) * UNITS[match[2] or "s"]


def _facts(record: "Record", coder: "Tokenizer | None") -> dict[str, Any]:
    import numpy as np

    names = ("id", "layer", "source", "position", "token", "innovation", "uses", "strength")
    return {name: getattr(record, name) for name in names} | {
        "context": _context(record, coder),
        "written": when(record.written),
        "clock": record.born,
        "used": None if record.used is None else when(record.used),
        "key norms": [round(float(x), 4) for x in np.linalg.norm(record.key, axis=1)],
        "value norms": [round(float(x), 4) for x in np.linalg.norm(record.value, axis=1)],
    }


def _age(seconds: float) -> str:
    for unit in "dhm":
        if seconds >= UNITS[unit]:
            return f"{seconds / UNITS[unit]:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _print_stats(found: dict[str, Any]) -> None:
    def cells(row: dict[str, Any]) -> list[str]:
        counts = [f"{row[name]:,}" for name in ("layer", "entries", "uses")]
        if not row["entries"]:
            return [*counts, "", "", ""]
        low, high = row["innovation"]
        oldest, newest = row["age_tokens"]
        first, last = map(_age, row["age_seconds"])
        return [
            *counts,
            f"{low:.4g} .. {high:.4g}",
            f"{newest:,} .. {oldest:,}",
            f"{last} .. {first}",
        ]

    columns = ("layer", "entries", "uses", "innovation", "age, tokens", "age")
    make_console().print(make_table(found["path"], columns, map(cells, found["layers"])))
    identity, policy = found["identity"], found["policy"]
    bounds = ", ".join(f"{name} {value}" for name, value in policy.items() if value is not None)
    lines = {
        "bytes": f"{found['bytes'] / 1e6:,.1f} MB ({found['dtype']})",
        "clock": f"{found['clock']:,} tokens",
        "policy": bounds,
        "model": f"{identity['model'][:12]}  {identity['description']}".rstrip(),
        "tokenizer": f"{identity['tokenizer'][:12]}  {identity['tokenizer_spec']}".strip()
        or "none",
        "heads": f"{identity['heads']} of width {identity['width']}",
        "sources": f"{len(found['sources']):,}",
    }
    shown = [f"{name:<10} {value}" for name, value in lines.items()]
    shown += [f"  {n:>12,}  {name}" for name, n in list(found["sources"].items())[:MANY_SOURCES]]
    typer.echo("\n".join(shown))
    if len(found["sources"]) > MANY_SOURCES:
        typer.echo(f"  and {len(found['sources']) - MANY_SOURCES:,} more; --json has them all")
