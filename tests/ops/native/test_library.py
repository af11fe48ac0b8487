"""The library of kernels: made once, by one process, and a clear line where it cannot be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bmojo.ops.native import library

COMPILER = """#!/bin/sh
case "$*" in *-dM*) exit ;; esac
echo "$@" >> {log}
sleep 0.1
while [ "$1" != -o ]; do shift; done
echo a library > "$2"
"""


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """What the compiler is, a script; returns how to write it. Libraries go to an empty folder."""
    monkeypatch.setenv("BMOJO_NATIVE_DIR", str(tmp_path / "native"))

    def write(text):
        path = tmp_path / "compiler"
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setenv("CXX", str(path))

    return write


def why_not():
    return library.why_not.__wrapped__()


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("BMOJO_NATIVE", "0")
    assert why_not() == "BMOJO_NATIVE=0"


def test_a_compiler_that_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert why_not() == "there is no C++ compiler 'no-such-compiler -O2' (set CXX)"


def test_an_error_of_the_compiler_is_one_line(compiler):
    compiler(
        '#!/bin/sh\ncase "$*" in *-dM*) exit ;; esac\n'
        "printf 'In file included\\nscan.cc:1:1: error: boom\\nnote\\n' >&2; exit 1\n"
    )
    with pytest.warns(UserWarning, match="no kernels for this CPU: .*boom"):
        why = why_not()
    assert why is not None and why.endswith("compiler failed: scan.cc:1:1: error: boom")
    assert "\n" not in why


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BMOJO_NATIVE_DIR", str(tmp_path / "file" / "native"))
    with pytest.warns(UserWarning, match="Not a directory"):
        assert "Not a directory" in str(why_not())


def test_processes_that_come_together_compile_once(tmp_path, compiler):
    log = tmp_path / "log"
    compiler(COMPILER.format(log=log))
    code = (
        "from bmojo.ops.native import library as l; import os; print(l._built([os.environ['CXX']]))"
    )
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": os.environ}
    started = [subprocess.Popen([sys.executable, "-c", code], **piped) for _ in range(3)]
    outputs, errors = zip(*(process.communicate() for process in started), strict=True)
    told = f"compiling kernels for this CPU, once, by {os.environ['CXX']}".encode()
    assert sum(told in error for error in errors) == 1, "who compiles says so, others wait"
    made = set(outputs)
    assert len(made) == 1 and Path(made.pop().decode().strip()).exists()
    lines = log.read_text().splitlines()
    assert len(lines) == len(library.SOURCES) + 1
    assert sum("-shared" in line for line in lines) == 1


def test_every_handler_of_the_sources_is_known():
    names = library._names()
    assert {"scan_f32", "scan_f64", "scan_gradient_f32", "scan_gradient_f64"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("damage", [b"", b"\x7fELF", None])
def test_a_damaged_library_is_made_anew(tmp_path, compiler, damage):
    log = tmp_path / "log"
    compiler(COMPILER.format(log=log))
    made = library._built([os.environ["CXX"]])
    assert library._built([os.environ["CXX"]]) == made
    assert sum("-shared" in line for line in log.read_text().splitlines()) == 1
    whole = made.read_bytes()
    made.write_bytes(whole[:-1] if damage is None else damage)
    assert library._built([os.environ["CXX"]]) == made
    assert made.read_bytes() == whole
    assert sum("-shared" in line for line in log.read_text().splitlines()) == 2


@pytest.mark.parametrize("part", ["folder", "library"])
def test_a_library_that_others_may_write_is_refused(tmp_path, compiler, part):
    compiler(COMPILER.format(log=tmp_path / "log"))
    made = library._built([os.environ["CXX"]])
    path = made if part == "library" else made.parent
    path.chmod(0o777)
    with pytest.warns(UserWarning, match="others may write it; take the rights away"):
        why = why_not()
    assert why is not None and why.startswith(str(path)) and "\n" not in why
