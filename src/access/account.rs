//! One account at one place: whether it gets in, by which methods, and why not. The steps are those of sshd (auth.c,
//! auth2.c) and of Debian's PAM stacks; each refusal names what decided.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::formats::accounts::{Hash, PasswdEntry, ShadowEntry};
use crate::formats::sshd_effective::Effective;
use crate::formats::sshd_match::pattern_names;
use crate::host::FileKind;
use crate::outcome::Proven;
use crate::outcome::ways::Method;
use crate::types::{AbsPath, Word as _};

use super::keys::{Keys, Says, named, walk};
use super::look::Look;
use super::pam::{Against, Pam};
use super::place::Place;

/// What a place says to an account.
#[derive(Debug, Default)]
pub struct At {
    /// Refused, because.
    pub no: Vec<String>,
    /// Could be refused, because.
    pub unknown: Vec<String>,
    /// What opens the door.
    pub methods: Vec<Method>,
    /// All that a session may do.
    pub limited_to: Option<String>,
    /// What will keep it out within [`SOON`] days.
    pub soon: Vec<String>,
    /// Good to know.
    pub remarks: Vec<String>,
    /// Methods that could not be judged.
    pub doubts: Vec<String>,
}

/// Days before an end at which it is told.
const SOON: i64 = 30;

impl At {
    /// Yes only when nothing stands against it and some method is left.
    pub fn proven(&self) -> Proven {
        match (self.no.is_empty(), self.unknown.is_empty(), self.methods.is_empty()) {
            (false, ..) => Proven::No,
            (true, true, false) => Proven::Yes,
            (true, true, true) => Proven::No,
            (true, false, _) => Proven::Unknown,
        }
    }
}

/// What a shadow(5) field lets in; without an entry nothing.
pub fn hash(shadow: Option<&ShadowEntry>) -> Hash {
    shadow.map_or(Hash::Locked, |entry| Hash::of(entry.hash.reveal()))
}

/// Shells that end a session at once.
pub fn is_closed(shell: &str) -> bool {
    let last = shell.rsplit('/').next().unwrap_or_default();
    matches!(last, "nologin" | "false" | "true" | "sync" | "halt" | "shutdown")
}

/// Judges an account at a place.
///
/// # Errors
/// When the host cannot be looked at.
pub fn at(look: &Look<'_>, pam: &Pam, account: &PasswdEntry, place: &Place) -> Result<At> {
    let mut at = At::default();
    let effective = match look.effective(&account.name, place.address) {
        Ok(effective) => effective,
        Err(why) => {
            at.unknown.push(why);
            return Ok(at);
        }
    };
    let uses_pam = effective.is("usepam", "yes");
    let groups = look.groups(account);
    let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
    sessions(look, account, &effective, &mut at)?;
    lists(look, account, &effective, &names, place, &mut at);
    aged(look, account, uses_pam, &mut at);
    let Against { no, unknown } = pam.sshd(uses_pam, &account.name, account.uid, &names, place.address);
    at.no.extend(no);
    at.unknown.extend(unknown);
    let root = if account.uid == 0 { effective.get("permitrootlogin").unwrap_or("yes") } else { "yes" };
    if root.eq_ignore_ascii_case("no") {
        at.no.push(format!("{}: PermitRootLogin no", look.place("permitrootlogin")));
        return Ok(at);
    }
    let keys = if effective.is("pubkeyauthentication", "no") {
        at.remarks.push(format!("{}: PubkeyAuthentication no", look.place("pubkeyauthentication")));
        None
    } else {
        by_key(look, account, &effective, root, place, &mut at)
    };
    let (passwords, doubt) = by_password(look, pam, account, &effective, root, &mut at)?;
    chains(look, &effective, keys, passwords, &mut at);
    if let Some(why) = doubt {
        at.doubts.push(format!("its password cannot be judged: {why}"));
        // A key that would do alone makes a doubt about passwords no matter.
        if at.methods.is_empty() {
            at.unknown.push(why);
        } else {
            at.remarks.push(format!("its password cannot be judged: {why}"));
        }
    }
    if at.methods.is_empty() && at.no.is_empty() && at.unknown.is_empty() && !at.doubts.is_empty() {
        at.unknown.clone_from(&at.doubts);
    }
    if at.methods.is_empty() && at.no.is_empty() && at.unknown.is_empty() {
        let why = std::mem::take(&mut at.remarks);
        at.no = if why.is_empty() { vec![nothing(look, account, &effective, root)] } else { why };
    }
    Ok(at)
}

