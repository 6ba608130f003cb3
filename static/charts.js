// Draws every [data-chart] with Plotly in the house colours, and again when the theme changes.
(() => {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  // Custom properties hold light-dark(): only a used colour tells which of the two applies.
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const faded = (rgb, share) => rgb.replace(/^rgb\((.*)\)$/, `rgba($1, ${share})`);

  const paint = (trace) => {
    const role = trace.meta && trace.meta.colour;
    if (!role) return trace;
    if (role === "heat") {
      const full = colour("accent");
      return { ...trace, colorscale: [[0, faded(full, 0.08)], [1, faded(full, 0.7)]], zmin: 0 };
    }
    const value = colour(role);
    const painted = { ...trace, marker: { ...trace.marker, color: value } };
    if (trace.marker && trace.marker.pattern) {
      painted.marker.pattern = { ...trace.marker.pattern, bgcolor: value, fgcolor: colour("surface"), fgopacity: 0.55 };
    }
    if (trace.type === "scatter") painted.line = { ...trace.line, color: value };
    if (trace.error_x) painted.error_x = { ...trace.error_x, color: colour("text") };
    return painted;
  };

  // Text, as the clock on the wall reads: numbers are moved by Plotly itself, by the offset once more.
  const localTime = (value) => value === null ? null
    : new Date(value - new Date(value).getTimezoneOffset() * 60000).toISOString().slice(0, -1);
  // Plotly leaves out a time of midnight, and a date alone would be read as UTC.
  const epochTime = (shown) => new Date(shown.length > 10 ? shown.replace(" ", "T") : `${shown}T00:00`).getTime();

  const axisStyle = (axis, narrow) => ({
    ...axis,
    gridcolor: colour("line"),
    linecolor: colour("line"),
    tickcolor: colour("line"),
    fixedrange: true,
    ...(narrow && axis.type === "date" ? { nticks: 4 } : {}),
  });

  const styled = (figure, linear, width) => {
    const layout = { ...figure.layout };
    const meta = layout.meta || {};
    const narrow = width < 520;
    layout.paper_bgcolor = "rgba(0,0,0,0)";
    layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = { family: "system-ui, sans-serif", size: 12, color: colour("quiet") };
    layout.hoverlabel = { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("text"), size: 12 }, align: "left" };
    layout.separators = ".\u2009";
    let data = figure.data.map(paint);
    if (meta.time_axis) data = data.map((trace) => ({ ...trace, x: trace.x.map(localTime) }));
    for (const key of Object.keys(layout)) {
      if (!/^[xy]axis\d*$/.test(key)) continue;
      layout[key] = axisStyle(layout[key], narrow);
      if (meta.time_axis && layout[key].type === "date") layout[key].range = layout[key].range.map(localTime);
    }
    if (linear && meta.log_axis) {
      const axis = { ...layout[meta.log_axis], type: "linear", rangemode: "tozero" };
      const top = 10 ** axis.range[1];
      delete axis.tickvals;
      delete axis.ticktext;
      axis.range = [0, top];
      axis.ticksuffix = " ms";
      layout[meta.log_axis] = axis;
    }
    // On a phone a long legend scrolls over the bars; the table below has the same swatches.
    if (narrow && data.length > 4) layout.showlegend = false;
    if (narrow && layout.yaxis && layout.yaxis.ticktext && layout.yaxis.ticktext.some((text) => text.length > 18)) {
      layout.yaxis.ticktext = layout.yaxis.ticktext.map(shortened);
    }
    return [data, layout];
  };

  // Entities count as one character: a label is never cut inside one.
  const shortened = (text) => {
    const characters = text.match(/&[#a-z0-9]+;|./gu) || [];
    return characters.length > 18 ? `${characters.slice(0, 9).join("")}…${characters.slice(-8).join("")}` : text;
  };

  const charts = [];

  // A touch screen scrolls where a mouse would drag: there a tap chooses one cell.
  const draggable = matchMedia("(pointer: fine)").matches;

  const draw = (chart) => {
    const [data, layout] = styled(chart.figure, chart.linear, chart.plot.clientWidth);
    if (chart.brush) Object.assign(layout, { dragmode: draggable ? "select" : false, selectdirection: "any" });
    return Plotly.react(chart.plot, data, layout, { displayModeBar: false, responsive: true, showTips: false }).then(() => {
      if (chart.brush && !chart.width) listen(chart);
      chart.plot.dataset.drawn = "true";
      chart.width = chart.plot.clientWidth;
    });
  };

  // What was dragged over, or the cell that was clicked, becomes the region of the next page.
  const listen = (chart) => {
    const open = (times, durations) => {
      const next = new URL(chart.brush, location.href);
      next.searchParams.set("began_from", new Date(Math.floor(times[0])).toISOString());
      next.searchParams.set("began_to", new Date(Math.ceil(times[1])).toISOString());
      next.searchParams.set("min_ms", Math.max(durations[0], 0).toFixed(6));
      next.searchParams.set("max_ms", durations[1].toFixed(6));
      location.assign(next.href);
    };
    const ordered = (ends) => [...ends].sort((a, b) => a - b);
    chart.plot.on("plotly_selected", (event) => {
      if (!event || !event.range) return;
      const times = ordered(event.range.x.map(epochTime)), durations = ordered(event.range.y.map(Number));
      if (times[1] - times[0] >= 1 && durations[1] > durations[0]) open(times, durations);
    });
    // By the pixel, not by the point: where a percentile line crosses a cell, the nearest point is the line's.
    chart.plot.on("plotly_click", ({ event }) => {
      const { xaxis, yaxis } = chart.plot._fullLayout, { x, y } = chart.plot.getBoundingClientRect();
      const heat = chart.figure.data.find((trace) => trace.type === "heatmap");
      const at = epochTime(xaxis.p2d(event.clientX - x - xaxis._offset)), took = yaxis.p2d(event.clientY - y - yaxis._offset);
      const column = heat.x.findLastIndex((start) => start <= at), row = heat.y.findLastIndex((edge) => edge <= took);
      if (!heat.customdata[row] || !heat.customdata[row][column]) return;
      open([heat.x[column], heat.x[column + 1]], [heat.y[row], heat.y[row + 1]]);
    });
  };

  for (const element of document.querySelectorAll("[data-chart]")) {
    const chart = {
      figure: JSON.parse(element.querySelector("script[type='application/json']").textContent),
      plot: element.querySelector("[data-plot]"),
      brush: element.dataset.brush,
      linear: false,
      width: 0,
    };
    charts.push(chart);
    if (chart.brush) document.querySelectorAll("[data-brush-hint]").forEach((hint) => { hint.hidden = false; });
    const button = element.querySelector("[data-axis-switch]");
    if (button) {
      button.hidden = false;
      button.addEventListener("click", () => {
        chart.linear = !chart.linear;
        button.textContent = chart.linear ? "logarithmic axis" : "linear axis";
        draw(chart);
      });
    }
  }

  // Charts below the fold wait until they come near: a page of twelve stays quick.
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      const chart = charts.find((candidate) => candidate.plot === entry.target);
      watcher.unobserve(entry.target);
      draw(chart);
    }
  }, { rootMargin: "600px" });
  for (const chart of charts) watcher.observe(chart.plot);

  const redraw = () => charts.filter((chart) => chart.width).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
