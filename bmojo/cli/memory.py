"""`bmojo memory`: reports of a store of memory on disk, forgetting, compaction, verification."""

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmojo.cli.common import EXIT_CODES, progress_bar, told
from bmojo.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from bmojo.data.text.tokenizers import Tokenizer
    from bmojo.storage import Identity, Policy, Record, Store

app = typer.Typer(
    help="Look into a memory on disk, and forget parts of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="\b\nExample:\n  bmojo memory stats memories/prose",
)

DAMAGED = 1
VERIFY_EXIT_CODES = f"""{EXIT_CODES}
  1         something is not as it was written; the lines say what"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MANY_SOURCES = 20

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a store.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of text.")]


@app.command(epilog=EXIT_CODES)
def stats(directory: Directory, as_json: Json = False) -> None:
    """Show counts, sizes, sources, ages, policy and identity.

    \b
    Example:
      bmojo memory stats memories/prose
    """
    with told(), _reading(directory) as store:
        found = store.records.stats()
    if as_json:
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print_stats(found)


@app.command(epilog=EXIT_CODES)
def search(
    directory: Directory,
    text: Annotated[str, typer.Argument(help="Text, or ids with blanks between them.")],
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Show so many at most.")] = 20,
) -> None:
    """Show entries whose context contains a text, the oldest first.

    The context of an entry are its token and those before it, as many as were stored. Without a
    tokenizer, contexts are ids, and so is what is looked for.

    \b
    Examples:
      bmojo memory search memories/prose "the treaty of"
      bmojo memory search memories/recall "17 4 4"
    """
    with told(), _reading(directory) as store:
        coder = _tokenizer(store.identity)
        ids = _wanted_ids(text) if coder is None else ()
        hits: list[int] = []
        more = 0
        with progress_bar("contexts", len(store)) as done:
            for number, context in store.records.contexts():
                done(1)
                if coder is None:
                    hit = _contains(context.tolist(), ids)
                else:
                    hit = text in coder.decode(context)
                if hit and len(hits) < limit:
                    hits.append(number)
                else:
                    more += hit
        for number in hits:
            record = store.records[number]
            typer.echo(
                f"{number}  layer {record.layer}  {record.source}:{record.position}  "
                f"innovation {record.innovation:.4g}  {_context(record.context, coder)}"
            )
        if more:
            typer.echo(f"{more:,} more; --limit shows them")
        if not hits:
            typer.echo("no entry contains it")


@app.command(epilog=EXIT_CODES)
def show(
    directory: Directory,
    number: Annotated[int, typer.Argument(metavar="ID", help="Number of the entry.")],
    as_json: Json = False,
) -> None:
    """Show all that is stored of an entry.

    \b
    Example:
      bmojo memory show memories/prose 1041
    """
    with told(), _reading(directory) as store:
        record, coder = store.records[number], _tokenizer(store.identity)
    facts = _facts(record, coder)
    if as_json:
        facts |= {"key": record.key.tolist(), "value": record.value.tolist()}
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


@app.command(epilog=EXIT_CODES)
def forget(
    directory: Directory,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Entries of this source.")
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Entries written longer ago, such as 30d, 12h, 90s."),
    ] = None,
    ids: Annotated[
        list[int] | None,
        typer.Option("--id", metavar="ID", help="This entry; may be given several times."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete entries for good.

    With several of the options, entries that all of them name. No model may write to the store
    meanwhile.

    \b
    Examples:
      bmojo memory forget memories/prose --source letters.txt
      bmojo memory forget memories/prose --older-than 30d --yes
    """
    with told():
        if source is None and older_than is None and not ids:
            raise UserError("forget: says nothing to forget; give --source, --older-than or --id")
        age = None if older_than is None else _seconds(older_than)
        with _writing(directory) as store:
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
    bounds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="capacity, half_life_tokens, half_life_seconds, reinforcement or floor, and a "
            "number or None.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show what bounds a store, or change it.

    Capacity holds at once, decay for every later search. The next bmojo memory compact deletes
    the entries that have become too weak.

    \b
    Examples:
      bmojo memory policy memories/prose
      bmojo memory policy memories/prose half_life_tokens=100000 capacity=50000
    """
    with told():
        import dataclasses

        if not bounds:
            with _reading(directory) as store:
                now = store.policy
        else:
            changes = _bounds(bounds)
            with _reading(directory) as store:
                try:
                    now = dataclasses.replace(store.policy, **changes)
                except ValueError as error:
                    raise UserError(str(error)) from None
            with _writing(directory, now):
                pass
    for name, value in dataclasses.asdict(now).items():
        typer.echo(f"{name} = {value}")


@app.command(epilog=EXIT_CODES)
def compact(directory: Directory) -> None:
    """Forget entries below the policy's floor, and make the file as small as it can be.

    No model may write to the store meanwhile.

    \b
    Example:
      bmojo memory compact memories/prose
    """
    with told(), _writing(directory) as store:
        before = store.records.stats()["bytes"]
        count, left = store.compact(), len(store)
        after = store.records.stats()["bytes"]
    typer.echo(
        f"{directory}: {count:,} entries forgotten, {left:,} left, {before / 1e6:,.1f} MB before, "
        f"{after / 1e6:,.1f} MB now"
    )


@app.command(epilog=VERIFY_EXIT_CODES)
def verify(directory: Directory) -> None:
    """Read everything and compare it with the checksums that were written.

    \b
    Example:
      bmojo memory verify memories/prose
    """
    with told():
        from bmojo.storage import verify as compare
        from bmojo.storage.verify import size

        total = size(directory)
        with progress_bar("entries", total or None) as done:
            problems = compare(directory, done)
    for problem in problems:
        typer.echo(f"{directory}: {problem}")
    if problems:
        raise typer.Exit(DAMAGED)
    typer.echo(f"{directory}: {total:,} entries, all as they were written")


def _reading(directory: Path) -> "Store":
    from bmojo.storage import Store

    return Store.open(directory, write=False)


def _writing(directory: Path, policy: "Policy | None" = None) -> "Store":
    from bmojo.storage import Store

    return Store.open(directory, policy=policy, write=True)


def _bounds(given: list[str]) -> dict[str, Any]:
    """Fields of a policy from KEY=VALUE."""
    import dataclasses

    from bmojo.errors import suggestion
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
            example = f"{name}=1000"
            raise UserError(f"{word}: {text!r} is not a number; give one, as {example}") from None

    return changes


def _tokenizer(identity: "Identity") -> "Tokenizer | None":
    """What turns ids into text; None, which is told, if it is not to be had."""
    if not identity.tokenizer_spec:
        return None
    from bmojo.data.text.tokenizers import tokenizer

    try:
        made = tokenizer(identity.tokenizer_spec)
    except UserError as error:
        typer.echo(f"note: showing ids, as the tokenizer is not to be had: {error}", err=True)
        return None
    if identity.tokenizer and made.fingerprint != identity.tokenizer:
        typer.echo(
            f"note: showing ids, as {identity.tokenizer_spec} is no longer the store's tokenizer",
            err=True,
        )
        return None
    return made


def _context(context: "np.ndarray", coder: "Tokenizer | None") -> str:
    if coder is None:
        return " ".join(map(str, context.tolist()))
    return json.dumps(coder.decode(context), ensure_ascii=False)


def _wanted_ids(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split())
    except ValueError:
        raise UserError(
            f"TEXT: {text!r} is not ids, and the store has no tokenizer that could make ids of it; "
            "give ids with blanks between them, such as '17 4 4'"
        ) from None


def _contains(context: list[int], ids: tuple[int, ...]) -> bool:
    starts = range(len(context) - len(ids) + 1)
    return any(tuple(context[start : start + len(ids)]) == ids for start in starts)


def _seconds(age: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", age)
    if match is None:
        raise UserError(
            f"--older-than: {age!r} is no age; give a number with s, m, h or d, such as 30d"
        )
    return float(match[1]) * UNITS[match[2] or "s"]


def _facts(record: "Record", coder: "Tokenizer | None") -> dict[str, Any]:
    import numpy as np

    return {
        "id": record.id,
        "layer": record.layer,
        "source": record.source,
        "position": record.position,
        "token": record.token,
        "context": _context(record.context, coder),
        "innovation": record.innovation,
        "written": _when(record.written),
        "clock": record.born,
        "uses": record.uses,
        "used": None if record.used is None else _when(record.used),
        "strength": record.strength,
        "key norms": [round(float(x), 4) for x in np.linalg.norm(record.key, axis=1)],
        "value norms": [round(float(x), 4) for x in np.linalg.norm(record.value, axis=1)],
    }


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _age(seconds: float) -> str:
    for unit in "dhm":
        if seconds >= UNITS[unit]:
            return f"{seconds / UNITS[unit]:.1f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _print_stats(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=found["path"])
    columns = ("layer", "entries", "innovation", "age, tokens", "age", "uses")
    for name in columns:
        table.add_column(name, justify="right")
    for row in found["layers"]:
        empty = not row["entries"]
        low, high = row["innovation"] or (0, 0)
        oldest, newest = row["age_tokens"] or (0, 0)
        first, last = row["age_seconds"] or (0, 0)
        table.add_row(
            str(row["layer"]),
            f"{row['entries']:,}",
            "" if empty else f"{low:.4g} .. {high:.4g}",
            "" if empty else f"{newest:,} .. {oldest:,}",
            "" if empty else f"{_age(last)} .. {_age(first)}",
            f"{row['uses']:,}",
        )
    console.print(table)
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
    for name, value in lines.items():
        typer.echo(f"{name:<10} {value}")
    for name, count in list(found["sources"].items())[:MANY_SOURCES]:
        typer.echo(f"  {count:>12,}  {name}")
    if len(found["sources"]) > MANY_SOURCES:
        typer.echo(f"  and {len(found['sources']) - MANY_SOURCES:,} more; --json has them all")
