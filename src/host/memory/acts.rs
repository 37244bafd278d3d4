//! What the in-memory host does to its world, judged by the rules of the machine.

use super::world::{Entry, Stuff, World};
use crate::error::Result;
use crate::formats::accounts::Records;
use crate::host::edits::{self, Databases};
use crate::host::rules::{self, Who};
use crate::host::{AccountEdit, Actor, Database, FileKind, Image, Meta, Node, READ_LIMIT};
use crate::types::{AbsPath, UserName};

/// The acting account as /etc/passwd has it, with its home; `None` when there is no such account.
fn account(world: &World, user: &UserName) -> Result<Option<(Who, AbsPath)>> {
    let text = world.text("/etc/passwd").unwrap_or_default();
    let Some(entry) = Records::parse(text.as_bytes()).passwd_entry(user.as_str()) else { return Ok(None) };
    let home = rules::home_path(user, &entry.home)?;
    Ok(Some((Who::User { name: user.clone(), uid: entry.uid, gid: entry.gid }, home)))
}

/// How a place can be reached by an actor.
pub enum Way {
    /// The directory is there and may be worked in.
    Open(Who),
    /// A parent, the home or the account is not there.
    Missing,
    /// It is the home itself.
    Home,
}

/// Judges every directory from `/` down to the parent of `path`, as the machine does by descriptors.
pub fn way(world: &World, path: &AbsPath, actor: &Actor) -> Result<Way> {
    let Some(parent) = path.parent() else { return Err(rules::root_directory(path)) };
    let Actor::User(user) = actor else {
        let open = judged(world, &parent, &|at, meta| rules::trusted_dir(at, meta))?;
        return Ok(if open { Way::Open(Who::Root) } else { Way::Missing });
    };
    let Some((who, home)) = account(world, user)? else {
        let open = judged(world, &parent, &|at, meta| rules::trusted_dir(at, meta))?;
        if open && world.entry(path.as_str()).is_some() {
            return Err(rules::no_account(user, path));
        }
        return Ok(Way::Missing);
    };
    let Who::User { uid, .. } = who else { return Ok(Way::Missing) };
    if !path.is_within(&home) {
        return Err(rules::outside_home(path, user, &home));
    }
    let last = if *path == home { path } else { &parent };
    let open = judged(world, last, &|at, meta| {
        if *at == home {
            rules::home(at, meta, user, uid)
        } else if at.is_within(&home) {
            rules::home_dir_seen(at, meta, uid)
        } else {
            rules::trusted_dir(at, meta)
        }
    })?;
    Ok(match (open, *path == home) {
        (false, _) => Way::Missing,
        (true, true) => Way::Home,
        (true, false) => Way::Open(who),
    })
}

