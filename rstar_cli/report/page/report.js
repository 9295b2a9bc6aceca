"use strict";
// Two tables of problems: searched, filtered, a page at a time.
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const PAGE = 10;

function cell(tag, ...inside) {
  const made = document.createElement(tag);
  made.append(...inside);
  return made;
}
function small(text) { return cell("small", text); }

const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);
const mark = (verdict) => (verdict === "correct" ? "✓\u00a0" : verdict === null ? "" : "✗\u00a0");
const tone = (verdict) => (verdict === "correct" ? "right" : verdict === null ? "" : "wrong");

// A number or a fraction stays on one line, where there is room for it.
const SHORT = 14;
const whole = (text) => { const made = cell("span", text); if (text.length <= SHORT) made.className = "whole"; return made; };
const joined = (text) => text.replace(/(?<=\d) ?\/ ?(?=\d)/g, (slash) => slash.replaceAll(" ", "\u00a0"));

// An answer with its verdict, and a remark below it.
function answer(tag, text, verdict, remark) {
  const made = cell(tag, whole(mark(verdict) + (text === null ? "no\u00a0answer" : text)));
  made.className = tone(verdict);
  if (remark) made.append(small(remark));
  return made;
}

function statement([id, level, text, , , , written]) {
  const made = cell("td", joined(text), small(level === null ? id : `${id}, level\u00a0${level}`));
  if (typeof written === "string" && written) made.append(cell("details", cell("summary", "what the last round wrote"), cell("pre", written)));
  return made;
}
const odd = (verdict) => (["correct", "incorrect", "no_answer"].includes(verdict) ? "" : verdict || "not evaluated");

// Answers side by side: how often each came, and what the PRM thinks of it.
function answers(found, none) {
  const made = cell("td", ...(found.length ? [] : [none]));
  for (const [text, verdict, times, value] of found) {
    const one = answer("span", text, verdict, "");
    one.append(" ", cell("i", `×${times}`, value === undefined || value === null ? "" : ` PRM ${signed(value)}`));
    made.append(one);
  }
  made.classList.add("several");
  return made;
}

const right = (row, column) => row[4][column][1] === "correct";
const last = data.problems.columns.length - 1;
const PROBLEMS = {
  keep: {
    all: () => true,
    right: (row) => right(row, last),
    wrong: (row) => !right(row, last),
    learnt: (row) => !right(row, 0) && right(row, last),
    lost: (row) => row[4].some((_, i) => right(row, i)) && !right(row, last),
    never: (row) => !row[4].some((_, i) => right(row, i)),
  },
  rows: () => data.problems.rows,
  cells: (row) => [
    ...row[4].map(([text, verdict]) => answer("td", text, verdict, odd(verdict))),
    ...(data.problems.sampled === null ? [] : [row[5] ? answers(row[5], "") : cell("td", "–")]),
  ],
};
// What a shell takes for one word.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
function command([id]) {
  const shown = cell("pre", `rstar show --run ${quoted(data.run)} --round ${el("searches-round").value} --problem ${quoted(id)} --html tree.html`);
  shown.className = "command";
  return cell("details", cell("summary", "command that draws its tree"), shown);
}

const SEARCHES = {
  keep: { unsolved: (row) => !row[4], solved: (row) => row[4] > 0, all: () => true },
  below: command,
  rows: () => data.searches.find((found) => String(found.round) === el("searches-round").value).rows,
  cells: ([, , , , solved, finished, found, dropped]) => [
    solved === null ? cell("td", "not graded") : answer("td", `${solved} of ${finished}`, solved ? "correct" : "incorrect", ""),
    answers(found, "no solution came to an end"),
    cell("td", Object.entries(dropped).map(([fate, times]) => `${times}\u00a0${fate.replaceAll(" ", "\u00a0")}`).join(", ") || "none"),
  ],
};

function finder(name, { keep, rows, cells, below }) {
  const heads = [...el(name).parentElement.querySelectorAll("th")].map((head) => head.textContent);
  let first = 0;
  function draw() {
    const words = el(`${name}-search`).value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = keep[el(`${name}-keep`).value];
    const found = rows().filter((row) => kept(row) && words.every((word) => `${row[0]} ${row[2]} ${row[3]}`.toLowerCase().includes(word)));
    first = Math.max(0, Math.min(first, found.length - 1));
    first -= first % PAGE;
    el(name).replaceChildren(...found.slice(first, first + PAGE).map((row) => {
      const made = cell("tr", statement(row), cell("td", whole(row[3] || "–")), ...cells(row));
      [...made.children].forEach((one, i) => { one.dataset.head = heads[i]; });
      if (below) made.firstChild.append(below(row));
      return made;
    }));
    if (!found.length) {
      const none = cell("td", "no problem matches");
      none.colSpan = heads.length;
      el(name).append(cell("tr", none));
    }
    const end = Math.min(found.length, first + PAGE);
    el(`${name}-count`).textContent = found.length ? `${first + 1} to ${end} of ${found.length.toLocaleString("en")}` : "none";
    el(`${name}-back`).disabled = first === 0;
    el(`${name}-on`).disabled = end === found.length;
  }
  const anew = (id, event) => el(id)?.addEventListener(event, () => { first = 0; draw(); });
  anew(`${name}-search`, "input");
  anew(`${name}-keep`, "change");
  anew(`${name}-round`, "change");
  el(`${name}-back`).addEventListener("click", () => { first -= PAGE; draw(); });
  el(`${name}-on`).addEventListener("click", () => { first += PAGE; draw(); });
  draw();
}

if (el("problems")) finder("problems", PROBLEMS);
if (el("searches")) {
  if (!SEARCHES.rows().some(SEARCHES.keep.unsolved)) el("searches-keep").value = "all";
  finder("searches", SEARCHES);
}
