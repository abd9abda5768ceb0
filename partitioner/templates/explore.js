// Ties the controls, the table, the charts and the details to the arithmetic.
"use strict";

(() => {
  const { html } = Dom;
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const data = JSON.parse(find("#report-data").textContent);
  const form = find("#controls"), dialog = find("#detail"), tip = find("#tip");
  const STEPS = 1000;
  let result = null;

  // --- the controls: the number field holds the value, the slider follows it -----------------

  const field = (key) => find(`#n-${key}`), slider = (key) => find(`#s-${key}`);
  const isLimit = (key) => key in data.constraints;
  const written = (control, value) =>
    (value === null ? "" : String(Number((value / control.factor).toPrecision(9))));

  // Exact values that came from the report, by the text that stands for them.
  const exact = new Map();

  function put(key, value) {
    const control = data.controls[key], text = written(control, value);
    field(key).value = text;
    exact.set(key, { text, value });
    follow(key);
  }

  // The value in SI units; null for no limit; NaN for what cannot be meant.
  function valueOf(key) {
    const control = data.controls[key], input = field(key), kept = exact.get(key);
    if (input.validity.badInput) return NaN;
    if (kept && kept.text === input.value) return kept.value;
    if (input.value.trim() === "") return isLimit(key) ? null : NaN;
    const value = Number(input.value) * control.factor;
    return control.whole ? Decide.roundEven(value) : value;
  }

  function follow(key) {
    const control = data.controls[key], value = valueOf(key);
    const { low, high } = control;
    let share = 1;
    if (value !== null && !Number.isNaN(value)) {
      const shown = value / control.factor;
      share = control.logarithmic
        ? Math.log(Math.max(low, shown) / low) / Math.log(high / low) : (shown - low) / (high - low);
    }
    slider(key).value = Math.round(STEPS * Math.min(1, Math.max(0, share)));
    describe(key);
  }

  function describe(key) {
    const control = data.controls[key], text = field(key).value;
    slider(key).setAttribute("aria-valuetext", text ? `${text} ${control.unit}`.trim() : "no limit");
  }

  function lead(key) {
    const control = data.controls[key], share = Number(slider(key).value) / STEPS;
    const { low, high } = control;
    const shown = control.logarithmic ? low * (high / low) ** share : low + share * (high - low);
    const lifted = share === 1 && isLimit(key);
    field(key).value = lifted ? "" : String(Number(shown.toPrecision(3)));
    describe(key);
  }

  function problemOf(key) {
    const control = data.controls[key], value = valueOf(key);
    if (value === null || !(key in data.controls)) return null;
    const bad = Number.isNaN(value) || !Number.isFinite(value)
      || (control.positive ? value <= 0 : !isLimit(key) && value < 0);
    if (!bad) return null;
    const bound = control.positive ? "a number above zero" : isLimit(key) ? "a number"
      : "a number of zero or more";
    return `expected ${bound} for ${control.label.toLowerCase()}, got ${field(key).value || "none"}`;
  }

  function networkNow() {
    const base = data.networks[form.network.value] || data.network;
    const values = {};
    for (const key of ["uplink_bps", "downlink_bps", "rtt_s"]) values[key] = valueOf(key);
    if (Object.entries(values).every(([key, value]) => base[key] === value)) return base;
    const name = base === data.network ? "custom" : base.name;
    return { ...base, ...values, name, source: "given" };
  }

  function limitsNow() {
    const limits = {};
    for (const key of Object.keys(data.constraints)) {
      limits[key] = key in data.controls ? valueOf(key) : null;
    }
    return limits;
  }

  function objectiveNow() {
    const objective = { name: form.objective.value };
    for (const kind of ["latency", "energy", "leakage"]) {
      const input = find(`#w-${kind}`);
      objective[`weight_${kind}`] = input.value.trim() === "" ? NaN : Number(input.value);
    }
    return objective;
  }

  // The same decision on the command line.
  function commandOf(settings) {
    const words = ["splitdeploy recommend RUN"];
    const { network, objective } = settings;
    if (!Decide.sameNetwork(network, data.network)) {
      const named = data.networks[network.name];
      const radio = Object.values(data.networks).find((n) => n.radio === network.radio);
      words.push(`--network ${named && named.radio === network.radio ? named.name : radio.name}`);
      if (!named || !Decide.sameNetwork(network, named)) {
        for (const key of ["uplink_bps", "downlink_bps", "rtt_s"]) words.push(optionOf(key));
      }
    }
    for (const key of Object.keys(data.constraints)) {
      if (settings.limits[key] !== null) words.push(optionOf(key));
    }
    if (data.confidence !== null && isAsRun(settings)) words.push(`--confidence ${data.confidence}`);
    words.push(`--objective ${objective.name}`);
    for (const kind of ["latency", "energy", "leakage"]) {
      const weight = objective[`weight_${kind}`];
      if (objective.name === "balanced" && weight !== 1) words.push(`--weight-${kind} ${weight}`);
    }
    return words.join(" ");
  }

  function optionOf(key) {
    const { flag, suffix } = data.controls[key], text = field(key).value;
    return `${flag}${text.startsWith("-") ? "=" : " "}${text}${suffix}`;
  }

  function isAsRun(settings) {
    const { objective } = settings;
    return Decide.sameNetwork(settings.network, data.network)
      && Object.keys(data.constraints).every((k) => settings.limits[k] === data.constraints[k])
      && Object.keys(objective).every((k) => objective[k] === data.objective[k]);
  }

  // What the run found where its limits hold with a probability, which is not drawn here.
  function asFound(found) {
    const stored = new Map(data.rows.map((row) => [row.name, row.violations]));
    const rows = found.rows.map((row) => ({ ...row, violations: stored.get(row.name) }));
    return { ...found, rows, pick: data.pick, runnerUp: null };
  }

  // --- what is shown -------------------------------------------------------------------------

  const rowOf = (name) => result.rows.find((row) => row.name === name);

  function verdict(problem) {
    if (problem) return [problem];
    if (result.pick === null) return ["No cut satisfies the constraints."];
    return [Decide.isEnd(rowOf(result.pick)) ? "Do not cut: " : "Cut after ",
      html("strong", {}, result.pick)];
  }

  function tile(name, value, note, css) {
    return html("div", {}, html("dt", {}, name), html("dd", { class: css || null }, value),
      html("dd", { class: "note" }, note));
  }

  function holds(settings) {
    const [low, high] = Decide.stableInterval(data, settings, result.pick);
    if (low === 0 && high === null) return "any uplink";
    if (high === null) return `above ${Decide.rate(low)}`;
    return low === 0 ? `below ${Decide.rate(high)}` : `${Decide.rate(low)} – ${Decide.rate(high)}`;
  }

  function tiles(settings) {
    const row = result.pick === null ? null : rowOf(result.pick);
    if (!row) return [];
    const strong = Decide.strongest(row), latency = row.latency_s, spent = row.energy_j;
    const tensors = `${row.tensors.length} tensor${row.tensors.length === 1 ? "" : "s"}`;
    return [
      latency && tile("Total latency", Decide.time(latency.total.median),
        `${latency.total.source}, median`),
      spent && tile("Energy", Decide.energy(spent.total), `${spent.source}, of the device`),
      tile("Payload", Decide.size(row.payload_bytes), tensors),
      result.indices && tile("Leakage index", Decide.fixed(result.indices.get(row.name), 2),
        "0 nothing, 1 the input itself"),
      strong && tile(`SSIM of ${strong.name}`, Decide.fixed(strong.ssim, 2),
        strong.converged ? "converged" : "had not converged"),
      latency && tile("Holds at", holds(settings), "of uplink, all else fixed", "small"),
    ].filter((found) => found);
  }

  function comparison(name, end) {
    const [a, b] = [rowOf(name), rowOf(end)];
    if (!b || name === end || !a.latency_s || !b.latency_s) return null;
    const [here, there] = [a.latency_s.total.median, b.latency_s.total.median];
    const word = here <= there ? "less" : "more";
    return `${Decide.time(Math.abs(here - there))} ${word} latency than ${end} `
      + `(${Decide.time(there)}${b.violations.length ? ", not feasible" : ""}).`;
  }

  function reasons() {
    const feasible = result.rows.filter((row) => !row.violations.length).length;
    const lines = [`${feasible} of ${result.rows.length} rows satisfy every limit.`];
    if (result.pick === null) return [result.infeasible, ...lines];
    lines.push(comparison(result.pick, "cloud-only"), comparison(result.pick, "edge-only"));
    if (result.runnerUp) lines.push(`The runner-up is ${result.runnerUp}.`);
    if (result.unbound && result.unbound !== result.pick) {
      lines.push(`Without the limits the pick would be ${result.unbound}; but its `
        + `${rowOf(result.unbound).violations.join("; ")}.`);
    }
    if (data.confidence !== null) {
      lines.push(`The run asked that its limits hold with probability ${data.confidence}; here the `
        + "median figures have to hold them. The command with --confidence checks the chance.");
    }
    if (data.pick && data.pick !== result.pick) lines.push(`The run recommended ${data.pick}.`);
    return lines.filter((text) => text);
  }

  const milli = (value) => {
    const scaled = value * 1e3;
    if (scaled === 0) return "0";
    if (Math.abs(scaled) >= 100) return Decide.fixed(scaled, 0);
    return Decide.fixed(scaled, Math.abs(scaled) >= 10 ? 1 : 2);
  };

  function showRow(element) {
    const row = rowOf(element.dataset.cut), cell = (name) => element.querySelector(`.c-${name}`);
    const picked = row.name === result.pick, out = row.violations.length > 0;
    element.classList.toggle("pick", picked);
    element.classList.toggle("out", out);
    element.querySelector(".front").hidden = !result.pareto.includes(row.name);
    element.querySelector(".badge").hidden = !picked;
    if (row.latency_s) {
      for (const stage of ["uplink", "downlink", "total"]) {
        cell(stage).textContent = milli(row.latency_s[stage].median);
      }
    }
    if (row.energy_j && cell("energy")) {
      cell("energy").textContent = Decide.energy(row.energy_j.total);
      cell("energy").title = `compute ${Decide.energy(row.energy_j.compute)}, `
        + `radio ${Decide.energy(row.energy_j.radio)}`;
    }
    cell("feasible").textContent = row.error !== null ? "failed" : out ? "no" : "yes";
  }

  // Drawings and pictures that the settings do not change, but the pick does.
  function markPick() {
    for (const element of all("table.family tr[data-cut], .gallery[data-cut] figure")) {
      const owner = element.closest("[data-cut]");
      element.classList.toggle("pick", owner.dataset.cut === result.pick);
    }
    for (const badge of all("h3.cut .badge")) {
      badge.hidden = badge.parentElement.dataset.cut !== result.pick;
    }
    const place = result.rows.findIndex((row) => row.name === result.pick);
    for (const chart of all("[data-still] svg.chart")) {
      chart.querySelectorAll(".name").forEach((n, i) => n.classList.toggle("pick", i === place));
      const band = chart.querySelector(".band");
      if (band) {
        band.setAttribute("y", Math.max(0, place) * 26);
        band.classList.toggle("gone", place < 0);
        chart.prepend(band); // under the names of the rows before it
      }
    }
  }

  function draw() {
    if (!result || result.error) return;
    for (const plot of all("[data-plot]")) {
      const focused = plot.contains(document.activeElement)
        ? document.activeElement.dataset.cut : null;
      const drawn = Drawing[plot.dataset.plot](result, Math.floor(plot.clientWidth));
      if (drawn) {
        plot.replaceChildren(drawn);
        if (!drawn.querySelector('[tabindex="0"]')) {
          const first = drawn.querySelector(".target");
          if (first) first.setAttribute("tabindex", 0);
        }
      }
      if (focused) [...plot.querySelectorAll(".target")]
        .find((target) => target.dataset.cut === focused)?.focus();
    }
  }

  function explainRows() {
    const out = result.rows.filter((row) => row.violations.length);
    find("#why-not").hidden = !out.length;
    find("#why-not dl").replaceChildren(...out.flatMap((row) => [
      html("dt", {}, row.name), html("dd", {}, row.violations.join("; "))]));
  }

  function update() {
    const problems = Object.keys(data.controls).map((key) => [key, problemOf(key)]);
    for (const [key, problem] of problems) {
      field(key).setAttribute("aria-invalid", problem ? "true" : "false");
    }
    const settings = { network: networkNow(), limits: limitsNow(), objective: objectiveNow() };
    find("#weights").hidden = settings.objective.name !== "balanced";
    let problem = (problems.find(([, found]) => found) || [])[1] || null;
    if (!problem) {
      const found = Decide.decide(data, settings);
      problem = found.error;
      if (!problem) result = isAsRun(settings) && data.confidence !== null ? asFound(found) : found;
    }
    const stays = !problem && isAsRun(settings);
    find("#verdict").replaceChildren(...verdict(problem));
    find("#sticky").textContent = problem ? "?" : result.pick === null ? "no cut" : result.pick;
    find("#objective").textContent = `objective: ${settings.objective.name}`;
    for (const element of all("[data-as-run]")) element.hidden = !stays;
    find("#live").hidden = stays;
    find("#reset").disabled = stays;
    find("#tiles").hidden = Boolean(problem) || result.pick === null;
    if (problem) {
      find("#live ul").replaceChildren();
      find("#command").textContent = "";
      return;
    }
    find("#tiles").replaceChildren(...tiles(settings));
    find("#live ul").replaceChildren(...reasons().map((text) => html("li", {}, text)));
    find("#command").textContent = commandOf(settings);
    for (const row of all("#cuts tr[data-cut]")) showRow(row);
    explainRows();
    markPick();
    draw();
  }

  // --- pointing, stepping and opening --------------------------------------------------------

  function open(name) {
    if (!name || !result) return;
    hideTip();
    Detail.fill(dialog, rowOf(name), result);
    dialog.dataset.cut = name;
    if (!dialog.open) dialog.showModal();
  }

  function turn(by) {
    const names = result.rows.map((row) => row.name);
    const next = names.indexOf(dialog.dataset.cut) + by;
    open(names[(next + names.length) % names.length]);
  }

  // Arrow keys move within a group that is one stop of the Tab key.
  function step(event) {
    const group = event.target.closest("#cuts, [data-plot]");
    const here = event.target.closest(".open, .target");
    if (!group || !here) return;
    const stops = [...group.querySelectorAll(".open, .target")], at = stops.indexOf(here);
    const to = { ArrowDown: at + 1, ArrowRight: at + 1, ArrowUp: at - 1, ArrowLeft: at - 1,
      Home: 0, End: stops.length - 1 }[event.key];
    if (to !== undefined && stops[to]) {
      here.setAttribute("tabindex", -1);
      stops[to].setAttribute("tabindex", 0);
      stops[to].focus();
    }
    if (to !== undefined) event.preventDefault();
    if (here.matches(".target") && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      open(here.dataset.cut);
    }
  }

  function showTip(target) {
    const row = rowOf(target.dataset.cut), lines = [];
    if (row.latency_s) {
      lines.push(["edge", "uplink", "cloud", "downlink"]
        .map((stage) => `${stage} ${Decide.time(row.latency_s[stage].median)}`).join(", "));
      lines.push(`total ${Decide.time(row.latency_s.total.median)}`);
    }
    if (row.energy_j) lines.push(`energy ${Decide.energy(row.energy_j.total)}`);
    if (result.indices && result.indices.has(row.name)) {
      lines.push(`leakage index ${Decide.fixed(result.indices.get(row.name), 2)}`);
    }
    if (row.violations.length) lines.push(row.violations.join("; "));
    tip.replaceChildren(html("strong", {}, row.name + (row.name === result.pick ? " (pick)" : "")),
      ...lines.map((text) => html("span", {}, text)));
    tip.hidden = false;
    const shape = target.querySelector(".dot, .s-edge") || target;
    const box = shape.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2),
      document.documentElement.clientWidth - own.width - 8);
    const above = box.top - own.height - 10;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 10}px`;
  }

  function hideTip() {
    tip.hidden = true;
  }

  function listen() {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", (event) => {
      const { id } = event.target;
      if (id.startsWith("s-")) lead(id.slice(2));
      if (id.startsWith("n-")) follow(id.slice(2));
      if (id === "network") takeNetwork();
      update();
    });
    find("#reset").addEventListener("click", () => { asRun(); update(); });
    for (const plot of all("[data-plot]")) {
      plot.addEventListener("click", (e) => open(e.target.closest(".target")?.dataset.cut));
      plot.addEventListener("pointerover", (event) => {
        const target = event.target.closest(".target");
        if (target) showTip(target); else hideTip();
      });
      plot.addEventListener("pointerleave", hideTip);
      plot.addEventListener("focusin", (event) => showTip(event.target.closest(".target")));
      plot.addEventListener("focusout", hideTip);
    }
    find("#cuts").addEventListener("click", (event) =>
      open(event.target.closest("tbody tr")?.dataset.cut));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") hideTip();
      step(event);
    });
    document.addEventListener("scroll", () => {
      const focused = document.activeElement.closest(".target");
      if (focused && !tip.hidden) showTip(focused); else hideTip();
    }, { passive: true });
    dialog.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (event.target === dialog || button?.value === "close") dialog.close();
      else if (button) turn(Number(button.value));
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.target.closest(".scroll")) return;
      if (event.key === "ArrowRight") turn(1);
      if (event.key === "ArrowLeft") turn(-1);
    });
    new ResizeObserver(draw).observe(find("#main"));
  }

  function takeNetwork() {
    const network = data.networks[form.network.value] || data.network;
    for (const key of ["uplink_bps", "downlink_bps", "rtt_s"]) put(key, network[key]);
  }

  function asRun() {
    form.network.value = "own";
    takeNetwork();
    for (const key of Object.keys(data.constraints)) {
      if (key in data.controls) put(key, data.constraints[key]);
    }
    form.objective.value = data.objective.name;
    for (const kind of ["latency", "energy", "leakage"]) {
      find(`#w-${kind}`).value = data.objective[`weight_${kind}`];
    }
  }

  function nameButtons() {
    all("#cuts tbody th .name").forEach((span, position) => {
      const name = span.textContent;
      span.replaceWith(html("button",
        { type: "button", class: "open", tabindex: position ? -1 : 0, "aria-haspopup": "dialog" },
        name));
    });
  }

  nameButtons();
  asRun();
  for (const element of all("[data-script]")) element.hidden = false;
  update();
  listen();
})();
