"""Outputs of random short programs: the sequences of Solomonoff's prior."""

import dataclasses

import numpy as np

from bmojo.data.source import check_integer, check_share
from bmojo.data.synthetic import sequence_checksum
from bmojo.data.universal.machine import INSTRUCTIONS, Machine, ProgramPrior, enumerated
from bmojo.data.universal.markov import weighted
from bmojo.data.universal.sequences import Sequences, SequenceSource, chosen_bits

__all__ = ["ProgramsConfig", "ProgramsSource"]

REST_DEPTH = 4


@dataclasses.dataclass(frozen=True)
class ProgramsConfig:
    """Predict the next symbol that an unknown program writes.

    A program of the machine in :mod:`bmojo.data.universal.machine` is drawn symbol by symbol:
    with probability ``end`` it ends, else one of seven instructions follows, each as likely. With
    the default of 1/8 a program of n instructions has the probability 8^-(n + 1): 3 bits for each
    of them, and 3 for its end. Programs that fall silent before L symbols are drawn again. Boring
    programs are kept as they come: nearly half of them write one symbol for ever, as ``.`` does.

    Symbols are the tokens 0 .. A - 1, the begin token is A, and every symbol is a target.
    The program ``--+].-+`` writes ``ProgramsConfig(length=16)``, seed 0, train, example 3::

        inputs   4 3 2 1 0 0 3 2 1 0 0 3 2 1 0 0
        targets  3 2 1 0 0 3 2 1 0 0 3 2 1 0 0 3

    The *source* code sends the program, then nothing: it bounds the loss of a predictor that
    mixes all programs by their probabilities. The *oracle* is such a predictor as far as it can
    be computed (:meth:`ProgramsSource.oracle_bits`); a trained model may beat it on long programs.

    Train and test never share a program, whatever the seed; outputs as simple as a constant have
    many programs and come in both. ``group`` is the number of the program's instructions, rounded
    up to a power of two.

    Attributes:
      length: L, symbols of a sequence.
      symbols: A, how many different ones there are.
      cells: of the machine's tape.
      silence: steps without a symbol after which a program is given up.
      end: probability that a program ends.
      longest: all programs of up to so many instructions are in the oracle's mixture.
      sampled: longer programs that are in it too, drawn at random.
    """

    length: int
    symbols: int = 4
    cells: int = 16
    silence: int = 256
    end: float = 0.125
    longest: int = 6
    sampled: int = 20_000

    slices = "instructions_up_to"

    def __post_init__(self) -> None:
        least = {"length": 1, "cells": 1, "silence": 1, "longest": 1, "symbols": 2, "sampled": 0}
        for field, smallest in least.items():
            check_integer(self, field, smallest)
        for field in ("symbols", "longest"):
            value = getattr(self, field)
            if value > 8:
                raise ValueError(f"Programs.{field}: {value} is too large; give at most 8")
        check_share(self, "end")
        if not self.end:
            raise ValueError("Programs.end: 0 lets no program end; give a number above 0")

    @property
    def vocab_size(self) -> int:
        """The symbols and the begin token."""
        return self.symbols + 1

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.symbols

    def source(self, seed: int, split: str) -> "ProgramsSource":
        """All examples of a split: 'train' or 'test'."""
        return ProgramsSource(self, seed, split)


class ProgramsSource(SequenceSource[ProgramsConfig, np.ndarray]):
    """Outputs of programs, places in ``INSTRUCTIONS``; ``group``: their number, up to."""

    def __init__(self, config: ProgramsConfig, seed: int, split: str):
        super().__init__(config, seed, split)
        self.alphabet = config.symbols
        self._machine = Machine(config.symbols, config.cells, config.silence)
        self._prior = ProgramPrior(config.end)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A program of this split, and its output (L,)."""
        length, end = self.config.length, self.config.end

        def program() -> np.ndarray:
            return rng.integers(len(INSTRUCTIONS), size=rng.geometric(end) - 1)

        while True:
            chosen = self.of_split(program, sequence_checksum)
            output = self._machine.run(chosen.tolist(), length)
            if output is not None:
                return chosen, output.first(length)

    def oracle_bits(self, sequences: Sequences[np.ndarray]) -> np.ndarray:
        """Bits of each symbol (n, L) under a mixture of all programs that can be computed.

        Programs of up to ``longest`` instructions that write as many symbols are weighted by
        their prior. Half the prior of all longer ones goes to a sample of them, half to a
        predictor that knows nothing of programs, context-tree weighting over the symbols.
        """
        config, symbols = self.config, sequences.symbols
        mixture = enumerated(
            self._machine, self._prior, config.longest, symbols.shape[1], config.sampled
        )
        rest = chosen_bits(weighted(symbols, REST_DEPTH, 0.5, config.symbols), symbols)
        return mixture.bits(symbols, rest)

    def source_bits(self, sequences: Sequences[np.ndarray]) -> np.ndarray:
        """Bits (n, L) of a code that sends the program before the first symbol, then nothing."""
        bits = np.zeros(sequences.symbols.shape)
        bits[:, 0] = [self._prior.code_length(len(program)) for program in sequences.origins]
        return bits
