const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const state = { task: data.task, loss: data.loss, profile: "ratio", heat: "speedup", score: "ratio", order: data.order };
const front = new Map(Object.entries(data.colours)); // contestant -> name of its colour, as long as it is in front
const views = {};

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Charts: rows that share columns, and signals; the colours are the page's variables, so light and dark are CSS.
function show(id, rows, columns = {}, signals = {}) {
  const view = views[id];
  if (!view) return;
  const all = { shown: [...front.keys()], inks: [...front.values()].map((slot) => `var(--${slot})`), ...signals };
  for (const [name, value] of Object.entries(all)) view.signal(name, value);
  view.data("rows", rows.map((row) => ({ ...columns, ...row }))).runAsync();
}

function tip(_, event, item, value) {
  $("tip").hidden = !value;
  if (!value) return;
  $("tip").replaceChildren(...Object.entries(value).map(([name, text]) => make("div", {}, name, make("b", {}, text))));
  const box = $("tip").getBoundingClientRect();
  $("tip").style.left = `${Math.max(4, event.clientX + (event.clientX > innerWidth / 2 ? -box.width - 14 : 14))}px`;
  $("tip").style.top = `${Math.min(event.clientY + 12, innerHeight - box.height - 8)}px`;
}

const embedding = { mode: "vega", renderer: "svg", actions: false, defaultStyle: false, hover: true, tooltip: tip };
await Promise.all(Object.entries(data.charts).filter(([id]) => $(id)).map(async ([id, spec]) => {
  const { view } = await vegaEmbed($(id), spec, embedding);
  views[id] = view;
  view.addEventListener("click", (event, item) => {
    const row = item?.datum?.datum ?? item?.datum;
    if (row?.contestant) openRecord(row.contestant, row.task ?? (["curves", "rates"].includes(id) ? state.task : null));
  });
}));

function draw() {
  const { task, loss, profile, heat, score, order } = state;
  const curves = data.curves[task][loss], rates = data.rates[task], share = data.profiles[profile];
  show("curves", curves.rows, { x: data.curves[task].x }, { low: curves.ends[0], high: curves.ends[1], last: data.curves[task].x.at(-1) });
  const [[left, right], [low, high]] = rates.ends;
  show("rates", rates.rows, { x: rates.tried }, { left, right, low, high });
  show("profile", share.rows, { x: share.x }, { left: share.x[0], right: share.x.at(-1) });
  show("heat", data.heat[heat]);
  show("heat-turned", data.heat[heat]);
  show("cost", data.costs);
  show("standings-chart", data.scores[score].rows, {}, { low: data.scores[score].ends[0], high: data.scores[score].ends[1], order });
  if ($("profile-title")) $("profile-title").textContent = share.title;
  if ($("task-choice")) $("task-choice").value = task;
  if ($("results")) results(task);
  legend();
}

function results(task) {
  const [header, rows] = data.results[task];
  const head = header.map((text, i) => make("th", { class: `c${i}` }, text));
  const body = rows.map((row) =>
    make("tr", { "data-open": row[0], "data-task": task },
      ...row.map((text, i) => make("td", { class: `c${i}` }, i ? text : who(text)))));
  $("results").replaceChildren(make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body));
}

// Who is in colour
const who = (name) => make("button", { type: "button", class: "who", "data-toggle": name }, make("i"), make("span", {}, name));

function legend() {
  const more = make("select", { id: "add", "aria-label": "Put another contestant in colour" }, make("option", { value: "" }, "+ add"));
  more.append(...data.order.filter((name) => !front.has(name)).map((name) => make("option", {}, name)));
  $("legend").replaceChildren(...[...front.keys()].map(who), ...(more.length > 1 ? [more] : []));
  for (const button of document.querySelectorAll("[data-toggle]")) {
    const slot = front.get(button.dataset.toggle);
    button.setAttribute("aria-pressed", slot !== undefined);
    button.firstChild.style.color = `var(--${slot ?? "background"})`;
  }
}

// A colour that is free, else that of whoever has had one longest.
function toggle(name) {
  if (!front.delete(name)) {
    const others = [...front.keys()].filter((other) => other !== data.reference);
    if (name !== data.reference && others.length === data.slots.length) front.delete(others[0]);
    const taken = new Set(front.values());
    front.set(name, name === data.reference ? "reference" : data.slots.find((slot) => !taken.has(slot)));
  }
  draw();
}

// The leaderboard: a heading sorts its rows, and the chart beside them shows what was sorted by.
function sort(heading) {
  const body = $("standings").tBodies[0], column = heading.cellIndex;
  const up = heading.ariaSort ? heading.ariaSort !== "ascending" : "up" in heading.dataset;
  const value = (row) => row.querySelector(`.c${column}`).dataset.value;
  const rows = [...body.rows].filter((row) => row.dataset.open !== undefined);
  const chart = body.querySelector(".chart-cell");
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return (up ? 1 : -1) * (isNaN(x) ? x.localeCompare(y) : x - y);
  });
  body.prepend(...rows);
  rows[0].querySelector("td:nth-child(2)").after(chart);
  for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
  heading.ariaSort = up ? "ascending" : "descending";
  state.score = heading.dataset.score ?? state.score;
  state.order = rows.map((row) => row.dataset.open);
  draw();
}

// What is behind a number
function openRecord(name, task) {
  const record = task && data.records[name]?.[task];
  const facts = record ? record.facts.map((text, i) => [data.facts[i], text]) : data.sums[name];
  $("record-title").textContent = record ? `${name} on ${task}` : name;
  $("record-facts").replaceChildren(...facts.flatMap(([key, text]) => [make("dt", {}, key), make("dd", {}, text)]));
  const others = record ? [] : Object.keys(data.records[name]);
  $("record-tasks").replaceChildren(...others.map((other) => make("button", { type: "button", "data-open": name, "data-task": other }, other)));
  const config = record ? Object.fromEntries(record.config.map((i) => data.settings[i])) : {};
  $("record-config").textContent = record ? JSON.stringify(config, null, 2).replace(/\[[^[\]{}]*\]/g, (list) => list.replace(/\s+/g, " ")) : "";
  $("record-config").hidden = !record;
  if (!$("record").open) $("record").showModal();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-toggle], [data-sort], [data-step], [data-open]");
  if (!target) return;
  const { toggle: name, sort: heading, step, open, task } = target.dataset;
  if (name !== undefined) toggle(name);
  else if (heading !== undefined) sort(target.closest("th"));
  else if (step) choose("task", data.tasks.at((data.tasks.indexOf(state.task) + Number(step)) % data.tasks.length));
  else openRecord(open, task);
});
const choose = (field, value) => draw((state[field] = value));
for (const field of ["task", "loss", "profile", "heat"]) $(`${field}-choice`)?.addEventListener("change", (event) => choose(field, event.target.value));
$("legend").addEventListener("change", (event) => toggle(event.target.value));
$("close").addEventListener("click", () => $("record").close());
$("record").addEventListener("click", (event) => event.target === $("record") && $("record").close());
$("theme").addEventListener("click", () => {
  const root = document.documentElement.dataset;
  const dark = root.theme ? root.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.theme = dark ? "light" : "dark";
});
draw();
