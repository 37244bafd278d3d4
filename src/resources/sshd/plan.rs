//! From what was found to changes in two stages: first open (a second port, methods that were off), then, once a login
//! is proven, tighten and close. Pure.

use super::candidate::{self, Layout, Loosened, Own};
use super::gates::{Wish, gates};
use super::observe::{Observed, RUN_DIR};
use super::ports::{Ports, ports};
use super::wanted::{Setting, settings};
use super::{Desired, Sshd, safety};
use crate::change::{Change, Difference, Note, Risk, Stage, Step};
use crate::error::{Failure, Result};
use crate::facts::{Facts, Init, SshdMode};
use crate::formats::sshd_config::Tree;
use crate::host::{Actor, Node, Owner};
use crate::resource::{Planned, Resource};
use crate::types::{AbsPath, Port};

/// Everything that the stages are made from.
pub(super) struct Job<'a> {
    pub desired: &'a Desired,
    pub facts: &'a Facts,
    pub observed: &'a Observed,
    pub settings: Vec<Setting>,
    pub loosened: Vec<Loosened>,
    pub ports: Ports,
    pub layout: Layout,
}

/// What has to change.
///
/// # Errors
/// `Refused` when the wish cannot be reached safely.
pub fn plan(desired: &Desired, facts: &Facts, observed: &Observed) -> Result<Planned> {
    if !observed.installed {
        return Ok(Planned { deferred: Some("package openssh-server".to_owned()), ..Planned::default() });
    }
    let settings = settings(desired, facts, observed.defaults.as_ref());
    let loosened = candidate::loosened(&observed.tree, &settings, facts);
    let keys: Vec<String> = settings.iter().map(Setting::key).collect();
    let job = Job {
        desired,
        facts,
        observed,
        loosened,
        ports: ports(observed, desired.port.map(Port::get)),
        layout: candidate::layout(observed, &keys, facts),
        settings,
    };
    job.command_line()?;
    let (opening, differences) = job.differences();
    let mut planned = Planned { promises: job.promises(), notes: job.notes(), ..Planned::default() };
    planned.changes.extend(job.runtime()?);
    let moves = job.ports.moves || job.socket_moves();
    let faults = safety::faults(observed, &job.settings);
    if opening.is_empty() && differences.is_empty() && !moves {
        planned.notes.extend(faults.iter().map(|fault| Note::warning(Sshd::NAME, fault.line())));
        planned.changes.extend(job.stale());
        planned.changes.extend(job.start(&job.open_at_end()));
        return Ok(planned);
    }
    if let Some(fault) = faults.into_iter().next() {
        return Err(fault);
    }
    job.sessions()?;
    job.free_port()?;
    job.host_keys()?;
    let (opened, tree) = job.open(opening, differences.is_empty())?;
    planned.changes.extend(opened);
    planned.changes.extend(job.start(&job.while_both()));
    planned.changes.extend(job.tighten(&tree, differences)?);
    Ok(planned)
}

