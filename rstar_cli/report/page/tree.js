"use strict";
// One problem's search: a virtual list of steps, the step that is chosen, and a replay of the rollouts.
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const nodes = data.nodes.map((n, id) => ({ ...n, id, children: [] }));
nodes.forEach((n) => { if (n.parent !== null) nodes[n.parent].children.push(n.id); });
const VALID = new Set(["step", "code", "answer", "depth"]);
const LINE = 18, LIMIT = 4;  // pixels of a line of a row; lines of a row that is not chosen
const NARROW = matchMedia("(max-width: 760px)");
const indent = (n) => Math.min(n.depth, 14) * (NARROW.matches ? 8 : 16);
const MARKS = {
  step: "step", code: "end", answer: "answer", failed: "failed", malformed: "form", duplicate: "twin", depth: "depth",
};
const VERDICTS = { correct: "right", incorrect: "wrong", no_answer: "wrong: no answer" };
const verdict = (name) => VERDICTS[name] || name.replaceAll("_", " ");
const failure = (n) => (n.error || n.status || "failed").trim().split("\n").pop();
const WHY = { malformed: "no step: no closing tag, or tags out of order", duplicate: "the same text as an earlier one" };
const MOST = 12;

const up = (id) => { const way = []; for (let n = nodes[id]; n; n = nodes[n.parent]) way.push(n.id); return way.reverse(); };
const ways = data.rollouts.map((r) => up(r.leaf));
const leaves = nodes.filter((n) => n.stop === "answer" && n.visits);
const NOTHING = Object.fromEntries(["right", "wrong"].map((w) => [w, `none of the ${leaves.length.toLocaleString("en")} finished solutions is ${w}`]));
const byVerdict = (right) => new Set(leaves.filter((n) => (n.verdict === "correct") === right).flatMap((n) => up(n.id)));
const FILTERS = {
  valid: (n) => VALID.has(n.stop), visited: (n) => n.visits > 0, all: () => true, dropped: (n) => !VALID.has(n.stop),
  right: (n) => rightWay.has(n.id), wrong: (n) => wrongWay.has(n.id),
};
const rightWay = byVerdict(true), wrongWay = byVerdict(false);

const state = { open: new Set(up(0)), chosen: 0, filter: "valid", at: data.rollouts.length, rows: [], tops: [0], timer: 0 };
let seen = { n: [], w: [] };

// N and W of every node once so many rollouts were backed up.
function counts(rollouts) {
  const n = new Float64Array(nodes.length), w = new Float64Array(nodes.length);
  for (let r = 0; r < rollouts; r++) for (const id of ways[r]) { n[id] += 1; w[id] += data.rollouts[r].reward; }
  return { n, w };
}

function visible() {
  const keep = new Set();
  nodes.forEach((n) => { if (FILTERS[state.filter](n)) for (let m = n; m && !keep.has(m.id); m = nodes[m.parent]) keep.add(m.id); });
  keep.add(0);
  const rows = [], stack = [0];
  while (stack.length) {
    const id = stack.pop();
    rows.push(id);
    if (state.open.has(id)) for (const c of [...nodes[id].children].reverse()) if (keep.has(c)) stack.push(c);
  }
  state.keep = keep;
  return rows;
}

const text = (value) => document.createTextNode(value);
function make(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside.map((x) => (typeof x === "string" ? text(x) : x)));
  return made;
}
const two = (x) => (x === null || x === undefined || Number.isNaN(x) ? "–" : (x <= -0.005 ? "−" : "") + Math.abs(x).toFixed(2));

// A value in [-1, 1]: a bar from the middle, the longer and stronger the further from 0, and the figure.
function score(value) {
  const box = make("span", "score");
  if (value === null || value === undefined || Number.isNaN(value)) return box;
  const bar = make("i", value < 0 ? "low" : "");
  bar.style.left = `${50 + Math.min(0, value) * 50}%`;
  bar.style.width = `${Math.abs(value) * 50}%`;
  bar.style.opacity = String(0.35 + 0.65 * Math.abs(value));
  box.append(make("span", "track", bar), make("b", "", two(value)));
  return box;
}

