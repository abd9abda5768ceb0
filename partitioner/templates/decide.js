// The arithmetic of `splitdeploy recommend`, line for line: rebase, scoring, constraints, pareto,
// stability and the messages. It reads figures and settings, and touches no page.
"use strict";

const Decide = (() => {
  const CLOUD_ONLY = "cloud-only", EDGE_ONLY = "edge-only";
  const isEnd = (row) => row.name === CLOUD_ONLY || row.name === EDGE_ONLY;

  const { general, fixed, time, energy, size } = Numbers;
  const plain = (v) => general(v, 3);
  const nats = (v) => `${general(v, 3)} nats`;

  // --- another network -----------------------------------------------------------------------

  const FIELDS = ["name", "uplink_bps", "downlink_bps", "rtt_s", "radio", "source"];
  const sameNetwork = (a, b) => FIELDS.every((field) => a[field] === b[field]);

  function radioEnergy(network, upBytes, downBytes, radios) {
    const radio = radios[network.radio];
    if (!radio) throw new RangeError(`no coefficients for the radio ${network.radio}`);
    const power = (up, down) =>
      1e-3 * (radio.uplink_mw_per_mbps * (Math.min(up, radio.highest_bps) / 1e6)
        + radio.downlink_mw_per_mbps * (Math.min(down, radio.highest_bps) / 1e6)
        + radio.base_mw);
    return power(network.uplink_bps, 0) * (upBytes * 8 / network.uplink_bps)
      + power(0, network.downlink_bps) * (downBytes * 8 / network.downlink_bps);
  }

  function rebased(row, network, downBytes, radios) {
    const latency = row.latency_s;
    if (latency === null) return row;
    const sends = latency.uplink.median > 0, receives = latency.downlink.median > 0;
    const upS = sends ? row.payload_bytes * 8 / network.uplink_bps + network.rtt_s / 2 : 0;
    const downS = receives ? downBytes * 8 / network.downlink_bps + network.rtt_s / 2 : 0;
    const single = (s) => (
      { median: s, p95: s, spread: 0, count: 0, stability: "not repeated", source: "predicted" });
    const { total } = latency;
    const rest = Math.max(0, total.median - latency.uplink.median - latency.downlink.median);
    const restP95 = Math.max(rest, total.p95 - latency.uplink.p95 - latency.downlink.p95);
    const stages = {
      ...latency,
      uplink: sends ? single(upS) : latency.uplink,
      downlink: receives ? single(downS) : latency.downlink,
      total: {
        ...total, median: rest + upS + downS, p95: restP95 + upS + downS,
        source: total.source === "measured" ? "predicted" : total.source,
      },
    };
    let spent = row.energy_j;
    if (spent !== null) {
      const radio = radioEnergy(
        network, sends ? row.payload_bytes : 0, receives ? downBytes : 0, radios);
      spent = { ...spent, radio, total: spent.compute + radio };
    }
    return { ...row, latency_s: stages, energy_j: spent };
  }

  function overNetwork(data, network) {
    if (sameNetwork(network, data.network)) return data.rows;
    // With a second cut every row has what comes back there; else the result comes back.
    return data.rows.map((row) =>
      rebased(row, network, row.downlink_bytes ?? data.result_bytes, data.radios));
  }

  // --- figures and scores --------------------------------------------------------------------

  const isValid = (row) => row.error === null && (row.verified === null || row.verified.ok);

  function strongest(row) {
    return row.attacks.reduce((best, a) => (best === null || a.ssim > best.ssim ? a : best), null);
  }

  function attackShare(row) {
    const attack = strongest(row);
    if (attack === null) return null;
    const baseline = row.baseline ? row.baseline.ssim : 0;
    return Math.min(1, Math.max(0, (attack.ssim - baseline) / Math.max(1e-9, 1 - baseline)));
  }

  function knownLeakage(row, largest) {
    const recovered = attackShare(row);
    if (row.leakage !== null) {
      const gain = Math.max(0, row.leakage.gain.value);
      return Math.max(largest > 0 ? gain / largest : 0, recovered || 0);
    }
    const attack = strongest(row);
    return attack !== null && attack.converged ? recovered : null;
  }

  // The leakage index of every valid row by name; null where no cut between the ends has one.
  function leakageIndices(rows) {
    const valid = rows.filter(isValid);
    const gains = valid.filter((row) => row.leakage !== null).map((row) => row.leakage.gain.value);
    const largest = gains.length ? Math.max(...gains) : 0;
    const known = new Map(valid.map((row) => [row.name, knownLeakage(row, largest)]));
    if (valid.every((row) => isEnd(row) || known.get(row.name) === null)) return null;
    return new Map(valid.map((row) => {
      const value = known.get(row.name);
      if (row.name === CLOUD_ONLY) return [row.name, 1];
      if (value !== null) return [row.name, value];
      return [row.name, row.name === EDGE_ONLY ? 0 : 1];
    }));
  }

  function least(values) {
    const positive = values.filter(([, v]) => v > 0 && Number.isFinite(v));
    const between = positive.filter(([name]) => name !== CLOUD_ONLY && name !== EDGE_ONLY);
    const counted = (between.length ? between : positive).map(([, v]) => v);
    return counted.length ? Math.min(...counted) : 0;
  }

  // How long the slowest stage is busy: what a signal takes to the other side keeps none busy.
  function slowestStage({ edge, uplink, cloud, downlink }, network) {
    const trip = network.rtt_s / 2;
    return Math.max(edge.median, cloud.median, uplink.median - trip, downlink.median - trip);
  }

  function tableOf(rows, indices, network) {
    const valid = rows.filter(isValid);
    const hasLatency = valid.some((row) => row.latency_s !== null);
    const hasEnergy = valid.some((row) => row.energy_j !== null);
    const figures = valid.map((row) => ({
      name: row.name,
      latency: !hasLatency ? 0 : row.latency_s === null ? Infinity : row.latency_s.total.median,
      energy: !hasEnergy ? 0 : row.energy_j === null ? Infinity : row.energy_j.total,
      leakage: indices === null ? 0 : indices.get(row.name),
      slowest: !hasLatency ? 0
        : row.latency_s === null ? Infinity : slowestStage(row.latency_s, network),
    }));
    return {
      figures, hasLatency, hasEnergy, hasLeakage: indices !== null,
      leastLatency: least(figures.map((f) => [f.name, f.latency])),
      leastEnergy: least(figures.map((f) => [f.name, f.energy])),
    };
  }

  const weightsOf = (o) => [o.weight_latency, o.weight_energy, o.weight_leakage];

  // What is wrong with an objective, or null.
  function objectiveError(objective, table) {
    const weights = weightsOf(objective), kinds = ["latency", "energy", "leakage"];
    if (weights.some((w) => !Number.isFinite(w) || w < 0)) {
      const shown = weights.map((w) => general(w, 6)).join(":");
      return `expected weights of zero or more for latency, energy and leakage, got ${shown}`;
    }
    if (!table.figures.length) return null;
    const present = [table.hasLatency, table.hasEnergy, table.hasLeakage];
    const available = kinds.filter((_, i) => present[i]).join(", ") || "none";
    const needed = objective.name === "throughput" ? "latency" : objective.name;
    const asked = kinds.indexOf(needed);
    if (asked >= 0 && !present[asked]) {
      return `the objective ${objective.name} needs ${needed} figures, and no cut of this `
        + `report has one; available: ${available}; choose among these, or profile anew`;
    }
    const counting = weights.reduce((sum, w, i) => sum + (present[i] ? w : 0), 0);
    if (objective.name === "balanced" && counting <= 0) {
      return `expected a positive weight for a figure that the report has (${available}), `
        + "got weights that are all zero for these";
    }
    return null;
  }

  function lacks(figures, objective) {
    const balanced = objective.name === "balanced";
    const timed = objective.name === "latency" || objective.name === "throughput";
    const latency = timed || (balanced && objective.weight_latency > 0);
    const spent = objective.name === "energy" || (balanced && objective.weight_energy > 0);
    if (latency && !Number.isFinite(figures.latency)) return "latency";
    return spent && !Number.isFinite(figures.energy) ? "energy" : null;
  }

  function balancedScore(f, table, objective, floors) {
    const [latency, spent, leakage] = weightsOf(objective);
    const price = (value, low) => (low > 0 ? Math.log(Math.max(floors.cost, value / low)) : 0);
    const terms = [];
    if (table.hasLatency && latency) terms.push([latency, price(f.latency, table.leastLatency)]);
    if (table.hasEnergy && spent) terms.push([spent, price(f.energy, table.leastEnergy)]);
    if (table.hasLeakage && leakage) {
      terms.push([leakage, -Math.log(Math.max(floors.privacy, 1 - f.leakage))]);
    }
    const total = (values) => values.reduce((sum, v) => sum + v, 0);
    return total(terms.map(([w, term]) => w * term)) / total(terms.map(([w]) => w));
  }

  function rankKey(f, table, objective, floors) {
    if (objective.name === "latency") return [f.latency, f.energy, f.leakage];
    if (objective.name === "energy") return [f.energy, f.latency, f.leakage];
    if (objective.name === "leakage") return [f.leakage, f.latency, f.energy];
    if (objective.name === "throughput") return [f.slowest, f.latency, f.energy, f.leakage];
    return [balancedScore(f, table, objective, floors), f.latency, f.energy, f.leakage];
  }

  function byKey(a, b) {
    for (let i = 0; i < a.key.length; i += 1) {
      if (a.key[i] < b.key[i]) return -1;
      if (a.key[i] > b.key[i]) return 1;
    }
    return 0;
  }

  function paretoFront(figures) {
    const points = figures.map((f) => [f.latency, f.energy, f.leakage]);
    const dominates = (one, other) =>
      one.every((v, i) => v <= other[i]) && one.some((v, i) => v < other[i]);
    return figures.filter((_, i) => !points.some((p) => dominates(p, points[i])))
      .map((f) => f.name);
  }

  // --- constraints ---------------------------------------------------------------------------

  const FLAGS = {
    max_latency_s: "--max-latency", max_energy_j: "--max-energy",
    max_edge_memory_bytes: "--max-edge-memory", max_ssim: "--max-ssim",
    max_fsinfo: "--max-fsinfo",
  };
  const NO_LIMITS = Object.fromEntries(Object.keys(FLAGS).map((key) => [key, null]));

  function miss(what, flag, value, limit, shown) {
    if (value === null) {
      const text = `has no ${what} figure, which ${flag} asks for`;
      return [{ flag, text, relative: Infinity }];
    }
    if (!(value > limit)) return [];
    let relative = value - limit, by = shown(value - limit);
    if (flag !== "--max-fsinfo") {
      relative = (value - limit) / Math.max(Math.abs(limit), 1e-12);
      if (limit > 0) by += ` (${fixed(relative * 100, 0)} %)`;
    }
    const text = `${what} ${shown(value)} exceeds ${flag} ${shown(limit)} by ${by}`;
    return [{ flag, text, relative }];
  }

  function ssimOf(row) {
    if (row.name === CLOUD_ONLY) return 1;
    const attack = strongest(row);
    return attack ? attack.ssim : null;
  }

  function misses(row, limits) {
    const found = [];
    if (limits.max_latency_s !== null) {
      const value = row.latency_s ? row.latency_s.total.median : null;
      found.push(...miss("total latency", "--max-latency", value, limits.max_latency_s, time));
    }
    if (limits.max_energy_j !== null) {
      const value = row.energy_j ? row.energy_j.total : null;
      found.push(...miss("energy", "--max-energy", value, limits.max_energy_j, energy));
    }
    if (limits.max_edge_memory_bytes !== null) {
      found.push(...miss("edge memory", "--max-edge-memory", row.edge_memory_bytes,
        limits.max_edge_memory_bytes, size));
    }
    if (limits.max_ssim !== null && (row.attacks.length || row.name !== EDGE_ONLY)) {
      found.push(...miss("SSIM", "--max-ssim", ssimOf(row), limits.max_ssim, plain));
    }
    if (limits.max_fsinfo !== null && (row.leakage || row.name !== EDGE_ONLY)) {
      const value = row.leakage ? row.leakage.fsinfo.value : null;
      found.push(...miss("FSInfo", "--max-fsinfo", value, limits.max_fsinfo, nats));
    }
    return found;
  }

  function violationsOf(row, figures, limits, objective) {
    if (row.error !== null) return [`failed: ${row.error}`];
    if (row.verified !== null && !row.verified.ok) {
      const error = row.verified.max_rel_error;
      return ["the tail on the head's output differs from the whole model "
        + `(relative error ${general(error === null ? Infinity : error, 2)})`];
    }
    const violated = misses(row, limits).map((m) => m.text);
    const lacking = figures ? lacks(figures, objective) : null;
    if (lacking) violated.push(`has no ${lacking} figure, which the objective asks for`);
    return violated;
  }

  // The first of the entries whose key is the largest.
  const largest = (entries, key) =>
    entries.reduce((best, e) => (key(e) > key(best) ? e : best), entries[0]);

  // A limit that no row meets; or limits that can each be met, and not together.
  function contradiction(valid, limits) {
    const left = Object.keys(NO_LIMITS).filter((key) => limits[key] !== null).map((key) => {
      const alone = { ...NO_LIMITS, [key]: limits[key] };
      const names = valid.filter((row) => !misses(row, alone).length).map((row) => row.name);
      return { flag: FLAGS[key], names };
    });
    const impossible = left.filter(({ names }) => !names.length).map(({ flag }) => flag);
    if (impossible.length) return `no row meets ${impossible.join(" or ")}; `;
    if (left.length < 2) return "";
    const told = left.map(({ flag, names }) => `${flag} leaves ${names.slice(0, 3).join(", ")}`
      + (names.length > 3 ? ` and ${names.length - 3} more` : ""));
    return `the limits contradict each other (${told.join("; ")}); `;
  }

  function whyInfeasible(rows, limits) {
    const valid = rows.filter(isValid);
    if (!valid.length) {
      const failed = rows.find((row) => row.error);
      const reason = failed ? failed.error : "none was verified";
      return `no cut can be picked: all ${rows.length} failed; the first: ${reason}`;
    }
    const missed = valid.map((row) => ({ row, found: misses(row, limits) }))
      .filter(({ found }) => found.length)
      .map(({ row, found }) => ({ row, worst: largest(found, (m) => m.relative) }));
    if (!missed.length) return "no cut has the figures that the objective asks for; profile anew";
    const { row, worst } = largest(missed, (m) => -m.worst.relative);
    if (worst.relative === Infinity) {
      return `no cut satisfies the constraints: ${row.name} ${worst.text}; profile anew with that `
        + `figure (without --no-privacy), or drop ${worst.flag}`;
    }
    return `no cut satisfies the constraints: ${worst.flag} binds: the nearest cut is ${row.name}, `
      + `whose ${worst.text}; ${contradiction(valid, limits)}relax it, or choose another network `
      + "or device";
  }

  function limitsError(limits) {
    const checked = [
      ["--max-latency", limits.max_latency_s, true], ["--max-energy", limits.max_energy_j, true],
      ["--max-edge-memory", limits.max_edge_memory_bytes, true],
      ["--max-ssim", limits.max_ssim, false], ["--max-fsinfo", limits.max_fsinfo, false],
    ];
    for (const [flag, limit, positive] of checked) {
      if (limit !== null && (!Number.isFinite(limit) || (positive && limit <= 0))) {
        const bound = positive ? "a number above zero" : "a number";
        return `expected ${bound} for ${flag}, got ${general(limit, 6)}`;
      }
    }
    return null;
  }

  // --- the decision --------------------------------------------------------------------------

  function rank(rows, table, limits, objective, floors) {
    const figures = new Map(table.figures.map((f) => [f.name, f]));
    return rows.filter((row) => figures.has(row.name)
        && !violationsOf(row, figures.get(row.name), limits, objective).length)
      .map((row) => figures.get(row.name))
      .map((f) => ({ ...f, key: rankKey(f, table, objective, floors) }))
      .sort(byKey);
  }

  // What `recommend` decides at these settings: { network, limits, objective }.
  function decide(data, settings) {
    const { network, limits, objective } = settings;
    const rows = overNetwork(data, network);
    const indices = leakageIndices(rows);
    const table = tableOf(rows, indices, network);
    const error = limitsError(limits) || objectiveError(objective, table);
    if (error) return { error, rows, pick: null };
    const figures = new Map(table.figures.map((f) => [f.name, f]));
    const judged = rows.map((row) => (
      { ...row, violations: violationsOf(row, figures.get(row.name), limits, objective) }));
    const ranking = rank(rows, table, limits, objective, data.floors);
    const unbound = rank(rows, table, NO_LIMITS, objective, data.floors);
    return {
      error: null, rows: judged, indices, table, ranking,
      pareto: paretoFront(table.figures),
      pick: ranking.length ? ranking[0].name : null,
      runnerUp: ranking.length > 1 ? ranking[1].name : null,
      unbound: unbound.length ? unbound[0].name : null,
      infeasible: ranking.length ? null : whyInfeasible(rows, limits),
    };
  }

  // The uplink rates between which the pick stays: [low or 0, high or null].
  function stableInterval(data, settings, pick) {
    const { network, limits, objective } = settings;
    const own = overNetwork(data, network);
    const there = { ...data, rows: own, network };
    const holds = (bps) => {
      const rows = overNetwork(there, { ...network, uplink_bps: bps });
      const order = rank(
        rows, tableOf(rows, leakageIndices(rows), network), limits, objective, data.floors);
      return order.length > 0 && order[0].name === pick;
    };
    const bisect = (inside, outside) => {
      while (Math.abs(outside - inside) > 1e-9 * inside) {
        const middle = Math.sqrt(inside * outside);
        if (holds(middle)) inside = middle; else outside = middle;
      }
      return inside;
    };
    const walk = (end, direction) => {
      const last = Math.log(end), step = Math.log(10) / 16;
      let inside = Math.log(network.uplink_bps);
      while (direction * (last - inside) > 1e-12) {
        const beyond = inside + direction * Math.min(step, Math.abs(last - inside));
        if (!holds(Math.exp(beyond))) return bisect(Math.exp(inside), Math.exp(beyond));
        inside = beyond;
      }
      return null;
    };
    const low = walk(Math.min(1e3, network.uplink_bps), -1);
    return [low === null ? 0 : low, walk(Math.max(1e11, network.uplink_bps), +1)];
  }

  return { decide, stableInterval, strongest, sameNetwork, isEnd };
})();
