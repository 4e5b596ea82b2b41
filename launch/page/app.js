// Asks for what has changed, keeps it, and changes the page where it differs.
"use strict";

const STATES = ["running", "failed", "stale", "diverged", "stopped", "queued", "done", "pending"];
const SHOWN = 200; // rows of the table
const DRAWN = 100; // curves
const DOTS = 1500; // final losses
const COLUMNS = [
  ["run", "id"], ["shape", "label"], ["N", "n"], ["tokens", "tokens"], ["of", "planned"], ["loss", "loss"],
  ["tok/s", "rate"], ["left", "left"], ["state", "status"], ["", "remark"],
];
const TEXT = new Set(["id", "label", "status", "remark"]);

const $ = id => document.getElementById(id);
const runs = new Map();   // id -> row, in the sweep's order
const curves = new Map(); // id -> {points: [[tokens, loss, seconds]], broken}
let sweep = null, epoch = "", version = -1, curvesVersion = -1, curvesOf = "", law = null;
let order = { by: null, down: false };

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function clock(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor(whole % 3600 / 60)} min`;
}

async function ask(path, query) {
  const address = `${path}?${new URLSearchParams(query)}`;
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok) throw new Error(`${address}: ${answer.status}`);
  return answer.json();
}

async function askSweep() {
  const found = await ask("api/sweep", { epoch, since: version });
  if (found.epoch !== epoch) { runs.clear(); curves.clear(); curvesVersion = -1; }
  ({ epoch, version } = found);
  for (const run of found.runs) runs.set(run.id, run);
  sweep = found;
}

// Of the runs that the filters leave: those that train, and as many others as can be told apart.
function drawn() {
  const begun = chosen().filter(run => run.tokens > 0);
  const live = begun.filter(run => run.status === "running"), rest = begun.filter(run => run.status !== "running");
  return [...live.slice(0, DRAWN), ...sample(rest, DRAWN - live.length)];
}

// At most so many of a list, evenly out of it.
function sample(list, most) {
  if (most <= 0) return [];
  const stride = Math.ceil(list.length / most);
  return list.filter((_, i) => i % stride === 0);
}

async function askCurves() {
  const wanted = drawn().map(run => run.id), key = wanted.join(",");
  if (!wanted.length) return;
  const since = key === curvesOf ? curvesVersion : -1;
  const found = await ask("api/curves", { runs: key, epoch, since });
  if (found.epoch !== epoch) return;
  curvesOf = key; curvesVersion = found.version;
  for (const [id, curve] of Object.entries(found.curves)) curves.set(id, curve);
}

function chosen() {
  const only = $("only").value, text = $("match").value.trim();
  const escaped = text.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
  const pattern = text ? new RegExp(/[*?]/.test(text) ? `^${escaped}$` : escaped) : null;
  return [...runs.values()].filter(run =>
    (!only || run.status === only) && (!pattern || pattern.test(run.label) || pattern.test(run.id)));
}

function scale(values) {
  const known = values.filter(v => v > 0).map(Math.log), low = Math.min(...known), high = Math.max(...known);
  return value => high > low ? (Math.log(value) - low) / (high - low) : 0.5;
}

function range(values, unit) {
  if (!values.length) return "";
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const said = unit === "FLOPs" ? value => value.toExponential(1).replace("e+", "e") : short;
  return low === high ? `${said(low)} ${unit}` : `${said(low)} (dark) to ${said(high)} ${unit} (light)`;
}

function showTotals() {
  document.title = `${Math.floor(100 * sweep.fraction)}% ${sweep.name}`;
  put($("name"), sweep.name);
  const list = $("totals");
  const said = STATES.filter(state => sweep.totals[state]);
  said.forEach((state, i) => {
    let item = list.children[i];
    if (!item) {
      item = document.createElement("li");
      item.append(document.createElement("b"), document.createElement("span"));
      list.append(item);
    }
    put(item.firstChild, String(sweep.totals[state]));
    put(item.lastChild, ` ${state}`);
    item.lastChild.className = `s-${state}`;
  });
  while (list.children.length > said.length) list.lastChild.remove();
  const percent = 100 * sweep.fraction;
  $("fill").style.width = `${percent}%`;
  set($("bar"), { "aria-valuenow": percent.toFixed(0) });
  const hours = Object.entries(sweep.device_hours).map(([kind, value]) =>
    `${short(value)} ${kind === "cpu" ? "CPU hours" : `device hours of ${kind}`}`);
  if (sweep.dollars !== null) hours.push(`$${sweep.dollars.toFixed(2)}`);
  facts($("facts"), [
    ["trained", `${percent.toFixed(1)}% of the FLOPs of ${sweep.count} runs`],
    ["now", sweep.flops_per_second
      ? `${short(sweep.tokens_per_second)} tokens/s, ${sweep.flops_per_second.toExponential(1).replace("e+", "e")} FLOP/s` : "nothing trains"],
    ["spent", hours.join(", ") || "nothing yet"],
    ["left", sweep.seconds_left === null ? "" : `about ${clock(sweep.seconds_left)}`],
  ]);
  const notes = [...sweep.notes];
  if (sweep.others) notes.push(`${sweep.others} other run folder${sweep.others === 1 ? "" : "s"} beside them` +
    (sweep.stale ? `, ${sweep.stale} of them stale: of an older numerics_version` : ""));
  put($("notes"), notes.join("; "));
  $("notes").hidden = !notes.length;
}

function facts(list, pairs) {
  pairs = pairs.filter(([, value]) => value);
  pairs.forEach(([name, value], i) => {
    let item = list.children[i];
    if (!item) {
      item = document.createElement("div");
      item.append(document.createElement("dt"), document.createElement("dd"));
      list.append(item);
    }
    put(item.firstChild, name);
    put(item.lastChild, value);
  });
  while (list.children.length > pairs.length) list.lastChild.remove();
}

function showCurves() {
  const axis = $("axis").value, shown = drawn(), shade = scale([...runs.values()].map(run => run.n));
  const place = run => ([tokens, loss, seconds]) =>
    [axis === "tokens" ? tokens : axis === "flops" ? tokens * run.flops_per_token : seconds, loss];
  const series = shown.filter(run => curves.has(run.id)).map(run => ({
    id: run.id, kind: "line", shade: shade(run.n), css: run.status === "running" ? "live" : "", name: run.label || run.id,
    points: curves.get(run.id).points.map(place(run)).filter(([x]) => x > 0),
  }));
  // A head on what trains, a ring where a loss stopped being a number.
  for (const one of [...series]) {
    const run = runs.get(one.id);
    if (one.css) series.push({ ...one, kind: "dot", points: one.points.slice(-1) });
    else if (run.status === "diverged") series.push({ ...one, kind: "hollow", points: one.points.slice(-1) });
  }
  const span = [];
  for (const run of shown)
    if (axis !== "seconds") span.push(run.planned * (axis === "flops" ? run.flops_per_token : 1));
  lossPlot.xLabel = { tokens: "tokens", flops: "training FLOPs (matmul)", seconds: "seconds of training" }[axis];
  lossPlot.draw(series, "no run has logged a row yet", span);
  const lines = series.filter(one => one.kind === "line").length;
  const begun = chosen().filter(run => run.tokens > 0).length;
  const parts = [`${lines} of ${begun} runs that have begun, nats per token, each point a mean over 1/24 of a decade`];
  if (lines) parts.push(`colour: N, ${range([...runs.values()].map(run => run.n), "parameters")}`);
  parts.push("thick: training now; ring: diverged");
  put($("curves-note"), parts.join("; ") + ".");
}

function showProfiles() {
  const all = chosen(), ended = all.filter(run => run.status === "done" && run.loss > 0);
  const budgets = [...new Set(all.map(run => run.budget).filter(Boolean))].sort((a, b) => a - b);
  const grouped = budgets.length > 0;
  const shade = scale(grouped ? budgets : all.map(run => run.planned));
  const series = sample(ended, DOTS).map(run => ({
    id: run.id, kind: "dot", shade: shade(grouped ? run.budget || budgets[0] : run.planned),
    points: [[run.n, run.loss]], name: `${run.label || run.id}, N ${short(run.n)}`,
  }));
  if (law && law.profiles) for (const profile of law.profiles) {
    if (!budgets.includes(profile.budget)) continue;
    const name = `law so far at ${profile.budget.toExponential(1)} FLOPs`, id = `law ${profile.budget}`;
    series.push({ id, kind: "line", css: "law", shade: shade(profile.budget), points: profile.curve, name });
    if (profile.n && profile.loss)
      series.push({ id, kind: "hollow", shade: shade(profile.budget), points: [[profile.n, profile.loss]],
                    name: `${name}: best N ${short(profile.n)}` });
  }
  sizePlot.draw(series, "no run has ended yet", all.map(run => run.n));
  const colours = grouped ? `budget, ${range(budgets, "FLOPs")}` : `tokens, ${range(all.map(run => run.planned), "tokens")}`;
  const lines = law && law.profiles && law.profiles.length ? "; dashed: the law so far, ring: its best size" : "";
  const part = ended.length > DOTS ? " (not every one is drawn)" : "";
  put($("profiles-note"), `${ended.length} of ${all.length} runs done${part}, validation loss; colour: ${colours}${lines}.`);
}

function showLaw() {
  if (!law) return;
  const waiting = `fitted once ${law.fewest} runs are done, and again as more are: ${law.done} are`;
  const note = { waiting, fitting: `fitting ${law.done} runs`, none: `no law of ${law.runs} runs: ${law.note}`,
    done: `${law.form}, of ${law.rows} runs, 90% intervals of ${law.resamples} resamples` +
      `${law.converged ? "" : "; NOT converged"}; \`scaling fit\` says more.` }[law.state];
  put($("fit-note"), note);
  if (law.state !== "done") return facts($("fit"), []);
  const between = pair => {
    const [low, high] = pair || [null, null];
    if (low === null) return high === null ? " (not determined)" : ` (below ${short(high)})`;
    return high === null ? ` (above ${short(low)})` : ` (${short(low)} to ${short(high)})`;
  };
  const pairs = ["E", "A", "B", "alpha", "beta"].map(name =>
    [name, short(law.parameters[name], 4) + between(law.intervals[name])]);
  const best = law.further;
  pairs.push([`at ${best.flops.toExponential(1)} FLOPs, 10 times the largest run`,
    `N ${short(best.n)}${between(best.n_interval)}, D ${short(best.d)}, loss ${best.loss.toFixed(3)}${between(best.loss_interval)}`]);
  facts($("fit"), pairs);
}

