"""Construction of the objects that a config describes, and their gin text.

An error names the place of its binding.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.config.check import Checked, Scope, check
from bmojo.config.parse import Macro, Place, Reference, find, join, read
from bmojo.config.registry import Registry
from bmojo.errors import ConfigError, nearest, type_problem

__all__ = ["Loaded", "load"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The root object of a config, and the text and places (by key) of all bindings in force.

    Loading the text, which holds defaults too, makes an equal object.
    """

    value: Any
    text: str
    places: dict[str, Place]

    def explain(self, error: Exception) -> ConfigError:
        """A later error, with the place of the only parameter that its 'Name.field: ' fits."""
        message = " ".join(str(error).split())
        field = re.match(r"(?:\w+\.)?(\w+): ", message)
        if field is None:
            return ConfigError(message)
        for wanted in (field.group()[:-2], field.group(1)):
            keys = [key for key in self.places if re.search(rf"(^|[./]){wanted}$", key)]
            if len(keys) == 1:
                return ConfigError(f"{self.places[keys[0]]}: {keys[0]}: {message[field.end() :]}")
        return ConfigError(message)


def load(
    registry: Registry, root: str, configs: Sequence[str | Path], overrides: Sequence[str] = ()
) -> Loaded:
    """Make the object called ``root`` of a registry from config files and 'KEY=VALUE' overrides.

    Each file overrides those before it. A ConfigError is one line with the place of the first
    error.
    """
    bindings, imports = read(configs, overrides)
    origin = Place(find(str(configs[0]), Path.cwd()))
    checked = check(bindings, registry, root, origin)
    builder = _Builder(checked)
    value = builder.make(Reference("", root, True), ())
    places = {key: checked.origin(b) for key, b in checked.bindings.items() if b.parameter}
    return Loaded(value, _render(value, registry, builder.made, imports), places)


class _Builder:
    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.made: dict[int, tuple[Any, str]] = {}  # objects and their scopes, by id

    def make(self, reference: Reference, active: Scope) -> Any:
        scope, name = reference.within(active), reference.name
        registry = self.checked.registry
        parameters = registry.parameters(name)
        bound = {p: self.checked.find(scope, name, p) for p in parameters}
        arguments = {p: self.value(b.value, scope) for p, b in bound.items() if b is not None}
        for parameter, value in arguments.items():
            problem = type_problem(value, parameters[parameter])
            if problem is not None:
                place = self.checked.place(scope, name, parameter)
                raise ConfigError(f"{place}: {name}.{parameter}: {problem}")
        try:
            instance = registry[name](**arguments)
        except (TypeError, ValueError) as error:
            raise self.located(error, scope, name, arguments) from None
        self.made[id(instance)] = (instance, "/".join(scope))
        return instance

    def value(self, value: Any, scope: Scope) -> Any:
        """A value of a binding, its references made and its macros replaced."""
        if isinstance(value, Reference):
            return self.make(value, scope)
        if isinstance(value, Macro):
            return self.value(self.checked.bindings[value.name].value, scope)
        if isinstance(value, tuple | list):
            return type(value)(self.value(entry, scope) for entry in value)
        if isinstance(value, dict):
            return {self.value(k, scope): self.value(v, scope) for k, v in value.items()}
        return value

    def located(
        self, error: Exception, scope: Scope, name: str, arguments: dict[str, Any]
    ) -> ConfigError:
        """An error of a constructor, with the place of the parameter that it names."""
        message = " ".join(str(error).split()).removeprefix(f"{name}.")
        field = re.match(r"(\w+)(?:\[\d+\])?: ", message)
        if field is None or field.group(1) not in self.checked.registry.parameters(name):
            return ConfigError(f"{self.checked.place(scope, name)}: {name}: {message}")
        place, value = self.checked.place(scope, name, field[1]), arguments.get(field[1])
        if isinstance(value, str) and "did you mean" not in message:
            near = nearest(value, set(re.findall(r"'(\w+)'", message)) - {value})
            message += f"; did you mean {near!r}?" if near else ""
        return ConfigError(f"{place}: {name}.{message}")


def _render(
    value: Any, registry: Registry, made: dict[int, tuple[Any, str]], imports: Sequence[str]
) -> str:
    """The gin text of every field of a tree of configs, defaults too, sorted by name.

    Objects keep the scope that they were made in, so that an override of the config fits the
    text too. An object that no binding made takes the scope of its parts or of its holder; of
    two different ones in one scope, the second gets a scope of its own.
    """
    scopes: dict[int, str] = {}
    blocks: dict[tuple[str, str], Any] = {}

    def place(instance: Any, above: str) -> None:
        name = registry.name_of(instance)
        assert name is not None
        near = (instance, *_parts(instance, registry))
        wanted = scope = next((made[id(x)][1] for x in near if id(x) in made), above)
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
        fields = sorted(registry.parameters(name))
        lines = [f"{join(scope, name)}.{f} = {text(getattr(instance, f))}" for f in fields]
        written.append("\n".join(lines))
    return "# Every binding in force, defaults included.\n\n" + "\n\n".join(written) + "\n"


def _parts(instance: Any, registry: Registry) -> Iterator[Any]:
    """Registered dataclasses that the fields of one hold."""
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        for entry in value if isinstance(value, tuple) else (value,):
            if registry.name_of(entry) is not None:
                yield entry
