"""Mistakes as actions: each function gives one that is carried out in the working directory."""

import fcntl
import shutil
from pathlib import Path

import numpy as np


def write(path, content=""):
    def plant():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return plant


def several(*plants):
    return lambda: [plant() for plant in plants]


def array(path, *values):
    return lambda: np.save(path, np.array(values))


def table(path, column):
    def plant():
        import pyarrow
        from pyarrow import parquet

        with open(path, "wb") as file:  # whose name may be no UTF-8
            parquet.write_table(pyarrow.table({column: ["a"]}), file)

    return plant


def edit(path, old, new):
    def plant():
        content = Path(path).read_text()
        assert old in content
        Path(path).write_text(content.replace(old, new))

    return plant


def remove(pattern):
    def plant():
        for path in list(Path().glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def cut(pattern):
    return lambda: [path.write_bytes(path.read_bytes()[:100]) for path in Path().glob(pattern)]


def link(path, target):
    def plant():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).symlink_to(target)

    return plant


def swap(one, other):
    def plant():
        shutil.rmtree(one)
        shutil.copytree(other, one)

    return plant


HELD = []


def locked(path):
    """As if another process were at work there."""

    def plant():
        HELD.append(open(path, "a+"))  # noqa: SIM115
        fcntl.flock(HELD[-1], fcntl.LOCK_EX)

    return plant


def nothing():
    pass
