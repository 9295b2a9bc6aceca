"use strict";
// One problem's search: a virtual list of steps, the step that is chosen, and a replay of the rollouts.
const data = JSON.parse(document.getElementById("data").textContent);
const el = (id) => document.getElementById(id);
const nodes = data.nodes.map((n, id) => ({ ...n, id, children: [] }));
nodes.forEach((n) => { if (n.parent !== null) nodes[n.parent].children.push(n.id); });
const VALID = new Set(["step", "code", "answer", "depth"]);
const HEIGHT = 30;
const INDENT = matchMedia("(max-width: 760px)").matches ? 8 : 16;
const MARKS = {
  step: "step", code: "end", answer: "answer", failed: "failed", malformed: "form", duplicate: "twin", depth: "depth",
};
const WORDS = {
  step: "It ran; the solution goes on below it.", code: "It closed the program.", answer: "An answer: a finished solution.",
  failed: "Dropped: its code did not run to the end.", malformed: "Dropped: it is no step (no closing tag, or tags out of order).",
  duplicate: "Dropped: the same text as an earlier candidate.", depth: "It ran, but stands at the depth limit.",
};

const WHY = { malformed: "no step: no closing tag, or tags out of order", duplicate: "the same text as an earlier one" };
const MOST = 12;

const up = (id) => { const way = []; for (let n = nodes[id]; n; n = nodes[n.parent]) way.push(n.id); return way.reverse(); };
const ways = data.rollouts.map((r) => up(r.leaf));
const leaves = nodes.filter((n) => n.stop === "answer" && n.visits);
const byVerdict = (right) => new Set(leaves.filter((n) => (n.verdict === "correct") === right).flatMap((n) => up(n.id)));
const FILTERS = {
  valid: (n) => VALID.has(n.stop), visited: (n) => n.visits > 0, all: () => true, dropped: (n) => !VALID.has(n.stop),
  right: (n) => rightWay.has(n.id), wrong: (n) => wrongWay.has(n.id),
};
const rightWay = byVerdict(true), wrongWay = byVerdict(false);

const state = { open: new Set(up(0)), chosen: 0, filter: "valid", at: data.rollouts.length, rows: [], timer: 0 };
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

function score(value) {
  const box = make("span", "score");
  if (value === null || value === undefined || Number.isNaN(value)) return box;
  const bar = make("i", value < 0 ? "low" : "");
  bar.style.left = `${50 + Math.min(0, value) * 50}%`;
  bar.style.width = `${Math.abs(value) * 50}%`;
  box.append(bar, make("b", "", two(value)));
  return box;
}

function mark(n) {
  if (n.id === 0) return make("span", "mark", "start");
  if (n.stop === "answer") {
    const kind = n.verdict === "correct" ? "right" : n.verdict === "incorrect" || n.verdict === "no_answer" ? "wrong" : "other";
    return make("span", `mark ${kind}`, { right: "right", wrong: "wrong", other: n.verdict || "answer" }[kind]);
  }
  return make("span", `mark ${VALID.has(n.stop) ? "" : "other"}`, MARKS[n.stop]);
}

// A step in a line: its comment, then its code; what it imports is left out where there is more.
function line(n) {
  if (n.id === 0) return make("span", "line", "the problem");
  if (n.stop === "answer") return make("span", "line", `answer ${n.answer ?? "none"}`);
  const lines = n.code.split("\n").map((l) => l.trim()).filter(Boolean), own = lines.filter((l) => !/^(from|import)\s/.test(l));
  const shown = own.some((l) => !l.startsWith("#")) ? own : lines;
  if (!shown.length) return make("span", "line", n.text.trim() || "(empty)");
  const parts = shown.map((l) => (l.startsWith("#") ? make("span", "c", l) : l));
  return make("span", "line", ...parts.flatMap((part, i) => (i ? ["  ", part] : [part])));
}

