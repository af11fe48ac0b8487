"""The directory of prepared text during the work: lock, plan, and removal after an error."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from bmojo.console import line
from bmojo.data.text.store import MANIFEST, PLAN, json_bytes
from bmojo.errors import UserError
from bmojo.files import file_lock, write_atomically

__all__ = ["lock", "refuse_other_files", "remove_if_fruitless", "write_plan"]

LOCK = ".lock"


@contextlib.contextmanager
def lock(out: Path, wait: bool, console: Console) -> Iterator[None]:
    """Make the directory and keep every other process out of it.

    Raises:
      UserError: another process has it and ``wait`` is false, or it cannot be written.
    """
    with contextlib.ExitStack() as stack:
        blocked = False
        while True:
            try:
                out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(out / LOCK, wait=blocked))
                break
            except BlockingIOError:
                if not wait:
                    raise UserError(
                        f"{out}: another process prepares text here; wait for it, or choose "
                        "another directory with --out"
                    ) from None
                line(console, f"{out}: waiting for another process to prepare it")
                blocked = True
            except FileNotFoundError:
                continue  # the other process has removed the directory
            except OSError as error:
                raise UserError(
                    f"{out}: the directory cannot be written ({error.strerror}); choose another"
                ) from None
        yield


def refuse_other_files(out: Path) -> None:
    """Leave a directory alone that holds files and no prepared text.

    Raises:
      UserError: it is one.
    """
    if not out.is_dir() or (out / PLAN).exists():
        return
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if others:
        raise UserError(
            f"{out}: holds {others[0]!r} and no prepared text; choose a new directory with --out"
        )


@contextlib.contextmanager
def remove_if_fruitless(out: Path, new: bool) -> Iterator[None]:
    """Remove a new directory if an error ends the work before any job is done."""
    try:
        yield
    except UserError:
        if new and not any(out.glob("job-*.json")):
            _discard(out)
            (out / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else is there
                out.rmdir()
        raise


def write_plan(out: Path, plan: dict[str, Any], console: Console) -> bool:
    """Write the plan, or compare it with the one in the directory.

    Returns:
      Whether it was written: no job of the plan is done.

    Raises:
      UserError: the directory has another plan.
    """
    file = out / PLAN
    if file.exists():
        try:
            found = dict(json.loads(file.read_bytes()))
        except (ValueError, TypeError):
            message = f"{file}: not readable; delete {out} and prepare the text again"
            raise UserError(message) from None
        changed = next((n for n in [*plan, *found] if found.get(n) != plan.get(n)), None)
        if changed is None:
            return False
        if {**found, "files": plan["files"]} != plan or (out / MANIFEST).exists():
            change = f"{changed} is {found.get(changed)!r} there and {plan.get(changed)!r} now"
            if changed == "files":
                change = "its files have changed since"
            raise UserError(
                f"{out}: holds other text ({change}); choose another directory with --out, or "
                "delete this one"
            )
        line(
            console, f"{out}: the files have changed since the work was interrupted; it begins anew"
        )
        _discard(out)
    else:
        refuse_other_files(out)
    write_atomically(file, json_bytes(plan))
    return True


def _discard(out: Path) -> None:
    """Delete all that unfinished jobs have written, and then the plan."""
    for pattern in ("job-*.json", "*.array_record", "*.documents.npy", ".*.tmp", PLAN):
        for path in out.glob(pattern):
            path.unlink()
