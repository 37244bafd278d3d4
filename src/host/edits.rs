//! [`AccountEdit`] carried out on texts: the one place that knows what an edit means, for the machine and its twin.
//! Must not open files.

use std::collections::BTreeMap;

use super::{AccountEdit, Actor, Database, Probe};
use crate::error::{Failure, Result};
use crate::formats::accounts::Records;
use crate::types::Invalid;

/// The databases that edits name, parsed; a file that does not exist has no entry here.
pub type Databases = BTreeMap<Database, Records>;

/// The result of edits: what has to be written, in this order, and how to take it back.
#[derive(Debug)]
pub struct Edited {
    /// Changed databases, in the order in which to write them.
    pub writes: Vec<(Database, Vec<u8>)>,
    /// The inverse edits, in the order in which to apply them.
    pub undo: Vec<AccountEdit>,
}

/// The database an edit is about.
pub const fn database(edit: &AccountEdit) -> Database {
    match edit {
        AccountEdit::Add { db, .. }
        | AccountEdit::Remove { db, .. }
        | AccountEdit::Field { db, .. }
        | AccountEdit::Member { db, .. }
        | AccountEdit::Rejoin { db, .. } => *db,
    }
}

/// Number of fields of a line, by the manual page of the database.
const fn fields(db: Database) -> usize {
    match db {
        Database::Passwd => 7,
        Database::Shadow => 9,
        Database::Group | Database::Gshadow => 4,
        Database::Subuid | Database::Subgid => 3,
    }
}

/// True when the databases of this host are not as `edits` want them.
///
/// # Errors
/// When a database cannot be read, or an entry is not as an edit expects.
pub fn would_change(edits: &[AccountEdit], probe: &dyn Probe) -> Result<bool> {
    Ok(!as_edited(edits, probe)?.is_empty())
}

/// The databases that `edits` would change on this host, as they would be.
///
/// # Errors
/// As [`would_change`].
pub fn as_edited(edits: &[AccountEdit], probe: &dyn Probe) -> Result<Vec<(Database, Vec<u8>)>> {
    let mut databases = Databases::new();
    for db in edits.iter().map(database) {
        if let Some(bytes) = probe.read(&db.path(), &Actor::Root)? {
            databases.insert(db, Records::parse(&bytes));
        }
    }
    Ok(apply(&databases, edits)?.writes)
}

/// Applies `edits` in order. What is already as an edit wants it is left alone and has no inverse, so that an undo may
/// be repeated after a crash.
///
/// # Errors
/// When a database is missing or an entry is not as an edit expects; then nothing is to be written.
pub fn apply(before: &Databases, edits: &[AccountEdit]) -> Result<Edited> {
    let mut after = before.clone();
    let mut undo = Vec::new();
    let mut passwd_shrinks = false;
    for edit in edits {
        let db = database(edit);
        let place = db.path().as_str().to_owned();
        let Some(records) = after.get_mut(&db) else {
            if matches!(edit, AccountEdit::Remove { .. } | AccountEdit::Member { present: false, .. }) {
                continue;
            }
            return Err(Failure::failed(place.as_str(), "is not there, so no entry can be edited")
                .hint("make the shadow files with: pwconv && grpconv"));
        };
        let inverse = one(records, edit)
            .map_err(|invalid| Failure::failed(place.as_str(), invalid.why.as_str()).hint(invalid.hint))?;
        passwd_shrinks |= db == Database::Passwd && matches!(edit, AccountEdit::Remove { .. });
        undo.extend(inverse);
    }
    undo.reverse();
    // An account must never be seen without its shadow entry or group: passwd comes last, and goes first.
    let mut order =
        [Database::Subuid, Database::Subgid, Database::Gshadow, Database::Group, Database::Shadow, Database::Passwd];
    if passwd_shrinks {
        order.reverse();
    }
    let changed = |db: &Database| after.get(db).filter(|records| before.get(db) != Some(*records));
    let writes = order.iter().filter_map(|db| Some((*db, changed(db)?.render()))).collect();
    Ok(Edited { writes, undo })
}

fn one(records: &mut Records, edit: &AccountEdit) -> std::result::Result<Option<AccountEdit>, Invalid> {
    match edit {
        AccountEdit::Add { db, line } => {
            let key = line.split(':').next().unwrap_or_default().to_owned();
            if line.split(':').count() != fields(*db) {
                return Err(Invalid::new(
                    format!("the new line for '{key}' has not {} fields", fields(*db)),
                    "report this as a defect of keyward",
                ));
            }
            if records.line(&key) == Some(line.as_bytes()) && records.count(&key) == 1 {
                return Ok(None);
            }
            records.add(line)?;
            Ok(Some(AccountEdit::Remove { db: *db, key }))
        }
        AccountEdit::Remove { db, key } => Ok(records.remove(key)?.map(|line| AccountEdit::Add { db: *db, line })),
        AccountEdit::Field { db, key, index, value } => {
            let old = records.set_field(key, *index, value)?;
            Ok((old != *value).then(|| AccountEdit::Field { db: *db, key: key.clone(), index: *index, value: old }))
        }
        AccountEdit::Member { db, group, user, present } => {
            has_members(*db)?;
            let next = records.member_after(group, user);
            let changed = records.set_member(group, user, *present)?;
            let (db, group, user) = (*db, group.clone(), user.clone());
            let inverse = match next {
                Some(before) if !present => AccountEdit::Rejoin { db, group, user, before },
                _ => AccountEdit::Member { db, group, user, present: !present },
            };
            Ok(changed.then_some(inverse))
        }
        AccountEdit::Rejoin { db, group, user, before } => {
            has_members(*db)?;
            let changed = records.rejoin(group, user, before)?;
            let (db, group, user) = (*db, group.clone(), user.clone());
            Ok(changed.then_some(AccountEdit::Member { db, group, user, present: false }))
        }
    }
}

fn has_members(db: Database) -> std::result::Result<(), Invalid> {
    match db {
        Database::Group | Database::Gshadow => Ok(()),
        _ => Err(Invalid::new("only groups have members", "report this as a defect of keyward")),
    }
}
