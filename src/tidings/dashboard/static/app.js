// What the pages can do with a script: times in the viewer's zone, charts, and fresh content while somebody looks.
(() => {
  "use strict";
  const format = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  let plots = [];

  function times(root) {
    for (const node of root.querySelectorAll("time[datetime]")) {
      const at = new Date(node.getAttribute("datetime"));
      if (Number.isNaN(at.getTime())) continue;
      node.title = at.toISOString().replace("T", " ").slice(0, 23) + " UTC";
      if (node.hasAttribute("data-keep")) node.title = format.format(at) + " (" + node.title + ")";
      else node.textContent = format.format(at);
    }
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  function charts(root) {
    if (!window.uPlot) return;
    plots = plots.filter((plot) => plot.root.isConnected || (plot.destroy(), false));
    for (const node of root.querySelectorAll(".plot[data-chart]")) {
      let given;
      try { given = JSON.parse(node.dataset.chart); } catch { continue; }
      if (given.times.length < 2) continue;
      const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
      node.textContent = "";
      plots.push(new uPlot({
        width: node.clientWidth, height: 150, legend: { show: false }, cursor: { points: { size: 6 }, drag: { x: false, y: false } },
        scales: { y: { range: (_, low, high) => [0, Math.max(high, 1) * 1.08] } },
        axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map((tick) => clock.format(new Date(tick * 1000))) }, { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => tick >= 1000 ? tick / 1000 + "k" : tick) }],
        series: [{}, ...given.series.map((line, index) => ({ label: line.label, stroke: colour("--chart-" + index), width: 1.5, spanGaps: true, fill: index === 0 ? colour("--chart-fill") : undefined, points: { show: false } }))],
      }, [given.times, ...given.series.map((line) => line.values)], node));
    }
  }

  addEventListener("resize", () => { for (const plot of plots) plot.setSize({ width: plot.root.parentElement.clientWidth, height: 150 }); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const node of document.querySelectorAll(".plot[data-chart]")) charts(node.parentElement); });

  // One stream, only while the page is seen and not paused; nothing is replaced under somebody's hands.
  const control = document.querySelector("[data-live]");
  let stream = null;
  let paused = false;
  let stale = false;

  function busy() {
    const region = document.getElementById("live");
    const focused = document.activeElement;
    return !region || (focused !== document.body && region.contains(focused) && focused.matches("input, select, textarea, a, button")) || String(getSelection()).length > 0;
  }

  function refresh() {
    stale = busy();
    if (!stale) htmx.ajax("GET", location.pathname + location.search, { target: "#live", select: "#live", swap: "outerHTML" });
  }

  function listen() {
    const wanted = !paused && !document.hidden;
    if (wanted && !stream) {
      stream = new EventSource(document.body.dataset.base + "/live?seen=" + (document.body.dataset.seen || ""));
      stream.addEventListener("tick", refresh);
      stream.onopen = () => control.classList.add("on");
      stream.onerror = () => control.classList.remove("on");
    } else if (!wanted && stream) {
      stream.close();
      stream = null;
      control.classList.remove("on");
    }
  }

  if (control && window.EventSource && window.htmx) {
    const button = control.querySelector("[data-pause]");
    control.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.setAttribute("aria-pressed", String(paused));
      button.textContent = paused ? "Paused" : "Live";
      listen();
    });
    document.addEventListener("visibilitychange", listen);
    addEventListener("pagehide", () => { if (stream) { stream.close(); stream = null; } });
    addEventListener("pageshow", listen);
    // What came while somebody's hands were on it.
    for (const done of ["focusout", "selectionchange"]) document.addEventListener(done, () => setTimeout(() => { if (stale && !paused) refresh(); }, 200));
    listen();
  }

  document.addEventListener("htmx:afterSettle", () => { const region = document.getElementById("live"); if (region) { times(region); charts(region); } });
  times(document);
  charts(document);
})();
