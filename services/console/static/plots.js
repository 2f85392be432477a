// The two plots. Points come from /live. Colours, dashes and markers follow the arm's style number, as in the tables.
import { axisMs, local, serverNow, utc } from "./clock.js";

const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "6px,3px", "1px,3px"];
const MARKERS = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star"];
const MARKS = {
  start: ["triangle-right", "good"], enter: ["cross", "good"], promote: ["star", "good"], rollback: ["x", "bad"],
  hold: ["square", "bad"], pause: ["diamond", "note"], resume: ["triangle-right", "note"], undo: ["triangle-left", "note"],
  retrain: ["hexagon", "note"], answer: ["hexagon-open", "note"], confirm: ["circle-open", "soft"], end: ["square", "soft"],
};
const HAIRLINES = new Set(["start", "enter", "promote", "rollback", "hold", "pause", "resume", "undo", "end"]);
const CONFIG = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const fade = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;" };
const plain = (text) => String(text).replace(/[&<>]/g, (c) => escapes[c]); // Plotly interprets some tags in labels
const percent = (share, digits = 1) => (share == null ? "–" : `${(100 * share).toFixed(digits)} %`);

function styleOf(style) {
  const color = css(`--arm-${style}`);
  return { color, dash: DASHES[style], symbol: MARKERS[style] };
}

function evidence(logE) {
  if (logE > 690) return `10^${Math.round(logE / Math.LN10)}`;
  const value = Math.exp(logE);
  return value < 0.001 ? "< 0.001" : value >= 1e5 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}

// Without units, the numbers are those of the prior.
const isCounted = (numbers) => Boolean(numbers && numbers.n > 0 && numbers.low != null);

function when(point) { return `${utc(point.at)}<br>${local(point.at)} · revision ${point.revision}`; }

function targetTrace(arm, points, style) {
  const { color, dash } = styleOf(style);
  const kept = points.filter((p) => arm in p.weights || p.kind !== "allocate");
  const x = kept.map((p) => axisMs(p.at));
  const y = kept.map((p) => (arm in p.weights ? 100 * p.weights[arm] : null));
  const revisions = kept.map((p) => p.revision);
  if (kept.length && y.at(-1) != null) { x.push(axisMs(serverNow())); y.push(y.at(-1)); revisions.push(revisions.at(-1)); }
  return { x, y, customdata: revisions, yaxis: "y", mode: "lines", name: `${plain(arm)} target`, line: { color, dash, width: 2.2, shape: "hv" }, hovertemplate: "%{y:.1f} %" };
}

function realisedTrace(arm, points, style) {
  const { color, symbol } = styleOf(style);
  const kept = points.filter((p) => p.realised && arm in p.realised && arm in p.weights);
  return { x: kept.map((p) => axisMs(p.at)), y: kept.map((p) => 100 * p.realised[arm]), customdata: kept.map((p) => p.revision), yaxis: "y", mode: "markers", name: `${plain(arm)} counted`, marker: { color: fade(color, 0.5), symbol, size: 4.5 }, hovertemplate: "%{y:.1f} %" };
}

function rateTraces(arm, points, style) {
  const { color, dash } = styleOf(style);
  const kept = points.filter((p) => isCounted(p.arms[arm]));
  const x = kept.map((p) => axisMs(p.at));
  const of = (key) => kept.map((p) => 100 * p.arms[arm][key]);
  const edge = { x, yaxis: "y2", mode: "lines", line: { width: 0, color }, hoverinfo: "skip" };
  const text = kept.map((p) => `${percent(p.arms[arm].posterior_mean, 2)} [${percent(p.arms[arm].low, 2)} – ${percent(p.arms[arm].high, 2)}], ${p.arms[arm].s} of ${p.arms[arm].n}`);
  return [
    { ...edge, y: of("low") },
    { ...edge, y: of("high"), fill: "tonexty", fillcolor: fade(color, 0.13) },
    { x, y: of("posterior_mean"), text, customdata: kept.map((p) => p.revision), yaxis: "y2", mode: "lines", name: plain(arm), line: { color, dash, width: 2 }, hovertemplate: "%{text}" },
  ];
}

