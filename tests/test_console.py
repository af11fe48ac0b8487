"""Consoles show texts of users as they are."""

import io

from bmojo.console import line, make_console, make_table, progress_bar

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
