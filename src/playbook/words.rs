//! The checked words of [`crate::types`] by the `format` under which the schema names them.

use serde_json::Value;

use crate::formats::sudoers::SudoCommand;
use crate::resource::LoadedFile;
use crate::types::{AbsPath, Cidr, GroupName, Invalid, Mode, PasswordHash, PlainText, PublicKey, UserName, Word};

/// The format of a file mode, whose fix is to add quotes and zeros.
pub(super) const MODE: &str = Mode::FORMAT;

struct Row {
    format: &'static str,
    about: &'static str,
    sample: &'static str,
    check: fn(&str) -> Result<(), Invalid>,
}

const fn row<W: Word>(sample: &'static str) -> Row {
    Row { format: W::FORMAT, about: W::ABOUT, sample, check: parse::<W> }
}

fn parse<W: Word>(text: &str) -> Result<(), Invalid> {
    W::parse(text).map(drop)
}

const ROWS: &[Row] = &[
    row::<UserName>("deploy"),
    row::<GroupName>("sudo"),
    row::<PlainText>("\"some text\""),
    row::<Cidr>("198.51.100.0/24"),
    row::<AbsPath>("/home/deploy"),
    row::<Mode>("\"0600\""),
    row::<PublicKey>("\"ssh-ed25519 AAAA... ops@laptop\""),
    row::<SudoCommand>("/usr/bin/systemctl restart nginx"),
    row::<PasswordHash>("\"$y$...\", made with: mkpasswd --method=yescrypt"),
];

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
