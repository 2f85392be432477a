// Behaviour of the console: live data without a reload, the drawer with a decision, confirmed commands, times, theme.
import { axisMs, drawAges, drawTimes, getZone, serverNow, setSkew, span, store, switchZone } from "./clock.js";
import { drawPosterior, drawTimeline } from "./plots.js";

const POLL_MS = 1500, HIDDEN_POLL_MS = 15000, DEADLINE_MS = 8000;
const main = document.getElementById("main");
const experiment = main.dataset.experiment;
const view = { points: [], styles: {}, densities: null, revision: 0, log: null, range: 0, answeredAt: 0, readAt: 0, problem: null };
const $ = (selector, root = document) => root.querySelector(selector);
const address = (rest) => `/experiments/${encodeURIComponent(experiment)}${rest}`;

// ---- live ----------------------------------------------------------------------------------------------------------
async function poll() {
  try {
    const answer = await fetch(`${address("/live")}?after_revision=${view.revision}`, { headers: { Accept: "application/json" }, signal: AbortSignal.timeout(DEADLINE_MS) });
    if (answer.status === 401) { location.assign(`/login?next=${encodeURIComponent(location.pathname)}`); return; }
    if (!answer.ok) throw new Error(`the console responded with status ${answer.status}`);
    update(await answer.json());
    view.problem = null;
  } catch (error) {
    view.problem = error.name === "TimeoutError" ? "the console does not respond" : error.name === "TypeError" ? "the console can't be reached" : error.message;
  }
  drawLive();
  setTimeout(poll, document.hidden ? HIDDEN_POLL_MS : POLL_MS);
}

function update(body) {
  setSkew(body.now_ms);
  view.answeredAt = Date.now();
  view.readAt = body.read_at_ms;
  if (view.log !== null && (body.log !== view.log || body.revision < view.revision)) { location.reload(); return; } // another log replaced this one
  Object.assign(view, { log: body.log, revision: body.revision, styles: body.styles });
  view.points.push(...body.points);
  if (body.densities) view.densities = body.densities;
  for (const [name, html] of Object.entries(body.parts)) replacePart(name, html);
  if (body.points.length) drawPlots();
}

const renderedParts = {};
function replacePart(name, html) {
  const element = document.getElementById(`part-${name}`);
  if (!element || renderedParts[name] === html || isBusy(element)) return;
  if (name === "headline" && renderedParts[name] !== undefined) announce(html);
  renderedParts[name] = html;
  const focused = focusedIn(element);
  element.innerHTML = html; // made by the server's templates, which escape every value
  drawTimes(element);
  if (focused) $(focused, element)?.focus({ preventScroll: true });
}

// A part is not replaced while its text is being selected; a focused button keeps the focus.
function isBusy(element) {
  const selection = getSelection();
  return Boolean(selection && !selection.isCollapsed && element.contains(selection.anchorNode));
}

function focusedIn(element) {
  const active = document.activeElement;
  if (!active || active === element || !element.contains(active)) return null;
  const { command, arm } = active.dataset;
  if (command) return `[data-command="${CSS.escape(command)}"]${arm ? `[data-arm="${CSS.escape(arm)}"]` : ""}`;
  return active.getAttribute("href") ? `[href="${CSS.escape(active.getAttribute("href"))}"]` : null;
}

function announce(html) {
  const parsed = new DOMParser().parseFromString(html, "text/html");
  const sentence = $(".sentence", parsed)?.textContent ?? "";
  if (sentence !== $(".sentence")?.textContent) document.getElementById("announce").textContent = sentence;
}

function drawLive() {
  const element = document.getElementById("live");
  const age = (serverNow() - view.readAt) / 1000;
  const fresh = !view.problem && view.readAt && age < 10;
  element.className = `live ${fresh ? "on" : "off"}`;
  const text = view.problem ? `${view.problem}${view.answeredAt ? `, last response ${span((Date.now() - view.answeredAt) / 1000)} ago` : ""}` : !view.readAt ? "the log has not been read yet" : fresh ? "live" : `data are ${span(age)} old`;
  $("span", element).textContent = text;
}

// ---- plots ---------------------------------------------------------------------------------------------------------
function visibleRange() {
  const points = view.points;
  if (!points.length) return undefined;
  const end = serverNow(), first = points[0].at;
  const start = view.range ? Math.max(first, end - 1000 * view.range) : first;
  const room = Math.max(1000, 0.012 * (end - start));
  return [axisMs(start - room), axisMs(end + room)];
}

