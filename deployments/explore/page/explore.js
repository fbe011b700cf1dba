// The page: start-up, the map and its colours, searches, and the keys.

import { $, amount, array, ask, bits, debounce, fill, h, numbers16, percent, plainly, short, tell, toast, trying } from "./dom.js";
import { css, kind, named, onScheme, ramp, rampCss } from "./colours.js";
import { Facets } from "./facets.js";
import { PointMap } from "./map.js";
import { showPair } from "./pair.js";
import { clusters, groups, results } from "./panels.js";

const MISSING = 65535;
const state = {
  kept: null, columns: new Map(), opened: -1,
  veil(row) {
    if (!$("blur").checked || state.about.harmless) return false;
    const values = state.nsfw;
    return values ? !(values[row] < 0.5) : true;
  },
  within: () => $("scope").value === "within" && !state.facets.isEmpty ? state.facets.wanted : null,
  onMap: (row) => Number.isFinite(state.map.places[2 * row]),
  clusterColour: (number) => css(kind(number, state.about.clusters.length)),
  open(row) { state.opened = row; state.map.marks = state.onMap(row) ? [row] : []; state.map.draw(); view("side"); showPair(state, row); },
  close() {
    const row = state.opened;
    $("pair").hidden = true; state.opened = -1; state.map.marks = []; state.map.draw();
    document.querySelector(`#side [role=tabpanel]:not([hidden]) [data-row="${row}"]`)?.focus();
  },
  goTo(row) { view("map"); state.map.goTo(state.map.places[2 * row], state.map.places[2 * row + 1], 9); },
  list(title, cards, { note = "", mark = true } = {}) {
    $("pair").hidden = true; tab("results"); view("side");
    results(state, title, cards, note);
    state.map.marks = mark ? cards.map((one) => one.row).filter((row) => row !== null && state.onMap(row)) : [];
    state.map.draw();
  },
  async showCluster(number) {
    const one = state.about.clusters[number], codes = await column("cluster");
    const rows = []; for (let row = 0; row < codes.length && rows.length < 60; row++) if (codes[row] === number && (!state.mask || state.facets.isEmpty || state.mask[row])) rows.push(row);
    state.map.goTo(one.x, one.y, 5);
    const found = await trying(() => ask(`cards?rows=${rows.join(",")}`));
    if (found) state.list(one.name, found.cards, { note: `${amount(one.size)} pairs of the sample${state.facets.isEmpty ? "" : "; those that the filter keeps"}.`, mark: false });
  },
};

async function column(name) {
  if (!state.columns.has(name)) {
    const type = name === "cluster" || state.about.words.some((one) => one.name === name) ? Uint16Array : name.startsWith("method:") ? Uint8Array : Float32Array;
    state.columns.set(name, await array(`column/${encodeURIComponent(name)}`, type));
  }
  return state.columns.get(name);
}

// Views and tabs -----------------------------------------------------------------------------------------------------

function view(name) {
  document.body.dataset.view = name;
  for (const button of document.querySelectorAll(".views button")) button.setAttribute("aria-pressed", button.dataset.to === name);
}
const TABS = ["results", "clusters", "groups"];
function tab(name) {
  for (const one of TABS) {
    const is = one === name, button = $(`tab-${one}`);
    button.setAttribute("aria-selected", is); button.tabIndex = is ? 0 : -1; $(one).hidden = !is;
  }
  $("pair").hidden = true;
  if (name === "clusters") clusters(state);
  if (name === "groups" && !state.groupsShown) { state.groupsShown = true; groups(state); }
}

// Colours ------------------------------------------------------------------------------------------------------------

function choices() {
  const { about } = state, option = (value, text) => h("option", { value }, text);
  const group = (label, given) => given.length ? h("optgroup", { label }, given) : null;
  fill($("colour"), ...[
    group("Verdicts", [option("filter", "the filter on this page"), ...about.methods.map((one, place) => option(`method:${place}`, `kept by ${one.name}`))]),
    group("Why dropped", about.methods.map((one, place) => [one, place]).filter(([one]) => one.filter).map(([one, place]) => option(`reasons:${place}`, `reasons of ${one.name}`))),
    group("Kinds", [...(about.clusters.length ? [option("cluster", "cluster")] : []), ...about.words.map((one) => option(one.name, plainly(one.name)))]),
    group("Numbers", about.numbers.map((one) => option(one.name, plainly(one.name)))),
  ].filter(Boolean));
  $("colour").value = about.clusters.length ? "cluster" : "filter";
}

