"use strict";
// Draw every chart in the colours of the page, and again when the page changes between light and dark.
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function spec_of(figure) {
  return JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
}

function draw(figure) {
  const place = figure.querySelector(".chart");
  const mode = dark.matches ? "dark" : "light";
  const spec = spec_of(figure);
  place.dataset.mode = mode;
  // SVG prints sharply; thousands of its elements would make the page of a deep network slow.
  const renderer = spec.data.values.length > 1000 ? "canvas" : "svg";
  const options = { actions: false, renderer, config: themes[mode], tooltip: { theme: mode } };
  return vegaEmbed(place, spec, options).then(
    (drawn) => listen(place, spec, drawn.view),
    (error) => { place.textContent = "This chart could not be drawn: " + error.message; },
  );
}

// What the pointer does with lines, by keyboard: a digit picks one, + and - zoom, arrows move, Escape shows all again.
function listen(place, spec, view) {
  if (!spec.layer) return;
  const names = [...new Set(spec.data.values.map((point) => point.series))];
  place.onkeydown = (event) => {
    const [low, high] = view.scale("x").domain();
    const part = (high - low) / 4;
    const moves = {
      "+": [low + part, high - part],
      "-": [low - 2 * part, high + 2 * part],
      ArrowLeft: [low - part, high - part],
      ArrowRight: [low + part, high + part],
    };
    const name = names[Number(event.key) - 1];
    if (event.key in moves) view.signal("zoom_x", moves[event.key]);
    else if (name !== undefined) view.data("picked_store", [{ fields: [{ type: "E", field: "series" }], values: [name] }]);
    else if (event.key === "Escape") view.signal("zoom_x", null).data("picked_store", []);
    else return;
    event.preventDefault();
    view.runAsync();
  };
}

// Those in view first, the others one by one, so that the page can be read and scrolled meanwhile.
let round = 0;
async function draw_all() {
  const mine = ++round;
  const figures = [...document.querySelectorAll(".chart")].map((place) => place.closest("figure"));
  const distance = (figure) => Math.abs(figure.getBoundingClientRect().top);
  figures.sort((a, b) => distance(a) - distance(b));
  for (const figure of figures) {
    if (mine !== round) return;
    await draw(figure);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

// Heads and rows of what a chart shows.
function numbers_of(spec) {
  const rows = spec.data.values;
  const heads = [...new Set(rows.slice(0, 1000).flatMap(Object.keys))];
  return [heads, ...rows.map((row) => heads.map((head) => row[head]))];
}

// The numbers of a chart as a table, for those who do not hover; made when it is opened.
function tabulate(details) {
  if (!details.open || details.querySelector("table")) return;
  const [heads, ...rows] = numbers_of(spec_of(details.closest("figure")));
  const table = document.createElement("table");
  const add = (row, tag) => {
    const line = table.insertRow();
    for (const value of row) line.appendChild(document.createElement(tag)).textContent = value ?? "";
  };
  add(heads, "th");
  for (const row of rows) add(row, "td");
  const wide = document.createElement("div");
  wide.className = "wide numbers";
  wide.tabIndex = 0;
  wide.append(table);
  details.append(wide);
}

for (const details of document.querySelectorAll("details.data")) details.addEventListener("toggle", () => tabulate(details));
dark.addEventListener("change", draw_all);
draw_all();
