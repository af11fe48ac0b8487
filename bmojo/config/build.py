"""gin makes the objects; what goes wrong is told with the place of the binding."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gin

from bmojo.config.check import Checked, check
from bmojo.config.parse import Macro, Place, Reference, find, join, read
from bmojo.config.registry import Registry
from bmojo.config.render import render
from bmojo.errors import ConfigError, nearest, type_problem

__all__ = ["Loaded", "load"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a config made.

    Attributes:
      value: the root object.
      text: every binding in force, defaults too; loading it makes an equal object.
      places: key and place of every binding in force.
    """

    value: Any
    text: str
    places: dict[str, Place]

    def explain(self, error: Exception) -> ConfigError:
        """An error that shows only later, at the place of the parameter that it names.

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

    gin's global state is cleared before and after.

    Args:
      registry: the names that configs may use.
      root: the name of what to make.
      configs: files, each overriding those before.
      overrides: 'KEY=VALUE', overriding the files.

    Raises:
      ConfigError: one line with the place of the first thing that is wrong.
    """
    bindings, imports = read(configs, overrides)
    origin = Place(find(str(configs[0]), Path.cwd()))
    checked = check(bindings, registry, root, origin)
    value, made = _make(registry, root, checked)
    places = {key: b.place for key, b in checked.bindings.items() if b.parameter}
    return Loaded(value, render(value, registry, made, imports), places)


def _make(
    registry: Registry, root: str, checked: Checked
) -> tuple[Any, dict[int, tuple[Any, str]]]:
    """Run gin. Returns the object, and by id every object made and the scope it was made in."""
    made: dict[int, tuple[Any, str]] = {}
    failure: list[ConfigError] = []

    def make(name: str, arguments: dict[str, Any]) -> Any:
        scope = tuple(gin.current_scope())
        try:
            instance = _instance(registry, name, scope, arguments, checked)
        except ConfigError as error:
            failure.append(error)  # gin is about to add lines of its own to the message
            raise
        made[id(instance)] = (instance, "/".join(scope))
        return instance

    for name in registry.names():
        _register(registry, name)
    lines = [
        f"{_key(b.scope, b.name, b.parameter, registry)} = {_text(b.value, registry)}"
        for b in checked.bindings.values()
    ]
    _MAKERS[registry.module] = make
    try:
        with gin.unlock_config():
            gin.clear_config()
            gin.parse_config("\n".join(lines))
            value = gin.get_configurable(f"{registry.module}.{root}")()
    except ConfigError:
        raise failure[0] from None
    finally:
        del _MAKERS[registry.module]
        with gin.unlock_config():
            gin.clear_config()
    return value, made


_MAKERS: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
"""The make of the load that is under way, by the module of its registry."""

_REGISTERED: set[tuple[str, str]] = set()
"""What gin knows already; it refuses to be told twice."""


def _register(registry: Registry, name: str) -> None:
    module = registry.module
    if (module, name) in _REGISTERED:
        return

    def factory(**arguments: Any) -> Any:
        return _MAKERS[module](name, arguments)

    factory.__name__ = factory.__qualname__ = name
    factory.__signature__ = inspect.signature(registry[name])  # type: ignore[attr-defined]
    gin.external_configurable(factory, name=name, module=module)
    _REGISTERED.add((module, name))


def _instance(
    registry: Registry,
    name: str,
    scope: tuple[str, ...],
    arguments: dict[str, Any],
    checked: Checked,
) -> Any:
    """Make one object, types first."""
    parameters = registry.parameters(name)
    for parameter, value in arguments.items():
        problem = type_problem(value, parameters[parameter])
        if problem is not None:
            place = checked.place(scope, name, parameter)
            raise ConfigError(f"{place}: {name}.{parameter}: {problem}")
    try:
        return registry[name](**arguments)
    except (TypeError, ValueError) as error:
        message = " ".join(str(error).split()).removeprefix(f"{name}.")
        field = re.match(r"(\w+)(?:\[\d+\])?: ", message)
        if field is None or field.group(1) not in parameters:
            raise ConfigError(f"{checked.place(scope, name)}: {name}: {message}") from None
        parameter = field.group(1)
        hint = _choice(arguments.get(parameter), message)
        place = checked.place(scope, name, parameter)
        raise ConfigError(f"{place}: {name}.{message}{hint}") from None


def _choice(value: Any, message: str) -> str:
    """A suggestion, if the message names choices and the value looks like one of them."""
    if not isinstance(value, str) or "did you mean" in message:
        return ""
    near = nearest(value, set(re.findall(r"'(\w+)'", message)) - {value})
    return f"; did you mean {near!r}?" if near else ""


def _key(scope: str, name: str, parameter: str, registry: Registry) -> str:
    return join(scope, f"{registry.module}.{name}.{parameter}") if parameter else name


def _text(value: Any, registry: Registry) -> str:
    """A value as gin reads it, with full names."""
    if isinstance(value, Reference):
        return f"@{join(value.scope, f'{registry.module}.{value.name}')}()"
    if isinstance(value, Macro):
        return repr(value)
    if isinstance(value, tuple):
        return f"({''.join(_text(entry, registry) + ', ' for entry in value)})"
    if isinstance(value, list):
        return f"[{', '.join(_text(entry, registry) for entry in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_text(k, registry)}: {_text(v, registry)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    return repr(value)
