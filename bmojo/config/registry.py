"""The dataclasses that a config may name."""

import dataclasses
import functools
import typing
from typing import Any

__all__ = ["Registry"]


class Registry:
    """Dataclasses by the names that configs call them.

    ``shared_macros`` need no reader in an included file or an overlay, as sizes are written for
    all models.
    """

    def __init__(self, shared_macros: tuple[str, ...] = ()) -> None:
        self.shared_macros = shared_macros
        self._classes: dict[str, type] = {}

    def register(self, name: str, cls: type) -> None:
        """Let configs call the dataclass ``cls`` by ``name``; a ValueError if it is taken."""
        if not dataclasses.is_dataclass(cls):
            raise ValueError(f"{cls!r} is not a dataclass")
        if self._classes.setdefault(name, cls) is not cls:
            raise ValueError(f"the name {name!r} already means {self._classes[name]!r}")

    def __contains__(self, name: str) -> bool:
        return name in self._classes

    def __getitem__(self, name: str) -> type:
        return self._classes[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._classes)

    def name_of(self, instance: Any) -> str | None:
        """The name of the class of ``instance``, or None."""
        return next((name for name, cls in self._classes.items() if type(instance) is cls), None)

    def parameters(self, name: str) -> dict[str, Any]:
        """Type annotation of each parameter of ``name``, in order."""
        return _parameters(self._classes[name])

    def required(self, name: str) -> list[str]:
        """The parameters of ``name`` that have no default."""
        missing = dataclasses.MISSING
        return [
            field.name
            for field in dataclasses.fields(self._classes[name])
            if field.init and field.default is missing and field.default_factory is missing
        ]


@functools.cache
def _parameters(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}
