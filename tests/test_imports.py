"""Import rules: floors of modules, no circles, function-level imports included."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# From the ground up. A module imports from floors below its own and from its own floor; a name
# without a line here fails. Names are folders or modules directly below the package.
FLOORS = {
    "bmojo": (
        "types errors files cache console malloc cluster multihost processes",
        "config data",
        "ops",
        "realization layers",
        "model description mixers testing",
        "training generation storage export",
        "session",
        "evaluation experiment runs import_huggingface",
        "loading",
        "benchmark sweep",
        "cli __main__",
    ),
    "neuron": (
        "emulator",
        "nki",
        "kernels",
        "jax_calls launchers plain configs positions functions selective_ssm",
        "layer",
        "model",
        "checks compile info roofline verify weights",
    ),
}

# These import from the ground alone, whatever their floor.
GROUND = set(FLOORS["bmojo"][0].split())
APART = {
    "bmojo.config": GROUND,
    "bmojo.data": GROUND,
    "bmojo.storage": GROUND,
    "neuron.emulator": set(),
}

# The package itself has the version, which any floor may read, and hands out public names on
# demand from whatever floor they are on.
DOOR = "bmojo"


def modules(root: Path) -> dict[str, Path]:
    """Dotted names of all modules of the packages, and their files."""
    found = {}
    for package in FLOORS:
        for path in sorted((root / package).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> dict[str, int]:
    """Modules of the packages that a module imports anywhere, with the first line of each."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: dict[str, int] = {}

    def add(target: str, line: int) -> None:
        while target and target not in known:
            target = target.rpartition(".")[0]
        if target and target != name:
            found.setdefault(target, line)

    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                add(f"{source}.{alias.name}", node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                add(str(first.value), node.lineno)
    return found


def room(name: str) -> str:
    """The package and the folder or module directly below it."""
    return ".".join(name.split(".")[:2])


def floor(name: str) -> int | None:
    """The floor of a module, counted over both packages; None: it has none."""
    if name in FLOORS:
        return 0
    package, below = room(name).split(".")
    start = 0 if package == "bmojo" else len(FLOORS["bmojo"])
    for number, names in enumerate(FLOORS[package]):
        if below in names.split():
            return start + number
    return None


def problems(root: Path) -> list[str]:
    """Imports against the rules, one line each."""
    known = modules(root)
    graph = {name: imports(name, path, known) for name, path in known.items()}
    graph.get(DOOR, {}).clear()
    found = []
    for name, targets in graph.items():
        own = floor(name)
        if own is None:
            found.append(f"{name}: has no floor; give {room(name)} a line in FLOORS")
            continue
        for target, line in targets.items():
            there, inside = floor(target), room(name) == room(target)
            if there is None or inside:
                continue
            edge = f"{name}:{line}: imports {target}"
            allowed = APART.get(room(name))
            if there > own:
                found.append(f"{edge}, from a floor above its own")
            elif allowed is not None and target != DOOR:
                if target.partition(".")[2].split(".")[0] not in allowed:
                    found.append(f"{edge}, but {room(name)} stands apart")
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        found.append(f"circle: {' < '.join(error.args[1])}")
    return found


def test_imports_point_down():
    found = problems(ROOT)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bmojo/ops/a.py": "import bmojo.layers.b"}, "floor above"),
        ({"bmojo/ops/a.py": "def f():\n    from bmojo.layers import b"}, "floor above"),
        ({"bmojo/ops/a.py": "from ..layers.b import x"}, "floor above"),
        ({"bmojo/ops/a.py": "m = importlib.import_module('bmojo.layers.b')"}, "floor above"),
        ({"bmojo/layers/a.py": "import neuron.layer"}, "floor above"),
        ({"bmojo/layers/a.py": "if TYPE_CHECKING:\n    import bmojo.model"}, "floor above"),
        ({"bmojo/data/a.py": "import bmojo.config.c"}, "stands apart"),
        ({"neuron/emulator/a.py": "import bmojo.types"}, "stands apart"),
        ({"bmojo/attic.py": ""}, "has no floor"),
        (
            {"bmojo/ops/a.py": "import bmojo.ops.c", "bmojo/ops/c.py": "import bmojo.ops.a"},
            "circle",
        ),
        (
            {
                "bmojo/model.py": "import bmojo.testing",
                "bmojo/testing.py": "def f():\n    import bmojo.model",
            },
            "circle",
        ),
    ],
)
def test_a_breach_is_found(tmp_path, files, message):
    there = ("layers/b", "config/c", "model", "types")
    whole = {f"bmojo/{name}.py": "" for name in there} | {"neuron/layer.py": ""}
    assert problems(write(tmp_path, whole)) == []
    (found,) = problems(write(tmp_path, files))
    assert message in found


def write(root: Path, files: dict[str, str]) -> Path:
    """Write source files below a folder."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
