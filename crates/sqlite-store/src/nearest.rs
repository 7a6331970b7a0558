//! Which of several names somebody may have meant.

/// The candidate that is a few slips of the keyboard away; case does not count.
pub fn nearest<'a>(candidates: impl Iterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    let lower = name.to_lowercase();
    candidates
        .map(|candidate| (distance(&candidate.to_lowercase(), &lower), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance: insertions, deletions and replacements that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for column in 0..to.len() {
            let replaced = diagonal + usize::from(letter != to[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_name_is_meant_that_is_a_few_slips_away() {
        let names = ["stock_audit", "Stock_fts"];
        assert_eq!(nearest(names.into_iter(), "stok_audit"), Some("stock_audit"));
        assert_eq!(nearest(names.into_iter(), "STOCK_FTS"), Some("Stock_fts"));
        assert_eq!(nearest(names.into_iter(), "orders"), None);
    }
}