function mark(n) {
  if (n.id === 0) return make("span", "mark", "start");
  if (n.stop === "answer") {
    const kind = n.verdict === "correct" ? "right" : n.verdict === "incorrect" || n.verdict === "no_answer" ? "wrong" : "other";
    return make("span", `mark ${kind}`, { right: "right", wrong: "wrong", other: n.verdict || "answer" }[kind]);
  }
  if (data.turns[n.id]) return make("span", "mark wrong", "wrong ↓");
  return make("span", `mark ${VALID.has(n.stop) ? "" : "other"}`, MARKS[n.stop]);
}

// A line of code in pieces of so many characters, broken at a space where there is one; a wide character counts as two.
const cells = (c) => (c.codePointAt(0) > 0x2e7f ? 2 : 1);
function wrap(code, columns) {
  const pieces = [];
  let rest = [...code];
  for (;;) {
    let end = 0, width = 0;
    while (end < rest.length && width + cells(rest[end]) <= columns) width += cells(rest[end++]);
    if (end === rest.length) break;
    const space = rest.lastIndexOf(" ", end);
    const cut = rest.slice(0, space).some((c) => c !== " ") ? space : Math.max(1, end);
    pieces.push(rest.slice(0, cut).join(""));
    rest = [..."  ", ...rest.slice(cut + (rest[cut] === " " ? 1 : 0))];
  }
  return [...pieces, rest.join("")];
}

// A step: of a failed one its error, then its comment and its code.
function lines(n, columns) {
  if (n.stop !== "failed") return linesOf(n, columns);
  const [first, ...rest] = wrap(failure(n), columns - 1);
  return [{ error: rest.length ? `${first}…` : first }, ...linesOf(n, columns)];
}

// What it imports is left out where there is more; all of it stands in one line where that is room for.
function linesOf(n, columns) {
  if (n.id === 0) return ["the problem"];
  if (n.stop === "answer") return wrap(`answer ${n.answer ?? "none"}`, columns);
  const all = n.code.split("\n").map((l) => l.trimEnd()).filter(Boolean), own = all.filter((l) => !/^\s*(from|import)\s/.test(l));
  const shown = own.some((l) => !l.trim().startsWith("#")) ? own : all;
  if (!shown.length) return wrap(n.text.trim().replaceAll("\n", " ") || "(empty)", columns);
  const joined = shown.map((l) => l.trim()).join("  ");
  return joined.length <= columns ? [shown.map((l) => l.trim())] : shown.flatMap((l) => wrap(l, columns));
}

const room = { width: 0, letter: 8, lines: [] };
const CELLS = () => (NARROW.matches ? 16 : 24 + (document.body.classList.contains("no-prm") ? 168 : 284) + 129);
const columns = (n) => Math.max(12, Math.floor((room.width - CELLS() - indent(n)) / room.letter));
const whole = (n) => (room.lines[n.id] ??= lines(n, columns(n)));

// What a row shows of a step: all of it where it is chosen, else some lines, from where it differs from its siblings on.
function shownLines(n) {
  const all = whole(n);
  if (n.id === state.chosen || all.length <= LIMIT) return all;
  const same = nodes[n.parent].children.filter((c) => c !== n.id).map((c) => {
    const other = whole(nodes[c]), at = all.findIndex((l, i) => l !== other[i]);
    return at < 0 ? 0 : at;
  });
  const start = Math.max(0, ...same) >= LIMIT - 1 ? Math.max(...same) : 0, left = all.length - start - (LIMIT - 1 - (start ? 1 : 0));
  const tail = left > 1 ? [`… ${left} more lines`] : all.slice(all.length - Math.max(0, left));
  return [...(start ? ["…"] : []), ...all.slice(start, all.length - Math.max(0, left)), ...tail];
}

const height = (n) => (NARROW.matches ? 34 : 12) + LINE * shownLines(n).length;

