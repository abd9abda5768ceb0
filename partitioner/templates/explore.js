// Decides anew at every change of the controls, and shows it in words, table and charts.
"use strict";

(() => {
  const { html } = Dom;
  const { data, form } = Controls;
  const find = (selector) => document.querySelector(selector);
  const all = (selector) => [...document.querySelectorAll(selector)];
  let result = null;

  // What the run found where its limits hold with a probability, which is not drawn here.
  function asFound(found) {
    const stored = new Map(data.rows.map((row) => [row.name, row.violations]));
    const rows = found.rows.map((row) => ({ ...row, violations: stored.get(row.name) }));
    return { ...found, rows, pick: data.pick, runnerUp: null };
  }

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
    if (high === null) return `above ${Numbers.rate(low)}`;
    return low === 0 ? `below ${Numbers.rate(high)}` : `${Numbers.rate(low)} – ${Numbers.rate(high)}`;
  }

  function tiles(settings) {
    const row = result.pick === null ? null : rowOf(result.pick);
    if (!row) return [];
    const strong = Decide.strongest(row), latency = row.latency_s, spent = row.energy_j;
    const tensors = `${row.tensors.length} tensor${row.tensors.length === 1 ? "" : "s"}`;
    return [
      latency && tile("Total latency", Numbers.time(latency.total.median),
        `${latency.total.source}, median`),
      spent && tile("Energy", Numbers.energy(spent.total), `${spent.source}, of the device`),
      tile("Payload", Numbers.size(row.payload_bytes), tensors),
      row.precision && tile("Precision", row.precision, row.run),
      result.indices && tile("Leakage index", Numbers.fixed(result.indices.get(row.name), 2),
        "0 nothing, 1 the input itself"),
      strong && tile(`SSIM of ${strong.name}`, Numbers.fixed(strong.ssim, 2),
        strong.converged ? "converged" : "had not converged"),
      result.objective === "throughput" && tile("Throughput",
        Detail.pace(row, result) || "not known", "the stages side by side", "small"),
      latency && tile("Holds at", holds(settings), "of uplink, all else fixed", "small"),
    ].filter((found) => found);
  }

  function comparison(name, end) {
    const a = rowOf(name), [, ...kind] = name.split("@");
    const b = rowOf([end, ...kind].join("@"));
    if (!b || a === b || !a.latency_s || !b.latency_s) return null;
    const [here, there] = [a.latency_s.total.median, b.latency_s.total.median];
    const word = here <= there ? "less" : "more";
    return `${Numbers.time(Math.abs(here - there))} ${word} latency than ${b.name} `
      + `(${Numbers.time(there)}${b.violations.length ? ", not feasible" : ""}).`;
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
      lines.push(`The ${data.runs.length ? "page" : "run"} asked that its limits hold with probability ${data.confidence}; here the `
        + "median figures have to hold them. The command with --confidence checks the chance.");
    }
    if (data.pick && data.pick !== result.pick) {
      const began = data.runs.length ? "The page began with" : "The run recommended";
      lines.push(`${began} ${data.pick}.`);
    }
    return lines.filter((text) => text);
  }

  const milli = (value) => {
    const scaled = value * 1e3;
    if (scaled === 0) return "0";
    if (Math.abs(scaled) >= 100) return Numbers.fixed(scaled, 0);
    return Numbers.fixed(scaled, Math.abs(scaled) >= 10 ? 1 : 2);
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
      const rate = result.paceOf(row);
      cell("pace").textContent = rate === null ? "–" : Numbers.count(rate);
    }
    if (row.energy_j && cell("energy")) {
      cell("energy").textContent = Numbers.energy(row.energy_j.total);
      cell("energy").title = `compute ${Numbers.energy(row.energy_j.compute)}, `
        + `radio ${Numbers.energy(row.energy_j.radio)}`;
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
    const settings = Controls.settings();
    let problem = Controls.problem();
    if (!problem) {
      const found = Decide.decide(data, settings);
      problem = found.error;
      if (!problem) {
        const drawn = data.confidence !== null && Controls.isAsRun(settings);
        result = drawn ? asFound(found) : found;
        Pointing.show(result);
      }
    }
    const stays = !problem && Controls.isAsRun(settings);
    find("#verdict").replaceChildren(...verdict(problem));
    find("#sticky").textContent = problem ? "?" : result.pick === null ? "no cut" : result.pick;
    find("#weights").hidden = settings.objective.name !== "balanced";
    const paced = settings.objective.name === "throughput";
    for (const element of all("[data-throughput]")) element.hidden = !paced;
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
    find("#command").textContent = Controls.commandOf(settings);
    for (const row of all("#cuts tr[data-cut]")) showRow(row);
    explainRows();
    markPick();
    draw();
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
  Controls.asRun();
  for (const element of all("[data-script]")) element.hidden = false;
  update();
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => { Controls.take(event.target.id); update(); });
  find("#reset").addEventListener("click", () => { Controls.asRun(); update(); });
  new ResizeObserver(draw).observe(find("#main"));
  Pointing.listen();
})();
