// Sends the shopper's events from the browser straight to the recommend service, by sendBeacon, in small batches.
const { events: address, user, session } = document.body.dataset;
const MAX_BATCH = 12; // a recommendation id contains its slate, and a beacon may have 64 kB
const waiting = [];
let timer = null;

function newId() {
  if (globalThis.crypto?.randomUUID) return crypto.randomUUID();
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function track(type, itemId, { slate = null, value = null, now = false } = {}) {
  const event = { event_id: newId(), type, item_id: itemId, session_id: session, ts: Date.now() };
  if (user) event.user_id = user;
  if (slate) event.recommendation_id = slate;
  if (value !== null) event.value = value;
  waiting.push(event);
  if (now || waiting.length >= MAX_BATCH) flush();
  else timer ??= setTimeout(flush, 800);
}

export function flush() {
  clearTimeout(timer);
  timer = null;
  while (waiting.length) {
    const body = JSON.stringify(waiting.splice(0, MAX_BATCH));
    // text/plain needs no preflight. If the browser refuses to queue the beacon, send an ordinary request.
    const queued = navigator.sendBeacon?.(address, new Blob([body], { type: "text/plain" }));
    if (!queued) fetch(address, { method: "POST", body, keepalive: true }).catch(() => {});
  }
}

addEventListener("pagehide", flush);
document.addEventListener("visibilitychange", () => { if (document.hidden) flush(); });
