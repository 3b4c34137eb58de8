const EVERY = 2000; // milliseconds
let last = "";

// What a reader did to the page outlives its new content: scrolling, opened parts, the focus; `orders` keeps the sorting.
function fill(told) {
  const boxes = [...document.querySelectorAll(".box")].map((box) => [box.scrollLeft, box.scrollTop]);
  const opened = [...document.querySelectorAll("details")].map((part) => part.open);
  const focus = [...document.querySelectorAll("button, summary, .box")].indexOf(document.activeElement);
  const [x, y] = [scrollX, scrollY];
  document.title = told.title;
  document.querySelector("main").replaceWith(told.querySelector("main"));
  prepare();
  document.querySelectorAll(".box").forEach((box, i) => boxes[i] && box.scrollTo(...boxes[i]));
  document.querySelectorAll("details").forEach((part, i) => (part.open = opened[i] ?? false));
  document.querySelectorAll("button, summary, .box")[focus]?.focus({ preventScroll: true });
  scrollTo(x, y);
}

async function refresh() {
  let ended = false;
  try {
    const answer = await fetch("/", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const text = await answer.text();
    const told = new DOMParser().parseFromString(text, "text/html");
    ended = told.querySelector('meta[name="state"]').content === "ended";
    if (text !== last) fill(told);
    last = text;
    document.body.classList.remove("lost");
  } catch {
    document.body.classList.add("lost");
  }
  if (!ended) setTimeout(refresh, EVERY);
}

if (document.querySelector('meta[name="state"]').content !== "ended") setTimeout(refresh, EVERY);
