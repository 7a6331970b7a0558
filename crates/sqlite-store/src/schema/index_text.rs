//! The expressions and the WHERE clause of an index, which SQLite tells in no other way than the index's own text.

use super::tokens::{Token, significant};

/// The parts of a CREATE INDEX statement as the application wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexText {
    /// What is indexed, without ASC and DESC.
    pub(crate) parts: Vec<String>,
    /// The WHERE clause.
    pub(crate) predicate: Option<String>,
}

impl IndexText {
    /// Takes a stored `CREATE [UNIQUE] INDEX name ON table (…) [WHERE …]` apart.
    pub(crate) fn parse(sql: &str) -> Option<Self> {
        let tokens = significant(sql);
        let on = tokens.iter().position(|token| token.is_word("ON"))?;
        let open = on + tokens[on..].iter().position(|token| token.is_symbol("("))?;
        let mut parts = Vec::new();
        let mut depth = 0_usize;
        let mut first = open + 1;
        for (at, token) in tokens.iter().enumerate().skip(open) {
            if token.is_symbol("(") {
                depth += 1;
            } else if token.is_symbol(")") {
                depth -= 1;
            }
            if depth == 0 || (depth == 1 && token.is_symbol(",")) {
                parts.push(part(sql, &tokens[first..at]));
                first = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
        let predicate =
            tokens.get(first).filter(|token| token.is_word("WHERE")).map(|_| text(sql, &tokens[first + 1..]));
        (depth == 0).then_some(Self { parts, predicate })
    }
}

/// Names of columns that a text may mean: every word and quoted identifier in it.
pub(crate) fn mentioned_names(sql: &str) -> Vec<String> {
    significant(sql).iter().filter_map(Token::identifier).collect()
}

fn part(sql: &str, tokens: &[Token<'_>]) -> String {
    let ordered = tokens.last().is_some_and(|last| last.is_word("ASC") || last.is_word("DESC"));
    text(sql, &tokens[..tokens.len() - usize::from(ordered)])
}

/// From the first to the last of these tokens: a comment after them is not taken along, it could hide what we append.
fn text(sql: &str, tokens: &[Token<'_>]) -> String {
    match (tokens.first(), tokens.last()) {
        (Some(first), Some(last)) => sql[first.start..last.end()].to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::IndexText;

    #[test]
    fn expressions_and_predicate_are_taken_verbatim() {
        let sql = "CREATE UNIQUE INDEX \"on (\" ON [t (] (lower(a, ',)') COLLATE nocase DESC /* x */, \"b,c\" -- y\n) \
                   WHERE a > '(' AND b /* z */ IS NULL";
        let index = IndexText::parse(sql).unwrap();
        assert_eq!(index.parts, ["lower(a, ',)') COLLATE nocase", "\"b,c\""]);
        assert_eq!(index.predicate.as_deref(), Some("a > '(' AND b /* z */ IS NULL"));
        assert_eq!(IndexText::parse("CREATE UNIQUE INDEX i ON t(a)").unwrap().predicate, None);
        assert_eq!(IndexText::parse("nonsense"), None);
    }
}
