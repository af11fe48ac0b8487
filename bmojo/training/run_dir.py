"""The run directory: its files, its lock, and the errors of writing in it."""

import contextlib
import difflib
import errno
import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bmojo.errors import UserError
from bmojo.files import file_lock, write_atomically

LOCK = ".lock"

_NAMES = "EACCES EDQUOT EEXIST EFBIG EIO EISDIR EMFILE ENFILE ENODEV ENOENT ENOLCK ENOSPC ENOTDIR"
UNWRITABLE = {getattr(errno, name) for name in f"{_NAMES} EPERM EROFS ESTALE".split()}
"""Errors of the system about a place that cannot be written."""


class RunError(UserError):
    """A run or its directory cannot be used as asked; the message has the remedy."""


class WriteError(RunError):
    """The run directory cannot be written; what was saved before is whole."""

    exit_code = 4


class RunDir:
    """Paths and rules of one run directory, which is made when it is locked."""

    def __init__(self, path: str | os.PathLike[str]):
        if not os.fspath(path):
            raise RunError("run directory: its name is empty; give one, such as runs/mine")
        self.path = Path(path).expanduser().absolute()
        str(self.path).encode()  # libraries below take no other names
        self.config = self.path / "config.gin"
        self.identity = self.path / "run_id"
        self.metrics = self.path / "metrics.jsonl"
        self.speed = self.path / "speed.jsonl"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.accuracy = self.path / "accuracy.png"

    def is_foreign(self) -> bool:
        """Whether the directory holds files, and no run."""
        begun = self.checkpoints.exists() or (self.path / LOCK).exists()
        if self.metrics.exists() or (begun and self.config.exists()):
            return False
        return self.path.is_dir() and any(path.name != LOCK for path in self.path.iterdir())

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory, and keep others out; RunError if it holds what is no run's."""
        with contextlib.ExitStack() as held:
            try:
                if self.is_foreign():
                    raise RunError(
                        f"{self.path}: holds files, but no run; choose a new or empty directory "
                        "with --run-dir"
                    )
                self.path.mkdir(parents=True, exist_ok=True)
                handle = held.enter_context(file_lock(self.path / LOCK))
            except BlockingIOError:
                holder = (self.path / LOCK).read_text(encoding="utf8").strip() or "?"
                raise RunError(
                    f"{self.path}: process {holder} is training here; "
                    "wait for it, stop it, or choose another directory with --run-dir"
                ) from None
            except OSError as error:
                raise RunError(
                    f"{self.path}: the run directory cannot be written ({error.strerror}); "
                    "choose another with --run-dir"
                ) from error
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn the system's refusal to write files of the run into a WriteError."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            reason = _refusal(error, self.path)
            if reason is None:
                raise
            raise WriteError(
                f"{self.path}: cannot be written ({reason}); see to space and rights there, and "
                "the same command goes on from the last checkpoint"
            ) from error

    def move_aside(self) -> Path | None:
        """Move what the directory holds to a new sibling; None if it holds nothing."""
        entries = [entry for entry in self.path.iterdir() if entry.name != LOCK]
        if not entries:
            return None
        names = (self.path.with_name(f"{self.path.name}.old{n}") for n in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        aside.mkdir()
        for entry in entries:
            entry.rename(aside / entry.name)
        return aside

    def claim(self, config_text: str) -> None:
        """Write config and identity; RunError if another config is there, the mesh apart."""
        begun = self.checkpoints.exists() or self.metrics.exists()
        if not self.config.exists():
            if begun:
                raise RunError(
                    f"{self.path}: there is a run but no config.gin to tell which; choose "
                    "another directory with --run-dir, or start over with --fresh"
                )
            write_atomically(self.config, config_text)
        if not (begun or self.identity.exists()):
            write_atomically(self.identity, f"{uuid.uuid4().hex}\n")
        try:
            there = self.config.read_text(encoding="utf8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(
                f"{self.config}: cannot be read ({_reason(error)}); put it back, or start over "
                "with --fresh"
            ) from None
        if without_mesh(there) != without_mesh(config_text):
            line, was, now = first_difference(there, config_text)
            raise RunError(
                f"{self.config}:{line}: the run there has {was}, this config has {now}; "
                "choose another directory with --run-dir, or start over with --fresh"
            )
        if there != config_text:  # on other devices
            write_atomically(self.config, config_text)

    def own_id(self) -> str | None:
        """A random name that the run got at its start; None: it began with an earlier version."""
        try:
            return self.identity.read_text(encoding="utf8").strip() or None
        except (OSError, UnicodeDecodeError):
            return None

    def see(self, config_text: str) -> None:
        """Wait for the config that another process has written; RunError if it is not there."""
        for _ in range(20):  # storage over a network may take a while to show a new file
            if self.config.exists() and self.config.read_text(encoding="utf8") == config_text:
                return
            time.sleep(0.5)
        raise RunError(
            f"{self.config}: this process does not see what the first one wrote there; give a "
            "--run-dir on storage that all processes share"
        )

    def finished(self) -> dict[str, Any] | None:
        """The summary of the run, if it has come to its end; RunError if it cannot be read."""
        if not self.summary.exists():
            return None
        try:
            summary = dict(json.loads(self.summary.read_text(encoding="utf8")))
            missing = [n for n in ("status", "step", "final", "evaluations") if n not in summary]
            if not missing:
                return summary
            problem = f"has no {missing[0]!r}"
        except (OSError, ValueError, TypeError) as error:
            problem = f"not readable as JSON ({_reason(error)})"
        raise RunError(
            f"{self.summary}: {problem}; delete it, and the run goes on from its last checkpoint"
        )


def without_mesh(config: str) -> list[str]:
    """The lines of a config but for the mesh and further steps, which change no step done."""
    mesh = ("Mesh.", "Experiment.mesh", "Trainer.extra_steps")
    return [line for line in config.splitlines() if line and not line.startswith(mesh)]


def _refusal(error: BaseException | None, place: Path) -> str | None:
    """The system's reason not to write below ``place``; None if the error is another one.

    TensorStore has the number of the system's error in its text.
    """
    if error is None:
        return None
    number, name = None, getattr(error, "filename", None)
    quoted = re.search(r"(?:OS error |os_error_code=')(\d+)", str(error))
    if quoted is not None:
        number = int(quoted[1])
    elif isinstance(error, OSError) and not isinstance(name, int):
        below = name is None or Path(os.fsdecode(name)).absolute().is_relative_to(place)
        number = error.errno if below else None
    if number is not None and number in UNWRITABLE:
        return os.strerror(number) + (", raise ulimit -n" if number == errno.EMFILE else "")
    return _refusal(error.__cause__, place)


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def first_difference(there: str, given: str) -> tuple[int, str, str]:
    """Number of the first line that differs, and the lines of both; one may be absent."""
    old, new = there.splitlines(), given.splitlines()
    for kind, i, _, j, _ in difflib.SequenceMatcher(None, old, new, False).get_opcodes():
        if kind != "equal":
            was = "no such line" if kind == "insert" else repr(old[i])
            now = "no such line" if kind == "delete" else repr(new[j])
            return i + 1, was, now
    return 1, "other line ends", "these"
