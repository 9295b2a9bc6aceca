// How one moves through the page, and its start.
function reveal(id) {
  const place = state.rows.indexOf(id), box = el("scroll");
  if (place < 0) return;
  const top = state.tops[place], bottom = state.tops[place + 1];
  if (bottom > box.scrollTop + box.clientHeight) box.scrollTop = bottom - box.clientHeight;
  if (top < box.scrollTop) box.scrollTop = top;
}

function choose(id) {
  const box = el("scroll"), before = state.tops[state.rows.indexOf(id)];
  state.chosen = id;
  up(nodes[id].parent ?? 0).forEach((above) => state.open.add(above));
  refresh();
  if (before !== undefined) box.scrollTop += state.tops[state.rows.indexOf(id)] - before;  // a row above may have grown small
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
  const end = r && ending(state.at), where = !end ? `ends at #${r?.leaf}` : end.by ? `no answer, #${end.by} ${nodes[end.by].stop === "failed" ? "failed" : "dropped"}` : `ends at #${r.leaf}, no answer`;
  el("told").textContent = r ? `rollout ${state.at} of ${ways.length}: ${where}, reward ${two(r.reward)}, ${r.tokens.toLocaleString("en")} tokens` : `before the first of ${ways.length} rollouts`;
  el("when").textContent = r ? `, after rollout ${state.at}` : ", no rollout yet";
  buttons();
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

function buttons() {
  el("back").disabled = state.at <= 0;
  el("next").disabled = !ways.length || (Boolean(el("slider").dataset.used) && state.at >= ways.length);
  el("play").disabled = el("slider").disabled = !ways.length;
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
el("scroll").addEventListener("scroll", () => draw(true));
addEventListener("resize", refresh);
el("about").addEventListener("toggle", () => draw(true));
addEventListener("keydown", (event) => { if (event.key === "Escape") el("legend").open = false; });
addEventListener("click", (event) => { if (!event.target.closest("#legend")) el("legend").open = false; });
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

const LEGEND = {
  "wrong ↓": "the first step below which every finished solution is wrong, while some below the step before it are right; told from the whole search",
  start: "the problem", step: "it ran; the solution can go on", end: "it closed the program; its answer follows",
  "failed, form, twin": "dropped: its code failed, it is no step, or it is the same as an earlier one",
  pale: "no rollout went through it",
};
document.title = `${data.title} – search tree`;
el("title").textContent = data.title;
el("statement").textContent = data.problem;
el("facts").append(...data.facts.map(([k, v]) => make("div", "", make("dt", "", k), make("dd", "", v))));
el("slider").max = ways.length;
el("slider").value = ways.length;
el("about").open = !NARROW.matches;
el("legend-of").append(symbols(["N", "Q", "P", "PRM"]), symbols(["wrong ↓", "start", "step", "end", "failed, form, twin", "pale"], LEGEND));
if (RULES[data.method]) el("legend-of").append(symbols([data.method], { [data.method]: RULES[data.method] }));
buttons();
el("best").disabled = data.best === null;
el("told").textContent = ways.length ? `${ways.length} rollouts; move to replay them` : "no rollouts";
document.body.classList.toggle("no-prm", nodes.every((n) => n.prm_score === null));
seen = counts(ways.length);
if (data.best !== null) up(data.best).forEach((id) => state.open.add(id));
refresh();
detail();
