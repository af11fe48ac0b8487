import os
import subprocess
import sys

import pytest

from bmojo import malloc

CODE = """
import os, sys
from bmojo.malloc import restart_with_tunables
restart_with_tunables()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), *sys.argv[1:])
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A system that gives large pages where they are asked for."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(malloc, "POLICY", policy)
    return policy


ONE, LARGE = "glibc.malloc.arena_max=1", "glibc.malloc.hugetlb=1"


def test_memory_is_asked_for_beside_what_was_set(asked):
    want = {"GLIBC_TUNABLES": f"{ONE}:{LARGE}", "A": "b"}
    assert malloc.environment({"A": "b"}) == want
    given = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
    assert malloc.environment(given) == {
        "GLIBC_TUNABLES": f"glibc.malloc.tcache_count=7:{ONE}:{LARGE}"
    }


@pytest.mark.parametrize("value", ["glibc.malloc.arena_max=4", ONE])
def test_what_was_asked_for_is_left(asked, value):
    for other in ("glibc.malloc.hugetlb=0", LARGE):
        given = {"GLIBC_TUNABLES": f"{other}:{value}"}
        assert malloc.environment(given) == given
    assert malloc.environment({"GLIBC_TUNABLES": value}) == {"GLIBC_TUNABLES": f"{value}:{LARGE}"}


def test_large_pages_are_asked_for_where_that_decides(asked):
    for policy in ("[always] madvise never", "always madvise [never]"):
        asked.write_text(policy)
        assert malloc.environment({}) == {"GLIBC_TUNABLES": ONE}
    asked.unlink()
    assert malloc.environment({}) == {"GLIBC_TUNABLES": ONE}


def test_nothing_is_asked_of_a_library_that_does_not_know_it(asked, monkeypatch):
    for library, want in (("glibc 2.31", ONE), ("glibc 2.25", None), ("", None), (None, None)):
        monkeypatch.setattr(os, "confstr", lambda name, library=library: library)
        assert malloc.environment({}) == ({"GLIBC_TUNABLES": want} if want else {})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert malloc.environment({}) == {}


def test_the_program_is_the_same_process_with_the_same_arguments(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(CODE)
    bare = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    bare["PYTHONPATH"] = ":".join(sys.path)
    for words in (["train", "a b", "--x"], ["sweep"], []):
        run = subprocess.Popen(
            [sys.executable, script, *words], stdout=subprocess.PIPE, text=True, env=bare
        )
        said, _ = run.communicate()
        computes = words[:1] == ["train"]
        tunables = malloc.environment(bare).get("GLIBC_TUNABLES", "") if computes else ""
        assert said == " ".join([str(run.pid), tunables, *words]) + "\n"
        assert run.returncode == 0


@pytest.mark.parametrize(("parent", "restarts"), [(None, 1), (object(), 0)])
def test_a_process_of_multiprocessing_is_not_started_again(asked, monkeypatch, parent, restarts):
    calls = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "argv", ["bmojo", "train"])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: parent)
    malloc.restart_with_tunables()
    assert len(calls) == restarts


FAULTS = """
import ctypes, mmap, resource, sys
from bmojo.malloc import keep_freed_memory

libc, size, rounds = ctypes.CDLL(None), 16 * 2**20, 20
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep":
    assert keep_freed_memory()

def use():
    block = libc.malloc(ctypes.c_size_t(size))
    for place in range(0, size, mmap.PAGESIZE):
        ctypes.c_byte.from_address(block + place).value = 1
    libc.free(ctypes.c_void_p(block))

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(rounds):
    use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * mmap.PAGESIZE / (rounds * size))
"""


def refetched(mode):
    """Share of an array's memory that each allocation fetches from the system again."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets an option of glibc")
def test_freed_memory_is_kept():
    if refetched("leave") < 0.5:
        pytest.skip("this system hands out pages too large to count faults by")
    assert refetched("keep") < 0.05
