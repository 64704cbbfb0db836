"use strict";
// Sorting: a heading sorts its table; again turns the order; cells without a value stay last.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const number = heading.classList.contains("number");
      // numbers begin with the largest, names with the first
      const order = before === "none" ? (number ? "descending" : "ascending")
        : before === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.setAttribute("aria-sort", other === heading ? order : "none");
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => number ? row.cells[column].dataset.value : row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (number && (a === "" || b === "")) return (a === "") - (b === "");
        return sign * (number ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}
// Curves on demand: the list above a chart shows one more of its lines.
for (const figure of document.querySelectorAll("figure.chart")) {
  const select = figure.querySelector("select");
  if (!select) continue;
  const choose = () => {
    for (const line of figure.querySelectorAll("[data-choice]")) {
      line.toggleAttribute("hidden", line.dataset.choice !== select.value);
    }
  };
  select.addEventListener("change", choose);
  choose(); // browsers keep the choice over a reload
}
