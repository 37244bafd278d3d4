//! Values that no log, plan, journal or event may show.

use super::{Invalid, Word};

/// A value that prints as `(secret)`. Deliberately without `Display` and `Serialize`; [`Secret::reveal`] is the one way out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself; the caller answers for where it goes.
    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> std::fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(secret)")
    }
}

/// A password hash in crypt(5) form that can be matched by some password: yescrypt, SHA-512 or SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(Secret<String>);

impl PasswordHash {
    /// The hash, for the shadow database only.
    pub const fn reveal(&self) -> &String {
        self.0.reveal()
    }
}

impl Word for PasswordHash {
    const FORMAT: &'static str = "password-hash";
    const PATTERN: &'static str = "^\\$(y|gy|7|6|5)\\$";
    const ABOUT: &'static str = "a crypt(5) hash: $y$ (yescrypt), $6$ (SHA-512) or $5$ (SHA-256)";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let hint = "make one with: mkpasswd --method=yescrypt (package whois), or openssl passwd -6";
        let known = ["$y$", "$gy$", "$7$", "$6$", "$5$"].iter().any(|prefix| text.starts_with(prefix));
        if !known {
            return Err(Invalid::new("not a crypt(5) hash of a method that keyward accepts", hint));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '$' | '=' | ',');
        let fields: Vec<&str> = text.split('$').collect();
        let filled = fields.len() >= 4 && fields.last().is_some_and(|digest| digest.len() >= 43);
        if !text.chars().all(plain) || text.len() > 256 || !filled {
            return Err(Invalid::new("the hash is cut off or holds characters that crypt(5) does not use", hint));
        }
        Ok(Self(Secret::new(text.to_owned())))
    }

    fn text(&self) -> String {
        "(secret)".to_owned()
    }
}

impl<'de> serde::Deserialize<'de> for PasswordHash {
    fn deserialize<D: serde::Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for PasswordHash {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PasswordHash".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": Self::FORMAT, "pattern": Self::PATTERN, "description": Self::ABOUT })
    }
    fn inline_schema() -> bool {
        true
    }
}

/// What a playbook says about the password of an account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Password {
    /// No password matches: `*` in shadow(5), never `!`, which also shuts out keys where sshd has `UsePAM no`.
    Locked,
    /// As it is; a new account gets none.
    Keep,
    /// This crypt(5) hash.
    Hash(PasswordHash),
}

impl Password {
    /// True when this says that a usable password will be there.
    pub const fn is_hash(&self) -> bool {
        matches!(self, Self::Hash(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print() {
        assert_eq!(format!("{:?}", Secret::new("canary")), "(secret)");
        let hash = format!("$6$saltsalt${}", "a".repeat(86));
        let parsed = PasswordHash::parse(&hash).unwrap();
        assert!(!format!("{parsed:?}").contains("salt"));
        assert_eq!(parsed.reveal(), &hash);
        for bad in ["", "!", "*", "plain", "$1$x$y", "$6$salt$short", "$6$a:b$"] {
            assert!(PasswordHash::parse(bad).is_err(), "{bad:?}");
        }
    }
}
