//! The keys that sshd really takes for an account: which files it reads, whether it trusts them (StrictModes), and which
//! lines count from where.

use std::net::IpAddr;

use crate::error::Result;
use crate::formats::accounts::PasswdEntry;
use crate::formats::authorized_keys::{Entry, KeyFile, Meaning};
use crate::formats::sshd_effective::Effective;
use crate::formats::sshd_match::{address_in, pattern_list, pattern_names};
use crate::host::{Actor, FileKind, Meta, Probe};
use crate::types::{AbsPath, Word as _, rsa_bits_of};

use super::look::Look;

/// All key lines of an account, and why some do not count.
#[derive(Debug, Default)]
pub struct Keys {
    /// Lines that sshd reads.
    pub lines: Vec<Line>,
    /// Files and lines that it passes over, with the reason.
    pub passed_over: Vec<String>,
    /// What could not be looked at.
    pub unknown: Vec<String>,
}

/// One line with a key.
#[derive(Debug)]
pub struct Line {
    /// File and number.
    pub place: String,
    entry: Entry,
}

/// What a line says to a login from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// The key opens the door; with the command that it is bound to.
    In(Option<String>),
    /// It does not, because.
    Out(String),
    /// That depends on the name of the client.
    Depends(String),
}

/// The most links that are followed on the way to a file (as the kernel).
const LINKS: usize = 40;

/// Looks at every file that sshd reads for the account.
pub fn look(look: &Look<'_>, account: &PasswdEntry, effective: &Effective) -> Keys {
    let mut keys = Keys::default();
    let files = effective.get("authorizedkeysfile").unwrap_or("none").to_owned();
    for file in files.split_whitespace().filter(|file| *file != "none") {
        let Some(path) = expand(file, account) else {
            keys.unknown.push(format!("AuthorizedKeysFile {file} cannot be followed"));
            continue;
        };
        if let Err(failure) = one_file(look, account, effective, &path, &mut keys) {
            keys.unknown.push(failure.line());
        }
    }
    keys
}

fn one_file(
    look: &Look<'_>,
    account: &PasswdEntry,
    effective: &Effective,
    path: &AbsPath,
    keys: &mut Keys,
) -> Result<()> {
    let Some((real, metas)) = walk(look.probe, path)? else { return Ok(()) };
    let Some((_, file)) = metas.last() else { return Ok(()) };
    if file.kind != FileKind::File {
        keys.passed_over.push(format!("{path} is no plain file"));
        return Ok(());
    }
    if let Some(shut) = unreadable(look, account, &metas) {
        keys.passed_over.push(format!("{path}: {} cannot read {shut}", account.name));
        return Ok(());
    }
    if !effective.is("strictmodes", "no")
        && let Some(open) = distrusted(look, account, &metas)?
    {
        keys.passed_over.push(format!("{path}: sshd distrusts it (StrictModes): {open}"));
        return Ok(());
    }
    let bytes = look.probe.read(&real, &Actor::Root)?.unwrap_or_default();
    for (number, meaning) in KeyFile::parse(&bytes).meanings() {
        match meaning {
            Meaning::Key(entry) => keys.lines.push(Line { place: format!("{path}:{number}"), entry }),
            Meaning::Dead(why) => keys.passed_over.push(format!("{path}:{number}: {why}")),
            Meaning::Nothing => {}
        }
    }
    Ok(())
}

/// A path of AuthorizedKeysFile with its tokens replaced (sshd_config(5), "TOKENS").
fn expand(file: &str, account: &PasswdEntry) -> Option<AbsPath> {
    let mut text = String::new();
    let mut chars = file.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next()? {
            '%' => text.push('%'),
            'h' => text.push_str(&account.home),
            'u' => text.push_str(&account.name),
            'U' => text.push_str(&account.uid.to_string()),
            _ => return None,
        }
    }
    if text.starts_with('/') {
        return AbsPath::parse(&text).ok();
    }
    AbsPath::parse(&account.home).ok()?.join(text.strip_prefix("./").unwrap_or(&text)).ok()
}

/// The end of a way, and its steps.
pub type Walked = (AbsPath, Vec<(AbsPath, Meta)>);

/// The real path behind links, and what each step of the way is, `/` first; `None` when nothing is there.
pub fn walk(probe: &dyn Probe, path: &AbsPath) -> Result<Option<Walked>> {
    let mut rest: Vec<String> = path.as_str().split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    rest.reverse();
    let root = AbsPath::fixed("/");
    let mut way: Vec<(AbsPath, Meta)> = Vec::new();
    way.extend(probe.meta(&root, &Actor::Root)?.map(|meta| (root.clone(), meta)));
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == "." || part == ".." {
            // Links of a user may lead anywhere; the step back is taken on the real way.
            if part == ".." && way.len() > 1 {
                way.pop();
            }
            continue;
        }
        let at = way.last().map_or_else(|| root.clone(), |(at, _)| at.clone());
        let Ok(next) = at.join(&part) else { return Ok(None) };
        let Some(meta) = probe.meta(&next, &Actor::Root)? else { return Ok(None) };
        if meta.kind != FileKind::Link {
            way.push((next, meta));
            continue;
        }
        links += 1;
        let target = probe.link(&next)?.filter(|_| links <= LINKS);
        let Some(target) = target else { return Ok(None) };
        if target.starts_with('/') {
            way.truncate(1);
        }
        rest.extend(target.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned));
    }
    Ok(way.last().map(|(at, _)| at.clone()).map(|real| (real, way)))
}

