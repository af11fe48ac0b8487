"""Selection for eidetic memory: the most surprising tokens so far, at the end of each chunk.

Rows of the batch on partitions, time on the free axis. A chunk's candidates are the set so
far followed by the chunk's tokens; rounds of eight take the largest. Among equal scores the
earlier candidate is taken, which is the earlier token.
"""

from neuron.kernels.tiles import PARTITIONS, share, store
from neuron.nki import nisa, nki, nl

EMPTY = -1.0
"""Score of an empty slot, and of tokens that don't count."""

TAKEN = -3.0e38
"""Score of a candidate that a round has taken."""

WIDTH = 8
MOST_CANDIDATES = 16384


@nki.jit
def running_sets(score, carried, chunk, start=None):
    """The sets of ``bmojo.ops.selection.running_sets`` on a grid that starts with the call.

    Args:
      score: (batch, L) float32 innovation, not negative, -1 at padding.
      carried: (batch, M) float32 scores of the set before the call, best first, -1 where
        vacant.
      chunk: tokens between two edges of the grid.
      start: (batch, L), 1 where a document starts, else 0; None: nowhere.

    Returns:
      Scores, best first, (batch, chunks, M) float32: the set when each chunk has ended. And
      where each slot's token comes from, int32: m is slot m of ``carried``, M + t is token t.
      The source of a vacant slot means nothing.
    """
    batch, length = score.shape
    size = carried.shape[1]
    chunks = (length + chunk - 1) // chunk
    assert size + chunk <= MOST_CANDIDATES, f"{size} slots and chunks of {chunk} are too many"
    scores = nl.ndarray((batch, chunks, size), dtype=nl.float32, buffer=nl.shared_hbm)
    sources = nl.ndarray((batch, chunks, size), dtype=nl.int32, buffer=nl.shared_hbm)
    first, end = share(batch)

    for low in range(first, end, PARTITIONS):
        high = min(low + PARTITIONS, end)
        rows = high - low
        best = nl.ndarray((rows, size), dtype=nl.float32, buffer=nl.sbuf)
        nisa.dma_copy(dst=best, src=carried[low:high, :])
        source = nl.ndarray((rows, size), dtype=nl.int32, buffer=nl.sbuf)
        nisa.iota(dst=source, pattern=[[1, size]], offset=0, channel_multiplier=0)
        for c in range(chunks):
            begin = c * chunk
            stop = min(begin + chunk, length)
            tokens = nl.ndarray((rows, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
            nisa.dma_copy(dst=tokens, src=score[low:high, begin:stop])
            if start != None:
                starts = nl.ndarray((rows, stop - begin), dtype=nl.float32, buffer=nl.sbuf)
                nisa.dma_copy(dst=starts, src=start[low:high, begin:stop])
                tokens, best = _last_document(tokens, best, starts)
            best, source = _merge(best, source, tokens, size + begin)
            store(scores[low:high, c, :], best)
            store(sources[low:high, c, :], source)
    return scores, sources


def _last_document(tokens, best, starts):
    """Scores of the document that is open at the chunk's end; all others are empty."""
    rows, columns = tokens.shape
    size = best.shape[1]
    ones = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=ones, value=1.0)
    document = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.tensor_tensor_scan(
        dst=document, data0=ones, data1=starts, initial=0.0, op0=nl.multiply, op1=nl.add
    )
    latest = document[:, columns - 1 : columns]

    same = nl.ndarray((rows, columns), dtype=nl.uint8, buffer=nl.sbuf)
    nisa.tensor_scalar(dst=same, data=document, op0=nl.equal, operand0=latest)
    kept_tokens = nl.ndarray((rows, columns), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=kept_tokens, value=EMPTY)
    nisa.tensor_copy_predicated(dst=kept_tokens, src=tokens, predicate=same)

    unbroken = nl.ndarray((rows, size), dtype=nl.uint8, buffer=nl.sbuf)
    nisa.tensor_scalar(
        dst=unbroken,
        data=best,
        op0=nl.multiply,
        operand0=0.0,
        op1=nl.equal,
        operand1=latest,
    )
    kept_best = nl.ndarray((rows, size), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=kept_best, value=EMPTY)
    nisa.tensor_copy_predicated(dst=kept_best, src=best, predicate=unbroken)
    return kept_tokens, kept_best


def _merge(best, source, tokens, offset):
    """The best of a set and of tokens that are later; token 0 has source ``offset``."""
    rows, size = best.shape
    columns = tokens.shape[1]
    width = max(size + columns, WIDTH)
    pool = nl.ndarray((rows, width), dtype=nl.float32, buffer=nl.sbuf)
    nisa.memset(dst=pool, value=TAKEN)
    nisa.tensor_copy(dst=pool[:, 0:size], src=best)
    nisa.tensor_copy(dst=pool[:, size : size + columns], src=tokens)
    origin = nl.ndarray((rows, width), dtype=nl.int32, buffer=nl.sbuf)
    nisa.iota(dst=origin, pattern=[[1, width]], offset=offset - size, channel_multiplier=0)
    nisa.tensor_copy(dst=origin[:, 0:size], src=source)

    rounds = (size + WIDTH - 1) // WIDTH
    top = nl.ndarray((rows, rounds * WIDTH), dtype=nl.float32, buffer=nl.sbuf)
    place = nl.ndarray((rows, rounds * WIDTH), dtype=nl.uint32, buffer=nl.sbuf)
    for i in range(rounds):
        eight = top[:, i * WIDTH : (i + 1) * WIDTH]
        nisa.max8(dst=eight, src=pool)
        nisa.nc_find_index8(dst=place[:, i * WIDTH : (i + 1) * WIDTH], data=pool, vals=eight)
        if i + 1 < rounds:
            nisa.nc_match_replace8(dst=pool, data=pool, vals=eight, imm=TAKEN)
    kept = nl.ndarray((rows, size), dtype=nl.int32, buffer=nl.sbuf)
    nisa.nc_n_gather(dst=kept, data=origin, indices=place[:, 0:size])
    return top[:, 0:size], kept
