//! What is looked at before an account is made or changed: databases, defaults, the home's place, leftovers of others.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Failure, Result};
use crate::formats::accounts::Records;
use crate::host::{Actor, Command, FileKind, Meta, Node, Owner, Probe};
use crate::types::AbsPath;

/// The user databases; one that is not there is `None`.
#[derive(Debug, Default)]
pub struct Databases {
    pub passwd: Records,
    pub shadow: Records,
    pub group: Records,
    pub gshadow: Option<Records>,
    pub subuid: Option<Records>,
    pub subgid: Option<Records>,
}

/// login.defs(5), as far as useradd(8) goes by it.
#[derive(Debug, Default)]
pub struct LoginDefs(BTreeMap<String, String>);

/// What stands where the home is to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Home {
    /// Nothing.
    Absent,
    /// A directory; `empty` is looked at only when root owns it.
    Dir { meta: Meta, empty: bool },
    /// A link, a file or something else.
    Other(FileKind),
}

/// One thing of /etc/skel, by its path below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skeleton {
    pub name: String,
    pub node: Node,
}

/// More than any skeleton or /home that is looked through entry by entry.
const MANY: usize = 512;

impl Databases {
    pub fn read(probe: &dyn Probe) -> Result<Self> {
        let some = |path: &'static str| -> Result<Option<Records>> {
            Ok(probe.read(&AbsPath::fixed(path), &Actor::Root)?.map(|bytes| Records::parse(&bytes)))
        };
        let must = |path: &'static str, fix: &str| {
            some(path)?
                .ok_or_else(|| Failure::refused(path, "the file is missing").hint(format!("make it with: {fix}")))
        };
        Ok(Self {
            passwd: must("/etc/passwd", "dpkg-reconfigure base-passwd")?,
            shadow: must("/etc/shadow", "pwconv")?,
            group: must("/etc/group", "dpkg-reconfigure base-passwd")?,
            gshadow: some("/etc/gshadow")?,
            subuid: some("/etc/subuid")?,
            subgid: some("/etc/subgid")?,
        })
    }
}

impl LoginDefs {
    pub fn read(probe: &dyn Probe) -> Result<Self> {
        let bytes = probe.read(&AbsPath::fixed("/etc/login.defs"), &Actor::Root)?.unwrap_or_default();
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let mut words = line.split_whitespace();
            let key = words.next().filter(|key| !key.starts_with('#'))?.to_owned();
            Some((key, words.next().unwrap_or_default().trim_matches('"').to_owned()))
        };
        Self(text.lines().filter_map(pair).collect())
    }

    /// A number, octal with a leading 0 as for strtoul(3) with base 0.
    pub fn number(&self, key: &str) -> Option<u32> {
        let text = self.0.get(key)?;
        match text.strip_prefix('0') {
            Some(octal) if !octal.is_empty() => u32::from_str_radix(octal, 8).ok(),
            _ => text.parse().ok(),
        }
    }

    pub fn or(&self, key: &str, default: u32) -> u32 {
        self.number(key).unwrap_or(default)
    }

    /// The mode of a new home: `HOME_MODE`, else what `UMASK` leaves.
    pub fn home_mode(&self) -> u32 {
        self.number("HOME_MODE").unwrap_or_else(|| 0o777 & !self.or("UMASK", 0o022)) & 0o777
    }

    /// An age in days as shadow(5) wants it: empty when unset or negative.
    pub fn days(&self, key: &str) -> String {
        self.number(key).map(|days| days.to_string()).unwrap_or_default()
    }
}

/// Days since 1970-01-01, as shadow(5) counts.
pub fn today() -> i64 {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    i64::try_from(seconds / 86_400).unwrap_or(0)
}

/// What is asked for [`known_elsewhere`]; `None` where there is nobody to ask.
pub fn elsewhere(probe: &dyn Probe, database: &str, key: &str) -> Option<Command> {
    let getent = "/usr/bin/getent";
    probe.has_program(getent).then(|| Command::new([getent, "--", database, key]))
}

/// True when the name service knows `key` in `database` (getent(1)); asked for one key, never for the whole list.
pub fn known_elsewhere(probe: &dyn Probe, database: &str, key: &str) -> Result<bool> {
    let Some(question) = elsewhere(probe, database, key) else { return Ok(false) };
    let answer = probe.ask(&question)?;
    match answer.code {
        0 => Ok(true),
        2 => Ok(false),
        _ => Err(Failure::unknown(format!("getent {database} {key}"), "the name service did not answer")
            .why(answer.last_line())
            .hint(format!("try it: getent {database} {key}"))),
    }
}

/// Checks that every directory above a home belongs to root and is writable by root alone: whoever can write to one could
/// swap the home. Links are not followed, as nobody who works in the home later would; the true path is named instead.
pub fn check_parents(probe: &dyn Probe, home: &AbsPath) -> Result<()> {
    let parents: Vec<AbsPath> = std::iter::successors(home.parent(), AbsPath::parent).collect();
    for parent in parents.into_iter().rev() {
        let meta = probe.meta(&parent, &Actor::Root)?.ok_or_else(|| {
            Failure::refused(home.as_str(), format!("the directory {parent} is missing"))
                .hint(format!("make it first: install -d -m 755 {parent}"))
        })?;
        if meta.kind == FileKind::Link {
            return Err(Failure::refused(home.as_str(), format!("{parent} is a link"))
                .why("keyward follows no link on the way to a home")
                .hint(format!("name the true path: home: {}", true_path(probe, home, &parent)?)));
        }
        if meta.kind != FileKind::Dir || meta.uid != 0 || meta.mode & 0o022 != 0 {
            return Err(Failure::refused(home.as_str(), format!("{parent} can be changed by others than root"))
                .why(format!("it is {}, owner uid {}, mode {:04o}", word(meta.kind), meta.uid, meta.mode))
                .hint("give a home whose parents belong to root and are writable by root alone"));
        }
    }
    Ok(())
}

