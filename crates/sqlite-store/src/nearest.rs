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

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.iter().enumerate() {
        let mut next = vec![index + 1];
        for (column, wanted) in to.iter().enumerate() {
            let replaced = row[column] + usize::from(letter != wanted);
            let mut least = replaced.min(row[column + 1] + 1).min(next[column] + 1);
            let swapped = index > 0 && column > 0 && letter == &to[column - 1] && &from[index - 1] == wanted;
            if swapped {
                least = least.min(before[column - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
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
        assert_eq!(distance("table", "tabel"), 1);
        assert_eq!(distance("open", "opne"), 1);
    }

    #[test]
    fn a_name_is_meant_that_is_a_few_slips_away() {
        let names = ["stock_audit", "Stock_fts"];
        assert_eq!(nearest(names.into_iter(), "stok_audit"), Some("stock_audit"));
        assert_eq!(nearest(names.into_iter(), "STOCK_FTS"), Some("Stock_fts"));
        assert_eq!(nearest(names.into_iter(), "orders"), None);
    }
}
