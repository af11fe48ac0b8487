"""What a config says, checked before anything is made of it."""

import dataclasses
from collections.abc import Iterator

from bmojo.config.parse import Binding, Macro, Place, Reference, join, values
from bmojo.config.registry import Registry
from bmojo.errors import ConfigError, nearest, suggestion

__all__ = ["Checked", "check"]

Scope = tuple[str, ...]
Use = tuple[Scope, str]


@dataclasses.dataclass(frozen=True)
class Checked:
    """Bindings that may be built.

    Attributes:
      bindings: those in force, by key.
      uses: every configurable that will be made, with its scope, and where it is referred to.
    """

    bindings: dict[str, Binding]
    uses: dict[Use, Place]

    def find(self, scope: Scope, name: str, parameter: str) -> Binding | None:
        """The binding that gives ``name`` its parameter in that scope: the innermost one."""
        for depth in range(len(scope), -1, -1):
            key = join("/".join(scope[:depth]), f"{name}.{parameter}")
            if key in self.bindings:
                return self.bindings[key]
        return None

    def place(self, scope: Scope, name: str, parameter: str | None = None) -> Place:
        """Where a parameter is written: its macro, its binding, or what refers to ``name``."""
        binding = self.find(scope, name, parameter) if parameter else None
        if binding is None:
            return self.uses[scope, name]
        while isinstance(binding.value, Macro):
            binding = self.bindings[binding.value.name]
        return binding.place


def check(bindings: list[Binding], registry: Registry, root: str, origin: Place) -> Checked:
    """Check all bindings against the registry and each other.

    Args:
      bindings: in the order of reading.
      registry: the names that there are.
      root: the name that everything is made for.
      origin: where to report what is missing altogether.

    Raises:
      ConfigError: a name, parameter or macro is unknown; a macro, scope or binding is never
        used or has no effect; a parameter without a default is not bound; something contains
        itself.
    """
    for binding in bindings:
        _check_names(binding, registry)
    force = {binding.key: binding for binding in bindings}
    _check_macros(bindings, force, registry)
    uses: dict[Use, Place] = {}
    _walk(Reference("", root, True), (), origin, force, registry, uses, ())
    checked = Checked(force, uses)
    overridden = [b for b in bindings if force[b.key] is not b]
    for binding in force.values():
        if binding.parameter:
            _check_used(binding, checked, overridden, registry)
    for binding in force.values():
        if binding.parameter:
            _check_effect(binding, checked)
    _check_required(checked, registry)
    return checked


def _check_names(binding: Binding, registry: Registry) -> None:
    where = f"{binding.place}: {binding.key}"
    if binding.parameter:
        if binding.name not in registry:
            hint = suggestion(binding.name, registry.names())
            raise ConfigError(f"{where}: nothing is called {binding.name!r}; {hint}")
        parameters = registry.parameters(binding.name)
        if binding.parameter not in parameters:
            hint = suggestion(binding.parameter, parameters)
            raise ConfigError(
                f"{where}: {binding.name} has no parameter {binding.parameter!r}; {hint}"
            )
    for inner in values(binding.value):
        if isinstance(inner, Reference):
            if inner.name not in registry:
                hint = suggestion(inner.name, registry.names())
                raise ConfigError(f"{where}: nothing is called {inner.name!r}; {hint}")
            if not inner.called:
                raise ConfigError(f"{where}: {inner!r} lacks its parentheses; write {inner!r}()")


def _check_macros(bindings: list[Binding], force: dict[str, Binding], registry: Registry) -> None:
    macros = {key for key, binding in force.items() if not binding.parameter}
    read = set()
    for binding in bindings:
        for inner in values(binding.value):
            if isinstance(inner, Macro):
                read.add(inner.name)
                if inner.name not in macros:
                    near = nearest(inner.name, macros)
                    hint = f"did you mean %{near}?" if near else f"define {inner.name} = ..."
                    raise ConfigError(
                        f"{binding.place}: {binding.key}: no macro %{inner.name}; {hint}"
                    )
    for key in sorted(macros, key=lambda key: force[key].order):
        shared = key in registry.shared_macros and not force[key].root
        if key not in read and not shared:
            raise ConfigError(
                f"{force[key].place}: {key}: nobody reads the macro; {_meant(key, read, registry)}"
            )
        _check_acyclic(key, force, ())


def _meant(macro: str, read: set[str], registry: Registry) -> str:
    owners = [name for name in registry.names() if macro in registry.parameters(name)]
    if owners:
        return f"did you mean {owners[0]}.{macro}?"
    near = nearest(macro, read)
    return f"did you mean {near!r}?" if near else f"write %{macro} where its value belongs"


