"use strict";
// Sorting, filtering and tabs; without this script, the tables keep the board's order.
for (const table of document.querySelectorAll("table[data-sortable]")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const first = head.dataset.first || "descending";
      const other = first === "descending" ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((cell) => cell.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        if (x === "" || y === "") return (x === "") - (y === "");  // missing values stay last
        const numbers = [Number(x), Number(y)];
        return sign * (numbers.some(Number.isNaN) ? x.localeCompare(y) : numbers[0] - numbers[1]);
      });
      body.append(...rows);
    });
  });
}

const search = document.getElementById("filter");
if (search) {
  const rows = [...document.querySelectorAll("#board tbody tr")];
  const papers = document.getElementById("papers");
  const track = document.getElementById("track");
  const inputs = document.getElementById("inputs");
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("no-match");
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.dataset.text;
      row.hidden = !words.every((word) => text.includes(word)) || (row.dataset.kind === "reference" && papers && !papers.checked)
        || Boolean(track && track.value && row.dataset.track !== track.value)
        || Boolean(inputs && inputs.value && row.dataset.inputs !== inputs.value);
      count += !row.hidden;
    }
    for (const part of document.querySelectorAll("div[data-track]")) {
      part.hidden = Boolean(track && track.value && part.dataset.track !== track.value);
    }
    shown.textContent = `${count} of ${rows.length} rows`;
    nothing.hidden = count > 0 || rows.length === 0;
    nothing.textContent = search.value.trim()
      ? `No method matches "${search.value.trim()}": clear the filter to see all ${rows.length} rows.`
      : `No row matches these choices: change them to see all ${rows.length} rows.`;
  };
  search.addEventListener("input", apply);
  papers?.addEventListener("change", apply);
  track?.addEventListener("change", apply);
  inputs?.addEventListener("change", apply);
  apply();
}

for (const list of document.querySelectorAll("[role=tablist]")) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const select = (tab) => {
    for (const other of tabs) {
      const is = other === tab;
      other.setAttribute("aria-selected", is);
      other.tabIndex = is ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !is;
    }
  };
  select(tabs[0]);
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(place + step + tabs.length) % tabs.length];
      select(next);
      next.focus();
    });
  });
}
