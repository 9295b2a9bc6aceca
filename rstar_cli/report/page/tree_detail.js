// What the page says of the step that is chosen.
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
    const n = nodes[c], prm = data.guided && !data.asked ? n.prm_score : null, extra = prm === null ? 0 : 1;
    const visits = before.n[c] + extra, q = visits ? (before.w[c] + (prm ?? 0)) / visits : 0;
    const p = Math.exp(n.prior ?? 0);
    let sum = "", value = null;
    if (data.guided && data.asked) value = null;  // the search had another PRM's values
    else if (data.method === "uct") {
      value = visits ? q + c0 * Math.sqrt(Math.log(np) / visits) : data.rules === "upstream" ? 0 : Infinity;
      sum = visits ? `${two(q)} + ${c0}·√(ln ${np} / ${visits})` : "not visited yet";
    } else if (data.method === "puct" || data.method === "mcts") {
      const share = data.method === "puct" ? p / total : p;
      value = q + (c0 * share * Math.sqrt(np)) / (1 + before.n[c]);
      sum = `${two(q)} + ${c0}·${share.toFixed(3)}·√${np}\u00a0/\u00a0${1 + before.n[c]}`;
    }
    return { id: c, visits: before.n[c], q: before.n[c] ? before.w[c] / before.n[c] : null, p, sum, value, taken: c === taken, fresh: !before.n[c], over: !ways.slice(at - 1).some((w) => w.includes(c)) };
  });
}

const UNSEEN = data.rules === "upstream" ? "a step that was never visited scores 0" : "a step that was never visited comes first";
const BELIEF = data.guided ? " In Q, the PRM's value of a step counts as one more rollout." : "";
const RULES = {
  uct: `UCB = Q + c·√(ln N of the step before / N), Q = W/N; ${data.guided ? "the PRM's value of a step counts as one more rollout, in N and in W, so that a step that was never visited starts from it" : UNSEEN}.`,
  puct: `Score = Q + c·P·√(N of the step before) / (1 + N), P being the policy's share among the candidates.${BELIEF}`,
  mcts: `Score = Q + c·P·√(N of the step before) / (1 + N) for known steps; the rest of the probability stands for a new one, which is then sampled without replacement.${BELIEF}`,
  swor: "A step is drawn in proportion to its probability times the share of it that is still to be seen: nothing is sampled twice.",
  "best-of-n": "Each rollout is an independent sample.",
};
const SYMBOLS = {
  N: "rollouts that went through the step",
  W: "sum of their rewards, each from −1 (wrong) to 1 (right)",
  Q: "their mean reward W/N, from −1 to 1",
  P: "the probability that the policy gave the step",
  PRM: "what the process reward model expects of the step, from −1 (wrong) to 1 (right); 0 is an even chance",
  c: `how much untried steps are favoured: ${data.exploration} here`,
  new: "no rollout had been there before this one",
  over: "nothing new is left to find below it, so it is not entered again",
};

// A line for each symbol.
function symbols(names, told = {}) {
  return make("dl", "symbols", ...names.map((name) => make("div", "", make("dt", "", name), make("dd", "", told[name] || SYMBOLS[name]))));
}

// Of a rollout that came to no answer: the dropped candidate that ended it, and words, as far as the tree tells.
function ending(at) {
  const here = data.rollouts[at - 1].leaf, leaf = nodes[here], place = here ? `#${here}` : "the problem";
  if (leaf.stop === "answer") return null;
  const words = (why) => `Rollout ${at} came to no answer: ${why}.`;
  if (leaf.stop === "depth") return { words: words(`${place} stands at the depth limit`) };
  const fell = leaf.children.filter((c) => !VALID.has(nodes[c].stop));
  // One dropped candidate for each rollout that ended here: they are in the same order.
  const ends = data.rollouts.map((r, i) => (r.leaf === here ? i + 1 : 0)).filter(Boolean);
  if (ends.length !== fell.length) {
    const all = fell.length && fell.length === leaf.children.length;
    return { words: all ? words(`all ${fell.length} candidates below ${place} were dropped`) : `Rollout ${at} came to no answer; the tree doesn't tell why it ended at ${place}.` };
  }
  const by = nodes[fell[ends.indexOf(at)]];
  const why = { failed: `failed: ${failure(by)}`, malformed: "is no step", duplicate: "is the same as an earlier one" }[by.stop];
  return { by: by.id, words: words(`its next candidate below ${place}, #${by.id}, ${why}`) };
}

function ended() {
  const end = el("slider").dataset.used && state.at ? ending(state.at) : null;
  return end ? [make("p", "ended", ...linked(end.words))] : [];
}