async function recolour() {
  const { about, map } = state, name = $("colour").value, count = about.rows, made = new Uint8Array(4 * count), page = named("--muted");
  const paint = (row, [red, green, blue]) => { made[4 * row] = red; made[4 * row + 1] = green; made[4 * row + 2] = blue; made[4 * row + 3] = 255; };
  const byCode = (codes, values, counts, tint) => {
    const tints = values.map((_, place) => tint(place));
    for (let row = 0; row < count; row++) paint(row, tints[codes[row]] ?? page);
    legend(values.map((text, place) => ({ text, rows: counts[place], tint: tints[place] })));
  };
  const work = async () => {
    if (name === "filter") return byFilter(paint);
    if (name.startsWith("method:")) {
      const codes = await column(name), method = about.methods[Number(name.slice(7))];
      return byCode(codes, ["dropped", "kept"], [count - method.kept, method.kept], (place) => named(place ? "--s1" : "--s2"));
    }
    if (name.startsWith("reasons:")) {
      if (!state.columns.has(name)) state.columns.set(name, await ask(`reasons/${name.slice(8)}`));
      const told = state.columns.get(name), codes = told.numbers ??= numbers16(told.codes);
      const counts = told.words.map((word, place) => place ? told.counts.find((one) => one.reason === word)?.rows ?? 0 : count - told.counts.reduce((sum, one) => sum + one.rows, 0));
      return byCode(codes, told.words, counts, (place) => place ? kind(place, 7) : named("--s0"));
    }
    if (name === "cluster") {
      const codes = await column(name), tints = about.clusters.map((_, place) => kind(place, about.clusters.length));
      for (let row = 0; row < count; row++) paint(row, tints[codes[row]] ?? page);
      return legend(about.clusters.slice(0, 6).map((one, place) => ({ text: one.name, rows: one.size, tint: tints[place] })), about.clusters.length > 6 ? `and ${about.clusters.length - 6} more: see Clusters` : "");
    }
    const words = about.words.find((one) => one.name === name);
    if (words) return byCode(await column(name), words.values, words.counts, (place) => place < 7 ? kind(place, 7) : named("--s0"));
    const numbers = about.numbers.find((one) => one.name === name), values = await column(name), low = numbers.edges[0], high = numbers.edges.at(-1);
    for (let row = 0; row < count; row++) { const value = values[row]; if (Number.isNaN(value)) { paint(row, page); made[4 * row + 3] = 90; } else paint(row, ramp((value - low) / (high - low))); }
    fill($("key"), h("b", {}, plainly(name)), h("div", { className: "ramp", css: { background: rampCss() } }), h("div", { className: "ends-of" }, h("span", {}, short(low)), h("span", {}, short(high))), numbers.missing ? h("small", {}, `${amount(numbers.missing)} have none`) : "");
  };
  state.colouring = name;
  await trying(work);
  if (state.colouring !== name) return;
  map.setColours(made); standOut();
}
/** Highlighted points: what the filter keeps and, when compared with a method, what it loses. */
function standOut() {
  const { facets, mask, map } = state, before = $("colour").value === "filter" && facets.against >= 0 ? state.columns.get(`method:${facets.against}`) : null;
  if (mask) map.setShown(before ? mask.map((is, row) => is | before[row]) : mask);
}
function byFilter(paint) {
  const { facets, mask, found, about } = state, before = facets.against >= 0 ? state.columns.get(`method:${facets.against}`) : null;
  const tints = { both: named("--s1"), gained: named("--up"), lost: named("--down"), out: named("--s0") };
  for (let row = 0; row < about.rows; row++) {
    const is = mask ? mask[row] : 1, was = before ? before[row] : 1;
    paint(row, is ? (was ? tints.both : tints.gained) : (was ? tints.lost : tints.out));
  }
  if (!found) return;
  const { both, gained, lost } = found.flips;
  const name = facets.against >= 0 ? about.methods[facets.against].name : "everything";
  legend([{ text: `kept, and by ${name}`, rows: both, tint: tints.both }, { text: "gained", rows: gained, tint: tints.gained }, { text: "lost", rows: lost, tint: tints.lost }, { text: "dropped, and by it", rows: about.rows - both - gained - lost, tint: tints.out }]);
}
function legend(rows, more = "") {
  fill($("key"), h("ul", {}, rows.filter((one) => one.rows).slice(0, 9).map((one) => h("li", {}, h("i", { className: "swatch", css: { "--c": css(one.tint) } }), h("span", { dir: "auto" }, one.text), h("span", { className: "n" }, amount(one.rows))))), rows.length > 9 ? h("small", {}, `and ${rows.length - 9} more in grey`) : "", more ? h("small", {}, more) : "");
}

// Searches -----------------------------------------------------------------------------------------------------------

