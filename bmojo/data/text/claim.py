"""Who may prepare text in a directory, and what an attempt leaves behind there."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from bmojo.data.text.store import MANIFEST, json_bytes
from bmojo.errors import UserError
from bmojo.files import write_atomically

__all__ = ["PLAN", "claim", "lock", "nothing_left_of_nothing", "refuse_strangers"]

LOCK = ".lock"
PLAN = "plan.json"


@contextlib.contextmanager
def lock(out: Path, wait: bool, console: Console) -> Iterator[None]:
    """Keep every other process out of the directory."""
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            handle = open(out / LOCK, "a")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{out}: the directory cannot be written ({error.strerror}); choose another"
            ) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise UserError(
                        f"{out}: another process prepares text here; wait for it, or choose "
                        "another directory with --out"
                    ) from None
                console.print(f"{out}: waiting for another process to prepare it", soft_wrap=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle.fileno()).st_nlink:  # the other process did not take it away
                yield
                return


def refuse_strangers(out: Path) -> None:
    """Leave a directory alone that holds other things than prepared text."""
    if not out.is_dir() or (out / PLAN).exists():
        return
    strangers = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if strangers:
        raise UserError(
            f"{out}: holds {strangers[0]!r} and no prepared text; choose a new directory with --out"
        )


@contextlib.contextmanager
def nothing_left_of_nothing(out: Path, new: bool) -> Iterator[None]:
    """Take a new directory away again if an error ends the work before any job is done."""
    try:
        yield
    except UserError:
        if new and not any(out.glob("job-*.json")):
            discard(out)
            (out / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else is there
                out.rmdir()
        raise


def discard(out: Path) -> None:
    """Delete the plan and all that unfinished jobs have written."""
    for pattern in ("job-*.json", "*.array_record", "*.documents.npy", ".*.tmp"):
        for path in out.glob(pattern):
            path.unlink()
    (out / PLAN).unlink(missing_ok=True)


def claim(out: Path, plan: dict[str, Any], console: Console) -> bool:
    """Write the plan, or see that the one there is the same; whether it was written."""
    file = out / PLAN
    if not file.exists():
        refuse_strangers(out)
        write_atomically(file, json_bytes(plan))
        return True
    try:
        there = dict(json.loads(file.read_bytes()))
    except (ValueError, TypeError):
        raise UserError(f"{file}: not readable; delete {out} and prepare the text again") from None
    if {**there, "files": plan["files"]} == plan != there and not (out / MANIFEST).exists():
        console.print(
            f"{out}: the files have changed since the work was interrupted; it begins anew",
            highlight=False,
            soft_wrap=True,
        )
        discard(out)
        write_atomically(file, json_bytes(plan))
        return True
    for name in [*plan, *there]:
        if there.get(name) != plan.get(name):
            change = (
                "its files have changed since"
                if name == "files"
                else f"{name} is {there.get(name)!r} there and {plan.get(name)!r} now"
            )
            raise UserError(
                f"{out}: holds other text ({change}); choose another directory with --out, or "
                "delete this one"
            )
    return False
