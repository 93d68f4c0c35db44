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

  // Fields take the viewer's time, and the address says UTC: what is written there means the same to everybody.
  function fields(root) {
    for (const field of root.querySelectorAll("input[data-utc]")) {
      const at = new Date(field.defaultValue + "Z");
      if (!Number.isNaN(at.getTime())) field.value = new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
      field.dataset.shown = field.value;
      for (const zone of field.parentElement.querySelectorAll("[data-zone]")) zone.remove();
    }
  }

  document.addEventListener("formdata", (event) => {
    for (const field of event.target.querySelectorAll("input[data-utc]")) {
      // What was left alone goes back as it came: the hour that comes twice in autumn is two hours in UTC.
      if (field.value) event.formData.set(field.name, field.value === field.dataset.shown ? field.defaultValue : new Date(field.value).toISOString().slice(0, 19));
    }
  });

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  }

  // Between two gaps there is no line: what was measured there is a point.
  function alone(plot, series) {
    const known = plot.data[series];
    return known.flatMap((value, index) => (value != null && known[index - 1] == null && known[index + 1] == null ? [index] : []));
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
        series: [{}, ...given.series.map((line, index) => ({ label: line.label, stroke: colour("--chart-" + index), width: 1.5, fill: index === 0 ? colour("--chart-fill") : undefined, points: { show: false, size: 4, filter: alone } }))],
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

  // Whether the page can know what happens: the stream says every two seconds that the database can be read, and comes again within a second.
  const SILENCE = 6000;
  const second = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  let opened = 0;
  let heard = 0;
  let lost = false;

  function show() {
    const text = paused ? "Paused" : lost ? "Not connected since " + second.format(heard) : "Live";
    const state = control.querySelector("[data-state]");
    // What is the same is not read out again.
    if (state.textContent !== text) state.textContent = text;
    control.classList.toggle("lost", lost && !paused);
    control.classList.toggle("on", stream !== null && !lost && heard > 0);
  }

  function alive(news) {
    const due = news || lost;
    heard = Date.now();
    lost = false;
    show();
    if (due) refresh();
  }

  function lose() {
    lost = true;
    heard = heard || opened;
    show();
  }

  function close() {
    if (stream) stream.close();
    stream = null;
  }

  function open() {
    opened = Date.now();
    stream = new EventSource(document.body.dataset.base + "/live?seen=" + (document.body.dataset.seen || ""));
    stream.addEventListener("tick", () => alive(true));
    stream.addEventListener("beat", () => alive(false));
    stream.addEventListener("down", lose);
  }

  function watch() {
    if (!stream) return;
    if (Date.now() - (heard || opened) > SILENCE) lose();
    // The browser comes again by itself when a stream ends, but not after an answer that is none, nor while nothing is said on an open one.
    const patience = stream.readyState === EventSource.CLOSED ? 3000 : 20000;
    if ((lost || stream.readyState === EventSource.CLOSED) && Date.now() - opened > patience) { close(); open(); }
  }

  function listen() {
    const wanted = !paused && !document.hidden;
    if (wanted && !stream) {
      if (!lost) heard = 0;
      open();
    } else if (!wanted) {
      close();
    }
    show();
  }

  if (control && window.EventSource && window.htmx) {
    const button = control.querySelector("[data-pause]");
    control.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Resume" : "Pause";
      listen();
    });
    setInterval(watch, 1000);
    document.addEventListener("visibilitychange", listen);
    addEventListener("pagehide", close);
    addEventListener("pageshow", listen);
    // What came while somebody's hands were on it.
    for (const done of ["focusout", "selectionchange"]) document.addEventListener(done, () => setTimeout(() => { if (stale && !paused) refresh(); }, 200));
    listen();
  }

  document.addEventListener("htmx:afterSettle", () => { const region = document.getElementById("live"); if (region) { times(region); fields(region); charts(region); } });
  times(document);
  fields(document);
  charts(document);
})();
