import os
import subprocess
import sys

import pytest

from bmojo.cli import pages

CODE = """
import os, sys
from bmojo.cli.pages import take_large_pages
take_large_pages()
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


def test_large_pages_are_asked_for_beside_what_was_set(asked):
    want = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "A": "b"}
    assert pages.environment({"A": "b"}) == want
    given = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
    both = "glibc.malloc.arena_max=1:glibc.malloc.hugetlb=1"
    assert pages.environment(given) == {"GLIBC_TUNABLES": both}


def test_nothing_is_asked_for_where_it_was_or_cannot_be(asked, monkeypatch):
    for value in ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=1"):
        given = {"GLIBC_TUNABLES": value}
        assert pages.environment(given) == given
    for policy in ("[always] madvise never", "always madvise [never]"):
        asked.write_text(policy)
        assert pages.environment({}) == {}
    asked.unlink()
    assert pages.environment({}) == {}
    asked.write_text("always [madvise] never")
    for library in ("glibc 2.31", "", None):
        monkeypatch.setattr(os, "confstr", lambda name, library=library: library)
        assert pages.environment({}) == {}
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
