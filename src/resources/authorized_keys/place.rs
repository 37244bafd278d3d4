//! Where sshd reads an account's keys, and what stands there.

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::formats::accounts::Records;
use crate::host::{Actor, FileKind, Meta, Probe};
use crate::types::{AbsPath, UserName, Word};

use super::{Desired, actor_of};

/// One file of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: AbsPath,
    pub actor: Actor,
    /// `None` when it is not there.
    pub content: Option<Vec<u8>>,
    /// Permission bits of the file; 0 when it is not there.
    pub mode: u32,
    /// Permission bits of its directory; `None` when that is not there.
    pub directory: Option<u32>,
}

/// What sshd says about an account: the files, and what else decides a login.
struct Setting {
    files: Vec<String>,
    command: Option<String>,
    chroot: Option<String>,
    forced: Option<String>,
}

/// The account as far as it is there.
struct Account {
    name: UserName,
    home: AbsPath,
    /// `None` for one that is still to be made.
    uid: Option<u32>,
}

/// The default of sshd_config(5): two files.
const DEFAULT: [&str; 2] = [".ssh/authorized_keys", ".ssh/authorized_keys2"];

impl Place {
    /// A file in a home is for its owner alone; one that root keeps must be readable for sshd in the user's name.
    pub fn wanted_mode(&self) -> u32 {
        if self.is_shared() { 0o644 } else { 0o600 }
    }

    fn is_shared(&self) -> bool {
        self.actor == Actor::Root && !self.path.as_str().starts_with("/root/")
    }

    pub fn mode_to_mend(&self) -> bool {
        let asked = self.wanted_mode();
        let forbidden = if self.is_shared() { 0o022 } else { 0o077 };
        self.mode & forbidden != 0 || self.mode & asked != asked
    }

    /// The directory with the mode it should get, and the one it has, in words.
    pub fn directory_to_mend(&self) -> Option<(AbsPath, u32, String)> {
        let parent = self.path.parent()?;
        let (wanted, forbidden) = if self.is_shared() { (0o755, 0o022) } else { (0o700, 0o077) };
        match self.directory {
            None => Some((parent, wanted, "absent".to_owned())),
            Some(mode) if mode & forbidden != 0 || mode & 0o700 != 0o700 => {
                Some((parent, wanted, format!("{mode:04o}")))
            }
            Some(_) => None,
        }
    }
}

/// All files that sshd reads for the account, the one that new keys go to first.
pub fn look(desired: &Desired, probe: &dyn Probe, notes: &mut Vec<Note>) -> Result<Vec<Place>> {
    let account = account(desired, probe)?;
    let setting = ask(probe, desired.name.as_str())?;
    judge(desired, &setting, notes)?;
    let (paths, common) = expand(&setting.files, &account)?;
    for path in common {
        let text = format!("{path} lets keys in as every account; it is left as it is");
        notes.push(Note::warning(format!("users.{}.authorized_keys", desired.name.as_str()), text));
    }
    if account.uid.is_some() {
        check_home(desired, &account, &paths, probe)?;
    }
    let mut places = Vec::new();
    for path in paths {
        places.push(place(path, &account, probe)?);
    }
    Ok(places)
}

/// True when the account is there, and its files are looked at in its name.
pub fn is_known(name: &UserName, probe: &dyn Probe) -> bool {
    let passwd = probe.read(&AbsPath::fixed("/etc/passwd"), &Actor::Root).ok().flatten().unwrap_or_default();
    Records::parse(&passwd).passwd_entry(name.as_str()).is_some()
}

fn account(desired: &Desired, probe: &dyn Probe) -> Result<Account> {
    let name = desired.name.as_str();
    let bytes = probe.read(&AbsPath::fixed("/etc/passwd"), &Actor::Root)?.unwrap_or_default();
    let own = desired.home.clone().map_or_else(|| AbsPath::parse(&format!("/home/{name}")), Ok);
    let odd = |why: String| {
        Failure::refused(format!("home of {name}"), "it is not a plain absolute path")
            .why(why)
            .hint(format!("give the account a home: usermod --home /home/{name} {name}"))
    };
    match Records::parse(&bytes).passwd_entry(name) {
        None => Ok(Account { name: desired.name.clone(), home: own.map_err(|e| odd(e.why))?, uid: None }),
        Some(entry) => {
            let home = AbsPath::parse(&entry.home).map_err(|invalid| odd(invalid.why))?;
            Ok(Account { name: desired.name.clone(), home, uid: Some(entry.uid) })
        }
    }
}

