//! `--format json`: one event a line, as documented in ARCHITECTURE.md. No content of a step and no password hash.

use crate::change::{Action, Change, Inverse, Plan, Step};
use crate::host::{AccountEdit, Command, Database, Image, Node};
use crate::outcome::Event;

use super::escape;

/// What stands in the place of a value that is not shown.
const LEFT_OUT: &str = "(left out)";

/// One line with its line feed.
pub fn line(event: &Event) -> String {
    let shown = match event {
        Event::Planned { plan } => serde_json::to_string(&Event::Planned { plan: Box::new(without_contents(plan)) }),
        other => serde_json::to_string(other),
    };
    // Data without maps of odd keys always serializes; a failure would still leave a line that readers can parse.
    let text = shown.unwrap_or_else(|_| "{\"event\":\"unprintable\"}".to_owned());
    let mut line = escape::json(&text);
    line.push('\n');
    line
}

/// The plan as it may be shown and sent: what is done stays, the bytes that are written do not (the diffs show those
/// that may be seen).
pub fn without_contents(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    for change in &mut plan.changes {
        empty(change);
    }
    plan
}

fn empty(change: &mut Change) {
    for gate in &mut change.gates {
        gate.staged.clear();
        gate.command.stdin.clear();
    }
    let activation = &mut change.activation;
    for action in activation.forward.iter_mut().chain(&mut activation.backward) {
        commands(action).into_iter().for_each(|command| command.stdin.clear());
    }
    for step in &mut change.steps {
        match step {
            Step::Put { node: Node::File { content, .. }, .. }
            | Step::Restore { image: Image::File { content, .. }, .. } => content.clear(),
            Step::Account { edits } => edits.iter_mut().for_each(hide),
            Step::Run { command, inverse } => {
                command.stdin.clear();
                if let Inverse::Command(command) = inverse {
                    command.stdin.clear();
                }
            }
            Step::Put { .. } | Step::Remove { .. } | Step::Restore { .. } => {}
        }
    }
}

/// The programs that an action runs; the firewall's are given all of its rules.
fn commands(action: &mut Action) -> Vec<&mut Command> {
    match action {
        Action::Run(command) => vec![command],
        Action::When { check, run, .. } => vec![check, run],
        Action::Hangup { by, .. } => by.iter_mut().collect(),
        Action::RestartSocket { .. } | Action::KeepSessions { .. } | Action::AwaitListeners { .. } => Vec::new(),
    }
}

/// shadow(5) and gshadow(5) hold hashes: the account is shown, the value never.
fn hide(edit: &mut AccountEdit) {
    match edit {
        AccountEdit::Add { db: Database::Shadow | Database::Gshadow, line } => {
            let key = line.split(':').next().unwrap_or_default().to_owned();
            *line = format!("{key}:{LEFT_OUT}");
        }
        AccountEdit::Field { db: Database::Shadow | Database::Gshadow, value, .. } => LEFT_OUT.clone_into(value),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Risk, Stage};
    use crate::host::{Actor, Owner};
    use crate::types::AbsPath;

    #[test]
    fn no_hash_and_no_content_leaves() {
        let mut change = Change::new("user", "user:deploy:create", "create deploy", Stage::Additive, Risk::Access);
        change.steps = vec![
            Step::Account {
                edits: vec![
                    AccountEdit::Add { db: Database::Shadow, line: "deploy:CANARY:1:0::::".into() },
                    AccountEdit::Field { db: Database::Shadow, key: "root".into(), index: 1, value: "CANARY".into() },
                    AccountEdit::Add { db: Database::Passwd, line: "deploy:x:1000".into() },
                ],
            },
            Step::Put {
                path: AbsPath::fixed("/etc/x"),
                actor: Actor::Root,
                node: Node::File { content: b"CANARY".to_vec(), mode: 0o600, owner: Owner::Actor },
            },
            Step::Run { command: Command::new(["/bin/x"]).stdin("CANARY"), inverse: Inverse::Nothing },
        ];
        let secret = || Command::new(["/bin/x"]).stdin("CANARY");
        let when = Action::When { check: secret(), codes: vec![1], run: secret() };
        change.activation.forward = vec![Action::Run(secret()), when.clone()];
        let pidfile = AbsPath::fixed("/run/sshd.pid");
        let hangup = Action::Hangup { pidfile, program: AbsPath::fixed("/usr/sbin/sshd"), by: Some(secret()) };
        change.activation.backward = vec![when, hangup];
        change.steps.push(Step::Run { command: secret(), inverse: Inverse::Command(secret()) });
        let plan = Plan {
            version: Plan::VERSION,
            host: "h\u{9b}".into(),
            playbook: String::new(),
            playbook_digest: String::new(),
            observation_digest: String::new(),
            changes: vec![change],
            notes: Vec::new(),
            deferred: Vec::new(),
            promises: Vec::new(),
            met: Vec::new(),
        };
        let shown = line(&Event::Planned { plan: Box::new(plan) });
        assert!(!shown.contains("CANARY"), "{shown}");
        assert!(shown.contains("deploy:x:1000") && shown.contains("/etc/x"));
        assert_eq!(shown.matches('\n').count(), 1);
        assert!(shown.is_ascii());
        let back: Event = serde_json::from_str(&shown).unwrap();
        assert!(matches!(back, Event::Planned { plan } if plan.host == "h\u{9b}" && plan.changes.len() == 1));
    }
}
