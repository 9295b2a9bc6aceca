"use strict";
// The problems of the main set: searched, filtered, a page at a time.
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const PAGE = 25;
let first = 0;

function cell(tag, ...inside) {
  const made = document.createElement(tag);
  made.append(...inside);
  return made;
}

function answer([text, verdict]) {
  const made = cell("td", text === null ? "no answer" : text);
  made.className = verdict === "correct" ? "right" : "wrong";
  if (!["correct", "incorrect", "no_answer"].includes(verdict)) made.append(cell("small", verdict || "not evaluated"));
  made.prepend(verdict === "correct" ? "✓ " : "✗ ");
  return made;
}

const right = (row, column) => row[4][column][1] === "correct";
const KEEP = {
  all: () => true,
  right: (row) => right(row, data.columns.length - 1),
  wrong: (row) => !right(row, data.columns.length - 1),
  learnt: (row) => !right(row, 0) && right(row, data.columns.length - 1),
  lost: (row) => row[4].some((_, i) => right(row, i)) && !right(row, data.columns.length - 1),
  never: (row) => !row[4].some((_, i) => right(row, i)),
};

function draw() {
  const words = el("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = KEEP[el("keep").value];
  const found = data.rows.filter((row) => keep(row) && words.every((word) => `${row[0]} ${row[2]} ${row[3]}`.toLowerCase().includes(word)));
  first = Math.max(0, Math.min(first, found.length - 1));
  first -= first % PAGE;
  const rows = found.slice(first, first + PAGE).map(([id, level, text, gold, answers]) => {
    const statement = cell("td", text, cell("small", level === null ? id : `${id}, level ${level}`));
    return cell("tr", statement, cell("td", gold), ...answers.map(answer));
  });
  el("problems").replaceChildren(...rows);
  const last = Math.min(found.length, first + PAGE);
  el("count").textContent = found.length ? `${first + 1} to ${last} of ${found.length}` : "none";
  el("back").disabled = first === 0;
  el("on").disabled = last === found.length;
}

if (el("problems")) {
  el("search").addEventListener("input", () => { first = 0; draw(); });
  el("keep").addEventListener("change", () => { first = 0; draw(); });
  el("back").addEventListener("click", () => { first -= PAGE; draw(); });
  el("on").addEventListener("click", () => { first += PAGE; draw(); });
  draw();
}
