"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const text = at("text"), slider = at("chunk"), tip = at("tip"), list = at("held");
  const tokens = Array.from(text.querySelectorAll("i, b"));
  tokens.forEach((token, index) => { token.index = index; });
  const number = (n) => n.toLocaleString("en");
  const short = (x) => (x === 0 ? "0" : Number(x.toPrecision(3)).toLocaleString("en",
    { maximumSignificantDigits: 3 }));

  // Codes are 16 bits, little-endian; see page.py, which makes them.
  for (const layer of data.layers) for (const measure of layer.measures) {
    const bytes = atob(measure.codes);
    measure.codes = new Uint16Array(bytes.length / 2);
    for (let k = 0; k < measure.codes.length; k++)
      measure.codes[k] = bytes.charCodeAt(2 * k) | (bytes.charCodeAt(2 * k + 1) << 8);
  }
  const value = (measure, code) => {
    const part = code / 65535;
    if (measure.log) return measure.low * (measure.high / measure.low) ** part;
    return measure.low + (measure.high - measure.low) * part;
  };
  const told = (measure, code) => {
    const x = value(measure, code);
    return measure.octaves ? "about " + number(Math.round(x < .5 ? 0 : 2 ** (x - .5))) : short(x);
  };
  const level = (measure, code) => (code <= measure.floor ? 0
    : 1 + Math.floor(9 * (code - measure.floor - 1) / (65535 - measure.floor)));

  let layer, measure, held = [], here = [0, 0], cursor = -1;

  const paint = () => {
    document.documentElement.style.setProperty("--hue", measure.hue);
    const names = Array.from({ length: 10 }, (_, n) => (n ? "c" + n : ""));
    tokens.forEach((token, k) => { token.className = names[level(measure, measure.codes[k])]; });
    held = []; here = [0, 0];
    const ends = [measure.floor, 65535].map((code) => told(measure, code));
    at("from").textContent = measure.floor ? "up to " + ends[0] : "0";
    at("to").textContent = ends[1];
    move();
  };

  const stays = (stay, edge) => stay[1] <= edge && (stay[2] < 0 || edge < stay[2]);
  const until = (stay) => (stay[2] < 0 ? "the end" : number(stay[2]));

  const move = (scroll) => {
    for (const k of held) tokens[k].classList.remove("h");
    for (let k = here[0]; k < here[1]; k++) tokens[k].classList.remove("q");
    held = []; here = [0, 0];
    list.replaceChildren();
    at("reader").classList.toggle("slots", layer.chunk > 0);
    for (const id of ["moving", "held"]) at(id).hidden = !layer.chunk;
    at("where").textContent = layer.chunk ? "" : "This layer has no eidetic slots.";
    if (!layer.chunk) return;
    const chunk = +slider.value, edge = chunk * layer.chunk;
    const finished = chunk === layer.chunks;
    if (!finished) here = [edge, Math.min(edge + layer.chunk, tokens.length)];
    held = finished ? layer.kept : layer.stays.filter((s) => stays(s, edge)).map((s) => s[0]);
    for (const k of held) tokens[k].classList.add("h");
    for (let k = here[0]; k < here[1]; k++) tokens[k].classList.add("q");
    const place = finished ? "After the last token, for a next chunk"
      : `Chunk ${number(chunk + 1)} of ${number(layer.chunks)}, tokens ${number(here[0])}`
        + ` to ${number(here[1] - 1)}`;
    at("where").textContent = `${place}: ${held.length} of ${layer.slots} slots hold a token`;
    slider.setAttribute("aria-valuetext", at("where").textContent);
    list.append(...held.map(row));
    if (scroll && !finished) show(tokens[here[0]]);
  };

  const row = (k) => {
    const item = document.createElement("li"), button = document.createElement("button");
    const where = document.createElement("small"), code = document.createElement("code");
    const mark = document.createElement("mark");
    const around = (low, high) => tokens.slice(Math.max(0, low), high)
      .map((token) => token.textContent.replaceAll("\n", "")).join("");
    where.textContent = number(k) + "  ";
    mark.textContent = around(k, k + 1);
    code.append(around(k - 8, k).slice(-12), mark, around(k + 1, k + 9).slice(0, 14));
    button.append(where, code);
    button.addEventListener("click", () => { show(tokens[k]); point(k); });
    item.append(button);
    return item;
  };

  const show = (token) => {
    text.scrollTop += token.getBoundingClientRect().top - text.getBoundingClientRect().top
      - text.clientHeight / 3;
  };

  const facts = (k) => {
    const lines = [`token ${number(k)}: ${tokens[k].textContent.trim() || "blank"}`];
    for (const m of layer.measures) lines.push(`${m.name} ${told(m, m.codes[k])}`);
    if (layer.chunk) {
      const stay = layer.stays.find((s) => s[0] === k);
      lines.push(stay ? `in the slots from ${number(stay[1])} until ${until(stay)}`
        : layer.kept.includes(k) ? "chosen; enters the slots at the next edge"
          : "never in the slots");
    }
    return lines.join("\n");
  };

  const point = (k) => {
    if (cursor >= 0) tokens[cursor].classList.remove("x");
    cursor = k;
    tip.hidden = k < 0;
    if (k < 0) return;
    tokens[k].classList.add("x");
    tip.textContent = facts(k);
    const box = tokens[k].getBoundingClientRect();
    const low = box.bottom + 8 + tip.offsetHeight > innerHeight;
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = (low ? box.top - tip.offsetHeight - 8 : box.bottom + 8) + "px";
  };

  text.addEventListener("mouseover", (event) => {
    point(event.target.index === undefined ? -1 : event.target.index);
  });
  text.addEventListener("mouseleave", () => point(-1));
  text.addEventListener("blur", () => point(-1));
  text.addEventListener("scroll", () => { if (!tip.hidden) point(cursor); });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) { if (event.key === "Escape") point(-1); return; }
    event.preventDefault();
    const next = Math.max(0, Math.min(tokens.length - 1, cursor + step));
    const box = tokens[next].getBoundingClientRect(), frame = text.getBoundingClientRect();
    if (box.top < frame.top || box.bottom > frame.bottom) show(tokens[next]);
    point(next);
  });

  const choose = () => {
    layer = data.layers[at("layer").value];
    const before = measure && measure.name, menu = at("measure");
    menu.replaceChildren(...layer.measures.map((m, k) => new Option(m.name, k)));
    menu.value = Math.max(0, layer.measures.findIndex((m) => m.name === before));
    measure = layer.measures[menu.value];
    const part = slider.max > 0 ? slider.value / slider.max : 1;
    slider.max = layer.chunks;
    slider.value = Math.round(part * layer.chunks);
    paint();
  };
  at("layer").replaceChildren(...data.layers.map((l, k) => new Option(l.name, k)));
  at("layer").addEventListener("change", choose);
  at("measure").addEventListener("change", () => {
    measure = layer.measures[at("measure").value];
    paint();
  });
  slider.addEventListener("input", () => move(true));
  for (const [id, step] of [["back", -1], ["on", 1]])
    at(id).addEventListener("click", () => { slider.value = +slider.value + step; move(true); });
  document.documentElement.classList.add("js");
  slider.max = 0;
  choose();
})();
