"""The gin text of objects: loading it makes them again."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from bmojo.config.parse import join
from bmojo.config.registry import Registry

__all__ = ["render"]


def render(
    value: Any,
    registry: Registry,
    made: dict[int, tuple[Any, str]],
    imports: Sequence[str] = (),
) -> str:
    """Write every field of a tree of configs, defaults too, sorted by name.

    Objects keep the scope that they were made in, so that an override of the config fits the
    text too. An object that no binding made takes the scope of its parts or of its holder; of
    two different ones in one scope, the second gets a scope of its own.

    Args:
      value: the root; its fields hold registered dataclasses, tuples of them, and literals.
      registry: names of the classes.
      made: objects that gin made and the scope in which, by their id.
      imports: modules that the config needs.

    Raises:
      TypeError: the value of a field cannot be written in a gin file.
    """
    scopes: dict[int, str] = {}
    blocks: dict[tuple[str, str], Any] = {}

    def place(instance: Any, above: str) -> None:
        name = registry.name_of(instance)
        assert name is not None
        wanted = scope = _scope(instance, above, registry, made)
        number = 1
        while blocks.setdefault((name, scope), instance) != instance:
            scope = join(wanted, f"{name.lower()}_{number}")
            number += 1
        scopes[id(instance)] = scope
        for part in _parts(instance, registry):
            place(part, scope)

    def text(value: Any) -> str:
        name = registry.name_of(value)
        if name is not None:
            return f"@{join(scopes[id(value)], name)}()"
        if isinstance(value, tuple):
            return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{text(k)}: {text(v)}' for k, v in value.items())}}}"
        if value is None or isinstance(value, bool | int | float | str):
            return repr(value)
        raise TypeError(f"{value!r} cannot be written in a config")

    place(value, "")
    written = ["\n".join(f"import {module}" for module in imports)] if imports else []
    for (name, scope), instance in sorted(blocks.items(), key=lambda item: item[0]):
        lines = [
            f"{join(scope, name)}.{parameter} = {text(getattr(instance, parameter))}"
            for parameter in sorted(registry.parameters(name))
        ]
        written.append("\n".join(lines))
    return "# Every binding in force, defaults included.\n\n" + "\n\n".join(written) + "\n"


def _scope(instance: Any, above: str, registry: Registry, made: dict[int, tuple[Any, str]]) -> str:
    if id(instance) in made:
        return made[id(instance)][1]
    for part in _parts(instance, registry):
        if id(part) in made:
            return made[id(part)][1]
    return above


def _parts(instance: Any, registry: Registry) -> Iterator[Any]:
    """Registered dataclasses that the fields of one hold."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        for entry in value if isinstance(value, tuple) else (value,):
            if registry.name_of(entry) is not None:
                yield entry
