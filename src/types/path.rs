//! Absolute paths and file modes.

use std::path::Path;

use super::{Invalid, Word, is_forbidden, word_serde};

/// A normalised absolute UTF-8 path: no `.`, `..`, `//`, trailing `/`, control characters or `:`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AbsPath(String);

/// Permission bits of a file, 0 to 0o7777; written in playbooks as a quoted octal string of four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mode(u32);

impl AbsPath {
    /// A path fixed in the source. An unclean constant becomes `/`, which no step may replace.
    pub fn fixed(path: &'static str) -> Self {
        Self::parse(path).unwrap_or_else(|_| Self("/".to_owned()))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// The containing directory; `None` for `/`.
    pub fn parent(&self) -> Option<Self> {
        let (head, tail) = self.0.rsplit_once('/')?;
        if tail.is_empty() {
            return None;
        }
        Some(Self(if head.is_empty() { "/".to_owned() } else { head.to_owned() }))
    }

    /// The last component; empty for `/`.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(_, tail)| tail)
    }

    /// This path with `relative` (components of a clean relative path) below it.
    ///
    /// # Errors
    /// When the result is not a clean path.
    pub fn join(&self, relative: &str) -> Result<Self, Invalid> {
        if self.0 == "/" {
            Self::parse(&format!("/{relative}"))
        } else {
            Self::parse(&format!("{}/{relative}", self.0))
        }
    }

    /// True when `self` is `other` or below it.
    pub fn is_within(&self, other: &Self) -> bool {
        other.0 == "/" || self.0 == other.0 || self.0.strip_prefix(&other.0).is_some_and(|rest| rest.starts_with('/'))
    }
}

impl std::fmt::Display for AbsPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Word for AbsPath {
    const FORMAT: &'static str = "absolute-path";
    const PATTERN: &'static str = "^/";
    const ABOUT: &'static str = "a plain absolute path, without '..'";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let hint = "write a plain absolute path such as /home/deploy";
        if let Some(c) = text.chars().find(|c| is_forbidden(*c) || *c == ':') {
            return Err(Invalid::new(format!("character {} in a path", c.escape_default()), hint));
        }
        if !text.starts_with('/') {
            return Err(Invalid::new("the path is not absolute", hint));
        }
        if text.len() > 1024 {
            return Err(Invalid::new("the path is longer than 1024 bytes", hint));
        }
        let body = text.strip_prefix('/').unwrap_or(text);
        if !body.is_empty() && body.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Invalid::new("the path is not plain ('.', '..', '//' or a '/' at the end)", hint));
        }
        Ok(Self(text.to_owned()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

impl Mode {
    /// A mode from its bits; bits above 0o7777 are dropped.
    pub const fn new(bits: u32) -> Self {
        Self(bits & 0o7777)
    }

    /// The bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl Word for Mode {
    const FORMAT: &'static str = "file-mode";
    const PATTERN: &'static str = "^[0-7]{4}$";
    const ABOUT: &'static str = "a file mode: four octal digits in quotes";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let octal = text.len() == 4 && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let bits = if octal { u32::from_str_radix(text, 8).ok() } else { None };
        bits.map(Self)
            .ok_or_else(|| Invalid::new("not a file mode", "write four octal digits in quotes, such as \"0600\""))
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

word_serde!(AbsPath);
word_serde!(Mode);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths() {
        for bad in ["", "a", "/a/../b", "/a/./b", "//a", "/a/", "/a\nb", "/a:b"] {
            assert!(AbsPath::parse(bad).is_err(), "{bad:?}");
        }
        let path = AbsPath::parse("/a/b").unwrap();
        assert_eq!(path.parent().unwrap().as_str(), "/a");
        assert_eq!(path.parent().unwrap().parent().unwrap().as_str(), "/");
        assert!(path.is_within(&AbsPath::parse("/a").unwrap()));
        assert!(!AbsPath::parse("/ab").unwrap().is_within(&AbsPath::parse("/a").unwrap()));
        assert!(path.join("../c").is_err());
    }
}
