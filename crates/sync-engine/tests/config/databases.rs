//! What is said of databases, their tables and columns: names, choices, policies, and what of it makes no sense.

use super::{errors, message, settings};

#[test]
fn names_on_the_wire_are_checked() {
    let database = |lines: &str| format!("[[database]]\npath = \"1.db\"\n{lines}");
    let swapped = database(
        "[[database.table]]\nname = \"a\"\nremote_name = \"b\"\ncolumns.x = { remote_name = \"y\" }\n\
         columns.y = { policy = \"counter\", remote_name = \"x\" }\n[[database.table]]\nname = \"B\"\nremote_name = \"A\"\n",
    );
    let names = settings(&swapped).databases[0].wire_names();
    let mut expected = sqlite_store::attach::naming::WireNames::default();
    expected.name_table("a", "b");
    expected.name_column("a", "x", "y");
    expected.name_column("a", "y", "x");
    expected.name_table("B", "A");
    assert_eq!(names, expected);
    let remedy = "give one of them another name";
    assert_eq!(
        message(&database("[[database.table]]\nname = \"a\"\nremote_name = \"B\"\n[[database.table]]\nname = \"b\"\n")),
        format!(
            "5:15 database[0].table[0].remote_name: the tables \"a\" and \"b\" would both be \"b\" on the wire; {remedy}"
        )
    );
    assert_eq!(
        message(&database(
            "[[database.table]]\nname = \"a\"\ncolumns.x = { remote_name = \"z\" }\ncolumns.y = { remote_name = \"Z\" }"
        )),
        format!(
            "6:29 database[0].table[0].columns.y.remote_name: the columns \"x\" and \"y\" would both be \"Z\" on the wire; \
             {remedy}"
        )
    );
    assert_eq!(
        errors(&database("[[database.table]]\nname = \"a\"\nremote_name = \"\"\ncolumns.x = { remote_name = 3 }")),
        [
            "5:15 database[0].table[0].remote_name: BadValue",
            "6:29 database[0].table[0].columns.x.remote_name: WrongType"
        ]
    );
}

#[test]
fn what_is_synced_is_checked() {
    let with = |lines: &str| errors(&format!("[[database]]\npath = \"1.db\"\n{lines}"));
    assert_eq!(with("include = []"), ["3:11 database[0].include: BadValue"]);
    assert_eq!(
        with("include = [\"a*\", \"\"]\nexclude = [7, \" \"]"),
        [
            "3:18 database[0].include[1]: BadValue",
            "4:12 database[0].exclude[0]: WrongType",
            "4:15 database[0].exclude[1]: BadValue"
        ]
    );
    let table = |lines: &str| with(&format!("timestamp_column = \"at\"\n[[database.table]]\nname = \"t\"\n{lines}"));
    assert_eq!(table("exclude_columns = [\"x\", \"X\"]"), ["6:25 database[0].table[0].exclude_columns[1]: Duplicate"]);
    assert_eq!(table("exclude_columns = [\"AT\"]"), ["6:20 database[0].table[0].exclude_columns[0]: BadValue"]);
    let own =
        "timestamp_column = \"at\"\n[[database.table]]\nname = \"t\"\npolicy = \"max\"\nexclude_columns = [\"at\"]";
    settings(&format!("[[database]]\npath = \"1.db\"\n{own}"));
    assert_eq!(
        table("exclude_columns = [\"qty\"]\ncolumns.Qty = { policy = \"counter\" }"),
        ["6:20 database[0].table[0].exclude_columns[0]: BadValue"]
    );
    let what = message("[[database]]\npath = \"1.db\"\nexclude = [\"\"]");
    assert!(what.contains("* stands for any text"), "{what}");
}

