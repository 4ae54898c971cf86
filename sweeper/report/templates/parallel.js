"use strict";
// Parallel coordinates as SVG: plotly's need WebGL, and `unsafe-eval`, which the page's policy refuses.
(() => {
  const TOP = 30; // pixels, above the axes
  const BOTTOM = 10;
  const RIGHT = 66; // for the labels of the accuracy
  const DIGIT = 6.4; // pixels, of a character of a tick's label
  const FOOT = -0.2; // of an axis, which stands from 0 to 1: below it pass the trials that lack its parameter
  const HEAD = 1.05;

  function make(tag, attributes, parent, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  // Cubic curves that are level where they cross an axis.
  function curve(xs, ys) {
    const bends = xs.slice(1).map((x, i) => {
      const reach = 0.45 * (x - xs[i]);
      return `C${xs[i] + reach} ${ys[i]} ${x - reach} ${ys[i + 1]} ${x} ${ys[i + 1]}`;
    });
    return `M${xs[0]} ${ys[0]}${bends.join("")}`;
  }

  // A colour of the page's ramp, from the worst at 0 to the best at 1.
  function ramp(share) {
    const step = Math.min(2, Math.floor(3 * share));
    const percent = Math.round(100 * (3 * share - step));
    return `color-mix(in oklab, var(--ramp-${step + 1}) ${percent}%, var(--ramp-${step}))`;
  }

  function draw(root, { axes, lines }, brushes) {
    const width = root.clientWidth;
    const height = root.clientHeight;
    const label = Math.max(...axes[0].ticks.map(([, text]) => text.length));
    const left = Math.max(10 + DIGIT * label, (DIGIT * axes[0].name.length) / 2 + 8);
    const step = (width - left - RIGHT) / (axes.length - 1);
    const xs = axes.map((_, i) => left + i * step);
    const y = (share) => height - BOTTOM - ((share - FOOT) / (HEAD - FOOT)) * (height - TOP - BOTTOM);
    const share = (pixel) => FOOT + ((height - BOTTOM - pixel) / (height - TOP - BOTTOM)) * (HEAD - FOOT);
    const svg = make("svg", { width, height, "aria-hidden": "true" }, root);
    const paths = lines.map((line, i) => {
      const isBest = i === lines.length - 1;
      const style = isBest ? "" : `stroke: ${ramp(line.shares.at(-1))}`;
      const path = make("path", { d: curve(xs, line.shares.map(y)), style, class: isBest ? "best" : "" }, svg);
      make("title", {}, path, line.text);
      return path;
    });
    const status = root.parentElement.querySelector("[role=status]");
    const filter = () => {
      let kept = 0;
      lines.forEach((line, i) => {
        const passes = axes.every((_, a) => !brushes[a] || (line.shares[a] >= brushes[a][0] && line.shares[a] <= brushes[a][1]));
        paths[i].classList.toggle("out", !passes);
        kept += passes;
      });
      status.textContent = brushes.some(Boolean) ? `${kept} of ${lines.length} trials pass.` : "";
    };
    axes.forEach((axis, a) => drawAxis(svg, axis, xs[a], y, share, a === axes.length - 1, (range) => {
      brushes[a] = range;
      filter();
    }, brushes[a]));
    filter();
  }

  function drawAxis(svg, axis, x, y, share, isLast, changed, range) {
    const group = make("g", {}, svg);
    make("line", { x1: x, x2: x, y1: y(0), y2: y(1) }, group);
    make("text", { x, y: TOP - 16, class: "name" }, group, axis.name);
    for (const [at, text] of axis.ticks) {
      make("line", { x1: x - 3, x2: x + 3, y1: y(at), y2: y(at) }, group);
      make("text", { x: isLast ? x + 8 : x - 8, y: y(at) + 4, class: isLast ? "after" : "before" }, group, text);
    }
    const brush = make("rect", { x: x - 8, width: 16, class: "brush", height: 0 }, group);
    const show = (low, high) => {
      brush.setAttribute("y", y(high));
      brush.setAttribute("height", Math.max(0, y(low) - y(high)));
    };
    if (range) show(...range);
    const area = make("rect", { x: x - 14, width: 28, y: y(HEAD), height: y(FOOT) - y(HEAD), class: "area" }, group);
    const at = (event) => share(event.clientY - svg.getBoundingClientRect().top);
    let from = null;
    area.addEventListener("pointerdown", (event) => {
      from = at(event);
      area.setPointerCapture(event.pointerId);
    });
    area.addEventListener("pointermove", (event) => {
      if (from === null) return;
      const ends = [from, at(event)].sort((a, b) => a - b);
      show(...ends);
      changed(ends);
    });
    area.addEventListener("pointerup", (event) => {
      if (Math.abs(at(event) - from) < 0.01) {
        brush.setAttribute("height", 0); // a click lets go
        changed(null);
      }
      from = null;
    });
  }

  for (const root of document.querySelectorAll("[data-parallel]")) {
    const data = JSON.parse(root.nextElementSibling.textContent);
    const brushes = data.axes.map(() => null);
    new ResizeObserver(() => {
      root.replaceChildren();
      draw(root, data, brushes);
    }).observe(root);
  }
})();
