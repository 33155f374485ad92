// The figures: curves, learning rates, profiles, cost. Whoever is selected is in colour, the others in grey behind.

const SCORES = {
  ratio: { name: "Loss ratio", more: "final loss of the reference / one's own" },
  ratio_clock: { name: "Ratio in time", more: "final loss of the reference / one's own by the time it takes" },
  speedup: { name: "Speedup", more: "all steps / steps until the reference's final loss" },
  clock: { name: "Speedup in time", more: "each step charged what it takes" },
};

// Grey first, then the colours, the best last and so on top.
function layers() {
  const order = [...data.standings].reverse();
  return [...order.filter((one) => !isShown(one.name)), ...order.filter((one) => isShown(one.name))];
}

function inkOf(name, kind = "line") {
  const slot = state.slots[name];
  if (slot === null || slot === undefined) return kind === "type" ? "var(--soft)" : "var(--back)";
  return `var(--${kind}${slot < 0 ? "-reference" : slot % 6})`;
}

const isShown = (name) => state.slots[name] !== null && state.slots[name] !== undefined;
const dashOf = (name) => (state.slots[name] > 5 ? ` stroke-dasharray="${state.slots[name] > 11 ? "2 5" : "7 5"}"` : "");

function line(name, d, width, opacity = 1) {
  const stroke = `style="stroke:${inkOf(name)}" stroke-width="${width}" stroke-opacity="${opacity}"${dashOf(name)}`;
  return d ? `<path class="series" d="${d}" ${stroke}/>` : "";
}

// A record of the task at hand, or the sum of all.
const RECORD = "data-open";
const SUM = "data-sum";
const hit = (name, d, opens) => (d ? `<path class="hit" d="${d}" ${opens}="${esc(name)}"><title>${esc(name)}</title></path>` : "");
const cross = (x, y, name) =>
  `<path d="M${x - 4} ${y - 4}l8 8m0-8l-8 8" style="stroke:${inkOf(name)}" stroke-width="2" fill="none"><title>${esc(name)} diverged</title></path>`;

const tall = () => (innerWidth < 640 ? 330 : 440);

function extent(values, log) {
  const usable = values.filter((x) => isNumber(x) && (!log || x > 0));
  if (!usable.length) return log ? [0.1, 1] : [0, 1];
  const [low, high] = [Math.min(...usable), Math.max(...usable)];
  if (log) return [low / 1.08, low === high ? high * 2 : high * 1.08];
  return [low - 0.04 * (high - low), high + 0.04 * (high - low || 1)];
}

// Across seeds at each evaluation; where one seed is missing, so is the mean.
function across(seeds, how) {
  return seeds[0].map((_, i) => {
    const values = seeds.map((seed) => seed[i]);
    return values.every(isNumber) ? how(values) : null;
  });
}

function curvesFigure() {
  const { task, split, log, time } = state;
  const here = layers().filter((one) => one.entries[task]);
  const stepsOf = (entry) => data.steps[task].map((step) => (time ? step * (entry.cost ?? 1) : step));
  const all = here.flatMap((one) => one.entries[task][split].flat());
  const start = mean(here.map((one) => one.entries[task][split][0][0]).filter(isNumber));
  const domain = extent(all.filter((x) => x <= 1.5 * start), log);
  const clipped = (ys) => ys.map((y) => (isNumber(y) && y > domain[1] ? domain[1] : y));
  const lines = here.map((one) => {
    const seeds = one.entries[task][split];
    return { name: one.name, xs: stepsOf(one.entries[task]), seeds, mean: across(seeds, mean) };
  });
  const ends = lines
    .filter(({ name }) => isShown(name))
    .map(({ name, mean }) => ({ name, at: clipped(mean).filter(isNumber).at(-1) }))
    .filter((end) => isNumber(end.at));
  const right = Math.max(...lines.map(({ xs }) => xs.at(-1)));
  const marks = (X, Y) => {
    let text = "";
    for (const { name, xs, seeds, mean } of lines) {
      const shown = isShown(name);
      if (shown) for (const seed of seeds) text += line(name, path(xs, clipped(seed), X, Y), 0.9, 0.45);
      text += line(name, path(xs, clipped(mean), X, Y), shown ? 2.2 : 1);
      for (const seed of seeds) {
        const last = seed.findIndex((y) => !isNumber(y)) - 1;
        if (last >= 0) text += cross(X(xs[last]), Y(clipped(seed)[last]), name);
      }
    }
    return text + lines.map(({ name, xs, mean }) => hit(name, path(xs, clipped(mean), X, Y), RECORD)).join("");
  };
  return {
    height: tall(),
    x: { domain: [0, right], title: time ? `time, in steps of ${data.reference}` : "step" },
    y: { domain, log },
    ends,
    marks,
    opens: RECORD,
    lines,
    say: `${split === "train" ? "Training" : "Validation"} loss on ${task} against ${time ? "time" : "steps"}, ${lines.length} contestants; the table below has the numbers`,
  };
}

