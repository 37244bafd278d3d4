//! One look at everything that decides about logins and is the same for all accounts. Reads only; what cannot be read is
//! said, never taken for absent.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use crate::error::{Failure, Result};
use crate::facts::{Facts, SSHD_CONFIG, SSHD_TOP, ask_sshd};
use crate::formats::accounts::{GroupEntry, PasswdEntry, Records, ShadowEntry};
use crate::formats::sshd_config::{ConfigText, Directive};
use crate::formats::sshd_effective::Effective;
use crate::host::{Actor, Database, Probe};
use crate::types::AbsPath;

use super::after::After;

/// What is taken as given where what is in effect just now does not tell what matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Supposed {
    /// sshd runs as its files say, though it does not.
    pub sshd_runs: bool,
    /// No firewall keeps anybody out: its rules cannot be seen.
    pub no_firewall: bool,
    /// Neither a shell that ends at once nor nologin(5) keeps anybody out: the one leaves tunnels and sftp, the other goes by.
    pub lasting: bool,
}

/// What sshd says, or why it says nothing.
type Said = std::result::Result<Rc<Effective>, String>;

/// The host, and the plan when it is looked at as after one.
pub struct Look<'a> {
    /// Reads files, the plan's among them.
    pub probe: &'a dyn Probe,
    /// What kind of host it is.
    pub facts: &'a Facts,
    /// Set when this is a look ahead.
    pub after: Option<&'a After<'a>>,
    /// Accounts of /etc/passwd, each name once.
    pub passwd: Vec<PasswdEntry>,
    /// The moment, in UTC.
    pub now: jiff::civil::DateTime,
    /// What is taken as given.
    pub supposed: Supposed,
    shadow: Records,
    groups: Vec<GroupEntry>,
    config: Vec<(AbsPath, ConfigText)>,
    asked: RefCell<BTreeMap<Option<(String, IpAddr)>, Said>>,
}

/// The directives of sshd's files, each with its file and line.
pub type Placed<'a> = (String, &'a Directive);

/// Where Debian's sshd looks for more of its configuration.
pub const DROP_INS: &str = "/etc/ssh/sshd_config.d";

/// More questions than this are not asked; the rest is unknown.
const QUESTIONS: usize = 400;

