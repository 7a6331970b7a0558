// What happened last: the events of the log, and on request the changes of rows as they come.

const SHOWN = 200;
const LEVELS = { ERROR: ["bad", "error"], WARN: ["warn", "warning"], INFO: ["note", "info"] };

let events = [];
let eventsAfter = 0;
let loud = false;

// Asks for events that are new. Those of a daemon that was started anew come after the others.
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
  return part(
    "events",
    "Recent events",
    h(
      "label.check",
      h("input", {
        type: "checkbox",
        on: {
          change: (event) => {
            loud = event.target.checked;
            redraw();
          }
        }
      }),
      "Only warnings and errors"
    ),
    !chosen.length && h("p.empty", "Nothing yet."),
    h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Recent events" }, h("ol", chosen.map(eventLine)))
  );
}

function eventLine(event) {
  const { number: key, time, level, event: what, reason, remedy, ...fields } = event;
  const [look, word] = LEVELS[level] ?? LEVELS.INFO;
  return h(
    "li",
    { key },
    when(time),
    badge(look, h("span.unseen", `${word} `), h("code", what)),
    h(
      "span.fields",
      Object.entries(fields).map(([field, value]) =>
        h("span", { key: field }, h("span.quiet", `${field}=`), h("bdi", short(String(value))))
      ),
      reason !== undefined && h("span", { key: "reason", class: "reason" }, String(reason)),
      remedy !== undefined && h("span", { key: "remedy", class: "remedy" }, String(remedy))
    )
  );
}

const stream = { wanted: false, state: "", ended: null, lastId: null, changes: [], count: 0 };

// Follows changes until nobody wants to any more. Not without being asked: the first that follows has the daemon note all rows.
async function followChanges() {
  if (!stream.wanted || stream.ended) return;
  stream.ended = new AbortController();
  try {
    await follow("/v1/changes", stream.lastId, stream.ended.signal, (kind, data, id) => {
      stream.lastId = id ?? stream.lastId;
      if (kind === "open") stream.state = "following";
      if (kind === "gone") {
        stream.lastId = null;
        stream.state = read(data).error;
      }
      if (kind === "change") stream.changes = [...stream.changes.slice(-99), { ...read(data), number: (stream.count += 1) }];
      redraw();
    });
  } catch (error) {
    if (error.status === 410) stream.lastId = null;
    else if (error.status) {
      stream.wanted = error.status === 503;
      stream.state = error.status === 404 ? "This daemon tells no changes." : error.message;
    }
  } finally {
    stream.ended = null;
    if (stream.state === "following") stream.state = stream.wanted ? "cut off, is tried again" : "";
    redraw();
  }
}

function toggleStream() {
  stream.wanted = !stream.wanted;
  if (stream.wanted) followChanges();
  else stream.ended?.abort();
  redraw();
}

const OPERATIONS = { insert: "good", update: "note", delete: "bad" };

function changes() {
  const lines = stream.changes.toReversed();
  return part(
    "changes",
    "Changes of rows",
    h(
      "p",
      button(stream.wanted ? "Stop" : "Follow changes", toggleStream),
      " ",
      h("span.quiet", stream.state || (stream.wanted ? "" : "shows each change as it comes, whichever node wrote it"))
    ),
    lines.length > 0 &&
      h(
        "div.scroll",
        { tabindex: "0", role: "region", "aria-label": "Changes of rows" },
        h(
          "ol",
          lines.map((change) =>
            h(
              "li",
              { key: change.number },
              when(change.timestamp),
              badge(OPERATIONS[change.op], h("code", change.op)),
              h(
                "span.fields",
                h("span", name(change.table), " ", h("bdi.value", keyText(change.key))),
                change.row &&
                  change.changed
                    .filter((column) => !(column in change.key))
                    .slice(0, 8)
                    .map((column) =>
                      h("span", { key: column }, h("span.quiet", `${column}=`), h("bdi", short(literal(change.row[column]))))
                    ),
                h("span.quiet", change.local ? "written here" : ["from ", name(change.node)])
              )
            )
          )
        )
      )
  );
}
