"use strict";
(() => {
  const OPTIONS = {
    displaylogo: false,
    responsive: true,
    modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
  };
  const PRINTED_WIDTH = 680; // pixels: a page of A4 within its margins
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let isDark = dark.matches; // read once: in Chromium, reading it while it changes loses the event
  const toDark = JSON.parse(document.getElementById("dark").textContent);
  const charts = [...document.querySelectorAll("[data-chart]")];

  function themed(json, inDark) {
    const replace = (color) => toDark[color.toUpperCase()] ?? color;
    return JSON.parse(inDark ? json.replace(/#[0-9a-f]{6}\b/gi, replace) : json);
  }

  function draw(div, inDark, width) {
    const { data, layout } = themed(div.nextElementSibling.textContent, inDark);
    return Plotly.react(div, data, width ? { ...layout, width } : layout, OPTIONS);
  }

  // One chart at a time, so that the page answers while it is being drawn, and one round after the other.
  let round = Promise.resolve();
  const redraw = () => (round = round.then(drawAll));

  async function drawAll() {
    for (const div of charts) {
      await draw(div, isDark);
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.drawn = charts.length;
  }

  function compare(first, second) {
    if (first === "" || second === "") return (first === "") - (second === ""); // what is missing comes last
    const [a, b] = [Number(first), Number(second)];
    return Number.isNaN(a) || Number.isNaN(b) ? first.localeCompare(second, "en", { numeric: true }) : a - b;
  }

  function sort(table, column, header) {
    const descending = header.ariaSort === "ascending";
    const orders = new Map([...table.tBodies[0].rows].map((row) => {
      const cell = row.cells[column];
      return [row, cell.dataset.order ?? cell.textContent.trim().replace(/,/g, "")];
    }));
    const rows = [...orders.keys()].sort((one, other) => {
      const [a, b] = [orders.get(one), orders.get(other)];
      return descending && a !== "" && b !== "" ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows);
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.ariaSort = descending ? "descending" : "ascending";
  }

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      button.addEventListener("click", () => sort(table, column, header));
      header.append(button);
    });
  }

  if (charts.length) {
    redraw();
    dark.addEventListener("change", (event) => {
      isDark = event.matches;
      redraw();
    });
    addEventListener("beforeprint", () => charts.forEach((div) => draw(div, false, PRINTED_WIDTH)));
    addEventListener("afterprint", redraw);
  }
})();
