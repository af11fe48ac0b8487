"""The size of a forward pass: its limits, and what counts."""

from scripts.trace_forward import figures, trace

FILES, FUNCTIONS, CHANGES = 10, 45, 50


def test_the_layer_keeps_its_size():
    files, functions, lines, changes = figures(trace(length=70).part(False))
    assert lines > 100
    assert (files <= FILES, functions <= FUNCTIONS, changes <= CHANGES) == (True,) * 3, (
        f"{files} files, {functions} functions, {changes} changes of file"
    )


def test_what_counts():
    def code(name, file):
        return compile("", file, "exec").replace(co_qualname=name)

    one, two, other = code("one", "a.py"), code("two", "a.py"), code("one", "b.py")
    steps = [(one, 1), (two, 1), (two, 2), (other, 1), (one, 2), (one, 1)]
    assert figures(steps) == (2, 3, 3, 2)


def test_the_cell_is_apart():
    """A layer's own lines go on around those of its cell."""
    found = trace(length=70)
    inside = {code.co_qualname for code, _ in found.part(True)}
    outside = {code.co_qualname for code, _ in found.part(False)}
    assert "SelectiveSSM.__call__" in inside - outside
    assert "BMojo.__call__" in outside - inside
    assert len(found.part(True)) + len(found.part(False)) == len(found.part(True, False))
