//! The common subset of ssh_config(5), for machines without a client: Host blocks with patterns and negation. What it
//! cannot judge (Match, Include) is refused, since leaving it out could mean another key, host or user than the user wrote.

use super::address::Destination;
use super::config::{Around, FILE_LIMIT};
use crate::error::{Failure, Result};

/// Keywords that are understood; the names are those that `ssh -G` prints.
const KEYWORDS: [&str; 14] = [
    "hostname",
    "user",
    "port",
    "identityfile",
    "identitiesonly",
    "certificatefile",
    "proxyjump",
    "proxycommand",
    "userknownhostsfile",
    "globalknownhostsfile",
    "hostkeyalias",
    "revokedhostkeys",
    "identityagent",
    "host",
];

/// `name value` pairs that hold for `destination`, the first of a name first.
///
/// # Errors
/// When the file cannot be read or holds what this reader does not judge.
pub(super) fn effective(destination: &Destination, around: &Around) -> Result<Vec<(String, String)>> {
    let file = around.config_file();
    let name = file.display().to_string();
    let cannot = |why: String| Failure::input(&name, "cannot be read").why(why).hint(format!("ls -l {name}"));
    match std::fs::metadata(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot(error.to_string())),
        Ok(meta) if meta.len() > FILE_LIMIT || !meta.is_file() => {
            return Err(cannot("no file, or too large".to_owned()));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(&file).map_err(|error| cannot(error.to_string()))?;
    parse(&text, &destination.host).map_err(|(line, what)| {
        Failure::input(format!("{name}:{line}"), what)
            .hint("install a client, whose own reading is then used: apt-get install openssh-client")
    })
}

/// The pairs for `host`; an error is a line number and what is wrong there.
fn parse(text: &str, host: &str) -> std::result::Result<Vec<(String, String)>, (usize, String)> {
    let mut pairs = Vec::new();
    let mut holds = true;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
        let (name, rest) = line.split_at(end);
        let name = name.to_ascii_lowercase();
        let rest = rest.trim_start();
        let value = rest.strip_prefix('=').unwrap_or(rest).trim();
        match name.as_str() {
            "match" | "include" => return Err((index + 1, format!("{name} is not read without an ssh client"))),
            "host" => holds = names(value, host),
            _ if holds && KEYWORDS.contains(&name.as_str()) => {
                let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                pairs.push((name, bare.to_owned()));
            }
            _ => {}
        }
    }
    Ok(pairs)
}

/// True when one of the patterns matches and none that is negated does.
fn names(patterns: &str, host: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split_whitespace().map(|word| word.trim_matches('"')) {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(&negated.to_ascii_lowercase(), host) => return false,
            Some(_) => {}
            None => found |= matches(&pattern.to_ascii_lowercase(), host),
        }
    }
    found
}

/// Glob with `*` and `?` over bytes, in linear memory and at most quadratic time.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(from) {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(wanted) if wanted == byte || *wanted == b'?' => {
                at += 1;
                from += 1;
            }
            _ => {
                let Some((stars, taken)) = star else { return false };
                star = Some((stars, taken + 1));
                at = stars + 1;
                from = taken + 1;
            }
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("*.example", "a.example", true),
            ("*.example", "example", false),
            ("", "", true),
            ("", "a", false),
            ("a**b", "ab", true),
            ("*a*a*b", "aaaaab", true),
            ("[h]:22", "[h]:22", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        assert!(!matches(&"*a".repeat(500), &"a".repeat(499)), "and in time");
    }

    #[test]
    fn blocks_and_first_values() {
        let text = "# mine\nUser first\nHost web* !web2 *.example\n  User=second\n\tIdentityFile \"~/a b\"\nHost *\nPort 24\nCompression yes\n";
        let pairs = |host: &str| {
            parse(text, host).unwrap().into_iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>()
        };
        assert_eq!(pairs("web"), ["user first", "user second", "identityfile ~/a b", "port 24"]);
        assert_eq!(pairs("web2"), ["user first", "port 24"]);
        assert_eq!(pairs("a.example"), ["user first", "user second", "identityfile ~/a b", "port 24"]);
    }

    #[test]
    fn what_is_not_judged_is_refused() {
        assert_eq!(parse("Host a\nInclude x\n", "b").unwrap_err().0, 2);
        assert!(parse("match all\n", "b").is_err());
    }
}