function racesOf(points) {
  const races = new Map();
  for (const point of points) for (const race of point.races) {
    const key = `${race.arm}\n${race.against}\n${race.index}`;
    if (!races.has(key)) races.set(key, []);
    races.get(key).push({ ...race, at: point.at, revision: point.revision });
  }
  return [...races.values()];
}

function raceTraces(race, style) {
  const { color, dash, symbol } = styleOf(style);
  const x = race.map((r) => axisMs(r.at));
  const { arm, against, index } = race[0];
  const text = race.map((r) => `log E ${r.log_e.toFixed(2)} (E = ${evidence(r.log_e)}), limit ${r.log_threshold.toFixed(2)} (${evidence(r.log_threshold)})`);
  const lost = race.filter((r) => r.log_e >= r.log_threshold).slice(0, 1);
  const name = `${plain(arm)} against ${plain(against)}, race ${index}`;
  return [
    { x, y: race.map((r) => r.log_e), text, customdata: race.map((r) => r.revision), yaxis: "y3", mode: "lines", name, line: { color, dash, width: 2 }, hovertemplate: "%{text}" },
    { x: [x[0], x.at(-1)], y: [race[0].log_threshold, race.at(-1).log_threshold], yaxis: "y3", mode: "lines", line: { color, dash: "2px,2px", width: 1.2 }, hoverinfo: "skip" },
    { x: lost.map((r) => axisMs(r.at)), y: lost.map((r) => r.log_e), customdata: lost.map((r) => r.revision), yaxis: "y3", mode: "markers", marker: { color: css("--bad"), symbol: "x", size: 9, line: { width: 1, color: css("--card") } }, name: `${plain(arm)} lost`, hovertemplate: "limit reached" },
  ];
}

function lookLane(points) {
  const kept = points.filter((p) => p.kind === "allocate");
  return { x: kept.map((p) => axisMs(p.at)), y: kept.map(() => 0), customdata: kept.map((p) => p.revision), text: kept.map((p) => `look · ${plain(p.reason)}<br>${when(p)}`), yaxis: "y4", mode: "markers", marker: { symbol: "line-ns", size: 8, line: { width: 1, color: fade(css("--soft"), 0.75) } }, hovertemplate: "%{text}<extra></extra>" };
}

function markLane(points) {
  const kept = points.filter((p) => p.kind !== "allocate");
  const marks = kept.map((p) => MARKS[p.kind] || ["circle", "soft"]);
  return { x: kept.map((p) => axisMs(p.at)), y: kept.map((p) => (p.kind === "confirm" ? 0 : 1)), customdata: kept.map((p) => p.revision), text: kept.map((p) => `<b>${p.kind}</b> · ${plain(p.reason)}<br>${when(p)}`), yaxis: "y4", mode: "markers", marker: { symbol: marks.map((m) => m[0]), opacity: 1, size: kept.map((p) => (p.kind === "confirm" ? 8 : 11)), color: marks.map((m) => css(`--${m[1]}`)), line: { width: 1, color: css("--card") } }, hovertemplate: "%{text}<extra></extra>" };
}

function hairlines(points) {
  return points.filter((p) => HAIRLINES.has(p.kind)).map((p) => ({
    type: "line", xref: "x", yref: "paper", x0: axisMs(p.at), x1: axisMs(p.at), y0: 0, y1: 0.965, layer: "below",
    line: { width: 1, dash: p.kind === "rollback" || p.kind === "hold" ? "solid" : "dot", color: fade(css(`--${(MARKS[p.kind] || [])[1] || "soft"}`), 0.55) },
  }));
}

