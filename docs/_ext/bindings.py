"""Reference of configurables, generated from their classes.

```{bindings} BMojo
```

lists the parameters of one configurable of :data:`bmojo.experiment.REGISTRY`. The build warns of a
configurable that no page lists; a strict build fails.
"""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)

WORDS = {int: "integer", float: "number", str: "string", bool: "True or False", Any: "anything"}


def describe_type(annotation: Any) -> str:
    """Describe a type in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is types.NoneType:
        return "None"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin is typing.Literal:
        return " or ".join(repr(choice) for choice in arguments)
    if annotation is tuple or origin is tuple:
        inner = [a for a in arguments if a is not Ellipsis]
        if not inner or inner == [Any]:
            return "tuple"
        return f"tuple of {' and '.join(_plural(describe_type(a)) for a in inner)}"
    if annotation in WORDS:
        return WORDS[annotation]
    return {"MixerConfig": "mixer"}.get(annotation.__name__, annotation.__name__)


def _plural(words: str) -> str:
    return words + "s" if words in ("integer", "number", "string", "mixer") else words


def describe_default(field: dataclasses.Field, names: dict[type, str]) -> str:
    """Write a field's default as a config does; empty if there is none."""
    missing = dataclasses.MISSING
    if field.default is not missing:
        value = field.default
    elif field.default_factory is not missing:
        value = field.default_factory()
    else:
        return ""
    if type(value) not in names:
        return repr(value)
    name = names[type(value)]
    changed = [
        f"{name}.{part.name} = {getattr(value, part.name)!r}"
        for part in dataclasses.fields(value)
        if getattr(value, part.name) != part.default
    ]
    return f"@{name}()" + (f" with {', '.join(changed)}" if changed else "")


def attributes(docstring: str) -> dict[str, str]:
    """Read the section ``Attributes`` of a docstring, by name."""
    found = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", inspect.cleandoc(docstring), re.M)
    texts: dict[str, str] = {}
    name = ""
    for line in textwrap.dedent(found.group(1) if found else "").splitlines():
        head = re.match(r"(\w+): (.*)", line)
        if head:
            name, texts[head.group(1)] = head.group(1), head.group(2)
        elif line.strip():
            texts[name] += " " + line.strip()
    return texts


def reference(name: str, cls: type, names: dict[type, str], hints: dict[str, Any]) -> str:
    """List the parameters of one class as reStructuredText."""
    docstring = cls.__doc__ or ""
    summary = docstring.strip().split("\n\n")[0]
    texts = attributes(docstring)
    lines = [" ".join(summary.split()), "", f"(:class:`{cls.__module__}.{cls.__qualname__}`)", ""]
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        default = describe_default(field, names)
        kind = describe_type(hints[field.name])
        after = f"default ``{default}``" if default else "**required**"
        lines += [f".. _binding-{name}.{field.name}:", ""]
        lines += [f"``{name}.{field.name}``", f"   *{kind}*, {after}", ""]
        lines += [f"   {texts[field.name]}" if field.name in texts else "   .. comment", ""]
    return "\n".join(lines)


class Bindings(SphinxDirective):
    """Parameters of one configurable."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse the list, and warn of parameters without a description."""
        from bmojo.experiment import REGISTRY

        name = self.arguments[0]
        if name not in REGISTRY:
            raise self.error(f"bindings: configs know no {name!r}")
        listed(self.env).setdefault(self.env.docname, set()).add(name)
        names = {REGISTRY[known]: known for known in REGISTRY.names()}
        text = reference(name, REGISTRY[name], names, REGISTRY.parameters(name))
        missing = set(REGISTRY.parameters(name)) - set(attributes(REGISTRY[name].__doc__ or ""))
        if missing:
            where = (self.env.docname, self.lineno)
            logger.warning("%s: no text for %s", name, ", ".join(sorted(missing)), location=where)
        held = nodes.container(classes=["bindings"])
        block = ["```{eval-rst}", *text.splitlines(), "```"]
        self.state.nested_parse(_lines(block, self.get_source_info()[0]), self.content_offset, held)
        return [held]


def _lines(lines: list[str], source: str) -> Any:
    from docutils.statemachine import StringList

    return StringList(lines, source=source)


def listed(env: BuildEnvironment) -> dict[str, set[str]]:
    """Configurables by the page that lists them."""
    if not hasattr(env, "listed_bindings"):
        env.listed_bindings = {}  # type: ignore[attr-defined]
    return env.listed_bindings  # type: ignore[attr-defined]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop the entries of a page that is read again or deleted."""
    listed(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    """Merge the entries of pages read by another process."""
    listed(env).update({d: n for d, n in listed(other).items() if d in docnames})


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of configurables that no page lists."""
    from bmojo.experiment import REGISTRY

    forgotten = set(REGISTRY.names()).difference(*listed(env).values())
    if forgotten:
        logger.warning("no page has {bindings} of %s", ", ".join(sorted(forgotten)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and its event handlers."""
    app.add_directive("bindings", Bindings)
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
