"use strict";
/* Column heads become buttons; a click sorts by the column, then the other way, then as it was. */
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, place) => {
    const cell = row.cells[place];
    if ("sort" in cell.dataset) return Number(cell.dataset.sort);
    return cell.textContent.trim().replace(/\s+/g, " ");
  };
  const unknown = (value) => value === "" || value === "–";
  const compare = (one, other) =>
    typeof one === "number" && typeof other === "number"
      ? one - other
      : String(one).localeCompare(String(other), "en", { numeric: true });
  const sort = (place, way) => {
    const keyed = rows.map((row) => [key(row, place), row]);
    keyed.sort(([one], [other]) => {
      if (unknown(one) || unknown(other)) return unknown(one) - unknown(other);
      return way * compare(one, other);
    });
    body.append(...(way ? keyed.map(([, row]) => row) : rows));
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const next = before === "ascending" ? "descending" : before ? null : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (next) head.setAttribute("aria-sort", next);
      sort(place, { ascending: 1, descending: -1 }[next] || 0);
    });
  });
}
/* What is folded away is printed too, also by browsers whose style sheets cannot open it. */
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  opened.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