impl Job<'_> {
    /// Options of the command line beat the file; a reload keeps them.
    fn command_line(&self) -> Result<()> {
        let daemon = &self.observed.daemon;
        if let Some(port) = self.desired.port
            && let Some((place, value)) = daemon.ports().iter().find(|(_, value)| *value != port.to_string())
        {
            return Err(beaten(place, &format!("the port {value}")));
        }
        for (place, keyword, value) in daemon.options() {
            if self.settings.iter().any(|setting| setting.key() == keyword && !setting.is_met(&value)) {
                return Err(beaten(&place, &format!("{keyword} {value}")));
            }
        }
        Ok(())
    }

    /// Everything of the settings that is not as wanted, naming who says otherwise: what is to be opened, and the rest.
    fn differences(&self) -> (Vec<Difference>, Vec<Difference>) {
        let openings = self.openings();
        let (mut opening, mut out): (Vec<Difference>, Vec<Difference>) = (Vec::new(), Vec::new());
        for setting in &self.settings {
            let key = setting.key();
            let have = self.observed.effective.get(&key).unwrap_or("(unknown)");
            let mut wrong = (!setting.is_met(have)).then(|| self.whose(have, &key));
            if openings.contains(setting)
                && let Some(have) = wrong.take()
            {
                add(&mut opening, setting, have);
            }
            if let Some(entry) = self.loosened.iter().find(|entry| !entry.beaten && entry.setting == *setting) {
                let item = &entry.item;
                let text = format!("{} (Match {}, {})", item.directive.args.join(" "), item.condition(), item.place());
                wrong.get_or_insert(text);
            }
            for (connection, effective) in &self.observed.by_connection {
                let have = effective.get(&key).unwrap_or("(unknown)");
                if !setting.allows(have) {
                    wrong.get_or_insert_with(|| format!("{have} for {} from {}", connection.user, connection.address));
                }
            }
            if let Some(have) = wrong {
                add(&mut out, setting, have);
            }
        }
        (opening, out)
    }

    /// A value with the line that it comes from.
    fn whose(&self, have: &str, key: &str) -> String {
        let place = self.observed.tree.first_global(key).map_or_else(|| "default".to_owned(), |item| item.place());
        format!("{have} ({place})")
    }

    pub(super) fn wanted_port(&self) -> Option<u16> {
        self.desired.port.map(Port::get)
    }

    /// True when the socket unit listens elsewhere.
    pub(super) fn socket_moves(&self) -> bool {
        match (&self.observed.daemon.socket, self.wanted_port()) {
            (Some(socket), Some(port)) => socket.ports() != [port],
            _ => false,
        }
    }

    /// The ports that serve now.
    pub(super) fn present(&self) -> Vec<u16> {
        match &self.observed.daemon.socket {
            Some(socket) => socket.ports(),
            None => {
                let flags = self.observed.daemon.ports();
                let by_flag: Vec<u16> = flags.iter().filter_map(|(_, value)| value.parse().ok()).collect();
                if by_flag.is_empty() { self.ports.present.clone() } else { by_flag }
            }
        }
    }

    /// Behind a socket the service has to be stopped, which must not end anybody's session.
    fn sessions(&self) -> Result<()> {
        if !self.observed.daemon.socket.as_ref().is_some_and(|socket| socket.kills_sessions) {
            return Ok(());
        }
        Err(Failure::refused("ssh.service", "stopping it would end every session")
            .why("its KillMode= is not process, and behind ssh.socket a change needs a stop")
            .hint("systemctl edit ssh.service, and write there: [Service] KillMode=process"))
    }

    /// A port that another program holds cannot be had.
    fn free_port(&self) -> Result<()> {
        let Some(port) = self.wanted_port() else { return Ok(()) };
        let sshd = |name: &String| name == "systemd" || name == "init" || name.starts_with("sshd");
        let taken = self.observed.listeners.iter().find(|listener| {
            listener.port == port && !listener.programs.is_empty() && !listener.programs.iter().any(sshd)
        });
        match taken {
            None => Ok(()),
            Some(listener) => Err(Failure::refused("ssh.port", format!("port {port} is taken"))
                .why(format!("{} listens on {}", listener.programs.join(", "), listener.address))
                .hint("choose another port in the playbook, or stop that program")),
        }
    }

    /// Modern host key algorithms need a host key that is not ECDSA.
    fn host_keys(&self) -> Result<()> {
        if self.desired.modern_algorithms != Some(true) || !self.observed.environment.host_keys {
            return Ok(());
        }
        if self.observed.effective.all("hostkey").any(|path| !path.contains("ecdsa") && !path.contains("_dsa")) {
            return Ok(());
        }
        Err(Failure::refused("ssh.modern_algorithms", "this host has no modern host key")
            .hint("make the missing ones with: ssh-keygen -A"))
    }

    /// What sshd needs to start at all. systemd makes /run/sshd itself.
    fn runtime(&self) -> Result<Option<Change>> {
        let environment = self.observed.environment;
        let directory = !environment.run_dir && self.facts.init == Init::Other;
        if !directory && environment.host_keys {
            return Ok(None);
        }
        let mut change =
            Change::new(Sshd::NAME, "sshd:runtime", "make what sshd needs to start", Stage::Additive, Risk::None);
        if directory {
            change.differences.push(Difference::new("ssh.runtime_directory", RUN_DIR, "missing"));
            let node = Node::Dir { mode: 0o755, owner: Owner::Actor };
            change.steps.push(Step::Put { path: AbsPath::fixed(RUN_DIR), actor: Actor::Root, node });
        }
        if !environment.host_keys {
            change.differences.push(Difference::new("ssh.host_keys", "present", "missing"));
            change.steps.extend(self.observed.host_keys.steps()?);
        }
        Ok(Some(change))
    }

    /// The files are right and the daemon does not listen as they say: it has not read them.
    fn stale(&self) -> Option<Change> {
        let port = self.desired.port?;
        let serves = |name: &String| name.starts_with("sshd");
        let listens = self.observed.listeners.iter().any(|l| l.port == port.get() && l.programs.iter().any(serves));
        if self.facts.sshd_mode != SshdMode::Service || listens {
            return None;
        }
        let summary = format!("reload sshd, which does not listen on port {port} yet");
        let mut change = Change::new(Sshd::NAME, "sshd:reload", summary, Stage::Additive, Risk::Access);
        change.differences.push(Difference::new("ssh.port", port.to_string(), "configured, not listening"));
        change.activation.forward = self.reload(&[port.get()], &[]);
        change.activation.backward = self.reload(&[], &[]);
        Some(change)
    }

    /// Settings that are stricter now than asked for. They open, so the plan must not call them closing; and the proof
    /// of the new door may need them.
    pub(super) fn openings(&self) -> Vec<Setting> {
        let stricter = |setting: &&Setting| {
            let have = self.observed.effective.get(&setting.key());
            have.is_some_and(|have| !setting.is_met(have) && (setting.value == "yes" || setting.allows(have)))
        };
        self.settings.iter().filter(stricter).cloned().collect()
    }

    /// The additive stage: the new port beside the old ones, and what was shut. `last`: no setting is left for the
    /// subtractive one. Gives back the tree that it leaves.
    fn open(&self, differences: Vec<Difference>, last: bool) -> Result<(Option<Change>, Tree)> {
        let openings = self.openings();
        let moves = self.ports.moves || self.socket_moves();
        if !moves && openings.is_empty() {
            return Ok((None, self.observed.tree.clone()));
        }
        let (mut own, silenced): (Own, _) = if last && !openings.is_empty() {
            self.last()?
        } else {
            let asked: Vec<String> = openings.iter().map(Setting::key).collect();
            let mut own = candidate::carried(self.observed, &asked, self.facts)?;
            own.set(&openings);
            (own, Vec::new())
        };
        own.ports.clone_from(&self.ports.both);
        let tree = candidate::compose(self.observed, self.layout, &own, &silenced)?;
        let all = self.while_both();
        let listen = self
            .wanted_port()
            .filter(|_| moves)
            .map(|port| (port, format!("listen on port {port} beside {}", join(&self.present()))));
        let allow = openings.iter().map(allowed).collect::<Vec<_>>().join(", ");
        let allow = (!openings.is_empty()).then(|| format!("allow {allow}"));
        let summary: Vec<String> = listen.iter().map(|(_, text)| text.clone()).chain(allow).collect();
        let mut change = Change::new(Sshd::NAME, "sshd:open", summary.join(", "), Stage::Additive, Risk::Access);
        if let Some((port, _)) = listen {
            change.differences.push(Difference::new("ssh.port", port.to_string(), join(&self.present())));
        }
        change.differences.extend(differences);
        let wish = Wish { settings: &openings, ports: self.port_lines(&tree), port: self.port() };
        change.gates = gates(self.observed, &tree, &wish, self.facts);
        candidate::steps(&mut change, self.observed, &self.observed.tree, &tree);
        self.listen(&mut change, &all, &[], None);
        Ok((Some(change), tree))
    }

    /// keyward's file for the end, and the lines of others that go out of force with it.
    fn last(&self) -> Result<(Own, Vec<(String, usize)>)> {
        let silenced = candidate::to_silence(&self.observed.tree, &self.loosened, self.facts);
        let own =
            candidate::final_own(self.observed, &self.settings, &self.loosened, &silenced, self.facts, &self.ports)?;
        Ok((own, silenced))
    }

    /// The subtractive stage: everything asked for, and only the wanted port.
    fn tighten(&self, before: &Tree, differences: Vec<Difference>) -> Result<Vec<Change>> {
        let (mut own, mut silenced) = self.last()?;
        let mut changes = Vec::new();
        let mut tree = before.clone();
        let moves = self.ports.moves || self.socket_moves();
        if !differences.is_empty() {
            if moves {
                own.ports.clone_from(&self.ports.both);
            }
            tree = candidate::compose(self.observed, self.layout, &own, &silenced)?;
            let mut change =
                Change::new(Sshd::NAME, "sshd:access", summary(&differences), Stage::Subtractive, Risk::Access);
            change.differences = differences;
            let wish = Wish { settings: &self.settings, ports: None, port: self.port() };
            change.gates = gates(self.observed, &tree, &wish, self.facts);
            candidate::steps(&mut change, self.observed, before, &tree);
            let mut serving = self.present();
            if moves {
                serving.extend(self.wanted_port());
            }
            change.activation.forward = self.reload(&serving, &[]);
            // The run's own port may be shut again by the time that this is undone once more.
            change.activation.backward = self.back(&self.present());
            changes.push(change);
        }
        if moves {
            own.ports.clone_from(&self.ports.last);
            silenced.extend(self.ports.close.iter().cloned());
            let after = candidate::compose(self.observed, self.layout, &own, &silenced)?;
            changes.push(self.close(&tree, &after));
        }
        Ok(changes)
    }

    fn close(&self, before: &Tree, after: &Tree) -> Change {
        let closed = self.closed();
        let summary = format!("close port {}", join(&closed));
        let mut change = Change::new(Sshd::NAME, "sshd:close", summary, Stage::Subtractive, Risk::Access);
        change.differences.push(Difference::new("ssh.port", join(&self.open_at_end()), join(&self.present())));
        let wish = Wish { settings: &self.settings, ports: self.port_lines(after), port: self.port() };
        change.gates = gates(self.observed, after, &wish, self.facts);
        candidate::steps(&mut change, self.observed, before, after);
        let open = self.open_at_end();
        let both = self.while_both();
        self.listen(&mut change, &open, &closed, Some(&both));
        change
    }

    /// Ports that the Port lines of `tree` give; `None` when addresses carry ports of their own.
    fn port_lines(&self, tree: &Tree) -> Option<Vec<u16>> {
        self.ports.moves.then_some(())?;
        let items = tree.flatten();
        let mut ports: Vec<u16> = items
            .iter()
            .filter(|item| item.directive.keyword == "port")
            .filter_map(|item| item.directive.args.first()?.parse().ok())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        (!ports.is_empty()).then_some(ports)
    }

    fn port(&self) -> u16 {
        self.wanted_port().or(self.present().first().copied()).unwrap_or(22)
    }

    /// The ports that serve between the two stages.
    fn while_both(&self) -> Vec<u16> {
        let mut ports = self.present();
        ports.extend(self.wanted_port());
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    pub(super) fn open_at_end(&self) -> Vec<u16> {
        self.wanted_port().map_or_else(|| self.present(), |port| vec![port])
    }

    pub(super) fn closed(&self) -> Vec<u16> {
        let open = self.open_at_end();
        self.present().into_iter().filter(|port| !open.contains(port)).collect()
    }
}

