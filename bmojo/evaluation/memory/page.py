"""The memory report as one self-contained page of HTML.

Without JavaScript it shows the text with the first layer's innovation, figures and tables;
with it, the reader chooses layer and colour, and moves through the text chunk by chunk.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from bmojo.evaluation.memory.text import Piece
from bmojo.evaluation.memory.trace import Layer, Memory
from bmojo.ops.masks import EIDETIC, TIERS

CODES = 2**16 - 1
HUES = ("66 105 208", "60 169 81", "225 87 89")
"""Of window, fading and eidetic, as red, green and blue."""

CONTEXT = 20  # characters around a token in tables

TITLES = {
    "innovation": "Innovation along the text",
    "slots": "Occupancy of the eidetic slots",
    "tiers": "Attention by memory",
    "ages": "Attention by distance",
}
KEPT = """\
<h2>Kept to the end</h2>
<p>The most surprising tokens of each layer after the last one, where they stand, and since which \
chunk edge a query can see them.</p>"""
KEPT_HEAD = '<th>position</th><th class="left">token</th><th>innovation</th><th>seen since</th>'
ATTENTION = """\
<h2>Attention by tier, layer and head</h2>
<div class="wide"><table><caption>Share of attention, a mean over the text; and the octave of \
tokens from key to query in which half of it is reached.</caption>
<tr><th class="left">layer</th><th>head</th>{head}</tr>
{rows}</table></div>"""


def page(
    title: str,
    facts: str,
    memory: Memory,
    pieces: Sequence[Piece],
    figures: Mapping[str, tuple[bytes, str]],
) -> str:
    """The page, with PNGs and their descriptions by name; ``facts`` are a line below the title."""
    measures = [_measures(layer) for layer in memory.layers]
    payload = [
        {**_slots(layer), "name": layer.name, "measures": found}
        for layer, found in zip(memory.layers, measures, strict=True)
    ]
    first, colour = memory.layers[0], measures[0][0]
    assets = {
        path.name: path.read_text() for path in files(__package__).iterdir() if path.is_file()
    }
    return Template(assets["page.html"]).substitute(
        title=escape(title),
        facts=escape(facts),
        style=assets["page.css"],
        script=assets["page.js"],
        without="".join(f"<p>{escape(line)}</p>\n" for line in without(memory)),
        colour=escape(colour["name"]),
        layer=escape(first.name),
        text=_text(first, colour, pieces),
        tables="\n".join([*_kept(memory, pieces), *_figures(figures), _attention(memory)]),
        data=json.dumps({"layers": payload}, separators=(",", ":")).replace("<", "\\u003c"),
    )


def without(memory: Memory) -> list[str]:
    """One line for each kind of mixer without tiers, and one for layers without slots."""

    def layers(numbers: Sequence[int]) -> str:
        return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"

    lines = []
    for kind in dict.fromkeys(kind for _, kind in memory.without):
        found = layers([number for number, other in memory.without if other == kind])
        lines.append(f"No tiers in {found} ({kind}): nothing there attends to tokens.")
    plain = [layer.number for layer in memory.layers if not layer.chunk]
    if plain:
        lines.append(f"No eidetic slots, and so no innovation, in {layers(plain)}.")
    return lines


def _measures(layer: Layer) -> list[dict[str, Any]]:
    """Quantities that colour the text: values of each token as codes of 16 bits."""
    found = []
    if layer.chunk:
        values = layer.innovation
        high = float(values.max()) or 1.0
        positive = values[values > 0]
        low = max(float(positive.min()), high * 1e-6) if len(positive) else high / 2
        low = min(low, high / 2)
        places = np.log(np.maximum(values, low) / low) / np.log(high / low)
        measure = _measure("innovation", places, high, HUES[EIDETIC], float(np.median(places)))
        found.append({**measure, "log": True, "low": low})
    for tier in reversed(layer.tiers[1:]):
        high = float(layer.mass[:, tier].max()) or 1.0
        name = f"share of attention on {TIERS[tier]} memory"
        found.append(_measure(name, layer.mass[:, tier] / high, high, HUES[tier]))
    high = float(layer.octave.max()) or 1.0
    measure = _measure("tokens looked back", layer.octave / high, high, HUES[0])
    return [*found, {**measure, "octaves": True}]


def _measure(
    name: str, places: np.ndarray, high: float, hue: str, floor: float = 0.0
) -> dict[str, Any]:
    """Codes of values that lie at ``places`` between 0 and high; no colour up to ``floor``."""
    codes = np.round(np.clip(places, 0, 1) * CODES).astype("<u2")
    floor, text = min(round(floor * CODES), CODES - 1), base64.b64encode(codes.tobytes()).decode()
    scale = {"name": name, "log": False, "low": 0.0, "high": high}
    return {**scale, "floor": floor, "hue": hue, "codes": text}


def _slots(layer: Layer) -> dict[str, Any]:
    """Tenancies of the slots; -1: to the end."""
    stays = [[t.position, t.entered, -1 if t.left is None else t.left] for t in layer.tenancies()]
    chunks, slots = layer.held.shape
    sizes = {"chunk": layer.chunk, "chunks": chunks, "slots": slots}
    return {**sizes, "kept": layer.kept.tolist(), "stays": stays}


def _text(layer: Layer, measure: Mapping[str, Any], pieces: Sequence[Piece]) -> str:
    """The tokens as elements, coloured as the script colours its first choice."""
    codes = np.frombuffer(base64.b64decode(measure["codes"]), "<u2").astype(int)
    floor = measure["floor"]
    levels = np.where(codes > floor, 1 + 9 * (codes - floor - 1) // (CODES - floor), 0)
    kept = set(layer.kept.tolist())
    out = []
    for index, (piece, level) in enumerate(zip(pieces, levels.tolist(), strict=True)):
        names = [f"c{level}"] * (level > 0) + ["h"] * (index in kept)
        tag = "i" if piece.plain else "b"
        opened = f'{tag} class="{" ".join(names)}"' if names else tag
        out.append(f"<{opened}>{escape(piece.text, quote=False)}</{tag}>")
    return "".join(out)


def _kept(memory: Memory, pieces: Sequence[Piece]) -> Iterable[str]:
    """Tokens in the slots at the end, a table for each layer."""
    layers = [layer for layer in memory.layers if layer.chunk]
    if layers:
        yield KEPT
    for layer in layers:
        since = {stay.position: f"{stay.entered:,}" for stay in layer.tenancies()}
        rows = [
            f'<tr><td>{position:,}</td><td class="left"><code>{_context(pieces, position)}</code>'
            f"</td><td>{layer.innovation[position]:.3g}</td>"
            f"<td>{since.get(position, 'next edge')}</td></tr>"
            for position in layer.kept.tolist()
        ]
        yield (
            f"<details{' open' if layer is layers[0] else ''}><summary>{escape(layer.name)}: "
            f'{len(rows)} of {layer.held.shape[1]} slots</summary>\n<div class="wide"><table>'
            f"<tr>{KEPT_HEAD}</tr>\n{''.join(rows)}</table></div></details>"
        )


def _context(pieces: Sequence[Piece], position: int) -> str:
    """A token marked among its neighbours, on one line."""
    near = range(max(0, position - CONTEXT), min(len(pieces), position + CONTEXT + 1))
    shown = {index: pieces[index].text.replace("\n", "") for index in near}
    before = "".join(shown[i] for i in near if i < position)[-CONTEXT:]
    after = "".join(shown[i] for i in near if i > position)[:CONTEXT]
    token = escape(shown[position])
    return f"{escape(before):>{CONTEXT}}<mark>{token}</mark>{escape(after)}"


def _figures(figures: Mapping[str, tuple[bytes, str]]) -> Iterable[str]:
    for name, (image, words) in figures.items():
        source = base64.b64encode(image).decode()
        yield (
            f'<h2>{TITLES[name]}</h2>\n<figure><img alt="{escape(words)}" '
            f'src="data:image/png;base64,{source}">\n<figcaption>{escape(words)}</figcaption>'
            "</figure>"
        )


def _attention(memory: Memory) -> str:
    """Shares of attention and median ages as a table."""
    used = sorted({tier for layer in memory.layers for tier in layer.tiers})
    head = "".join(f"<th>{TIERS[tier]}</th><th>median distance</th>" for tier in used)
    rows = []
    for layer in memory.layers:
        for number, shares in enumerate(layer.spread, start=1):
            cells = (
                f"<td>{shares[tier].sum():.3f}</td><td>{_median(shares[tier])}</td>"
                if tier in layer.tiers
                else "<td>none</td><td></td>"
                for tier in used
            )
            name = f'<th class="left" scope="row">{escape(layer.name)}</th><td>{number}</td>'
            rows.append(f"<tr>{name}{''.join(cells)}</tr>")
    return ATTENTION.format(head=head, rows="".join(rows))


def _median(shares: np.ndarray) -> str:
    """The octave in which half of some shares is reached."""
    total = shares.sum()
    if total <= 0:
        return ""
    octave = int(np.searchsorted(np.cumsum(shares), total / 2))
    low = 2 ** max(octave - 1, 0)
    return "0" if octave == 0 else "1" if octave == 1 else f"{low:,} to {2 * low - 1:,}"