/// sshd reads the file in the account's name: the first thing on the way that it may not pass.
fn unreadable(look: &Look<'_>, account: &PasswdEntry, metas: &[(AbsPath, Meta)]) -> Option<AbsPath> {
    if account.uid == 0 {
        return None;
    }
    let groups = look.group_ids(account);
    let shut = metas.iter().find(|(_, meta)| {
        let bit = if meta.kind == FileKind::Dir { 0o1 } else { 0o4 };
        let shift = match meta {
            meta if meta.uid == account.uid => 6,
            meta if groups.contains(&meta.gid) => 3,
            _ => 0,
        };
        meta.mode & (bit << shift) == 0
    });
    shut.map(|(path, _)| path.clone())
}

/// What sshd's safe_path() minds: the file and each directory up to the home, or up to `/` outside of it. Debian lets a
/// group write that is the account's alone.
fn distrusted(look: &Look<'_>, account: &PasswdEntry, metas: &[(AbsPath, Meta)]) -> Result<Option<String>> {
    let home = AbsPath::parse(&account.home).ok();
    let home = home.map(|home| walk(look.probe, &home)).transpose()?.flatten().map(|(real, _)| real);
    for (path, meta) in metas.iter().rev() {
        let own_group = meta.gid == account.gid && look.group_is_of(account);
        let open = if own_group { 0o002 } else { 0o022 };
        if meta.uid != 0 && meta.uid != account.uid {
            return Ok(Some(format!("{path} belongs to uid {}", meta.uid)));
        }
        if meta.mode & open != 0 {
            return Ok(Some(format!("{path} has mode {:04o}", meta.mode)));
        }
        if Some(path) == home.as_ref() {
            break;
        }
    }
    Ok(None)
}

impl Line {
    fn option(&self, name: &str) -> Option<&str> {
        self.entry.options.iter().find(|option| option.name == name).map(|o| o.value.as_deref().unwrap_or_default())
    }

    /// The key's kind in short, such as `ed25519` or `rsa`.
    pub fn kind(&self) -> String {
        let name = self.entry.algorithm.as_str();
        let bare = name.split('@').next().unwrap_or(name);
        match bare.strip_prefix("sk-").map_or((bare, ""), |rest| (rest, "sk-")) {
            (rest, sk) if rest.starts_with("ecdsa") => format!("{sk}ecdsa"),
            (rest, sk) => format!("{sk}{}", rest.trim_start_matches("ssh-")),
        }
    }

    /// True for a line that a login cannot count on: bound to an origin, a command or an end.
    pub fn is_bound(&self) -> bool {
        ["from", "command", "expiry-time", "restrict"].iter().any(|name| self.option(name).is_some())
    }

    /// What is weak about the key by itself (NIST SP 800-57 part 1, table 2: 112 bits of strength at least, which is RSA of
    /// 2048 bits; DSA keys have 1024), whether or not sshd takes it.
    pub fn weakness(&self) -> Option<String> {
        match self.entry.algorithm.as_str() {
            "ssh-dss" => Some("a DSA key, which has 1024 bits".to_owned()),
            "ssh-rsa" => match rsa_bits_of(&self.entry.blob) {
                None => Some("an RSA key that does not decode".to_owned()),
                Some(bits) => (bits < 2048).then(|| format!("an RSA key of {bits} bits")),
            },
            _ => None,
        }
    }

    /// What makes two lines one key.
    pub fn blob(&self) -> &str {
        self.entry.blob.trim_end_matches('=')
    }

    /// The places that its `from` names.
    pub fn from(&self) -> Vec<String> {
        let list = self.option("from").unwrap_or_default();
        list.split(',').map(|part| part.trim_start_matches('!').to_owned()).filter(|part| !part.is_empty()).collect()
    }

    /// What it says to somebody who comes from `from`, under these settings of sshd.
    pub fn says(&self, effective: &Effective, from: IpAddr, now: jiff::civil::DateTime) -> Says {
        let out = |why: String| Says::Out(format!("{}: {why}", self.place));
        if self.option("cert-authority").is_some() {
            let place = &self.place;
            return Says::Depends(format!(
                "{place}: it names an authority, and whoever has a certificate of it gets in"
            ));
        }
        if let Some(why) = self.refused_by(effective) {
            return out(why);
        }
        if let Some(until) = self.option("expiry-time").filter(|until| ended(until, now)) {
            return out(format!("its expiry-time {until} is over"));
        }
        if let Some(list) = self.option("from") {
            match named(list, from, effective.is("usedns", "yes")) {
                Some(true) => {}
                Some(false) => return out(format!("from=\"{list}\"")),
                None => return Says::Depends(format!("{}: from=\"{list}\" names hosts", self.place)),
            }
        }
        Says::In(self.option("command").map(str::to_owned))
    }

