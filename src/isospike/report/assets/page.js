"use strict";
// Draw every chart in the colours of the page, and again when the page changes between light and dark.
// The series colours are Okabe and Ito's, told apart by every kind of eye; each series also has its own dash.
const light_series = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#999999"];
const dark_series = ["#56B4E9", "#E69F00", "#2ED6A3", "#E6A5C9", "#FFFFFF", "#F0E442", "#5B9BD5", "#BBBBBB"];
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const line = style.getPropertyValue("--line").trim();
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    range: { category: dark.matches ? dark_series : light_series },
    view: { stroke: line },
    axis: { labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: text, titleColor: text, orient: "top", symbolType: "stroke", symbolSize: 250, symbolStrokeWidth: 2 },
  };
}

function draw() {
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(place.nextElementSibling.textContent);
    const options = { actions: false, renderer: "svg", config: colours(), tooltip: { theme: dark.matches ? "dark" : "light" } };
    vegaEmbed(place, spec, options).catch((error) => { place.textContent = "This chart could not be drawn: " + error.message; });
  }
}

dark.addEventListener("change", draw);
draw();
