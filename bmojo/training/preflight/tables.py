"""What a preflight has found, as text for a terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from bmojo.training.preflight.program import NOT_CUT

UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def size(number: float | None) -> str:
    """Bytes in a few characters; a word where nobody knows."""
    if number is None:
        return "unknown"
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.4g} {name}"
    return f"{number:.0f} bytes"


def lines(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is here, as pairs of a name and a text."""
    versions, here, cache = facts["versions"], facts["devices"], facts["cache"]
    revision = versions["git_revision"]
    found = [f"bmojo {versions['bmojo']}" + (f" at {revision[:12]}" if revision else "")]
    if revision and revision.endswith("+"):
        found[0] += " with changes"
    found += [
        f"{name} {value or 'is missing'}"
        for name, value in versions.items()
        if name not in ("bmojo", "git_revision")
    ]
    each = here["by_process"]
    same = (
        f"{each[0]} a process"
        if len(set(each)) == 1
        else "by process: " + ", ".join(map(str, each))
    )
    memory = f"{size(here['memory_bytes'])} each"
    if here["memory_bytes"] is None:
        memory = f"the backend does not tell; this machine has {size(here['machine_memory_bytes'])}"
    kept = f"{cache['entries']} programs, {size(cache['bytes'])}"
    state = cache["problem"] or f"{kept}; {size(cache['free_bytes'])} free"
    how = facts["found_by"]
    return [
        ("versions", ", ".join(found)),
        ("processes", f"{here['processes']}, {how}; this is {here['process']} on {here['host']}"),
        ("devices", f"{here['all']} x {here['kind']} ({here['platform']}), {same}"),
        ("of this process", ", ".join(here["local"])),
        ("memory", memory),
        ("compile cache", f"{cache['directory']}: {state}"),
    ]


def products(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Speed of matrix products."""
    made = _table("products of square matrices, one device", "type, size", "compile s, s, GFLOP/s")
    for row in rows:
        speed = f"{row['gigaflops']:,.1f}"
        made.add_row(row["dtype"], str(row["size"]), *_seconds(row), speed)
    return made


def collectives(rows: Iterable[Mapping[str, Any]]) -> Table:
    """Speed of collectives."""
    made = _table(
        "collectives, float32",
        "collective, along",
        "devices, bytes, compile s, s, GB/s a device",
    )
    for row in rows:
        what = (row["name"], row["axis"], str(row["devices"]), size(row["bytes"]))
        made.add_row(*what, *_seconds(row), f"{row['gigabytes_per_second']:.3g}")
    return made


def parameters(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Where every parameter lies."""
    made = _table("parameters", "name, shape, axes, cut along", "bytes, bytes a device")
    for row in rows:
        shape = " x ".join(map(str, row["shape"]))
        cut = "whole" if row["sharding"] == NOT_CUT else row["sharding"]
        made.add_row(row["name"], shape, row["axes"], cut, *_bytes(row, "bytes", "device_bytes"))
    return made


def totals(rows: Mapping[str, Mapping[str, int]]) -> Table:
    """What the mesh makes of the bytes of a training."""
    made = _table(
        "bytes of a training, without what a step needs for itself",
        "of",
        "one device alone, a device of the mesh, share, all devices together",
    )
    for name, row in rows.items():
        whole, held, everywhere = _bytes(row, "bytes", "device_bytes", "all_devices_bytes")
        share = row["device_bytes"] / max(row["bytes"], 1)
        made.add_row(name, whole, held, f"{share:.3f}", everywhere)
    return made


def uncut(rows: Sequence[Mapping[str, Any]]) -> str:
    """How much no rule cuts."""
    whole = [row for row in rows if row["sharding"] == NOT_CUT]
    held = sum(row["bytes"] for row in whole)
    part = held / max(sum(row["bytes"] for row in rows), 1)
    return (
        f"{len(whole)} of {len(rows)} parameters are not cut and lie whole on every device: "
        f"{size(held)}, {part:.1%} of all"
    )


def _table(title: str, left: str, right: str) -> Table:
    made = Table(title=title, title_justify="left")
    for name in left.split(", "):
        made.add_column(name, overflow="fold")
    for name in right.split(", "):
        made.add_column(name, justify="right")
    return made


def _seconds(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['compile_seconds']:.2f}", f"{row['seconds']:.2g}"


def _bytes(row: Mapping[str, Any], *fields: str) -> tuple[str, ...]:
    return tuple(size(row[field]) for field in fields)
