"""Stores with entries that are easily told apart."""

import time

import numpy as np

from bmojo.storage import Entries, Identity, Store

HEADS, WIDTH = 2, 8


def identity(**changes):
    fields = dict(model="ab" * 32, tokenizer="", heads=HEADS, width=WIDTH, layers=(0, 2))
    return Identity(**fields | changes)


def entries(count, seed=0, first=0, **changes):
    """Random keys and values; positions from ``first`` on, tokens and contexts follow them."""
    rng = np.random.default_rng((seed, first))
    position = np.arange(first, first + count)
    fields = dict(
        key=rng.standard_normal((count, HEADS, WIDTH)),
        value=rng.standard_normal((count, HEADS, WIDTH)),
        innovation=rng.random(count),
        position=position,
        token=position % 256,
        context=np.maximum(position[:, None] - np.arange(4)[::-1], -1),
    )
    return Entries(**fields | changes)


def part(made, start, stop):
    """Some of entries."""
    return Entries(**{name: array[start:stop] for name, array in vars(made).items()})


def queries(count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, HEADS, WIDTH)).astype(np.float32)


def along(sizes):
    """Entries whose keys have these sizes along the first axis, in every head."""
    key = np.zeros((len(sizes), HEADS, WIDTH))
    key[:, :, 0] = np.asarray(sizes)[:, None]
    return entries(len(sizes), key=key)


def axis():
    """A query along the first axis."""
    query = np.zeros((1, HEADS, WIDTH), np.float32)
    query[:, :, 0] = 1
    return query


def search(store, asked, nearest, layer=0):
    """Entries of queries (Q, G, P), each of which takes what those before it have left."""
    return store.assign(layer, asked[:, :, None], nearest=nearest)


def strength(store, ids):
    """What is left now of entries of layer 0."""
    matrix = store._layers[0]
    return np.exp(matrix.log_strength(store.clock, time.time())[matrix.places(np.array(ids))])


def writer(directory, **options):
    return Store.open(directory, identity(), write=True, **options)


def reader(directory, **options):
    return Store.open(directory, identity(), write=False, **options)
