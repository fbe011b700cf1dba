// The filter: initial filter, facets over columns, and what they keep of the sample and of the whole pool.

import { $, amount, ask, debounce, fill, h, percent, plainly, short, svg, tell, toast, trying } from "./dom.js";

const FIRST_NUMBERS = 4, FIRST_WORDS = 8;

export class Facets extends EventTarget {
  constructor(about) {
    super();
    this.about = about;
    this.base = null; this.baseFrom = -1; this.chosen = new Map(); this.against = -1;
    this.bars = {}; this.boxes = {}; this.open = false;
    this.later = debounce(() => this.judge(), 140);
    this.render();
  }

  get wanted() { return { base: this.base, facets: [...this.chosen.values()] }; }
  get isEmpty() { return !this.base && !this.chosen.size; }

  set(key, facet) {
    if (facet) this.chosen.set(key, facet); else this.chosen.delete(key);
    this.changed();
  }
  changed() { this.exact = null; this.renderChips(); this.later(); }

  async judge() {
    this.asking?.abort();
    this.asking = new AbortController();
    const columns = this.about.numbers.map((one) => one.name).slice(0, 40);
    const wanted = this.wanted;
    const body = { wanted, against: this.against >= 0 ? this.against : null, columns };
    const found = await trying(() => tell("judge", body, this.asking.signal));
    if (!found) return;
    this.found = found;
    this.renderFound();
    this.dispatchEvent(new CustomEvent("judged", { detail: found }));
    if (this.about.automatic) this.count(wanted);
  }

  async count(wanted = this.wanted) {
    const asked = JSON.stringify(wanted);
    const still = () => JSON.stringify(this.wanted) === asked;
    const first = await trying(() => tell("count", { wanted }));
    for (let told = first; told && still();) {
      this.exact = told; this.renderVerdict();
      if (told.done) return;
      await new Promise((done) => setTimeout(done, 350));
      told = await trying(() => ask(`count/${told.key}`));
    }
  }

  // The panel ------------------------------------------------------------------------------------------------------

  render() {
    const { about } = this, numbers = about.numbers.filter((one) => one.edges.length), words = about.words;
    const cheap = ["words"], first = numbers.filter((one) => one.name.endsWith("_score")).slice(0, 3).concat(numbers.filter((one) => cheap.includes(one.name)));
    const shown = first.length ? first : numbers.slice(0, FIRST_NUMBERS), rest = numbers.filter((one) => !shown.includes(one));
    fill($("facets"), 
      h("div", { className: "head" }, h("h2", {}, "Filter"), h("button", { type: "button", className: "quiet", id: "reset", onclick: () => this.reset() }, "Reset")),
      h("p", { className: "note" }, "Try a filter before you run it. Every condition is a filter of ", h("code", {}, "datacomp filter"), "."),
      h("div", { id: "chips", className: "chips" }),
      this.baseBox(),
      shown.map((one) => this.numberBox(one)),
      words.filter((one) => one.name === "language").map((one) => this.wordBox(one)),
      about.methods.length ? this.methodBox() : null,
      rest.length || words.length > 1 ? h("details", {}, h("summary", {}, "More columns"), rest.map((one) => this.numberBox(one)), words.filter((one) => one.name !== "language").map((one) => this.wordBox(one, one.name !== "language"))) : null,
      this.textBox(),
    );
    this.renderChips();
  }

  baseBox() {
    const known = this.about.methods.map((one, place) => [one, place]).filter(([one]) => one.filter && !["sample_to", "soft_cap"].includes(one.filter.kind));
    const select = h("select", { id: "base", "aria-label": "Begin with the filter of", onchange: () => this.begin(Number(select.value)) },
      h("option", { value: -1 }, "everything"), known.map(([one, place]) => h("option", { value: place }, one.name)));
    this.leaves = h("div", { className: "leaves" });
    return h("div", { className: "facet" }, h("label", { className: "row" }, h("b", {}, "Begin with"), select), this.leaves);
  }
  begin(place) {
    this.baseFrom = place;
    this.base = place < 0 ? null : structuredClone(this.about.methods[place].filter);
    this.against = place;
    fill(this.leaves, ...(this.base ? numbersIn(this.base).map(([owner, name, whole]) => this.leaf(owner, name, whole)) : []));
    this.changed();
  }
  leaf(owner, name, whole) {
    const field = h("input", {
      type: "number", value: owner[name], step: whole ? 1 : "any", "aria-label": `${owner.kind}, ${name}`,
      oninput: () => { if (field.value !== "" && Number.isFinite(Number(field.value))) { owner[name] = Number(field.value); this.changed(); } },
    });
    const of = owner.score ? `${plainly(owner.kind)} (${owner.score}), ${plainly(name)}` : `${plainly(owner.kind)}, ${plainly(name)}`;
    return h("label", { className: "row" }, h("span", {}, of), field);
  }

