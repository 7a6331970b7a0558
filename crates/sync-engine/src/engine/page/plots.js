// Plots of the last five minutes, as SVG in pixels of the page, so that text keeps its size.

const HEIGHT = 132;
const MARGIN = { left: 58, right: 10, top: 10, bottom: 22 };
const LINES = 5;

const widths = new Map();
const watcher = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) widths.set(target.id, contentRect.width);
  redraw();
});

const PLOTS = [
  {
    id: "lag",
    title: "Lag",
    says: "how long a peer has lacked the oldest change that it lacks",
    kind: "time",
    least: 1,
    data: () => series("lag", LINES)
  },
  {
    id: "behind",
    title: "Behind",
    says: "changes that a peer has not acknowledged",
    kind: "count",
    least: 4,
    data: () => series("behind", LINES)
  },
  {
    id: "traffic",
    title: "Throughput",
    says: "bytes of messages, all peers, mean of five seconds",
    kind: "bytes",
    least: 1000,
    data: () => ({
      lines: [
        { key: "received", of: (sample) => (sample.gap ? null : sample.in) },
        { key: "sent", of: (sample) => (sample.gap ? null : sample.out) }
      ],
      others: 0
    })
  },
  {
    id: "changes",
    title: "Changes",
    says: "changes that this node has come to know, by database",
    kind: "rate",
    least: 1,
    data: () => series("changes", LINES)
  }
];

// The next round number, so that the scale moves seldom.
function roof(value, kind) {
  const [size] = scaleFor(kind, value);
  const scaled = value / size;
  const power = 10 ** Math.floor(Math.log10(scaled));
  return size * power * ([1, 2, 4, 5, 10].find((step) => scaled <= step * power * 1.0001) ?? 10);
}

function plots() {
  return part("plots", "Last five minutes", h("div.grid", PLOTS.map(plot)));
}

function plot({ id, title, says, kind, least, data }) {
  const { lines, others } = data();
  const now = samples.at(-1)?.now ?? 0;
  const width = widths.get(`plot-${id}`) ?? 0;
  const highest = Math.max(0, ...samples.flatMap((sample) => lines.map((line) => line.of(sample) ?? 0)));
  const top = roof(Math.max(highest, least), kind);
  const current = (line) => {
    const value = samples.length ? line.of(samples.at(-1)) : null;
    return value === null ? "–" : quantity(kind, value);
  };
  const told = lines.map((line) => `${line.key} ${current(line)}`).join(", ");
  return h(
    "figure.plot",
    { key: id },
    h("figcaption", h("h3", title), h("span.quiet", says)),
    h(
      "div",
      {
        id: `plot-${id}`,
        class: "canvas",
        role: "img",
        "aria-label": `${title}: ${told || "nothing yet"}; highest ${quantity(kind, highest)}`
      },
      width > MARGIN.left + 60 &&
        h(
          "svg",
          { width, height: HEIGHT },
          frame(width, top, kind),
          lines.map((line, index) => curve(line, index, now, width, top))
        )
    ),
    h(
      "ul.legend",
      lines.map((line, index) =>
        h(
          "li",
          { key: line.key },
          h(
            "svg",
            { class: `swatch line-${index}`, width: 18, height: 8, "aria-hidden": "true" },
            h("line", { x1: 0, x2: 18, y1: 4, y2: 4 })
          ),
          name(line.key),
          h("span.figure", current(line))
        )
      ),
      !lines.length && h("li", "nothing yet"),
      others > 0 && h("li", `${others} more, none higher`)
    )
  );
}

const across = (now, at, width) => MARGIN.left + (width - MARGIN.left - MARGIN.right) * (1 - (now - at) / SPAN);
const above = (value, top) => MARGIN.top + (HEIGHT - MARGIN.top - MARGIN.bottom) * (1 - value / top);

function frame(width, top, kind) {
  const heights = [0, 0.5, 1].map((part) => {
    const y = Math.round(above(part, 1)) + 0.5;
    return h(
      "g.grid-line",
      h("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }),
      h("text", { x: MARGIN.left - 7, y: y + 4, "text-anchor": "end" }, quantity(kind, top * part, top))
    );
  });
  const minutes = [5, 4, 3, 2, 1, 0].map((minute) => {
    const x = Math.round(across(0, -minute * 60000, width));
    const anchor = minute === 0 ? "end" : "middle";
    return h(
      "text",
      { x: minute === 0 ? width - MARGIN.right + 4 : x, y: HEIGHT - 5, "text-anchor": anchor },
      minute === 0 ? "now" : `−${minute} min`
    );
  });
  return [h("g", heights), h("g", width > 300 ? minutes : [minutes[0], minutes[5]])];
}

function curve(line, index, now, width, top) {
  const runs = [[]];
  let before = null;
  for (const sample of samples) {
    const value = now - sample.now > SPAN ? null : line.of(sample);
    if (value === null || (before !== null && sample.now - before > GAP)) runs.push([]);
    if (value !== null) {
      runs.at(-1).push(`${across(now, sample.now, width).toFixed(1)},${above(Math.min(value, top), top).toFixed(1)}`);
      before = sample.now;
    }
  }
  return h(
    "g",
    { key: line.key, class: `curve line-${index}` },
    runs
      .filter((run) => run.length)
      .map((run) => h("polyline", { points: run.length > 1 ? run.join(" ") : `${run[0]} ${run[0]}` }))
  );
}

// Has the plots drawn to the width that they have.
function measure() {
  for (const { id } of PLOTS) {
    const node = byId(`plot-${id}`);
    if (node && !widths.has(node.id)) {
      widths.set(node.id, node.clientWidth);
      watcher.observe(node);
    }
  }
}
