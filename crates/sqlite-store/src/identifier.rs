//! SQL text from names and strings. Everything that puts a name of the application's into SQL goes through here.

/// A name as a quoted identifier, whatever it holds.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a string literal.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Whether a name is one of ours or SQLite's, so that no application can mean it.
pub(crate) fn is_reserved(name: &str) -> bool {
    starts_with_ignoring_case(name, "_sync_") || starts_with_ignoring_case(name, "sqlite_")
}

/// Whether a name is one of ours.
pub(crate) fn is_ours(name: &str) -> bool {
    starts_with_ignoring_case(name, "_sync_")
}

fn starts_with_ignoring_case(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}
