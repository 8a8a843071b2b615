"use strict";
// Figures carry the runs' colours only; those of text and grid are the page's, light or dark.
const figures = JSON.parse(document.getElementById("figures").textContent);
// Two buttons, named here: plotly's own set has one that uploads the chart.
const config = {
  displaylogo: false, responsive: true, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtons: [["toImage", "resetScale2d"]],
};

function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = (own) => ({
    ...own, gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
  });
  return {
    ...layout,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--faint") },
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
    hoverlabel: {
      bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") },
    },
    modebar: {
      bgcolor: "rgba(0,0,0,0)", color: colour("--faint"), activecolor: colour("--accent"),
    },
  };
}

function draw(width) {
  return Promise.all(figures.map((figure, number) => Plotly.react(
    `chart-${number}`, figure.data, { ...themed(figure.layout), width }, config)));
}

function redraw(number) {
  const figure = figures[number];
  return Plotly.react(`chart-${number}`, figure.data, themed(figure.layout), config);
}

// What the legend has switched off is gone from the chart, or from all of them.
function apply(legend) {
  const shown = new Map([...legend.querySelectorAll("button")].map(
    (button) => [button.dataset.label.replaceAll("<", "&lt;"), button.ariaPressed === "true"]));
  figures.forEach((figure, number) => {
    const traces = figure.data.filter((trace) => shown.has(trace.legendgroup));
    if (!traces.length || !["", String(number)].includes(legend.dataset.chart)) return;
    for (const trace of traces) trace.visible = shown.get(trace.legendgroup);
    redraw(number);
  });
}

for (const legend of document.querySelectorAll(".legend")) {
  const buttons = [...legend.querySelectorAll("button")];
  const press = (button, on) => { button.ariaPressed = String(on); };
  legend.title = "A click hides or shows, a double click shows this one only.";
  for (const chosen of buttons) {
    chosen.addEventListener("click", () => {
      press(chosen, chosen.ariaPressed !== "true");
      apply(legend);
    });
    // Its two clicks have changed nothing.
    chosen.addEventListener("dblclick", () => {
      const isAlone = buttons.every((button) => (button === chosen) === (button.ariaPressed === "true"));
      for (const button of buttons) press(button, isAlone || button === chosen);
      apply(legend);
    });
  }
}

// Paper is white and narrow whatever the screen is.
const paper = document.documentElement.classList;
addEventListener("beforeprint", () => { paper.add("printed"); draw(640); });
addEventListener("afterprint", () => { paper.remove("printed"); draw(); });

draw().then(() => { document.body.dataset.drawn = figures.length; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
