//! "Did you mean": the nearest of the words that would have been right.

/// The word of `known` that `typed` most likely meant: at most a third of its letters differ.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase().replace('-', "_");
    let most = (typed.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|word| (distance(&typed, &word.to_lowercase().replace('-', "_")), word))
        .filter(|(far, _)| *far <= most)
        .min_by_key(|(far, _)| *far)
        .map(|(_, word)| word)
}

/// Edits between two words, a swap of neighbours counting one (optimal string alignment). Words over 64 are far apart.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    let cell = |rows: &[Vec<usize>], row: usize, column: usize| rows.get(row).and_then(|r| r.get(column)).copied();
    for (i, x) in a.iter().enumerate() {
        rows.push(vec![i + 1]);
        for (j, y) in b.iter().enumerate() {
            let get = |row, column| cell(&rows, row, column).unwrap_or(usize::MAX - 1);
            let mut best = (get(i, j + 1) + 1).min(get(i + 1, j) + 1).min(get(i, j) + usize::from(x != y));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(get(i - 1, j - 1) + 1);
            }
            if let Some(row) = rows.last_mut() {
                row.push(best);
            }
        }
    }
    cell(&rows, a.len(), b.len()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_slips_are_recognised() {
        let known = ["port", "permit_root_login", "max_auth_tries", "users"];
        assert_eq!(nearest("prot", known), Some("port"));
        assert_eq!(nearest("PermitRootLogin", known), Some("permit_root_login"));
        assert_eq!(nearest("max-auth-tries", known), Some("max_auth_tries"));
        assert_eq!(nearest("user", known), Some("users"));
        assert_eq!(nearest("firewall", known), None);
    }
}
