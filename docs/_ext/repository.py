"""Links from pages to repository files outside ``docs/``.

Pages are read in the repository, where ``../configs/models/bmojo.gin`` is a file, and on the site,
which has only ``docs/``. On the site such a link leads to a generated page with the file's text.
A few Markdown files have a page of their own (``repository_pages``).
"""

import importlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

logger = logging.getLogger(__name__)
FOLDER = "files"
ROOT = Path(__file__).resolve().parents[2]
PYTHON = (".gin", ".sbatch")


def resolve(app: Sphinx, doctree: nodes.document) -> None:
    """Point the links of one document that leave ``docs/`` to generated pages."""
    env = app.env
    here = env.docname
    for node in list(doctree.findall(_is_link)):
        target = _outside(Path(env.srcdir), here, node)
        if target is None:
            continue
        shown = app.config.repository_pages.get(str(target))
        if shown is None:
            shown = f"{FOLDER}/{target}"
            linked(env).setdefault(here, set()).add(str(target))
        uri = os.path.relpath(f"{shown}.html", os.path.dirname(here) or ".")
        node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri))


def _is_link(node: nodes.Node) -> bool:
    kinds = addnodes.pending_xref | addnodes.download_reference
    return isinstance(node, kinds) and node.get("reftype") == "myst"


def _outside(docs: Path, docname: str, node: nodes.Element) -> Path | None:
    """Find the repository file of a link; None if it is inside ``docs/``."""
    text = node["reftarget"]
    root = docs.parent
    path = Path(text)
    if not path.is_absolute():
        path = (docs / docname).parent / text.split("#")[0]
    for found in (path, *(path.with_name(path.name + end) for end in (".md", ".ipynb"))):
        found = found.resolve()
        if found.is_file() and found.is_relative_to(root) and not found.is_relative_to(docs):
            return found.relative_to(root)
    return None


def source_of(module: str, name: str) -> str | None:
    """Find the page and line of an object's source."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    found = inspect.unwrap(found) if callable(found) else found
    try:
        file, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except (OSError, TypeError):
        return None
    path = Path(file or "")
    if not path.is_relative_to(ROOT / "bmojo"):
        return None
    return f"{FOLDER}/{path.relative_to(ROOT)}.html#line-{line}"


def sources(app: Sphinx) -> set[str]:
    """Find the source files of all documented objects."""
    found = set()
    modules = set(app.env.domaindata["py"]["modules"])
    for full in app.env.domaindata["py"]["objects"]:
        parts = full.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            module = ".".join(parts[:cut])
            if module in modules:
                place = source_of(module, ".".join(parts[cut:]))
                found |= {place.split("#")[0][len(FOLDER) + 1 : -5]} if place else set()
                break
    return found


def linked(env: BuildEnvironment) -> dict[str, set[str]]:
    """Linked files by page."""
    if not hasattr(env, "linked_files"):
        env.linked_files = {}  # type: ignore[attr-defined]
    return env.linked_files  # type: ignore[attr-defined]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop the entries of a page that is read again or deleted."""
    linked(env).pop(docname, None)


def merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    """Merge the entries of pages read by another process."""
    linked(env).update({d: files for d, files in linked(other).items() if d in docnames})


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Generate a page for each file."""
    for name in sorted(sources(app).union(*linked(app.env).values())):
        text = (Path(app.srcdir).parent / name).read_text(encoding="utf8")
        try:
            lexer = get_lexer_for_filename("x.py" if name.endswith(PYTHON) else name)
        except ClassNotFound:
            lexer = TextLexer()
        code = _highlight(text, lexer)
        yield f"{FOLDER}/{name}", {"title": name, "body": f"<h1>{name}</h1>{code}"}, "page.html"


def _highlight(text: str, lexer: Any) -> str:
    import pygments

    form = HtmlFormatter(lineanchors="line", linenos="inline")
    return pygments.highlight(text, lexer, form)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the configuration value and event handlers."""
    app.add_config_value("repository_pages", {}, "env", dict)
    app.connect("doctree-read", resolve, priority=100)  # before downloads are collected
    app.connect("env-purge-doc", forget)
    app.connect("env-merge-info", merge)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
