//! What PAM says to a login that sshd would allow: nologin, pam_access, and modules that this model does not know, which
//! make the answer unknown. pam.conf(5) stacks are read, never run.

use std::net::IpAddr;

use crate::error::Result;
use crate::formats::access_conf::{Verdict, judge_from};
use crate::formats::pam;
use crate::host::Actor;
use crate::types::{AbsPath, Word as _};

use super::look::Look;

/// One line of a stack, where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// `file:line`
    pub place: String,
    /// What it says.
    pub rule: pam::Rule,
}

impl std::ops::Deref for Rule {
    type Target = pam::Rule;

    fn deref(&self) -> &pam::Rule {
        &self.rule
    }
}

/// The stacks of sshd and of the console.
pub struct Pam {
    sshd: Vec<Rule>,
    login: Vec<Rule>,
    access: String,
    nologin: Option<&'static str>,
}

/// What stands against a login.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Against {
    /// Refused for certain, because.
    pub no: Vec<String>,
    /// Maybe.
    pub unknown: Vec<String>,
}

const RULES: &str = "/etc/security/access.conf";
/// Modules whose account part either is modelled here or lets local accounts through.
const ACCOUNT: [&str; 16] = [
    "pam_unix",
    "pam_deny",
    "pam_permit",
    "pam_nologin",
    "pam_access",
    "pam_faillock",
    "pam_sss",
    "pam_ldap",
    "pam_krb5",
    "pam_winbind",
    "pam_systemd_home",
    "pam_localuser",
    "pam_warn",
    "pam_cap",
    "pam_mkhomedir",
    "pam_env",
];
/// Modules whose auth part asks for nothing beyond the password.
const AUTH: [&str; 13] = [
    "pam_unix",
    "pam_deny",
    "pam_permit",
    "pam_nologin",
    "pam_faildelay",
    "pam_faillock",
    "pam_cap",
    "pam_env",
    "pam_sss",
    "pam_ldap",
    "pam_krb5",
    "pam_winbind",
    "pam_group",
];
/// Includes may nest, but not for ever.
const DEPTH: usize = 8;
/// Failures after which pam_faillock shuts an account by default, and the size of one record of its tally.
const DENY: u64 = 3;
const TALLY: u64 = 64;

impl Pam {
    /// Reads the stacks.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn new(look: &Look<'_>) -> Result<Self> {
        let mut nologin = None;
        for path in ["/etc/nologin", "/run/nologin"] {
            if !look.supposed.lasting && look.probe.meta(&AbsPath::fixed(path), &Actor::Root)?.is_some() {
                nologin = nologin.or(Some(path));
            }
        }
        Ok(Self { sshd: stack_of(look, "sshd")?, login: stack_of(look, "login")?, access: look.text(RULES)?, nologin })
    }

    /// Ranges that access.conf names.
    pub fn named(&self) -> Vec<String> {
        if !self.sshd.iter().any(|rule| rule.module == "pam_access") {
            return Vec::new();
        }
        let origins = self.access.lines().filter(|line| !line.trim_start().starts_with('#'));
        let origins = origins.filter_map(|line| line.splitn(3, ':').nth(2));
        origins.flat_map(str::split_whitespace).map(str::to_owned).collect()
    }

    /// What stands against an account at sshd, coming from `from`. sshd heeds /etc/nologin without PAM too.
    pub fn sshd(&self, uses_pam: bool, name: &str, uid: u32, groups: &[&str], from: IpAddr) -> Against {
        let mut against = Against::default();
        if !uses_pam {
            against.no.extend(self.nologin.filter(|path| uid != 0 && *path == "/etc/nologin").map(closed));
            return against;
        }
        self.account(&self.sshd, name, uid, groups, Some(from), &mut against);
        against
    }

    /// What stands against it at the console.
    pub fn console(&self, name: &str, uid: u32, groups: &[&str]) -> Against {
        let mut against = Against::default();
        // Debian's login asks pam_nologin before the password.
        let asks = self.login.iter().any(|rule| rule.kind == "auth" && rule.module == "pam_nologin");
        against.no.extend(self.nologin.filter(|_| asks && uid != 0).map(closed));
        self.account(&self.login, name, uid, groups, None, &mut against);
        against
    }

    /// Whether the console takes an empty password: pam_unix(8) with `nullok`.
    pub fn takes_empty(&self) -> bool {
        let nullok = |rule: &&Rule| rule.args.iter().any(|arg| arg.starts_with("nullok"));
        self.login.iter().any(|rule| rule.kind == "auth" && rule.module == "pam_unix" && nullok(&rule))
    }

    fn account(
        &self,
        stack: &[Rule],
        name: &str,
        uid: u32,
        groups: &[&str],
        from: Option<IpAddr>,
        against: &mut Against,
    ) {
        for rule in stack.iter().filter(|rule| rule.kind == "account") {
            match rule.module.as_str() {
                "pam_nologin" => against.no.extend(self.nologin.filter(|_| uid != 0).map(closed)),
                "pam_access" if rule.args.iter().any(|arg| arg.contains('=')) => {
                    against.unknown.push(format!("{}: pam_access has options of its own", rule.place));
                }
                "pam_access" => match judge_from(&self.access, name, groups, from) {
                    Verdict::Open => {}
                    Verdict::Refused(line) if ["required", "requisite"].contains(&rule.control.as_str()) => {
                        against.no.push(format!("{RULES}:{line} refuses it"));
                    }
                    Verdict::Refused(line) => against.unknown.push(format!("{RULES}:{line} may refuse it")),
                    Verdict::Depends(line) => against.unknown.push(format!("{RULES}:{line} names hosts")),
                },
                known if ACCOUNT.contains(&known) => {}
                other => against.unknown.push(format!("{}: {other} decides too", rule.place)),
            }
        }
    }

    /// A module that asks at sshd besides those that are known here.
    pub fn another(&self) -> Option<String> {
        let asks = |rule: &&Rule| rule.kind == "auth" && !AUTH.contains(&rule.module.as_str());
        self.sshd.iter().find(asks).map(|rule| format!("{}: {}", rule.place, rule.module))
    }

    /// What stands against a password at sshd beyond its being right: other modules that ask, and a count of failures.
    ///
    /// # Errors
    /// When the tally cannot be looked at.
    pub fn password(&self, look: &Look<'_>, name: &str) -> Result<Option<String>> {
        if let Some(module) = self.another() {
            return Ok(Some(format!("{module} asks too")));
        }
        for rule in self.sshd.iter().filter(|rule| rule.kind == "auth") {
            if rule.module == "pam_faillock"
                && let Ok(path) = AbsPath::parse(&format!("/run/faillock/{name}"))
                && look.probe.meta(&path, &Actor::Root)?.is_some_and(|meta| meta.size >= DENY * TALLY)
            {
                return Ok(Some(format!("pam_faillock counted failures; see: faillock --user {name}")));
            }
        }
        Ok(None)
    }
}

