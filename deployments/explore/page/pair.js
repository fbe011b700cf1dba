// One pair: image and caption, each method's verdict, origin, and similar pairs.

import { $, amount, ask, fill, h, plainly, short, tell, toast, trying } from "./dom.js";
import { card, picture } from "./panels.js";

export async function showPair(state, row) {
  const box = $("pair");
  const one = await trying(() => ask(`pair/${row}`));
  if (!one || state.opened !== row) return;  // another one was opened meanwhile
  const veiled = state.veil(row), pic = picture(state, row, Boolean(one.picture), 1024, one.text ?? "");
  const reveal = veiled && one.picture ? h("button", { type: "button", className: "reveal", onclick: () => { pic.classList.remove("veil"); reveal.remove(); } }, "Show this picture") : null;
  const columns = Object.entries(one.columns).filter(([, value]) => value !== null);
  const table = (rows) => h("table", { className: "facts" }, h("tbody", {}, rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row", className: "l" }, plainly(name)), h("td", { dir: "auto" }, typeof value === "number" ? short(value) : String(value))))));
  const likes = async (side) => {
    const found = await trying(() => tell("search", { row, side, count: 60, within: state.within() }));
    if (found) state.list(side === "img" ? "Pictures like this one" : "Captions like this one", found.cards, { back: row });
  };
  fill(box, 
    h("div", { className: "head" }, h("h2", {}, "One pair"), h("button", { type: "button", className: "quiet", id: "close-pair", onclick: () => state.close() }, "Close")),
    h("figure", {}, pic, reveal, h("figcaption", { dir: "auto", className: one.text ? "" : "none" }, one.text || "no caption")),
    h("p", { className: "actions" },
      state.about.sides.includes("img") ? h("button", { type: "button", onclick: () => likes("img") }, "Similar pictures") : null,
      state.about.sides.includes("txt") ? h("button", { type: "button", onclick: () => likes("txt") }, "Similar captions") : null,
      state.onMap(row) ? h("button", { type: "button", onclick: () => state.goTo(row) }, "Show on the map") : null,
      h("button", { type: "button", className: "danger", onclick: () => takedown(row) }, "Ask for takedown…")),
    one.methods.length ? h("section", {}, h("h3", {}, "Verdicts of the methods"), h("ul", { className: "verdicts" }, one.methods.map((method) => h("li", { className: method.times ? "yes" : "no" },
      h("b", {}, method.times ? "✓" : "✗"), h("span", {}, method.name), h("small", {}, method.times ? (method.times > 1 ? `kept ${method.times} times` : "kept") : method.reason ? `dropped: ${method.reason}` : "dropped", method.note ? ` (${method.note})` : ""))))) : null,
    one.cluster ? h("section", {}, h("h3", {}, "Cluster"), h("p", {}, h("button", { type: "button", className: "link", onclick: () => state.showCluster(one.cluster.number) }, h("i", { className: "swatch", css: { "--c": state.clusterColour(one.cluster.number) } }), one.cluster.name))) : null,
    one.captions.length ? h("section", {}, h("h3", {}, "Other captions"), h("ul", { className: "variants" }, one.captions.map((other) => h("li", {}, h("small", {}, other.source), h("span", { dir: "auto" }, other.text || "no caption"))))) : null,
    one.duplicates.length ? h("section", {}, h("h3", {}, `${one.duplicates.length} near-duplicate${one.duplicates.length === 1 ? "" : "s"} in the sample`), await duplicates(state, one.duplicates)) : null,
    h("section", {}, h("h3", {}, "Columns"), table([["uid", one.uid], ["url", one.url ?? "none"], ...columns, ["part", one.part], ["row of the part", one.place]])),
    one.ledger ? h("details", {}, h("summary", {}, "Download", h("small", {}, one.ledger.reason ? `lost: ${plainly(one.ledger.reason)}` : "arrived")), table(Object.entries(one.ledger).filter(([name, value]) => value !== null && name !== "uid"))) : null,
    one.picture ? h("details", {}, h("summary", {}, "Place in the shards"), table(Object.entries(one.picture))) : null,
  );
  box.hidden = false; box.scrollTop = 0;
  $("close-pair").focus({ preventScroll: true });
}

async function duplicates(state, found) {
  const told = await trying(() => ask(`cards?rows=${found.map((one) => one.row).join(",")}`));
  return h("ul", { className: "strip" }, (told?.cards ?? []).map((one, place) => card(state, { ...one, score: found[place].score })));
}

function takedown(row) {
  const dialog = $("saving");
  const send = async () => {
    const told = await trying(() => tell("takedown", { rows: [row] }));
    dialog.close();
    if (told) toast(`${told.added ? "Noted" : "Already noted"} in ${told.file} (${amount(told.all)} in total). Nothing is removed until you run: ${told.command}`);
  };
  fill(dialog, h("form", { method: "dialog", onsubmit: (event) => { event.preventDefault(); send(); } },
    h("h2", { id: "save-title" }, "Ask for takedown"), h("p", {}, "This writes the uid to a file of requests. Nothing is removed until you run ", h("code", {}, "datacomp pool takedown"), " with it."),
    h("p", { className: "actions" }, h("button", { type: "submit", className: "danger", id: "takedown" }, "Write the request"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
  dialog.showModal();
}
