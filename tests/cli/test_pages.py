import os
import subprocess
import sys

import pytest

from bmojo.cli import pages

CODE = """
import os, sys
from bmojo.cli.pages import ask_for_memory
ask_for_memory()
print(os.getpid(), os.environ.get("GLIBC_TUNABLES", ""), *sys.argv[1:])
"""


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """A system that gives large pages where they are asked for."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    policy = tmp_path / "enabled"
    policy.write_text("always [madvise] never\n")
    monkeypatch.setattr(pages, "POLICY", policy)
    return policy


ONE, LARGE = "glibc.malloc.arena_max=1", "glibc.malloc.hugetlb=1"


def test_memory_is_asked_for_beside_what_was_set(asked):
    want = {"GLIBC_TUNABLES": f"{ONE}:{LARGE}", "A": "b"}
    assert pages.environment({"A": "b"}) == want
    given = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
    assert pages.environment(given) == {
        "GLIBC_TUNABLES": f"glibc.malloc.tcache_count=7:{ONE}:{LARGE}"
    }


@pytest.mark.parametrize("value", ["glibc.malloc.arena_max=4", ONE])
def test_what_was_asked_for_is_left(asked, value):
    for other in ("glibc.malloc.hugetlb=0", LARGE):
        given = {"GLIBC_TUNABLES": f"{other}:{value}"}
        assert pages.environment(given) == given
    assert pages.environment({"GLIBC_TUNABLES": value}) == {"GLIBC_TUNABLES": f"{value}:{LARGE}"}


def test_large_pages_are_asked_for_where_that_decides(asked):
    for policy in ("[always] madvise never", "always madvise [never]"):
        asked.write_text(policy)
        assert pages.environment({}) == {"GLIBC_TUNABLES": ONE}
    asked.unlink()
    assert pages.environment({}) == {"GLIBC_TUNABLES": ONE}


def test_nothing_is_asked_of_a_library_that_does_not_know_it(asked, monkeypatch):
    for library, want in (("glibc 2.31", ONE), ("glibc 2.25", None), ("", None), (None, None)):
        monkeypatch.setattr(os, "confstr", lambda name, library=library: library)
        assert pages.environment({}) == ({"GLIBC_TUNABLES": want} if want else {})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert pages.environment({}) == {}


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
        tunables = pages.environment(bare).get("GLIBC_TUNABLES", "") if computes else ""
        assert said == " ".join([str(run.pid), tunables, *words]) + "\n"
        assert run.returncode == 0
