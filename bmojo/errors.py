"""Errors that a user can mend, and the words they are told in.

A :class:`UserError` is one line that says what is wrong and what to do; the command line
prints it without a traceback.
"""

import difflib
import sys
import types
import typing
from collections.abc import Iterable
from typing import Any

LARGEST: dict[Any, float] = {int: 2**63 - 1, float: sys.float_info.max}
_NAMES = {int: "an integer", float: "a number", str: "a string", bool: "True or False"}


class UserError(Exception):
    """Something that the user asked for cannot be done; the message is one line."""

    exit_code = 2
    """Of a command that ends with it."""


class ConfigError(UserError):
    """A config is wrong; the message starts with the file and the line."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut at 200 characters; its class if it has no text."""
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that looks most like ``word``, or None if none does.

    Case does not count, so that ``bmojo`` finds ``BMojo``; initials do: ``lr`` finds
    ``learning_rate``.
    """
    folded = {choice.lower(): choice for choice in sorted(choices)}
    initials = {"".join(part[:1] for part in name.split("_")): name for name in folded}
    if len(word) > 1 and word.lower() in initials:
        return folded[initials[word.lower()]]
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def suggestion(word: str, choices: Iterable[str]) -> str:
    """The end of an error about an unknown ``word``: the nearest choice, or all of them."""
    choices = sorted(set(choices))
    near = nearest(word, choices)
    if near is not None:
        return f"did you mean {near!r}?"
    return f"choose one of {', '.join(choices)}" if choices else "there are none"


def type_problem(value: Any, annotation: Any) -> str | None:
    """What is wrong with ``value`` as a value of type ``annotation``, with a remedy, or None.

    An integer is a number, a boolean is neither. Types known: bool, int, float, str, None,
    Any, unions, Literal, tuple, dict (not what is in it), classes, and protocols, of which the
    names are looked up.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is object:
        return None
    if annotation is None or annotation is types.NoneType:
        return None if value is None else f"{value!r} is not None"
    if origin in (typing.Union, types.UnionType):
        return _union_problem(value, arguments)
    if origin is typing.Literal:
        return _literal_problem(value, arguments)
    if annotation is tuple or origin is tuple:
        return _tuple_problem(value, arguments)
    if origin is dict:
        return None if isinstance(value, dict) else f"{value!r} is not a dictionary, {{key: value}}"
    if annotation in _NAMES:
        return _simple_problem(value, annotation)
    if not isinstance(origin or annotation, type):
        return None
    return _class_problem(value, origin or annotation)


def _simple_problem(value: Any, annotation: type) -> str | None:
    accepted = (int, float) if annotation is float else (annotation,)
    if isinstance(value, accepted) and (annotation is bool or not isinstance(value, bool)):
        limit = LARGEST.get(annotation)
        if limit is None or not isinstance(value, int | float) or -limit <= value <= limit:
            return None
        return f"it is not a number of at most {limit:.0e}; give another"
    problem = f"{value!r} is not {_NAMES[annotation]}"
    if annotation is int and isinstance(value, float) and value.is_integer():
        problem += f"; write {int(value)}"
    return problem


def _union_problem(value: Any, arguments: tuple[Any, ...]) -> str | None:
    problems = [type_problem(value, argument) for argument in arguments]
    if None in problems:
        return None
    optional = types.NoneType in arguments
    main = [problem for problem in problems if problem and not problem.endswith(" is not None")]
    if len(main) == 1:
        head, semicolon, remedy = main[0].partition(";")
        return head + (" or None" if optional else "") + semicolon + remedy
    wanted = [_describe(argument) for argument in arguments]
    return f"{value!r} is not {' or '.join(wanted)}"


def _literal_problem(value: Any, choices: tuple[Any, ...]) -> str | None:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return None
    words = [choice for choice in choices if isinstance(choice, str)]
    near = nearest(value, words) if isinstance(value, str) else None
    tail = f"did you mean {near!r}? The choices are" if near else "choose one of"
    return f"{value!r} is unknown; {tail} {', '.join(map(repr, choices))}"


def _tuple_problem(value: Any, arguments: tuple[Any, ...]) -> str | None:
    if isinstance(value, list):
        return f"{value!r} is a list; write a tuple, {_as_tuple(value)}"
    if not isinstance(value, tuple):
        return f"{_show(value)} is not a tuple; write {_as_tuple([value])}, with the comma"
    if not arguments:
        return None
    if arguments[1:] == (Ellipsis,):
        arguments = arguments[:1] * len(value)
    if len(arguments) != len(value):
        return f"{value!r} has {len(value)} entries; give {len(arguments)}"
    problems = map(type_problem, value, arguments)
    found = (f"entry {index}: {problem}" for index, problem in enumerate(problems) if problem)
    return next(found, None)


def _class_problem(value: Any, wanted: type) -> str | None:
    if getattr(wanted, "_is_protocol", False):
        names = [n for n in vars(wanted) if not n.startswith("_")]
        fits = not isinstance(value, type) and all(hasattr(value, name) for name in names)
    else:
        fits = isinstance(value, wanted)
    if fits:
        return None
    return f"{_show(value)} is not a {wanted.__name__}; give a reference, such as @Name()"


def _describe(annotation: Any) -> str:
    if annotation is types.NoneType:
        return "None"
    return _NAMES.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _show(value: Any) -> str:
    """A value in an error: objects by their class, as they can be long."""
    return f"a {type(value).__name__}" if hasattr(value, "__dataclass_fields__") else repr(value)


def _as_tuple(values: list[Any]) -> str:
    shown = ["@...()" if hasattr(v, "__dataclass_fields__") else repr(v) for v in values]
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"