function line(n) {
  const part = (l) => l.error ? make("span", "e", l.error) : make("span", /^\s*(#|…)/.test(l) ? "c" : "", l);
  const box = make("span", "line", ...shownLines(n).map((l) => make("span", "", ...(Array.isArray(l) ? l.flatMap((p, i) => (i ? ["  ", part(p)] : [part(p)])) : [part(l)]))));
  if (NARROW.matches) box.style.paddingLeft = `${indent(n)}px`;
  return box;
}

// Where rows lie, once the place for their code is known.
function layout() {
  const width = el("rows").clientWidth;
  if (width !== room.width) {
    const probe = make("span", "line", make("span", "", "0".repeat(100)));
    probe.style.cssText = "position: absolute; visibility: hidden; width: max-content";
    el("rows").append(probe);
    Object.assign(room, { width, letter: probe.getBoundingClientRect().width / 100 || 8, lines: [] });
    probe.remove();
  }
  state.tops = [0];
  state.rows.forEach((id, i) => state.tops.push(state.tops[i] + height(nodes[id])));
}

function row(id, place, way) {
  const n = nodes[id], inner = n.children.some((c) => state.keep.has(c));
  const made = make("div", `row ${way.has(id) ? "on" : ""} ${id === state.chosen ? "chosen" : ""} ${seen.n[id] ? "" : "dim"}`);
  made.style.top = `${state.tops[place]}px`;
  made.style.height = `${state.tops[place + 1] - state.tops[place]}px`;
  made.dataset.id = id;
  made.id = `node-${id}`;
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", n.depth + 1);
  made.setAttribute("aria-selected", id === state.chosen);
  if (inner) made.setAttribute("aria-expanded", state.open.has(id));
  const step = make("span", "step", make("span", "twist", inner ? (state.open.has(id) ? "▾" : "▸") : ""), mark(n), make("small", "number", id ? `#${id}` : ""));
  step.style.paddingLeft = `${indent(n)}px`;
  const visits = seen.n[id];
  made.append(step, line(n), make("span", "count", visits ? String(visits) : ""), score(visits ? seen.w[id] / visits : null), score(n.prm_score));
  return made;
}

// The first row that ends below so many pixels.
function rowAt(top) {
  let low = 0, high = state.rows.length;
  while (low < high) { const mid = (low + high) >> 1; if (state.tops[mid + 1] > top) high = mid; else low = mid + 1; }
  return low;
}

// Puts the rows in view on the page, with some above and below; where it only moved, not before these are used up.
const drawn = { first: 0, last: 0 };
function draw(moved = false) {
  const way = new Set(state.at > 0 && state.at <= ways.length && el("slider").dataset.used ? ways[state.at - 1] : []);
  const box = el("scroll"), top = rowAt(box.scrollTop), bottom = rowAt(box.scrollTop + box.clientHeight);
  if (moved && top >= drawn.first && bottom < drawn.last) return;
  const first = Math.max(0, top - 10), last = Math.min(state.rows.length, bottom + 10);
  Object.assign(drawn, { first, last: last === state.rows.length ? Infinity : last });
  el("rows").style.height = `${state.tops[state.rows.length]}px`;
  el("rows").replaceChildren(...state.rows.slice(first, last).map((id, i) => row(id, first + i, way)));
  box.setAttribute("aria-activedescendant", `node-${state.chosen}`);
}

function refresh() {
  state.rows = visible();
  layout();
  const found = nodes.some((n) => n.id && FILTERS[state.filter](n)), all = nodes.length.toLocaleString("en");
  const none = !found && nodes.length > 1, match = nodes.filter((n) => FILTERS[state.filter](n)).length.toLocaleString("en");
  const counted = [make("span", "wide", `${all} nodes, `), `${match} match, ${state.rows.length.toLocaleString("en")} shown`];
  el("shown").replaceChildren(...(none ? [`none of ${all} nodes`] : counted));
  el("nothing").hidden = !none;
  el("nothing").style.top = `${state.tops[state.rows.length] + 10}px`;
  el("nothing").textContent = `No match for “${el("filter").selectedOptions[0].text}”: ${NOTHING[state.filter] || `none of the ${(nodes.length - 1).toLocaleString("en")} candidates`}.`;
  draw();
}