/// Asks sshd itself, which knows its Match blocks.
fn ask(probe: &dyn Probe, name: &str) -> Result<Setting> {
    let question = crate::facts::sshd_for(name, probe);
    let answer = crate::facts::answer_of_sshd(probe, &question)?;
    if !answer.ok() {
        return fallback(probe, &answer.last_line());
    }
    // OpenSSH 10 spells keywords as in the manual, earlier ones in lower case.
    let value = |key: &str| {
        let named = |line: &str| {
            line.split_once(' ').filter(|(word, _)| word.eq_ignore_ascii_case(key)).map(|(_, v)| v.trim().to_owned())
        };
        answer.stdout.lines().find_map(named)
    };
    let set = |key: &str| value(key).filter(|text| text != "none");
    let Some(files) = value("authorizedkeysfile") else {
        return Err(Failure::unknown(format!("sshd -T for {name}"), "sshd does not say where it reads keys")
            .hint(format!("look for AuthorizedKeysFile in: {}", question.argv.join(" "))));
    };
    Ok(Setting {
        files: files.split_whitespace().map(str::to_owned).collect(),
        command: set("authorizedkeyscommand"),
        chroot: set("chrootdirectory"),
        forced: set("forcecommand"),
    })
}

/// sshd answers nothing without host keys or /run/sshd. When no file of its configuration speaks of key files, the
/// default holds all the same; otherwise nothing can be said.
fn fallback(probe: &dyn Probe, why: &str) -> Result<Setting> {
    let mut texts = vec![AbsPath::fixed("/etc/ssh/sshd_config")];
    let drop_ins = AbsPath::fixed("/etc/ssh/sshd_config.d");
    for name in probe.list(&drop_ins, &Actor::Root)?.unwrap_or_default() {
        texts.extend(drop_ins.join(&name).ok());
    }
    for path in texts {
        let bytes = probe.read(&path, &Actor::Root)?.unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let speaks = |line: &str| line.trim_start().starts_with("authorizedkeys");
        if let Some(at) = text.lines().position(speaks) {
            return Err(Failure::unknown(format!("{path}:{}", at + 1), "sshd does not say where it reads keys")
                .why(why)
                .hint("see what stops it: /usr/sbin/sshd -T"));
        }
    }
    let files = DEFAULT.iter().map(|file| (*file).to_owned()).collect();
    Ok(Setting { files, command: None, chroot: None, forced: None })
}

fn judge(desired: &Desired, setting: &Setting, notes: &mut Vec<Note>) -> Result<()> {
    let name = desired.name.as_str();
    let place = format!("sshd_config for {name}");
    if let Some(chroot) = setting.chroot.as_ref().filter(|_| desired.admin) {
        return Err(Failure::refused(place, format!("ChrootDirectory {chroot} keeps {name} from the system"))
            .why("an administrator must be able to use sudo")
            .hint(format!("except {name} from that rule in /etc/ssh/sshd_config, or choose another account")));
    }
    if let Some(forced) = setting.forced.as_ref().filter(|_| desired.admin) {
        return Err(Failure::refused(place, format!("ForceCommand {forced} takes {name}'s session"))
            .why("an administrator must be able to run commands")
            .hint(format!("except {name} from that rule in /etc/ssh/sshd_config, or choose another account")));
    }
    if let Some(command) = &setting.command {
        let text =
            format!("AuthorizedKeysCommand {command} lets in keys that stand in no file; keyward does not manage it");
        notes.push(Note::info(format!("users.{name}.authorized_keys"), text));
    }
    Ok(())
}

