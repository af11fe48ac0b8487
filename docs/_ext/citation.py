"""BibTeX entries, generated from CITATION.cff.

```{citation} software
```

shows that of the software, with ``paper`` that of the paper.
"""

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def bibtex(entry: dict[str, Any], kind: str, key: str) -> str:
    """Format an entry of a CITATION file as BibTeX."""
    authors = [
        f"{{{person['name']}}}"
        if "name" in person
        else f"{person['family-names']}, {person['given-names']}"
        for person in entry["authors"]
    ]
    fields = {"title": f"{{{entry['title']}}}", "author": " and ".join(authors)}
    for theirs, ours in (
        ("collection-title", "booktitle"),
        ("year", "year"),
        ("version", "version"),
        ("url", "url"),
        ("license", "note"),
    ):
        if theirs in entry:
            fields[ours] = str(entry[theirs])
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])


class Citation(SphinxDirective):
    """One BibTeX entry."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the node of the code block."""
        path = Path(self.env.srcdir).parent / "CITATION.cff"
        self.env.note_dependency(str(path))
        known = yaml.safe_load(path.read_text(encoding="utf8"))
        which = self.arguments[0]
        if which == "software":
            text = bibtex(known, "software", "bmojo")
        elif which == "paper":
            text = bibtex(known["references"][0], "inproceedings", "zancato2024bmojo")
        else:
            raise self.error(f"citation: {which!r} is neither software nor paper")
        return [nodes.literal_block(text, text, language="bibtex")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive."""
    app.add_directive("citation", Citation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
