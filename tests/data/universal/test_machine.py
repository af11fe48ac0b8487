"""The machine and the mixture of its programs, against loops that say what is meant."""

import itertools

import numpy as np
import pytest

from bmojo.data.universal.machine import (
    INSTRUCTIONS,
    Machine,
    Mixture,
    Output,
    ProgramPrior,
    enumerated,
)


def parse(text):
    return [INSTRUCTIONS.index(character) for character in text]


def shown(program):
    return "".join(INSTRUCTIONS[operation] for operation in program)


def slow(text, machine, length):
    """What a program writes: brackets are looked for where they are met; None: silent."""
    tape, head, place, written, idle = [0] * machine.cells, 0, 0, [], 0
    while len(written) < length:
        if idle == machine.silence:
            return None
        if place == len(text):
            if not text:
                return None
            place = 0
        step, idle = text[place], idle + 1
        if step == ".":
            written.append(tape[head])
            idle = 0
        elif step in "+-":
            tape[head] = (tape[head] + (1 if step == "+" else -1)) % machine.symbols
        elif step in "<>":
            head = (head + (1 if step == ">" else -1)) % machine.cells
        elif (step == "[") == (tape[head] == 0):
            way, level = (1 if step == "[" else -1), 0
            while 0 <= place < len(text):
                level += {"[": 1, "]": -1}.get(text[place], 0)
                if level == 0:
                    break
                place += way
            place = max(place, -1)
            if place == len(text):
                continue
        place += 1
    return written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (".", [0, 0, 0, 0, 0, 0]),
        ("+.", [1, 2, 3, 0, 1, 2]),
        ("-.", [3, 2, 1, 0, 3, 2]),
        ("+[.]", [1, 1, 1, 1, 1, 1]),
        ("+[.+]>.", [1, 2, 3, 0, 1, 2]),
        (">+.<.", [1, 0, 2, 0, 3, 0]),
        ("+.]", [1, 2, 3, 0, 1, 2]),
        (".[+", [0, 0, 0, 0, 0, 0]),
        ("+.[", [1, 2, 3, 0, 1, 2]),
        ("+-><[]", None),
        ("+[]", None),
        ("", None),
        ("+.[>", [1, 2, 3, 0, 1, 2]),
    ],
)
def test_programs_write(text, written):
    output = Machine().run(parse(text), 6)
    assert slow(text, Machine(), 6) == (None if output is None else output.first(6).tolist())
    if text not in ("+.[>", "+[.+]>."):
        assert (None if output is None else output.first(6).tolist()) == written


@pytest.mark.parametrize("cells", [1, 3])
def test_random_programs_do_what_the_slow_machine_does(cells):
    machine = Machine(symbols=3, cells=cells, silence=40)
    rng = np.random.default_rng(cells)
    silent = periodic = 0
    for _ in range(1500):
        program = rng.integers(7, size=rng.integers(12)).tolist()
        found, expected = machine.run(program, 50), slow(shown(program), machine, 50)
        assert (found is None) == (expected is None), shown(program)
        silent += found is None
        if found is not None:
            assert found.first(50).tolist() == expected
            if found.period:
                periodic += 1
                assert found.first(200).tolist() == slow(shown(program), machine, 200)
    assert silent > 300
    assert periodic > 300


def test_reduced_outputs_are_equal_where_outputs_are():
    outputs = [
        Output(bytes(start), bytes(period))
        for n in range(4)
        for m in range(1, 4)
        for start in itertools.product((0, 1), repeat=n)
        for period in itertools.product((0, 1), repeat=m)
    ]
    reduced = {}
    for output in outputs:
        small = output.reduced()
        assert small.first(40).tolist() == output.first(40).tolist()
        reduced.setdefault(tuple(output.first(40).tolist()), set()).add(small)
    assert all(len(same) == 1 for same in reduced.values())
    assert Output(b"\1\2", b"").reduced() == Output(b"\1\2", b"")


def test_texts_of_programs():
    assert shown(parse(INSTRUCTIONS)) == INSTRUCTIONS


def test_the_prior_costs_three_bits_a_symbol_and_sums_to_one():
    prior = ProgramPrior(1 / 8)
    assert prior.code_length(4) == pytest.approx(15)
    shorter = sum(7**n * 2 ** -prior.code_length(n) for n in range(5))
    assert shorter + prior.longer(4) == pytest.approx(1)


MACHINE = Machine(symbols=3, cells=2, silence=30)


def naive(longest, length):
    """Outputs of all programs with their prior: a list, programs one by one."""
    found = []
    for size in range(1, longest + 1):
        for program in itertools.product(INSTRUCTIONS, repeat=size):
            written = slow("".join(program), MACHINE, length)
            if written is not None:
                found.append((8.0 ** -(size + 1), written))
    return found


def test_the_mixture_is_that_of_all_programs():
    """At every place, and for sequences that no short program writes."""
    mixture = enumerated(MACHINE, ProgramPrior(1 / 8), 3, 20)
    programs = naive(3, 20)
    assert len(mixture.outputs) == len({tuple(w) for _, w in programs}) < len(programs)
    assert mixture.weights.sum() == pytest.approx(sum(p for p, _ in programs))
    rng = np.random.default_rng(0)
    written = [programs[i][1] for i in (0, 5, 40)]
    symbols = np.array([*written, rng.integers(0, 3, 20), [*written[2][:9], *written[1][:11]]])
    rest = rng.uniform(0.5, 2, symbols.shape)
    found = mixture.bits(symbols, rest)
    for row, bits, other in zip(symbols.tolist(), found, rest, strict=True):
        joint = [
            sum(p for p, w in programs if w[:n] == row[:n]) + (7 / 8) ** 4 * 2.0 ** -other[:n].sum()
            for n in range(21)
        ]
        np.testing.assert_allclose(2.0**-bits, np.array(joint[1:]) / joint[:-1], rtol=1e-9)


def test_the_mixture_predicts_with_probabilities_that_sum_to_one():
    mixture = enumerated(MACHINE, ProgramPrior(1 / 8), 3, 8)
    for before in itertools.product(range(3), repeat=3):
        symbols = np.array([[*before, last] for last in range(3)])
        bits = mixture.bits(symbols, np.full(symbols.shape, np.log2(3)))
        assert (2.0 ** -bits[:, -1]).sum() == pytest.approx(1)


def test_the_mixture_costs_no_more_than_a_program():
    mixture = enumerated(MACHINE, ProgramPrior(1 / 8), 3, 200)
    assert isinstance(mixture, Mixture)
    for text in ("+.", ">+.", "+.-"):
        symbols = MACHINE.run(parse(text), 200).first(200)[None]
        cost = mixture.bits(symbols, np.full(symbols.shape, np.log2(3))).sum()
        assert cost < 3 * (len(text) + 1)
    with pytest.raises(ValueError, match="201 in a sequence"):
        mixture.bits(np.zeros((1, 201), int), np.ones((1, 201)))
