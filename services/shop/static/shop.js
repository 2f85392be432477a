// The storefront's behaviour: events, quick looks, and rails that follow a click, with what changed in them.
import { track } from "./events.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const AGAIN_MS = [150, 350, 800, 1800]; // a click travels through the log into the features before the slate follows it
const LIVE = ["for-you", "also-like", "category", "cart"];
const shopperKey = document.body.dataset.session;

const memory = {
  get(key) { try { return JSON.parse(sessionStorage.getItem(`${shopperKey}:${key}`)); } catch { return null; } },
  set(key, value) { try { sessionStorage.setItem(`${shopperKey}:${key}`, JSON.stringify(value)); } catch { /* no storage: nothing is compared across pages */ } },
};

const itemsOf = (rail) => $$(".card", rail).map((card) => card.dataset.item);

// ---- events --------------------------------------------------------------------------------------------------------
const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { impression(entry.target); watcher.unobserve(entry.target); }
}, { threshold: 0.5 });

function impression(card) {
  const slate = card.closest("[data-rail]").dataset.slate;
  const key = `${slate} ${card.dataset.item}`;
  if (!slate || seen.has(key)) return;
  seen.add(key);
  track("impression", card.dataset.item, { slate });
}

function click(card) {
  const rail = card.closest("[data-rail]"), item = card.dataset.item;
  track("click", item, { slate: rail.dataset.slate, now: true });
  memory.set(`slate of ${item}`, rail.dataset.slate ?? null);
  const forYou = $("[data-rail=for-you]");
  if (forYou) memory.set("before", itemsOf(forYou));
  memory.set("clicked", { item, title: $(".title", card).textContent, at: Date.now() });
}

function addToCart(item) { track("add_to_cart", item, { slate: memory.get(`slate of ${item}`), now: true }); }

function purchase() {
  const { order, bought } = document.body.dataset;
  if (!order || memory.get("order") === order) return;
  memory.set("order", order);
  for (const { item_id: item, value } of JSON.parse(bought)) track("purchase", item, { slate: memory.get(`slate of ${item}`), value });
}

// ---- rails that follow a click -------------------------------------------------------------------------------------
async function fetchRail(rail) {
  const answer = await fetch(`/rails/${rail.dataset.rail}?${rail.dataset.query}`);
  if (!answer.ok) return null;
  const holder = document.createElement("template");
  holder.innerHTML = await answer.text(); // made by the shop's own templates, which escape every value
  return holder.content.firstElementChild;
}

function showChange(rail, before, clicked) {
  const known = new Set(before), fresh = $$(".card", rail).filter((card) => !known.has(card.dataset.item));
  const moved = itemsOf(rail).filter((item, i) => known.has(item) && before[i] !== item).length;
  if (!fresh.length && !moved) return false;
  for (const card of fresh) card.classList.add("fresh");
  const after = ((Date.now() - clicked.at) / 1000).toFixed(1);
  $(".change", rail).textContent = `${fresh.length ? `${fresh.length} new` : `${moved} moved`} after your click on ${clicked.title} · ${after} s`;
  return true;
}

// Ask again until the slate has followed the click, then say what changed. The rails that changed are replaced in place.
async function followClick(rail, before, clicked) {
  for (const wait of AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const next = await fetchRail(rail).catch(() => null);
    if (!next || !$(".card", next)) continue;
    if (showChange(next, before, clicked)) { rail.replaceWith(next); wire(next); return; }
  }
}

function follow(clicked) {
  for (const rail of $$("[data-rail]")) if (LIVE.includes(rail.dataset.rail)) followClick(rail, itemsOf(rail), clicked);
}

// A page that opens after a click was asked for before the click had arrived everywhere: ask again.
function followEarlierClick() {
  const clicked = memory.get("clicked"), before = memory.get("before"), forYou = $("[data-rail=for-you]");
  if (!clicked || Date.now() - clicked.at > 60_000) return;
  if (forYou && before) {
    if (!showChange(forYou, before, clicked)) followClick(forYou, before, clicked);
    memory.set("before", null);
    return;
  }
  const rail = $("[data-rail=also-like]");
  if (rail && Date.now() - clicked.at < 5_000) followClick(rail, itemsOf(rail), clicked);
}

// ---- quick look ----------------------------------------------------------------------------------------------------
function quickLook(button) {
  const card = button.closest(".card"), dialog = $("#look"), item = card.dataset.item;
  const product = document.createElement("article");
  product.className = "product";
  product.append(Object.assign(document.createElement("div"), { className: "picture" }), document.createElement("div"));
  product.firstChild.append($(".tile", card).cloneNode(true));
  const title = Object.assign(document.createElement("h1"), { textContent: button.dataset.title });
  const price = Object.assign(document.createElement("p"), { className: "price big", textContent: button.dataset.price });
  const form = Object.assign(document.createElement("form"), { method: "post", action: "/cart" });
  form.dataset.cart = item;
  for (const [name, value] of [["item_id", item], ["add", "true"]]) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  form.append(Object.assign(document.createElement("button"), { className: "primary", textContent: "Add to cart" }));
  const link = Object.assign(document.createElement("a"), { href: $("a", card).href, textContent: "All about it" });
  product.lastChild.append(title, price, form, link);
  const close = Object.assign(document.createElement("button"), { type: "button", className: "close", textContent: "✕" });
  close.setAttribute("aria-label", "Close");
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(product, close);
  dialog.showModal();
  click(card);
  follow(memory.get("clicked") ?? { item, title: button.dataset.title, at: Date.now() });
}

// ---- wiring --------------------------------------------------------------------------------------------------------
function wire(root = document) {
  for (const card of $$(".card", root)) watcher.observe(card);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-click]"), peek = event.target.closest("[data-peek]");
  if (link) click(link.closest(".card"));
  if (peek) quickLook(peek);
  if (event.target.id === "look") event.target.close();
  for (const open of $$("details[open]")) if (!open.contains(event.target)) open.open = false;
});
document.addEventListener("auxclick", (event) => { const link = event.target.closest("[data-click]"); if (link && event.button === 1) click(link.closest(".card")); });
document.addEventListener("submit", (event) => { if (event.target.dataset.cart) addToCart(event.target.dataset.cart); });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const open of $$("details[open]")) open.open = false; });
addEventListener("pageshow", (event) => { if (event.persisted) followEarlierClick(); }); // back from an item page

wire();
if (document.body.dataset.viewing) track("view", document.body.dataset.viewing, { slate: memory.get(`slate of ${document.body.dataset.viewing}`) });
purchase();
followEarlierClick();
