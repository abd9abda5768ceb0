// Opening a cut, stepping from one to the next, and what is told of a mark that is pointed at.
"use strict";

const Pointing = (() => {
  const { html } = Dom;
  const dialog = document.querySelector("#detail"), tip = document.querySelector("#tip");
  let result = null;

  const rowOf = (name) => result.rows.find((row) => row.name === name);

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
        .map((stage) => `${stage} ${Numbers.time(row.latency_s[stage].median)}`).join(", "));
      lines.push(`total ${Numbers.time(row.latency_s.total.median)}`);
    }
    const pace = result.objective === "throughput" ? Detail.pace(row, result) : null;
    if (pace) lines.push(pace);
    if (row.energy_j) lines.push(`energy ${Numbers.energy(row.energy_j.total)}`);
    if (result.indices && result.indices.has(row.name)) {
      lines.push(`leakage index ${Numbers.fixed(result.indices.get(row.name), 2)}`);
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

  function listenTo(plot) {
    plot.addEventListener("click", (e) => open(e.target.closest(".target")?.dataset.cut));
    plot.addEventListener("pointerover", (event) => {
      const target = event.target.closest(".target");
      if (target) showTip(target); else hideTip();
    });
    plot.addEventListener("pointerleave", hideTip);
    plot.addEventListener("focusin", (event) => showTip(event.target.closest(".target")));
    plot.addEventListener("focusout", hideTip);
  }

  function listen() {
    document.querySelectorAll("[data-plot]").forEach(listenTo);
    document.querySelector("#cuts").addEventListener("click", (event) =>
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
  }

  return { listen, show: (found) => { result = found; } };
})();