/// Paths with their tokens replaced (sshd_config(5), "TOKENS"): those of this account alone, and those that all share.
fn expand(files: &[String], account: &Account) -> Result<(Vec<AbsPath>, Vec<AbsPath>)> {
    let name = account.name.as_str();
    let place = format!("AuthorizedKeysFile for {name}");
    let (mut own, mut common) = (Vec::new(), Vec::new());
    for file in files.iter().filter(|file| *file != "none") {
        let path = expand_one(file, account).ok_or_else(|| {
            Failure::refused(&place, format!("'{file}' cannot be followed"))
                .hint("use plain paths with %h, %u or %U in AuthorizedKeysFile")
        })?;
        let is_own = !file.starts_with('/') || ["%h", "%u", "%U"].iter().any(|token| file.contains(token));
        if is_own { own.push(path) } else { common.push(path) }
    }
    if own.is_empty() {
        let what = common.first().map_or_else(
            || format!("sshd reads no key file for {name} (none)"),
            |path| format!("sshd reads only {path}, which lets keys in as every account"),
        );
        return Err(
            Failure::refused(place, what).hint("set in /etc/ssh/sshd_config: AuthorizedKeysFile .ssh/authorized_keys")
        );
    }
    let mut seen = std::collections::BTreeSet::new();
    own.retain(|path| seen.insert(path.clone()));
    Ok((own, common))
}

fn expand_one(file: &str, account: &Account) -> Option<AbsPath> {
    let mut text = String::new();
    let mut chars = file.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next()? {
            '%' => text.push('%'),
            'h' => text.push_str(account.home.as_str()),
            'u' => text.push_str(account.name.as_str()),
            'U' => text.push_str(&account.uid?.to_string()),
            _ => return None,
        }
    }
    let text = text.strip_prefix("./").unwrap_or(&text);
    if text.starts_with('/') { AbsPath::parse(text).ok() } else { account.home.join(text).ok() }
}

/// A home that its account does not own gives it no place for keys.
fn check_home(desired: &Desired, account: &Account, paths: &[AbsPath], probe: &dyn Probe) -> Result<()> {
    let name = account.name.as_str();
    if !paths.iter().any(|path| path.is_within(&account.home)) {
        return Ok(());
    }
    let place = format!("home of {name}");
    let Some(meta) = probe.meta(&account.home, &Actor::Root)? else {
        // For an administrator the account's own task makes it first.
        return if desired.admin {
            Ok(())
        } else {
            Err(Failure::refused(place, format!("{} is missing", account.home))
                .hint(format!("make it: mkhomedir_helper {name}")))
        };
    };
    if meta.kind != FileKind::Dir {
        return Err(Failure::refused(place, format!("{} is not a directory", account.home))
            .why("keyward follows no link into a home")
            .hint(format!("give the account the plain path: usermod --home PATH {name}")));
    }
    if Some(meta.uid) == account.uid {
        return Ok(());
    }
    Err(Failure::refused(place, format!("{} belongs to uid {}, so {name} cannot own ~/.ssh", account.home, meta.uid))
        .why("this is how homes of sftp chroots are kept")
        .hint(format!("give the home to its account: chown {name} {}; or choose another account", account.home)))
}

