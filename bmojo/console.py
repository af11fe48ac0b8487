"""The terminal: consoles without markup, tables, progress bars."""

import contextlib
import io
import os
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Progress = Callable[[int], None]
"""Adds to what is done."""


def unseen(count: int) -> None:
    """Show no progress."""


class _Lasting:
    """Standard output or error, whose loss changes nothing: what cannot be written is lost."""

    def __init__(self, name: str):
        self._name = name

    def _file(self) -> Any:
        file = getattr(sys, self._name)
        return getattr(file, "rich_proxied_file", file) or io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file(), name)

    def write(self, text: str) -> int:
        with self._lost_if_it_fails():
            coding = getattr(self._file(), "encoding", None) or "utf-8"
            self._file().write(text.encode(coding, "backslashreplace").decode(coding))
        return len(text)

    def flush(self) -> None:
        with self._lost_if_it_fails():
            self._file().flush()

    @contextlib.contextmanager
    def _lost_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            lose(self._file())


def lose(file: Any) -> None:
    """Let a file that cannot be written take everything from now on, and lose it."""
    with contextlib.suppress(OSError, ValueError):
        number = os.open(os.devnull, os.O_WRONLY)
        os.dup2(number, file.fileno())
        os.close(number)


def make_console(lasting: bool = False, **options: Any) -> "Console":
    """A ``rich.console.Console`` that shows texts as they are: no markup, no coloured numbers.

    With ``lasting`` it goes on when standard output is lost, as by ``| head``.
    """
    from rich.console import Console

    if lasting:
        options["file"] = _Lasting("stderr" if options.get("stderr") else "stdout")
    return Console(**{"markup": False, "emoji": False, "highlight": False, **options})


def line(console: "Console", text: Any, **style: Any) -> None:
    """Print one line as it is, on any console, however long it is."""
    text = str(text)
    console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False, **style)


def make_table(
    title: str | None,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any] | None],
    left: Sequence[str] = (),
) -> "Table":
    """A table whose columns are on the right, but for those named in ``left``.

    A row that is None draws a rule.
    """
    from rich.table import Table

    table = Table(title=title)
    for name in columns:
        table.add_column(name, justify="left" if name in left else "right")
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*map(str, row))
    return table


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, whose columns but the first are on the right."""
    cells = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells)


class _Cells(string.Formatter):
    """Formats fields of a row; None is an empty cell."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return "" if value is None else format(value, format_spec)


def format_table(
    title: str,
    columns: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
    left: Sequence[str] = (),
) -> "Table":
    """:func:`make_table` of rows with named fields.

    ``columns`` has the format of each column by its heading, such as ``"{loss:.3f}"``; a field
    that is None gives an empty text.
    """
    cells = ([_Cells().vformat(form, (), row) for form in columns.values()] for row in rows)
    return make_table(title, tuple(columns), cells, left)


@contextlib.contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on standard error, if that is a terminal.

    Yields:
      A function that adds to the finished part of ``total``.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), MofNCompleteColumn(), Remaining())
    console = make_console(stderr=True)
    options = {"transient": True, "redirect_stdout": False, "disable": not console.is_terminal}
    with Progress(*columns, console=console, **options) as bar:  # type: ignore[arg-type]
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)