function choices(id) {
  const at = state.at, way = ways[at - 1];
  if (!el("slider").dataset.used || at < 1 || !way.includes(id) || id === way[way.length - 1]) return [];
  const rows = choice(id, at), formula = rows.some((r) => r.sum);
  const prior = data.method !== "uct";  // whose choice it has no part in
  const heads = ["next step", "N before", "Q before", ...(prior ? ["P"] : []), ...(formula ? ["arithmetic", "score"] : [])];
  const table = make("table", "choices", make("tr", "", ...heads.map((h) => make("th", "", h))), ...rows.map((r) => make("tr", r.taken ? "taken" : "",
    make("td", "", `${r.taken ? "→ " : ""}#${r.id}`, make("small", "", r.fresh && r.taken ? " new" : r.over ? " over" : "")),
    make("td", "", String(r.visits)), make("td", "", two(r.q)), ...(prior ? [make("td", "", r.p.toFixed(3))] : []),
    ...(formula ? [make("td", "sum", r.sum), make("td", "", r.value === Infinity ? "∞" : two(r.value))] : []))));
  const used = ["N", ...(data.method === "uct" ? ["W"] : []), "Q", ...(prior ? ["P"] : []), ...(formula ? ["c"] : []), ...(rows.some((r) => r.fresh) ? ["new"] : []), ...(rows.some((r) => r.over) ? ["over"] : [])];
  return [
    make("h3", "", `What rollout ${at} chose here`), make("div", "scrolls", table),
    make("p", "hint", `N and Q are those before this rollout; the list of steps shows them after it. ${RULES[data.method] || ""}${data.guided && data.asked ? " Its values are not known here: those shown are of the PRM that was asked after the search." : ""}`),
    symbols(used, { P: data.method === "puct" && formula ? "the probability that the policy gave the step; the arithmetic has its share among the candidates" : SYMBOLS.P }),
  ];
}

// What the search came to: its answers, where they went wrong and its dropped candidates, each a way into the tree.
function outcome() {
  const found = new Map();
  leaves.forEach((n) => {
    const key = JSON.stringify([n.answer, n.verdict]);
    found.set(key, [...(found.get(key) || []), n]);
  });
  const groups = [...found.values()].sort((a, b) => b.length - a.length);
  const wrong = Object.entries(data.turns).map(([id, count]) => [Number(id), count]).sort((a, b) => b[1] - a[1]);
  const right = leaves.some((n) => n.verdict === "correct"), best = data.why[data.best];
  return [
    make("p", "told", data.told),
    ...(best && !right ? [make("p", "", ...linked(`#${data.best} ${data.rank}. ${best[0]}`))] : []),
    ...(data.doubted ? [make("p", "doubted", ...linked(data.doubted))] : []),
    ...listed("Its answers", ["answer", "verdict", "times"], groups.map((group) => [group[0].id, group[0].answer ?? "none", mark(group[0]), String(group.length)])),
    ...(wrong.length ? listed("Where solutions first went wrong", ["step", ...(data.prm ? ["PRM"] : []), "wrong below"], wrong.map(([id, count]) => [id, `#${id} ${brief(nodes[id])}`, ...(data.prm ? [two(nodes[id].prm_score)] : []), `${count} of ${count}`])) : []),
    ...listed("Dropped candidates", ["why", "", "times"], dropped()),
  ];
}

