//! The checked words of the domain. A value of one of these types has passed its rule; nothing else is rendered
//! into a system file. Must not touch the system.

mod day;
mod key;
mod name;
mod net;
mod path;
mod secret;

pub use day::Day;
pub use key::{KeyError, PublicKey, rsa_bits_of};
pub use name::{GroupName, PlainText, UserName};
pub use net::{Cidr, Port, Proto};
pub use path::{AbsPath, Mode};
pub use secret::{Password, PasswordHash, Secret};

/// Why a text is not a value of a type: the reason and the fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What is wrong, lower case.
    pub why: String,
    /// The fix.
    pub hint: String,
}

impl Invalid {
    /// A reason with its fix.
    pub fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: hint.into() }
    }
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// A checked word: parsed from text by one rule, with a name that the playbook schema uses as its `format`.
pub trait Word: Sized {
    /// The `format` in the JSON Schema, and the name under which the playbook checks a scalar.
    const FORMAT: &'static str;
    /// A regular expression that accepts at least every valid word, for editors.
    const PATTERN: &'static str;
    /// What the word is, for help and schema.
    const ABOUT: &'static str;

    /// Parses `text`.
    ///
    /// # Errors
    /// The rule that `text` breaks, with the fix.
    fn parse(text: &str) -> Result<Self, Invalid>;
    /// The canonical text.
    fn text(&self) -> String;
}

/// Gives a [`Word`] its serde and schema forms, so that one rule serves playbook, plan and journal.
macro_rules! word_serde {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.serialize_str(&$crate::types::Word::text(self))
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(input)?;
                <$type as $crate::types::Word>::parse(&text).map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "format": <$type as $crate::types::Word>::FORMAT,
                    "pattern": <$type as $crate::types::Word>::PATTERN,
                    "description": <$type as $crate::types::Word>::ABOUT,
                })
            }
            fn inline_schema() -> bool {
                true
            }
        }
    };
}
pub(crate) use word_serde;

/// True for characters that no field of a playbook may hold: C0 and C1 controls, DEL, line and paragraph separators,
/// bidirectional overrides and the byte order mark .
pub fn is_forbidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A word as a POSIX shell takes it.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '=' | ':' | ',' | '+' | '@');
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