/// True when all directories down to `path` are there and pass the judge.
fn judged(world: &World, path: &AbsPath, judge: &dyn Fn(&AbsPath, &Meta) -> Result<()>) -> Result<bool> {
    let mut chain = vec![path.clone()];
    let mut above = path.parent();
    while let Some(parent) = above {
        above = parent.parent();
        chain.push(parent);
    }
    for at in chain.iter().rev() {
        match world.entry(at.as_str()) {
            Some(entry) => judge(at, &entry.meta())?,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// The directory a change happens in must be ruled by who changes it.
fn writable(world: &World, path: &AbsPath, who: &Who) -> Result<()> {
    let (Who::User { name, uid, .. }, Some(parent)) = (who, path.parent()) else { return Ok(()) };
    let Some(entry) = world.entry(parent.as_str()) else { return Ok(()) };
    rules::home_dir_written(&parent, &entry.meta(), name, *uid)
}

/// Puts a node down.
pub fn put(world: &mut World, path: &AbsPath, who: &Who, node: &Node) -> Result<()> {
    writable(world, path, who)?;
    let (owner, mode) = match node {
        Node::File { owner, mode, .. } | Node::Dir { owner, mode } => (*owner, *mode),
    };
    rules::givable(path, who, who.ids(owner).0)?;
    let ((uid, gid), old) = (who.ids(owner), world.entry(path.as_str()).cloned());
    let xattrs = old.as_ref().map(|old| old.xattrs.clone()).unwrap_or_default();
    let stuff = match node {
        Node::File { content, .. } => {
            old.iter().try_for_each(|old| rules::replace_by_file(path, &old.meta(), who))?;
            Stuff::File(content.clone())
        }
        Node::Dir { .. } => {
            old.iter().try_for_each(|old| rules::become_dir(path, &old.meta(), who))?;
            Stuff::Dir
        }
    };
    world.set(path.as_str(), Entry { stuff, mode, uid, gid, xattrs, links: 1 });
    Ok(())
}

/// Removes a node.
pub fn remove(world: &mut World, path: &AbsPath, who: &Who) -> Result<()> {
    let Some(meta) = world.entry(path.as_str()).map(Entry::meta) else { return Ok(()) };
    writable(world, path, who)?;
    rules::removable(path, &meta, who)?;
    if meta.kind == FileKind::Dir && !world.names(path.as_str()).is_empty() {
        return Err(rules::not_empty(path));
    }
    world.clear(path.as_str());
    Ok(())
}

/// Puts an image back.
pub fn restore(world: &mut World, path: &AbsPath, who: &Who, image: &Image) -> Result<()> {
    if let Image::File { uid, .. } | Image::Dir { uid, .. } | Image::Link { uid, .. } = image {
        rules::givable(path, who, *uid)?;
    }
    let old = world.entry(path.as_str()).cloned();
    let judge_file = || old.iter().try_for_each(|old| rules::replace_by_file(path, &old.meta(), who));
    let entry = match image.clone() {
        Image::Absent => return remove(world, path, who),
        Image::File { content, mode, uid, gid, xattrs } => {
            judge_file()?;
            Entry { stuff: Stuff::File(content), mode, uid, gid, xattrs, links: 1 }
        }
        Image::Dir { mode, uid, gid, xattrs } => {
            old.iter().try_for_each(|old| rules::become_dir(path, &old.meta(), who))?;
            Entry { stuff: Stuff::Dir, mode, uid, gid, xattrs, links: 1 }
        }
        Image::Link { target, uid, gid } => {
            let entry = Entry { uid, gid, ..Entry::new(Stuff::Link(target), 0o777) };
            if old.as_ref().is_none_or(|old| (&old.stuff, old.uid, old.gid) != (&entry.stuff, uid, gid)) {
                judge_file()?;
            }
            entry
        }
    };
    writable(world, path, who)?;
    world.set(path.as_str(), entry);
    Ok(())
}

/// Everything needed to put a node back.
pub fn capture(world: &World, path: &AbsPath, who: &Who) -> Result<Image> {
    let Some(entry) = world.entry(path.as_str()) else { return Ok(Image::Absent) };
    rules::capturable(path, &entry.meta(), who)?;
    writable(world, path, who)?;
    let Entry { stuff, mode, uid, gid, xattrs, .. } = entry.clone();
    Ok(match stuff {
        Stuff::File(content) => Image::File { content, mode, uid, gid, xattrs },
        Stuff::Dir => Image::Dir { mode, uid, gid, xattrs },
        Stuff::Link(target) => Image::Link { target, uid, gid },
        Stuff::Other => Image::Absent,
    })
}

/// The bytes of a regular file.
pub fn bytes_of(path: &AbsPath, entry: &Entry) -> Result<Vec<u8>> {
    match &entry.stuff {
        Stuff::File(bytes) if bytes.len() as u64 <= READ_LIMIT => Ok(bytes.clone()),
        Stuff::File(_) => Err(rules::too_large(path, READ_LIMIT)),
        _ => Err(rules::no_file(path)),
    }
}

/// The edits on the world's databases.
pub fn edited(world: &World, edits: &[AccountEdit]) -> Result<edits::Edited> {
    let mut before = Databases::new();
    for db in edits.iter().map(edits::database) {
        if let Some(entry) = world.entry(db.path().as_str()) {
            before.insert(db, Records::parse(&bytes_of(&db.path(), entry)?));
        }
    }
    edits::apply(&before, edits)
}

/// Refused when an empty lock file of the shadow tools is there.
pub fn no_stale_lock(world: &World, db: Database) -> Result<()> {
    let Some((file, lock)) = rules::shadow_lock(db) else { return Ok(()) };
    match world.entry(lock.as_str()) {
        Some(entry) if entry.meta().size == 0 => Err(rules::stale_lock(&file, &lock)),
        _ => Ok(()),
    }
}
