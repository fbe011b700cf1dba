// The panels next to the map: pairs in a grid, the table of clusters, groups of near-duplicates.

import { $, amount, ask, debounce, fill, h, percent, plainly, trying } from "./dom.js";

/** An image, blurred if it may be unsafe; `state.veil(row)` decides. */
export function picture(state, row, has, size = 256, text = "") {
  const box = h("div", { className: "pic" });
  if (!has) { box.classList.add("blank"); box.append("no picture"); return box; }
  if (state.veil(row)) box.classList.add("veil");
  const image = h("img", { src: `api/picture/${size}/${row}`, alt: text ? text.slice(0, 120) : "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => { box.classList.add("blank"); fill(box, "cannot be shown"); });
  box.append(image);
  return box;
}

export function card(state, one) {
  const dots = state.about.methods.length > 1 ? h("span", { className: "dots", title: state.about.methods.map((method, place) => `${method.name}: ${one.kept[place] ? "kept" : "dropped"}`).join("\n") }, one.kept.map((times) => h("i", { className: times ? "yes" : "no" }))) : null;
  return h("li", {}, h("button", { type: "button", className: "card-button", "data-row": one.row, onclick: () => state.open(one.row) },
    picture(state, one.row, one.picture, 256, one.text),
    h("span", { className: "txt", dir: "auto" }, one.text || h("em", {}, "no caption")),
    h("span", { className: "why" }, one.score !== null && one.score !== undefined ? h("span", { className: "score" }, one.score.toFixed(3)) : null, dots)));
}

export function results(state, title, cards, note = "") {
  const list = h("ul", { className: "sheet" }, cards.map((one) => card(state, one)));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(list), ArrowUp: -columns(list) }[event.key];
    const all = [...list.querySelectorAll("button")], now = all.indexOf(document.activeElement);
    if (!step || now < 0 || !all[now + step]) return;
    event.preventDefault(); all[now + step].focus();
  });
  fill($("results"), h("div", { className: "head" }, h("h2", { id: "results-title" }, title)), note ? h("p", { className: "note" }, note) : "", cards.length ? list : h("p", { className: "empty" }, "Nothing is left. Widen the filter or the search."));
  $("results").scrollTop = 0;
}
function columns(list) {
  return getComputedStyle(list).gridTemplateColumns.split(" ").length;
}

export function clusters(state) {
  const { about } = state, overall = about.methods.map((method) => method.kept / about.rows);
  let order = "size", down = true;
  const value = (one) => order === "size" ? one.size : order === "name" ? one.name : order === "now" ? share(one) : one.rates[order];
  const share = (one) => state.kept ? state.kept[about.clusters.indexOf(one)] / Math.max(one.size, 1) : 1;
  const show = () => {
    const rows = [...about.clusters].filter((one) => one.size).sort((a, b) => (down ? -1 : 1) * (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0));
    const most = Math.max(...rows.map((one) => one.size), 1);
    const head = (text, by, full = text) => h("th", { scope: "col", title: full, "aria-sort": order === by ? (down ? "descending" : "ascending") : null }, h("button", { type: "button", onclick: () => { down = order === by ? !down : by !== "name"; order = by; show(); } }, text));
    const rate = (part, against) => h("td", { className: "heat", title: against ? `${percent(part)} here, ${percent(against)} of all` : percent(part), css: { "--h": `var(--${part >= against ? "up" : "down"})`, "--v": String(Math.min(46, 46 * Math.abs(part - against) / Math.max(against, 1 - against, 0.01))) } }, `${Math.round(100 * part)}`);
    fill($("clusters"), 
      h("div", { className: "head" }, h("h2", {}, `${rows.length} clusters of pictures`)),
      h("p", { className: "note" }, "Named after the words their captions have more than others. Each column: the share that a method keeps, in percent; green above its own average, red below."),
      rows.length ? h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, head("Cluster", "name"), head("Pairs", "size"), state.kept && !state.facets.isEmpty ? head("now", "now", "Kept by the filter on this page") : null, about.methods.map((method, place) => head(initials(method.name, about.methods), place, method.name)), h("th", {}, h("span", { className: "away" }, "As a filter")))),
        h("tbody", {}, rows.map((one) => {
          const number = about.clusters.indexOf(one);
          return h("tr", {}, h("th", { scope: "row", className: "l" }, h("button", { type: "button", className: "link", onclick: () => state.showCluster(number) }, h("i", { className: "swatch", css: { "--c": state.clusterColour(number) } }), one.name)),
            h("td", {}, h("span", { className: "size", css: { "--w": String(one.size / most) } }, amount(one.size))),
            state.kept && !state.facets.isEmpty ? rate(share(one), state.found.kept / state.found.rows) : null,
            one.rates.map((part, place) => rate(part, overall[place])),
            h("td", { className: "acts" }, h("button", { type: "button", className: "quiet", "aria-label": `Keep only ${one.name}`, title: "Keep only these", onclick: () => state.facets.cluster([number], false) }, "+"), h("button", { type: "button", className: "quiet", "aria-label": `Drop ${one.name}`, title: "Drop these", onclick: () => state.facets.cluster([number], true) }, "−")));
        })))) : h("p", { className: "empty" }, "This pool has no features: embed it, and its pictures are clustered."),
      about.methods.length ? h("p", { className: "note" }, about.methods.map((method) => `${initials(method.name, about.methods)}: ${method.name}`).join(" · ")) : "",
    );
  };
  show();
}
function initials(name, methods) {
  const short = (text) => text.split(/[_\s+-]+/).map((word) => word[0]).join("").slice(0, 4);
  const same = methods.filter((one) => short(one.name) === short(name));
  return same.length > 1 ? `${short(name)}${same.findIndex((one) => one.name === name) + 1}` : short(name);
}

export async function groups(state, atLeast = 0.99) {
  const box = $("groups"), slider = h("input", { type: "range", min: 900, max: 1000, value: Math.round(1000 * atLeast), "aria-label": "Similarity, as a cosine" }), shown = h("output", {}, atLeast.toFixed(3));
  slider.addEventListener("input", () => { shown.textContent = (slider.value / 1000).toFixed(3); });
  slider.addEventListener("change", debounce(() => groups(state, slider.value / 1000), 50));
  const head = [h("div", { className: "head" }, h("h2", {}, "Near-duplicates")), h("label", { className: "row wide" }, h("span", {}, "Cosine of at least"), slider, shown)];
  fill(box, ...head, h("p", { className: "note" }, "Looking for pictures that are nearly the same…"));
  const found = await trying(() => ask(`groups?at_least=${atLeast}`));
  if (!found) return;
  fill(box, ...head,
    h("p", { className: "note" }, found.num_groups ? `${amount(found.num_groups)} groups with ${amount(found.num_rows)} of ${amount(state.about.on_map)} sampled pictures${found.groups.length < found.num_groups ? `; the ${found.groups.length} largest are shown` : ""}.` : "No two sampled pictures are this similar."),
    ...found.groups.map((group) => h("section", { className: "group" }, h("h3", {}, `${amount(group.size)} similar`), h("ul", { className: "strip" }, group.cards.map((one) => card(state, one))))));
}