// Early looks have very wide intervals, so the axis fits each arm from its hundredth unit on and clips the rest.
function rateRange(points, arms) {
  let bottom = Infinity, top = 0;
  for (const arm of arms) {
    const counted = points.map((p) => p.arms[arm]).filter(isCounted);
    const settled = counted.filter((a) => a.n >= 100);
    const kept = settled.length ? settled : counted.slice(-1);
    if (!kept.length) continue;
    const at = (key, share) => kept.map((a) => 100 * a[key]).sort((a, b) => a - b)[Math.round(share * (kept.length - 1))];
    bottom = Math.min(bottom, at("low", 0.1), at("posterior_mean", 0));
    top = Math.max(top, at("high", 0.9), at("posterior_mean", 1));
  }
  if (!top) return [0, 10];
  const room = 0.08 * (top - bottom);
  return [Math.max(0, bottom - room), top + room];
}

function raceRange(races) {
  const threshold = Math.max(3, ...races.flat().map((r) => r.log_threshold));
  const top = Math.max(threshold, ...races.flat().map((r) => Math.min(r.log_e, 2 * threshold)));
  const bottom = Math.min(-1, ...races.flat().map((r) => Math.max(r.log_e, -1.2 * threshold)));
  return [bottom * 1.12, top * 1.12];
}

function axis(title, domain, extra = {}) {
  return { domain, title: { text: title, standoff: 6, font: { size: 11.5, color: css("--soft") } }, gridcolor: css("--line"), zeroline: false, fixedrange: true, tickfont: { size: 11, color: css("--soft") }, automargin: false, ...extra };
}

function font() { return { family: css("--sans"), size: 12, color: css("--ink") }; }
function hoverlabel() { return { bgcolor: css("--card"), bordercolor: css("--line"), font: { ...font(), size: 12 }, align: "left" }; }

function panelTitle(text, y) {
  return { text, x: 0, xref: "paper", xanchor: "left", y, yref: "paper", yanchor: "bottom", showarrow: false, bgcolor: css("--card"), borderpad: 1, font: { size: 12, color: css("--ink") } };
}

export function drawTimeline(element, points, styles, range) {
  const arms = Object.keys(styles).filter((arm) => points.some((p) => arm in p.weights));
  const races = racesOf(points);
  const narrow = element.clientWidth < 560;
  const traces = [
    ...arms.map((arm) => realisedTrace(arm, points, styles[arm])), ...arms.map((arm) => targetTrace(arm, points, styles[arm])),
    ...arms.flatMap((arm) => rateTraces(arm, points, styles[arm])),
    ...races.flatMap((race) => raceTraces(race, styles[race[0].arm] ?? 6)),
    lookLane(points), markLane(points),
  ].map((trace) => ({ type: "scatter", showlegend: false, ...trace }));
  const layout = {
    font: font(), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "x unified", hoverlabel: hoverlabel(), dragmode: "zoom",
    margin: { l: narrow ? 40 : 52, r: narrow ? 10 : 14, t: 6, b: 34 }, uirevision: "stay", shapes: hairlines(points),
    xaxis: { type: "date", anchor: "y3", gridcolor: css("--line"), showline: false, tickfont: { size: 11, color: css("--soft") }, range, showspikes: true, spikemode: "across", spikethickness: 1, spikedash: "dot", spikecolor: css("--soft"), hoverformat: "%Y-%m-%d %H:%M:%S", nticks: narrow ? 4 : 9 },
    yaxis4: axis("", [0.925, 0.985], { range: [-0.9, 1.9], showgrid: false, showticklabels: false }),
    yaxis: axis(narrow ? "" : "share, %", [0.62, 0.885], { range: [0, 102], tickvals: [0, 25, 50, 75, 100] }),
    yaxis2: axis(narrow ? "" : "rate, %", [0.33, 0.565], { range: rateRange(points, arms), nticks: 5 }),
    yaxis3: axis(narrow ? "" : "log E, nats", [0, 0.275], { range: raceRange(races), nticks: 5, zeroline: true, zerolinecolor: css("--line") }),
    annotations: [panelTitle("<b>Decisions</b>", 0.985), panelTitle(narrow ? "<b>Traffic</b>, %: line target, dots counted" : "<b>Traffic</b>: lines are targets, dots are counted units", 0.888), panelTitle(narrow ? "<b>Success rate</b>, %: mean, 95 % interval" : "<b>Success rate</b>: posterior mean, 95 % interval", 0.57), panelTitle(races.length ? (narrow ? "<b>Evidence against</b>, log E, and limit" : "<b>Evidence against an arm</b>: at the dotted limit it is rolled back") : "<b>Evidence against</b>: no race yet", 0.28)],
  };
  layout.annotations[0].y = 0.978;
  return globalThis.Plotly.react(element, traces, layout, CONFIG);
}

