// The list of conflict records: asked for in pages, filtered, acted on. What is listed stays where it is until somebody asks anew.

const PAGE = 20;
// Records that are listed at most; more are found with the filter.
const MOST = 400;

const list = { entries: [], more: false, newer: 0, open: null, failed: null, asked: 0, loading: false, ready: false };
const filter = { state: "open", database: "", table: "", kind: "", node: "" };

const query = (before, limit = PAGE) => {
  const given = Object.entries({ ...filter, before, limit }).filter(([, value]) => value);
  return `/v1/conflicts?${new URLSearchParams(given)}`;
};

// Asks for the first page, or for the one after what is listed.
async function loadConflicts(further) {
  const turn = ++list.asked;
  list.loading = true;
  try {
    const records = await get(query(further ? list.entries.at(-1)?.record.id : ""), true);
    if (turn !== list.asked) return;
    const entries = records.map((record) => ({ record }));
    const first = further ? list.entries.length : 0;
    list.entries = further ? [...list.entries, ...entries] : entries;
    Object.assign(list, { more: records.length === PAGE, failed: null, ready: true }, further ? {} : { newer: 0 });
    redraw(() => {
      if (further && entries.length)
        byId(`conflict-${list.entries[first].record.id}`)?.closest("li").querySelector("button")?.focus();
    });
  } catch (error) {
    if (turn === list.asked && !troubled(error)) list.failed = error.message;
  } finally {
    if (turn === list.asked) list.loading = false;
  }
  redraw();
}

// Called with the number of open records that a status tells: another than before means that something happened to some.
async function conflictsChanged(count) {
  if (count === list.open) return;
  const first = list.open === null;
  list.open = count;
  if (first || !list.entries.length) return loadConflicts();
  try {
    const records = await get(query(""), true);
    const present = new Map(list.entries.map((entry) => [entry.record.id, entry]));
    list.newer = records.findIndex((record) => present.has(record.id));
    if (list.newer < 0) list.newer = records.length;
    // What another has acted on meanwhile is told as it is now.
    const found = new Set(records.map((record) => record.id));
    for (const entry of list.entries.slice(0, Math.max(0, PAGE - list.newer))) {
      if (entry.record.state === "open" && !found.has(entry.record.id)) await refresh(entry);
    }
    list.failed = null;
  } catch (error) {
    if (!troubled(error)) list.failed = error.message;
  }
  redraw();
}

async function refresh(entry) {
  try {
    entry.record = await get(`/v1/conflicts/${encodeURIComponent(entry.record.id)}`, true);
  } catch (error) {
    if (error.status !== 404) throw error;
    list.entries = list.entries.filter((other) => other !== entry);
  }
}

function conflicts(status) {
  const chosen = filter.database || filter.table || filter.kind || filter.node || filter.state !== "open";
  return part(
    "conflicts",
    "Conflicts",
    h(
      "form.filter",
      { "aria-label": "Filter of conflicts", on: { submit: (event) => event.preventDefault(), change: chooseConflicts } },
      choice("state", "State", ["open", "restored", "dismissed", "all"]),
      choice(
        "database",
        "Database",
        status.databases.map((database) => database.name),
        "all"
      ),
      choice("kind", "Kind", Object.keys(KINDS), "all"),
      field("table", "Table"),
      field("node", "Node")
    ),
    list.failed && h("p.outcome.bad", { role: "alert" }, list.failed),
    h(
      "p.newer",
      list.newer > 0 &&
        button(`Show ${list.newer === PAGE ? `${PAGE} or more` : list.newer} newer`, () => loadConflicts(), { class: "main" })
    ),
    list.ready &&
      !list.entries.length &&
      !list.failed &&
      h(
        "p.empty",
        chosen
          ? "No record is like that."
          : "No open conflicts. Where two nodes write a row without knowing of each other, the node that decides keeps both sides and lists them here."
      ),
    h("ol.records", list.entries.map(conflictCard)),
    list.more &&
      (list.entries.length < MOST
        ? button(`Show ${PAGE} older`, () => loadConflicts(true))
        : h("p.quiet", `${MOST} are listed; narrow the filter to see others.`))
  );
}

const choice = (key, label, values, all) =>
  h(
    "label",
    { key },
    label,
    h(
      "select",
      { name: key },
      all && h("option", { key: "", value: "" }, all),
      values.map((value) => h("option", { key: value, value }, value))
    )
  );
const field = (key, label) =>
  h(
    "label",
    { key },
    label,
    h("input", { name: key, type: "text", autocomplete: "off", spellcheck: "false", placeholder: "all" })
  );

function chooseConflicts(event) {
  filter[event.target.name] = event.target.value.trim();
  loadConflicts().then(() => say(`${plural(list.entries.length, "record")}${list.more ? " or more" : ""} listed`));
}

// Asks before something is done, in a dialog: Escape leaves everything as it is.
function confirmAction(entry, action) {
  const dialog = byId("dialog");
  const restore = action === "restore";
  const go = async () => {
    dialog.close();
    await act(entry, action);
  };
  show(dialog, [
    h("h2", { id: "dialog-title" }, restore ? "Restore the discarded side?" : "Dismiss this conflict?"),
    h("p", name(entry.record.table), " ", name(keyText(entry.record.key), { class: "name value" })),
    ...(restore
      ? restorePlan(entry)
      : [h("p", "Everything stays as it is, and the record is closed. It is still found under dismissed.")]),
    h(
      "p.actions",
      button(restore ? "Restore" : "Dismiss", go, { class: "main", id: "confirm" }),
      button("Cancel", () => dialog.close())
    )
  ]);
  dialog.showModal();
  byId("confirm").focus();
}

async function act(entry, action) {
  const { id } = entry.record;
  try {
    const answer = await ask(`/v1/conflicts/${encodeURIComponent(id)}/${action}`, { method: "POST" });
    entry.record = read(await answer.text());
    entry.failed = null;
    entry.outcome = action === "restore" ? restoredText(entry.record) : "Dismissed: everything stays as it is.";
    if (list.open > 0) list.open -= 1;
  } catch (error) {
    entry.failed =
      error.status === 403
        ? `Not done: ${error.message}. Enter another token to do it.`
        : error.status
          ? `Not done: ${error.message}`
          : `The daemon did not answer (${error.message}). Whether it was done shows when it answers again.`;
    if (!error.status) await refresh(entry).catch(() => {});
    troubled(error);
  }
  redraw(() => byId(`outcome-${id}`)?.focus());
  say(entry.failed ?? entry.outcome);
}
