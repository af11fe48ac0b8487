"""Links from a page to files of the repository that are no pages.

Pages are read in two places: in the repository, where ``../configs/models/bmojo.gin`` is a
file, and on this site, which ends at ``docs/``. Here such a link leads to a page with the
file's text. A few Markdown files have a page of their own (``repository_pages``).
"""

import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)
FOLDER = "files"
ROOT = Path(__file__).resolve().parents[2]
PYTHON = (".gin", ".sbatch")


class RepositoryLinks(SphinxPostTransform):
    """Turn links that leave ``docs/`` into links to a page of the file."""

    default_priority = 5  # before MyST looks for its references

    def run(self, **kwargs: Any) -> None:
        """Replace them in one document."""
        builder = self.app.builder
        here = self.env.docname
        for node in list(self.document.findall(_is_link)):
            target = _outside(Path(self.env.srcdir), here, node)
            if target is None:
                continue
            pages = self.config.repository_pages
            shown = pages.get(str(target), f"{FOLDER}/{target}")
            if str(target) not in pages:
                wanted(self.app).add(str(target))
            uri = builder.get_relative_uri(here, shown)
            link = nodes.reference("", "", *node.children, internal=True, refuri=uri)
            node.replace_self(link)


def _is_link(node: nodes.Node) -> bool:
    kinds = addnodes.pending_xref | addnodes.download_reference
    return isinstance(node, kinds) and node.get("reftype") == "myst"


def _outside(docs: Path, docname: str, node: nodes.Element) -> Path | None:
    """The file in the repository that a link leads to; None where it stays in ``docs/``."""
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
    """Page and line of an object's source; notes that the page is wanted."""
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
    name = str(path.relative_to(ROOT))
    _sources().add(name)
    return f"{FOLDER}/{name}.html#line-{line}"


@functools.cache
def _sources() -> set[str]:
    """Files of which a documented object is in."""
    return set()


def wanted(app: Sphinx) -> set[str]:
    """The files that pages link to."""
    if not hasattr(app.env, "repository_files"):
        app.env.repository_files = set()  # type: ignore[attr-defined]
    return app.env.repository_files  # type: ignore[attr-defined]


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file."""
    for name in sorted(wanted(app) | _sources()):
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
    """Connect."""
    app.add_config_value("repository_pages", {}, "env", dict)
    app.add_post_transform(RepositoryLinks)
    app.connect("html-collect-pages", pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