function ratesFigure() {
  const here = layers().filter((one) => one.entries[state.task]);
  const tuned = here.filter((one) => one.entries[state.task].rates.length);
  const level = here.filter((one) => !one.entries[state.task].rates.length);
  const final = (one) => mean(one.entries[state.task].train.map((seed) => seed.at(-1) ?? NaN));
  const losses = tuned.flatMap((one) => one.entries[state.task].rungLosses.flat());
  const values = [...losses, ...level.map(final)];
  const domain = extent(values, state.log);
  const rates = tuned.flatMap((one) => one.entries[state.task].rates);
  const span = rates.length ? [Math.min(...rates) / 1.6, Math.max(...rates) * 1.6] : [1e-4, 1];
  const marks = (X, Y, box) => {
    let text = "";
    for (const one of here) {
      const entry = one.entries[state.task];
      const width = isShown(one.name) ? 2 : 1;
      if (!entry.rates.length) {
        if (isNumber(final(one))) text += line(one.name, `M${box.left} ${Y(final(one))}H${box.right}`, width + 0.5);
        continue;
      }
      entry.rungLosses.forEach((rung, i) => {
        const last = i === entry.rungLosses.length - 1;
        const tried = rung.map((y, k) => [entry.rates[k], y]).filter(([, y]) => y !== null);
        const d = path(tried.map(([x]) => x), tried.map(([, y]) => y), X, Y);
        text += line(one.name, d, last ? width : width - 0.6, last ? 1 : 0.75) + hit(one.name, d, RECORD);
        for (const [x, y] of tried) {
          if (!isNumber(y)) {
            if (isShown(one.name)) text += cross(X(x), box.top, one.name);
          } else if (last) {
            const chosen = x === entry.rate;
            text += `<circle cx="${X(x)}" cy="${Y(y)}" r="${chosen ? 5 : 3}" style="fill:${chosen ? "var(--paper)" : inkOf(one.name)};stroke:${inkOf(one.name)}" stroke-width="2"/>`;
          }
        }
      });
    }
    return text;
  };
  return {
    height: tall(),
    x: { domain: span, log: true, title: "learning rate", format: rateText },
    y: { domain, log: state.log },
    ends: level.filter((one) => isShown(one.name) && isNumber(final(one))).map((one) => ({ name: one.name, at: final(one) })),
    marks,
    opens: RECORD,
    say: `Training loss on ${state.task} against learning rate`,
  };
}

function profileFigure() {
  const kind = state.profile;
  const taus = data.taus[kind];
  const order = layers();
  const marks = (X, Y, box) => {
    let text = "";
    if (kind !== "target") text += `<line class="level" x1="${X(1)}" x2="${X(1)}" y1="${box.top}" y2="${box.bottom}"/>`;
    for (const { name, profiles } of order) {
      const [value, low, high] = profiles[kind];
      const shown = isShown(name);
      if (shown) text += `<path d="${band(taus, low, high, X, Y)}" style="fill:${inkOf(name)}" fill-opacity=".09"/>`;
      text += line(name, path(taus, value, X, Y), shown ? 2.2 : 1);
    }
    return text + order.map(({ name, profiles }) => hit(name, path(taus, profiles[kind][0], X, Y), SUM)).join("");
  };
  return {
    height: tall(),
    x: { domain: [taus[0], taus.at(-1)], title: PROFILES[kind].axis, format: (x) => (kind === "target" ? `${short(x)}×` : short(x)) },
    y: { domain: [0, 1.02], format: (y) => `${Math.round(100 * y)}%` },
    ends: order.filter(({ name }) => isShown(name)).map(({ name, profiles }) => ({ name, at: profiles[kind][0].at(-1) ?? 0 })),
    lines: order.map(({ name, profiles }) => ({ name, xs: taus, mean: profiles[kind][0] })),
    percent: true,
    marks,
    opens: SUM,
    say: `Performance profiles: ${PROFILES[kind].what}`,
  };
}

const PROFILES = {
  ratio: { what: "runs whose loss ratio is at least …", axis: "final-loss ratio" },
  ratio_clock: { what: "runs whose loss ratio in time is at least …", axis: "loss ratio in time" },
  speedup: { what: "runs whose speedup is at least …", axis: "speedup in steps" },
  clock: { what: "runs whose speedup in time is at least …", axis: "speedup in time" },
  target: { what: "tasks on which the reference's final loss is reached within … of the shortest number of steps", axis: "multiple of the fewest steps" },
  target_clock: { what: "tasks on which the reference's final loss is reached within … of the shortest time", axis: "multiple of the shortest time" },
};

