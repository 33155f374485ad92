// The page: what is selected, the tables, the controls, the dialog of a record.

const data = JSON.parse(document.getElementById("data").textContent);
const byName = Object.fromEntries(data.standings.map((one) => [one.name, one]));
const state = {
  slots: Object.fromEntries(data.standings.map((one) => [one.name, one.slot])),
  score: "ratio",
  aggregate: "iqm",
  task: data.counted[0],
  split: data.loss,
  log: true,
  time: false,
  profile: "ratio",
  heat: "speedup",
};
const MANY = data.standings.length > 16; // rows stand closer
const $ = (id) => document.getElementById(id);

function set(change) {
  Object.assign(state, change);
  draw();
}

// A colour that is free, else one that is taken, dashed.
function toggle(name) {
  const taken = new Set(Object.values(state.slots));
  const free = () => {
    for (let round = 0; ; round++) for (const k of [1, 2, 3, 4, 5, 0]) if (!taken.has(6 * round + k)) return 6 * round + k;
  };
  const own = name === data.reference ? -1 : free();
  set({ slots: { ...state.slots, [name]: isShown(name) ? null : own } });
}

// Buttons of which one is pressed: [[value, text], …] for one field of the state.
function choice(field, options, label) {
  const group = document.createElement("div");
  group.className = "group";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", label);
  for (const [value, text] of options) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.choice = `${field}:${value}`;
    button.addEventListener("click", () => set({ [field]: value }));
    group.append(button);
  }
  updates.push(() => {
    [...group.children].forEach((button, i) => button.setAttribute("aria-pressed", options[i][0] === state[field]));
  });
  return group;
}

const updates = [];
const SCORE_NAMES = Object.entries(SCORES).map(([kind, { name }]) => [kind, name]);

function controls() {
  $("leaderboard-controls").append(
    choice("score", SCORE_NAMES, "Score"),
    choice("aggregate", [["iqm", "IQM"], ["median", "Median"], ["mean", "Mean"]], "Aggregate"),
  );
  const select = document.createElement("select");
  select.setAttribute("aria-label", "Task");
  select.id = "task-select";
  for (const task of data.tasks) select.append(new Option(task, task));
  select.addEventListener("change", () => set({ task: select.value }));
  updates.push(() => (select.value = state.task));
  const step = (by, text, label) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => {
      const count = data.tasks.length;
      set({ task: data.tasks[(data.tasks.indexOf(state.task) + by + count) % count] });
    });
    return button;
  };
  $("task-controls").append(
    step(-1, "←", "Previous task"),
    select,
    step(1, "→", "Next task"),
    choice("split", [["train", "Training"], ["valid", "Validation"]], "Loss"),
    choice("log", [[true, "Log"], [false, "Linear"]], "Scale of the loss"),
    choice("time", [[false, "Steps"], [true, "Time"]], "Horizontal axis"),
  );
  $("profiles-controls").append(choice("profile", [...SCORE_NAMES, ["target", "Target"], ["target_clock", "Target in time"]], "Profile of"));
  $("tasks-controls").append(choice("heat", SCORE_NAMES, "Score"));
}

function who(one) {
  const label = `<span class="swatch"></span><span>${esc(one.name)}</span>`;
  return `<button type="button" class="who" data-toggle="${esc(one.name)}" aria-pressed="${isShown(one.name)}" title="colour in all figures" style="color:${inkOf(one.name)}">${label}</button>`;
}

const number = (one, text) => `<button type="button" class="number" data-sum="${esc(one.name)}">${text}</button>`;
const interval = ([value, low, high]) => `${short2(value)}${isNumber(low) && isNumber(high) ? ` <small>${short2(low)}–${short2(high)}</small>` : ""}`;
const short2 = (x) => (isNumber(x) && Math.abs(x) < 100 ? x.toFixed(2) : short(x));

// One row's dot and interval on the scale that all rows share, Adam's 1 marked.
function whisker([value, low, high], name, domain) {
  const at = (x) => Math.min(98, (100 * (x - domain[0])) / (domain[1] - domain[0]));
  const height = MANY ? 28 : 40;
  const middle = height / 2;
  const colour = isShown(name) ? inkOf(name) : "var(--back)";
  let text = `<line x1="${at(1)}%" x2="${at(1)}%" y1="0" y2="${height}" style="stroke:var(--soft)" stroke-dasharray="3 4" stroke-opacity=".6"/>`;
  if (isNumber(low) && isNumber(high)) text += `<line x1="${at(low)}%" x2="${at(high)}%" y1="${middle}" y2="${middle}" style="stroke:${colour}" stroke-width="8" stroke-opacity=".35" stroke-linecap="round"/>`;
  if (isNumber(value)) text += `<circle cx="${at(value)}%" cy="${middle}" r="6" style="fill:${colour}"/>`;
  return `<svg width="100%" height="${height}" aria-hidden="true">${text}</svg>`;
}

