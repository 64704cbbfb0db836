// Sorting: a click on a heading sorts its table, a second click reverses the order; empty cells stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    heading.addEventListener("click", () => {
      const before = heading.getAttribute("aria-sort");
      const isNumeric = heading.classList.contains("numeric");
      // numbers start in descending order, names in ascending order
      const order = before === "none" ? (isNumeric ? "descending" : "ascending")
        : before === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.setAttribute("aria-sort", other === heading ? order : "none");
      const sign = order === "ascending" ? 1 : -1;
      const key = (row) => isNumeric ? row.cells[column].dataset.value : row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => {
        if (isNumeric && (a === "" || b === "")) return (a === "") - (b === "");
        return sign * (isNumeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      });
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}
// The list above a chart selects one more line to show.
for (const figure of document.querySelectorAll("figure.chart")) {
  const select = figure.querySelector("select");
  if (!select) continue;
  const choose = () => {
    for (const line of figure.querySelectorAll("[data-choice]")) {
      line.toggleAttribute("hidden", line.dataset.choice !== select.value);
    }
  };
  select.addEventListener("change", choose);
  choose(); // browsers restore the choice on reload
}
