"""The memory report as one page of HTML that needs nothing but itself.

Without JavaScript it shows the text with the first layer's innovation, figures and tables;
with it, the reader chooses layer and colour, and moves through the text chunk by chunk.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np

from bmojo.evaluation.memory.text import Piece
from bmojo.evaluation.memory.trace import Layer, Memory
from bmojo.ops.masks import EIDETIC, TIERS

__all__ = ["page", "without"]

CODES = 2**16 - 1
HUES = ("66 105 208", "60 169 81", "225 87 89")
"""Of window, fading and eidetic, as red, green and blue."""

CONTEXT = 20
"""Characters around a token in tables."""


def page(
    title: str,
    facts: str,
    memory: Memory,
    pieces: Sequence[Piece],
    figures: Mapping[str, tuple[bytes, str]],
) -> str:
    """The page.

    Args:
      title: its headline.
      facts: a line below it.
      memory: what was read.
      pieces: what each token looks like.
      figures: PNGs and what they show, by name.
    """
    measures = [_measures(layer) for layer in memory.layers]
    payload = [
        {**_slots(layer), "name": layer.name, "measures": list(found)}
        for layer, found in zip(memory.layers, measures, strict=True)
    ]
    data = json.dumps({"layers": payload}, separators=(",", ":")).replace("<", "\\u003c")
    assets = files(__package__)
    first, colour = memory.layers[0], measures[0][0]
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{assets.joinpath('page.css').read_text()}</style>",
        f"</head>\n<body>\n<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(facts)}</p>',
        *(f"<p>{escape(line)}</p>" for line in without(memory)),
        "<h2>The text</h2>",
        CONTROLS,
        f"<noscript><p>Coloured by {escape(colour['name'])} in {escape(first.name)}; tokens that "
        "its slots hold at the end are underlined. The other layers are in the figures and "
        "tables below; choosing them here needs JavaScript.</p></noscript>",
        '<div class="reader" id="reader">\n<div id="text" tabindex="0" role="group" '
        f'aria-label="The text, token by token; arrow keys move">{_text(first, colour, pieces)}'
        '</div>\n<ol id="held" class="scripted" aria-label="Tokens in the slots"></ol>\n</div>',
        '<div id="tip" role="status" hidden></div>',
        *_kept(memory, pieces),
        *_figures(figures),
        *_attention(memory),
        f'<script type="application/json" id="data">{data}</script>',
        f"<script>\n{assets.joinpath('page.js').read_text()}</script>",
        "</body>\n</html>\n",
    ]
    return "\n".join(parts)


CONTROLS = """\
<div class="scripted controls">
<label>layer <select id="layer"></select></label>
<label>colour <select id="measure"></select></label>
<span class="scale"><span></span><output id="from"></output>
<span class="c1"></span><span class="c3"></span><span class="c5"></span><span class="c7"></span>\
<span class="c9"></span><output id="to"></output></span>
</div>
<div class="scripted controls" id="moving">
<label for="chunk">chunk</label>
<button id="back" aria-label="the chunk before">&#8592;</button>
<input type="range" id="chunk" min="0" step="1">
<button id="on" aria-label="the next chunk">&#8594;</button>
</div>
<p class="soft" id="where"></p>"""


def without(memory: Memory) -> list[str]:
    """One line for each kind of thing that the model does not have."""
    lines = []
    for kind in dict.fromkeys(kind for _, kind in memory.without):
        numbers = [str(number) for number, other in memory.without if other == kind]
        lines.append(
            f"No tiers in layer{'s' if len(numbers) > 1 else ''} {', '.join(numbers)} ({kind}): "
            "nothing there attends to tokens."
        )
    plain = [layer for layer in memory.layers if not layer.chunk]
    if plain:
        numbers = [str(layer.number) for layer in plain]
        lines.append(
            f"No eidetic slots, and so no innovation, in layer{'s' if len(numbers) > 1 else ''} "
            f"{', '.join(numbers)}."
        )
    return lines


def _measures(layer: Layer) -> list[dict[str, Any]]:
    """What the text can be coloured by: values of each token as codes of 16 bits."""
    found = []
    if layer.chunk:
        values = layer.innovation
        high = float(values.max()) or 1.0
        positive = values[values > 0]
        low = max(float(positive.min()), high * 1e-6) if len(positive) else high / 2
        low = min(low, high / 2)
        places = np.log(np.maximum(values, low) / low) / np.log(high / low)
        half = float(np.median(places))
        found.append(_measure("innovation", places, low, high, half, HUES[EIDETIC], log=True))
    for tier in reversed(layer.tiers[1:]):
        high = float(layer.mass[:, tier].max()) or 1.0
        name = f"share of attention on {TIERS[tier]} memory"
        places = layer.mass[:, tier] / high
        found.append(_measure(name, places, 0.0, high, 0.0, HUES[tier]))
    high = float(layer.octave.max()) or 1.0
    places = layer.octave / high
    measure = _measure("tokens looked back", places, 0.0, high, 0.0, HUES[0])
    return [*found, {**measure, "octaves": True}]


def _measure(
    name: str,
    places: np.ndarray,
    low: float,
    high: float,
    floor: float,
    hue: str,
    log: bool = False,
) -> dict[str, Any]:
    """Codes of values that lie at ``places`` between low and high; no colour up to ``floor``."""
    codes = np.round(np.clip(places, 0, 1) * CODES).astype("<u2")
    return {
        "name": name,
        "log": log,
        "low": low,
        "high": high,
        "floor": min(round(floor * CODES), CODES - 1),
        "hue": hue,
        "codes": base64.b64encode(codes.tobytes()).decode(),
    }


def _slots(layer: Layer) -> dict[str, Any]:
    """Who was in the slots when; -1: to the end."""
    return {
        "chunk": layer.chunk,
        "chunks": len(layer.held),
        "slots": layer.held.shape[1],
        "kept": layer.kept.tolist(),
        "stays": [
            [stay.position, stay.entered, -1 if stay.left is None else stay.left]
            for stay in layer.tenancies()
        ],
    }


def _text(layer: Layer, measure: Mapping[str, Any], pieces: Sequence[Piece]) -> str:
    """The tokens as elements, coloured as the script does it for its first choice."""
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
    """What the slots hold at the end, a table for each layer."""
    layers = [layer for layer in memory.layers if layer.chunk]
    if layers:
        yield "<h2>Kept to the end</h2>"
        yield (
            "<p>The most surprising tokens of each layer after the last one, where they stand, "
            "and since which chunk edge a query can see them.</p>"
        )
    for layer in layers:
        since = {stay.position: stay.entered for stay in layer.tenancies()}
        rows = []
        for position in layer.kept.tolist():
            entered = since.get(position)
            rows.append(
                f'<tr><td>{position:,}</td><td class="left"><code>{_context(pieces, position)}'
                f"</code></td><td>{layer.innovation[position]:.3g}</td>"
                f"<td>{'next edge' if entered is None else f'{entered:,}'}</td></tr>"
            )
        head = '<th>position</th><th class="left">token</th><th>innovation</th><th>seen since</th>'
        yield (
            f"<details{' open' if layer is layers[0] else ''}><summary>{escape(layer.name)}: "
            f'{len(rows)} of {layer.held.shape[1]} slots</summary>\n<div class="wide"><table>'
            f"<tr>{head}</tr>\n{''.join(rows)}</table></div></details>"
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
    titles = {
        "innovation": "Innovation along the text",
        "slots": "Who sits in the eidetic slots, and for how long",
        "tiers": "Where attention goes",
        "ages": "How old is what is attended to",
    }
    for name, (image, words) in figures.items():
        source = base64.b64encode(image).decode()
        yield (
            f'<h2>{titles[name]}</h2>\n<figure><img alt="{escape(words)}" '
            f'src="data:image/png;base64,{source}">\n<figcaption>{escape(words)}</figcaption>'
            "</figure>"
        )


def _attention(memory: Memory) -> Iterable[str]:
    """Shares of attention and median ages as a table."""
    used = sorted({tier for layer in memory.layers for tier in layer.tiers})
    head = "".join(f"<th>{TIERS[tier]}</th><th>median distance</th>" for tier in used)
    rows = []
    for layer in memory.layers:
        for number, shares in enumerate(layer.spread, start=1):
            cells = []
            for tier in used:
                if tier in layer.tiers:
                    cells.append(f"<td>{shares[tier].sum():.3f}</td><td>{_median(shares[tier])}")
                else:
                    cells.append("<td>none</td><td>")
                cells.append("</td>")
            rows.append(
                f'<tr><th class="left" scope="row">{escape(layer.name)}</th><td>{number}</td>'
                f"{''.join(cells)}</tr>"
            )
    yield (
        '<h2>Attention by tier, layer and head</h2>\n<div class="wide"><table><caption>Share of '
        "attention, a mean over the text; and the octave of tokens from key to query in which "
        f'half of it is reached.</caption>\n<tr><th class="left">layer</th><th>head</th>{head}'
        f"</tr>\n{''.join(rows)}</table></div>"
    )


def _median(shares: np.ndarray) -> str:
    """The octave in which half of some shares is reached."""
    total = shares.sum()
    if total <= 0:
        return ""
    octave = int(np.searchsorted(np.cumsum(shares), total / 2))
    low = 2 ** max(octave - 1, 0)
    return "0" if octave == 0 else "1" if octave == 1 else f"{low:,} to {2 * low - 1:,}"
