// The arithmetic of `splitdeploy recommend`, line for line: rebase, scoring, pareto, stability and
// the choice. It reads figures and settings, and touches no page.
"use strict";

const Decide = (() => {
  const { NO_LIMITS, inputGoes, resultGoes, isEnd, isValid, strongest, misses } = Limits;
  const { general } = Numbers;

  // How many inputs a request has; rows of runs that differ in it tell their own.
  const batchOf = (data, row) => row.batch ?? data.batch;

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

  // A request's latency is that of all its inputs, its energy an input's.
  function rebased(row, network, downBytes, radios, batch) {
    const latency = row.latency_s;
    if (latency === null) return row;
    const sends = latency.uplink.median > 0, receives = latency.downlink.median > 0;
    const upS = sends ? batch * row.payload_bytes * 8 / network.uplink_bps + network.rtt_s / 2 : 0;
    const downS = receives ? batch * downBytes * 8 / network.downlink_bps + network.rtt_s / 2 : 0;
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
    return data.rows.map((row) => rebased(
      row, network, row.downlink_bytes ?? data.result_bytes, data.radios, batchOf(data, row)));
  }

  // --- figures and scores --------------------------------------------------------------------

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
      if (inputGoes(row)) return [row.name, 1];
      if (value !== null) return [row.name, value];
      return [row.name, resultGoes(row) ? 0 : 1];
    }));
  }

  function least(values) {
    const positive = values.filter(([, v]) => v > 0 && Number.isFinite(v));
    const between = positive.filter(([end]) => !end);
    const counted = (between.length ? between : positive).map(([, v]) => v);
    return counted.length ? Math.min(...counted) : 0;
  }

  // How long the slowest stage is busy with an input: what a signal takes to the other side keeps
  // none busy.
  function slowestStage({ edge, uplink, cloud, downlink }, network, batch) {
    const trip = network.rtt_s / 2;
    return Math.max(edge.median, cloud.median, uplink.median - trip, downlink.median - trip)
      / batch;
  }

  // Inputs a second with the stages side by side; null where none takes any time.
  function throughput(row, network, batch) {
    const slowest = row.latency_s === null ? 0 : slowestStage(row.latency_s, network, batch);
    return slowest > 0 ? 1 / slowest : null;
  }

  function tableOf(data, rows, indices, network) {
    const valid = rows.filter(isValid);
    const hasLatency = valid.some((row) => row.latency_s !== null);
    const hasEnergy = valid.some((row) => row.energy_j !== null);
    const figures = valid.map((row) => ({
      name: row.name, end: isEnd(row),
      latency: !hasLatency ? 0 : row.latency_s === null ? Infinity : row.latency_s.total.median,
      energy: !hasEnergy ? 0 : row.energy_j === null ? Infinity : row.energy_j.total,
      leakage: indices === null ? 0 : indices.get(row.name),
      slowest: !hasLatency ? 0
        : row.latency_s === null ? Infinity
        : slowestStage(row.latency_s, network, batchOf(data, row)),
    }));
    return {
      figures, hasLatency, hasEnergy, hasLeakage: indices !== null,
      leastLatency: least(figures.map((f) => [f.end, f.latency])),
      leastEnergy: least(figures.map((f) => [f.end, f.energy])),
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

  function paretoFront(figures, objective) {
    const paced = objective.name === "throughput";
    const points = figures.map(
      (f) => [...(paced ? [f.slowest] : []), f.latency, f.energy, f.leakage]);
    const dominates = (one, other) =>
      one.every((v, i) => v <= other[i]) && one.some((v, i) => v < other[i]);
    return figures.filter((_, i) => !points.some((p) => dominates(p, points[i])))
      .map((f) => f.name);
  }

  // --- the decision --------------------------------------------------------------------------

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
    const table = tableOf(data, rows, indices, network);
    const error = Limits.error(limits) || objectiveError(objective, table);
    if (error) return { error, rows, pick: null };
    const figures = new Map(table.figures.map((f) => [f.name, f]));
    const judged = rows.map((row) => (
      { ...row, violations: violationsOf(row, figures.get(row.name), limits, objective) }));
    const ranking = rank(rows, table, limits, objective, data.floors);
    const unbound = rank(rows, table, NO_LIMITS, objective, data.floors);
    return {
      error: null, rows: judged, indices, table, ranking,
      pareto: paretoFront(table.figures, objective),
      objective: objective.name,
      paceOf: (row) => throughput(row, network, batchOf(data, row)),
      pick: ranking.length ? ranking[0].name : null,
      runnerUp: ranking.length > 1 ? ranking[1].name : null,
      unbound: unbound.length ? unbound[0].name : null,
      infeasible: ranking.length ? null : Limits.whyInfeasible(rows, limits),
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
        rows, tableOf(data, rows, leakageIndices(rows), network), limits, objective, data.floors);
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