impl<'a> Look<'a> {
    /// Reads the databases and sshd's files.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn new(facts: &'a Facts, probe: &'a dyn Probe, after: Option<&'a After<'a>>) -> Result<Self> {
        let records = |db: Database| -> Result<Records> {
            Ok(Records::parse(&probe.read(&db.path(), &Actor::Root)?.unwrap_or_default()))
        };
        let mut passwd = records(Database::Passwd)?.passwd();
        // getpwnam(3) gives the first of two equal names.
        let mut seen = std::collections::BTreeSet::new();
        passwd.retain(|entry| seen.insert(entry.name.clone()));
        let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime();
        Ok(Self {
            probe,
            facts,
            after,
            passwd,
            now,
            supposed: Supposed::default(),
            shadow: records(Database::Shadow)?,
            groups: records(Database::Group)?.group(),
            config: config(probe)?,
            asked: RefCell::default(),
        })
    }

    /// Days since 1970-01-01, as shadow(5) counts.
    pub fn today(&self) -> i64 {
        let day = jiff::civil::date(1970, 1, 1);
        self.now.date().since((jiff::Unit::Day, day)).map_or(0, |span| i64::from(span.get_days()))
    }

    /// The shadow(5) entry of an account.
    pub fn shadow(&self, name: &str) -> Option<ShadowEntry> {
        self.shadow.shadow_entry(name)
    }

    /// Names and ids of the groups of an account, the primary one first.
    pub fn groups(&self, account: &PasswdEntry) -> Vec<(String, u32)> {
        let own = self.groups.iter().filter(|group| group.gid == account.gid);
        let member = |group: &&GroupEntry| group.gid != account.gid && group.members.contains(&account.name);
        own.chain(self.groups.iter().filter(member)).map(|group| (group.name.clone(), group.gid)).collect()
    }

    /// The ids alone; the primary group counts even when it has no name.
    pub fn group_ids(&self, account: &PasswdEntry) -> Vec<u32> {
        let mut ids: Vec<u32> = self.groups(account).into_iter().map(|(_, gid)| gid).collect();
        ids.push(account.gid);
        ids
    }

    /// True when nobody else is in the account's primary group (Debian's sshd trusts such a group).
    pub fn group_is_of(&self, account: &PasswdEntry) -> bool {
        let others = self.passwd.iter().any(|other| other.gid == account.gid && other.name != account.name);
        let mut named = self.groups.iter().filter(|group| group.gid == account.gid).flat_map(|group| &group.members);
        !others && named.all(|member| *member == account.name)
    }

    /// A text of the system; empty when it is not there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, path: &'static str) -> Result<String> {
        let bytes = self.probe.read(&AbsPath::fixed(path), &Actor::Root)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// All directives of sshd's usual files with their places.
    pub fn directives(&self) -> impl Iterator<Item = Placed<'_>> {
        self.config.iter().flat_map(|(path, text)| {
            text.directives().map(move |(number, directive)| (format!("{path}:{number}"), directive))
        })
    }

    /// The files that [`Look::directives`] are of.
    pub fn files(&self) -> impl Iterator<Item = &AbsPath> {
        self.config.iter().map(|(path, _)| path)
    }

    /// `file:line` of the first directive of a keyword, else its name.
    pub fn place(&self, keyword: &str) -> String {
        let found = self.directives().find(|(_, directive)| directive.keyword.eq_ignore_ascii_case(keyword));
        found.map_or_else(|| keyword.to_owned(), |(place, _)| place)
    }

    /// What sshd says without a connection in mind.
    pub fn everybody(&self) -> Said {
        self.ask(None)
    }

    /// What sshd says for an account from an address. Without a Match block that is the same for all.
    pub fn effective(&self, name: &str, from: IpAddr) -> Said {
        let conditional = |(_, directive): (String, &Directive)| match directive.keyword.as_str() {
            "match" => true,
            "include" => !is_read(directive),
            _ => false,
        };
        let who = self.directives().any(conditional).then(|| (name.to_owned(), from));
        // sshd answers from the databases of today: an account that the plan makes is in no group yet.
        if who.is_some() && self.asks_for_groups() && self.joins(name) != Ok(false) {
            return Err("a Match block asks for groups that the plan changes".to_owned());
        }
        self.ask(who)
    }

    /// True when a Match block has the criterion Group, or a file is included that may hold one.
    fn asks_for_groups(&self) -> bool {
        self.directives().any(|(_, directive)| match directive.keyword.as_str() {
            "match" => directive.args.iter().any(|arg| {
                let word = arg.split('=').next().unwrap_or_default();
                word.eq_ignore_ascii_case("group") || word.eq_ignore_ascii_case("invalid-user")
            }),
            "include" => !is_read(directive),
            _ => false,
        })
    }

    /// True when the plan makes the account or changes its groups.
    fn joins(&self, name: &str) -> Result<bool> {
        let Some(after) = self.after else { return Ok(false) };
        let of = |look: &Self| look.passwd.iter().find(|entry| entry.name == name).map(|entry| look.groups(entry));
        let now = Self::new(self.facts, after.now(), None)?;
        Ok(of(self) != of(&now))
    }

    fn ask(&self, who: Option<(String, IpAddr)>) -> Said {
        if let Some(said) = self.asked.borrow().get(&who) {
            return said.clone();
        }
        if self.asked.borrow().len() >= QUESTIONS {
            return Err("too many accounts and places to ask sshd about".to_owned());
        }
        let criteria =
            who.as_ref().map(|(user, from)| format!("user={user},host={from},addr={from},laddr=192.0.2.9,lport=22"));
        let said = self.said(criteria.as_deref()).map_err(|failure| failure.line());
        self.asked.borrow_mut().insert(who, said.clone());
        said
    }

    fn said(&self, criteria: Option<&str>) -> Result<Rc<Effective>> {
        let mut args = vec!["-T"];
        args.extend(criteria.into_iter().flat_map(|criteria| ["-C", criteria]));
        let output = match self.after.and_then(|after| after.ask_sshd(criteria)) {
            Some(output) => output?,
            None if self.facts.sshd.is_none() => return Err(Failure::unknown("sshd", "is not installed")),
            None => ask_sshd(self.probe, &args)?,
        };
        if !output.ok() {
            return Err(Failure::unknown("sshd -T", "does not tell its configuration").why(output.last_line()));
        }
        Ok(Rc::new(Effective::parse(&output.stdout)))
    }
}

/// True for an Include of files that are read here.
pub fn is_read(include: &Directive) -> bool {
    include.args.iter().all(|arg| arg == SSHD_TOP || arg == "/etc/ssh/sshd_config.d/*.conf")
}

/// sshd's usual files: the main one, and before it the drop-ins that Debian includes, and keyward's own where that is included.
fn config(probe: &dyn Probe) -> Result<Vec<(AbsPath, ConfigText)>> {
    let parsed = |path: AbsPath| -> Result<Option<(AbsPath, ConfigText)>> {
        Ok(probe.read(&path, &Actor::Root)?.map(|bytes| (path, ConfigText::parse(&bytes))))
    };
    let main = parsed(AbsPath::fixed(SSHD_CONFIG))?;
    let has_own = |(_, text): &(AbsPath, ConfigText)| {
        text.directives()
            .any(|(_, one)| one.keyword.eq_ignore_ascii_case("include") && one.args.iter().any(|arg| arg == SSHD_TOP))
    };
    let mut texts = Vec::new();
    if main.as_ref().is_some_and(has_own) {
        texts.extend(parsed(AbsPath::fixed(SSHD_TOP))?);
    }
    let drop_ins = AbsPath::fixed(DROP_INS);
    for name in probe.list(&drop_ins, &Actor::Root)?.unwrap_or_default() {
        if let Some(path) = drop_ins.join(&name).ok().filter(|_| name.ends_with(".conf")) {
            texts.extend(parsed(path)?);
        }
    }
    texts.extend(main);
    Ok(texts)
}
