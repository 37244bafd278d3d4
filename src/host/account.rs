//! Edits of the user databases, as data.

use serde::{Deserialize, Serialize};

use crate::types::AbsPath;

/// The closed set of per-entry edits to the user databases (passwd(5), shadow(5), group(5), gshadow(5), subuid(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "edit")]
pub enum AccountEdit {
    /// Adds a line whose key (first field) is not there yet.
    Add {
        /// Which database.
        db: Database,
        /// The whole line without its newline; for shadow and gshadow it may hold a hash and is never shown.
        line: String,
    },
    /// Removes the line with this key.
    Remove {
        /// Which database.
        db: Database,
        /// First field.
        key: String,
    },
    /// Sets one field of one entry.
    Field {
        /// Which database.
        db: Database,
        /// First field.
        key: String,
        /// Index of the field, the name being 0.
        index: usize,
        /// New value.
        value: String,
    },
    /// Adds a user to the members of a group (last field of group or gshadow), or takes it out.
    Member {
        /// `Group` or `Gshadow`.
        db: Database,
        /// The group.
        group: String,
        /// The user.
        user: String,
        /// True: must be a member; false: must not be.
        present: bool,
    },
    /// Puts a user back into the members of a group where it stood; the inverse of a [`AccountEdit::Member`] that took it
    /// out of the middle. Does nothing when it is a member.
    Rejoin {
        /// `Group` or `Gshadow`.
        db: Database,
        /// The group.
        group: String,
        /// The user.
        user: String,
        /// The member it stood before; at the end when that one has gone.
        before: String,
    },
}

/// A colon-separated user database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Database {
    /// /etc/passwd
    Passwd,
    /// /etc/shadow
    Shadow,
    /// /etc/group
    Group,
    /// /etc/gshadow
    Gshadow,
    /// /etc/subuid
    Subuid,
    /// /etc/subgid
    Subgid,
}

impl Database {
    /// The file.
    pub fn path(self) -> AbsPath {
        AbsPath::fixed(match self {
            Self::Passwd => "/etc/passwd",
            Self::Shadow => "/etc/shadow",
            Self::Group => "/etc/group",
            Self::Gshadow => "/etc/gshadow",
            Self::Subuid => "/etc/subuid",
            Self::Subgid => "/etc/subgid",
        })
    }
}