function standingsTable() {
  const key = `${state.score}_${state.aggregate}`;
  const order = [...data.standings].sort((a, b) => (b.scores[key][0] ?? -1) - (a.scores[key][0] ?? -1));
  const values = order.flatMap((one) => one.scores[key]).filter(isNumber);
  const [low, high] = [Math.min(0.9, ...values), Math.min(5, Math.max(1.1, ...values))]; // beyond stands at the edge
  const domain = [low - 0.06 * (high - low), high + 0.06 * (high - low)];
  const head = `<thead><tr><th class="rare">#</th><th class="name">contestant</th><th class="name wide">${esc(SCORES[state.score].more.replaceAll("the reference", data.reference))}</th>
    <th>${SCORES[state.score].name}</th><th class="spare" title="probability that a run ends lower than one of ${esc(data.reference)}'s">P(better)</th><th class="spare">mean rank</th>
    <th class="spare" title="AlgoPerf's, ${esc(data.reference)}'s final loss as target">target score</th><th class="rare">step cost</th><th class="rare">diverged</th></tr></thead>`;
  const rows = order.map((one, i) => `<tr><td class="rare">${i + 1}</td><td class="name${one.learned ? " learned" : ""}">${who(one)}</td>
    <td class="wide">${whisker(one.scores[key], one.name, domain)}</td><td>${number(one, interval(one.scores[key]))}</td>
    <td class="spare">${interval(one.scores.improvement)}</td><td class="spare">${interval(one.scores.rank)}</td><td class="spare">${interval(one.scores.algoperf)}</td>
    <td class="rare">${isNumber(one.cost) ? `${short2(one.cost)}×` : "–"}</td><td class="rare">${one.diverged ? `${one.diverged} of ${one.runs}` : "–"}</td></tr>`);
  $("standings").innerHTML = `${head}<tbody>${rows.join("")}</tbody>`;
  const lacking = data.standings.flatMap((one) => {
    const missing = data.tasks.filter((task) => !one.entries[task]);
    return missing.length ? [`${one.name} has no record on ${missing.join(", ")}.`] : [];
  });
  const aside = Object.entries(data.setAside).map(([task, why]) => `${task} is set aside: ${why}.`);
  $("standings-note").textContent = ["A name's circle puts it in colour everywhere, or behind. Dot: the score, dashes: the reference; band and small numbers: 95% interval.", ...lacking, ...aside].join(" ");
}

function resultsTable() {
  const finalsOf = (one) => one.entries[state.task][data.loss].map((seed) => seed.at(-1));
  const lowness = (one) => (finalsOf(one).every(isNumber) ? mean(finalsOf(one)) : Infinity);
  const here = data.standings.filter((one) => one.entries[state.task]).sort((a, b) => lowness(a) - lowness(b) || 0);
  const rows = here.map((one) => {
    const entry = one.entries[state.task];
    const finals = finalsOf(one);
    const bad = finals.filter((x) => !isNumber(x)).length;
    const score = (kind) => scoreText(kind, entry[kind]);
    return `<tr><td class="name${one.learned ? " learned" : ""}">${who(one)}</td><td>${rateText(entry.rate)}</td>
      <td>${bad ? `diverged <small>${bad} of ${finals.length}</small>` : short(mean(finals))}</td><td>${score("ratio")}</td><td class="rare">${score("speedup")}</td>
      <td class="rare">${score("clock")}</td><td class="rare">${duration(entry.seconds)}</td><td><button type="button" class="link" data-open="${esc(one.name)}" aria-label="Record of ${esc(one.name)} on ${esc(state.task)}">record</button></td></tr>`;
  });
  $("results").innerHTML = `<thead><tr><th class="name">contestant</th><th>rate</th><th>final loss</th><th>loss ratio</th><th class="rare">speedup</th><th class="rare">in time</th><th class="rare">a step</th><th></th></tr></thead><tbody>${rows.join("")}</tbody>`;
}

function scoreText(kind, values) {
  if (values.some((x) => x === null)) return "–";
  return !kind.startsWith("ratio") && mean(values) === 0 ? "never" : short2(mean(values));
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds >= 1) return `${short(seconds)} s`;
  return seconds >= 1e-3 ? `${short(seconds * 1e3)} ms` : `${Math.round(seconds * 1e6)} µs`;
}

// Orange is faster or lower, blue slower or higher; twice as good is as far from level as half as good.
function shade(value) {
  const far = Math.max(-1, Math.min(1, Math.log2(Math.max(value, 1e-3)) / 2));
  return `color-mix(in oklab, var(--${far > 0 ? "line0" : "line1"}) ${Math.round(58 * Math.abs(far))}%, var(--paper))`;
}