function costFigure() {
  const points = layers()
    .map((one) => ({ ...one, gain: one.scores.speedup_iqm }))
    .filter((one) => isNumber(one.cost) && isNumber(one.gain[0]));
  const costs = points.map((one) => one.cost);
  const [low, high] = costs.length ? [Math.min(...costs), Math.max(...costs)] : [1, 1];
  const x = [Math.max(0, low - 0.15 * (high - low || 1)), high + 0.15 * (high - low || 1)];
  const top = Math.max(1.2, x[1], ...points.map((one) => (isNumber(one.gain[2]) ? one.gain[2] : one.gain[0])));
  const marks = (X, Y, box) => {
    let text = `<line class="level" x1="${X(x[0])}" y1="${Y(x[0])}" x2="${X(x[1])}" y2="${Y(x[1])}"/>`;
    text += `<text x="${box.right - 4}" y="${Y(0) - 10}" text-anchor="end">above the line: faster in time than ${esc(data.reference)}</text>`;
    for (const { name, cost, gain } of points) {
      const [value, from, to] = gain;
      if (isNumber(from) && isNumber(to)) text += line(name, `M${X(cost)} ${Y(from)}V${Y(to)}`, 5, 0.35);
      text += `<circle class="dot" ${SUM}="${esc(name)}" cx="${X(cost)}" cy="${Y(value)}" r="6" style="fill:${inkOf(name)}"><title>${esc(name)}: ${short(value)} at ${short(cost)}×</title></circle>`;
    }
    // Names beside their points where there is room; those in colour come first and have one in any case.
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = "550 12px system-ui, sans-serif"; // as .plot .end
    const taken = points.map(({ cost, gain }) => [X(cost) - 6, X(cost) + 6, Y(gain[0]) - 6, Y(gain[0]) + 6]);
    taken.push([box.right - 290, box.right, Y(0) - 22, Y(0) - 6]);
    const free = (a) => a[0] >= box.left && a[1] <= box.right && a[3] <= Y(0) + 6 && taken.every((b) => a[1] < b[0] || a[0] > b[1] || a[3] < b[2] || a[2] > b[3]);
    for (const { name, cost, gain } of [...points].reverse()) {
      const width = 3 + pen.measureText(name).width;
      const places = [0, -14, 14, -28, 28, -42, 42, -56, 56].flatMap((down) => [1, -1].map((side) => ({ side, y: Y(gain[0]) + down })));
      const reach = ({ side, y }) => [X(cost) + 10 * side, X(cost) + (10 + width) * side].sort((a, b) => a - b).concat(y - 6, y + 6);
      const place = places.find((one) => free(reach(one))) ?? (isShown(name) ? places[0] : null);
      if (!place) continue;
      taken.push(reach(place));
      text += `<text class="end" ${SUM}="${esc(name)}" x="${X(cost) + 11 * place.side}" y="${place.y}" dy=".35em" text-anchor="${place.side < 0 ? "end" : "start"}" style="fill:${inkOf(name, "type")}">${esc(name)}</text>`;
    }
    return text;
  };
  return {
    height: tall(),
    x: { domain: x, title: `time of a step, in steps of ${data.reference} (median task)`, format: (v) => `${short(v)}×` },
    y: { domain: [0, top * 1.05] },
    ends: [],
    marks,
    opens: SUM,
    say: "What a step costs against the speedup in steps",
  };
}

// The values under the pointer, or under a cursor moved with the arrow keys.
function probe(one) {
  const { host } = one;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  host.tabIndex = 0;
  let at = null;
  const hide = () => {
    at = null;
    tip.hidden = true;
    const mark = host.querySelector(".probe");
    if (mark) mark.innerHTML = "";
  };
  const show = (pixel) => {
    const { X, box } = one.drawn;
    at = Math.min(box.right, Math.max(box.left, pixel));
    const x = X.invert(at);
    const rows = one.spec.lines
      .filter(({ name }) => isShown(name))
      .map(({ name, xs, mean }) => {
        let nearest = 0;
        xs.forEach((other, i) => Math.abs(other - x) < Math.abs(xs[nearest] - x) && (nearest = i));
        return { name, y: mean[nearest] };
      })
      .sort((a, b) => (one.spec.percent ? b.y - a.y : (a.y ?? Infinity) - (b.y ?? Infinity)));
    host.querySelector(".probe").innerHTML = `<line class="cursor" x1="${at}" x2="${at}" y1="${box.top}" y2="${box.bottom}"/>`;
    const value = (y) => (one.spec.percent ? `${Math.round(100 * y)}%` : y === null ? "diverged" : short(y));
    const lines = rows.map(({ name, y }) => `<div><span style="color:${inkOf(name, "type")}">${esc(name)}</span><b>${value(y)}</b></div>`);
    const text = one.spec.percent ? short(x) : Math.round(x).toLocaleString("en");
    tip.innerHTML = `<div>${esc(one.spec.x.title)}<b>${text}</b></div>${lines.join("")}`;
    if (tip.parentNode !== host) host.append(tip);
    tip.hidden = false;
    const space = at > (box.left + box.right) / 2;
    tip.style.left = space ? `${Math.max(0, at - tip.offsetWidth - 12)}px` : `${at + 12}px`;
    tip.style.top = `${box.top}px`;
  };
  host.addEventListener("pointermove", (event) => show(event.clientX - host.getBoundingClientRect().left));
  host.addEventListener("pointerleave", hide);
  host.addEventListener("blur", hide);
  host.addEventListener("keydown", (event) => {
    const { box } = one.drawn;
    const step = (box.right - box.left) / 50;
    if (event.key === "ArrowRight") show((at ?? box.left - step) + step);
    else if (event.key === "ArrowLeft") show((at ?? box.right + step) - step);
    else if (event.key === "Escape") return hide();
    else return;
    event.preventDefault();
  });
}
