// Numbers as Python writes them, and quantities as the command line does.
"use strict";

const Numbers = (() => {
  // Digits of a positive number with ties to even: "12.25" has "1", "2", "2", where
  // toExponential alone would give "1", "2", "3".
  function digits(value, count) {
    const exact = value.toExponential(60);
    const [mantissa, exponent] = exact.split("e");
    const all = mantissa.replace(".", "");
    const tie = all[count] === "5" && /^0*$/.test(all.slice(count + 1));
    if (tie && Number(all[count - 1]) % 2 === 0) return [all.slice(0, count), Number(exponent)];
    const [rounded, power] = value.toExponential(count - 1).split("e");
    return [rounded.replace(".", ""), Number(power)];
  }

  // The number as Python's format(value, ".{count}g").
  function general(value, count) {
    if (!Number.isFinite(value)) return value > 0 ? "inf" : value < 0 ? "-inf" : "nan";
    if (value === 0) return Object.is(value, -0) ? "-0" : "0";
    const sign = value < 0 ? "-" : "";
    const [found, power] = digits(Math.abs(value), count);
    const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0*$/, "") : text);
    if (power < -4 || power >= count) {
      const shown = trimmed(`${found[0]}.${found.slice(1)}`);
      return `${sign}${shown}e${power < 0 ? "-" : "+"}${String(Math.abs(power)).padStart(2, "0")}`;
    }
    if (power < 0) return `${sign}${trimmed(`0.${"0".repeat(-power - 1)}${found}`)}`;
    return `${sign}${trimmed(`${found.slice(0, power + 1)}.${found.slice(power + 1)}`)}`;
  }

  // The nearest whole number, ties to even, as Python's round.
  function roundEven(value) {
    const floor = Math.floor(value), rest = value - floor;
    if (rest === 0.5) return floor % 2 === 0 ? floor : floor + 1;
    return Math.round(value);
  }

  // The number as Python's format(value, ".{places}f").
  function fixed(value, places) {
    if (!Number.isFinite(value)) return value > 0 ? "inf" : value < 0 ? "-inf" : "nan";
    const scaled = Math.abs(value);
    const sign = value < 0 || Object.is(value, -0) ? "-" : "";
    if (scaled >= 1e21) return sign + BigInt(scaled) + (places ? `.${"0".repeat(places)}` : "");
    const [whole, rest] = scaled.toFixed(60).split(".");
    const tie = rest[places] === "5" && /^0*$/.test(rest.slice(places + 1));
    const kept = whole + rest.slice(0, places);
    if (tie && Number(kept[kept.length - 1]) % 2 === 0) {
      return sign + whole + (places ? `.${rest.slice(0, places)}` : "");
    }
    return sign + scaled.toFixed(places);
  }

  function scaled(value, steps) {
    if (value === 0) return `0 ${steps.find(([factor]) => factor === 1)[1]}`;
    const last = steps[steps.length - 1];
    const step = steps.find(([factor]) => Math.abs(value) >= 0.9995 * factor) || last;
    return `${general(value / step[0], 3)} ${step[1]}`;
  }
  const time = (v) => scaled(v, [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]]);
  const energy = (v) => scaled(v, [[1, "J"], [1e-3, "mJ"], [1e-6, "µJ"]]);
  const size = (v) => scaled(v, [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);
  const rate = (v) => scaled(v, [[1e9, "Gbit/s"], [1e6, "Mbit/s"], [1e3, "kbit/s"], [1, "bit/s"]]);
  const count = (v) => scaled(v, [[1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]]).trim();

  return { general, fixed, roundEven, time, energy, size, rate, count };
})();
