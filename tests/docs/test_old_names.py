"""Names in pages, docstrings and configs: no former one, and every qualified one exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

# Former name: present one. A module's stands for its file too.
MODULES = {
    "bmojo.compiled": "bmojo.generation.programs",
    "bmojo.drawing": "bmojo.generation.loop",
    "bmojo.sampling": "bmojo.generation.sampling",
    "bmojo.stopping": "bmojo.generation.stopping",
    "bmojo.validation": "bmojo.errors",
    "cli.child": "bmojo.cli.__main__",
    "cli.pages": "bmojo.malloc",
    "data.text.claim": "bmojo.files",
    "evaluation.again": "bmojo.evaluation.repeated_passages",
    "evaluation.returns": "bmojo.evaluation.repeated_ngrams",
    "layers.axes": "bmojo.ops.axes",
    "layers.forms": "bmojo.layers.bmojo_sliding",
    "layers.kernels": "bmojo.ops.memory_attention",
    "layers.law": "bmojo.testing",
    "layers.memory": "bmojo.layers.eidetic_memory",
    "layers.reading": "bmojo.layers.protocol",
    "layers.settled": "bmojo.layers.heads",
    "layers.shards": "bmojo.ops.time_sharding",
    "layers.sight": "bmojo.ops.masks",
    "layers.trace": "bmojo.layers.protocol",
    "ops.attention": "bmojo.ops.masks",
    "ops.attention_choice": "bmojo.ops.memory_attention",
    "ops.blocked_attention": "bmojo.ops.attention_xla",
    "ops.clock": "bmojo.ops.positions",
    "ops.eidetic": "bmojo.ops.selection",
    "ops.native.settle": "bmojo.layers.heads",
    "ops.shards": "bmojo.ops.collectives",
    "session.keeper": "bmojo.session.admission",
    "storage.resident": "bmojo.storage.memtable",
    "storage.trails": "bmojo.storage.alignment",
    "storage.turns": "bmojo.storage.assignment",
    "storage.upkeep": "bmojo.storage.compaction",
    "storage.view": "bmojo.storage.snapshot",
    "training.job": "bmojo.training.run_setup",
    "training.journal": "bmojo.training.metrics",
    "training.loop": "bmojo.training.train",
    "training.measure": "bmojo.training.evaluate",
    "training.mesh": "bmojo.training.sharding",
    "training.outcome": "bmojo.training.train",
    "training.pages": "bmojo.malloc",
    "training.placed": "bmojo.training.sharding",
    "training.plan": "bmojo.training.curriculum",
    "training.records": "bmojo.training.metrics",
    "training.rundir": "bmojo.training.run_dir",
    "training.standing": "bmojo.training.train_state",
    "bmojo.training.step": "bmojo.training.train_step",
}
OTHERS = {
    r"\bAhead\b(?! of)": "SequenceShard",
    r"\bClock\b": "Positions",
    r"\bGathered\b": "AttentionKeys",
    r"\bKeeper\b": "Admission",
    r"\bModel\.words\b": "Model.logit_factors",
    r"\bModel\.unrolled\b": "ModelState.unstacked",
    r"\bPeriod\b": "Block",
    r"\bSight\b": "AttentionKeys",
    r"\bStanding\b(?! )": "TrainState",
    r"\bTold\b": "NamedErrors",
    r"\bnothing_left_of_nothing\b": "a descriptive name",
    r"\bstate\.clock\b": "state.positions",
    r"\bsummed_first\b": "gradient_barrier",
    r"bmojo eval\b.* --eval ": "bmojo eval RUN KIND",
}


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or a package of the repository."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def former() -> dict[re.Pattern[str], str]:
    """Patterns of former names, and the names to use."""
    found = {re.compile(pattern): name for pattern, name in OTHERS.items()}
    for old, new in MODULES.items():
        if not is_module(f"bmojo.{old.removeprefix('bmojo.')}"):
            parts = "[./]".join(map(re.escape, old.split(".")))
            found[re.compile(rf"(?<!\w){parts}(?!\w)(?!\.json|\.\w*\()")] = new
    return found


def sources() -> list[Path]:
    """Pages, drawings, configs, and the code that has docstrings."""
    places = {
        ".": "*.md",
        "docs": "**/*.md",
        "configs": "**/*.*",
        "bmojo": "**/*.py",
        "neuron": "**/*.py",
        "scripts": "**/*.py",
    }
    found = [p for place, pattern in places.items() for p in (ROOT / place).glob(pattern)]
    found += [*(ROOT / "docs").glob("*.py"), *(ROOT / "docs").glob("[_f]*/*.py")]
    return sorted(p for p in found if not {"_build", "_generated"} & set(p.parts))


def mentions(text: str) -> list[tuple[int, str, str]]:
    """Former names in a text: line, what stands there, what to write."""
    found = []
    for pattern, new in former().items():
        for match in pattern.finditer(text):
            found.append((text.count("\n", 0, match.start()) + 1, match.group(), new))
    return found


def test_no_former_name_is_left():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {old!r} is {new} now"
        for path in sources()
        for line, old, new in mentions(path.read_text(encoding="utf8"))
    ]
    assert not found, "\n".join(found)


def exists(name: str) -> bool:
    """Whether a dotted name or a path of the repository stands for something.

    Behind a module's name, words count as there if its source has them.
    """
    if "/" in name:
        return (ROOT / name).exists()
    words = name.split(".")
    size = next(n for n in range(len(words), 0, -1) if is_module(".".join(words[:n])))
    path = ROOT.joinpath(*words[:size])
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    return all(re.search(rf"\b{word}\b", source) or word == "__file__" for word in words[size:])


def qualified(text: str) -> list[str]:
    """Dotted names and paths of source files in a text."""
    dotted = r"(?<![\w./-])(?:bmojo|neuron)(?:\.[A-Za-z_]\w*)+(?![\w/-])"
    paths = r"(?<![\w./-])(?:bmojo|neuron|tests)/[\w/]+\.py\b"
    return re.findall(f"{dotted}|{paths}", text)


def test_qualified_names_exist():
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in qualified(path.read_text(encoding="utf8"))
        if not exists(name)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("see :mod:`bmojo.ops.clock`", ["ops.clock"]),
        ("`bmojo/training/standing.py` has a class Standing.", ["training/standing", "Standing"]),
        ("state.clock and Clock", ["Clock", "state.clock"]),
        ("bmojo eval runs/a --eval recall", ["bmojo eval runs/a --eval "]),
        ("a standing wave at noon, ahead of the clock, told again", []),
        ("bmojo.generation.sampling and bmojo/generation/stopping.py", []),
    ],
)
def test_former_names_are_found(text, old):
    assert sorted(what for _, what, _ in mentions(text)) == sorted(old)


def test_missing_names_are_found():
    text = "`bmojo.ops.gone`, bmojo/gone.py, :class:`bmojo.model.Gone`, a/bmojo.gin, bmojo.load"
    assert [n for n in qualified(text) if not exists(n)] == [
        "bmojo.ops.gone",
        "bmojo/gone.py",
        "bmojo.model.Gone",
    ]