function sorted(found) {
  const rank = run => STATES.indexOf(run.status);
  if (!order.by) return found.map((run, i) => [run, i]).sort((a, b) => rank(a[0]) - rank(b[0]) || a[1] - b[1]).map(p => p[0]);
  const value = run => order.by === "status" ? rank(run) : run[order.by];
  const less = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === y) return 0;
    if (x === null) return 1; // what has no value is last, either way round
    if (y === null) return -1;
    return (x < y ? -1 : 1) * (order.down ? -1 : 1);
  };
  return [...found].sort(less);
}

function cell(run, name) {
  const value = run[name];
  if (name === "remark") return run.error || [run.where, run.remark].filter(Boolean).join(": ");
  if (name === "status") return run.status === "running" ? `running ${(100 * run.share).toFixed(0)}%` + quiet(run) : run.status;
  if (value === null) return "";
  if (name === "loss") return value.toFixed(4);
  if (name === "left") return clock(value);
  return TEXT.has(name) ? value : short(value);
}

function quiet(run) {
  const seconds = run.logged_at ? sweep.time - run.logged_at : 0;
  return seconds > 300 ? `, quiet for ${clock(seconds)}` : "";
}

function showRows() {
  const found = sorted(chosen()), body = $("rows");
  const shown = found.slice(0, SHOWN);
  shown.forEach((run, i) => {
    let row = body.children[i];
    if (!row) {
      row = document.createElement("tr");
      row.tabIndex = 0;
      for (const [, name] of COLUMNS) {
        const box = document.createElement("td");
        box.className = (TEXT.has(name) ? "text" : "") + (name === "id" ? " run" : "") + (name === "remark" ? " remark" : "");
        row.append(box);
      }
      body.append(row);
    }
    row.dataset.id = run.id;
    COLUMNS.forEach(([, name], j) => put(row.children[j], cell(run, name)));
    const state = row.children[8], css = `text s-${run.status}`;
    if (state.className !== css) state.className = css;
  });
  while (body.children.length > shown.length) body.lastChild.remove();
  put($("rows-note"), found.length > SHOWN ? `The first ${SHOWN} of ${found.length} runs; narrow them with the filters.`
    : `${found.length} of ${runs.size} runs.`);
}

