"use strict";
// The page is whole without this: it sorts the table, shows the classes that are looked for, and lets keys scroll what is wide.
const boxes = [...document.querySelectorAll(".scroll")];
const reach = () => {
  for (const box of boxes) {
    if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("resize", reach);
reach();
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const said = document.getElementById("sorted");
  heads.forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    const isNumber = head.dataset.kind === "number";
    const value = (row) => {
      const cell = row.cells[column];
      return isNumber ? Number(cell.dataset.value ?? cell.textContent) : cell.textContent;
    };
    button.addEventListener("click", () => {
      const first = isNumber ? "descending" : "ascending"; // of numbers the large ones are looked for
      const other = isNumber ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        return sign * (isNumber ? x - y : x.localeCompare(y, undefined, { numeric: true }));
      });
      body.append(...rows);
      heads.forEach((each) => each.hasAttribute("aria-sort") && each.setAttribute("aria-sort", each === head ? order : "none"));
      said.textContent = `Sorted by ${button.textContent}, ${order}`;
    });
  });
}
const filter = document.getElementById("filter");
if (filter) {
  const sections = [...document.querySelectorAll("section.class")];
  const said = document.getElementById("filtered");
  filter.closest(".filter").hidden = false;
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    for (const each of sections) each.hidden = !each.dataset.name.toLowerCase().includes(wanted);
    const left = sections.filter((each) => !each.hidden).length;
    said.textContent = wanted ? `${left} of ${sections.length} classes` : "";
  });
}
