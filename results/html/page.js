// The table and the plot of the report. Numbers and texts come from the page itself: nothing is fetched or rounded anew.
"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const table = $("scores"), body = table.tBodies[0], rows = [...body.rows];
const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
const texts = rows.map((row) => [...row.cells].map((cell) => cell.textContent));
const nothing = "–";
const make = (tag, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// ---------------------------------------------------------------- table: sort, filter, copy
const number = (text) => parseFloat(text.replace("−", "-").replace("< ", "").replaceAll(",", ""));
const collator = new Intl.Collator("en", { numeric: true });
let sorted = { column: -1, down: false };
function sortBy(column) {
  const again = sorted.column === column;
  sorted = again && sorted.down ? { column: -1, down: false } : { column, down: again };
  const sign = sorted.down ? -1 : 1;
  const key = texts.map((cells) => (column ? number(cells[column]) : NaN));
  const order = rows.map((_, row) => row);
  if (sorted.column >= 0) {
    order.sort((a, b) => {
      const [known, other] = [Number.isFinite(key[a]), Number.isFinite(key[b])];
      if (known && other) return sign * (key[a] - key[b]) || a - b;
      if (known !== other) return known ? -1 : 1; // what was not measured stands last, whatever the direction
      return sign * collator.compare(texts[a][column], texts[b][column]) || a - b;
    });
  }
  body.append(...order.map((row) => rows[row]));
  show();
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    if (i === sorted.column) cell.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

const haystack = texts.map((cells) => cells.join(" ").toLowerCase());
const position = new Map(rows.map((row, i) => [row, i]));
let matches = rows.map(() => true), limit = 100; // rows that are laid out at once: what is copied is all that match
const shownRows = () => [...body.rows].map((row) => position.get(row)).filter((row) => matches[row]);

function show() {
  const found = shownRows(), laid = new Set(found.slice(0, limit));
  rows.forEach((row, i) => { if (row.hidden === laid.has(i)) row.hidden = !row.hidden; });
  $("count").textContent = `${found.length} of ${rows.length} rows` + (laid.size < found.length ? `, the first ${laid.size} shown` : "");
  $("rest").hidden = laid.size === found.length;
}

function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  matches = haystack.map((text) => words.every((word) => text.includes(word)));
  show();
}
const pipes = (cells) => `| ${cells.map((text) => text.replace(/([|*_<`])/g, "\\$1")).join(" | ")} |`;
const ampersands = (cells) => cells.map((text) => [...text].map((c) => data.latex[c] ?? c).join("")).join(" & ") + " \\\\";
const formats = {
  csv: (shown) => [data.csv[0], ...shown.map((row) => data.csv[row + 1])],
  markdown: (shown) => [pipes(titles), pipes(titles.map(() => "---")), ...shown.map((row) => pipes(texts[row]))],
  latex: (shown) => [
    `\\begin{tabular}{ll${"r".repeat(titles.length - 2)}}`, "\\toprule", ampersands(titles), "\\midrule",
    ...shown.map((row) => ampersands(texts[row])), "\\bottomrule", "\\end{tabular}",
  ],
};

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a browser that lends files no clipboard
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  setTimeout((label) => { button.textContent = label; }, 1200, button.textContent);
  button.textContent = "copied";
}

function prepareTable() {
  [...table.tHead.rows[0].cells].forEach((cell, i) => {
    cell.replaceChildren(make("button", { type: "button", textContent: titles[i], onclick: () => sortBy(i) }));
  });
  rows.forEach((row, i) => row.cells[0].replaceChildren(make("button", { type: "button", textContent: texts[i][0] })));
  body.addEventListener("click", (event) => {
    if (event.target.tagName === "BUTTON") pick(position.get(event.target.closest("tr")), true);
  });
  $("tools").hidden = false;
  $("filter").oninput = filter;
  $("rest").onclick = () => { limit = Infinity; show(); };
  for (const button of document.querySelectorAll("[data-copy]")) button.onclick = () => copy(formats[button.dataset.copy](shownRows()).join("\n") + "\n", button);
  filter();
}

// ---------------------------------------------------------------- one variant: its row, its runs, its command
function pick(row, scroll = false) {
  const panel = $("point");
  if (!panel) return; // a page without a plot
  const facts = titles.map((title, i) => [title, texts[row][i]]).filter(([, text], i) => i > 1 && text !== nothing);
  panel.replaceChildren(
    make("h3", { textContent: `${texts[row][0]}, ${texts[row][1]}` }),
    make("dl", {}, ...facts.map(([title, text]) => make("div", {}, make("dt", { textContent: title }), make("dd", { textContent: text })))),
    make("p", { className: "quiet", textContent: `Runs: ${data.runs[row].join(", ") || nothing}` }),
  );
  if (data.commands[row]) {
    const button = make("button", { type: "button", textContent: "copy" });
    button.onclick = () => copy(data.commands[row], button);
    panel.append(make("p", {}, make("code", { textContent: data.commands[row] }), " ", button));
  }
  panel.append(make("button", { type: "button", textContent: "close", onclick: () => { panel.hidden = true; } }));
  panel.hidden = false;
  if (scroll) panel.scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------- plot
const plot = $("plot");
const symbols = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "triangle-left", "triangle-right", "pentagon"];
const signs = ["●", "■", "▲", "◆", "▼", "✚", "✖", "◀", "▶", "⬟"];
const dashes = ["solid", "dash", "dot", "dashdot", "5px,3px", "longdashdot"];
const names = [...new Set(data.curves)];
const dense = new Set(data.curves.filter((_, row) => data.dense[row]));
const plain = names.filter((name) => !dense.has(name)).sort();
const place = new Map(plain.map((name, i) => [name, i]));
const rowsOf = new Map(names.map((name) => [name, []]));
data.curves.forEach((name, row) => rowsOf.get(name).push(row));
const hidden = new Set();
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const style = (name) => {
  const i = place.get(name);
  return i === undefined ? { ink: color("--ink"), symbol: "star", sign: "★", dash: "solid" }
    : { ink: color(`--c${i % 8}`), symbol: symbols[i % 10], sign: signs[i % 10], dash: dashes[i % 6] };
};

function said(row) {
  const facts = titles.map((title, i) => [title, texts[row][i]])
    .filter(([title, text], i) => i > 1 && text !== nothing && !data.quiet.includes(title));
  const runs = data.runs[row].slice(0, 3).join("<br>  ") + (data.runs[row].length > 3 ? `<br>  and ${data.runs[row].length - 3} more` : "");
  return `<b>${escape(texts[row][0])}</b>, ${escape(texts[row][1])}<br>${facts.map(([t, text]) => `${escape(t)}: ${escape(text)}`).join("<br>")}`
    + (runs && `<br>runs: ${runs}`);
}
const hover = texts.map((_, row) => said(row));
/** Rows that no other of `shown` beats: the same rule as results.statistics.curves.pareto_front. */
function front(shown, x, y, more) {
  const cost = (row) => (more ? -x[row] : x[row]);
  const order = [...shown].sort((a, b) => cost(a) - cost(b) || y[b] - y[a]);
  let kept = [], best = -Infinity;
  for (const row of order) {
    const last = kept.at(-1), equal = last !== undefined && x[last] === x[row] && y[last] === y[row];
    if (y[row] > best || equal) kept.push(row);
    best = Math.max(best, y[row]);
  }
  return kept;
}

const on = (id) => Boolean($(id)?.checked);
function view() {
  const kind = on("relative") ? "relative" : "absolute";
  const cost = data.costs[$("x").value], metric = data.metrics[$("y").value];
  return { kind, cost, metric, x: cost[kind], y: metric[kind] };
}

function traces() {
  const { kind, cost, x, y } = view(), more = cost.more;
  const known = data.curves.map((_, row) => row).filter((row) => x[0][row] !== null && y[0][row] !== null);
  const shown = known.filter((row) => !hidden.has(data.curves[row]));
  const fronts = [...new Set(data.groups)].map((group) =>
    front(shown.filter((row) => data.groups[row] === group && !data.outside[row]), x[0], y[0], more));
  const best = new Set(fronts.flat());
  const line = { color: color("--step"), width: 5, shape: more ? "vh" : "hv" };
  const found = fronts.filter((rows) => rows.length)
    .map((rows) => ({ name: "front", x: rows.map((row) => x[0][row]), y: rows.map((row) => y[0][row]), mode: "lines", hoverinfo: "skip", line }));
  const visible = new Set(shown), all = on("dominated");
  const timed = ["images_per_s", "latency_ms"].includes(cost.name);
  const bars = (axis, rows) => ({
    type: "data", symmetric: false, thickness: 1, width: 3, visible: rows.some((row) => axis[1][row] !== axis[2][row]),
    arrayminus: rows.map((row) => axis[0][row] - (axis[1][row] ?? axis[0][row])),
    array: rows.map((row) => (axis[2][row] ?? axis[0][row]) - axis[0][row]),
  });
  const apart = dodge(known.map((row) => x[0][row]), cost.name);
  for (const name of [...names].reverse()) { // the first one on top
    const own = rowsOf.get(name).filter((row) => visible.has(row) && (all || best.has(row)));
    if (!own.length) continue;
    own.sort((a, b) => x[0][a] - x[0][b]);
    const { ink, symbol, dash } = style(name);
    const places = own.map((row) => x[0][row] + apart(name));
    if (on("with-seeds") && kind === "absolute") found.push(seeds(own, places, ink));
    const hollow = (row) => data.doubted[0][row] || (timed && data.doubted[1][row]);
    found.push({
      name, x: places, y: own.map((row) => y[0][row]), customdata: own, meta: "curve",
      mode: all ? "lines+markers" : "markers", line: { color: ink, dash, width: 1.8 },
      marker: { color: ink, size: symbol === "star" ? 13 : 9, symbol: own.map((row) => symbol + (hollow(row) ? "-open" : "")) },
      error_x: { ...bars(x, own), color: ink }, error_y: { ...bars(y, own), color: ink },
      text: own.map((row) => hover[row]), hovertemplate: "%{text}<extra></extra>",
    });
  }
  return on("with-published") ? [...published(kind, cost), ...found] : found;
}

/** How far a curve moves sideways where all methods meet the same budgets, so that bars do not cover bars. */
function dodge(x, cost) {
  if (on("log") || !["macs", "tokens"].includes(cost)) return () => 0;
  const step = 0.012 * (Math.max(...x) - Math.min(...x));
  return (name) => (place.has(name) ? step * (place.get(name) - (plain.length - 1) / 2) * Math.min(1, 6 / plain.length) : 0);
}

function seeds(own, places, ink) {
  const values = data.seeds[$("y").value], all = own.flatMap((row, at) => values[row].map((value, i) => [row, value, i, at]));
  return {
    name: "seeds", x: all.map(([, , , at]) => places[at]), y: all.map(([, value]) => value), mode: "markers", customdata: all.map(([row]) => row),
    marker: { color: ink, size: 5, opacity: 0.35 }, hovertemplate: "%{text}<extra></extra>",
    text: all.map(([row, value, i]) => `${escape(texts[row][0])}, seed ${data.seed_names[row][i]}: ${value.toFixed(1)}<br>${data.runs[row][i]}`),
  };
}

function published(kind, cost) {
  const which = kind === "relative" ? 1 : 0;
  const points = Number($("y").value) ? [] : data.published.filter((one) => one.costs[cost.name]?.[which] != null && one.scores[which] !== null);
  const methods = [...new Set(data.published.map((one) => one.method))];
  return methods.map((method, i) => [method, i, points.filter((one) => one.method === method)]).filter(([, , own]) => own.length)
    .map(([method, i, own]) => ({
      name: `${method}, published`, x: own.map((one) => one.costs[cost.name][which]), y: own.map((one) => one.scores[which]), mode: "markers",
      marker: { color: color("--soft"), opacity: 0.6, size: 7, symbol: own.map((one) => symbols[i % 10] + (one.secondary ? "-open" : "")) },
      text: own.map((one) => `<b>${escape(method)}</b>, published<br>${escape(one.said)}<br>${escape(one.source).slice(0, 90)}`),
      hovertemplate: "%{text}<extra></extra>",
    }));
}

function draw() {
  const { kind, cost, metric, x, y } = view();
  const grid = { gridcolor: color("--line"), linecolor: color("--soft"), zeroline: false, ticks: "outside", tickcolor: color("--soft"), automargin: true };
  const label = (axis) => ({ text: kind === "relative" ? axis.relative_label : axis.label, font: { size: 13 } });
  const height = plot.clientWidth < 480 ? 340 : 460;
  plot.style.height = `${height}px`;
  const layout = {
    height, margin: { l: 56, r: 12, t: 12, b: 48 }, showlegend: false, hovermode: "closest",
    dragmode: matchMedia("(pointer: fine)").matches ? "zoom" : false, // a finger scrolls the page
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: color("--ink") },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("--soft"), activecolor: color("--ink") },
    hoverlabel: { bgcolor: color("--panel"), bordercolor: color("--line"), align: "left", font: { size: 12, color: color("--ink") } },
    xaxis: { ...grid, title: label(cost), type: on("log") ? "log" : "linear", showgrid: false },
    yaxis: { ...grid, title: label(metric) },
  };
  const all = traces();
  Plotly.react(plot, all, layout, { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], toImageButtonOptions: { format: "svg" } });
  const best = all.filter((trace) => trace.name === "front").flatMap((trace) => trace.x.map((x, i) => `${x}|${trace.y[i]}`));
  const named = data.curves.map((_, row) => row).filter((row) => !hidden.has(data.curves[row]) && best.includes(`${x[0][row]}|${y[0][row]}`) && !data.outside[row]);
  $("front").textContent = `On the front of what is shown: ${named.map((row) => data.dense[row] ? texts[row][0] : `${texts[row][0]} ${texts[row][1].split(" ")[0]}`).join(", ") || nothing}.`;
}

function legend() {
  const box = $("legend"), marks = new Map();
  for (const name of names) {
    const mark = make("span", { className: "mark", textContent: style(name).sign, ariaHidden: "true" });
    const tick = make("input", { type: "checkbox", checked: true });
    tick.onchange = () => { tick.checked ? hidden.delete(name) : hidden.add(name); draw(); };
    box.append(make("label", {}, tick, mark, make("span", { textContent: name })));
    marks.set(name, [mark, tick]);
  }
  const all = (checked) => () => { for (const [name, [, tick]] of marks) { tick.checked = checked; checked ? hidden.delete(name) : hidden.add(name); } draw(); };
  const button = (textContent, checked) => make("button", { type: "button", textContent, onclick: all(checked) });
  box.append(make("div", { className: "all" }, button("all", true), button("none", false)));
  box.hidden = false;
  return () => marks.forEach(([mark], name) => { mark.style.color = style(name).ink; });
}

function preparePlot() {
  data.costs.forEach((axis, i) => $("x").add(new Option(axis.label.split(",")[0], i)));
  data.metrics.forEach((axis, i) => $("y").add(new Option(axis.label.split(",")[0], i)));
  plot.replaceChildren();
  const paint = legend();
  const redraw = () => { paint(); draw(); };
  $("axes").hidden = $("hint").hidden = false;
  $("axes").onchange = draw;
  redraw();
  plot.on("plotly_click", (event) => { const row = event.points[0].customdata; if (Number.isInteger(row)) pick(row); });
  for (const media of ["(prefers-color-scheme: dark)", "(max-width: 700px)"]) matchMedia(media).addEventListener("change", redraw);
  addEventListener("beforeprint", () => Plotly.relayout(plot, { width: 640, height: 420 }));
  addEventListener("afterprint", () => Plotly.relayout(plot, { width: null, autosize: true }).then(draw));
}

for (const form of document.forms) form.onsubmit = (event) => event.preventDefault();
for (const form of document.querySelectorAll("form.live")) { // live patches behind each block
  const { at, said } = form.elements, blocks = form.querySelectorAll("option");
  at.oninput = () => {
    for (const path of form.querySelectorAll("[data-at]")) path.style.display = path.dataset.at <= Number(at.value) ? "" : "none";
    said.value = at.ariaValueText = blocks[at.value].label;
  };
  at.oninput();
  at.parentElement.hidden = false;
}
prepareTable();
if (plot && data.costs.length && data.metrics.some((metric) => metric.absolute[0].some((value) => value !== null))) preparePlot();
})();
