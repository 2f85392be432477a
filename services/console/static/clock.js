// Times on the page: in UTC or the reader's time zone, ages that tick, and the offset between the two clocks.
const store = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* without storage, the choice lasts for this page */ } },
};

let zone = store.get("ringside-zone") === "local" ? "local" : "utc";
let skewMs = 0; // the server's clock minus the browser's

export const getZone = () => zone;
export const setSkew = (serverMs) => { skewMs = serverMs - Date.now(); };
export const serverNow = () => Date.now() + skewMs;
export { store };

const format = (ms, timeZone) => new Intl.DateTimeFormat("sv-SE", {
  timeZone, year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
}).format(ms);
export const utc = (ms) => `${format(ms, "UTC")} UTC`;
export const local = (ms) => `${format(ms, undefined)} local`;
export const shown = (ms) => (zone === "utc" ? utc(ms) : local(ms));

// Plotly draws milliseconds as UTC, so local times are shifted by the zone's offset at that time.
export const axisMs = (ms) => (zone === "utc" ? ms : ms - new Date(ms).getTimezoneOffset() * 60_000);

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  for (const [unit, size, lower, lowerSize] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (s >= size) {
      const rest = Math.floor((s % size) / lowerSize);
      return `${Math.floor(s / size)} ${unit}${rest ? ` ${rest} ${lower}` : ""}`;
    }
  }
  return `${s} s`;
}

export function drawTimes(root = document) {
  for (const element of root.querySelectorAll("time[data-ms]")) {
    const ms = Number(element.dataset.ms);
    element.textContent = shown(ms);
    element.title = `${utc(ms)} · ${local(ms)} · ${span((serverNow() - ms) / 1000)} ago`;
  }
  drawAges(root);
}

export function drawAges(root = document) {
  for (const element of root.querySelectorAll("[data-age]")) {
    const ms = Number(element.dataset.age);
    element.textContent = `${span((serverNow() - ms) / 1000)} ago`;
    element.title = `${utc(ms)} · ${local(ms)}`;
  }
}

export function switchZone() {
  zone = zone === "utc" ? "local" : "utc";
  store.set("ringside-zone", zone);
  drawTimes();
}