fn closed(path: &'static str) -> String {
    format!("{path} is there: only root may log in")
}

/// All lines of a service, includes replaced by what they bring. What cannot be followed (a substack, an include that is not
/// there or nested too deep) is a rule of no module, whose control is not known: nothing can be told of such a stack.
///
/// # Errors
/// When a file cannot be read.
pub fn stack_of(look: &Look<'_>, service: &str) -> Result<Vec<Rule>> {
    stack(look, service, DEPTH).map(Option::unwrap_or_default)
}

/// Where libpam looks for a service, the first one that is there.
const PLACES: [&str; 2] = ["/etc/pam.d", "/usr/lib/pam.d"];

fn stack(look: &Look<'_>, service: &str, depth: usize) -> Result<Option<Vec<Rule>>> {
    let mut found = None;
    for place in PLACES {
        let path = if service.starts_with('/') { service.to_owned() } else { format!("{place}/{service}") };
        let Ok(path) = AbsPath::parse(&path) else { return Ok(None) };
        if let Some(bytes) = look.probe.read(&path, &Actor::Root)? {
            found = Some((path, bytes));
            break;
        }
    }
    let Some((path, bytes)) = found else { return Ok(None) };
    let mut rules = Vec::new();
    for (number, line) in pam::lines(&String::from_utf8_lossy(&bytes)) {
        let place = format!("{path}:{number}");
        let lost = |kind: &str, module: &str| Rule {
            place: place.clone(),
            rule: pam::Rule {
                kind: kind.to_owned(),
                control: "unclear".to_owned(),
                module: module.to_owned(),
                args: Vec::new(),
            },
        };
        match pam::parse(&line) {
            Some(pam::Line::Include(kind, other)) => {
                let brought = if depth > 0 { stack(look, &other, depth - 1)? } else { None };
                match brought {
                    Some(brought) => rules
                        .extend(brought.into_iter().filter(|rule| kind.as_ref().is_none_or(|kind| rule.kind == *kind))),
                    None => rules.push(lost(kind.as_deref().unwrap_or("auth"), &other)),
                }
            }
            Some(pam::Line::Substack(kind, other)) => rules.push(lost(&kind, &other)),
            Some(pam::Line::Rule(rule)) => rules.push(Rule { place, rule }),
            None => {}
        }
    }
    Ok(Some(rules))
}
