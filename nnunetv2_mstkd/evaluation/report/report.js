"use strict";

// Sorting: up, down, then the order of the page again.
function sortTable(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  rows.forEach((row, place) => { row.dataset.place ??= place; });
  const next = { none: "ascending", ascending: "descending", descending: "none" };
  const order = next[head.getAttribute("aria-sort")];
  table.querySelectorAll("th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", order);
  table.classList.toggle("sorted", order !== "none");

  const numeric = head.classList.contains("number");
  const sign = order === "descending" ? -1 : 1;
  const key = (row) => {
    const cell = row.cells[head.cellIndex];
    return numeric ? (cell.dataset.value ?? "") : cell.textContent.trim();
  };
  rows.sort((a, b) => {
    const places = a.dataset.place - b.dataset.place;
    if (order === "none") return places;
    const [x, y] = [key(a), key(b)];
    // Empty cells come last, whichever way the others go.
    if (x === "" || y === "") return (x === "") - (y === "") || places;
    const found = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return sign * found || places;
  });
  body.append(...rows);
}

async function copyCommand(button) {
  const text = document.getElementById(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    // Some browsers give local files no clipboard: leave the text selected for the keyboard.
    getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

document.querySelectorAll("th button").forEach((b) => b.addEventListener("click", () => sortTable(b)));
document.querySelectorAll("button.copy").forEach((b) => b.addEventListener("click", () => copyCommand(b)));

// What is folded on the screen is printed all the same.
let folded = [];
addEventListener("beforeprint", () => {
  folded = Array.from(document.querySelectorAll("details:not([open])"));
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
