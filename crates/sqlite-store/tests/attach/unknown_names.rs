//! What is said in the configuration of tables and columns that a file does not have.

use std::sync::Arc;

use replication::{ColumnRule, ConflictPolicy, TimestampColumn};
use sqlite_store::{DatabaseRules, MergeRules, SqlPolicy};

use crate::selection::{SCHEMA, unknown_names, without};
use crate::support::{Sample, Writer};

#[test]
fn a_name_that_means_nothing_is_told_with_the_nearest() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let rules = without(
        &["sesion_*", "order*", "page_cache"],
        &[("stok", &["local_note"]), ("stock", &["local_not", "place"]), ("page_cache", &["nothing"])],
    );
    let attached = db.attach_under(&rules);
    let unknown = unknown_names(&attached);
    let told: Vec<(&str, &str)> = unknown.iter().map(|(reason, remedy)| (reason.as_str(), remedy.as_str())).collect();
    assert_eq!(
        told,
        [
            ("the pattern \"sesion_*\" matches no table", "did you mean \"session_data\"?"),
            ("the pattern \"order*\" matches no table", "correct or remove it"),
            (
                "the column \"local_not\" of table \"stock\" is excluded, and is not there",
                "did you mean \"local_note\"?"
            ),
            ("columns of a table \"stok\" are excluded, which is not there", "did you mean \"stock\"?"),
        ]
    );
}

/// Rules of a table, with counters.
fn rules(policy: &Arc<dyn ConflictPolicy>, counters: &[&str]) -> MergeRules {
    let columns = counters.iter().map(|name| ((*name).to_owned(), ColumnRule::Counter)).collect();
    MergeRules { policy: Arc::clone(policy), columns, ..MergeRules::default() }
}

fn told(db: &mut Sample, merge: &DatabaseRules) -> Vec<(String, String)> {
    unknown_names(&db.attach_by(merge))
}

fn pairs(texts: impl IntoIterator<Item = (&'static str, &'static str)>) -> Vec<(String, String)> {
    texts.into_iter().map(|(reason, remedy)| (reason.to_owned(), remedy.to_owned())).collect()
}

#[test]
fn a_rule_for_what_is_not_there_is_told_with_the_nearest() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let by_column = |name| -> Arc<dyn ConflictPolicy> { Arc::new(TimestampColumn::new(name)) };
    let of_database = by_column("V");
    let mut stock = rules(&by_column("updated"), &["qtty"]);
    let sql = SqlPolicy::new("max(local.qtz, remote.qtz) + remote.qty").unwrap();
    stock.columns.insert("qty".to_owned(), ColumnRule::Policy(Arc::new(sql)));
    let tables =
        [("Stock", stock), ("stok", rules(&of_database, &["qty"])), ("page_cache", rules(&of_database, &["views"]))];
    let tables = tables.into_iter().map(|(name, rules)| (name.to_owned(), rules)).collect();
    let mut merge = DatabaseRules { default: rules(&of_database, &[]), tables };
    let expected = [
        (
            "the policy counter is given to column \"qtty\", and table \"stock\" has no such column",
            "did you mean \"qty\"?",
        ),
        (
            "the sql of column \"qty\" names a column \"qtz\", and table \"stock\" has no such column",
            "did you mean \"qty\"?",
        ),
        (
            "the last-write-wins of the table names a column \"updated\", and table \"stock\" has no such column",
            "correct or remove it",
        ),
        (
            "the policy counter is given to column \"views\", and table \"page_cache\" has no such column",
            "correct or remove it",
        ),
        ("rules are given for a table \"stok\", which is not there", "did you mean \"stock\"?"),
    ];
    assert_eq!(told(&mut db, &merge), pairs(expected));
    // The rule of the database holds for tables that have none of their own.
    merge.default.policy = by_column("place");
    for name in ["stok", "page_cache"] {
        merge.tables.get_mut(name).unwrap().policy = Arc::clone(&merge.default.policy);
    }
    let of_database = (
        "the last-write-wins of the database names a column \"place\", which no table that goes by it has",
        "correct or remove it",
    );
    assert_eq!(told(&mut db, &merge), pairs([&expected[..], &[of_database]].concat()));
}

#[test]
fn what_one_table_of_many_has_may_be_named_for_all() {
    let mut db = Sample::new(Writer::Shell, SCHEMA);
    let of = |column: &str| DatabaseRules {
        default: rules(&(Arc::new(TimestampColumn::new(column)) as Arc<dyn ConflictPolicy>), &[]),
        ..DatabaseRules::default()
    };
    assert_eq!(told(&mut db, &of("QTY")), []);
    let expected = [(
        "the last-write-wins of the database names a column \"qtty\", which no table that goes by it has",
        "did you mean \"qty\"?",
    )];
    assert_eq!(told(&mut db, &of("qtty")), pairs(expected));
}