const brief = (n) => (n.stop === "answer" ? `answer ${n.answer ?? "none"}` : n.code.split("\n").map((l) => l.trim()).filter((l) => l && !/^(#|from |import )/.test(l)).join("; ") || n.text.trim());

// Words whose numbers of steps lead there.
function linked(words) {
  return words.split(/(#\d+)/).map((part) => (/^#\d+$/.test(part) ? to(part, Number(part.slice(1))) : part));
}

function to(words, id) {
  const link = make("button", "link", words);
  link.type = "button";
  link.addEventListener("click", () => goNear(id));
  return link;
}

function dropped() {
  const found = new Map();
  nodes.filter((n) => n.id && !VALID.has(n.stop)).forEach((n) => {
    const why = n.stop === "failed" ? failure(n) : WHY[n.stop];
    found.set(why, [...(found.get(why) || []), n]);
  });
  return [...found].sort((a, b) => b[1].length - a[1].length).map(([why, all]) => [all[0].id, why, mark(all[0]), String(all.length)]);
}

// A table whose rows lead to a step; those beyond the first ones open on demand.
function listed(heading, heads, rows) {
  if (!rows.length) return [];
  const table = (some, top) => make("table", "links", ...top, ...some.map(([id, first, ...rest]) => make("tr", "", make("td", "", to(first, id)), ...rest.map((cell) => make("td", "", cell)))));
  const left = rows.slice(MOST);
  const more = left.length ? [make("details", "more", make("summary", "", `and ${left.length.toLocaleString("en")} more`), table(left, []))] : [];
  return [make("h3", "", heading), table(rows.slice(0, MOST), [make("tr", "", ...heads.map((h) => make("th", "", h)))]), ...more];
}

function goNear(id) {
  if (!FILTERS[state.filter](nodes[id])) { state.filter = "all"; el("filter").value = "all"; }
  choose(id);
}

function facts(n) {
  const chance = n.prm_score === null ? "" : `, a chance of ${Math.round(50 + 50 * n.prm_score)} %`;
  const known = [["visits N", String(n.visits)], ["mean reward Q (−1 to 1)", n.visits ? two(n.q) : "–"]];
  if (n.id) known.push(["log-probability by the policy, nats", two(n.prior)]);
  if (data.verified[n.id]) known.push(["run again from scratch", verdict(data.verified[n.id])]);
  if (n.id) known.push(["PRM value (−1 to 1)", data.prm ? two(n.prm_score) + chance : "not asked (rstar show --prm last)"]);
  return [make("h3", "", "At the end of the search"), make("table", "", ...known.map(([k, v]) => make("tr", "", make("td", "", k), make("td", "", v))))];
}

// What became of a step.
function became(n) {
  if (n.stop === "answer") return `A finished solution.${n.verdict ? ` Verdict: ${verdict(n.verdict)}${data.gold && n.verdict !== "correct" ? `; the right answer is ${data.gold}` : ""}.` : " Not graded."}`;
  const on = n.children.filter((c) => VALID.has(nodes[c].stop)).length, tried = n.children.length;
  const below = on ? "the solution goes on below it" : tried ? `nothing goes on below it: ${tried === 1 ? "the one candidate" : `all ${tried} candidates`} there ${tried === 1 ? "was" : "were"} dropped` : "nothing was tried below it";
  return {
    step: `It ran; ${below}.`, code: on ? "It ran and closed the program; its answer stands below it." : `It ran and closed the program; ${below}.`,
    failed: "Dropped: its code did not run to the end.", malformed: "Dropped: it is no step (no closing tag, or tags out of order).",
    duplicate: "Dropped: the same text as an earlier candidate.", depth: "It ran, but stands at the depth limit.",
  }[n.stop];
}

// Where a solution went wrong, or that all below a step are wrong.
function wrongness(n) {
  const words = [];
  if (n.id === data.best && data.told_of_best) words.push(data.told_of_best);
  if (data.why[n.id]) words.push(data.why[n.id][0]);
  else if (data.turns[n.id]) words.push(`Solutions first went wrong here: every finished solution below this step is wrong (${data.turns[n.id]} of ${data.turns[n.id]}), while some below ${n.parent ? `the step before it (#${n.parent})` : "the problem"} are right.${data.turns[n.id] <= 3 ? " So few are a hint, no proof." : ""}`);
  return words.length ? [make("div", "why", ...words.map((w) => make("p", "", ...linked(w))))] : [];
}

function detail() {
  const n = nodes[state.chosen], box = el("detail"), parts = [];
  parts.push(make("h2", "", n.id === 0 ? "The problem" : n.stop === "answer" ? `Answer #${n.id}, depth ${n.depth}` : `Step #${n.id}, depth ${n.depth}`));
  if (n.id === 0) parts.push(...(el("slider").dataset.used ? [] : outcome()));
  else parts.push(make("p", "hint", became(n)), ...wrongness(n));
  parts.push(...ended(), ...choices(n.id));
  if (n.id) parts.push(make("h3", "", n.stop === "answer" ? "What it wrote" : "Its code"), n.stop === "answer" ? make("pre", "", n.text.trim()) : python(n.code || n.text.trim()));
  if (n.stdout) parts.push(make("h3", "", "What it printed"), make("pre", "", n.stdout));
  if (n.error) parts.push(make("h3", "", `What became of it: ${n.status}`), make("pre", "", n.error));
  if (n.stop === "answer") parts.push(make("h3", "", "The whole program"), python(up(n.id).map((id) => nodes[id].code).filter(Boolean).join("\n")));
  parts.push(...facts(n));
  if (n.id === 0) parts.push(make("p", "hint", "Choose a step to read it. Arrow keys move, open and close; [ and ] go through the rollouts."));
  box.replaceChildren(...parts);
  box.scrollTop = 0;
}