/// Why an account without a key has no other method.
fn nothing(look: &Look<'_>, account: &PasswdEntry, effective: &Effective, root: &str) -> String {
    if hash(look.shadow(&account.name).as_ref()) == Hash::Locked {
        return "it has no key and no password".to_owned();
    }
    let (keyword, value) = if root.eq_ignore_ascii_case("yes") {
        ("PasswordAuthentication", effective.get("passwordauthentication").unwrap_or("no"))
    } else {
        ("PermitRootLogin", root)
    };
    format!("it has no key, and {}: {keyword} {value}", look.place(&keyword.to_ascii_lowercase()))
}

/// Shell, ForceCommand and ChrootDirectory.
fn sessions(look: &Look<'_>, account: &PasswdEntry, effective: &Effective, at: &mut At) -> Result<()> {
    let set = |keyword: &str| effective.get(keyword).filter(|value| !value.eq_ignore_ascii_case("none"));
    let forced = set("forcecommand").map(str::to_owned);
    let chroot = set("chrootdirectory");
    let shell = if account.shell.is_empty() { "/bin/sh" } else { account.shell.as_str() };
    let path = AbsPath::parse(shell).ok();
    let found = path.map(|path| walk(look.probe, &path)).transpose()?.flatten();
    let runs = found.is_some_and(|(_, way)| {
        way.last().is_some_and(|(_, meta)| meta.kind == FileKind::File && meta.mode & 0o111 != 0)
    });
    if !runs && chroot.is_none() {
        at.no.push(format!("its shell {shell} is not there"));
    }
    let files_only = forced.as_deref().is_some_and(|command| command.starts_with("internal-sftp"));
    let tunnels = !effective.is("allowtcpforwarding", "no") && !effective.is("disableforwarding", "yes");
    let files = effective.all("subsystem").any(|line| line.contains("internal-sftp"));
    // Without a session there is no shell to end it (ssh -N), and internal-sftp needs none.
    let passes = is_closed(shell) && look.supposed.lasting && (tunnels || files);
    if is_closed(shell) && !files_only && !passes {
        at.no.push(format!("its shell is {shell}"));
    }
    at.limited_to = match (forced, chroot) {
        _ if passes => Some("tunnels and sftp, as its shell ends at once".to_owned()),
        (Some(command), _) => Some(command),
        (None, Some(chroot)) => Some(format!("what is below {chroot}")),
        (None, None) => None,
    };
    Ok(())
}

/// AllowUsers, DenyUsers, AllowGroups and DenyGroups of sshd_config(5), the address with them.
fn lists(look: &Look<'_>, account: &PasswdEntry, effective: &Effective, groups: &[&str], place: &Place, at: &mut At) {
    let words = |keyword: &'static str| -> Vec<String> {
        effective.all(keyword).flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let looks_up = effective.is("usedns", "yes");
    let user = |pattern: &String| match pattern.rsplit_once('@') {
        Some((name, host)) if pattern_names(name, &account.name) => named(host, place.address, looks_up),
        Some(_) => Some(false),
        None => Some(pattern_names(pattern, &account.name)),
    };
    let any = |list: &[String]| {
        let said: Vec<Option<bool>> = list.iter().map(user).collect();
        if said.contains(&Some(true)) {
            Some(true)
        } else if said.contains(&None) {
            None
        } else {
            Some(false)
        }
    };
    let group = |pattern: &String| groups.iter().any(|group| pattern_names(pattern, group));
    match any(&words("denyusers")) {
        Some(true) => at.no.push(format!("{}: DenyUsers names it", look.place("denyusers"))),
        None => at.unknown.push(format!("{}: DenyUsers names hosts", look.place("denyusers"))),
        Some(false) => {}
    }
    let allowed = words("allowusers");
    match any(&allowed) {
        _ if allowed.is_empty() => {}
        Some(true) => {}
        Some(false) => at.no.push(format!("{}: AllowUsers does not name it", look.place("allowusers"))),
        None => at.unknown.push(format!("{}: AllowUsers names hosts", look.place("allowusers"))),
    }
    if words("denygroups").iter().any(group) {
        at.no.push(format!("{}: DenyGroups names one of its groups", look.place("denygroups")));
    }
    let allowed = words("allowgroups");
    if !allowed.is_empty() && !allowed.iter().any(group) {
        at.no.push(format!("{}: AllowGroups names none of its groups", look.place("allowgroups")));
    }
}