  numberBox(column) {
    const key = `range ${column.name}`, last = column.edges.length - 1, low = column.edges[0], high = column.edges[last];
    const drawing = this.drawing(column);
    const state = { at_least: null, below: null };
    const whole = Number.isInteger(column.low) && Number.isInteger(column.high) && column.high > 2;
    const tidy = (value) => whole ? Math.round(value) : Number(value.toPrecision(4));
    const update = () => {
      this.set(key, state.at_least === null && state.below === null ? null : { kind: "range", column: column.name, at_least: state.at_least, below: state.below });
      drawing.cut(state.at_least, state.below);
    };
    const end = (which, label) => {
      const slider = h("input", { type: "range", min: 0, max: 1000, value: which === "below" ? 1000 : 0, className: which, "aria-label": `${plainly(column.name)}, ${label}` });
      const field = h("input", { type: "number", step: "any", placeholder: "any", "aria-label": `${plainly(column.name)}, ${label}, exactly` });
      slider.addEventListener("input", () => {
        const edge = which === "below" ? 1000 : 0;
        state[which] = Number(slider.value) === edge ? null : tidy(low + slider.value / 1000 * (high - low));
        field.value = state[which] ?? ""; update();
      });
      field.addEventListener("input", () => {
        state[which] = field.value === "" || !Number.isFinite(Number(field.value)) ? null : Number(field.value);
        slider.value = state[which] === null ? (which === "below" ? 1000 : 0) : 1000 * (state[which] - low) / (high - low); update();
      });
      return { slider, field };
    };
    const from = end("at_least", "at least"), to = end("below", "below");
    this.boxes[key] = () => { for (const one of [from, to]) { one.field.value = ""; } from.slider.value = 0; to.slider.value = 1000; state.at_least = state.below = null; drawing.cut(null, null); };
    return h("fieldset", { className: "facet" }, h("legend", {}, plainly(column.name), column.missing ? h("small", {}, `${amount(column.missing)} have none`) : null, column.looking ? lookingOnly() : null),
      drawing.node, h("div", { className: "ends" }, from.slider, to.slider), h("div", { className: "fields" }, from.field, h("span", {}, "to below"), to.field));
  }
  drawing(column) {
    const most = Math.max(...column.counts, 1), count = column.counts.length, node = svg("svg", { viewBox: `0 0 ${count} 40`, preserveAspectRatio: "none", class: "histogram", "aria-hidden": "true" });
    const bar = (name) => column.counts.map((rows, place) => {
      const high = 38 * Math.sqrt(rows / most), one = svg("rect", { x: place + 0.08, y: 40 - high, width: 0.84, height: high, class: name });
      node.append(one); return one;
    });
    bar("pool");
    const kept = bar("kept"), low = column.edges[0], high = column.edges[count];
    const lines = [svg("line", { y1: 0, y2: 40, class: "cut" }), svg("line", { y1: 0, y2: 40, class: "cut" })];
    node.append(...lines);
    const place = (line, value) => {
      line.style.display = value === null ? "none" : "";
      const x = value === null ? 0 : count * (value - low) / (high - low);
      line.setAttribute("x1", x); line.setAttribute("x2", x);
    };
    const cut = (from, to) => { place(lines[0], from); place(lines[1], to); };
    cut(null, null);
    this.bars[column.name] = (rows) => rows.forEach((value, at) => { const tall = 38 * Math.sqrt(value / most); kept[at].setAttribute("y", 40 - tall); kept[at].setAttribute("height", tall); });
    return { node, cut };
  }

