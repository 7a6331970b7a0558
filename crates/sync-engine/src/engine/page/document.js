// What is shown. Each view says all that there is to see; `show` changes of the document only what differs, so that focus, selection,
// opened details and places in lists stay. Data becomes text and values of attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";
const drawn = new Set(["svg", "path", "line", "polyline", "text", "g", "circle"]);

// An element: its name and classes, its attributes if any (`key` tells it from its siblings, `on` holds listeners, `css` variables), and
// what it holds.
function h(selector, ...children) {
  const [tag, ...classes] = selector.split(".");
  const given = children[0]?.constructor === Object && !children[0].tag ? children.shift() : {};
  return { tag, attributes: classes.length ? { class: classes.join(" "), ...given } : given, children };
}

// Makes what `parent` holds the same as `wanted`, in which null, false and the empty text are nothing.
function show(parent, wanted) {
  const present = parent.shown ?? new Map();
  if (!parent.shown) parent.replaceChildren();
  const counts = {};
  const next = new Map();
  for (const item of wanted.flat(Infinity)) {
    if (item == null || item === false || item === "") continue;
    const kind = item.tag ?? "#text";
    const key = `${kind} ${item.attributes?.key ?? (counts[kind] = (counts[kind] ?? 0) + 1)}`;
    next.set(key, item);
  }
  // First what goes: nothing that stays has to move then, which would take the focus from it.
  for (const [key, node] of present)
    if (!next.has(key)) {
      node.remove();
      present.delete(key);
    }
  let place = parent.firstChild;
  for (const [key, item] of next) {
    let node = present.get(key);
    if (!node) {
      node =
        item.tag === undefined
          ? new Text()
          : drawn.has(item.tag)
            ? document.createElementNS(SVG, item.tag)
            : document.createElement(item.tag);
      present.set(key, node);
    }
    if (node === place) place = node.nextSibling;
    else parent.insertBefore(node, place);
    if (item.tag === undefined) {
      const text = String(item);
      if (node.data !== text) node.data = text;
    } else adjust(node, item);
  }
  parent.shown = present;
}

function adjust(node, { attributes, children }) {
  const before = node.attributesShown ?? {};
  for (const name in { ...before, ...attributes }) {
    const value = attributes[name];
    if (name === "key" || name === "on" || name === "css" || value === before[name]) continue;
    if (value == null || value === false) node.removeAttribute(name);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const name in attributes.css ?? {}) {
    if (before.css?.[name] !== attributes.css[name]) node.style.setProperty(name, attributes.css[name]);
  }
  node.heard ??= {};
  for (const type in attributes.on ?? {}) {
    if (!(type in node.heard)) node.addEventListener(type, (event) => node.heard[type]?.(event));
  }
  Object.assign(node.heard, attributes.on);
  node.attributesShown = attributes;
  // What a field holds is its user's.
  if (!(node instanceof HTMLInputElement)) show(node, children);
}

const byId = (id) => document.getElementById(id);

const SHAPES = {
  good: "M3 8.5l3.2 3.2L13 5",
  going: "M8 3v5l3 2M8 1.5a6.5 6.5 0 1 0 .01 0",
  bad: "M4 4l8 8M12 4l-8 8",
  warn: "M8 2.5l6 11H2zM8 6.5v3.2M8 11.6v.3",
  idle: "M3 8h10",
  note: "M8 7v6M8 2.9v.4",
  both: "M2 5.5h10M9 2.5l3 3-3 3M14 10.5H4M7 7.5l-3 3 3 3",
  out: "M2 8h11M9 4l4 4-4 4",
  in: "M14 8H3M7 4L3 8l4 4"
};
// A sign that says by its shape what its colour says too. The words stand beside it.
const icon = (name) =>
  h("svg", { class: `icon ${name}`, viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: SHAPES[name] }));

// Text of others, whose direction of writing must not turn around what stands beside it.
const name = (text, more) => h("bdi.name", { ...more }, text);

const button = (text, click, more) => h("button", { type: "button", on: { click }, ...more }, text);

let unsaid = [];
let saying = 0;
// Has screen readers say something, not more often than every few seconds.
function say(text) {
  if (!unsaid.includes(text)) unsaid.push(text);
  if (saying) return;
  const speak = () => {
    const texts = unsaid.splice(0);
    if (texts.length)
      byId("said").textContent =
        texts.length > 3 ? `${texts.slice(0, 3).join(". ")}, and ${texts.length - 3} more` : texts.join(". ");
    saying = texts.length ? setTimeout(speak, 3000) : 0;
  };
  saying = setTimeout(speak, 100);
}
