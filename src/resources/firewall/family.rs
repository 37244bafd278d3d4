//! One family's rules: as they are, opened, and closed again; each tried on a model of the kernel.

use crate::change::Note;
use crate::error::{Failure, Result};
use crate::formats::netfilter::Ruleset;
use crate::formats::ufw::{Family, Policies, Tuple, UserRules};
use crate::types::Proto;

use super::compose::{Composed, Sources};
use super::desired::Desired;
use super::observe::{Found, Rules};
use super::settings::Settings;
use super::survey::Sight;
use super::{USER, USER6, rules};

const NAME: &str = "firewall";

/// The SSH ports.
pub struct SshPorts {
    /// Open at the end.
    pub wanted: Vec<u16>,
    /// Open until the new ones are proven, closed then.
    pub old: Vec<u16>,
}

impl SshPorts {
    pub fn new(desired: &Desired, found: &Found) -> Self {
        if desired.ssh_ports.is_empty() {
            return Self { wanted: found.ssh_ports.clone(), old: Vec::new() };
        }
        let wanted: Vec<u16> = desired.ssh_ports.iter().map(|port| port.get()).collect();
        let old = found.ssh_ports.iter().copied().filter(|port| !wanted.contains(port)).collect();
        Self { wanted, old }
    }
}

/// One family's rules: as they are, opened, and closed again.
pub struct FamilyPlan<'a> {
    pub rules: &'a Rules,
    pub path: &'static str,
    wishes: Vec<Tuple>,
    /// What `ssh.port` of the playbook asks for; empty when it says nothing.
    ssh: Vec<Tuple>,
    pub opened: UserRules,
    pub closed: UserRules,
    /// Text of user.rules after the additive change.
    pub opened_text: String,
    pub now: Composed,
    pub then: Composed,
    last: Composed,
}

impl<'a> FamilyPlan<'a> {
    pub fn new(
        desired: &Desired,
        found: &Found,
        settings: &Settings,
        ports: &SshPorts,
        rules: &'a Rules,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let family = rules.family;
        let mut wishes = Vec::new();
        for opening in desired.openings() {
            let tuples = opening.tuples(family, &found.profiles).map_err(|invalid| {
                Failure::refused(NAME, format!("'{}' cannot be allowed", opening.shown)).why(invalid.why)
            })?;
            wishes.extend(tuples);
        }
        let named = desired.ssh_ports.iter().map(|port| Tuple::allow(family, "tcp", &port.to_string()));
        let ssh: Vec<Tuple> = named.collect();
        let mut opened = rules.user.clone();
        for port in ports.wanted.iter().chain(&ports.old) {
            let tuple = Tuple::allow(family, "tcp", &port.to_string());
            if desired.exclusive && ports.wanted.contains(port) || !rules::is_open(&opened, family, *port) {
                widened(&opened, family, *port, notes);
                rules::allow(&mut opened, family, &tuple);
            }
        }
        for wish in &wishes {
            rules::allow(&mut opened, family, wish);
        }
        let mut closed = opened.clone();
        for port in &ports.old {
            rules::close(&mut closed, family, *port, |tuple| wishes.iter().any(|wish| wish.selects_same(tuple)));
        }
        if desired.exclusive {
            let ssh: Vec<Tuple> =
                ports.wanted.iter().map(|port| Tuple::allow(family, "tcp", &port.to_string())).collect();
            let wanted = |tuple: &Tuple| ssh.iter().chain(&wishes).any(|wish| wish.selects_same(tuple));
            rules::drop_where(&mut closed, |tuple| !wanted(tuple));
        }
        let render = |user: &UserRules| user.render(family, settings.level, settings.policies);
        let opened_text = if opened == rules.user && !settings.rewrites() && !rules.file.text.trim().is_empty() {
            rules.file.text.clone()
        } else {
            render(&opened)
        };
        let closed_text = if closed == opened { opened_text.clone() } else { render(&closed) };
        let composed = |policies: Policies, user: &str| {
            Composed::new(&Sources { family, policies, before: &rules.before, after: &rules.after, user }).map_err(
                |line| Failure::refused(NAME, format!("a rules file of ufw has a line outside of a table: {line}")),
            )
        };
        let plan = Self {
            rules,
            path: if family == Family::V6 { USER6 } else { USER },
            now: composed(settings.had, &rules.file.text)?,
            then: composed(settings.policies, &opened_text)?,
            last: composed(settings.policies, &closed_text)?,
            wishes,
            ssh,
            opened,
            closed,
            opened_text,
        };
        plan.let_in(&plan.then, ports.wanted.iter().chain(&ports.old))?;
        plan.let_in(&plan.last, ports.wanted.iter())?;
        Ok(plan)
    }