  wordBox(column, looking = false) {
    const key = `values ${column.name}`, chosen = new Set(), counts = [];
    const rows = column.values.map((value, place) => {
      if (column.has_other && place === column.values.length - 1) return null;
      const count = h("span", { className: "n" }, amount(column.counts[place])), box = h("input", { type: "checkbox" });
      box.addEventListener("change", () => {
        if (box.checked) chosen.add(value); else chosen.delete(value);
        this.set(key, chosen.size ? { kind: "values", column: column.name, values: [...chosen] } : null);
      });
      counts.push([count, place]);
      return h("label", { className: "word", hidden: place >= FIRST_WORDS }, box, h("span", { dir: "auto" }, value), count);
    }).filter(Boolean);
    this.boxes[key] = () => { chosen.clear(); for (const row of rows) row.querySelector("input").checked = false; };
    this.bars[`words ${column.name}`] = (kept) => counts.forEach(([node, place]) => { node.textContent = `${amount(kept[place])} of ${amount(column.counts[place])}`; });
    const more = rows.length > FIRST_WORDS ? h("button", { type: "button", className: "quiet", onclick: () => { rows.forEach((row) => { row.hidden = false; }); more.remove(); } }, `${rows.length - FIRST_WORDS} more`) : null;
    return h("fieldset", { className: "facet" }, h("legend", {}, plainly(column.name), looking ? lookingOnly() : null), rows, more);
  }

  methodBox() {
    const rows = this.about.methods.map((method, place) => {
      const key = `method ${place}`, select = h("select", { "aria-label": `What ${method.name} does`, onchange: () => this.set(key, select.value ? { kind: "method", method: place, drop: select.value === "dropped" } : null) },
        ["", "kept", "dropped"].map((value) => h("option", { value }, value || "any")));
      this.boxes[key] = () => { select.value = ""; };
      return h("label", { className: "row" }, h("span", {}, method.name, h("small", {}, percent(method.kept / this.about.rows))), select);
    });
    return h("fieldset", { className: "facet" }, h("legend", {}, "Kept by"), rows);
  }
  textBox() {
    const key = "text", field = h("input", { type: "search", placeholder: "letters in the caption", "aria-label": "Captions that contain", maxLength: 500,
      oninput: debounce(() => this.set(key, field.value ? { kind: "text", contains: field.value } : null), 250) });
    this.boxes[key] = () => { field.value = ""; };
    return h("fieldset", { className: "facet" }, h("legend", {}, "Caption contains", h("small", { title: "No filter can express this, so a recipe cannot contain it" }, "for viewing only")), field);
  }

  cluster(numbers, drop) {
    const key = drop ? "clusters dropped" : "clusters", before = this.chosen.get(key)?.clusters ?? [];
    const all = [...new Set([...before, ...numbers])];
    this.set(key, { kind: "clusters", clusters: all, drop });
  }

  reset() {
    for (const clear of Object.values(this.boxes)) clear();
    this.chosen.clear(); $("base").value = -1; this.begin(-1);
  }

  // Results ---------------------------------------------------------------------------------------------------------

  renderChips() {
    const told = (facet) => {
      if (facet.kind === "range") return `${plainly(facet.column)} ${[facet.at_least !== null ? `≥ ${short(facet.at_least)}` : "", facet.below !== null ? `< ${short(facet.below)}` : ""].filter(Boolean).join(", ")}`;
      if (facet.kind === "values") return `${plainly(facet.column)}: ${facet.values.join(", ")}`;
      if (facet.kind === "clusters") return `${facet.drop ? "not " : ""}${facet.clusters.map((one) => this.about.clusters[one].name).join(" | ")}`;
      if (facet.kind === "method") return `${facet.drop ? "dropped" : "kept"} by ${this.about.methods[facet.method].name}`;
      return `“${facet.contains}”`;
    };
    fill($("chips"), ...[...this.chosen].map(([key, facet], place) => h("span", { className: "chip" },
      h("span", { dir: "auto" }, told(facet)), this.found?.alone[place] && !this.stale ? h("small", {}, amount(this.found.alone[place].kept)) : null,
      h("button", { type: "button", "aria-label": `Remove ${told(facet)}`, onclick: () => { this.boxes[key]?.(); this.set(key, null); } }, "×"))));
  }

  renderFound() {
    const { found } = this;
    for (const [name, rows] of Object.entries(found.numbers)) this.bars[name]?.(rows);
    for (const [name, rows] of Object.entries(found.words)) this.bars[`words ${name}`]?.(rows);
    this.renderChips(); this.renderVerdict();
  }

