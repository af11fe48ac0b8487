"""Gin files and command-line overrides -> bindings that know their place.

The grammar is gin's own (``gin.config_parser``); files, includes and places are ours, since
gin looks for an include in the working directory only and forgets where a binding stood.
"""

import dataclasses
import importlib
import re
import sys
import tokenize
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

from bmojo.errors import ConfigError, first_line, nearest

__all__ = [
    "Binding", "Macro", "Place", "Reference", "config_folders", "display", "find", "includes",
    "join", "read", "values",
]  # fmt: skip

LONGEST = 200
"""Characters of an override that an error shows."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something was written: a line of a file, or the command line (``file`` is None)."""

    file: Path | None
    line: int = 0
    text: str = ""

    def __str__(self) -> str:
        if self.file is None:
            shown = self.text[:LONGEST] + ("..." if len(self.text) > LONGEST else "")
            return f"command line: {shown}" if shown else "command line"
        return f"{display(self.file)}:{self.line}" if self.line else display(self.file)


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/Name()``, or ``@scope/Name`` where ``called`` is false."""

    scope: str
    name: str
    called: bool

    def within(self, active: tuple[str, ...]) -> tuple[str, ...]:
        """The scope of the object, where ``active`` is that of the reference."""
        return tuple(self.scope.split("/")) if self.scope else active

    def __repr__(self) -> str:
        return f"@{join(self.scope, self.name)}{'()' if self.called else ''}"


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%NAME``."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """``scope/Name.parameter = value``; a macro has no parameter and its scope in its name.

    Of two with one key the later ``order`` wins. ``root``: it stands in the first file that the
    user named or on the command line, and not in an included file or an overlay.
    """

    scope: str
    name: str
    parameter: str
    value: Any
    place: Place
    order: int
    root: bool

    def wrong(self, message: str) -> ConfigError:
        """An error of this binding, with its place."""
        return ConfigError(f"{self.place}: {self.key}: {message}")

    @property
    def key(self) -> str:
        """The left side."""
        name = f"{self.name}.{self.parameter}" if self.parameter else self.name
        return join(self.scope, name)


def join(scope: str, name: str) -> str:
    """``scope/name``."""
    return f"{scope}/{name}" if scope else name


def display(path: Path) -> str:
    """The path as a user would write it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def values(value: Any) -> Iterator[Reference | Macro]:
    """References and macros inside a value."""
    if isinstance(value, Reference | Macro):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from values(pair)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from values(entry)


