"""Follow every internal link of the built site: its page must be there, and its anchor on it.

python docs/check_links.py docs/_build/html
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it points to.

    Attributes:
      anchors: ids and names.
      targets: values of ``href`` and ``src``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note ids and links."""
        found = dict(attrs)
        self.anchors.update(v for v in (found.get("id"), found.get("name")) if v)
        self.targets += [v for v in (found.get("href"), found.get("src")) if v]


def problems(root: Path) -> list[str]:
    """A line for each link that leads nowhere."""
    pages = {path.resolve(): Page(path) for path in sorted(root.rglob("*.html"))}
    lines = []
    for path, page in pages.items():
        where = path.relative_to(root.resolve())
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            name = unquote(parts.path)
            found = (path.parent / name).resolve() if name else path
            if found.is_dir():
                found /= "index.html"
            if not found.exists():
                lines.append(f"{where}: {target}: no such file")
            elif parts.fragment and found in pages:
                if unquote(parts.fragment) not in pages[found].anchors:
                    lines.append(f"{where}: {target}: no such anchor")
    return lines


def main() -> int:
    """Print what is wrong; 1 if anything is."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/_build/html")
    if not root.is_dir():
        print(f"{root}: no site is here; build it first")
        return 1
    found = problems(root)
    print("\n".join(found) or f"{root}: every internal link leads somewhere")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