function show() {
  if (!sweep) return;
  for (const step of [showTotals, showCurves, showProfiles, showLaw, showRows]) step();
}

function head() {
  for (const [title, name] of COLUMNS) {
    const box = document.createElement("th");
    box.scope = "col";
    box.className = TEXT.has(name) ? "text" : "";
    if (title) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = title;
      button.addEventListener("click", () => {
        order = order.by === name ? (order.down ? { by: null, down: false } : { by: name, down: true }) : { by: name, down: false };
        for (const other of $("columns").children) other.removeAttribute("aria-sort");
        if (order.by) box.setAttribute("aria-sort", order.down ? "descending" : "ascending");
        showRows();
      });
      box.append(button);
    }
    $("columns").append(box);
  }
  for (const state of STATES) $("only").append(new Option(state, state));
}

function pick(id) {
  lossPlot.choose(id);
  sizePlot.choose(id);
}

const lossPlot = new Plot($("curves"), "Training loss of each run, log axes", "tokens", "loss", null);
const sizePlot = new Plot($("profiles"), "Final loss of each run against its parameters, log axes", "N, parameters", "loss", null);
head();
for (const id of ["axis", "only", "match"]) $(id).addEventListener("input", show);
$("filters").addEventListener("submit", event => event.preventDefault());
for (const kind of ["pointerover", "focusin"])
  $("rows").addEventListener(kind, event => pick(event.target.closest("tr").dataset.id));
for (const kind of ["pointerleave", "focusout"]) $("rows").addEventListener(kind, () => pick(null));

// One question after the other, so that a slow answer is never overtaken; slower where nobody looks.
async function follow() {
  let turn = 0, lost = 0;
  for (;;) {
    try {
      await askSweep();
      await askCurves();
      if (turn++ % 4 === 0) law = await ask("api/fit", {});
      lost = 0;
      const asked = new Date().toLocaleTimeString();
      put($("link"), sweep.seconds_left === null && !sweep.totals.running && !sweep.totals.queued
        ? `nothing trains; looked at ${asked}` : `looked at ${asked}`);
      $("link").classList.remove("lost");
      show();
    } catch (error) {
      lost += 1;
      if (lost > 1) {
        put($("link"), "the dashboard's process does not answer: this is what it last said; start `scaling dashboard` again");
        $("link").classList.add("lost");
      }
      if (!(error instanceof TypeError)) console.error(error); // a TypeError is fetch without an answer
    }
    await new Promise(done => setTimeout(done, document.hidden ? 10000 : Math.min(1500 * 2 ** lost, 15000)));
  }
}
follow();
