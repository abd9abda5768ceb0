// The two charts that follow the settings, as SVG elements with the classes of the page's style.
"use strict";

const Dom = (() => {
  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value !== null && value !== undefined && value !== false) {
        element.setAttribute(name, value === true ? "" : value);
      }
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
    return element;
  }
  return {
    html: (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children),
    svg: (tag, attributes, ...children) =>
      fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children),
  };
})();

const Drawing = (() => {
  const { svg } = Dom;
  const STAGES = ["edge", "uplink", "cloud", "downlink"];
  const ROW = 26;

  const text = (x, y, content, css, anchor) =>
    svg("text", { x: x.toFixed(1), y: y.toFixed(1), class: css, "text-anchor": anchor || "start",
      "aria-hidden": "true" }, content); // what it says, the marks' labels say
  const line = (x1, y1, x2, y2, css) => svg("line", { x1, y1, x2, y2, class: css });
  const widthOf = (content, size) => content.length * size * 0.56;

  function shortened(name, room) {
    const fits = Math.floor(room / (12.5 * 0.56));
    if (name.length <= fits) return name;
    const keep = Math.max(2, fits - 1), front = Math.floor(keep / 2);
    return `${name.slice(0, front)}…${name.slice(name.length - (keep - front))}`;
  }

  function ticks(low, high, about) {
    const rough = (high - low) / Math.max(1, about);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((f) => power * f >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k += 1) {
      found.push(k === 0 ? 0 : k * step);
    }
    return found;
  }

  function logTicks(low, high) {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p += 1) {
      for (const factor of [1, 2, 5]) found.push({ factor, value: factor * 10 ** p });
    }
    const inside = found.filter(({ value }) => low * 0.999 <= value && value <= high * 1.001);
    const kept = inside.length <= 7 ? inside : inside.filter(({ factor }) => factor === 1);
    return kept.map(({ value }) => value);
  }

  function frame(width, height, title, children) {
    return svg("svg", {
      class: "chart live", viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
      "aria-label": title,
    }, children);
  }

  // Something of a cut that can be pointed at, stepped to with the arrow keys, and opened.
  function target(name, label, current, children) {
    return svg("g", {
      class: "target", role: "button", tabindex: current ? 0 : -1, "data-cut": name,
      "aria-label": `${label}. Open its details`,
    }, children);
  }

  function latencyBars(result, width) {
    const rows = result.rows.filter((row) => row.latency_s);
    const sums = rows.map((row) => STAGES.reduce((s, stage) => s + row.latency_s[stage].median, 0));
    const most = Math.max(0, ...sums) * 1e3;
    if (!(most > 0)) return null;
    const longest = Math.max(...result.rows.map((row) => widthOf(row.name, 12.5)));
    const left = Math.min(longest, width * 0.38) + 16, right = width - 62;
    const bottom = result.rows.length * ROW;
    const x = (ms) => left + ms / most * (right - left);
    const under = [];
    const bars = result.rows.map((row, position) => {
      const top = position * ROW, picked = row.name === result.pick;
      if (picked) {
        under.push(svg("rect", { x: 0, y: top, width, height: ROW, rx: 4, class: "band" }));
      }
      const name = text(left - 8, top + 17, shortened(row.name, left - 12),
        picked ? "name pick" : "name", "end");
      if (!row.latency_s) {
        return [name, text(left, top + 17, row.error || "no figure", "muted")];
      }
      let start = left;
      const parts = STAGES.map((stage) => {
        const span = x(row.latency_s[stage].median * 1e3) - left;
        const gap = Math.min(1, span / 4);
        const part = svg("rect", {
          x: start, y: top + 4, width: Math.max(0, span - gap), height: ROW - 8, class: `s-${stage}`,
        });
        start += span;
        return part;
      });
      const total = Numbers.time(row.latency_s.total.median);
      const hit = svg("rect", { x: 0, y: top, width, height: ROW, class: "hit" });
      const bar = target(row.name, `${row.name}: ${total}${picked ? ", the pick" : ""}`, picked,
        [hit, ...parts]);
      return [bar, name, text(start + 6, top + 17, total, "value")];
    });
    const grid = ticks(0, most, Math.max(4, Math.floor((right - left) / 80))).map((tick) => [
      line(x(tick), 0, x(tick), bottom, tick === 0 ? "zero" : "grid"),
      text(x(tick), bottom + 16, Numbers.general(tick, 6), "tick", "middle"),
    ]);
    const axis = text((left + right) / 2, bottom + 34, "milliseconds, median of each stage",
      "axis", "middle");
    return frame(width, bottom + 42, "Latency of every cut by stage", [under, grid, axis, bars]);
  }

  function latencyAxis(values, left, right) {
    const low = Math.min(...values), high = Math.max(...values);
    if (low > 0 && high > 10 * low) {
      const a = Math.log(low / 1.25), b = Math.log(high * 1.25);
      return { x: (v) => left + (Math.log(v) - a) / (b - a) * (right - left),
        ticks: logTicks(Math.exp(a), Math.exp(b)), note: " (logarithmic)" };
    }
    const margin = 0.1 * ((high - low) || high || 1);
    const start = low > high / 3 ? Math.max(0, low - margin) : 0, end = high + margin;
    return { x: (v) => left + (v - start) / (end - start) * (right - left),
      ticks: ticks(start, end, Math.max(4, Math.floor((right - left) / 90))), note: "" };
  }

  const PLACES = [[12, 4, "start"], [-12, 4, "end"], [0, -13, "middle"], [0, 22, "middle"],
    [10, -9, "start"], [-10, -9, "end"], [10, 17, "start"], [-10, 17, "end"]];
  const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];

  // Names beside the points where there is room, the pick's and the Pareto set's first.
  function labels(result, places, box) {
    const weight = (name) => (name === result.pick ? 0 : result.pareto.includes(name) ? 1 : 2);
    const names = [...places.keys()].sort((a, b) => weight(a) - weight(b));
    const taken = [...places.values()].map(([x, y]) => [x - 7, y - 7, x + 7, y + 7]);
    const found = [];
    for (const name of names) {
      const [x, y] = places.get(name), wide = widthOf(name, 12);
      const beyond = name === result.pick ? 1.4 : 1;
      for (const [dx, dy, anchor] of PLACES) {
        const at = x + dx * beyond;
        const start = at - { start: 0, middle: wide / 2, end: wide }[anchor];
        const room = [start, y + dy - 10, start + wide, y + dy + 3];
        const inside = room[0] >= box[0] && room[2] <= box[1] && room[1] >= box[2]
          && room[3] <= box[3];
        if (inside && !taken.some((other) => overlap(room, other))) {
          taken.push(room);
          found.push(text(at, y + dy, name, name === result.pick ? "label pick" : "label", anchor));
          break;
        }
      }
    }
    return found;
  }

  function mark(result, figures, x, y) {
    const row = result.rows.find((r) => r.name === figures.name);
    const feasible = !row.violations.length, picked = row.name === result.pick;
    const onFront = result.pareto.includes(row.name);
    const css = `dot ${onFront ? "s-edge" : "s-other"}${feasible ? "" : " hollow"}`;
    const corners = [[x, y - 6.5], [x + 6.5, y], [x, y + 6.5], [x - 6.5, y]];
    const shape = onFront
      ? svg("polygon", { points: corners.map((c) => c.join(",")).join(" "), class: css })
      : svg("circle", { cx: x, cy: y, r: 4.5, class: css });
    const pace = result.objective === "throughput" ? Detail.pace(row, result) : null;
    const label = `${row.name}: ${Numbers.time(figures.latency)}, leakage index `
      + `${Numbers.fixed(figures.leakage, 2)}${pace ? `, ${pace}` : ""}`
      + `${onFront ? ", on the Pareto set" : ""}`
      + `${feasible ? "" : ", violates a constraint"}${picked ? ", the pick" : ""}`;
    return target(row.name, label, picked, [
      svg("circle", { cx: x, cy: y, r: 12, class: "hit" }),
      picked ? svg("circle", { cx: x, cy: y, r: 11, class: "halo" }) : null, shape,
    ]);
  }

  function tradeOff(result, width) {
    const shown = result.table.figures.filter((f) => Number.isFinite(f.latency));
    if (!shown.length || !result.table.hasLeakage || !result.table.hasLatency) return null;
    const height = Math.max(320, Math.min(400, width * 0.72));
    const left = 46, bottom = height - 46, top = 12, right = width - 16;
    const along = latencyAxis(shown.map((f) => f.latency * 1e3), left, right);
    const yOf = (leakage) => bottom - 20 - leakage * (bottom - top - 30);
    const grid = [
      along.ticks.map((tick) => [
        line(along.x(tick), top, along.x(tick), bottom, "grid"),
        text(along.x(tick), bottom + 16, Numbers.general(tick, 6), "tick", "middle"),
      ]),
      [0, 0.25, 0.5, 0.75, 1].map((tick) => [
        line(left, yOf(tick), right, yOf(tick), "grid"),
        text(left - 7, yOf(tick) + 4, String(tick), "tick", "end"),
      ]),
    ];
    const places = new Map(
      shown.map((f) => [f.name, [along.x(f.latency * 1e3), yOf(f.leakage)]]));
    const axis = text((left + right) / 2, height - 10, `total latency, ms${along.note}`,
      "axis", "middle");
    return frame(width, height, "Latency against leakage", [
      grid, axis, shown.map((f) => mark(result, f, ...places.get(f.name))),
      labels(result, places, [left, right, top, bottom]),
    ]);
  }

  return { latencyBars, tradeOff };
})();
