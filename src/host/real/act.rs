//! File work as data: what root does itself, and what a child that has become a user is asked to do.

use serde::{Deserialize, Serialize};

use super::fault;
use super::place::{Place, names_of};
use super::walk::{self, Dir};
use crate::error::{Kind, Result};
use crate::host::rules::{self, Who};
use crate::host::{Image, Meta, Node, bytes_text};
use crate::types::AbsPath;

/// One piece of file work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// lstat(2).
    Meta,
    /// The bytes of a file.
    Read,
    /// The names in a directory.
    List,
    /// A before-image.
    Capture,
    /// Put a node.
    Put(Node),
    /// Remove.
    Remove,
    /// Put an image back.
    Restore(Image),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Done {
    /// It is done.
    Nothing,
    /// Nothing is there.
    Absent,
    /// For [`Work::Meta`].
    Meta(Meta),
    /// For [`Work::Read`].
    Read(Bytes),
    /// For [`Work::List`].
    List(Vec<String>),
    /// For [`Work::Capture`].
    Image(Image),
}

/// Bytes on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes(#[serde(with = "bytes_text")] pub Vec<u8>);

/// What `work` gives where nothing is and nothing can be: a parent is missing.
///
/// # Errors
/// For work that needs the parent.
pub fn without_parent(path: &AbsPath, work: &Work) -> Result<Done> {
    match work {
        Work::Meta | Work::Read | Work::List => Ok(Done::Absent),
        Work::Capture => Ok(Done::Image(Image::Absent)),
        Work::Remove | Work::Restore(Image::Absent) => Ok(Done::Nothing),
        Work::Put(_) | Work::Restore(_) => Err(rules::no_parent(path)),
    }
}

/// Changes and before-images in the name of root: every directory above must be root's alone.
///
/// # Errors
/// As [`crate::host::Host`] says.
pub fn as_root(path: &AbsPath, work: &Work) -> Result<Done> {
    let Some(parent) = path.parent() else { return Err(rules::root_directory(path)) };
    match walk::trusted(&parent)? {
        Some(dir) => in_dir(&dir, path, &Who::Root, work),
        None => without_parent(path, work),
    }
}

/// Anything in the name of a user that this process has become.
///
/// # Errors
/// As [`crate::host::Host`] says.
pub fn as_user(home: &AbsPath, path: &AbsPath, who: &Who, work: &Work) -> Result<Done> {
    let Who::User { name, uid, .. } = who else { return as_root(path, work) };
    if !path.is_within(home) {
        return Err(rules::outside_home(path, name, home));
    }
    let Some(top) = walk::home(home, name, *uid)? else {
        return without_parent(path, work);
    };
    if path == home {
        return the_home(&top, work);
    }
    if *work == Work::List {
        return match walk::beneath(&top, path, name, *uid)? {
            Some(dir) => list(&dir),
            None => Ok(Done::Absent),
        };
    }
    let parent = path.parent().unwrap_or_else(|| home.clone());
    match walk::beneath(&top, &parent, name, *uid)? {
        Some(dir) => in_dir(&dir, path, who, work),
        None => without_parent(path, work),
    }
}

fn list(dir: &Dir) -> Result<Done> {
    names_of(&dir.file).map(Done::List).map_err(|errno| fault(Kind::Unknown, &dir.path, "cannot be listed", errno))
}

fn the_home(home: &Dir, work: &Work) -> Result<Done> {
    match work {
        Work::Meta => walk::meta(home).map(Done::Meta),
        Work::List => list(home),
        _ => Err(rules::home_itself(&home.path)),
    }
}

fn in_dir(dir: &Dir, path: &AbsPath, who: &Who, work: &Work) -> Result<Done> {
    let place = Place::new(dir, path.file_name(), path, who);
    match work {
        Work::Meta => Ok(place.meta()?.map_or(Done::Absent, Done::Meta)),
        Work::Read => match who {
            Who::User { uid, .. } => Ok(place.read(*uid)?.map_or(Done::Absent, |bytes| Done::Read(Bytes(bytes)))),
            Who::Root => Ok(place.read(0)?.map_or(Done::Absent, |bytes| Done::Read(Bytes(bytes)))),
        },
        Work::List => list(dir),
        Work::Capture => place.capture().map(Done::Image),
        Work::Put(node) => place.put(node).map(|()| Done::Nothing),
        Work::Remove => place.remove().map(|()| Done::Nothing),
        Work::Restore(image) => place.restore(image).map(|()| Done::Nothing),
    }
}