/// Looks at one file and its directory, in the name of whom sshd reads it as.
fn place(path: AbsPath, account: &Account, probe: &dyn Probe) -> Result<Place> {
    let inside = path.is_within(&account.home);
    let actor = if inside { actor_of(&account.name) } else { Actor::Root };
    let mut place = Place { path, actor, content: None, mode: 0, directory: None };
    let home_is_there = account.uid.is_some() && probe.meta(&account.home, &Actor::Root)?.is_some();
    if inside && !home_is_there {
        return Ok(place);
    }
    let owners = if inside { vec![account.uid.unwrap_or(0)] } else { vec![0] };
    let Some(directory) = place.path.parent() else { return Ok(place) };
    if !inside {
        check_root_owned(&place.path, &directory, probe)?;
    }
    match probe.meta(&directory, &place.actor)? {
        None => return Ok(place),
        Some(meta) => {
            check_kind(&directory, &meta, FileKind::Dir, "a directory")?;
            // The home itself is not this file's directory to mend.
            if directory != account.home {
                check_owner(&directory, &meta, &owners, account)?;
            }
            place.directory = Some(if directory == account.home { 0o700 } else { meta.mode });
        }
    }
    let Some(meta) = probe.meta(&place.path, &place.actor)? else { return Ok(place) };
    check_kind(&place.path, &meta, FileKind::File, "a plain file")?;
    if meta.links > 1 {
        return Err(Failure::refused(place.path.as_str(), format!("the file has {} hard links", meta.links))
            .why("the same file stands somewhere else, too")
            .hint(format!("make it a file of its own: cp -p {0} {0}.new && mv {0}.new {0}", place.path)));
    }
    check_owner(&place.path, &meta, &owners, account)?;
    place.mode = meta.mode;
    place.content = probe.read(&place.path, &place.actor)?;
    Ok(place)
}

fn check_kind(path: &AbsPath, meta: &Meta, kind: FileKind, word: &str) -> Result<()> {
    if meta.kind == kind {
        return Ok(());
    }
    let what = if meta.kind == FileKind::Link { "this is a link".to_owned() } else { format!("this is not {word}") };
    Err(Failure::refused(path.as_str(), what)
        .why("keyward follows no link where a user rules, and replaces nothing it does not understand")
        .hint(format!("look where it leads, then put {word} in its place: ls -ld {path}")))
}

fn check_owner(path: &AbsPath, meta: &Meta, owners: &[u32], account: &Account) -> Result<()> {
    if owners.contains(&meta.uid) {
        return Ok(());
    }
    let name = account.name.as_str();
    Err(Failure::refused(path.as_str(), format!("it belongs to uid {}, not to {name}", meta.uid))
        .why("sshd reads it in the name of the user")
        .hint(format!("give it back: chown {name}: {path}")))
}

/// A file outside every home must stand where root alone can change things.
fn check_root_owned(path: &AbsPath, directory: &AbsPath, probe: &dyn Probe) -> Result<()> {
    for dir in std::iter::successors(Some(directory.clone()), AbsPath::parent) {
        let meta = probe.meta(&dir, &Actor::Root)?;
        // Only the last directory may be made here.
        let missing_last = meta.is_none() && dir == *directory;
        let safe = meta.as_ref().is_some_and(|m| m.kind == FileKind::Dir && m.uid == 0 && m.mode & 0o022 == 0);
        if !safe && !missing_last {
            return Err(Failure::refused(
                path.as_str(),
                format!("{dir} can be changed by others than root, or is missing"),
            )
            .why("AuthorizedKeysFile of sshd_config points there")
            .hint(format!("make it root's alone: install -d -o root -g root -m 755 {dir}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(uid: Option<u32>) -> Account {
        let name = UserName::parse("deploy").unwrap();
        Account { name, home: AbsPath::fixed("/home/deploy"), uid }
    }

    fn expanded(files: &[&str]) -> Result<Vec<String>> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
        expand(&files, &account(Some(7))).map(|(paths, _)| paths.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn tokens() {
        assert_eq!(
            expanded(&DEFAULT).unwrap(),
            ["/home/deploy/.ssh/authorized_keys", "/home/deploy/.ssh/authorized_keys2"]
        );
        assert_eq!(expanded(&["/etc/ssh/keys/%u"]).unwrap(), ["/etc/ssh/keys/deploy"]);
        assert_eq!(expanded(&["/a/%U%%", "%h/.k"]).unwrap(), ["/a/7%", "/home/deploy/.k"]);
        // A file for everybody is never one that a key is added to.
        assert_eq!(expanded(&["/etc/ssh/all", ".k"]).unwrap(), ["/home/deploy/.k"]);
        for bad in [&["none"][..], &["/etc/ssh/all"], &["%k"], &["../x"], &["%"]] {
            assert!(expanded(bad).is_err(), "{bad:?}");
        }
    }
}