/// `home` with its parent `link` replaced by what it points to, for a message.
fn true_path(probe: &dyn Probe, home: &AbsPath, link: &AbsPath) -> Result<String> {
    let target = probe.link(link)?.unwrap_or_default();
    let up = link.parent().map(|parent| parent.as_str().trim_end_matches('/').to_owned()).unwrap_or_default();
    let base = if target.starts_with('/') { target } else { format!("{up}/{target}") };
    let rest = home.as_str().strip_prefix(link.as_str()).unwrap_or_default();
    Ok(format!("{}{rest}", base.trim_end_matches('/')))
}

/// What stands where a home is to be.
pub fn home(probe: &dyn Probe, path: &AbsPath) -> Result<Home> {
    Ok(match probe.meta(path, &Actor::Root)? {
        None => Home::Absent,
        Some(meta) if meta.kind == FileKind::Dir => {
            let empty = meta.uid == 0 && probe.list(path, &Actor::Root)?.is_some_and(|names| names.is_empty());
            Home::Dir { meta, empty }
        }
        Some(meta) => Home::Other(meta.kind),
    })
}

pub const fn word(kind: FileKind) -> &'static str {
    match kind {
        FileKind::File => "a file",
        FileKind::Dir => "a directory",
        FileKind::Link => "a link",
        FileKind::Other => "a device, fifo or socket",
    }
}

/// /etc/skel, directories before what they hold; second the names that cannot be copied.
pub fn skeleton(probe: &dyn Probe) -> Result<(Vec<Skeleton>, Vec<String>)> {
    let root = AbsPath::fixed("/etc/skel");
    let (mut things, mut odd) = (Vec::new(), Vec::new());
    let mut open = vec![String::new()];
    while let Some(dir) = open.pop() {
        let path = if dir.is_empty() { Ok(root.clone()) } else { root.join(&dir) };
        let names = match path {
            Ok(path) => probe.list(&path, &Actor::Root)?.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        for name in names {
            let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let Ok(path) = root.join(&name) else {
                odd.push(name);
                continue;
            };
            let Some(meta) = probe.meta(&path, &Actor::Root)? else { continue };
            let mode = meta.mode & 0o777;
            match meta.kind {
                FileKind::Dir if things.len() < MANY => {
                    things.push(Skeleton { name: name.clone(), node: Node::Dir { mode, owner: Owner::Actor } });
                    open.push(name);
                }
                FileKind::File if things.len() < MANY => {
                    let content = probe.read(&path, &Actor::Root)?.unwrap_or_default();
                    things.push(Skeleton { name, node: Node::File { content, mode, owner: Owner::Actor } });
                }
                _ => odd.push(name),
            }
        }
    }
    things.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((things, odd))
}

/// Who owns what in the places where a removed account leaves things behind: uid to paths. Bounded, so not the whole
/// disk is searched.
pub fn leftovers(probe: &dyn Probe) -> Result<BTreeMap<u32, Vec<String>>> {
    let mut owned: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for place in ["/home", "/var/mail", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs"] {
        let place = AbsPath::fixed(place);
        let is_dir = probe.meta(&place, &Actor::Root)?.is_some_and(|meta| meta.kind != FileKind::File);
        let names = if is_dir { probe.list(&place, &Actor::Root)?.unwrap_or_default() } else { Vec::new() };
        for name in names.into_iter().take(MANY) {
            let Ok(path) = place.join(&name) else { continue };
            if let Some(meta) = probe.meta(&path, &Actor::Root)?.filter(|meta| meta.uid != 0) {
                owned.entry(meta.uid).or_default().push(path.as_str().to_owned());
            }
        }
    }
    Ok(owned)
}

/// Things that wait for an account of this name and would work for it at once.
pub fn waiting(probe: &dyn Probe, name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for place in ["/var/mail", "/var/spool/cron/crontabs", "/var/lib/systemd/linger"] {
        let Ok(path) = AbsPath::fixed(place).join(name) else { continue };
        if probe.meta(&path, &Actor::Root)?.is_some() {
            found.push(path.as_str().to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_as_useradd_reads_them() {
        let defs = LoginDefs::parse("# UID_MIN 5\nUID_MIN\t\t 2000\nUMASK 027\nPASS_MAX_DAYS -1\nX \"y\"\n");
        assert_eq!((defs.or("UID_MIN", 1000), defs.or("UID_MAX", 60000)), (2000, 60000));
        assert_eq!((defs.home_mode(), defs.days("PASS_MAX_DAYS").as_str()), (0o750, ""));
        assert_eq!(LoginDefs::parse("HOME_MODE 0700\nUMASK 022").home_mode(), 0o700);
        assert_eq!(LoginDefs::parse("").home_mode(), 0o755);
    }
}
