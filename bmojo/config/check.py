"""Checks of bindings before any object is made: names, macros, scopes, use, effect."""

import dataclasses
from collections.abc import Iterator

from bmojo.config.parse import Binding, Macro, Place, Reference, join, values
from bmojo.config.registry import Registry
from bmojo.errors import ConfigError, nearest, suggestion

__all__ = ["Checked", "Scope", "check"]

Scope = tuple[str, ...]
Use = tuple[Scope, str]


@dataclasses.dataclass(frozen=True)
class Checked:
    """Bindings in force, by key, and every configurable that they use: scope, name and place."""

    bindings: dict[str, Binding]
    registry: Registry
    uses: dict[Use, Place] = dataclasses.field(default_factory=dict)

    def find(self, scope: Scope, name: str, parameter: str) -> Binding | None:
        """The binding that gives ``name`` its parameter in that scope: the innermost one."""
        for depth in range(len(scope), -1, -1):
            key = join("/".join(scope[:depth]), f"{name}.{parameter}")
            if key in self.bindings:
                return self.bindings[key]
        return None

    def place(self, scope: Scope, name: str, parameter: str | None = None) -> Place:
        """Where a parameter is written: its macro, its binding, or the reference to ``name``."""
        binding = self.find(scope, name, parameter) if parameter else None
        return self.uses[scope, name] if binding is None else self.origin(binding)

    def origin(self, binding: Binding) -> Place:
        """Where the value of a binding is written: at its macro, if it is one."""
        while isinstance(binding.value, Macro):
            binding = self.bindings[binding.value.name]
        return binding.place

    def follow(
        self, reference: Reference, active: Scope, place: Place, above: tuple[Use, ...] = ()
    ) -> None:
        """Note the use that a reference makes, and all uses below it."""
        scope = reference.within(active)
        use = (scope, reference.name)
        if use in above:
            remedy = "refer to something else here"
            raise ConfigError(f"{place}: {reference!r} contains itself; {remedy}")
        if use in self.uses:
            return
        self.uses[use] = place
        for parameter in self.registry.parameters(reference.name):
            binding = self.find(scope, reference.name, parameter)
            if binding is not None:
                for inner in self.inner(binding, Reference):
                    self.follow(inner, scope, binding.place, (*above, use))

    def inner(self, binding: Binding, kind: type) -> Iterator:
        """References or macros in a value, those inside its macros too."""
        for inner in values(binding.value):
            if isinstance(inner, kind):
                yield inner
            if isinstance(inner, Macro) and inner.name in self.bindings:
                yield from self.inner(self.bindings[inner.name], kind)

    def applied(self, binding: Binding) -> list[Use]:
        """The uses that lie in the scope of a binding."""
        outer, name = tuple(filter(None, binding.scope.split("/"))), binding.name
        return [use for use in self.uses if use[1] == name and use[0][: len(outer)] == outer]


def check(bindings: list[Binding], registry: Registry, root: str, origin: Place) -> Checked:
    """Check all bindings, in the order of reading, for an object called ``root``.

    Raises:
      ConfigError: a name, parameter or macro is unknown; a macro, scope or binding is never
        used or has no effect; a parameter without a default is not bound (at ``origin``, if it is
        that of the root); something contains itself.
    """
    for binding in bindings:
        _check_names(binding, registry)
    force = {binding.key: binding for binding in bindings}
    _check_macros(bindings, force, registry)
    checked = Checked(force, registry)
    checked.follow(Reference("", root, True), (), origin)
    overridden = [b for b in bindings if force[b.key] is not b]
    parameters = [binding for binding in force.values() if binding.parameter]
    for binding in parameters:
        _check_used(binding, checked, overridden)
    for binding in parameters:
        _check_effect(binding, checked)
    _check_overrides(checked, parameters)
    for (scope, name), place in checked.uses.items():
        for parameter in registry.required(name):
            if checked.find(scope, name, parameter) is None:
                key = join("/".join(scope), f"{name}.{parameter}")
                raise ConfigError(f"{place}: {key} must be set; add {key} = ...")
    return checked


def _check_names(binding: Binding, registry: Registry) -> None:
    references = [inner for inner in values(binding.value) if isinstance(inner, Reference)]
    for name in [*([binding.name] if binding.parameter else ()), *(r.name for r in references)]:
        if name not in registry:
            hint = suggestion(name, registry.names())
            raise binding.wrong(f"nothing is called {name!r}; {hint}")
    if binding.parameter:
        parameters = registry.parameters(binding.name)
        if binding.parameter not in parameters:
            hint = suggestion(binding.parameter, parameters)
            raise binding.wrong(f"{binding.name} has no parameter {binding.parameter!r}; {hint}")
    for reference in references:
        if not reference.called:
            raise binding.wrong(f"{reference!r} lacks its parentheses; write {reference!r}()")


