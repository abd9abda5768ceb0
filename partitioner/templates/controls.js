// The controls: their values as the settings of a decision, and as a command line.
"use strict";

const Controls = (() => {
  const find = (selector) => document.querySelector(selector);
  const data = JSON.parse(find("#report-data").textContent);
  const form = find("#controls");
  const STEPS = 1000;

  // The number field holds the value, and the slider follows it.
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
    return control.whole ? Numbers.roundEven(value) : value;
  }

  function follow(key) {
    const control = data.controls[key], value = valueOf(key);
    const { low, high } = control;
    let share = control.floor ? 0 : 1;
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
    const lifted = share === (control.floor ? 0 : 1) && isLimit(key);
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
    const words = ["splitdeploy recommend", ...Array(Math.max(1, data.runs.length)).fill("RUN")];
    const { network, objective } = settings;
    // The network of joined runs may be another than their own, or they differ in it.
    if (data.runs.length || !Decide.sameNetwork(network, data.network)) {
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

  // What is wrong with the fields, or null; each bad one is marked.
  function problem() {
    const problems = Object.keys(data.controls).map((key) => {
      const found = problemOf(key);
      field(key).setAttribute("aria-invalid", found ? "true" : "false");
      return found;
    });
    return problems.find((found) => found) || null;
  }

  const settings = () => (
    { network: networkNow(), limits: limitsNow(), objective: objectiveNow() });

  // Takes up what was typed, slid or chosen.
  function take(id) {
    if (id.startsWith("s-")) lead(id.slice(2));
    if (id.startsWith("n-")) follow(id.slice(2));
    if (id === "network") takeNetwork();
  }

  return { data, form, problem, settings, take, asRun, isAsRun, commandOf };
})();
