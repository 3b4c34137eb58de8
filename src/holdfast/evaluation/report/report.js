"use strict";

// Which table stands in which order: [column, direction]. It outlives a page that is filled anew.
const orders = new Map();
const collator = new Intl.Collator(undefined, { numeric: true });

function place(table) {
  const part = table.closest("section");
  return part.querySelector("h2")?.textContent + [...part.querySelectorAll("table")].indexOf(table);
}

function compare(one, two, direction) {
  const [x, y] = [one, two].map((cell) => cell.dataset.value);
  if (x === undefined && y === undefined) return direction * collator.compare(one.textContent, two.textContent);
  if (x === undefined || y === undefined) return x === undefined ? 1 : -1; // what is not known comes last
  return x === y ? 0 : direction * (Number(x) < Number(y) ? -1 : 1);
}

function arrange(table) {
  const [column, direction] = orders.get(place(table)) ?? [-1, 0];
  const rows = [...table.tBodies[0].rows].sort((a, b) => a.first - b.first);
  if (direction) rows.sort((a, b) => compare(a.cells[column], b.cells[column], direction));
  table.tBodies[0].append(...rows);
  [...table.tHead.rows[0].cells].forEach((head, i) => {
    if (direction && i === column) head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    else head.removeAttribute("aria-sort");
  });
}

function turn(table, column) {
  const [last, direction] = orders.get(place(table)) ?? [-1, 0];
  const next = last !== column ? 1 : { 0: 1, 1: -1, "-1": 0 }[direction];
  orders.set(place(table), [column, next]);
  arrange(table);
}

function prepare() {
  for (const table of document.querySelectorAll("table")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 2) continue;
    rows.forEach((row, i) => (row.first = i));
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.append(...head.childNodes);
      if (!button.textContent) button.setAttribute("aria-label", "name");
      button.addEventListener("click", () => turn(table, column));
      head.append(button);
    });
    arrange(table);
  }
}

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;

// A finger has no hovering: a tap shows the value as well, and the native tooltip, which would come twice, is taken.
function tell(event) {
  const at = event.target.closest(".tips > *");
  tip.hidden = !at;
  if (!at) return;
  const title = at.querySelector("title");
  if (title) at.said = title.textContent;
  title?.remove();
  tip.textContent = at.said;
  const box = at.getBoundingClientRect();
  const room = document.documentElement.clientWidth - tip.offsetWidth - 4;
  tip.style.left = `${Math.max(4, Math.min(room, box.left + box.width / 2 - tip.offsetWidth / 2))}px`;
  tip.style.top = `${box.top > tip.offsetHeight + 8 ? box.top - tip.offsetHeight - 4 : box.bottom + 4}px`;
}

document.body.append(tip);
document.addEventListener("pointerover", tell);
document.addEventListener("click", tell);
document.addEventListener("scroll", () => (tip.hidden = true), { capture: true, passive: true });
prepare();