#[test]
fn key_ranges_and_rules_for_triggers_are_checked() {
    let with = |line: &str| message(&format!("[[database]]\npath = \"1.db\"\n{line}"));
    let remedy = "number the nodes from 1 to 4095, each with a number of its own";
    for number in [0, -1, 4096, 65_537] {
        let expected = format!("3:14 database[0].key_ranges: {number} is out of range; {remedy}");
        assert_eq!(with(&format!("key_ranges = {number}")), expected);
    }
    let wrong = with("triggers.audit = \"runs\"");
    assert!(wrong.starts_with("3:18 database[0].triggers.audit: "), "{wrong}");
    assert!(wrong.contains("\"run\""), "{wrong}");
    let no_text = with("triggers = { audit = true }");
    assert!(no_text.starts_with("3:22 database[0].triggers.audit: a text in quotes is expected"), "{no_text}");
    let no_table = with("triggers = [\"audit\"]");
    assert!(no_table.starts_with("3:12 database[0].triggers: a table of texts is expected"), "{no_table}");
}

#[test]
fn databases_and_tables_differ() {
    let names = "[[database]]\nname = \"a\"\npath = \"1.db\"\n[[database]]\nname = \"a\"\npath = \"2.db\"\n";
    assert_eq!(errors(names), ["5:8 database[1].name: Duplicate"]);
    let derived = "[[database]]\nname = \"b\"\npath = \"1.db\"\n[[database]]\npath = \"x/b.db\"\n";
    assert_eq!(errors(derived), ["4:1 database[1].name: Duplicate"]);
    let files = "[[database]]\nname = \"a\"\npath = \"1.db\"\n[[database]]\nname = \"b\"\npath = \"./1.db\"\n";
    assert_eq!(errors(files), ["6:8 database[1].path: Duplicate"]);
    let tables = "[[database]]\npath = \"1.db\"\n[[database.table]]\nname = \"T\"\n[[database.table]]\nname = \"t\"\n[[database.table]]\n";
    assert_eq!(errors(tables), ["6:8 database[0].table[1].name: Duplicate", "7:1 database[0].table[2].name: Missing"]);
}

#[test]
fn policies_are_refused_with_what_goes_where() {
    let database = |rest: &str| message(&format!("[[database]]\npath = \"1.db\"\n{rest}"));
    let column = |rest: &str| database(&format!("[[database.table]]\nname = \"t\"\ncolumns.c = {{ {rest} }}"));
    let cases = [
        (
            database("policy = \"countr\""),
            "3:10 database[0].policy: there is no policy \"countr\"; did you mean \"counter\"?",
        ),
        (
            database("policy = \"newest\""),
            "3:10 database[0].policy: there is no policy \"newest\"; the policies are last-write-wins, ",
        ),
        (
            database("policy = \"counter\""),
            "\"counter\" is a policy of columns; write columns.NAME = { policy = \"counter\", … }",
        ),
        (database("policy = \"origin-priority\""), "origin-priority has no list of nodes; list node names"),
        (
            database("priority = [\"a\"]"),
            "3:12 database[0].priority: priority is read by the policy \"origin-priority\" only",
        ),
        (
            database("policy = \"max\"\ntimestamp_column = \"u\""),
            "timestamp_column is read by the policy \"last-write-wins\" only",
        ),
        (
            database("policy = \"origin-priority\"\npriority = [\"a\", \"b\", \"a\"]"),
            "4:23 database[0].priority[2]: \"a\" stands there twice",
        ),
        (column("policy = \"sql\""), "the policy \"sql\" has no expression"),
        (
            column("merge = \"local.c\""),
            "5:23 database[0].table[0].columns.c.merge: merge is read by the policy \"sql\" only",
        ),
        (
            column("policy = \"sql\", merge = \"max(local.c, nosuch.c)\""),
            "the expression cannot be used: no such column: nosuch.c",
        ),
        (column("policy = \"sql\", merge = \"local.c + random()\""), "not the same on every node"),
        (
            column("polcy = \"max\""),
            "5:15 database[0].table[0].columns.c.polcy: there is no such key; did you mean \"policy\"?",
        ),
        (
            database("[[database.table]]\nname = \"t\"\ncolumns.c = 5"),
            "5:13 database[0].table[0].columns.c: a table is expected, not a whole number",
        ),
        (
            database(
                "granularity = \"row\"\n[[database.table]]\nname = \"t\"\ncolumns.c = { policy = \"first-write-wins\" }",
            ),
            "with granularity = \"row\" a column cannot have \"first-write-wins\" for itself",
        ),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}
