"use strict";
// Sorts tables by their headings. The address #sort=TABLE:COLUMN:asc|desc sorts when the page opens.
(() => {
  const root = document.documentElement;
  const faults = [];
  const record = (text) => { faults.push(String(text)); root.dataset.errors = JSON.stringify(faults); };
  window.addEventListener("error", (event) => record(event.message || "a part of the page did not load"), true);
  document.addEventListener("securitypolicyviolation", (event) => record(`refused: ${event.effectiveDirective}`));

  const UNITS = { kB: 1e3, MB: 1e6, GB: 1e9 };
  const MISSING = "–";
  const words = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => {
    const found = /^([+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(kB|MB|GB)?/.exec(text);
    return found ? Number(found[1].replaceAll(",", "")) * (UNITS[found[2]] ?? 1) : null;
  };
  const rowsOf = (body) => [...body.rows].filter((row) => !row.classList.contains("group"));

  function sort(table, column, direction) {
    const bodies = [...table.tBodies];
    const all = bodies.flatMap(rowsOf).map((row) => words(row, column)).filter((text) => text && text !== MISSING);
    const numeric = all.length > 0 && all.every((text) => number(text) !== null);
    const sign = direction === "desc" ? -1 : 1;
    const compare = (a, b) => {
      const [x, y] = [words(a, column), words(b, column)];
      const [none, nothing] = [!x || x === MISSING, !y || y === MISSING];
      if (none || nothing) return none - nothing;  // what is missing stays last either way
      return sign * (numeric ? number(x) - number(y) : x.localeCompare(y));
    };
    for (const body of bodies) {
      const rows = rowsOf(body).sort((a, b) => a.dataset.place - b.dataset.place);
      if (direction !== "none") rows.sort(compare);
      body.append(...rows);
    }
    for (const [index, heading] of [...table.tHead.rows[0].cells].entries()) {
      if (index === column && direction !== "none") {
        heading.setAttribute("aria-sort", direction === "desc" ? "descending" : "ascending");
      } else {
        heading.removeAttribute("aria-sort");
      }
    }
  }

  function prepare(table) {
    [...table.tBodies].flatMap(rowsOf).forEach((row, place) => { row.dataset.place = place; });
    for (const [column, heading] of [...table.tHead.rows[0].cells].entries()) {
      if (!heading.textContent.trim()) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => {
        const next = { ascending: "desc", descending: "none" }[heading.getAttribute("aria-sort")] ?? "asc";
        sort(table, column, next);
      });
    }
  }

  function unfold(element) {
    for (let fold = element.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  }

  function follow() {
    const asked = /^#sort=([\w-]+):([\w-]+):(asc|desc)$/.exec(location.hash);
    const table = asked && document.querySelector(`table[data-key="${asked[1]}"]`);
    if (!table) return;
    const column = [...table.tHead.rows[0].cells].findIndex((heading) => heading.dataset.key === asked[2]);
    if (column < 0) return;
    sort(table, column, asked[3]);
    unfold(table);
    table.scrollIntoView({ block: "center" });
  }

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("table[data-key]").forEach(prepare);
    window.addEventListener("hashchange", follow);
    window.addEventListener("beforeprint", () => {  // on paper nothing can be opened
      document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
    });
    follow();
    root.dataset.ready = "yes";
  });
})();