function heatTable() {
  const head = data.tasks.map((task) => {
    const aside = data.counted.includes(task) ? "" : ' class="aside"';
    return `<th scope="col"${aside}><button type="button" class="link" data-go="${esc(task)}">${esc(task)}</button></th>`;
  });
  const rows = data.standings.map((one) => {
    const cells = data.tasks.map((task) => {
      const entry = one.entries[task];
      if (!entry || entry[state.heat].some((x) => x === null)) return "<td><span>–</span></td>";
      const value = mean(entry[state.heat]);
      const bad = entry.train.some((seed) => !isNumber(seed.at(-1)));
      const text = scoreText(state.heat, entry[state.heat]);
      return `<td><button type="button" data-open="${esc(one.name)}" data-task="${esc(task)}" style="background:${shade(value)}" aria-label="${esc(one.name)} on ${esc(task)}: ${text}${bad ? ", some seeds diverged" : ""}">${text}${bad ? " ×" : ""}</button></td>`;
    });
    return `<tr><th scope="row"${one.learned ? ' class="learned"' : ""}>${who(one)}</th>${cells.join("")}</tr>`;
  });
  $("heat").innerHTML = `<thead><tr><th></th>${head.join("")}</tr></thead><tbody>${rows.join("")}</tbody>`;
  $("heat-note").textContent = `Means over seeds beside ${data.reference}: orange is better, blue worse; × marks cells in which a seed diverged. A cell opens its record, a task's name its curves.`;
}

function divergedList() {
  const rows = data.standings.flatMap((one) =>
    Object.entries(one.entries).flatMap(([task, entry]) => {
      const seeds = entry.train.map((seed, i) => [entry.seeds[i], seed.findIndex((y) => !isNumber(y))]).filter(([, i]) => i >= 0);
      if (!seeds.length) return [];
      const where = seeds.map(([seed, i]) => `seed ${esc(seed)} by step ${data.steps[task][i].toLocaleString("en")}`).join(", ");
      return [`<tr><td class="name">${who(one)}</td><td class="name">${esc(task)}</td><td>${rateText(entry.rate)}</td><td class="name">${where}</td><td><button type="button" class="link" data-open="${esc(one.name)}" data-task="${esc(task)}">record</button></td></tr>`];
    }),
  );
  const reported = rows.length
    ? `<div class="scroll"><table><thead><tr><th class="name">contestant</th><th class="name">task</th><th>rate</th><th class="name">not finite from</th><th></th></tr></thead><tbody>${rows.join("")}</tbody></table></div>`
    : '<p class="prose">None of the reported runs.</p>';
  $("losses").innerHTML = reported + lostTrials();
}

// Runs of tuning that diverged, by contestant: how many, and from which learning rate on.
function lostTrials() {
  const rows = data.standings.flatMap((one) => {
    const entries = Object.values(one.entries).filter((entry) => entry.rates.length);
    const tried = entries.flatMap((entry) => entry.rungLosses.flatMap((rung) => rung.map((loss, i) => [entry.rates[i], loss])));
    const run = tried.filter(([, loss]) => loss !== null);
    const lost = run.filter(([, loss]) => !isNumber(loss)).map(([rate]) => rate);
    if (!lost.length) return [];
    return [`<tr><td class="name">${who(one)}</td><td>${lost.length} of ${run.length}</td><td>${rateText(Math.min(...lost))}</td></tr>`];
  });
  if (!rows.length) return '<p class="prose">None of the runs of tuning.</p>';
  return `<p class="note">Runs of tuning that diverged, and the lowest learning rate of one</p><div class="scroll"><table class="narrow" id="lost-trials"><thead><tr><th class="name">contestant</th><th>diverged</th><th>lowest rate</th></tr></thead><tbody>${rows.join("")}</tbody></table></div>`;
}

function captions() {
  const ref = data.reference;
  $("curves-caption").textContent = `${state.split === "train" ? "Training" : "Validation"} loss, smoothed: each seed thin, their mean bold, × where a seed diverged`;
  const tuned = data.standings.map((one) => one.entries[state.task]).find((entry) => entry && entry.rates.length);
  const rungs = tuned ? tuned.rungSteps.map((steps) => steps.toLocaleString("en")) : [];
  $("rates-caption").textContent = rungs.length > 1
    ? `Loss by learning rate: every rate after ${rungs[0]} steps (thin), the best after ${rungs.at(-1)} (dots, the chosen one open); level: nothing to tune`
    : "Loss by learning rate; level: nothing to tune";
  $("profile-caption").textContent = `Share of ${PROFILES[state.profile].what.replace("the reference", ref)} Higher is better; bands are 95% intervals`;
  $("clock-caption").textContent = `Speedup in steps (IQM, 95% interval) against what a step costs. Batch and gradient included, one run alone`;
}

