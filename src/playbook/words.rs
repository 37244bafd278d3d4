//! The checked words of [`crate::types`] by the `format` under which the schema names them.

use serde_json::Value;

use crate::formats::sudoers::SudoCommand;
use crate::resource::LoadedFile;
use crate::types::{AbsPath, Cidr, Day, GroupName, Invalid, Mode, PasswordHash, PlainText, PublicKey, UserName, Word};

/// The format of a file mode, whose fix is to add quotes and zeros.
pub(super) const MODE: &str = Mode::FORMAT;

struct Row {
    format: &'static str,
    about: &'static str,
    sample: &'static str,
    /// Texts that pass the check and differ in what they mean.
    right: &'static [&'static str],
    check: fn(&str) -> Result<(), Invalid>,
}

const fn row<W: Word>(sample: &'static str, right: &'static [&'static str]) -> Row {
    Row { format: W::FORMAT, about: W::ABOUT, sample, right, check: parse::<W> }
}

fn parse<W: Word>(text: &str) -> Result<(), Invalid> {
    W::parse(text).map(drop)
}

const ROWS: &[Row] = &[
    row::<UserName>("deploy", &["deploy", "root"]),
    row::<GroupName>("sudo", &["sudo", "users"]),
    row::<PlainText>("\"some text\"", &["some text"]),
    row::<Cidr>("198.51.100.0/24", &["198.51.100.0/24"]),
    row::<AbsPath>("/home/deploy", &["/home/deploy"]),
    row::<Mode>("\"0600\"", &["0600"]),
    row::<Day>("\"2027-03-31\"", &["2027-03-31"]),
    row::<PublicKey>("\"ssh-ed25519 AAAA... ops@laptop\"", &[KEY]),
    row::<SudoCommand>("/usr/bin/systemctl restart nginx", &["/usr/bin/systemctl restart nginx"]),
    row::<PasswordHash>("\"$y$...\", made with: mkpasswd --method=yescrypt", &[HASH]),
];

/// A public key that keyward accepts; its private half is nowhere.
pub(super) const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINOt8f+KUKt6rWlxvYCoNbgloKYTuu1hUtqVzF7yQrVF ops@laptop";
/// A password hash that keyward accepts, of no password.
const HASH: &str = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7";

/// Judges `text` by the rule of `format`; `None` when the format has no rule here.
pub(super) fn check(format: &str, text: &str) -> Option<Result<(), Invalid>> {
    ROWS.iter().find(|row| row.format == format).map(|row| (row.check)(text))
}

/// What the text of `schema` is; the part after a colon, which gives the rule, is left to the hint.
pub(super) fn about(schema: &Value) -> Option<String> {
    let format = schema.get("format")?.as_str()?;
    if format == LoadedFile::FORMAT {
        return Some("the name of a file beside the playbook".to_owned());
    }
    let row = ROWS.iter().find(|row| row.format == format)?;
    Some(row.about.split(": ").next().unwrap_or(row.about).to_owned())
}

/// A right text for `schema`.
pub(super) fn sample(schema: &Value) -> String {
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    if format == LoadedFile::FORMAT {
        return "deploy.pub".to_owned();
    }
    ROWS.iter().find(|row| row.format == format).map_or("\"...\"", |row| row.sample).to_owned()
}

/// Texts that pass the rule of `format`.
pub(super) fn right(format: &str) -> &'static [&'static str] {
    ROWS.iter().find(|row| row.format == format).map_or(&[], |row| row.right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_words_are_right() {
        for row in ROWS {
            assert!(!row.right.is_empty() && row.right.iter().all(|text| (row.check)(text).is_ok()), "{}", row.format);
        }
    }
}
