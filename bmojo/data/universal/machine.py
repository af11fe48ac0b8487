"""A small machine: a tape of a few cells, seven instructions, endless output.

A program is run again and again from its first instruction, with the tape as it is. Cells count
modulo the number of symbols, the tape is a ring, and all cells are 0 at first::

    >  <    move to the next cell, to the one before
    +  -    add 1 to the cell, subtract 1
    [       if the cell is 0, go on behind the matching ]
    ]       if the cell is not 0, go on behind the matching [
    .       write the cell's symbol

Every text is a program: without a partner, [ leads to the end of the text and ] to its beginning.
With an endless tape it would be universal; with a finite one every output is periodic in the end,
and where the machine finds itself in a former state, all of the output is known.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

__all__ = ["INSTRUCTIONS", "Machine", "Output", "parse", "shown"]

INSTRUCTIONS = "><+-[]."
_RIGHT, _LEFT, _ADD, _SUBTRACT, _OPEN, _CLOSE, _WRITE = range(len(INSTRUCTIONS))


@dataclasses.dataclass(frozen=True)
class Output:
    """The symbols that a program writes.

    Attributes:
      start: the first symbols.
      period: the symbols that follow for ever; empty: unknown, only ``start`` was computed.
    """

    start: bytes
    period: bytes

    def first(self, length: int) -> np.ndarray:
        """The first symbols (length,), uint8; fewer if they are not known."""
        repeats = -(-max(length - len(self.start), 0) // len(self.period)) if self.period else 0
        known = self.start + self.period * repeats
        return np.frombuffer(known, np.uint8)[:length]

    def reduced(self) -> "Output":
        """The same symbols with the shortest period, and before it the shortest start.

        Two outputs that are known for ever are equal exactly if their reduced forms are.
        """
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
    """The machine's limits.

    Attributes:
      symbols: A, cells count modulo A; outputs are 0 .. A - 1.
      cells: of the tape.
      silence: a program that takes so many steps without writing is stopped.
    """

    symbols: int = 4
    cells: int = 16
    silence: int = 256

    def run(self, program: Sequence[int], length: int) -> Output | None:
        """Run a program.

        Args:
          program: places in ``INSTRUCTIONS``.
          length: symbols that are wanted.

        Returns:
          The output, of which at least ``length`` symbols are known; None: the program falls
          silent before.
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


def parse(text: str) -> list[int]:
    """The program that a text shows, such as ``+.>[-]``.

    Raises:
      ValueError: a character is no instruction.
    """
    try:
        return [INSTRUCTIONS.index(character) for character in text]
    except ValueError:
        raise ValueError(
            f"program: {text!r} has a character that is no instruction; use {INSTRUCTIONS}"
        ) from None


def shown(program: Sequence[int]) -> str:
    """The text of a program."""
    return "".join(INSTRUCTIONS[operation] for operation in program)
