// Limits, as `splitdeploy recommend` has them: what a row misses, and why none is left.
"use strict";

const Limits = (() => {
  const { general, fixed, time, energy, size } = Numbers;
  const plain = (v) => general(v, 3);
  const nats = (v) => `${general(v, 3)} nats`;

  // A row's name tells its precision and its batch too where several are compared.
  function cutOf(row) {
    const kind = (row.precision ? `@${row.precision}` : "") + (row.batch ? `@b${row.batch}` : "");
    return row.name.slice(0, row.name.length - kind.length);
  }
  const inputGoes = (row) => cutOf(row) === "cloud-only";
  const resultGoes = (row) => cutOf(row) === "edge-only";
  const isEnd = (row) => inputGoes(row) || resultGoes(row);
  const isValid = (row) => row.error === null && (row.verified === null || row.verified.ok);

  function strongest(row) {
    return row.attacks.reduce((best, a) => (best === null || a.ssim > best.ssim ? a : best), null);
  }

  const FLAGS = {
    max_latency_s: "--max-latency", max_energy_j: "--max-energy",
    max_edge_memory_bytes: "--max-edge-memory", max_ssim: "--max-ssim",
    max_fsinfo: "--max-fsinfo", min_agreement: "--min-agreement",
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
    if (inputGoes(row)) return 1;
    const attack = strongest(row);
    return attack ? attack.ssim : null;
  }

  // The share of pictures that keep their class with the codec; 1 where nothing is encoded.
  function agreement(row) {
    if (row.codec_loss) return row.codec_loss.same_class;
    const sent = [...row.tensors, ...(row.returned || [])];
    const encoded = sent.some((t) => t.dtype === "float16" || t.dtype === "int8");
    return encoded && row.precision !== "fp32" ? null : 1;
  }

  function disagreement(share, limit) {
    const flag = "--min-agreement";
    if (share === null) {
      const text = `has no codec agreement figure, which ${flag} asks for`;
      return [{ flag, text, relative: Infinity }];
    }
    if (!(share < limit)) return [];
    const by = limit - share, relative = by / limit;
    const text = `codec agreement ${plain(share)} falls short of ${flag} ${plain(limit)} by `
      + `${plain(by)} (${fixed(relative * 100, 0)} %)`;
    return [{ flag, text, relative }];
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
    if (limits.max_ssim !== null && (row.attacks.length || !resultGoes(row))) {
      found.push(...miss("SSIM", "--max-ssim", ssimOf(row), limits.max_ssim, plain));
    }
    if (limits.max_fsinfo !== null && (row.leakage || !resultGoes(row))) {
      const value = row.leakage ? row.leakage.fsinfo.value : null;
      found.push(...miss("FSInfo", "--max-fsinfo", value, limits.max_fsinfo, nats));
    }
    if (limits.min_agreement !== null) {
      found.push(...disagreement(agreement(row), limits.min_agreement));
    }
    return found;
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
      const how = worst.flag === "--min-agreement" ? "" : " (without --no-privacy)";
      return `no cut satisfies the constraints: ${row.name} ${worst.text}; profile anew with that `
        + `figure${how}, or drop ${worst.flag}`;
    }
    return `no cut satisfies the constraints: ${worst.flag} binds: the nearest cut is ${row.name}, `
      + `whose ${worst.text}; ${contradiction(valid, limits)}relax it, or choose another network `
      + "or device";
  }

  // What is wrong with the limits, or null.
  function error(limits) {
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
    const share = limits.min_agreement;
    if (share !== null && !(share > 0 && share <= 1)) {
      return "expected a share above 0 and at most 1 for --min-agreement, such as 0.95, "
        + `got ${general(share, 6)}`;
    }
    return null;
  }

  return {
    NO_LIMITS, inputGoes, resultGoes, isEnd, isValid, strongest, misses, whyInfeasible, error,
  };
})();