function drawPlots() {
  if (!globalThis.Plotly) return;
  const timeline = document.getElementById("timeline"), posterior = document.getElementById("posterior");
  const zoomed = timeline.dataset.zoomed === "yes" ? timeline.layout.xaxis.range : visibleRange();
  drawTimeline(timeline, view.points, view.styles, zoomed).then(() => { timeline.dataset.drawn = view.revision; });
  if (!timeline.dataset.wired) wireTimeline(timeline);
  const any = view.densities && Object.keys(view.densities).length > 0;
  document.getElementById("posterior-empty").hidden = any;
  posterior.hidden = !any;
  if (any) drawPosterior(posterior, view.densities, view.styles).then(() => { posterior.dataset.drawn = view.revision; });
}

let resized = 0;
function redrawSoon() { clearTimeout(resized); resized = setTimeout(drawPlots, 150); }

function wireTimeline(timeline) {
  timeline.dataset.wired = "yes";
  addEventListener("resize", redrawSoon); // titles and labels are placed by the width of the window
  timeline.on("plotly_click", (event) => {
    const withRevision = event.points.filter((point) => point.customdata !== undefined);
    const lane = withRevision.find((point) => point.data.yaxis === "y4" && point.data.marker.size !== 8);
    const chosen = lane ?? withRevision[0];
    if (chosen) openRecord(address(`/decisions/${chosen.customdata}`));
  });
  timeline.on("plotly_relayout", (change) => {
    if ("xaxis.range[0]" in change || "xaxis.range" in change) { timeline.dataset.zoomed = "yes"; pressRange(null); }
    if (change["xaxis.autorange"]) { timeline.dataset.zoomed = ""; pressRange(0); drawPlots(); }
  });
  timeline.on("plotly_doubleclick", () => { timeline.dataset.zoomed = ""; pressRange(0); setTimeout(drawPlots); });
}

function pressRange(seconds) {
  if (seconds !== null) view.range = seconds;
  for (const button of document.querySelectorAll("[data-range]")) button.setAttribute("aria-pressed", String(seconds !== null && Number(button.dataset.range) === seconds));
}