def config_folders() -> list[Path]:
    """Where configs are looked for after the folder of the file that includes them."""
    package = Path(__file__).resolve().parent.parent
    folders = [Path.cwd() / "configs", package.parent / "configs", package / "configs"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def find(name: str, first: Path, place: Place | None = None) -> Path:
    """The file called ``name`` in ``first``, the ``configs`` above it, or the config folders.

    In these its name may begin with ``configs/``.

    Raises:
      ConfigError: there is none.
    """
    above = [folder for folder in first.resolve().parents if folder.name == "configs"]
    folders = list(dict.fromkeys([first, *above[:1], *config_folders()]))
    shared = [folder / name.removeprefix("configs/") for folder in folders[1:]]
    for path in [*(folder / name for folder in folders), *shared]:
        if path.is_file():
            return path
    where = place or "command line"
    if (first / name / "config.gin").is_file():
        own = str(Path(name, "config.gin"))
        raise ConfigError(f"{where}: {name!r} is a folder; write {own!r}")
    known = {str(p.relative_to(folder)) for folder in folders[1:] for p in folder.rglob("*.gin")}
    near = nearest(name, known) or nearest(Path(name).name, known)
    searched = ", ".join(display(folder) or "." for folder in folders)
    hint = f"did you mean {near!r}?" if near else f"looked in {searched}"
    raise ConfigError(f"{where}: no config file {name!r}; {hint}")


def includes(path: Path) -> list[str]:
    """The names that a file includes, without those of its includes."""
    found = (statement for statement, _ in _statements(_text(path), Place(path)))
    return [s.filename for s in found if isinstance(s, config_parser.IncludeStatement)]


def read(
    configs: Sequence[str | Path], overrides: Sequence[str]
) -> tuple[list[Binding], list[str]]:
    """All bindings of files and overrides as they count, and the modules that were imported.

    Raises:
      ConfigError: syntax, a missing or circular include, a module that cannot be imported, a
        key bound twice in one file, or a binding that a later include of its own file undoes.
    """
    reader = _Reader()
    for index, config in enumerate(configs):
        reader.file(find(str(config), Path.cwd()), (), root=index == 0)
    for override in overrides:
        reader.override(override)
    return reader.bindings, list(dict.fromkeys(reader.imports))


class _Delegate(config_parser.ParserDelegate):
    """Keeps references and macros as data; nothing is looked up."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        scope, _, name = scoped_configurable_name.rpartition("/")
        return Reference(scope, name, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


_WORD = re.compile(r"[A-Za-z][\w./:+-]*|(~\w*|\.\.?)?/.*|~|\.\.?", re.DOTALL)
"""A word or a path."""


class _Reader:
    def __init__(self) -> None:
        self.bindings: list[Binding] = []
        self.imports: list[str] = []
        self.first = 0

    def file(self, path: Path, including: tuple[Path, ...], root: bool) -> None:
        lines: dict[str, int] = {}
        if not including:
            self.first = len(self.bindings)  # a file given before this one may hold the same
        for statement, place in _statements(_text(path), Place(path)):
            if isinstance(statement, config_parser.IncludeStatement):
                found = find(statement.filename, path.parent, place)
                chain = [p.resolve() for p in (*including, path)]
                if found.resolve() in chain:
                    loop = chain[chain.index(found.resolve()) :]
                    shown = " -> ".join(p.name for p in [*loop, found])
                    raise ConfigError(f"{place}: include cycle: {shown}; remove one include")
                self.file(found, (*including, path), root=False)
            elif isinstance(statement, config_parser.ImportStatement):
                # Last, so that no file there is taken for a module of the library's.
                beside = map(str, (path.resolve().parent, Path.cwd()))
                sys.path += [folder for folder in beside if folder not in sys.path]
                try:
                    importlib.import_module(statement.module)
                except Exception as error:  # the module is code of the user's
                    why = first_line(error)
                    if isinstance(error, ImportError):
                        why += "; put its file beside the config, or its folder into PYTHONPATH"
                    elif not isinstance(error, SyntaxError):
                        last = traceback.extract_tb(error.__traceback__)[-1]
                        why = f"{last.filename}:{last.lineno}: {type(error).__name__}: {why}"
                    message = f"{place}: cannot import {statement.module!r}: {why}"
                    raise ConfigError(message) from None
                self.imports.append(statement.module)
            elif isinstance(statement, config_parser.BindingStatement):
                binding = self.bind(statement, place, root)
                if binding.key in lines:
                    raise ConfigError(
                        f"{place}: {binding.key} is already bound in line {lines[binding.key]} of "
                        "this file; remove one of the two"
                    )
                lines[binding.key] = place.line
                for old in self.bindings[self.first :]:
                    if old.key == binding.key and old.place.file in including:
                        raise ConfigError(
                            f"{old.place}: {old.key} is undone by a later include of this file "
                            f"({place}); put includes first"
                        )

    def override(self, text: str) -> None:
        key, equals, value = (part.strip() for part in text.partition("="))
        place = Place(None, 0, text)
        if not equals or not re.fullmatch(r"[\w./]+", key):
            raise ConfigError(f"command line: {text!r} is not KEY=VALUE, as in Model.d_model=128")
        if _WORD.fullmatch(value) and value not in ("True", "False", "None"):
            value = repr(value)  # a shell eats quotes: Model.dtype=bfloat16 means 'bfloat16'
        for statement, _ in _statements(f"{key} = {value}", place):
            self.bind(statement, place, root=True)

    def bind(self, statement: Any, place: Place, root: bool) -> Binding:
        scope, name, parameter = statement.scope, statement.selector, statement.arg_name
        if not parameter:
            scope, name = "", join(scope, name)
        order = len(self.bindings)
        self.bindings.append(Binding(scope, name, parameter, statement.value, place, order, root))
        return self.bindings[-1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"{display(path)}: cannot be read ({reason}); give a gin file") from None


def _statements(text: str, origin: Place) -> Iterator[tuple[Any, Place]]:
    def place(line: int) -> Place:
        return origin if origin.file is None else dataclasses.replace(origin, line=line)

    try:
        for statement in config_parser.ConfigParser(text, _Delegate()):
            yield statement, place(statement.location.line_num)
    except SyntaxError as error:
        raise ConfigError(f"{place(error.lineno or 0)}: {_syntax(error)}") from None
    except (RecursionError, MemoryError, ValueError) as error:
        why = "too many brackets" if not isinstance(error, ValueError) else first_line(error)
        raise ConfigError(f"{origin}: syntax error: {why}") from None
    except tokenize.TokenError as error:
        line = min(error.args[1][0], len(text.splitlines()))
        raise ConfigError(
            f"{place(line)}: syntax error: the file ends inside a value; close its bracket or quote"
        ) from None


def _syntax(error: SyntaxError) -> str:
    message = " ".join((error.msg or "").split())
    word = re.search(r"Failed to parse token '(.*)'", message)
    if word is not None:
        name = word.group(1)
        literal = {"true": "True", "false": "False", "none": "None", "null": "None"}
        remedy = literal.get(name.lower())
        remedy = f"write {remedy}" if remedy else f"write '{name}', @{name}() or %{name}"
        return f"syntax error: {name} is not a value; {remedy}"
    if message.startswith("Expected newline"):
        return "syntax error: more follows the value; a value is one literal, without arithmetic"
    return f"syntax error: {message.rstrip('.')}"
