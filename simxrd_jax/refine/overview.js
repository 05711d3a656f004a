"use strict";
for (const [column, head] of [...document.querySelectorAll("thead th")].entries()) head.querySelector("button").addEventListener("click", () => {
  const falls = head.getAttribute("aria-sort") === "ascending", body = document.querySelector("tbody");
  const key = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [p, q] = [key(a), key(b)];
    if ((p === "") !== (q === "")) return p === "" ? 1 : -1;  // what is missing stays last
    const order = isNaN(p) || isNaN(q) ? p.localeCompare(q) : p - q;
    return falls ? -order : order;
  });
  for (const other of document.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falls ? "descending" : "ascending");
  body.append(...rows);
});
