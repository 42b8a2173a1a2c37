const value = (row, column) => row.cells[column].textContent.trim();
const number = text => parseFloat(text.replace(/,/g, ""));
for (const section of document.querySelectorAll("section")) {
  const body = section.querySelector("tbody");
  if (!body) continue;
  section.querySelector("input").addEventListener("input", event => {
    const wanted = event.target.value.toLowerCase().split(" ").filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    }
  });
  section.querySelectorAll("th").forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of section.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((first, second) => {
        const a = value(first, column), b = value(second, column);
        if (!a || !b) return a ? -1 : b ? 1 : 0;
        const order = isNaN(number(a)) || isNaN(number(b)) ? a.localeCompare(b) : number(a) - number(b);
        return down ? -order : order;
      });
      body.append(...rows);
    });
  });
}