function openRecord(name, task) {
  const entry = byName[name].entries[task];
  const list = (xs) => xs.map(short).join(", ");
  const facts = {
    "learning rate": rateText(entry.rate),
    seeds: entry.seeds.join(", "),
    "final training loss": list(entry.train.map((seed) => seed.at(-1))),
    "final validation loss": list(entry.valid.map((seed) => seed.at(-1))),
    "loss ratio": list(entry.ratio),
    "ratio in time": list(entry.ratio_clock),
    speedup: list(entry.speedup),
    "a step": `${duration(entry.seconds)}, Adam's beside it ${duration(entry.adamSeconds)}`,
    "rates tried": entry.rates.map(rateText).join(", ") || "none",
  };
  const config = JSON.stringify(entry.config, null, 2).replace(/\[[^[\]{}]*\]/g, (flat) => flat.replace(/\s+/g, " "));
  $("record-title").textContent = `${name} on ${task}`;
  const rows = Object.entries(facts).map(([key, value]) => `<dt>${key}</dt><dd>${esc(value)}</dd>`);
  $("record-body").innerHTML = `<dl>${rows.join("")}</dl><pre tabindex="0">${esc(config)}</pre>`;
  if (!$("record").open) $("record").showModal();
}

function openSum(name) {
  const one = byName[name];
  const facts = Object.entries(AGGREGATES).map(([key, label]) => `<dt>${label}</dt><dd>${interval(one.scores[key])}</dd>`);
  const chips = Object.keys(one.entries).map((task) => `<button type="button" data-open="${esc(name)}" data-task="${esc(task)}">${esc(task)}</button>`);
  $("record-title").textContent = name;
  $("record-body").innerHTML = `<dl>${facts.join("")}<dt>counted tasks</dt><dd>${esc(one.counted.join(", "))}</dd></dl>
    <p class="note">Records</p><div class="chips">${chips.join("")}</div>`;
  if (!$("record").open) $("record").showModal();
}

const AGGREGATES = {
  ratio_iqm: "loss ratio, IQM",
  ratio_median: "loss ratio, median",
  ratio_mean: "loss ratio, mean",
  ratio_gap: "loss ratio, gap to 1",
  ratio_clock_iqm: "ratio in time, IQM",
  ratio_clock_median: "ratio in time, median",
  ratio_clock_mean: "ratio in time, mean",
  ratio_gap_clock: "ratio in time, gap to 1",
  speedup_iqm: "speedup, IQM",
  speedup_median: "speedup, median",
  speedup_mean: "speedup, mean",
  clock_iqm: "speedup in time, IQM",
  clock_median: "speedup in time, median",
  clock_mean: "speedup in time, mean",
  improvement: "P(better)",
  improvement_clock: "P(better) in time",
  rank: "mean rank",
  rank_clock: "mean rank in time",
  algoperf: "target score",
  algoperf_clock: "target score in time",
};

function draw() {
  const focus = document.activeElement?.dataset ?? {};
  const again = ["toggle", "open", "go"].find((key) => focus[key]);
  const section = document.activeElement?.closest("section");
  updates.forEach((update) => update());
  captions();
  standingsTable();
  resultsTable();
  heatTable();
  divergedList();
  figures.forEach(paint);
  // A table that was drawn again has lost the focus of the button that was pressed in it.
  if (again) section?.querySelector(`[data-${again}="${CSS.escape(focus[again])}"]`)?.focus();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-toggle], [data-open], [data-sum], [data-go]");
  if (!target) return;
  const { toggle: name, open, sum, task, go } = target.dataset;
  if (name) toggle(name);
  else if (open) openRecord(open, task ?? state.task);
  else if (sum) openSum(sum);
  else if (go) {
    set({ task: go });
    $("task").scrollIntoView();
    $("task-select").focus({ preventScroll: true });
  }
});
$("close").addEventListener("click", () => $("record").close());
$("record").addEventListener("click", (event) => event.target === $("record") && $("record").close());
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

$("summary").textContent = `${data.standings.length} contestants beside ${data.reference} on ${data.counted.length} tasks; ${data.standings.reduce((sum, one) => sum + one.runs, 0)} runs, ${data.standings.reduce((sum, one) => sum + one.diverged, 0)} of them diverged.`;
document.body.classList.toggle("many", MANY);
controls();
const plots = { curves: curvesFigure, rates: ratesFigure, profile: profileFigure, cost: costFigure };
for (const [id, make] of Object.entries(plots)) figure(id, make);
figures.filter(({ host }) => ["curves", "profile"].includes(host.id)).forEach(probe);
draw();
