"""Regret: the bits that a model needs beyond the best predictor of sources with a known prior.

Sequences of test sources are read through the model's state in segments. The cost of a symbol does
not depend on later ones, so one pass over long sequences measures every shorter length, of the
same sources. Costs are bits, -log2 of the probability of the symbol.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bmojo.data.universal.sequences import SequenceSource
from bmojo.evaluation.perplexity import edges, standard_error
from bmojo.evaluation.streaming import stream_losses

__all__ = ["NEAR", "Costs", "by_length", "by_position", "costs"]

NEAR = 0.05
"""A model whose loss is above the oracle's by less than this share of it counts as near."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Costs:
    """Bits of every symbol of n sequences (n, L), and the complexity of their sources (n,).

    ``oracle``: under the best known predictor that does not know the source.
    """

    model: np.ndarray
    oracle: np.ndarray
    source: np.ndarray
    groups: np.ndarray


def costs(model: Any, source: SequenceSource, count: int, **reading: Any) -> Costs:
    """Costs of the first ``count`` sequences of a source with a known predictor.

    Options of ``reading`` are those of :func:`bmojo.evaluation.streaming.score`.

    Raises:
      UserError: the model has fewer tokens than the source, or a loss is not finite.
    """
    sequences = source.sequences(count)
    begin = np.full((count, 1), source.alphabet)
    documents = list(np.concatenate([begin, sequences.symbols], axis=1))
    losses = stream_losses(model, documents, **reading)
    return Costs(
        np.asarray(losses, np.float64) / math.log(2),
        source.oracle_bits(sequences),
        source.source_bits(sequences),
        sequences.groups,
    )


def by_length(found: Costs, lengths: Sequence[int]) -> list[Row]:
    """A row for each length and group in rising order, the group None over all coming last.

    A row has ``length``, ``group``, ``sequences``; ``model``, ``oracle`` and ``source``, bits of a
    sequence of that length, means over sequences; ``regret``, model - oracle, and its ``stderr``
    over sequences (None for a single one); ``excess``, the regret as a share of the oracle's bits
    (None if these are 0); and ``near``, whether that is at most ``NEAR``.

    Raises:
      ValueError: a length is not among 1 .. L.
    """
    longest = found.model.shape[1]
    rows: list[Row] = []
    for length in sorted(set(lengths)):
        if not 1 <= length <= longest:
            raise ValueError(f"length: {length} is not among 1 .. {longest}")
        model, oracle, source = (
            bits[:, :length].sum(1, dtype=np.float64)
            for bits in (found.model, found.oracle, found.source)
        )
        for group in [*np.unique(found.groups).tolist(), None]:
            chosen = np.full(len(model), True) if group is None else found.groups == group
            regret, needed = (model - oracle)[chosen], float(oracle[chosen].mean())
            excess = float(regret.mean()) / needed if needed > 0 else None
            row = {
                "length": length,
                "group": group,
                "sequences": int(chosen.sum()),
                "model": float(model[chosen].mean()),
                "oracle": needed,
                "source": float(source[chosen].mean()),
                "regret": float(regret.mean()),
                "stderr": standard_error(regret),
                "excess": excess,
                "near": excess is not None and excess <= NEAR,
            }
            rows.append(row)
    return rows


def by_position(found: Costs, training_length: int | None = None) -> list[Row]:
    """A row for each bucket of positions, which meet at the training length if it is given.

    A row has ``start`` and ``stop`` (positions start .. stop - 1), ``model`` and ``oracle`` (bits
    a symbol), ``regret`` (bits a symbol) with its ``stderr`` over sequences, and ``total``, the
    regret of all symbols before ``stop``: the mean over sequences.
    """
    regret = found.model - found.oracle
    total = np.cumsum(regret.mean(0, dtype=np.float64))
    limits = edges(regret.shape[1], training_length)
    rows: list[Row] = []
    for first, last in itertools.pairwise(limits):
        model, oracle, more = (x[:, first:last] for x in (found.model, found.oracle, regret))
        row = {
            "start": first,
            "stop": last,
            "model": float(model.mean(dtype=np.float64)),
            "oracle": float(oracle.mean(dtype=np.float64)),
            "regret": float(more.mean(dtype=np.float64)),
            "stderr": standard_error(more.mean(1, dtype=np.float64)),
            "total": float(total[last - 1]),
        }
        rows.append(row)
    return rows
