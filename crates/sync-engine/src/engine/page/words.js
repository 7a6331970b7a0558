// Numbers, times and values as people read them.

const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : (many ?? `${one}s`)}`;
const number = (value) => value.toLocaleString("en");

// A duration in milliseconds.
function span(ms) {
  const seconds = ms / 1000;
  if (seconds < 10) return `${Number.isInteger(seconds) ? seconds : seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

const SCALES = {
  time: [
    [1, "s"],
    [60, "min"],
    [3600, "h"]
  ],
  bytes: [
    [1, "B/s"],
    [1e3, "kB/s"],
    [1e6, "MB/s"],
    [1e9, "GB/s"]
  ],
  rate: [
    [1, "/s"],
    [1e3, "k/s"],
    [1e6, "M/s"]
  ],
  count: [
    [1, ""],
    [1e3, "k"],
    [1e6, "M"]
  ]
};
// The unit in which a quantity up to `most` is best told.
const scaleFor = (kind, most) => SCALES[kind].findLast(([size]) => most >= size * (kind === "time" ? 2 : 1)) ?? SCALES[kind][0];

function quantity(kind, value, most = value) {
  const [size, unit] = scaleFor(kind, most);
  const scaled = value / size;
  const digits = scaled === 0 || scaled >= 100 || (kind === "count" && size === 1) ? 0 : scaled >= 10 ? 1 : scaled < 1 ? 2 : 1;
  return `${Number(scaled.toFixed(digits))}${unit.startsWith("/") || !unit ? "" : "\u00a0"}${unit}`;
}

// A time of the daemon, in UTC as its log has it.
const when = (text) =>
  h(
    "time",
    { datetime: text, title: `${text}` },
    String(text)
      .replace("T", " ")
      .replace(/(\.\d+)?Z$/, "")
  );

const utc = (date) => date.toISOString().slice(11, 19);

// Characters of a value that are shown.
const LONGEST = 400;

// A value of a row in one line: text in quotes, so that it is told from a number.
function literal(value) {
  if (value === null) return "NULL";
  if (value === undefined) return "";
  if (value instanceof Exact) return value.text;
  if (typeof value !== "object") return JSON.stringify(value);
  if ("$blob" in value) return `x'${value.$blob}'`;
  if ("$text" in value) return `not UTF-8: x'${value.$text}'`;
  if ("$real" in value) return value.$real;
  return `{${Object.entries(value)
    .map(([key, inner]) => `${JSON.stringify(key)}: ${literal(inner)}`)
    .join(", ")}}`;
}

const short = (text) => (text.length <= LONGEST ? text : `${text.slice(0, LONGEST)} … (${number(text.length)} characters)`);

// A key: its column is left out where it has only one.
function keyText(key) {
  const parts = Object.entries(key ?? {});
  return short(
    parts.length === 1 ? literal(parts[0][1]) : parts.map(([column, value]) => `${column} = ${literal(value)}`).join(", ")
  );
}

// A word with its sign.
const badge = (look, ...words) => h("span", { class: `badge ${look}` }, icon(look), h("span", words));

// A part of the page under a heading.
const part = (id, title, ...children) =>
  h(`section.${id}`, { id, "aria-labelledby": `${id}-title`, tabindex: "-1" }, h("h2", { id: `${id}-title` }, title), children);