def _check_macros(bindings: list[Binding], force: dict[str, Binding], registry: Registry) -> None:
    macros = {key: binding for key, binding in force.items() if not binding.parameter}
    read = {m.name for b in bindings for m in values(b.value) if isinstance(m, Macro)}
    for binding in force.values():
        for inner in values(binding.value):
            if isinstance(inner, Macro) and inner.name not in macros:
                near = nearest(inner.name, macros)
                hint = f"did you mean %{near}?" if near else f"define {inner.name} = ..."
                raise binding.wrong(f"no macro %{inner.name}; {hint}")
    for key, binding in sorted(macros.items(), key=lambda item: item[1].order):
        if key not in read and (binding.root or key not in registry.shared_macros):
            raise _unread(binding, read, registry)
        _check_acyclic(key, force, ())


def _check_overrides(checked: Checked, parameters: list[Binding]) -> None:
    """Refuse a macro on the command line that only replaced bindings read."""
    live = [binding for binding in parameters if checked.applied(binding)]
    read = {macro.name for binding in live for macro in checked.inner(binding, Macro)}
    for key, binding in checked.bindings.items():
        if not binding.parameter and binding.place.file is None and key not in read:
            raise binding.wrong("only bindings that were replaced read the macro; leave it out")


def _unread(binding: Binding, read: set[str], registry: Registry) -> ConfigError:
    owners = [name for name in registry.names() if binding.key in registry.parameters(name)]
    near = f"{owners[0]}.{binding.key}" if owners else nearest(binding.key, read)
    hint = f"write %{binding.key} where its value belongs"
    if near:
        hint = f"did you mean {near if owners else repr(near)}?"
    return binding.wrong(f"nobody reads the macro; {hint}")


def _check_acyclic(macro: str, force: dict[str, Binding], above: tuple[str, ...]) -> None:
    if macro in above:
        chain = " -> ".join(f"%{name}" for name in (*above[above.index(macro) :], macro))
        raise force[macro].wrong(f"macros in a circle: {chain}")
    for inner in values(force[macro].value):
        if isinstance(inner, Macro) and inner.name in force:
            _check_acyclic(inner.name, force, (*above, macro))


def _check_used(binding: Binding, checked: Checked, overridden: list[Binding]) -> None:
    """Refuse a binding that nothing reads, unless its reader was overridden after it.

    A config that replaces the pattern of a model has no use for the bindings of the old one.
    """
    if checked.applied(binding):
        return
    for old in overridden:
        if binding.order < checked.bindings[old.key].order:
            lost = Checked(checked.bindings, checked.registry)
            own = tuple(filter(None, old.scope.split("/")))
            for active in {own, *(scope for scope, _ in checked.applied(old))}:
                for inner in checked.inner(old, Reference):
                    lost.follow(inner, active, old.place)
            if lost.applied(binding):
                return
    entered = {"/".join(scope[:depth]) for scope, _ in checked.uses for depth in range(1, 9)}
    entered.discard("")
    if binding.scope and binding.scope not in entered:
        near = nearest(binding.scope, entered)
        if near is None and len(entered) == 1:
            (near,) = entered
        here = f"@{join(binding.scope, binding.name)}()"
        hint = f"did you mean {near!r}?" if near else f"refer to {here} somewhere"
        raise binding.wrong(f"the scope {binding.scope!r} is never entered; {hint}")
    within = " in this scope" if binding.scope else ""
    raise binding.wrong(f"{binding.name} is never used{within}; {_remedy(binding, checked)}")


def _remedy(binding: Binding, checked: Checked) -> str:
    """Where an unused configurable could be referred to."""
    for scope, user in checked.uses:
        for field in dataclasses.fields(checked.registry[user]):
            default = field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            unbound = checked.find(scope, user, field.name) is None
            if unbound and checked.registry.name_of(default) == binding.name:
                return f"{user}.{field.name} has a default: bind it to @{binding.name}()"
    return f"remove the line, or refer to @{join(binding.scope, binding.name)}() somewhere"


def _check_effect(binding: Binding, checked: Checked) -> None:
    """Refuse a binding that came last but loses everywhere to ones with a narrower scope."""
    winners = [checked.find(*use, binding.parameter) or binding for use in checked.applied(binding)]
    if winners and all(winner.order < binding.order for winner in winners):
        first = min(winners, key=lambda winner: winner.order)
        raise ConfigError(
            f"{binding.place}: {binding.key} has no effect; "
            f"{first.key} ({first.place}) goes before it: bind that"
        )
