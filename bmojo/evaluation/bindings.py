"""Bindings of runs, and their differences."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

Bindings = Mapping[str, str]


def bindings(text: str) -> dict[str, str]:
    """Key and value of every line of a run's ``config.gin``, as they are written there."""
    pairs = (line.partition(" = ") for line in text.splitlines() if not line.startswith("#"))
    return {key: value for key, equals, value in pairs if equals}


def difference(one: Bindings, other: Bindings) -> Iterator[tuple[str, str | None, str | None]]:
    """Keys whose values differ, with both values; None where a key is not bound."""
    for key in sorted({*one, *other}):
        if one.get(key) != other.get(key):
            yield key, one.get(key), other.get(key)


def distinguishing(configs: Sequence[Bindings]) -> list[str]:
    """A short list of keys by which all different configs differ.

    Each key separates most of the pairs that are left; among equals most configs bind it, then it
    is the shortest.
    """
    keys = {key for config in configs for key in config}
    pairs = list(itertools.combinations(range(len(configs)), 2))
    apart = {
        key: {(i, j) for i, j in pairs if configs[i].get(key) != configs[j].get(key)}
        for key in keys
    }
    bound = {key: sum(key in config for config in configs) for key in keys}
    left = set(pairs)
    chosen: list[str] = []
    while left:
        best = min(keys, key=lambda k: (-len(apart[k] & left), -bound[k], len(k), k), default=None)
        if best is None or not apart[best] & left:
            break
        chosen.append(best)
        left -= apart[best]
    return chosen


def shown(config: Bindings, keys: Sequence[str]) -> str:
    """Some bindings in few letters: the parameter alone where it is unique, no quotes or @()."""
    last = [key.rpartition(".")[2] for key in keys]
    parts = []
    for key, name in zip(keys, last, strict=True):
        if key in config:
            value = config[key].replace("@", "").replace("()", "").replace("'", "")
            parts.append(f"{name if last.count(name) == 1 else key}={value}")
    return ", ".join(parts)
