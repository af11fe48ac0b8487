"""A small machine, and Solomonoff's mixture of its programs as far as it can be computed.

A program is run again and again from its first instruction, with the tape as it is. Cells count
modulo the number of symbols, the tape is a ring, and all cells are 0 at first::

    >  <    move to the next cell, to the one before
    +  -    add 1 to the cell, subtract 1
    [       if the cell is 0, go on behind the matching ]
    ]       if the cell is not 0, go on behind the matching [
    .       write the cell's symbol

Every text is a program: without a partner, [ leads to the end of the text and ] to its beginning.
With a finite tape every output is periodic in the end, and where the machine finds itself in a
former state, all of the output is known.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["INSTRUCTIONS", "Machine", "Mixture", "Output", "ProgramPrior", "enumerated"]

INSTRUCTIONS = "><+-[]."
_RIGHT, _LEFT, _ADD, _SUBTRACT, _OPEN, _CLOSE, _WRITE = range(len(INSTRUCTIONS))


@dataclasses.dataclass(frozen=True)
class Output:
    """The symbols that a program writes: a start, then a period for ever (empty: unknown)."""

    start: bytes
    period: bytes

    def first(self, length: int) -> np.ndarray:
        """The first symbols (length,), uint8; fewer if they are not known."""
        repeats = -(-max(length - len(self.start), 0) // len(self.period)) if self.period else 0
        known = self.start + self.period * repeats
        return np.frombuffer(known, np.uint8)[:length]

    def reduced(self) -> "Output":
        """The same symbols with the shortest period, and before it the shortest start."""
        start, period = self.start, self.period
        if not period:
            return self
        period = period[: (period + period).find(period, 1)]
        same = 0
        while same < len(start) and start[-1 - same] == period[-1 - same % len(period)]:
            same += 1
        turn = same % len(period)
        turned = period[len(period) - turn :] + period[: len(period) - turn]
        return Output(start[: len(start) - same], turned)


@dataclasses.dataclass(frozen=True)
class Machine:
    """A machine whose cells count modulo ``symbols``; ``silence``: steps until a program writes."""

    symbols: int = 4
    cells: int = 16
    silence: int = 256

    def run(self, program: Sequence[int], length: int) -> Output | None:
        """The output of a program (places in ``INSTRUCTIONS``), known to at least ``length``.

        None: the program falls silent before.
        """
        if _WRITE not in program:
            return None
        jumps, end = _jumps(program), len(program)
        symbols, cells, steps = self.symbols, self.cells, range(self.silence)
        tape, head, place = bytearray(cells), 0, 0
        written = bytearray()
        states: dict[tuple[int, int, bytes], int] = {}
        while len(written) < length:
            for _ in steps:
                if place == end:
                    place = 0
                operation = program[place]
                place += 1
                if operation == _WRITE:
                    written.append(tape[head])
                    break
                if operation == _ADD:
                    tape[head] = (tape[head] + 1) % symbols
                elif operation == _RIGHT:
                    head = (head + 1) % cells
                elif operation == _SUBTRACT:
                    tape[head] = (tape[head] - 1) % symbols
                elif operation == _LEFT:
                    head = (head - 1) % cells
                elif operation == _OPEN:
                    if not tape[head]:
                        place = jumps[place - 1]
                elif tape[head]:
                    place = jumps[place - 1]
            else:
                return None
            # A program that writes for ever passes here, so that a former state need not be
            # looked for anywhere else.
            state = (place, head, bytes(tape))
            before = states.setdefault(state, len(written))
            if before < len(written):
                return Output(bytes(written[:before]), bytes(written[before:]))
        return Output(bytes(written), b"")


def _jumps(program: Sequence[int]) -> list[int]:
    """Where each bracket leads; 0 for other instructions."""
    jumps = [0] * len(program)
    waiting: list[int] = []
    for place, operation in enumerate(program):
        if operation == _OPEN:
            waiting.append(place)
        elif operation == _CLOSE and waiting:
            partner = waiting.pop()
            jumps[partner], jumps[place] = place + 1, partner + 1
    for place in waiting:
        jumps[place] = len(program)
    return jumps


@dataclasses.dataclass(frozen=True)
class ProgramPrior:
    """Programs of equally likely instructions, before each of which one ends by chance ``end``."""

    end: float = 0.125

    def code_length(self, length: int) -> float:
        """Bits of a program of ``length`` instructions, -log2 of its probability."""
        return length * math.log2(len(INSTRUCTIONS) / (1 - self.end)) - math.log2(self.end)

    def longer(self, length: int) -> float:
        """Probability of all programs of more than ``length`` instructions."""
        return (1 - self.end) ** (length + 1)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Different outputs, known to ``length`` symbols, and the probability of their programs.

    ``rest`` is the weight of a predictor that the caller gives.
    """

    outputs: tuple[Output, ...]
    weights: np.ndarray
    rest: float
    length: int

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All symbols in one row, and of each output where it begins, its start and its period."""
        texts = [output.start + output.period for output in self.outputs]
        sizes = np.asarray([len(text) for text in texts], np.int64)
        starts = np.asarray([len(output.start) for output in self.outputs], np.int64)
        symbols = np.frombuffer(b"".join(texts), np.uint8)
        # Without a period nothing is asked for behind the start.
        return symbols, np.cumsum(sizes) - sizes, starts, np.maximum(sizes - starts, 1)

    def bits(self, symbols: np.ndarray, rest_bits: np.ndarray) -> np.ndarray:
        """Bits (n, L), float64, of each of symbols (n, L), given those before.

        The outputs that the symbols before agree with, and the predictor that has the rest's
        weight, of ``rest_bits`` (n, L), predict by their posterior weights.

        Raises:
          ValueError: L exceeds ``length``.
        """
        if symbols.shape[1] > self.length:
            raise ValueError(
                f"symbols: {symbols.shape[1]} in a sequence, but outputs are known to "
                f"{self.length} only; enumerate to that length"
            )
        with np.errstate(divide="ignore"):
            agreeing = np.log2([self._agreeing(row) for row in symbols])
            rest = np.log2(self.rest) - np.cumsum(np.pad(rest_bits, ((0, 0), (1, 0))), axis=1)
        return -np.diff(np.logaddexp2(agreeing, rest), axis=1)

    def _agreeing(self, row: np.ndarray) -> np.ndarray:
        """Weight (L + 1,) of the outputs that begin with the first 0, 1, ... L symbols."""
        symbols, offsets, starts, periods = self._table
        left = np.arange(len(self.weights))
        found = np.zeros(len(row) + 1)
        found[0] = self.weights.sum()
        first, size = 0, 4
        while first < len(row) and len(left):
            piece = row[first : first + size]
            place = first + np.arange(len(piece))
            start, period = starts[left, None], periods[left, None]
            place = np.where(place < start, place, start + (place - start) % period)
            same = symbols[offsets[left, None] + place] == piece
            np.logical_and.accumulate(same, axis=1, out=same)
            found[first + 1 : first + 1 + len(piece)] = self.weights[left] @ same
            left = left[same[:, -1]]
            first, size = first + len(piece), 2 * size
        return found


@functools.lru_cache(maxsize=8)
def enumerated(
    machine: Machine, prior: ProgramPrior, longest: int, length: int, sampled: int = 0
) -> Mixture:
    """The mixture of all programs of up to ``longest`` instructions, and a sample of longer ones.

    There are 7^n programs of n instructions: 20,000 in all up to 5, 140,000 up to 6. Those that
    fall silent before ``length`` symbols are left out, as they are where sequences are drawn.
    ``sampled`` longer programs, always the same ones, share half the prior of all longer ones;
    the rest has the remainder. Programs that write the same symbols are one entry.
    """
    weights: dict[Output, float] = {}

    def add(program: Sequence[int], weight: float) -> None:
        output = machine.run(program, length)
        if output is not None:
            output = output.reduced()
            weights[output] = weights.get(output, 0.0) + weight

    for size in range(1, longest + 1):
        weight = 2.0 ** -prior.code_length(size)
        for program in itertools.product(range(len(INSTRUCTIONS)), repeat=size):
            add(program, weight)
    rest = prior.longer(longest)
    if sampled:
        rest, rng = rest / 2, np.random.default_rng(0)
        for size in longest + rng.geometric(prior.end, size=sampled):
            add(rng.integers(len(INSTRUCTIONS), size=size).tolist(), rest / sampled)
    return Mixture(tuple(weights), np.asarray(list(weights.values())), rest, length)
