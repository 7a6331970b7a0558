// One conflict record: both sides beside each other. Owns the words for what happened and for what was done about it.

const KINDS = {
  insert_exists: "the same key was inserted on both sides",
  update_origin_differs: "the same row was updated on both sides",
  update_missing: "an updated row was missing",
  update_deleted: "one side updated the row, the other had deleted it",
  delete_origin_differs: "one side deleted the row, the other had updated it",
  unique_exists: "two rows held the same unique value",
  multiple_unique_conflicts: "rows held the same unique values"
};
const OUTCOMES = { skip: "what came in was discarded", apply: "what came in stands", merge: "both were merged" };
const STATES = { open: "warn", restored: "good", dismissed: "idle" };

// Columns that are equal on both sides and shown before somebody asks for all.
const EQUAL = 4;

// The columns of a record with both values.
function compared({ winner, loser, columns, key }) {
  const [ours, theirs] = [winner?.row, loser?.row];
  const names = [...new Set([...Object.keys(ours ?? {}), ...Object.keys(theirs ?? {})])];
  return names.map((column) => {
    const values = [ours, theirs].map((row) => (row ? literal(row[column]) : null));
    const differs = values[0] !== values[1] && !(column in key && values.includes(null));
    return { column, values, differs, contested: columns.includes(column) };
  });
}

function conflictCard(entry) {
  const { record, outcome, failed, wide } = entry;
  const restored = record.state === "restored";
  const id = `conflict-${record.id}`;
  const rows = compared(record);
  const equal = rows.filter((row) => !row.differs);
  const hidden = wide || equal.length <= EQUAL ? [] : equal.slice(EQUAL);
  return h(
    "li",
    { key: record.id, class: `conflict ${record.state}` },
    h(
      "article",
      { "aria-labelledby": id },
      h(
        "header",
        h("h3", { id }, name(record.table), " ", name(keyText(record.key), { class: "name value" })),
        badge(STATES[record.state] ?? "idle", record.state)
      ),
      h(
        "p.quiet",
        `${KINDS[record.kind] ?? record.kind}; ${OUTCOMES[record.outcome] ?? record.outcome} by `,
        name(record.policy),
        ", ",
        when(record.at),
        ", ",
        h("code", record.id)
      ),
      h(
        "table",
        h(
          "thead",
          h(
            "tr",
            h("th", { scope: "col" }, "Column"),
            sideHead(restored ? "Stood" : "Stands", record.winner),
            sideHead(restored ? "Restored" : "Discarded", record.loser)
          )
        ),
        h(
          "tbody",
          rows.filter((row) => !hidden.includes(row)).map((row, index, shown) => comparedRow(row, index, shown.length))
        )
      ),
      hidden.length > 0 &&
        button(
          `Show ${plural(hidden.length, "more column")} that ${hidden.length === 1 ? "is" : "are"} equal`,
          () => {
            entry.wide = true;
            redraw();
          },
          { class: "minor" }
        ),
      record.state === "open" &&
        h(
          "p.actions",
          button("Restore the discarded side …", () => confirmAction(entry, "restore"), {
            class: "main",
            "aria-describedby": id
          }),
          button("Dismiss …", () => confirmAction(entry, "dismiss"), { "aria-describedby": id })
        ),
      (outcome || failed) &&
        h(
          "p",
          {
            class: failed ? "outcome bad" : "outcome good",
            tabindex: "-1",
            role: failed ? "alert" : null,
            id: `outcome-${record.id}`
          },
          failed ?? outcome
        )
    )
  );
}

const sideHead = (title, side) =>
  h(
    "th",
    { scope: "col" },
    title,
    side ? [h("span.by", "by ", name(side.node)), h("span.quiet", when(side.timestamp))] : h("span.quiet", "nothing")
  );

// A side that deleted the row has one cell for all columns.
function comparedRow({ column, values, differs, contested }, row, count) {
  return h(
    "tr",
    { key: column, class: differs ? "differs" : null },
    h(
      "th",
      { scope: "row" },
      differs &&
        h(
          "span.mark",
          { title: contested ? "both sides wrote it" : "differs" },
          "≠",
          h("span.unseen", contested ? " both wrote " : " differs: ")
        ),
      name(column)
    ),
    values.map((value, side) =>
      value === null
        ? row === 0 && h("td.deleted", { key: side, rowspan: count }, "row deleted")
        : h("td.value", { key: side }, h("bdi", short(value)))
    )
  );
}

// What a restore would write, in words.
function restorePlan({ record }) {
  const { loser } = record;
  if (!loser?.row) return [h("p", "The row is deleted again, on all nodes, as a new change of this node.")];
  const rows = compared(record).filter((row) => row.differs && (!record.columns.length || !record.winner?.row || row.contested));
  return [
    h("p", "What ", name(loser.node), " wrote is written back, as a new change of this node that reaches all nodes:"),
    h(
      "ul.plan",
      rows
        .slice(0, 12)
        .map(({ column, values }) =>
          h(
            "li",
            { key: column },
            name(column),
            ": ",
            values[0] !== null && [h("bdi.value.old", short(values[0])), h("span", { "aria-label": "becomes" }, " → ")],
            h("bdi.value", short(values[1] ?? ""))
          )
        )
    ),
    rows.length > 12 && h("p", `and ${plural(rows.length - 12, "more column")}.`),
    h("p.quiet", "Where the row was written since, that is replaced too; the record keeps what the restore replaces.")
  ];
}

function restoredText({ replaced, left_out: leftOut }) {
  const gone = leftOut?.length ? ` Left out, because the table no longer has them: ${leftOut.join(", ")}.` : "";
  return `Restored: the discarded side is written back as a new change of this node.${replaced ? " The row that it replaced is kept in the record." : ""}${gone}`;
}