async function search() {
  const text = $("query").value.trim();
  if (!text) return home();
  $("find").classList.add("busy");
  const scope = $("scope").value === "pool" ? "pool" : "sample";
  const side = scope === "pool" ? "img" : $("side").value;
  const found = await trying(() => tell("search", { text, side, count: 60, scope, within: state.within() }));
  $("find").classList.remove("busy");
  if (!found) return;
  if (found.places) return outside(text, found.places);
  state.list(`Nearest to “${text}”`, found.cards, { note: `By the pool’s own CLIP, every ${$("side").value === "img" ? "picture" : "caption"} of the sample compared${state.within() ? ", within the filter" : ""}. The number is the cosine.` });
}
function outside(text, places) {
  state.list(`Nearest to “${text}” in the whole pool`, [], { mark: false });
  $("results").querySelector(".empty").replaceWith(h("ol", { className: "places" }, places.map((one) => h("li", {}, h("span", { className: "score" }, one.score.toFixed(3)),
    one.row !== null ? h("button", { type: "button", className: "link", onclick: () => state.open(one.row) }, h("span", { dir: "auto" }, one.text || "no caption")) : h("span", { dir: "auto" }, one.text || "no caption"), h("small", { className: "mono" }, one.uid)))));
}
async function searchPicture(file) {
  if (!file) return;
  const found = await trying(() => tell("search/picture", file));
  if (found) state.list(`Nearest to ${file.name || "your picture"}`, found.cards, { note: "Only this machine read your image, and it is not kept." });
}
function home() {
  if (!state.found) return;
  const empty = state.facets.isEmpty;
  results(state, empty ? "Some of the pool" : "Kept by the filter", state.found.cards, empty ? "The first of the uniform sample. Search above, pick a point of the map, or drag a box with Shift." : `The first of ${amount(state.found.kept)} sampled pairs that it keeps.`);
}

// Hovering -----------------------------------------------------------------------------------------------------------

const tipCards = new Map();
const tip = debounce(async (row, [left, top]) => {
  if (row !== state.map.hovered) return;
  if (!tipCards.has(row)) {
    if (tipCards.size > 2000) tipCards.clear();
    const found = await trying(() => ask(`cards?rows=${row}`));
    if (!found) return;
    tipCards.set(row, found.cards[0]);
  }
  if (row !== state.map.hovered) return;
  const one = tipCards.get(row), box = $("tip"), veil = state.veil(row);
  fill(box, one.picture ? h("img", { src: `api/picture/128/${row}`, alt: "", className: veil ? "veiled" : "" }) : h("span", { className: "none" }, "no picture"), h("span", { dir: "auto" }, one.text.slice(0, 140) || "no caption"));
  box.hidden = false;
  const wide = box.offsetWidth, high = box.offsetHeight;
  box.style.setProperty("left", `${left + 18 + wide > state.map.wide ? left - wide - 14 : left + 18}px`);
  box.style.setProperty("top", `${Math.max(6, Math.min(top - high / 2, state.map.high - high - 6))}px`);
}, 60);

// The start ----------------------------------------------------------------------------------------------------------

