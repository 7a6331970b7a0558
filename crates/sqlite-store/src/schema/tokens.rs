//! SQL text as tokens, as SQLite splits it. Enough to find parts of a CREATE statement that SQLite itself has stored;
//! it understands no grammar and never fails.

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A keyword, a bare identifier or a number.
    Word,
    /// An identifier in double quotes, backticks or brackets.
    Quoted,
    /// A string literal.
    Text,
    /// A comment of either form.
    Comment,
    /// One character of anything else.
    Symbol,
}

/// A piece of SQL text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: TokenKind,
    pub(crate) text: &'a str,
    /// Where it begins in the whole text, in bytes.
    pub(crate) start: usize,
}

impl Token<'_> {
    /// Where it ends in the whole text.
    pub(crate) fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether it is this keyword (or a bare identifier that reads so).
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(word)
    }

    /// Whether it is this character.
    pub(crate) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == TokenKind::Symbol && self.text == symbol
    }

    /// The name that it stands for if it is an identifier, without quotes.
    pub(crate) fn identifier(&self) -> Option<String> {
        match self.kind {
            TokenKind::Word => Some(self.text.to_owned()),
            TokenKind::Quoted => {
                let inner = self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or_default();
                Some(match self.text.as_bytes().first() {
                    Some(b'"') => inner.replace("\"\"", "\""),
                    Some(b'`') => inner.replace("``", "`"),
                    _ => inner.to_owned(),
                })
            }
            _ => None,
        }
    }
}

/// The tokens of a text, comments included, white space left out.
pub(crate) fn tokens(sql: &str) -> Vec<Token<'_>> {
    let bytes = sql.as_bytes();
    let mut found = Vec::new();
    let mut start = 0;
    while start < bytes.len() {
        if bytes[start].is_ascii_whitespace() {
            start += 1;
            continue;
        }
        let (kind, end) = next(sql, start);
        found.push(Token { kind, text: &sql[start..end], start });
        start = end;
    }
    found
}

/// The tokens of a text without its comments.
pub(crate) fn significant(sql: &str) -> Vec<Token<'_>> {
    let mut found = tokens(sql);
    found.retain(|token| token.kind != TokenKind::Comment);
    found
}

fn next(sql: &str, start: usize) -> (TokenKind, usize) {
    let rest = &sql[start..];
    let after = |needle: &str, from: usize| {
        rest.get(from..).and_then(|tail| tail.find(needle)).map_or(sql.len(), |at| start + from + at + needle.len())
    };
    match rest.as_bytes()[0] {
        b'-' if rest.starts_with("--") => (TokenKind::Comment, after("\n", 2)),
        b'/' if rest.starts_with("/*") => (TokenKind::Comment, after("*/", 2)),
        b'\'' => (TokenKind::Text, quoted_end(sql, start, b'\'')),
        quote @ (b'"' | b'`') => (TokenKind::Quoted, quoted_end(sql, start, quote)),
        b'[' => (TokenKind::Quoted, after("]", 1)),
        byte if is_word_byte(byte) => {
            let length = rest.bytes().position(|byte| !is_word_byte(byte)).unwrap_or(rest.len());
            (TokenKind::Word, start + length)
        }
        _ => (TokenKind::Symbol, start + 1),
    }
}

/// The end of a quoted token, in which the quote stands for itself when doubled.
fn quoted_end(sql: &str, start: usize, quote: u8) -> usize {
    let bytes = sql.as_bytes();
    let mut at = start + 1;
    while at < bytes.len() {
        if bytes[at] == quote {
            if bytes.get(at + 1) != Some(&quote) {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    bytes.len()
}

/// Letters, digits, `_`, `$` and every byte of a character outside ASCII.
fn is_word_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::{TokenKind, significant, tokens};

    #[test]
    fn quotes_comments_and_words_are_told_apart() {
        let sql = "a.\"b\"\"c\" [d e]`f`-- g\n'h''i'/*j*/größe";
        let kinds: Vec<_> = tokens(sql).iter().map(|token| token.kind).collect();
        use TokenKind::{Comment, Quoted, Symbol, Text, Word};
        assert_eq!(kinds, [Word, Symbol, Quoted, Quoted, Quoted, Comment, Text, Comment, Word]);
        let names: Vec<_> = significant(sql).iter().filter_map(super::Token::identifier).collect();
        assert_eq!(names, ["a", "b\"c", "d e", "f", "größe"]);
    }

    #[test]
    fn an_open_quote_reaches_to_the_end() {
        assert_eq!(tokens("a 'b").len(), 2);
        assert_eq!(tokens("/* a").len(), 1);
        assert_eq!(tokens("[").len(), 1);
    }
}
