// What happened last: the events of the log, and on request the changes of rows as they come.

const SHOWN = 200;
const LEVELS = { ERROR: ["bad", "error"], WARN: ["warn", "warning"], INFO: ["note", "info"] };

let events = [];
let eventsAfter = 0;
let loud = false;

/** Asks for events that are new. Those of a daemon that was started anew come after the others. */
async function loadEvents() {
  const fresh = await get(`/v1/events?after=${eventsAfter}`);
  if (!fresh.length) return;
  const first = eventsAfter === 0;
  eventsAfter = fresh.at(-1).number;
  events = [...events, ...fresh].slice(-SHOWN);
  for (const event of first ? [] : fresh) if (event.event === "sync_error") say(`Error: ${event.reason ?? event.kind}`);
}

function recent() {
  const chosen = events.filter((event) => !loud || event.level === "ERROR" || event.level === "WARN").reverse();
  return h("section", { class: "events", "aria-labelledby": "events-title" },
    h("h2", { id: "events-title" }, "Recent events"),
    h("label", { class: "check" }, h("input", { type: "checkbox", on: { change: (event) => { loud = event.target.checked; redraw(); } } }), "Only warnings and errors"),
    !chosen.length && h("p", { class: "empty" }, "Nothing yet."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Recent events" }, h("ol", null, chosen.map(eventLine))));
}

function eventLine(event) {
  const { number: key, time, level, event: what, reason, remedy, ...fields } = event;
  const [look, word] = LEVELS[level] ?? LEVELS.INFO;
  return h("li", { key }, when(time), h("span", { class: `badge ${look}` }, icon(look), h("span", { class: "unseen" }, word), h("code", null, what)),
    h("span", { class: "fields" }, Object.entries(fields).map(([field, value]) => h("span", { key: field }, h("span", { class: "quiet" }, `${field}=`), h("bdi", null, short(String(value))))),
      reason !== undefined && h("span", { key: "reason", class: "reason" }, String(reason)),
      remedy !== undefined && h("span", { key: "remedy", class: "remedy" }, String(remedy))));
}

const stream = { wanted: false, state: "", ended: null, lastId: null, changes: [], count: 0 };

/** Follows changes until nobody wants to any more. Not without being asked: the first that follows has the daemon note all rows. */
async function followChanges() {
  if (!stream.wanted || stream.ended) return;
  stream.ended = new AbortController();
  stream.state = "following";
  redraw();
  try {
    await follow("/v1/changes", stream.lastId, stream.ended.signal, (kind, data, id) => {
      stream.lastId = id ?? stream.lastId;
      if (kind === "gone") { stream.lastId = null; stream.state = read(data).error; }
      if (kind !== "change") return;
      stream.changes = [...stream.changes.slice(-99), { ...read(data), number: (stream.count += 1) }];
      redraw();
    });
  } catch (error) {
    if (error.status === 410) stream.lastId = null;
    else if (error.status) { stream.wanted = error.status === 503; stream.state = error.status === 404 ? "This daemon tells no changes." : error.message; }
  } finally {
    stream.ended = null;
    if (stream.state === "following") stream.state = stream.wanted ? "cut off, is tried again" : "";
    redraw();
  }
}

function toggleStream() {
  stream.wanted = !stream.wanted;
  if (stream.wanted) followChanges(); else stream.ended?.abort();
  redraw();
}

const OPERATIONS = { insert: "good", update: "note", delete: "bad" };

function changes() {
  const lines = stream.changes.toReversed();
  return h("section", { class: "events", "aria-labelledby": "changes-title" },
    h("h2", { id: "changes-title" }, "Changes of rows"),
    h("p", null, button(stream.wanted ? "Stop" : "Follow changes", toggleStream), " ", h("span", { class: "quiet" }, stream.state || (stream.wanted ? "" : "shows each change as it comes, whichever node wrote it"))),
    lines.length > 0 && h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Changes of rows" }, h("ol", null, lines.map((change) =>
      h("li", { key: change.number }, when(change.timestamp), h("span", { class: `badge ${OPERATIONS[change.op]}` }, h("code", null, change.op)),
        h("span", { class: "fields" }, h("span", null, name(change.table), " ", h("bdi", { class: "value" }, keyText(change.key))),
          change.row && change.changed.filter((column) => !(column in change.key)).slice(0, 8).map((column) => h("span", { key: column }, h("span", { class: "quiet" }, `${column}=`), h("bdi", null, short(literal(change.row[column]))))),
          h("span", { class: "quiet" }, change.local ? "written here" : ["from ", name(change.node)])))))));
}