    /// The kernel's filter table as it would be with `composed`.
    fn model(&self, composed: &Composed) -> Result<Sight> {
        let before = self.rules.filter();
        let mut model = Ruleset::default();
        model.tables.insert("filter".to_owned(), before.clone());
        model.restore(&composed.loading(&before)).map_err(|line| {
            Failure::refused(NAME, "a line of ufw's rules files makes no sense")
                .why(line)
                .hint("see which: iptables-restore --test /etc/ufw/before.rules")
        })?;
        let after = model.tables.remove("filter").unwrap_or_default();
        Ok(Sight { family: self.rules.family, before, after })
    }

    pub fn sight(&self) -> Result<Sight> {
        self.model(&self.last)
    }

    /// Refuses when an SSH port would be shut in spite of its rule.
    fn let_in<'p>(&self, composed: &Composed, ports: impl Iterator<Item = &'p u16>) -> Result<()> {
        let sight = self.model(composed)?;
        for port in ports {
            if sight.fate(Proto::Tcp, *port).is_shut() {
                let (tool, file) = match self.rules.family {
                    Family::V4 => ("iptables", "before.rules"),
                    Family::V6 => ("ip6tables", "before6.rules"),
                };
                return Err(Failure::refused(
                    NAME,
                    format!("SSH port {port} would be shut over {}", self.rules.family.name()),
                )
                .why("a rule that comes before ufw's own rules stops it")
                .hint(format!("find it in /etc/ufw/{file} or with: {tool} -S INPUT")));
            }
        }
        Ok(())
    }

    /// True when the playbook asks for this port.
    pub fn asks(&self, proto: Proto, port: u16) -> bool {
        self.wishes.iter().any(|wish| wish.covers(proto.as_str(), port))
    }

    /// TCP ports that the playbook opens to everybody, ranges left out.
    pub fn single_ports(&self) -> Vec<u16> {
        let open = self.wishes.iter().filter(|wish| wish.is_for_all(self.rules.family) && wish.proto != "udp");
        open.flat_map(|wish| wish.dport.split(',').filter_map(|port| port.parse().ok())).collect()
    }

    /// Rules of others that stay.
    pub fn others(&self) -> Vec<Note> {
        let known = |tuple: &Tuple| self.wishes.iter().chain(&self.ssh).any(|wish| wish.selects_same(tuple));
        let mine = |tuple: &Tuple| {
            known(tuple)
                || self.closed.entries.iter().any(|entry| entry.tuple == *tuple) && !had(&self.rules.user, tuple)
        };
        let stays = self.closed.entries.iter().filter(|entry| !mine(&entry.tuple));
        let list: Vec<String> = stays.map(|entry| entry.tuple.describe(self.rules.family)).collect();
        if list.is_empty() {
            return Vec::new();
        }
        let name = self.rules.family.name();
        vec![Note::info(NAME, format!("{name}: rules of others that stay: {}", list.join("; ")))]
    }

    /// Rules that stop what the playbook lets in, and give way to it.
    pub fn given_way(&self) -> Vec<Note> {
        let entries = self.rules.user.entries.iter().map(|entry| &entry.tuple);
        let gone = entries.filter(|tuple| !tuple.verb.opens() && !had(&self.opened, tuple));
        let list: Vec<String> = gone.map(|tuple| tuple.describe(self.rules.family)).collect();
        if list.is_empty() {
            return Vec::new();
        }
        let name = self.rules.family.name();
        vec![Note::warning(NAME, format!("{name}: what the playbook lets in takes the place of: {}", list.join("; ")))]
    }

    pub fn changes_file(&self) -> bool {
        self.opened_text != self.rules.file.text
    }

    pub fn added(&self) -> impl Iterator<Item = &Tuple> {
        self.opened.entries.iter().map(|entry| &entry.tuple).filter(|tuple| !had(&self.rules.user, tuple))
    }

    pub fn removed(&self) -> impl Iterator<Item = &Tuple> {
        self.opened.entries.iter().map(|entry| &entry.tuple).filter(|tuple| !had(&self.closed, tuple))
    }
}

pub fn had(rules: &UserRules, tuple: &Tuple) -> bool {
    rules.entries.iter().any(|entry| entry.tuple == *tuple)
}

/// Says so when opening SSH to everybody goes beyond what the host's rules allowed.
pub fn widened(rules: &UserRules, family: Family, port: u16, notes: &mut Vec<Note>) {
    let narrow = rules.entries.iter().find(|entry| entry.tuple.verb.opens() && entry.tuple.covers("tcp", port));
    if let Some(entry) = narrow {
        let rule = entry.tuple.describe(family);
        let text = format!("{}: port {port} is opened to everybody; so far only: {rule}", family.name());
        notes.push(Note::warning(NAME, text));
    }
}