function row(id, place, way) {
  const n = nodes[id], inner = n.children.some((c) => state.keep.has(c));
  const made = make("div", `row ${way.has(id) ? "on" : ""} ${id === state.chosen ? "chosen" : ""} ${seen.n[id] ? "" : "dim"}`);
  made.style.top = `${place * HEIGHT}px`;
  made.dataset.id = id;
  made.id = `node-${id}`;
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", n.depth + 1);
  made.setAttribute("aria-selected", id === state.chosen);
  if (inner) made.setAttribute("aria-expanded", state.open.has(id));
  const step = make("span", "step", make("span", "twist", inner ? (state.open.has(id) ? "▾" : "▸") : ""), mark(n), line(n));
  step.style.paddingLeft = `${Math.min(n.depth, 14) * INDENT}px`;
  const visits = seen.n[id];
  made.append(step, make("span", "count", visits ? String(visits) : ""), score(visits ? seen.w[id] / visits : null), score(n.prm_score));
  return made;
}

function draw() {
  const way = new Set(state.at > 0 && state.at <= ways.length && el("slider").dataset.used ? ways[state.at - 1] : []);
  const box = el("scroll"), first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - 10);
  const last = Math.min(state.rows.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + 10);
  el("rows").style.height = `${state.rows.length * HEIGHT}px`;
  el("rows").replaceChildren(...state.rows.slice(first, last).map((id, i) => row(id, first + i, way)));
  box.setAttribute("aria-activedescendant", `node-${state.chosen}`);
}

function refresh() {
  state.rows = visible();
  el("shown").textContent = state.keep.size === 1 && nodes.length > 1 ? "none of these in this tree" : `${state.rows.length.toLocaleString("en")} of ${nodes.length.toLocaleString("en")} nodes in view`;
  draw();
}

