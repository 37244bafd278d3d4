//! What follows the files: making the daemon read them, waiting for its listeners; and what is promised and noted.

use super::plan::Job;
use super::wanted::refuses_root;
use super::{Sshd, candidate, socket};
use crate::change::{Action, Change, Difference, Note, Promise, Risk, Stage, Step, TextDiff};
use crate::facts::{Init, SSHD, SSHD_PID, SshdMode};
use crate::host::{Actor, Command, Node, Owner};
use crate::resource::Resource as _;
use crate::types::{AbsPath, Port, Word as _};

/// How long a reload may take until the listeners are as wanted.
const LISTEN_MS: u64 = 5_000;

impl Job<'_> {
    /// Adds what makes the daemon listen on `open` and no more on `closed`; `before` are the ports that serve before
    /// this change, the present ones if not given.
    pub(super) fn listen(&self, change: &mut Change, open: &[u16], closed: &[u16], before: Option<&[u16]>) {
        let present = self.present();
        let before = before.unwrap_or(&present);
        // An undo that is made again, since its journal could not tell how far it came, may find the run's own port shut
        // already: what has to come back is what was there.
        let old: Vec<u16> = before.iter().copied().filter(|port| present.contains(port)).collect();
        let old = if old.is_empty() { before } else { &old };
        let Some(socket) = self.observed.daemon.socket.as_ref().filter(|_| self.wanted_port().is_some()) else {
            // A daemon that is not running yet is started after this change, and stopped before its undo.
            if change.stage == Stage::Additive && self.facts.sshd_mode == SshdMode::Stopped {
                return;
            }
            change.activation.forward = self.reload(open, closed);
            change.activation.backward = self.back(old);
            return;
        };
        if !socket.generated {
            let path = AbsPath::fixed(socket::DROP_IN);
            if let Some(parent) = path.parent().filter(|_| self.observed.socket_drop_in.is_none() && closed.is_empty())
            {
                let node = Node::Dir { mode: 0o755, owner: Owner::Actor };
                change.steps.push(Step::Put { path: parent, actor: Actor::Root, node });
            }
            let text = socket::text(socket, open);
            let node = Node::File { content: text.clone().into_bytes(), mode: 0o644, owner: Owner::Actor };
            let old = self.observed.socket_drop_in.clone().unwrap_or_default();
            let shown = if closed.is_empty() { old } else { socket::text(socket, before) };
            change.diffs.push(TextDiff { path: path.clone(), before: shown, after: text });
            change.steps.push(Step::Put { path, actor: Actor::Root, node });
        }
        change.activation.forward = socket::restart(socket);
        change.activation.forward.push(await_listeners(open, closed));
        change.activation.backward = socket::restart(socket);
        change.activation.backward.push(await_listeners(old, &[]));
    }

    /// Makes the daemon read its configuration, and waits until it listens as it should.
    pub(super) fn reload(&self, open: &[u16], closed: &[u16]) -> Vec<Action> {
        let mut actions = match &self.observed.daemon.socket {
            Some(socket) => socket::renew(socket),
            None => vec![self.hangup()],
        };

        if !open.is_empty() {
            actions.push(await_listeners(open, closed));
        }
        actions
    }

    /// Starts a daemon that does not run, such as one just installed: with both ports, before anything is proven.
    pub(super) fn start(&self, ports: &[u16]) -> Option<Change> {
        if self.facts.sshd_mode != SshdMode::Stopped {
            return None;
        }
        let mut change = Change::new(Sshd::NAME, "sshd:start", "start sshd", Stage::Additive, Risk::Access);
        change.differences.push(Difference::new("ssh.daemon", "running", "not running"));
        let (start, stop) = self.commands();
        change.activation.forward = vec![Action::Run(start), await_listeners(ports, &[])];
        change.activation.backward = vec![Action::Run(stop)];
        Some(change)
    }

    /// What starts and what stops the daemon.
    fn commands(&self) -> (Command, Command) {
        match self.facts.init {
            Init::Systemd => {
                let unit = |verb: &str| Command::new(["/usr/bin/systemctl", verb, "ssh.service"]);
                (unit("start"), unit("stop"))
            }
            Init::Other => {
                let daemon = |words: &[&str]| {
                    let tail = ["--oknodo", "--quiet", "--pidfile", SSHD_PID, "--exec", SSHD];
                    Command::new(["/sbin/start-stop-daemon"].iter().chain(words).chain(tail.iter()).copied())
                };
                (daemon(&["--start"]), daemon(&["--stop", "--retry", "TERM/5/KILL/2"]))
            }
        }
    }

    /// Makes the daemon read what was put back; one that died of what stood there before is started, since Debian's
    /// unit does not restart it by itself (RestartPreventExitStatus=255).
    pub(super) fn back(&self, ports: &[u16]) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.facts.sshd_mode == SshdMode::Service && self.observed.daemon.socket.is_none() {
            let check = Command::new(["/usr/bin/test", "-e", SSHD_PID]);
            actions.push(Action::When { check, codes: vec![1], run: self.commands().0 });
        }
        actions.extend(self.reload(ports, &[]));
        actions
    }

    /// SIGHUP, also under systemd: `systemctl reload` returns before sshd has read anything, and a second reload that
    /// comes too early is lost. The gates have done what ExecReload= does before.
    fn hangup(&self) -> Action {
        match self.observed.effective.get("pidfile").and_then(|path| AbsPath::parse(path).ok()) {
            Some(pidfile) => Action::Hangup { pidfile, program: AbsPath::fixed(SSHD), by: None },
            None if self.facts.init == Init::Systemd => {
                Action::Run(Command::new(["/usr/bin/systemctl", "reload", "ssh.service"]))
            }
            None => Action::Hangup { pidfile: AbsPath::fixed(SSHD_PID), program: AbsPath::fixed(SSHD), by: None },
        }
    }

    pub(super) fn promises(&self) -> Vec<Promise> {
        let mut out = Vec::new();
        if self.facts.sshd_mode == SshdMode::Missing {
            return out;
        }
        let port = |number: &u16| Port::new(*number).ok();
        out.extend(self.open_at_end().iter().filter_map(port).map(|port| Promise::SshPort { port }));
        out.extend(self.closed().iter().filter_map(port).map(|port| Promise::SshPortClosed { port }));
        if let Some(entirely) = self.desired.permit_root_login.and_then(refuses_root) {
            out.push(Promise::RootRefused { entirely });
        }
        if self.desired.password_authentication == Some(false) {
            out.push(Promise::PasswordsRefused);
        }
        out
    }

    pub(super) fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        let about = Sshd::NAME;
        let mut hosts: Vec<String> = self.observed.effective.listens().into_iter().map(|(host, _)| host).collect();
        hosts.dedup();
        if !hosts.is_empty() && !hosts.iter().any(|host| host == "0.0.0.0" || host == "::") {
            notes.push(Note::info(about, format!("sshd listens on {} only (ListenAddress)", hosts.join(", "))));
        }
        if let Some(port) = self.wanted_port().filter(|_| self.ports.moves || self.socket_moves()) {
            // Nothing on the host can see such a firewall; only a login from outside tells.
            let text = format!("a provider's firewall in front may keep port {port} shut: open it there");
            notes.push(Note::info(about, text));
        }
        let ways = ["permit_root_login", "password_authentication", "kbd_interactive_authentication"];
        let opened = self.openings().into_iter().filter(|setting| ways.contains(&setting.field));
        let opened: Vec<String> = opened.map(|setting| format!("{} {}", setting.keyword, setting.value)).collect();
        if !opened.is_empty() {
            notes.push(Note::warning(about, format!("opens what is shut: {}", opened.join(", "))));
        }
        for setting in &self.settings {
            for item in candidate::stricter(&self.observed.tree, setting, self.facts) {
                let (keyword, value) = (setting.keyword, item.directive.args.join(" "));
                let text = format!("{}: {keyword} {value} stays (Match {})", item.place(), item.condition());
                notes.push(Note::info(about, text));
            }
        }
        notes
    }
}

fn await_listeners(open: &[u16], closed: &[u16]) -> Action {
    let ports = |numbers: &[u16]| {
        let mut ports: Vec<Port> = numbers.iter().filter_map(|number| Port::new(*number).ok()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    Action::AwaitListeners { open: ports(open), closed: ports(closed), deadline_ms: LISTEN_MS }
}