function helping() {
  const rows = [["/", "search"], ["1 2 3", "pairs, clusters, near-duplicates"], ["f", "the filter"], ["m", "the map"], ["← ↑ → ↓", "move the map, or through pairs"], ["+ − 0", "zoom in, out, whole map"], ["Enter", "open the pair in the middle"], ["Shift and drag", "pick a box of points"], ["b", "blur on or off"], ["Esc", "close"]];
  const dialog = $("helping");
  fill(dialog, h("h2", { id: "help-title" }, "Keys"), h("dl", {}, rows.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    h("p", { className: "note" }, `A uniform sample of ${amount(state.about.rows)} of ${amount(state.about.pool)} pairs, placed by ${state.about.map === "pca" ? "the two principal components" : "UMAP"} of their CLIP features. No data leaves this machine, and only what you save is written.`),
    h("p", { className: "actions" }, h("button", { type: "button", onclick: () => dialog.close() }, "Close")));
  dialog.showModal();
}

function keys(event) {
  if (event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey || event.altKey) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const does = {
    "/": () => $("query").focus(), "?": helping, b: () => $("blur").click(), f: () => { view("filter"); $("filter").focus(); }, m: () => { view("map"); $("canvas").focus(); },
    1: () => { tab("results"); view("side"); }, 2: () => { tab("clusters"); view("side"); }, 3: () => { tab("groups"); view("side"); },
    Escape: () => { if (!$("pair").hidden) state.close(); },
  }[event.key];
  if (does) { event.preventDefault(); does(); }
}

function listen() {
  const { map, facets } = state;
  $("find").addEventListener("submit", (event) => { event.preventDefault(); search(); });
  $("query").addEventListener("search", () => { if (!$("query").value) home(); });
  $("picture").addEventListener("change", () => { searchPicture($("picture").files[0]); $("picture").value = ""; });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); searchPicture(event.dataTransfer.files[0]); });
  addEventListener("paste", (event) => searchPicture(event.clipboardData?.files[0]));
  $("scope").addEventListener("change", () => { $("side").disabled = $("scope").value === "pool"; });  // its index has pictures
  $("colour").addEventListener("change", recolour);
  $("labels").addEventListener("change", () => { map.showNames = $("labels").checked; map.draw(); });
  $("only").addEventListener("change", () => { map.onlyKept = $("only").checked; map.draw(); });
  $("in").addEventListener("click", () => map.zoomBy(1.5)); $("out").addEventListener("click", () => map.zoomBy(1 / 1.5)); $("whole").addEventListener("click", () => map.whole());
  $("blur").addEventListener("change", () => { document.body.classList.toggle("unveiled", !$("blur").checked); if (state.opened >= 0) showPair(state, state.opened); else home(); });
  $("help").addEventListener("click", helping);
  for (const button of document.querySelectorAll(".views button")) button.addEventListener("click", () => view(button.dataset.to));
  TABS.forEach((name, place) => {
    $(`tab-${name}`).addEventListener("click", () => { if (name === "results" && !$("results").hidden && $("pair").hidden) home(); tab(name); });
    $(`tab-${name}`).addEventListener("keydown", (event) => { const step = { ArrowRight: 1, ArrowLeft: 2 }[event.key]; if (step) { const next = TABS[(place + step) % 3]; tab(next); $(`tab-${next}`).focus(); event.stopPropagation(); } });
  });
  map.addEventListener("hover", ({ detail: { row, at } }) => { if (row < 0) $("tip").hidden = true; else tip(row, at); });
  map.addEventListener("open", ({ detail: { row } }) => state.open(row));
  map.addEventListener("select", async ({ detail: { rows } }) => {
    if (!rows.length) return;
    const found = await trying(() => ask(`cards?rows=${rows.slice(0, 120).join(",")}`));
    if (found) state.list(`${amount(rows.length)} pairs of the map`, found.cards, { note: rows.length > 120 ? "The first 120 are shown." : "", mark: false });
  });
  facets.addEventListener("judged", async ({ detail }) => {
    const first = !state.found;
    state.found = detail; state.kept = detail.clusters; state.mask = bits(detail.mask, state.about.rows);
    if (facets.against >= 0) await trying(() => column(`method:${facets.against}`));
    if ($("colour").value === "filter") recolour(); else standOut();
    if (!$("clusters").hidden) clusters(state);
    if (first || (!$("results").hidden && !$("query").value)) home();
  });
  document.addEventListener("keydown", keys);
  onScheme(() => { recolour(); map.draw(); });
}

async function opened() {
  for (;;) {
    const told = await ask("about");
    if (!told.preparing) return told;
    $("where").textContent = told.preparing;
    await new Promise((done) => setTimeout(done, 800));
  }
}

async function start() {
  const about = state.about = await opened();
  document.title = `${about.name}: DataComp explore`;
  fill($("where"), h("b", {}, about.name), about.rows < about.pool ? ` ${amount(about.pool)} pairs, a uniform sample of ${amount(about.rows)}` : ` ${amount(about.pool)} pairs, all of them`);
  $("query").disabled = !about.can_search; $("by-picture").hidden = !about.can_search;
  if (!about.can_search) $("query").placeholder = about.sides.length ? "The CLIP model of these features is not available" : "No features: embed the pool to search it";
  if (!about.sides.includes("txt")) $("side").querySelector("[value=txt]").remove();
  $("scope").querySelector("[value=pool]").hidden = !about.whole_index;
  $("blur-switch").title = about.harmless ? "The embedded pool's images are safe: none is blurred." : about.nsfw ? `Blurs images whose ${about.nsfw} is 0.5 or more, or unknown.` : "No score of this pool says which images are unsafe, so all are blurred.";
  state.map = new PointMap($("canvas"), $("over"));
  state.map.labels = about.clusters.filter((one) => one.size && one.words.length).map((one) => ({ x: one.x, y: one.y, name: one.words[0] }));
  if (about.nsfw) state.nsfw = await column(about.nsfw);
  choices();
  state.facets = new Facets(about);
  listen();
  state.map.setPoints(await array("points", Float32Array));
  if (about.on_map < about.rows) { $("map-note").hidden = false; $("map-note").textContent = about.on_map ? `${amount(about.rows - about.on_map)} pairs without features have no place.` : "This pool has no features, so it has no map: embed it, for example with datacomp run. The filter and the pairs work without it."; }
  await recolour();
  await state.facets.judge();
  document.body.dataset.ready = "yes";
  window.datacomp = state;  // for tests and debugging
}

start().catch((problem) => { $("where").textContent = problem.message; toast(problem.message, true); });