const KEYWORDS = /^(and|as|assert|break|class|continue|def|del|elif|else|except|False|finally|for|from|if|import|in|is|lambda|None|nonlocal|not|or|pass|raise|return|True|try|while|with|yield)$/;
const TOKEN = /(#[^\n]*)|("""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(\b\d[\w.]*)|(\b[A-Za-z_]\w*)/g;
function python(code) {
  const box = make("pre", "");
  let end = 0;
  for (const found of code.matchAll(TOKEN)) {
    box.append(code.slice(end, found.index));
    const kind = found[1] ? "c" : found[2] ? "s" : found[3] ? "n" : KEYWORDS.test(found[4]) ? "k" : "";
    box.append(kind ? make("span", kind, found[0]) : found[0]);
    end = found.index + found[0].length;
  }
  box.append(code.slice(end));
  return box;
}

// The candidates that a rollout could choose among below a node, with the arithmetic of each.
function choice(id, at) {
  const before = counts(at - 1), way = ways[at - 1], taken = way[way.indexOf(id) + 1];
  const known = (c) => before.n[c] > 0 || c === taken;
  const valid = nodes[id].children.filter((c) => VALID.has(nodes[c].stop));
  const there = data.method === "uct" || data.method === "puct" ? valid.filter(() => valid.some(known)) : valid.filter(known);
  const np = Math.max(1, before.n[id]), c0 = data.exploration;
  const total = there.reduce((sum, c) => sum + Math.exp(nodes[c].prior ?? 0), 0) || 1;
  return there.map((c) => {
    const n = nodes[c], prm = data.guided ? n.prm_score : null, extra = prm === null ? 0 : 1;
    const visits = before.n[c] + extra, q = visits ? (before.w[c] + (prm ?? 0)) / visits : 0;
    const p = Math.exp(n.prior ?? 0);
    let sum = "", value = null;
    if (data.method === "uct") {
      value = visits ? q + c0 * Math.sqrt(Math.log(np) / visits) : Infinity;
      sum = visits ? `${two(q)} + ${c0}·√(ln ${np} / ${visits})` : "not visited yet";
    } else if (data.method === "puct" || data.method === "mcts") {
      const share = data.method === "puct" ? p / total : p;
      value = q + (c0 * share * Math.sqrt(np)) / (1 + before.n[c]);
      sum = `${two(q)} + ${c0}·${share.toFixed(3)}·√${np} / ${1 + before.n[c]}`;
    }
    return { id: c, visits: before.n[c], q: before.n[c] ? before.w[c] / before.n[c] : null, p, sum, value, taken: c === taken, fresh: !before.n[c], over: !ways.slice(at - 1).some((w) => w.includes(c)) };
  });
}

const RULES = {
  uct: "UCB = W/N + c·√(ln N of the parent / N); a step that was never visited comes first. A PRM's value counts as one visit. A step that is over, since nothing new is left below it, is not entered again.",
  puct: "Q + c·P·√(N of the parent) / (1 + N), P the policy's share among the candidates.",
  mcts: "Q + c·P·√(N of the parent) / (1 + N) for known steps; the rest of the probability stands for a new one, which is then sampled without replacement. A step that is over, since nothing new is left below it, is not entered again.",
  swor: "A step is drawn in proportion to its probability times the share of it that is still to be seen: nothing is sampled twice.",
  "best-of-n": "Each rollout is an independent sample.",
};

function choices(id) {
  const at = state.at, way = ways[at - 1];
  if (!el("slider").dataset.used || at < 1 || !way.includes(id) || id === way[way.length - 1]) return [];
  const rows = choice(id, at), formula = rows.some((r) => r.sum);
  const prior = data.method !== "uct";  // whose choice it has no part in
  const heads = ["next step", "N", "Q", ...(prior ? ["P"] : []), ...(formula ? ["arithmetic", "score"] : [])];
  const table = make("table", "choices", make("tr", "", ...heads.map((h) => make("th", "", h))), ...rows.map((r) => make("tr", r.taken ? "taken" : "",
    make("td", "", `${r.taken ? "→ " : ""}#${r.id}`, make("small", "", r.fresh && r.taken ? " new" : r.over ? " over" : "")),
    make("td", "", String(r.visits)), make("td", "", two(r.q)), ...(prior ? [make("td", "", r.p.toFixed(3))] : []),
    ...(formula ? [make("td", "", r.sum), make("td", "", r.value === Infinity ? "∞" : two(r.value))] : []))));
  return [make("h3", "", `What rollout ${at} chose here`), make("div", "scrolls", table), make("p", "hint", RULES[data.method] || "")];
}

// What the search came to: its answers and its dropped candidates, each a way into the tree.
function outcome() {
  const right = leaves.filter((n) => n.verdict === "correct").length, graded = leaves.some((n) => n.verdict);
  const found = new Map();
  leaves.forEach((n) => {
    const key = JSON.stringify([n.answer, n.verdict]);
    found.set(key, [...(found.get(key) || []), n]);
  });
  const groups = [...found.values()].sort((a, b) => b.length - a.length);
  const many = (count, one, more) => `${count.toLocaleString("en")} ${count === 1 ? one : more}`;
  let told = "No rollout came to an answer.";
  if (leaves.length && !graded) told = `${many(leaves.length, "solution", "solutions")}, not graded.`;
  else if (right) told = `Solved: ${right} of ${many(leaves.length, "finished solution", "finished solutions")} ${right === 1 ? "is" : "are"} right.`;
  else if (leaves.length) told = `Not solved: none of ${many(leaves.length, "finished solution", "finished solutions")} is right. The commonest answer is ${groups[0][0].answer ?? "none"} (${many(groups[0].length, "time", "times")})${data.gold ? `, the gold answer ${data.gold}` : ""}.`;
  return [make("p", "told", told), ...listed("Its answers", ["answer", "verdict", "times"], groups.map((group) => [
    group[0].id, group[0].answer ?? "none", mark(group[0]), String(group.length),
  ])), ...listed("Dropped candidates", ["why", "", "times"], dropped())];
}

function dropped() {
  const found = new Map();
  nodes.filter((n) => n.id && !VALID.has(n.stop)).forEach((n) => {
    const why = n.stop === "failed" ? (n.error || n.status || "failed").trim().split("\n").pop() : WHY[n.stop];
    found.set(why, [...(found.get(why) || []), n]);
  });
  return [...found].sort((a, b) => b[1].length - a[1].length).map(([why, all]) => [all[0].id, why, mark(all[0]), String(all.length)]);
}

// A table whose rows lead to a step.
function listed(heading, heads, rows) {
  if (!rows.length) return [];
  const table = make("table", "links", make("tr", "", ...heads.map((h) => make("th", "", h))), ...rows.slice(0, MOST).map(([id, first, ...rest]) => {
    const link = make("button", "link", first);
    link.type = "button";
    link.addEventListener("click", () => goNear(id));
    return make("tr", "", make("td", "", link), ...rest.map((cell) => make("td", "", cell)));
  }));
  const more = rows.length > MOST ? [make("p", "hint", `and ${rows.length - MOST} more`)] : [];
  return [make("h3", "", heading), table, ...more];
}

function goNear(id) {
  if (!FILTERS[state.filter](nodes[id])) { state.filter = "all"; el("filter").value = "all"; }
  choose(id);
}

function facts(n) {
  const chance = n.prm_score === null ? "" : `, a chance of ${Math.round(50 + 50 * n.prm_score)} %`;
  const known = [["visits N", String(n.visits)], ["mean reward Q (−1 to 1)", n.visits ? two(n.q) : "–"]];
  if (n.id) known.push(["log-probability by the policy, nats", two(n.prior)]);
  if (data.verified[n.id]) known.push(["run again from scratch", data.verified[n.id].replace("_", " ")]);
  if (n.id) known.push(["PRM value (−1 to 1)", data.prm ? two(n.prm_score) + chance : "not asked (rstar show --prm last)"]);
  return [make("h3", "", "At the end of the search"), make("table", "", ...known.map(([k, v]) => make("tr", "", make("td", "", k), make("td", "", v))))];
}

function detail() {
  const n = nodes[state.chosen], box = el("detail"), parts = [];
  parts.push(make("h2", "", n.id === 0 ? "The problem" : n.stop === "answer" ? `Answer #${n.id}, depth ${n.depth}` : `Step #${n.id}, depth ${n.depth}`));
  if (n.id === 0) parts.push(...(el("slider").dataset.used ? [] : outcome()));
  else parts.push(make("p", "hint", n.stop === "answer" && n.verdict ? `${WORDS.answer} Verdict: ${n.verdict.replace("_", " ")}${data.gold && n.verdict !== "correct" ? `; the gold answer is ${data.gold}` : ""}.` : WORDS[n.stop]));
  parts.push(...choices(n.id));
  if (n.id) parts.push(make("h3", "", n.stop === "answer" ? "What it wrote" : "Its code"), n.stop === "answer" ? make("pre", "", n.text.trim()) : python(n.code || n.text.trim()));
  if (n.stdout) parts.push(make("h3", "", "What it printed"), make("pre", "", n.stdout));
  if (n.error) parts.push(make("h3", "", `What became of it: ${n.status}`), make("pre", "", n.error));
  if (n.stop === "answer") parts.push(make("h3", "", "The whole program"), python(up(n.id).map((id) => nodes[id].code).filter(Boolean).join("\n")));
  parts.push(...facts(n));
  if (n.id === 0) parts.push(make("p", "hint", "Choose a step to read it. Arrow keys move, open and close; [ and ] go through the rollouts."));
  box.replaceChildren(...parts);
  box.scrollTop = 0;
}

function reveal(id) {
  const place = state.rows.indexOf(id), box = el("scroll");
  if (place < 0) return;
  if (place * HEIGHT < box.scrollTop) box.scrollTop = place * HEIGHT;
  if ((place + 1) * HEIGHT > box.scrollTop + box.clientHeight) box.scrollTop = (place + 1) * HEIGHT - box.clientHeight;
}

function choose(id) {
  state.chosen = id;
  up(nodes[id].parent ?? 0).forEach((above) => state.open.add(above));
  refresh();
  reveal(id);
  draw();
  detail();
}

function goTo(at) {
  const slider = el("slider");
  state.at = Math.max(0, Math.min(ways.length, at));
  slider.value = state.at;
  slider.dataset.used = "yes";
  seen = counts(state.at);
  const r = data.rollouts[state.at - 1];
  el("told").textContent = r ? `rollout ${state.at} of ${ways.length}: ends at #${r.leaf}, reward ${two(r.reward)}, ${r.tokens.toLocaleString("en")} tokens by then` : `before the first of ${ways.length} rollouts`;
  if (r) {
    if (!FILTERS[state.filter](nodes[r.leaf])) { state.filter = "all"; el("filter").value = "all"; }
    ways[state.at - 1].forEach((id) => state.open.add(id));
    const way = ways[state.at - 1];
    state.chosen = way.includes(state.chosen) ? state.chosen : way[0];
  }
  refresh();
  if (r) { reveal(r.leaf); draw(); }
  detail();
}

function toggle(id, open) {
  if (open) state.open.add(id); else state.open.delete(id);
  refresh();
}

function stop() { clearInterval(state.timer); state.timer = 0; el("play").textContent = "▶\uFE0E play"; }
function play() {
  if (state.timer) { stop(); return; }
  if (state.at >= ways.length) goTo(0);
  el("play").textContent = "❚❚ pause";
  state.timer = setInterval(() => { if (state.at >= ways.length) stop(); else goTo(state.at + 1); }, 900);
}

const MOVES = {
  ArrowDown: () => state.rows[state.rows.indexOf(state.chosen) + 1],
  ArrowUp: () => state.rows[state.rows.indexOf(state.chosen) - 1],
  Home: () => state.rows[0],
  End: () => state.rows[state.rows.length - 1],
};
addEventListener("keydown", (event) => {
  if (event.target.matches("select, input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "]" || event.key === "[") { stop(); goTo(state.at + (event.key === "]" ? 1 : -1)); return; }
  if (!event.target.closest("#scroll")) return;
  const n = nodes[state.chosen];
  if (MOVES[event.key]) { const to = MOVES[event.key](); if (to !== undefined) choose(to); }
  else if (event.key === "ArrowRight") { if (state.open.has(n.id)) { const c = n.children.find((x) => state.keep.has(x)); if (c !== undefined) choose(c); } else toggle(n.id, true); }
  else if (event.key === "ArrowLeft") { if (state.open.has(n.id) && n.children.length) toggle(n.id, false); else if (n.parent !== null) choose(n.parent); }
  else if (event.key === "Enter" || event.key === " ") toggle(n.id, !state.open.has(n.id));
  else return;
  event.preventDefault();
});
el("rows").addEventListener("click", (event) => {
  const id = Number(event.target.closest(".row").dataset.id);
  if (event.target.closest(".twist") || id === state.chosen) toggle(id, !state.open.has(id));
  choose(id);
});
el("scroll").addEventListener("scroll", draw);
addEventListener("resize", draw);
el("filter").addEventListener("change", (event) => {
  state.filter = event.target.value;
  if (["right", "wrong", "dropped"].includes(state.filter)) nodes.filter(FILTERS[state.filter]).forEach((n) => up(n.parent ?? 0).forEach((id) => state.open.add(id)));
  refresh();
});
el("open").addEventListener("click", () => { nodes.forEach((n) => state.open.add(n.id)); refresh(); });
el("close").addEventListener("click", () => { state.open = new Set([0]); choose(0); });
el("best").addEventListener("click", () => { if (data.best !== null) { up(data.best).forEach((id) => state.open.add(id)); choose(data.best); } });
el("slider").addEventListener("input", (event) => { stop(); goTo(Number(event.target.value)); });
el("back").addEventListener("click", () => { stop(); goTo(state.at - 1); });
el("next").addEventListener("click", () => { stop(); goTo(state.at >= ways.length && !el("slider").dataset.used ? 1 : state.at + 1); });
el("play").addEventListener("click", play);

document.title = `${data.title} – search tree`;
el("title").textContent = data.title;
el("statement").textContent = data.problem;
el("facts").append(...data.facts.map(([k, v]) => make("div", "", make("dt", "", k), make("dd", "", v))));
el("slider").max = ways.length;
el("slider").value = ways.length;
el("best").disabled = data.best === null;
el("told").textContent = ways.length ? `${ways.length} rollouts; move to replay them` : "no rollouts";
document.body.classList.toggle("no-prm", nodes.every((n) => n.prm_score === null));
seen = counts(ways.length);
if (data.best !== null) up(data.best).forEach((id) => state.open.add(id));
refresh();
detail();