// ---- the record drawer ---------------------------------------------------------------------------------------------
async function openRecord(href) {
  const dialog = document.getElementById("record");
  try {
    const answer = await fetch(`${href}?part=true`, { signal: AbortSignal.timeout(DEADLINE_MS) });
    if (!answer.ok) throw new Error(String(answer.status));
    dialog.innerHTML = await answer.text();
  } catch {
    location.assign(href); // the full page shows the error
    return;
  }
  drawTimes(dialog);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

async function copy(button) {
  const text = $(button.dataset.copy).textContent;
  try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch { getSelection().selectAllChildren($(button.dataset.copy)); button.textContent = "Selected, press Ctrl+C"; }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// ---- commands ------------------------------------------------------------------------------------------------------
const COMMANDS = {
  pause: { title: () => "Pause the experiment", effect: (b) => `${b.champion} serves all traffic until the experiment is resumed. All counts are kept.`, go: "Pause", danger: true },
  resume: { title: () => "Resume the experiment", effect: (b) => (b.held === "broken-identity" ? "The wrong counts are kept and used for decisions; Recount would drop them. " : "") + "The arms get their shares back. Every race restarts with its next share of α.", go: "Resume" },
  recount: { title: () => "Recount the experiment", effect: () => "The counts below are dropped, with everything counted in the meantime. This can't be undone; the decision stores the totals.", go: "Drop and recount", danger: true, more: "/recount" },
  promote: { title: (b) => `Promote ${b.arm}`, effect: (b) => `${b.arm} becomes champion. ${b.champion} stays as holdback with the minimum traffic, and a race compares the new champion with it.`, go: "Promote" },
  rollback: { title: (b) => `Roll back ${b.arm}`, effect: (b) => `${b.arm} is retired at once and its traffic goes to the other arms. This can be undone.`, go: "Roll back", danger: true },
  undo: { title: (b) => `Undo revision ${b.reverts}`, effect: (b) => `The effect of revision ${b.reverts} is reversed. Races of the arms concerned restart.`, go: "Undo" },
};
let pending = null; // the command in the dialog

function openCommand(button) {
  const dialog = document.getElementById("command"), command = COMMANDS[button.dataset.command], go = $("#command-go");
  pending = { ...button.dataset };
  $("#command-title").textContent = command.title(pending);
  $("#command-effect").textContent = command.effect(pending);
  $("#command-problem").hidden = true;
  $("#command-more").replaceChildren();
  go.textContent = command.go;
  go.className = command.danger ? "go-danger" : "";
  $("[name=reason]", dialog).value = "";
  dialog.showModal();
  loadPreview();
}

// Loads what an admin must see before this command. Until then the command is disabled.
async function loadPreview() {
  const more = $("#command-more"), mine = pending, { more: rest } = COMMANDS[mine.command];
  const choice = $("[name=from_now]:checked", more)?.value; // of a previous attempt
  more.hidden = !rest;
  if (rest) {
    more.textContent = "Reading the counts …";
    updateGo();
    try {
      const answer = await fetch(address(rest), { headers: { Accept: "application/json" } });
      if (!answer.ok) throw new Error((await answer.json()).error);
      const html = await answer.text();
      if (pending !== mine) return;
      more.innerHTML = html; // made by the server's templates, which escape every value
      if (choice) for (const radio of more.querySelectorAll(`[name=from_now][value=${choice}]:enabled`)) radio.checked = true;
    } catch (error) {
      if (pending !== mine) return;
      more.hidden = true;
      showProblem(error);
    }
  }
  updateGo();
}

function updateGo() {
  $("#command-go").disabled = Boolean(COMMANDS[pending.command].more) && !$("#command-more [name=seen]");
}

function showProblem(error) {
  const problem = $("#command-problem");
  problem.textContent = error.name === "TypeError" ? "The console can't be reached. Reload the page to see whether the command was carried out." : error.message;
  problem.hidden = false;
}

async function sendCommand(event) {
  event.preventDefault();
  const dialog = document.getElementById("command"), mine = pending, form = new FormData(event.target);
  for (const [key, value] of Object.entries({ csrf: main.dataset.csrf, arm: mine.arm, reverts: mine.reverts })) if (value) form.append(key, value);
  $("#command-go").disabled = true;
  try {
    const answer = await fetch(address(`/commands/${mine.command}`), { method: "POST", body: form, headers: { Accept: "application/json" } });
    const body = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(body.error), { status: answer.status });
    dialog.close();
    document.getElementById("announce").textContent = `Done: revision ${body.revision}.`;
  } catch (error) {
    if (pending !== mine) return;
    showProblem(error);
    if (error.status === 409) await loadPreview(); // the counts have changed since
  }
  updateGo();
}

// ---- wiring --------------------------------------------------------------------------------------------------------
document.addEventListener("click", (event) => {
  const on = (selector) => event.target.closest(selector);
  const link = on("a[data-record]");
  if (link && !event.metaKey && !event.ctrlKey && !event.shiftKey) { event.preventDefault(); openRecord(link.getAttribute("href")); return; }
  if (on("[data-close]") || event.target.id === "record") document.getElementById("record").close();
  if (on("[data-copy]")) copy(on("[data-copy]"));
  if (on("[data-command]")) openCommand(on("[data-command]"));
  if (on("[data-cancel]")) document.getElementById("command").close();
  if (on("[data-range]")) { document.getElementById("timeline").dataset.zoomed = ""; pressRange(Number(on("[data-range]").dataset.range)); drawPlots(); }
});

function toggles() {
  const zone = $("[data-toggle=zone]"), theme = $("[data-toggle=theme]");
  const themes = ["auto", "light", "dark"];
  const label = () => { zone.textContent = getZone() === "utc" ? "UTC" : "Local time"; theme.textContent = { auto: "Colours: auto", light: "Colours: light", dark: "Colours: dark" }[document.documentElement.dataset.theme ?? "auto"]; };
  zone.addEventListener("click", () => { switchZone(); label(); if (experiment) drawPlots(); });
  theme.addEventListener("click", () => {
    const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % 3];
    if (next === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = next;
    store.set("ringside-theme", next);
    label();
    if (experiment) drawPlots();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (experiment) drawPlots(); });
  zone.hidden = theme.hidden = false;
  label();
}

function logInFromAddress() {
  const form = document.getElementById("login"), match = /^#key=(.+)$/.exec(location.hash);
  if (!form || !match) return;
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.key.value = decodeURIComponent(match[1]);
  form.submit();
}

toggles();
drawTimes();
setInterval(() => { drawAges(); if (experiment) drawLive(); }, 1000);
logInFromAddress();
document.getElementById("experiments")?.addEventListener("change", (event) => location.assign(event.target.value));
document.getElementById("command")?.querySelector("form").addEventListener("submit", sendCommand);
document.addEventListener("visibilitychange", () => { if (!document.hidden && experiment) drawAges(); });
if (experiment) poll();
