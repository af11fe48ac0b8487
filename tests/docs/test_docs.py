"""Pages: reachable, without dead links, and with code that runs."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
LEFT_OUT = ("_build", "_generated", ".venv", "build", "dist", "node_modules", "runs")
FENCE = re.compile(r"^(```+|~~~+|:::+)(.*)$")


def pages():
    """Sources of the site."""
    found = (p for p in DOCS.rglob("*.md") if not set(p.relative_to(DOCS).parts) & set(LEFT_OUT))
    return sorted(found)


def markdown():
    """Every Markdown file of the repository."""
    others = [p for p in ROOT.glob("*.md")] + sorted((ROOT / "configs").rglob("*.md"))
    return others + pages()


def split(text):
    """Prose, and fences as pairs of their head and body."""
    prose, fences, end = [], [], None
    for line in text.splitlines():
        found = FENCE.match(line.strip())
        if end is None and found:
            end = found.group(1)
            fences.append((found.group(2).strip(), []))
        elif end is not None and line.strip() == end:
            end = None
        elif end is not None:
            fences[-1][1].append(line)
        else:
            prose.append(line)
    return "\n".join(prose), [(head, "\n".join(body)) for head, body in fences]


def anchor(heading):
    """What GitHub and MyST call a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(path):
    """Anchors of a page's headings."""
    prose, _ = split(path.read_text(encoding="utf8"))
    return {anchor(h) for h in re.findall(r"^#+ (.*)$", prose, re.M)}


def links(path):
    """Targets of the links and pictures of a page, but not those on the web."""
    prose, _ = split(path.read_text(encoding="utf8"))
    prose = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", prose, flags=re.S)
    found = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [t for t in found if not re.match(r"[a-z]+:", t)]


def dead(path):
    """Links of a page that lead nowhere."""
    for target in links(path):
        name, _, fragment = target.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            yield f"{target}: no such file"
        elif fragment and there.suffix == ".md" and fragment not in anchors(there):
            yield f"{target}: no such heading"


def test_links_lead_somewhere():
    found = [f"{p.relative_to(ROOT)}: {line}" for p in markdown() for line in dead(p)]
    assert not found, "\n".join(found)


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for path in pages():
        for head, body in split(path.read_text(encoding="utf8"))[1]:
            if head == "{toctree}":
                entries = [x for x in body.splitlines() if x and not x.startswith(":")]
                listed |= {(path.parent / f"{entry}.md").resolve() for entry in entries}
    assert sorted(listed) == pages()


@pytest.mark.parametrize("text", ["[a](gone.md)", "[a](index.md#gone)", "![a](gone.png)"])
def test_dead_links_are_found(tmp_path, text):
    (tmp_path / "index.md").write_text("# Here\n\n[fine](#here) `[code](x.md)`\n" + text)
    assert len(list(dead(tmp_path / "index.md"))) == 1


def shown(path):
    """The Python that a page shows, as one program."""
    fences = split(path.read_text(encoding="utf8"))[1]
    return "\n".join(body for head, body in fences if head == "python")


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        DOCS / "faq.md",
        *sorted(p for p in (DOCS / "concepts").glob("*.md") if shown(p)),
    ],
    ids=lambda path: path.stem,
)
@pytest.mark.one_in(3)
def test_shown_code_runs(path):
    program = shown(path)
    exec(compile(program, str(path), "exec"), {"__name__": "shown"})


def test_links_of_built_pages_are_followed(tmp_path):
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    check_links = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check_links)
    (tmp_path / "a.html").write_text('<h1 id="top"><a href="b.html#x">.</a><a href="#top">.</a>')
    (tmp_path / "b.html").write_text('<p id="x"><a href="a.html#gone">.</a><img src="c.png">')
    assert check_links.problems(tmp_path) == [
        "b.html: a.html#gone: no such anchor",
        "b.html: c.png: no such file",
    ]
