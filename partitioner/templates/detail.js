// Everything that is known of one cut, in a dialog.
"use strict";

const Detail = (() => {
  const { html } = Dom;
  const dash = "–";
  const seconds = (v) => (v === null || v === undefined ? dash : Numbers.time(v));

  function facts(entries) {
    const kept = entries.filter(([, value]) => value !== null && value !== undefined);
    return html("dl", { class: "pairs" },
      kept.map(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
  }

  function table(caption, headings, rows) {
    const cell = (value, i) =>
      html(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : {}, value);
    return html("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": caption },
      html("table", {},
        html("caption", {}, caption),
        html("thead", {}, html("tr", {}, headings.map((h) => html("th", { scope: "col" }, h)))),
        html("tbody", {}, rows.map((row) => html("tr", {}, row.map(cell))))));
  }

  function stages(row) {
    if (!row.latency_s) return null;
    return table("Stages", ["Stage", "Median", "95th percentile", "Source"],
      ["edge", "uplink", "cloud", "downlink", "total"].map((stage) => {
        const m = row.latency_s[stage];
        const repeated = m.count ? `, ${m.count} runs, ${m.stability}` : "";
        return [stage, seconds(m.median), seconds(m.p95), m.source + repeated];
      }));
  }

  function tensors(row) {
    const listed = (caption, list) => table(caption, ["Tensor", "Shape", "Type", "Size"],
      list.map((t) => [t.name, t.shape.join(" × "), t.dtype, Numbers.size(t.bytes)]));
    if (!row.returned) return listed("Tensors that are sent", row.tensors);
    return html("div", {}, [
      listed("Tensors that are sent up", row.tensors),
      listed("Tensors that come back for the last layers", row.returned),
      ...(row.held.length ? [listed("Tensors that stay for the last layers", row.held)] : []),
    ]);
  }

  function attacks(row) {
    if (!row.attacks.length) return null;
    const ordered = [...row.attacks].sort((a, b) => b.ssim - a.ssim);
    return table("Attacks, the strongest first",
      ["Attack", "SSIM (95 %)", "PSNR", "Converged", "Pictures", "Attacker"],
      ordered.map((a) => [
        `${a.name} ${a.preset}`,
        `${Numbers.fixed(a.ssim, 2)} (${a.ssim_ci95.map((v) => Numbers.fixed(v, 2)).join(" to ")})`,
        a.psnr_db === null ? "exact" : `${Numbers.fixed(a.psnr_db, 1)} dB`,
        a.converged ? "yes" : "no", String(a.images), a.threat_model,
      ]));
  }

  function codec(row) {
    const loss = row.codec_loss;
    if (!loss) return null;
    const error = loss.max_rel_error === null ? "not finite" : Numbers.general(loss.max_rel_error, 2);
    const kept = loss.same_class === null ? "" : `${Math.round(loss.images * loss.same_class)} of `
      + `${loss.images} pictures keep their class, `;
    return `${kept}relative error ${error}; ${loss.source}. ${loss.note}`;
  }

  function verified(row) {
    if (!row.verified) return "not tried";
    const error = row.verified.max_rel_error;
    return `${row.verified.ok ? "yes" : "NO"}, relative error `
      + `${error === null ? "not finite" : Numbers.general(error, 2)} over ${row.verified.images} pictures`;
  }

  // Figures of other versions are shown by their own names, so that none is lost.
  const KNOWN = new Set(["name", "index", "tensors", "payload_bytes", "uplink_bps_needed",
    "edge_macs", "cloud_macs", "edge_parameters", "edge_peak_activation_bytes", "edge_nodes",
    "verified", "latency_s", "energy_j", "edge_memory_bytes", "leakage", "attacks", "baseline",
    "strongest_attack", "attack_notes", "feasible", "violations", "error", "throughput_per_s",
    "downlink_bytes", "batch", "precision", "run"]);

  function others(row) {
    return Object.entries(row)
      .filter(([key, value]) => !KNOWN.has(key) && value !== null && typeof value !== "object")
      .map(([key, value]) => [
        key.replace(/_/g, " "),
        typeof value === "number" ? Numbers.general(value, 4) : String(value),
      ]);
  }

  // Inputs a second when the stages work side by side, over the network that is set.
  function pace(row, result) {
    const rate = result.paceOf(row);
    return rate === null ? null : `${Numbers.count(rate)} a second`;
  }

  function summary(row, result) {
    const spent = row.energy_j, leak = row.leakage;
    return facts([
      ["Feasible", row.violations.length ? `no: ${row.violations.join("; ")}` : "yes"],
      ["Precision", row.precision ? `${row.precision}, in ${row.run}` : null],
      ["Pareto set", result.pareto.includes(row.name) ? "yes" : "no"],
      ["Payload", Numbers.size(row.payload_bytes)],
      ["Energy", spent ? `${Numbers.energy(spent.total)} (compute ${Numbers.energy(spent.compute)}, `
        + `radio ${Numbers.energy(spent.radio)}; ${spent.source})` : null],
      ["Throughput, pipelined", pace(row, result)],
      ["Edge memory", row.edge_memory_bytes === null ? null : Numbers.size(row.edge_memory_bytes)],
      ["Work", `${Numbers.count(row.edge_macs)} MACs at the edge, `
        + `${Numbers.count(row.cloud_macs)} in the cloud`],
      ["Edge parameters", Numbers.count(row.edge_parameters)],
      ["Leakage index", result.indices && result.indices.has(row.name)
        ? Numbers.fixed(result.indices.get(row.name), 2) : null],
      ["FSInfo", leak ? `${Numbers.fixed(leak.fsinfo.value, 2)} ± `
        + `${Numbers.fixed(leak.fsinfo.standard_error, 2)} nats` : null],
      ["Information gained", leak ? `${Numbers.fixed(leak.gain.value, 3)} ± `
        + `${Numbers.fixed(leak.gain.standard_error, 3)} nats` : null],
      ["Best guess without data", row.baseline
        ? `SSIM ${Numbers.fixed(row.baseline.ssim, 2)}` : null],
      ["Verified", verified(row)],
      ["Codec", codec(row)],
      ["Attacks not run", row.attack_notes.length ? row.attack_notes.join("; ") : null],
      ...others(row),
    ]);
  }

  // The pictures stand on the page already; copies of them cost no bytes in the file.
  function pictures(row) {
    const gallery = [...document.querySelectorAll(".gallery[data-cut]")]
      .find((g) => g.dataset.cut === row.name);
    if (!gallery) return null;
    return html("section", {}, html("h3", {}, "Reconstructions"),
      html("div", { class: "gallery" },
        [...gallery.children].map((figure) => figure.cloneNode(true))));
  }

  function fill(dialog, row, result) {
    const strong = Decide.strongest(row);
    dialog.querySelector("h2").textContent = row.name;
    dialog.querySelector(".state").textContent =
      row.name === result.pick ? "the pick" : row.violations.length ? "not feasible" : "feasible";
    dialog.querySelector(".body").replaceChildren(...[
      strong && strong.verdict ? html("p", { class: "words" }, strong.verdict) : null,
      summary(row, result), stages(row), tensors(row), attacks(row), pictures(row),
    ].filter((part) => part !== null));
    dialog.querySelector(".body").scrollTop = 0;
  }

  return { fill, pace };
})();
