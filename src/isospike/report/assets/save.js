"use strict";
// Every chart is saved as SVG, on white, and as CSV; every table as CSV and as LaTeX.

function csv_of(rows) {
  const cell = (value) => (/[",\r\n]/.test(value) ? '"' + value.replaceAll('"', '""') + '"' : value);
  return rows.map((row) => row.map((value) => cell(String(value ?? ""))).join(",") + "\r\n").join("");
}

function latex_of(rows) {
  const signs = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
  const cell = (value) => String(value ?? "").replace(/[\\~^&%$#_{}]/g, (sign) => signs[sign] ?? "\\" + sign);
  const [head, ...body] = rows.map((row) => "  " + row.map(cell).join(" & ") + " \\\\");
  const open = "\\begin{tabular}{l" + "r".repeat(rows[0].length - 1) + "}";
  return [open, "  \\toprule", head, "  \\midrule", ...body, "  \\bottomrule", "\\end{tabular}", ""].join("\n");
}

function rows_of(table) {
  return [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent));
}

async function svg_of(figure) {
  const spec = spec_of(figure);
  if (spec.width === "container") spec.width = figure.querySelector(".chart").clientWidth - 80; // beside the axis
  const config = { ...themes.light, background: "white" };
  const drawn = await vegaEmbed(document.createElement("div"), spec, { actions: false, renderer: "svg", config });
  const svg = await drawn.view.toSVG();
  drawn.finalize();
  return svg;
}

function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A row of buttons; each has its words, the ending of the file, its type, and a function that makes the text.
function fill(bar, title, buttons) {
  bar.className = "save";
  const stem = (document.title + " " + title).toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  for (const [words, ending, type, make] of buttons) {
    const button = document.createElement("button");
    const name = stem + "." + ending;
    button.type = "button";
    button.textContent = words;
    button.title = "Save " + name;
    button.onclick = async () => download(name, type, await make());
    bar.append(button);
  }
  return bar;
}

function heading_of(place) {
  return place.closest("section").querySelector("h2").textContent;
}

for (const place of document.querySelectorAll(".chart")) {
  const figure = place.closest("figure");
  fill(figure.querySelector(".save"), spec_of(figure).description, [
    ["SVG", "svg", "image/svg+xml", () => svg_of(figure)],
    ["CSV", "csv", "text/csv", () => csv_of(numbers_of(spec_of(figure)))],
  ]);
}

for (const table of document.querySelectorAll(".wide > table")) {
  const buttons = [
    ["CSV", "csv", "text/csv", () => csv_of(rows_of(table))],
    ["LaTeX", "tex", "text/x-tex", () => latex_of(rows_of(table))],
  ];
  table.parentElement.after(fill(document.createElement("div"), heading_of(table) + " table", buttons));
}

for (const picture of document.querySelectorAll("section > .wide > svg")) {
  const buttons = [["SVG", "svg", "image/svg+xml", () => new XMLSerializer().serializeToString(picture)]];
  picture.parentElement.after(fill(document.createElement("div"), heading_of(picture), buttons));
}