  renderVerdict() {
    const { about, found, exact } = this;
    if (!found) return;
    const share = found.kept / found.rows, sampled = found.rows < found.pool;
    const about_ = sampled ? `about ${amount(found.estimate)} ± ${amount(found.margin)} of ${amount(found.pool)}` : `${amount(found.kept)} of ${amount(found.rows)}`;
    let pool = null;
    if (exact?.done) pool = h("p", { className: "exact", id: "exact", "data-kept": exact.kept }, h("b", {}, amount(exact.kept)), ` of ${amount(exact.rows)} in the whole pool: counted; nothing is written`);
    else if (exact) pool = h("p", { className: "note" }, `Counting the whole pool… ${exact.told}`);
    else if (!about.automatic) pool = h("button", { type: "button", onclick: () => this.count() }, "Count the whole pool");
    const against = h("select", { "aria-label": "Against", onchange: () => { this.against = Number(against.value); this.judge(); } },
      h("option", { value: -1 }, "everything"), about.methods.map((one, place) => h("option", { value: place }, one.name)));
    against.value = this.against;
    const { gained, lost, both } = found.flips;
    fill($("verdict"), 
      h("p", { className: "kept", id: "kept", "data-kept": found.kept }, h("b", {}, percent(share)), h("span", {}, `kept: ${about_}`)),
      h("div", { className: "bar", "aria-hidden": "true" }, h("i", { className: "both", css: { flex: both } }), h("i", { className: "gained", css: { flex: gained } }), h("i", { className: "lost", css: { flex: lost } }), h("i", { className: "rest", css: { flex: Math.max(found.rows - both - gained - lost, 0) } })),
      h("p", { className: "flips" }, h("label", {}, "against ", against), h("span", { className: "up", id: "gained" }, gained ? `+${amount(gained)} gained` : "0 gained"), h("span", { className: "down", id: "lost" }, lost ? `−${amount(lost)} lost` : "0 lost")),
      pool,
      exact?.done && Object.keys(exact.dropped).length ? h("details", {}, h("summary", {}, "Dropped, by first reason"), h("ul", { className: "plain-list" }, Object.entries(exact.dropped).map(([why, rows]) => h("li", {}, h("span", {}, why), h("span", { className: "n" }, amount(rows)))))) : null,
      h("p", { className: "actions" }, h("button", { type: "button", className: "strong", id: "save", disabled: this.isEmpty, onclick: () => this.save() }, "Save as a recipe…")),
    );
  }

  async save() {
    const made = await trying(() => tell("recipe", { wanted: this.wanted }));
    if (!made) return;
    const dialog = $("saving"), name = h("input", { type: "text", id: "recipe-name", value: "mine", maxLength: 80, required: true, pattern: "[A-Za-z0-9][A-Za-z0-9_.\\-]*", spellcheck: false });
    const replace = h("input", { type: "checkbox" });
    const looking = this.found?.only_looking.length ? h("p", { className: "warn" }, "Not saved: conditions for viewing only.") : null;
    const write = async () => {
      const told = await trying(() => tell("save", { name: name.value, wanted: this.wanted, replace: replace.checked }));
      if (!told) return;
      dialog.close();
      toast(`Saved ${told.file}. Run it: datacomp run -r ${told.file}`);
    };
    fill(dialog, h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); write(); } },
      h("h2", { id: "save-title" }, "Save as a recipe"), h("p", { className: "note" }, "Written to ", h("code", {}, this.about.out), "; run it with ", h("code", {}, `datacomp run -r ${this.about.out}/NAME.yaml`), "."),
      looking, h("pre", { className: "yaml", tabIndex: 0 }, made.text),
      h("p", { className: "fields" }, h("label", {}, "Name ", name), h("label", { className: "tick" }, replace, " overwrite an existing file")),
      h("p", { className: "actions" }, h("button", { type: "submit", className: "strong", id: "write" }, "Save"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
    dialog.showModal();
  }
}

function lookingOnly() {
  return h("small", { title: "No filter can express this, so a recipe cannot contain it" }, "for viewing only");
}

/** The adjustable numbers of a filter: [owner, field, whether it is an integer]. */
function numbersIn(tree) {
  const found = [];
  for (const [name, value] of Object.entries(tree)) {
    if (typeof value === "number" && name !== "seed") found.push([tree, name, Number.isInteger(value) && Math.abs(value) > 1]);
    else if (value && typeof value === "object" && name === "filter") found.push(...numbersIn(value));
    else if (Array.isArray(value) && name === "filters") value.forEach((one) => found.push(...numbersIn(one)));
  }
  return found;
}
