// Drawing: scales, axes, lines and labels as SVG text. A figure is drawn again when its width changes.

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const esc = (text) => String(text).replace(/[&<>"]/g, (c) => escapes[c]);
const isNumber = (x) => typeof x === "number" && Math.abs(x) < 1e300; // null: not a number; 1e308: infinite
const mean = (xs) => xs.reduce((sum, x) => sum + x, 0) / xs.length;

function short(x) {
  if (x === null || x === undefined) return "–";
  if (!isNumber(x)) return "∞";
  const size = Math.abs(x);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return x.toExponential(1).replace("e+", "e").replace(".0e", "e");
  return String(Number(x.toPrecision(size >= 100 ? 4 : 3)));
}

function rateText(rate) {
  return rate === null ? "untuned" : rate.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

function scale([low, high], [from, to], log) {
  const bend = log ? (x) => Math.log(Math.max(x, low)) : (x) => x; // zero stands at the bottom
  const back = log ? Math.exp : (x) => x;
  const span = bend(high) - bend(low) || 1;
  const map = (x) => from + ((bend(x) - bend(low)) / span) * (to - from);
  map.invert = (pixel) => back(bend(low) + ((pixel - from) / (to - from)) * span);
  map.ticks = (count) => (log ? logTicks(low, high, count) : linearTicks(low, high, count));
  return map;
}

function linearTicks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  const digits = decades < count / 3 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / count));
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    if (e % every) continue;
    for (const digit of digits) {
      const tick = Number(`${digit}e${e}`);
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  return ticks.length > 1 ? ticks : linearTicks(low, high, count);
}

// Neighbours nearer than `gap` push each other apart, between `low` and `high`.
function spread(places, gap, low, high) {
  const order = places.map((_, i) => i).sort((a, b) => places[a] - places[b]);
  const placed = order.map((i) => Math.min(high, Math.max(low, places[i])));
  for (let round = 0; round < 300; round++) {
    let moved = 0;
    for (let i = 1; i < placed.length; i++) {
      const push = (gap - (placed[i] - placed[i - 1])) / 2;
      if (push > 0.05) {
        placed[i - 1] -= push;
        placed[i] += push;
        moved = 1;
      }
    }
    for (let i = 0; i < placed.length; i++) placed[i] = Math.min(high, Math.max(low, placed[i]));
    if (!moved) break;
  }
  const result = [];
  order.forEach((index, i) => (result[index] = placed[i]));
  return result;
}

// A path through the points that are numbers, broken where one is not.
function path(xs, ys, X, Y) {
  let text = "";
  let pen = "M";
  ys.forEach((y, i) => {
    if (!isNumber(y)) return void (pen = "M");
    text += `${pen}${X(xs[i]).toFixed(1)} ${Y(y).toFixed(1)}`;
    pen = "L";
  });
  return text;
}

function band(xs, lows, highs, X, Y) {
  const there = path(xs, highs, X, Y);
  const back = path([...xs].reverse(), [...lows].reverse(), X, Y).replace("M", "L");
  return there && back ? `${there}${back}Z` : "";
}

// Axes, grid, marks and end labels: {x, y: {domain, log, title, format}, height, marks(X, Y), ends: [{at, name}], opens, say}
function drawing(spec, width) {
  const longest = Math.max(0, ...spec.ends.map((end) => end.name.length));
  const margin = { left: 46, right: spec.ends.length ? 16 + 6.9 * longest : 12, top: 12, bottom: 42 };
  const right = Math.max(margin.left + 60, width - margin.right);
  const bottom = spec.height - margin.bottom;
  const X = scale(spec.x.domain, [margin.left, right], spec.x.log);
  const Y = scale(spec.y.domain, [bottom, margin.top], spec.y.log);
  const xTicks = X.ticks(Math.max(2, Math.floor((right - margin.left) / 80)));
  const yTicks = Y.ticks(Math.max(3, Math.floor((bottom - margin.top) / 48)));
  const [xText, yText] = [spec.x.format || short, spec.y.format || short];
  let body = "";
  for (const tick of yTicks) {
    const y = Y(tick).toFixed(1);
    body += `<line class="axis" x1="${margin.left}" x2="${right}" y1="${y}" y2="${y}"/>`;
    body += `<text x="${margin.left - 8}" y="${y}" dy=".35em" text-anchor="end">${yText(tick)}</text>`;
  }
  for (const tick of xTicks) {
    body += `<text x="${X(tick).toFixed(1)}" y="${bottom + 18}" text-anchor="middle">${xText(tick)}</text>`;
  }
  body += `<text x="${right}" y="${bottom + 36}" text-anchor="end">${esc(spec.x.title)}</text>`;
  body += spec.marks(X, Y, { left: margin.left, right, top: margin.top, bottom });
  const heights = spread(spec.ends.map((end) => Y(end.at)), 15, margin.top, bottom);
  spec.ends.forEach((end, i) => {
    const colour = inkOf(end.name, "type");
    body += `<text class="end" ${spec.opens}="${esc(end.name)}" x="${right + 9}" y="${heights[i].toFixed(1)}" dy=".35em"`;
    body += ` style="fill:${colour}">${esc(end.name)}</text>`;
  });
  body += `<g class="probe"></g>`;
  const svg = `<svg viewBox="0 0 ${width} ${spec.height}" height="${spec.height}" role="img" aria-label="${esc(spec.say)}">${body}</svg>`;
  return { svg, X, Y, box: { left: margin.left, right, top: margin.top, bottom } };
}

const figures = [];

function figure(id, make) {
  const host = document.getElementById(id);
  const one = { host, make, width: 0 };
  figures.push(one);
  new ResizeObserver(() => {
    if (host.clientWidth !== one.width) paint(one);
  }).observe(host);
  return one;
}

function paint(one) {
  one.width = one.host.clientWidth;
  if (!one.width) return;
  one.spec = one.make();
  one.drawn = drawing(one.spec, one.width);
  one.host.innerHTML = one.drawn.svg;
}
