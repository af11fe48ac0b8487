"""Construction of the objects that a config describes; an error names the place of its binding."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bmojo.config.check import Checked, Scope, check
from bmojo.config.parse import Macro, Place, Reference, find, read
from bmojo.config.registry import Registry
from bmojo.config.render import render
from bmojo.errors import ConfigError, nearest, type_problem

__all__ = ["Loaded", "load"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """The object that a config describes.

    Attributes:
      value: the root object.
      text: every binding in force, defaults too; loading it makes an equal object.
      places: key and place of every binding in force.
    """

    value: Any
    text: str
    places: dict[str, Place]

    def explain(self, error: Exception) -> ConfigError:
        """A later error of the objects, with the place of the parameter that it names.

        A message 'Name.field: what is wrong' or 'field: what is wrong' belongs to the only
        parameter of that name, if there is one; any other message stands without a place.
        """
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
    registry: Registry,
    root: str,
    configs: Sequence[str | Path],
    overrides: Sequence[str] = (),
) -> Loaded:
    """Make the object called ``root`` from config files and command-line overrides.

    Args:
      registry: the names that configs may use.
      root: the name of the object.
      configs: files, each overriding those before.
      overrides: 'KEY=VALUE', overriding the files.

    Raises:
      ConfigError: one line with the place of the first error.
    """
    bindings, imports = read(configs, overrides)
    origin = Place(find(str(configs[0]), Path.cwd()))
    checked = check(bindings, registry, root, origin)
    builder = _Builder(checked)
    value = builder.make(Reference("", root, True), ())
    places = {key: checked.origin(b) for key, b in checked.bindings.items() if b.parameter}
    return Loaded(value, render(value, registry, builder.made, imports), places)


class _Builder:
    """Makes objects.

    Attributes:
      made: every object and the scope that it was made in, by the object's id.
    """

    def __init__(self, checked: Checked) -> None:
        self.checked = checked
        self.made: dict[int, tuple[Any, str]] = {}

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
        parameter = field.group(1)
        place = self.checked.place(scope, name, parameter)
        return ConfigError(f"{place}: {name}.{message}{_choice(arguments.get(parameter), message)}")


def _choice(value: Any, message: str) -> str:
    """A suggestion, if the message names choices and the value looks like one of them."""
    if not isinstance(value, str) or "did you mean" in message:
        return ""
    near = nearest(value, set(re.findall(r"'(\w+)'", message)) - {value})
    return f"; did you mean {near!r}?" if near else ""
