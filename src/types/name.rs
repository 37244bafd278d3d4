//! Account names and plain one-line text.

use super::{Invalid, Word, is_forbidden, word_serde};

/// A login name: `[a-z_][a-z0-9_.-]{0,31}`, no `..`, no trailing dot, nothing that means something in sudoers.
///
/// Stricter than useradd(8), which accepts `ALL`, `../x` and all-digit names; see sudoers(5) for the words refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

/// A group name; the same rule as [`UserName`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(String);

/// One line of printable text without control characters, such as a comment; at most 256 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlainText(String);

const NAME_PATTERN: &str = "^[a-z_][a-z0-9_.-]{0,31}$";
/// Words that sudoers(5) or sshd_config(5) would read as something else than a name.
const RESERVED: [&str; 1] = ["all"];

fn check_name(text: &str, what: &str) -> Result<(), Invalid> {
    let rule = format!("a {what} is a lower-case letter or '_', then up to 31 of a-z 0-9 _ . -");
    let mut chars = text.chars();
    let first = chars.next().ok_or_else(|| Invalid::new(format!("the {what} is empty"), &rule))?;
    if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
        return Err(Invalid::new(format!("control character {} in the {what}", c.escape_unicode()), &rule));
    }
    if text.len() > 32 {
        return Err(Invalid::new(format!("{what} of {} bytes, 32 is the most", text.len()), &rule));
    }
    if !(first.is_ascii_lowercase() || first == '_') {
        return Err(Invalid::new(format!("{what} begins with '{first}'"), &rule));
    }
    if let Some(c) = chars.find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-'))) {
        return Err(Invalid::new(format!("'{c}' in the {what}"), &rule));
    }
    if text.contains("..") || text.ends_with('.') {
        return Err(Invalid::new(format!("the {what} would read as a path"), &rule));
    }
    if RESERVED.contains(&text) {
        return Err(Invalid::new(format!("'{text}' means something else in sudoers"), "choose another name"));
    }
    Ok(())
}

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for `root`.
    pub fn is_root(&self) -> bool {
        self.0 == "root"
    }
}

impl GroupName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PlainText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Word for UserName {
    const FORMAT: &'static str = "user-name";
    const PATTERN: &'static str = NAME_PATTERN;
    const ABOUT: &'static str = "a login name: a-z or _ first, then up to 31 of a-z 0-9 _ . -";

    fn parse(text: &str) -> Result<Self, Invalid> {
        check_name(text, "user name")?;
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

impl Word for GroupName {
    const FORMAT: &'static str = "group-name";
    const PATTERN: &'static str = NAME_PATTERN;
    const ABOUT: &'static str = "a group name: a-z or _ first, then up to 31 of a-z 0-9 _ . -";

    fn parse(text: &str) -> Result<Self, Invalid> {
        check_name(text, "group name")?;
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

impl Word for PlainText {
    const FORMAT: &'static str = "plain-text";
    const PATTERN: &'static str = "^[^\\u0000-\\u001f\\u007f]{0,256}$";
    const ABOUT: &'static str = "one line of printable text";

    fn parse(text: &str) -> Result<Self, Invalid> {
        if let Some(c) = text.chars().find(|c| is_forbidden(*c)) {
            return Err(Invalid::new(
                format!("control character {} in the text", c.escape_unicode()),
                "write one line of printable text",
            ));
        }
        if text.chars().count() > 256 {
            return Err(Invalid::new("more than 256 characters", "shorten the text"));
        }
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

word_serde!(UserName);
word_serde!(GroupName);
word_serde!(PlainText);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_useradd_accepts_and_we_refuse() {
        for bad in
            ["", "ALL", "all", "1000", "a..b", "..", "../x", "alice$", "é", "a b", "-x", "a\n", "a:b", "a.", "%x", "#1"]
        {
            assert!(UserName::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["deploy", "_apt", "a.b", "x-1", "a2345678901234567890123456789012"] {
            assert!(UserName::parse(good).is_ok(), "{good:?}");
        }
        assert!(UserName::parse("a23456789012345678901234567890123").is_err());
    }
}
