//! The query of a URL: names and values with percent signs before what they cannot hold.

/// The names and values of a query.
pub(crate) fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let given = query.split('&').filter(|pair| !pair.is_empty());
    given
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| Ok((decode(name)?, decode(value)?)))
        .collect()
}

fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let wrong = || format!("{text:?} is not encoded as URLs are");
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (high, low) = (digit().ok_or_else(wrong)?, digit().ok_or_else(wrong)?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A text as a piece of a URL's path or query.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{encode, pairs};

    #[test]
    fn any_text_survives_the_way_through_a_query() {
        for text in ["", "plain", "a b+c&d=e%f#g/h?i", "žluťoučký", "\u{1f980}\n\0"] {
            let query = format!("x={}&y=1", encode(text));
            let wanted = [("x".to_owned(), text.to_owned()), ("y".to_owned(), "1".to_owned())];
            assert_eq!(pairs(&query).unwrap(), wanted);
        }
        for wrong in ["x=%", "x=%4", "x=%fg", "%ff=1"] {
            assert!(pairs(wrong).is_err(), "{wrong}");
        }
    }
}
