// The databases, and what stands in the way of each.

/** Databases that are shown before somebody asks for all; those in trouble are among them. */
const FIRST = 12;
let allDatabases = false;

const DATABASE_LOOKS = { attached: "good", opening: "busy", migrating: "busy", missing: "bad", failed: "bad" };
const inTrouble = (database) => DATABASE_LOOKS[database.state] === "bad" || database.errors.length > 0;

function databases(status) {
  const sorted = [...status.databases].sort((one, other) => inTrouble(other) - inTrouble(one) || (one.name < other.name ? -1 : 1));
  const hidden = allDatabases ? 0 : Math.max(0, sorted.length - FIRST);
  const columns = ["Database", "State", "Peers", "Backlog", "Parked", "Conflicts"];
  return h("section", { class: "databases", "aria-labelledby": "databases-title" },
    h("h2", { id: "databases-title" }, "Databases"),
    !sorted.length ? h("p", { class: "empty" }, "None: this engine keeps no files.") : h("table", { role: "table" },
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map((title, index) =>
        h("th", { scope: "col", role: "columnheader", class: index > 2 ? "figure" : null }, title)))),
      sorted.slice(0, sorted.length - hidden).map((database) => databaseRows(database, status.peers))),
    hidden > 0 && button(`Show all ${number(sorted.length)} databases`, () => { allDatabases = true; redraw(); }));
}

function databaseRows(database, peers) {
  const notes = notesOf(database);
  const cell = (label, className, ...content) => h("td", { role: "cell", class: className, "data-label": label }, content);
  const count = (label, value, link) => cell(label, `figure${value ? " some" : ""}`, link && value ? h("a", { href: "#conflicts" }, number(value)) : number(value));
  return h("tbody", { key: database.name, role: "rowgroup" },
    h("tr", { role: "row" },
      h("th", { scope: "row", role: "rowheader" }, name(database.name), h("span", { class: "quiet path" }, database.path)),
      cell("State", null, badge(DATABASE_LOOKS[database.state] ?? "warn", database.state),
        h("span", { class: "quiet" }, `${plural(database.tables.length, "table")}, change ${number(database.sequence)}`)),
      cell("Peers", null, peersOf(database, peers)),
      count("Backlog", database.backlog), count("Parked", database.parked), count("Conflicts", database.conflicts, true)),
    notes.length > 0 && h("tr", { class: "more", role: "row" }, h("td", { colspan: 6, role: "cell" }, notes)));
}

function peersOf(database, peers) {
  const having = peers.flatMap((peer) => {
    const shared = peer.databases.find((known) => known.name === database.name);
    if (!shared) return [];
    const away = peer.state !== "connected";
    const text = away ? "not connected" : peer.read_only_there ? "takes nothing from here" : shared.behind ? behindText(shared) : "equal";
    return [{ key: peerName(peer), look: away ? "bad" : peer.read_only_there ? "idle" : shared.behind ? "warn" : "good", text }];
  });
  if (!having.length) return h("span", { class: "quiet" }, "no peer has it");
  const equal = having.filter((peer) => peer.text === "equal");
  // Many that are equal are one line.
  const shown = equal.length > 4 ? having.filter((peer) => peer.text !== "equal") : having;
  return h("ul", { class: "plain" },
    shown.map(({ key, look, text }) => h("li", { key }, name(key), " ", badge(look, text))),
    shown !== having && h("li", null, badge("good", `${number(equal.length)} peers are equal`)));
}

/** Errors and warnings as they stand, the rest to be opened. */
function notesOf(database) {
  const error = (text) => h("p", { key: `error ${text}` }, badge("bad", "error"), " ", h("span", { class: "reason" }, text));
  const warning = ({ kind, table, reason, remedy }) => h("li", { key: `${kind} ${table} ${reason}` },
    table && [name(table), ": "], reason, h("span", { class: "remedy" }, remedy));
  const orphans = database.foreign_key_missing;
  const waiting = database.tombstones.waiting_for;
  return [
    ...database.errors.map(error),
    folded("warnings", "warn", plural(database.warnings.length, "warning"), database.warnings.map(warning)),
    folded("unsynced", "idle", `${plural(database.unsynced.length, "table")} not synced`, database.unsynced.map(({ table, reason }) =>
      h("li", { key: table }, name(table), ": ", reason))),
    folded("orphans", "warn", `${plural(orphans.count, "row")} whose parents are not here`, orphans.first.map(({ table, key, parent }) =>
      h("li", { key: `${table} ${JSON.stringify(key)}` }, name(table), ` ${JSON.stringify(key)} lacks ${JSON.stringify(parent)}`))),
    folded("deletions", "note", `${plural(database.tombstones.kept, "deletion")} remembered for ${plural(waiting.length, "node")}`, waiting.map((node) => h("li", { key: node }, name(node)))),
    database.passed_on > 0 && h("p", { key: "passed on" }, badge("note", `${plural(database.passed_on, "change")} kept only to be passed on`)),
  ].filter(Boolean);
}

const folded = (key, look, title, items) => items.length > 0 && h("details", { key }, h("summary", null, h("span", { class: `badge ${look}` }, icon(look), h("span", null, title))), h("ul", null, items));