// Vertical shifts of the labels, so that labels of curves with the same peak do not overlap. `across`, `high`: size of the plot in pixels.
function stack(labels, across, high) {
  const placed = [];
  for (const label of labels) {
    const mine = { x: label.x * across, y: label.y * high + 3, half: 3.6 * label.text.length };
    const covers = (other) => Math.abs(other.x - mine.x) < other.half + mine.half + 4 && Math.abs(other.y - mine.y) < 15;
    for (let other = placed.find(covers); other; other = placed.find(covers)) mine.y = other.y + 15;
    placed.push(mine);
  }
  return placed.map((place, i) => place.y - labels[i].y * high);
}

export function drawPosterior(element, densities, styles) {
  const names = Object.keys(densities);
  const peak = Math.max(...names.map((name) => Math.max(...densities[name].y)), 1e-9);
  const traces = names.map((name) => {
    const { color, dash } = styleOf(styles[name]);
    return { type: "scatter", x: densities[name].x.map((x) => 100 * x), y: densities[name].y.map((y) => y / peak), name: plain(name), mode: "lines", line: { color, dash, width: 2.2 }, fill: "tozeroy", fillcolor: fade(color, 0.14), hovertemplate: `${plain(name)}: %{x:.2f} %<extra></extra>`, showlegend: false };
  });
  const tops = names.map((name) => {
    const { x, y } = densities[name];
    const top = y.indexOf(Math.max(...y));
    return { x: x[top], y: y[top] / peak, text: plain(name) };
  });
  const all = names.flatMap((name) => densities[name].x), span = Math.max(...all) - Math.min(...all);
  const high = (element.clientHeight - 58) / (1.21 + 0.075 * names.length); // pixels of the highest curve, roughly
  const shifts = stack(tops.map((top) => ({ ...top, x: top.x / span })), element.clientWidth - 16, high);
  const room = Math.max(...tops.map((top, i) => top.y + (shifts[i] + 15) / high), 1.14);
  const labels = tops.map((top, i) => ({ ...top, x: 100 * top.x, showarrow: false, yanchor: "bottom", yshift: shifts[i], font: { size: 12, color: styleOf(styles[names[i]]).color } }));
  const bars = names.flatMap((name, i) => {
    const { color, symbol } = styleOf(styles[name]);
    const { low, high, mean } = densities[name];
    const y = -0.07 - 0.075 * i;
    const hover = { hovertemplate: `${plain(name)}: mean ${mean && (100 * mean).toFixed(2)} %, 95 % interval ${(100 * low).toFixed(2)} – ${(100 * high).toFixed(2)} %<extra></extra>` };
    return [{ type: "scatter", x: [100 * low, 100 * high], y: [y, y], mode: "lines", line: { color, width: 3 }, showlegend: false, ...hover }, { type: "scatter", x: [100 * mean], y: [y], mode: "markers", marker: { color, symbol, size: 9 }, showlegend: false, ...hover }];
  });
  const layout = {
    font: font(), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 8, r: 8, t: 18, b: 40 }, hovermode: "closest", hoverlabel: hoverlabel(), dragmode: false,
    xaxis: { title: { text: "success rate, %", font: { size: 11.5, color: css("--soft") }, standoff: 8 }, gridcolor: css("--line"), zeroline: false, tickfont: { size: 11, color: css("--soft") }, fixedrange: true },
    yaxis: { visible: false, range: [-0.07 - 0.075 * names.length, room], fixedrange: true }, annotations: labels,
  };
  return globalThis.Plotly.react(element, [...traces, ...bars], layout, CONFIG);
}
