"""Consoles show texts of users as they are."""

import ast
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rich.console

import bmojo
from bmojo.console import line, make_console, make_table, progress_bar

PACKAGE = Path(bmojo.__file__).parent
STRANGE = "runs/[bold]a[/bold] :smile: [/nothing]"


def shown(*things, width=40):
    file = io.StringIO()
    console = make_console(file=file, width=width)
    for thing in things:
        (line if isinstance(thing, str) else type(console).print)(console, thing)
    return file.getvalue()


def test_brackets_are_no_markup_in_lines_and_tables():
    assert shown(STRANGE) == f"{STRANGE}\n"
    table = shown(make_table(STRANGE, (STRANGE, "b"), [(STRANGE, 3)]), width=120)
    assert table.count(STRANGE) == 3


def test_a_line_is_plain_on_any_console():
    console = rich.console.Console(file=io.StringIO(), width=200)
    line(console, f"1 {STRANGE}")
    assert console.file.getvalue() == f"1 {STRANGE}\n"


def test_a_line_is_never_broken():
    assert shown("x" * 90) == "x" * 90 + "\n"


def test_columns_and_rules():
    rows = [("a", 1), None, ("long", 1000)]
    text = shown(make_table(None, ("name", "number"), rows, left=["name"]))
    assert "│ a    │      1 │" in text
    assert "│ long │   1000 │" in text
    assert text.count("├") == 1, "a rule between the rows, beside that below the head"


def test_no_bar_without_a_terminal(capsys):
    with progress_bar(STRANGE, 3) as done:
        done(1)
    assert capsys.readouterr() == ("", "")


def test_nothing_else_makes_a_console_or_prints_a_text():
    """A text of a user can be in any line; only :func:`line` prints it as it is everywhere."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name != "console.py":
                owner, _, name = ast.unparse(node.func).rpartition(".")
                text = bool(node.args) and isinstance(node.args[0], ast.JoinedStr | ast.Constant)
                text = text or (bool(node.args) and ast.unparse(node.args[0]).startswith("str("))
                printed = owner.endswith(("console", "errors")) and name == "print" and text
                if printed or name in ("Console", "from_markup"):
                    found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not found, "\n".join(found)


LOSING = """
import sys
from bmojo.console import line, make_console
console = make_console(lasting=True)
for number in range(8000):
    line(console, f"line {number}")
print("at the end", file=sys.stderr)
"""


def losing(redirection="", **options):
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", LOSING]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_lasting_console_survives_its_reader():
    process = losing(stdout=subprocess.PIPE)
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == "at the end\n"
    assert process.wait() == 0


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_a_lasting_console_needs_no_output(redirection):
    if redirection == ">/dev/full" and not Path("/dev/full").exists():
        pytest.skip("there is no full device")
    process = losing(redirection)
    assert process.communicate()[1] == "at the end\n"
    assert process.returncode == 0


def test_a_lasting_console_takes_every_name():
    code = LOSING.replace('f"line {number}"', '"\\udcff \\xfc"').replace("8000", "1")
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\\udcff \\xfc\n", "at the end\n")
