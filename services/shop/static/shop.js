// The storefront's behaviour: events, quick views, and sections that follow a click, with what changed in them.
import { track } from "./events.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const RETRY_MS = [150, 350, 800, 1800]; // a click passes through the log into the features before the slate changes
const PERSONAL = ["for-you", "also-like", "category", "cart"];
const shopperKey = document.body.dataset.session;

const memory = {
  get(key) { try { return JSON.parse(sessionStorage.getItem(`${shopperKey}:${key}`)); } catch { return null; } },
  set(key, value) { try { sessionStorage.setItem(`${shopperKey}:${key}`, JSON.stringify(value)); } catch { /* without storage, pages are not compared */ } },
};

const itemsOf = (section) => $$(".card", section).map((card) => card.dataset.item);

// ---- events --------------------------------------------------------------------------------------------------------
const seen = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { impression(entry.target); watcher.unobserve(entry.target); }
}, { threshold: 0.5 });

function impression(card) {
  const slate = card.closest("[data-section]").dataset.slate;
  const key = `${slate} ${card.dataset.item}`;
  if (!slate || seen.has(key)) return;
  seen.add(key);
  track("impression", card.dataset.item, { slate });
}

function click(card) {
  const section = card.closest("[data-section]"), item = card.dataset.item;
  track("click", item, { slate: section.dataset.slate, now: true });
  memory.set(`slate of ${item}`, section.dataset.slate ?? null);
  const forYou = $("[data-section=for-you]");
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

// ---- sections that follow a click ----------------------------------------------------------------------------------
async function fetchSection(section) {
  const answer = await fetch(`/sections/${section.dataset.section}?${section.dataset.query}`);
  if (!answer.ok) return null;
  const holder = document.createElement("template");
  holder.innerHTML = await answer.text(); // made by the shop's own templates, which escape every value
  return holder.content.firstElementChild;
}

function showChange(section, before, clicked) {
  const known = new Set(before), added = $$(".card", section).filter((card) => !known.has(card.dataset.item));
  const moved = itemsOf(section).filter((item, i) => known.has(item) && before[i] !== item).length;
  if (!added.length && !moved) return false;
  for (const card of added) card.classList.add("fresh");
  const after = ((Date.now() - clicked.at) / 1000).toFixed(1);
  $(".change", section).textContent = `${added.length ? `${added.length} new` : `${moved} moved`} after your click on ${clicked.title} · ${after} s`;
  return true;
}

// Load the section again until its slate has changed, then replace it in place and say what changed.
async function followClick(section, before, clicked) {
  for (const wait of RETRY_MS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const next = await fetchSection(section).catch(() => null);
    if (!next || !$(".card", next)) continue;
    if (showChange(next, before, clicked)) { section.replaceWith(next); wire(next); return; }
  }
}

function follow(clicked) {
  for (const section of $$("[data-section]")) if (PERSONAL.includes(section.dataset.section)) followClick(section, itemsOf(section), clicked);
}

// A page that opens after a click was made before the click was processed, so its sections are loaded again.
function followEarlierClick() {
  const clicked = memory.get("clicked"), before = memory.get("before"), forYou = $("[data-section=for-you]");
  if (!clicked || Date.now() - clicked.at > 60_000) return;
  if (forYou && before) {
    if (!showChange(forYou, before, clicked)) followClick(forYou, before, clicked);
    memory.set("before", null);
    return;
  }
  const section = $("[data-section=also-like]");
  if (section && Date.now() - clicked.at < 5_000) followClick(section, itemsOf(section), clicked);
}

// ---- quick view ----------------------------------------------------------------------------------------------------
function quickView(button) {
  const card = button.closest(".card"), dialog = $("#quick-view"), item = card.dataset.item;
  const product = document.createElement("article");
  product.className = "product";
  product.append(Object.assign(document.createElement("div"), { className: "picture" }), document.createElement("div"));
  product.firstChild.append($(".product-image", card).cloneNode(true));
  const title = Object.assign(document.createElement("h1"), { textContent: button.dataset.title });
  const price = Object.assign(document.createElement("p"), { className: "price big", textContent: button.dataset.price });
  const form = Object.assign(document.createElement("form"), { method: "post", action: "/cart" });
  form.dataset.cart = item;
  for (const [name, value] of [["item_id", item], ["add", "true"]]) form.append(Object.assign(document.createElement("input"), { type: "hidden", name, value }));
  form.append(Object.assign(document.createElement("button"), { className: "primary", textContent: "Add to cart" }));
  const link = Object.assign(document.createElement("a"), { href: $("a", card).href, textContent: "View details" });
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
  const link = event.target.closest("[data-click]"), quick = event.target.closest("[data-quick-view]");
  if (link) click(link.closest(".card"));
  if (quick) quickView(quick);
  if (event.target.id === "quick-view") event.target.close();
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
