// The databases, and what stands in the way of each.

// Databases that are shown before somebody asks for all; those that need a look come first.
const FIRST = 12;
let allDatabases = false;

const DATABASE_LOOKS = { attached: "good", opening: "going", migrating: "going", missing: "bad", failed: "bad" };
const inTrouble = (database) => DATABASE_LOOKS[database.state] === "bad" || database.errors.length > 0;

// Numbers that change from one moment to the next do not count: rows should stay where they are.
const urgency = (database) => 2 * inTrouble(database) + (database.conflicts + database.parked > 0);

function databases(status) {
  const sorted = [...status.databases].sort((one, other) => urgency(other) - urgency(one) || (one.name < other.name ? -1 : 1));
  const having = new Map(sorted.map((database) => [database.name, []]));
  for (const peer of status.peers) for (const shared of peer.databases) having.get(shared.name)?.push({ peer, shared });
  const hidden = allDatabases ? 0 : Math.max(0, sorted.length - FIRST);
  const columns = ["Database", "State", "Peers", "Backlog", "Parked", "Conflicts"];
  return part(
    "databases",
    "Databases",
    !sorted.length
      ? h("p.empty", "None: this engine keeps no files.")
      : h(
          "table",
          { role: "table" },
          h(
            "thead",
            { role: "rowgroup" },
            h(
              "tr",
              { role: "row" },
              columns.map((title, index) =>
                h("th", { scope: "col", role: "columnheader", class: index > 2 ? "figure" : null }, title)
              )
            )
          ),
          sorted.slice(0, sorted.length - hidden).map((database) => databaseRows(database, having.get(database.name)))
        ),
    hidden > 0 &&
      button(`Show all ${number(sorted.length)} databases`, () => {
        allDatabases = true;
        redraw();
      })
  );
}

function databaseRows(database, peers) {
  const notes = notesOf(database);
  const cell = (label, className, ...content) => h("td", { role: "cell", class: className, "data-label": label }, content);
  const count = (label, value, link) =>
    cell(label, `figure${value ? " some" : ""}`, link && value ? h("a", { href: "#conflicts" }, number(value)) : number(value));
  return h(
    "tbody",
    { key: database.name, role: "rowgroup" },
    h(
      "tr",
      { role: "row" },
      h("th", { scope: "row", role: "rowheader" }, name(database.name), h("span.quiet.path", database.path)),
      cell(
        "State",
        null,
        badge(DATABASE_LOOKS[database.state] ?? "warn", database.state),
        h("span.quiet", `${plural(database.tables.length, "table")}, change ${number(database.sequence)}`)
      ),
      cell("Peers", null, peersOf(peers)),
      count("Backlog", database.backlog),
      count("Parked", database.parked),
      count("Conflicts", database.conflicts, true)
    ),
    notes.length > 0 && h("tr.more", { role: "row" }, h("td", { colspan: 6, role: "cell" }, notes))
  );
}

function peersOf(peers) {
  if (!peers.length) return h("span.quiet", "no peer has it");
  const having = peers.map(({ peer, shared }) => {
    const here = peer.read_only_there ? ["idle", "takes nothing from here"] : standing(shared);
    const [look, text] = peer.state === "connected" ? here : ["bad", "not connected"];
    return { key: peerName(peer), look, text };
  });
  // Of many only those are told that need a look.
  const many = having.length > 4;
  const equal = having.filter((peer) => peer.text === "equal").length;
  return h(
    "ul.plain",
    having
      .filter(({ look }) => !many || look === "bad" || look === "warn")
      .map(({ key, look, text }) => h("li", { key }, name(key), " ", badge(look, text))),
    many &&
      h(
        "li",
        badge("good", equal === having.length ? `${equal} peers are equal` : `${equal} of ${having.length} peers are equal`)
      )
  );
}

// Errors and warnings as they stand, the rest to be opened.
function notesOf(database) {
  const error = (text) => h("p", { key: `error ${text}` }, badge("bad", "error"), " ", h("span.reason", text));
  const warning = ({ kind, table, reason, remedy }) =>
    h("li", { key: `${kind} ${table} ${reason}` }, table && [name(table), ": "], reason, h("span.remedy", remedy));
  const orphans = database.foreign_key_missing;
  const waiting = database.tombstones.waiting_for;
  return [
    ...database.errors.map(error),
    folded("warnings", "warn", plural(database.warnings.length, "warning"), database.warnings.map(warning)),
    folded(
      "unsynced",
      "idle",
      `${plural(database.unsynced.length, "table")} not synced`,
      database.unsynced.map(({ table, reason }) => h("li", { key: table }, name(table), ": ", reason))
    ),
    folded(
      "orphans",
      "warn",
      `${plural(orphans.count, "row")} whose parents are not here`,
      orphans.first.map(({ table, key, parent }) =>
        h(
          "li",
          { key: `${table} ${JSON.stringify(key)}` },
          name(table),
          ` ${JSON.stringify(key)} lacks ${JSON.stringify(parent)}`
        )
      )
    ),
    folded(
      "deletions",
      "note",
      `${plural(database.tombstones.kept, "deletion")} remembered for ${plural(waiting.length, "node")}`,
      waiting.map((node) => h("li", { key: node }, name(node)))
    ),
    database.passed_on > 0 &&
      h("p", { key: "passed on" }, badge("note", `${plural(database.passed_on, "change")} kept only to be passed on`))
  ].filter(Boolean);
}

const folded = (key, look, title, items) =>
  items.length > 0 && h("details", { key }, h("summary", badge(look, title)), h("ul", items));
