//! The common subset of ssh_config(5): Host blocks with patterns and negation. Where files say nothing beyond it, no client
//! has to be asked what they mean, which takes longer than a connection. On a machine without a client what it cannot judge
//! (Match, Include) is refused, since leaving it out could mean another key, host or user than the user wrote.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

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
    let text = text_of(&file)
        .map_err(|error| Failure::input(&name, "cannot be read").why(error).hint(format!("ls -l {name}")))?;
    parse(&text, &destination.host).map_err(|(line, what)| {
        Failure::input(format!("{name}:{line}"), what)
            .hint("install a client, whose own reading is then used: apt-get install openssh-client")
    })
}

/// The machine's configuration, read after the user's.
const SYSTEM: &str = "/etc/ssh/ssh_config";
/// What Debian's includes; another Include is left to the client.
const SYSTEM_PARTS: &str = "/etc/ssh/ssh_config.d/*.conf";
/// Keywords that change nothing of what is taken from a configuration. Others are left to the client: they may decide what
/// the rest means, or be a fault for which it would not connect.
const WITHOUT_EFFECT: [&str; 31] = [
    "addkeystoagent",
    "addressfamily",
    "batchmode",
    "checkhostip",
    "ciphers",
    "compression",
    "connectionattempts",
    "connecttimeout",
    "controlmaster",
    "controlpath",
    "controlpersist",
    "escapechar",
    "forwardagent",
    "forwardx11",
    "forwardx11trusted",
    "gssapiauthentication",
    "gssapidelegatecredentials",
    "hashknownhosts",
    "kexalgorithms",
    "loglevel",
    "macs",
    "numberofpasswordprompts",
    "preferredauthentications",
    "requesttty",
    "sendenv",
    "serveralivecountmax",
    "serveraliveinterval",
    "stricthostkeychecking",
    "tcpkeepalive",
    "updatehostkeys",
    "visualhostkey",
];

/// The same of all files that a client would read, where they are so plain that there is one reading of them; `None` where
/// the client has to be asked. A path of the configuration that is not there is read as empty.
pub(super) fn of_plain_files(destination: &Destination, around: &Around) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut take = |text: &str| -> Option<()> {
        pairs.extend(is_plain(text).then(|| parse(text, &destination.host).ok())??);
        Some(())
    };
    if let Some(file) = &around.config {
        take(&text_of(file).ok()?)?;
        return Some(pairs);
    }
    take(&text_of(&around.config_file()).ok()?)?;
    let (parts, rest) = with_parts(&text_of(Path::new(SYSTEM)).ok()?);
    if parts {
        for file in parts_of(Path::new(SYSTEM_PARTS).parent()?)? {
            take(&text_of(&file).ok()?)?;
        }
    }
    take(&rest)?;
    Some(pairs)
}

/// The text without Debian's Include, where that is its first line; and whether it was there.
fn with_parts(text: &str) -> (bool, String) {
    let counts = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let mut lines = text.lines().filter(counts);
    let found = lines.next().is_some_and(|line| line.trim() == format!("Include {SYSTEM_PARTS}"));
    if found { (true, lines.collect::<Vec<_>>().join("\n")) } else { (false, text.to_owned()) }
}

/// The file of a directory that ends in .conf, if there is one; `None` where there are more, or they cannot be listed.
fn parts_of(directory: &Path) -> Option<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(_) => return None,
    };
    let mut files = entries.map(|entry| Some(entry.ok()?.path())).collect::<Option<Vec<PathBuf>>>()?;
    let part = |file: &PathBuf| {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.ends_with(".conf") && !name.starts_with('.')
    };
    files.retain(part);
    // The order of several is that of the user's locale: the client knows.
    (files.len() <= 1).then_some(files)
}

/// A file's text, empty where there is none.
fn text_of(file: &Path) -> std::io::Result<String> {
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let opened = match std::fs::OpenOptions::new().read(true).custom_flags(flags).open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        opened => opened?,
    };
    let meta = opened.metadata()?;
    if !meta.is_file() || meta.len() > FILE_LIMIT {
        return Err(std::io::Error::other("no file, or too large"));
    }
    let mut text = String::new();
    opened.take(FILE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// True for a text of known keywords without quotes, escapes, variables, tokens and comments behind words, whose lines mean
/// one thing in every version.
fn is_plain(text: &str) -> bool {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).all(|line| {
        let word = line.split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default().to_ascii_lowercase();
        let known = KEYWORDS.contains(&word.as_str()) || WITHOUT_EFFECT.contains(&word.as_str());
        let odd = |c: char| matches!(c, '"' | '\'' | '\\' | '#' | '$' | '%') || (c.is_control() && c != '\t');
        // The client compares hosts as they are written, and in some places without case.
        let cased = word == "host" && line.chars().skip(word.len()).any(|c| c.is_ascii_uppercase());
        known && !cased && !line.contains(odd)
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
    fn what_has_one_reading() {
        let debian =
            "# x\nInclude /etc/ssh/ssh_config.d/*.conf\n\nHost *\n    SendEnv LANG LC_*\n    HashKnownHosts yes\n";
        let (parts, rest) = with_parts(debian);
        assert!(parts && is_plain(&rest) && parse(&rest, "a").unwrap().is_empty(), "{rest}");
        let twice = "Include /etc/ssh/ssh_config.d/*.conf\nHost a\nInclude /etc/ssh/ssh_config.d/*.conf\n";
        assert!(parse(&with_parts(twice).1, "a").is_err(), "the second one is no more Debian's");
        // An Include that is not Debian's, or stands where it may be for some hosts only, stays and is not judged.
        for other in [
            "Host a\nInclude /etc/ssh/ssh_config.d/*.conf\n",
            "Include /x\n",
            "User a\nInclude /etc/ssh/ssh_config.d/*.conf\n",
        ] {
            let (parts, rest) = with_parts(other);
            assert!(!parts && parse(&rest, "a").is_err(), "{other}");
        }
        for odd in [
            "IdentityFile \"~/a b\"",
            "HostName %h.example",
            "User me # not you",
            "Host WEB",
            "CanonicalizeHostname yes",
            "Spelling wrong",
            "IdentityAgent $SOCK",
            "Match all",
        ] {
            assert!(!is_plain(odd), "{odd}");
        }
        assert!(is_plain("Host web\n\tPort=22\n  identityfile ~/.ssh/k\n"));
    }

    #[test]
    fn what_is_not_judged_is_refused() {
        assert_eq!(parse("Host a\nInclude x\n", "b").unwrap_err().0, 2);
        assert!(parse("match all\n", "b").is_err());
    }
}