    /// Why sshd takes no key of this kind or size, if so.
    fn refused_by(&self, effective: &Effective) -> Option<String> {
        let rsa = self.entry.algorithm == "ssh-rsa";
        let bits = if rsa { rsa_bits_of(&self.entry.blob) } else { None };
        if rsa && bits.is_none() {
            return Some("the key does not decode".to_owned());
        }
        // 1024 is built in; the keyword came with 9.1.
        let least = effective.get("requiredrsasize").and_then(|size| size.parse().ok()).unwrap_or(1024_u32);
        if let Some(bits) = bits.filter(|bits| *bits < least) {
            return Some(format!("RSA of {bits} bits, and RequiredRSASize is {least}"));
        }
        let accepted = effective.get("pubkeyacceptedalgorithms").or_else(|| effective.get("pubkeyacceptedkeytypes"))?;
        let names: &[&str] =
            if rsa { &["rsa-sha2-512", "rsa-sha2-256", "ssh-rsa"] } else { &[self.entry.algorithm.as_str()] };
        let taken = accepted.split(',').any(|pattern| names.iter().any(|name| pattern_names(pattern.trim(), name)));
        (!taken).then(|| format!("{} keys are not in PubkeyAcceptedAlgorithms", self.kind()))
    }
}

/// Whether a list of patterns names an address; `None` when it names hosts and sshd looks their names up.
pub fn named(list: &str, from: IpAddr, looks_up: bool) -> Option<bool> {
    let text = from.to_string();
    let hit = pattern_list(list, true, |pattern| address_in(pattern, &text));
    let by_name = |pattern: &str| pattern.chars().any(|c| c.is_ascii_alphabetic()) && !pattern.contains(':');
    if !hit && looks_up && list.split(',').any(by_name) { None } else { Some(hit) }
}

/// `YYYYMMDD[HHMM[SS]][Z]` of sshd(8) is over.
fn ended(until: &str, now: jiff::civil::DateTime) -> bool {
    let digits = |from: usize, to: usize| until.get(from..to).and_then(|part| part.parse::<i8>().ok());
    let year = until.get(0..4).and_then(|part| part.parse::<i16>().ok());
    let (Some(year), Some(month), Some(day)) = (year, digits(4, 6), digits(6, 8)) else { return true };
    let (hour, minute, second) = (digits(8, 10).unwrap_or(0), digits(10, 12).unwrap_or(0), digits(12, 14).unwrap_or(0));
    // What sshd cannot read voids the line.
    jiff::civil::DateTime::new(year, month, day, hour, minute, second, 0).map_or(true, |until| until <= now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let file = KeyFile::parse(text.as_bytes());
        let Some((_, Meaning::Key(entry))) = file.meanings().next() else { panic!("{text}") };
        Line { place: "f:1".into(), entry }
    }

    const BLOB: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0mG7WvcCFN4tTFpUNkTqJbiVOTKgZVzuCdtV6bGk0l";

    #[test]
    fn options_decide_by_place_and_day() {
        let now = jiff::civil::date(2026, 1, 2).at(0, 0, 0, 0);
        let effective = Effective::parse("pubkeyacceptedalgorithms ssh-ed25519,rsa-sha2-256\nusedns no\n");
        let says =
            |options: &str, from: &str| line(&format!("{options}{BLOB}")).says(&effective, from.parse().unwrap(), now);
        assert_eq!(says("", "192.0.2.1"), Says::In(None));
        assert_eq!(says("command=\"/bin/x\" ", "192.0.2.1"), Says::In(Some("/bin/x".into())));
        for (options, from, open) in [
            ("from=\"10.0.0.0/8\" ", "10.1.1.1", true),
            ("from=\"10.0.0.0/8\" ", "192.0.2.1", false),
            ("from=\"*,!10.0.0.0/8\" ", "10.1.1.1", false),
            ("from=\"192.0.2.?\" ", "192.0.2.1", true),
            ("expiry-time=\"20260101\" ", "192.0.2.1", false),
            ("expiry-time=\"202601021200Z\" ", "192.0.2.1", true),
            ("cert-authority ", "192.0.2.1", false),
        ] {
            assert_eq!(matches!(says(options, from), Says::In(_)), open, "{options}{from}");
        }
        let none = Effective::parse("pubkeyacceptedalgorithms rsa-sha2-256\n");
        assert!(matches!(line(BLOB).says(&none, "::1".parse().unwrap(), now), Says::Out(_)));
        assert_eq!(named("laptop.example", "192.0.2.1".parse().unwrap(), true), None);
        assert_eq!(line(BLOB).kind(), "ed25519");
    }
}
