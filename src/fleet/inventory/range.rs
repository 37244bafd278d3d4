//! Names with ranges: `web[01:20]`, `db-[a:f]`, `n[0:10:2]`, several in one name (Ansible docs: "Adding ranges of hosts").
//! How many names it makes is known before the first one is made.

use super::MAX_HOSTS;

/// Longest text that is looked at.
const LONGEST: usize = 1024;
const HINT: &str = "write a range as web[01:20] or db[a:f], with a step as [0:10:2]";

/// What is wrong with a range, and the fix.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub what: String,
    pub hint: &'static str,
}

fn wrong(what: impl Into<String>) -> Wrong {
    Wrong { what: what.into(), hint: HINT }
}

enum Part<'t> {
    Text(&'t str),
    /// Padded with zeros to `width`.
    Numbers {
        from: u64,
        step: u64,
        count: usize,
        width: usize,
    },
    Letters(Vec<char>),
}

impl Part<'_> {
    fn count(&self) -> usize {
        match self {
            Part::Text(_) => 1,
            Part::Numbers { count, .. } => *count,
            Part::Letters(letters) => letters.len(),
        }
    }

    fn push(&self, index: usize, name: &mut String) {
        match self {
            Part::Text(text) => name.push_str(text),
            Part::Numbers { from, step, width, .. } => {
                let number = from + step * index as u64;
                name.push_str(&format!("{number:0width$}", width = *width));
            }
            Part::Letters(letters) => name.extend(letters.get(index)),
        }
    }
}

/// All names of `pattern`, in order; itself when it holds no range.
///
/// # Errors
/// When a range is none, runs backwards, or all together make more than [`MAX_HOSTS`] names.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, Wrong> {
    if pattern.len() > LONGEST {
        return Err(wrong(format!("a name of more than {LONGEST} bytes")));
    }
    let parts = parts(pattern)?;
    let count = parts.iter().try_fold(1_usize, |all, part| all.checked_mul(part.count()));
    let Some(count) = count.filter(|count| *count <= MAX_HOSTS) else {
        return Err(Wrong {
            what: format!("the range makes more than {MAX_HOSTS} hosts"),
            hint: "make the range smaller",
        });
    };
    Ok((0..count).map(|index| name(&parts, index, count)).collect())
}

/// The name at `index` of `count`; the last range turns fastest.
fn name(parts: &[Part<'_>], mut index: usize, mut count: usize) -> String {
    let mut name = String::new();
    for part in parts {
        count /= part.count().max(1);
        let turn = index.checked_div(count).unwrap_or(0);
        index -= turn * count;
        part.push(turn, &mut name);
    }
    name
}

fn parts(pattern: &str) -> Result<Vec<Part<'_>>, Wrong> {
    let (mut parts, mut rest) = (Vec::new(), pattern);
    while let Some((before, after)) = rest.split_once('[') {
        let (inner, after) = after.split_once(']').ok_or_else(|| wrong("a bracket is not closed"))?;
        parts.push(Part::Text(before));
        parts.push(range(inner)?);
        rest = after;
    }
    if rest.contains(']') {
        return Err(wrong("a bracket is closed that is not open"));
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

fn range(inner: &str) -> Result<Part<'static>, Wrong> {
    let mut fields = inner.split(':');
    let (Some(from), Some(to), step, None) = (fields.next(), fields.next(), fields.next(), fields.next()) else {
        return Err(wrong("brackets without a range"));
    };
    let step = step.map_or(Some(1), number).filter(|step| *step > 0);
    let step = step.ok_or_else(|| wrong("the step of a range is a number from 1"))?;
    let from = if from.is_empty() { "0" } else { from };
    if let (Some(first), Some(last)) = (number(from), number(to)) {
        let padded = from.len() > 1 && from.starts_with('0');
        if padded && from.len() != to.len() {
            return Err(wrong("a range with leading zeros has both ends of one length"));
        }
        let span = last.checked_sub(first).ok_or_else(|| wrong("the range runs backwards"))?;
        let count = usize::try_from(span / step).ok().and_then(|count| count.checked_add(1));
        let count = count.filter(|count| *count <= MAX_HOSTS).unwrap_or(MAX_HOSTS + 1);
        return Ok(Part::Numbers { from: first, step, count, width: if padded { from.len() } else { 0 } });
    }
    // As in Ansible, capital letters come after the small ones.
    let letters = || ('a'..='z').chain('A'..='Z');
    let place = |text: &str| letters().position(|c| text == c.encode_utf8(&mut [0; 4]));
    let (Some(first), Some(last)) = (place(from), place(to)) else {
        return Err(wrong("the ends of a range are two numbers of at most 15 digits, or two letters"));
    };
    let count = (last + 1).checked_sub(first).filter(|count| *count > 0);
    let count = count.ok_or_else(|| wrong("the range runs backwards"))?;
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    Ok(Part::Letters(letters().skip(first).take(count).step_by(step).collect()))
}

fn number(text: &str) -> Option<u64> {
    let fine = (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_make_names() {
        for (pattern, want) in [
            ("web", "web"),
            ("web[1:3].x", "web1.x web2.x web3.x"),
            ("web[08:10]", "web08 web09 web10"),
            ("n[0:5:2]", "n0 n2 n4"),
            ("n[:2]", "n0 n1 n2"),
            ("[a:c]", "a b c"),
            ("[y:B]", "y z A B"),
            ("[a:e:3]", "a d"),
            ("r[1:2]-[a:b]", "r1-a r1-b r2-a r2-b"),
            ("n[5:5]", "n5"),
        ] {
            assert_eq!(expand(pattern).unwrap().join(" "), want, "{pattern}");
        }
        assert_eq!(expand("n[1:100000]").unwrap().len(), MAX_HOSTS);
    }

    #[test]
    fn what_makes_too_many_names_is_refused_before_it_is_made() {
        let start = std::time::Instant::now();
        for pattern in [
            "n[1:99999999999]",
            "n[0:999999999999999]",
            "n[1:9999999999999999999999]",
            "n[1:100001]",
            "[1:1000][1:1000]",
            &"[1:100000]".repeat(50),
            &format!("{}[1:100000]", "x".repeat(2000)),
        ] {
            assert!(expand(pattern).is_err(), "{pattern}");
        }
        assert!(start.elapsed().as_millis() < 500);
    }

    #[test]
    fn what_is_no_range() {
        for pattern in [
            "n[1:2",
            "n1:2]",
            "n[]",
            "n[1]",
            "n[1:2:3:4]",
            "n[3:1]",
            "n[b:a]",
            "n[a:1]",
            "n[1:]",
            "n[01:100]",
            "n[1:2:0]",
            "n[1:2:x]",
            "n[-1:2]",
            "n[aa:bb]",
            "n[[1:2]]",
            "n[\u{e9}:\u{ea}]",
        ] {
            assert!(expand(pattern).is_err(), "{pattern}: {:?}", expand(pattern));
        }
    }
}
