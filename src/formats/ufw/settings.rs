//! ufw.conf, /etc/default/ufw and application profiles.

use std::fmt::Write as _;

/// A comment as a tuple holds it.
pub fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of `key` in ufw.conf or /etc/default/ufw: the last assignment counts, quotes and comments are stripped.
pub fn setting(text: &str, key: &str) -> Option<String> {
    let line = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).next_back()?;
    let word = match line.chars().next() {
        Some(quote @ ('"' | '\'')) => line.split(quote).nth(1),
        _ => line.split([' ', '\t', '#', ';']).next(),
    };
    Some(word.unwrap_or_default().to_owned())
}

/// The text with `key` set, as ufw does it: every assignment is replaced, or one is appended.
pub fn with_setting(text: &str, key: &str, value: &str) -> String {
    let mut found = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        if line.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')) {
            let _ = writeln!(out, "{key}={value}");
            found = true;
        } else {
            out.push_str(line);
        }
    }
    if !found {
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        let _ = writeln!(out, "{key}={value}");
    }
    out
}

/// An application profile: its name and its `ports` field, split at `|`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The name.
    pub name: String,
    /// Such as `80,443/tcp`, `53`.
    pub ports: Vec<String>,
}

/// The profiles of one file below /etc/ufw/applications.d; those without `title`, `description` or `ports` are left
/// out, as ufw does.
pub fn profiles(text: &str) -> Vec<Profile> {
    let mut found = Vec::<(String, Vec<(String, String)>)>::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            found.push((name.0.to_owned(), Vec::new()));
        } else if !line.starts_with(['#', ';', ' ', '\t'])
            && let (Some((key, value)), Some((_, fields))) = (line.split_once(['=', ':']), found.last_mut())
        {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let get = |fields: &[(String, String)], key: &str| {
        fields.iter().rev().find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.clone())
    };
    found
        .iter()
        .filter_map(|(name, fields)| {
            get(fields, "title")?;
            get(fields, "description")?;
            let ports = get(fields, "ports")?.split('|').map(str::to_owned).collect();
            Some(Profile { name: name.clone(), ports })
        })
        .collect()
}