def _check_acyclic(macro: str, force: dict[str, Binding], above: tuple[str, ...]) -> None:
    if macro in above:
        chain = " -> ".join(f"%{name}" for name in (*above[above.index(macro) :], macro))
        raise ConfigError(f"{force[macro].place}: {macro}: macros in a circle: {chain}")
    for inner in values(force[macro].value):
        if isinstance(inner, Macro) and inner.name in force:
            _check_acyclic(inner.name, force, (*above, macro))


def _references(binding: Binding, force: dict[str, Binding]) -> Iterator[Reference]:
    """References in a value, those inside macros too."""
    for inner in values(binding.value):
        if isinstance(inner, Reference):
            yield inner
        else:
            yield from _references(force[inner.name], force)


def _walk(
    reference: Reference,
    active: Scope,
    place: Place,
    force: dict[str, Binding],
    registry: Registry,
    uses: dict[Use, Place],
    above: tuple[Use, ...],
) -> None:
    """Follow a reference as gin does, and note every use."""
    scope = tuple(reference.scope.split("/")) if reference.scope else active
    use = (scope, reference.name)
    if use in above:
        raise ConfigError(f"{place}: {reference!r} contains itself; refer to something else here")
    if use in uses:
        return
    uses[use] = place
    checked = Checked(force, uses)
    for parameter in registry.parameters(reference.name):
        binding = checked.find(scope, reference.name, parameter)
        if binding is not None:
            for inner in _references(binding, force):
                _walk(inner, scope, binding.place, force, registry, uses, (*above, use))


def _applies(binding: Binding, uses: dict[Use, Place]) -> list[Use]:
    """The uses that lie in the scope of a binding."""
    outer = tuple(binding.scope.split("/")) if binding.scope else ()
    return [
        (scope, name)
        for scope, name in uses
        if name == binding.name and scope[: len(outer)] == outer
    ]


def _check_used(
    binding: Binding, checked: Checked, overridden: list[Binding], registry: Registry
) -> None:
    """Refuse a binding that nothing will read.

    It is excused if what would have read it was overridden after it: whoever replaces the
    pattern of a model has no use for the bindings of the old one.
    """
    if _applies(binding, checked.uses):
        return
    for old in overridden:
        if binding.order < checked.bindings[old.key].order:
            lost: dict[Use, Place] = {}
            outer = tuple(old.scope.split("/")) if old.scope else ()
            for active in {outer, *(scope for scope, _ in _applies(old, checked.uses))}:
                for inner in _references(old, checked.bindings):
                    _walk(inner, active, old.place, checked.bindings, registry, lost, ())
            if _applies(binding, lost):
                return
    where = f"{binding.place}: {binding.key}"
    entered = {"/".join(scope[:depth]) for scope, _ in checked.uses for depth in range(1, 9)}
    entered.discard("")
    if binding.scope and binding.scope not in entered:
        near = nearest(binding.scope, entered)
        if near is None and len(entered) == 1:
            (near,) = entered
        hint = (
            f"did you mean {near!r}?"
            if near
            else f"refer to @{binding.scope}/{binding.name}() somewhere"
        )
        raise ConfigError(f"{where}: the scope {binding.scope!r} is never entered; {hint}")
    raise ConfigError(
        f"{where}: {binding.name} is never used"
        f"{' in this scope' if binding.scope else ''}; {_remedy(binding, checked, registry)}"
    )


def _remedy(binding: Binding, checked: Checked, registry: Registry) -> str:
    """Where an unused configurable could be referred to."""
    for scope, user in checked.uses:
        for field in dataclasses.fields(registry[user]):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            unbound = checked.find(scope, user, field.name) is None
            if unbound and registry.name_of(default) == binding.name:
                return f"{user}.{field.name} has a default: bind it to @{binding.name}()"
    return f"remove the line, or refer to @{join(binding.scope, binding.name)}() somewhere"


def _check_effect(binding: Binding, checked: Checked) -> None:
    """Refuse a binding that came last but loses everywhere to ones with a narrower scope."""
    winners = []
    for scope, name in _applies(binding, checked.uses):
        winner = checked.find(scope, name, binding.parameter)
        if winner is None or winner is binding:
            return
        winners.append(winner)
    if winners and all(winner.order < binding.order for winner in winners):
        first = min(winners, key=lambda winner: winner.order)
        raise ConfigError(
            f"{binding.place}: {binding.key} has no effect; "
            f"{first.key} ({first.place}) goes before it: bind that"
        )


def _check_required(checked: Checked, registry: Registry) -> None:
    for (scope, name), place in checked.uses.items():
        for parameter in registry.required(name):
            if checked.find(scope, name, parameter) is None:
                key = join("/".join(scope), f"{name}.{parameter}")
                raise ConfigError(f"{place}: {key} must be set; add {key} = ...")