/// Ageing and expiry of shadow(5), and `!` where there is no PAM.
fn aged(look: &Look<'_>, account: &PasswdEntry, uses_pam: bool, at: &mut At) {
    let name = &account.name;
    let Some(shadow) = look.shadow(name) else { return };
    let today = look.today();
    if !uses_pam && shadow.hash.reveal().starts_with('!') {
        at.no.push(format!("its password begins with '!' and sshd has UsePAM no; write '*': usermod -p '*' {name}"));
    }
    match shadow.expire {
        Some(day) if day <= today => at.no.push(format!("the account expired; see: chage -l {name}")),
        Some(day) if day - today <= SOON => at.soon.push(format!("the account expires in {} days", day - today)),
        _ => {}
    }
    let demanded = shadow.last_change == Some(0);
    let left = shadow.last_change.zip(shadow.max.filter(|max| *max >= 0)).map(|(last, max)| last + max - today);
    let overdue = left.is_some_and(|left| left < 0);
    let disabled = left.zip(shadow.inactive.filter(|days| *days >= 0)).is_some_and(|(left, days)| left + days < 0);
    if !uses_pam {
        return;
    }
    let keyless = hash(Some(&shadow)) == Hash::Locked;
    if disabled && !demanded {
        at.no.push(format!("its password was too old for too long; see: chage -l {name}"));
    } else if (demanded || overdue) && keyless {
        at.no.push(format!("a change of its password is due, and it has none; mend: chage -d {} {name}", date(look)));
    } else if demanded || overdue {
        at.soon.push("it must change its password at the next login".to_owned());
    } else if let Some(left) = left.filter(|left| *left <= SOON) {
        let effect = if keyless { ", and it has none: then no key lets it in" } else { "" };
        at.soon.push(format!("a change of its password is due in {left} days{effect}"));
    }
}

fn date(look: &Look<'_>) -> String {
    look.now.date().to_string()
}

