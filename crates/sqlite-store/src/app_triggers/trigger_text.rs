//! The stored text of an application's trigger: when it fires, whether it RAISEs, and the same trigger as a TEMP one.

use crate::identifier::quote;
use crate::schema::tokens::{Token, significant};

/// What a trigger fires at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FiresAt {
    Insert,
    Delete,
    /// Any update, or, if columns are named, an update that names one of them.
    Update(Vec<String>),
}

/// A `CREATE TRIGGER name …` statement as SQLite stores it: the name is unqualified and follows at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TriggerText {
    pub(super) fires_at: FiresAt,
    pub(super) raises: bool,
    /// Whether it may leave out the row that sets it off without an error.
    pub(super) ignores: bool,
    /// From after the name up to and including ON.
    head: String,
    /// From after the table's name.
    tail: String,
}

impl TriggerText {
    pub(super) fn parse(sql: &str) -> Option<Self> {
        let tokens = significant(sql);
        let name = tokens.get(2)?;
        let on = 3 + tokens.get(3..)?.iter().position(|token| token.is_word("ON"))?;
        let header = &tokens[3..on];
        let fires_at = if header.iter().any(|token| token.is_word("UPDATE")) {
            let columns = header.iter().skip_while(|token| !token.is_word("UPDATE")).skip(2);
            FiresAt::Update(columns.filter_map(Token::identifier).collect())
        } else if header.iter().any(|token| token.is_word("INSERT")) {
            FiresAt::Insert
        } else {
            FiresAt::Delete
        };
        let qualified = tokens.get(on + 2)?.is_symbol(".");
        let table = tokens.get(on + if qualified { 3 } else { 1 })?;
        let raised = tokens[on..].windows(3).filter(|raise| raise[0].is_word("RAISE") && raise[1].is_symbol("("));
        let raised: Vec<bool> = raised.map(|raise| raise[2].is_word("IGNORE")).collect();
        Some(Self {
            fires_at,
            raises: !raised.is_empty(),
            ignores: raised.contains(&true),
            head: sql[name.end()..tokens[on].end()].to_owned(),
            tail: sql[table.end()..].to_owned(),
        })
    }

    /// The same trigger on `main.table` as a TEMP trigger of this name.
    pub(super) fn as_temp(&self, name: &str, table: &str) -> String {
        format!("CREATE TEMP TRIGGER {}{} main.{}{}", quote(name), self.head, quote(table), self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::{FiresAt, TriggerText};

    #[test]
    fn header_and_body_are_told_apart() {
        let sql = "CREATE TRIGGER \"a on b\" /* on */ AFTER UPDATE OF x, \"y z\" ON main.[t t] WHEN new.x BEGIN \
                   SELECT 'RAISE('; END";
        let text = TriggerText::parse(sql).unwrap();
        assert_eq!(text.fires_at, FiresAt::Update(vec!["x".to_owned(), "y z".to_owned()]));
        assert!(!text.raises);
        assert_eq!(
            text.as_temp("_sync_copy_1", "t t"),
            "CREATE TEMP TRIGGER \"_sync_copy_1\" /* on */ AFTER UPDATE OF x, \"y z\" ON main.\"t t\" WHEN new.x BEGIN \
             SELECT 'RAISE('; END"
        );
        let sql = "CREATE TRIGGER t BEFORE DELETE ON t BEGIN SELECT raise (abort, 'no'); END";
        let text = TriggerText::parse(sql).unwrap();
        assert_eq!((text.fires_at, text.raises, text.ignores), (FiresAt::Delete, true, false));
        let sql = "CREATE TRIGGER t BEFORE DELETE ON t BEGIN SELECT raise (/* so */ ignore); END";
        assert!(TriggerText::parse(sql).unwrap().ignores);
        assert_eq!(TriggerText::parse("CREATE TRIGGER"), None);
    }
}
