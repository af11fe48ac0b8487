"""What not every release compiles is found in the source."""

import pytest

from neuron.emulator import lint

KERNEL = "def kernel(x{arguments}):\n    t = nl.ndarray(x.shape, x.dtype)\n    {line}\n"


def problems(line="return t", arguments=""):
    return [f.problem for f in lint.check_source(KERNEL.format(line=line, arguments=arguments))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return t is None", "'is' is rejected before 0.7"),
        ("return t is not None", "'is' is rejected before 0.7"),
        ("nl.mgrid[0:128]", "nl.mgrid: index by slices"),
        ("nl.affine_range(4)", "nl.affine_range: is deprecated, use range"),
        ("nl.par_dim(128)", "nl.par_dim: axis 0 is the partition axis"),
        ("nisa.topk(dst=t)", "nisa.topk: exists since 0.6 only"),
        ("nl.store(x, t, mask=(t < 3))", "mask= is of the old interface"),
        ("nisa.tensor_copy(t, x)", "nisa.tensor_copy: pass operands by keyword"),
        ("t.permute((0, 2, 1))", ".permute exists since 0.5"),
        ("nl.ndarray((2, 2), x.dtype, buffer='sbuf')", "buffer= takes a name of nl or nisa"),
        ("while t: pass", "'while' on data does not compile"),
        ("try: pass\n    finally: pass", "'try' is rejected"),
        ("f = lambda a: a", "'lambda' is rejected"),
        ("def inner(): pass", "a function inside a kernel"),
    ],
)
def test_finds(line, message):
    assert any(problem.startswith(message) for problem in problems(line)), problems(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (", *, scale=1.0", "'*' in the signature"),
        (", *more", "*args and **kwargs"),
        (", sizes: list[int] = ()", "sizes: a kernel takes tuples, not lists"),
    ],
)
def test_finds_in_signatures(arguments, message):
    assert any(problem.startswith(message) for problem in problems(arguments=arguments))


def test_finds_old_imports_and_options():
    assert lint.check_source("import neuronxcc.nki as nki\n")
    assert lint.check_source("@nki.jit(mode='x')\ndef k(x):\n    nl.load(x)\n")


def test_plain_kernels_pass():
    loop = "for i in range(4):\n        nisa.tensor_copy(dst=t, src=t[:, 0:4])"
    assert problems(f"{loop}\n    return t == None") == []
    assert problems("with nl.no_reorder():\n        pass") == []


def test_functions_without_nki_are_not_kernels():
    assert lint.check_source("def f(x, *, y=1):\n    return x is None\n") == []


def test_a_function_object():
    def kernel(x):
        return nl.arange(x)  # noqa: F821

    assert lint.check_function(kernel)[0].problem == "nl.arange: index by slices, or use nisa.iota"


def test_command(tmp_path, capsys):
    file = tmp_path / "kernel.py"
    file.write_text(KERNEL.format(line="nl.mgrid", arguments=""))
    assert lint.main([str(file)]) == 1
    assert "kernel.py:3: nl.mgrid" in capsys.readouterr().out
