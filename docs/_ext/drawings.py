"""Figures drawn during the build, once for the light theme and once for the dark one.

```{drawing} NAME
:alt: description for readers who cannot see it

Caption.
```

shows what ``draw(look)`` in ``docs/figures/NAME.py`` draws.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

logger = logging.getLogger(__name__)
FOLDER = "_generated"


class Drawing(SphinxDirective):
    """A figure with one image for each theme."""

    required_arguments = 1
    has_content = True
    option_spec = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        """Make the figure's node."""
        name, alt = self.arguments[0], self.options.get("alt")
        source = Path(self.env.srcdir, "figures", f"{name}.py")
        if not source.is_file() or not alt:
            raise self.error(f"drawing: {name!r} needs a file {source} and an option :alt:")
        self.env.note_dependency(str(source))
        figure = nodes.figure(classes=["drawing"])
        self.set_source_info(figure)
        for look in ("light", "dark"):
            uri = f"/{FOLDER}/{name}-{look}.svg"
            figure += nodes.image(uri=uri, alt=alt, classes=[f"only-{look}"])
        if self.content:
            held = nodes.Element()
            self.state.nested_parse(self.content, self.content_offset, held)
            first, *rest = held.children
            figure += nodes.caption("", "", *first.children)
            if rest:
                figure += nodes.legend("", *rest)
        return [figure]


def draw_all(app: Sphinx) -> None:
    """Draw every figure whose image is older than its code, in a subprocess.

    Sphinx forks this process to read pages, and a process that has used JAX must not be forked.
    """
    logger.info("drawing figures")
    subprocess.run([sys.executable, __file__, app.srcdir], check=True)


def draw(docs: Path) -> None:
    """Draw the figures in this process."""
    import matplotlib

    matplotlib.use("Agg")
    folder = docs / "figures"
    sys.path.insert(0, str(folder))
    import look

    out = docs / FOLDER
    out.mkdir(exist_ok=True)
    for source in sorted(folder.glob("*.py")):
        if source.stem == "look":
            continue
        pictures = {name: out / f"{source.stem}-{name}.svg" for name in look.LOOKS}
        newest = max(source.stat().st_mtime, (folder / "look.py").stat().st_mtime)
        if all(p.exists() and p.stat().st_mtime > newest for p in pictures.values()):
            continue
        module = _load(source)
        for name, path in pictures.items():
            with look.LOOKS[name].active() as chosen:
                figure = module.draw(chosen)
                figure.savefig(path, metadata={"Date": None}, transparent=True)
                matplotlib.pyplot.close(figure)


def _load(source: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"figure_{source.stem}", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("drawing", Drawing)
    app.connect("builder-inited", draw_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
