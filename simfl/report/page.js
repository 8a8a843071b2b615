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

// Paper is white and narrow whatever the screen is.
const paper = document.documentElement.classList;
addEventListener("beforeprint", () => { paper.add("printed"); draw(640); });
addEventListener("afterprint", () => { paper.remove("printed"); draw(); });

draw().then(() => { document.body.dataset.drawn = figures.length; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