/// Adds a difference once: two keywords may be one field.
fn add(differences: &mut Vec<Difference>, setting: &Setting, have: String) {
    let path = format!("ssh.{}", setting.field);
    if !differences.iter().any(|difference| difference.path == path && difference.have == have) {
        differences.push(Difference::new(path, setting.value.clone(), have));
    }
}

fn beaten(place: &str, what: &str) -> Failure {
    Failure::refused(place, format!("the command line of sshd sets {what}"))
        .why("options of the command line beat the configuration file, and a reload keeps them")
        .hint("take the option out there, restart sshd, then run keyward again")
}

fn join(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")
}

/// What a setting that opens lets in.
fn allowed(setting: &Setting) -> String {
    match (setting.field, setting.value.as_str()) {
        ("permit_root_login", "yes") => "root login".to_owned(),
        ("permit_root_login", "prohibit-password") => "root by key".to_owned(),
        ("password_authentication", _) => "passwords".to_owned(),
        ("pubkey_authentication", _) => "keys".to_owned(),
        (_, value) => format!("{} {value}", setting.keyword),
    }
}

/// One line for the plan.
fn summary(differences: &[Difference]) -> String {
    let mut parts: Vec<String> = Vec::new();
    for difference in differences {
        let field = difference.path.strip_prefix("ssh.").unwrap_or(&difference.path);
        let part = match (field, difference.want.as_str()) {
            ("permit_root_login", "no") => "refuse root".to_owned(),
            ("permit_root_login", "prohibit-password") => "refuse root by password".to_owned(),
            ("password_authentication", "no") => "refuse passwords".to_owned(),
            ("kbd_interactive_authentication", "no") => "refuse keyboard-interactive".to_owned(),
            ("modern_algorithms", _) => "offer modern algorithms only".to_owned(),
            (field, want) => format!("{field} {want}"),
        };
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(", ")
}