/// Keys: `None` when none opens the door.
fn by_key(
    look: &Look<'_>,
    account: &PasswdEntry,
    effective: &Effective,
    root: &str,
    place: &Place,
    at: &mut At,
) -> Option<Method> {
    let keys: Keys = super::keys::look(look, account, effective);
    at.unknown.extend(keys.unknown);
    at.remarks.extend(keys.passed_over);
    let (mut blobs, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    let mut commands: Vec<Option<String>> = Vec::new();
    let mut depends = Vec::new();
    for line in &keys.lines {
        match line.says(effective, place.address, look.now) {
            Says::In(command) => {
                // The first line of a key decides what it may do.
                if blobs.insert(line.blob().to_owned()) {
                    commands.push(command);
                }
                kinds.insert(line.kind());
            }
            Says::Out(why) => at.remarks.push(why),
            Says::Depends(why) => depends.push(why),
        }
    }
    let forced = at.limited_to.is_some();
    if root.eq_ignore_ascii_case("forced-commands-only") && !forced {
        let before = commands.len();
        commands.retain(Option::is_some);
        if commands.len() < before {
            at.remarks.push(format!("{}: PermitRootLogin forced-commands-only", look.place("permitrootlogin")));
        }
    }
    if let (false, Some(command)) = (forced, commands.iter().flatten().next())
        && commands.iter().all(Option::is_some)
    {
        at.limited_to = Some(command.clone());
    }
    if !commands.is_empty() {
        return Some(Method::Keys { count: commands.len(), kinds: kinds.into_iter().collect() });
    }
    let set = |keyword: &str| effective.get(keyword).filter(|value| !value.eq_ignore_ascii_case("none"));
    for (keyword, name) in
        [("authorizedkeyscommand", "AuthorizedKeysCommand"), ("trustedusercakeys", "TrustedUserCAKeys")]
    {
        if let Some(value) = set(keyword) {
            depends.push(format!("{name} {value} may let keys in that stand in no file"));
            at.unknown.append(&mut depends);
            return Some(Method::KeysOfOthers { source: format!("{name} {value}") });
        }
    }
    at.unknown.extend(depends);
    None
}

/// Passwords by both methods, and what keeps them from being judged.
fn by_password(
    look: &Look<'_>,
    pam: &Pam,
    account: &PasswdEntry,
    effective: &Effective,
    root: &str,
    at: &mut At,
) -> Result<(Vec<Method>, Option<String>)> {
    let mut methods = Vec::new();
    let shadow = look.shadow(&account.name);
    let hash = hash(shadow.as_ref());
    let on = |keyword: &str| effective.is(keyword, "yes");
    let questions = on("kbdinteractiveauthentication") || on("challengeresponseauthentication");
    let asked =
        [(on("passwordauthentication"), Method::Password), (questions && on("usepam"), Method::KeyboardInteractive)];
    if root.eq_ignore_ascii_case("yes") {
        for (_, method) in asked.clone().into_iter().filter(|(on, _)| *on) {
            match hash {
                Hash::Usable => methods.push(method),
                Hash::Empty if on("permitemptypasswords") => methods.push(Method::Nothing),
                _ => {}
            }
        }
    }
    methods.dedup();
    let asks = root.eq_ignore_ascii_case("yes") && on("usepam") && asked.iter().any(|(on, _)| *on);
    if let Some(module) = pam.another().filter(|_| asks && methods.is_empty()) {
        at.doubts.push(format!("{module} asks too, and may take what is not in /etc/shadow"));
    }
    let doubt = if methods.is_empty() || !on("usepam") { None } else { pam.password(look, &account.name)? };
    if doubt.is_some() {
        methods.clear();
    }
    for keyword in ["gssapiauthentication", "hostbasedauthentication"] {
        if on(keyword) {
            let doubt = format!("{}: {keyword} yes is not judged", look.place(keyword));
            at.remarks.push(doubt.clone());
            at.doubts.push(doubt);
        }
    }
    Ok((methods, doubt))
}

/// AuthenticationMethods: which of its chains the methods at hand complete.
fn chains(look: &Look<'_>, effective: &Effective, keys: Option<Method>, passwords: Vec<Method>, at: &mut At) {
    let wanted = effective.get("authenticationmethods").unwrap_or("any").to_ascii_lowercase();
    let has = |method: &str| match method.split(':').next().unwrap_or_default() {
        "publickey" => keys.is_some(),
        "password" => passwords.iter().any(|m| matches!(m, Method::Password | Method::Nothing)),
        "keyboard-interactive" => passwords.iter().any(|m| matches!(m, Method::KeyboardInteractive | Method::Nothing)),
        _ => false,
    };
    if wanted == "any" {
        at.methods.extend(keys);
        at.methods.extend(passwords);
        return;
    }
    for chain in wanted.split_whitespace().filter(|chain| chain.split(',').all(has)) {
        match chain {
            "publickey" => at.methods.extend(keys.clone()),
            "password" => at.methods.push(Method::Password),
            other if other.contains(',') => at.methods.push(Method::Chain { chain: other.to_owned() }),
            _ => at.methods.push(Method::KeyboardInteractive),
        }
    }
    if at.methods.is_empty() {
        at.remarks.push(format!("{}: AuthenticationMethods {wanted}", look.place("authenticationmethods")));
    }
}
