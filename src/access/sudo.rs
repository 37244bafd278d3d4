//! What sudo allows an account, by the files of its policy: the last rule that matches decides.

use crate::error::Result;
use crate::facts::sudo_policy::{Policy, SUDO};
use crate::formats::accounts::PasswdEntry;
use crate::formats::sudoers::{Item, Matching, Subject};
use crate::outcome::ways::Sudo;

use super::look::Look;

/// sudo's files; `None` when it is not installed, the reason when they cannot be read.
pub struct Rules(Option<std::result::Result<Policy, String>>);

/// What an account may do by sudo, and whose password it is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct May {
    /// How much.
    pub sudo: Sudo,
    /// `Defaults targetpw` and the like: not its own password.
    pub others_password: bool,
}

impl Rules {
    /// Reads the files.
    pub fn new(look: &Look<'_>) -> Self {
        let there = look.probe.has_program(SUDO);
        Self(there.then(|| Policy::read(look.probe).map_err(|failure| failure.line())))
    }

    /// Judges one account.
    ///
    /// # Errors
    /// Why nothing can be said.
    pub fn of(&self, look: &Look<'_>, account: &PasswdEntry) -> Result<May> {
        let nothing = May { sudo: Sudo::Nothing, others_password: false };
        let policy = match &self.0 {
            None => return Ok(nothing),
            Some(Err(_)) => return Ok(May { sudo: Sudo::Unknown, others_password: false }),
            Some(Ok(policy)) => policy,
        };
        let groups = look.groups(account).into_iter().map(|(name, gid)| (name, Some(gid))).collect();
        let subject = Subject { name: account.name.clone(), uid: Some(account.uid), groups };
        let asks = ["targetpw", "rootpw", "runaspw"].iter().any(|flag| policy.flag_on(flag, &subject).is_some());
        let mut sudo = judge(policy, &subject);
        if sudo == Sudo::WithPassword && never_asks(policy, &subject) {
            sudo = Sudo::WithoutPassword;
        }
        Ok(May { sudo, others_password: asks })
    }
}

fn judge(policy: &Policy, subject: &Subject) -> Sudo {
    let mut sudo = Sudo::Nothing;
    for rule in policy.rules_for(subject) {
        let Some(commands) = rule.commands.as_ref().filter(|_| rule.sure) else {
            sudo = Sudo::Unknown;
            continue;
        };
        for allowed in commands {
            let as_root =
                allowed.run_as.is_empty() || allowed.run_as.iter().any(|user| user == "ALL" || user == "root");
            sudo = match (allowed.command.as_str(), allowed.forbidden) {
                ("ALL", true) => Sudo::Nothing,
                ("ALL", false) if as_root && allowed.nopasswd => Sudo::WithoutPassword,
                ("ALL", false) if as_root => Sudo::WithPassword,
                // Single commands are taken away or added; what was everything stays nearly that.
                (_, false) if sudo == Sudo::Nothing => Sudo::Some,
                _ => sudo,
            };
        }
    }
    sudo
}

/// `Defaults !authenticate` for the account: NOPASSWD by another name. sudo-rs does not know it, and passes it over.
fn never_asks(policy: &Policy, subject: &Subject) -> bool {
    let mut off = false;
    if policy.rewrite {
        return off;
    }
    for placed in &policy.lines {
        let Item::Defaults { users, settings } = &placed.line.item else { continue };
        let none = |_: &str| None;
        if users.as_ref().is_none_or(|users| subject.matched(users, &none) == Matching::Yes) {
            for setting in settings {
                match setting.replace(' ', "").as_str() {
                    "!authenticate" => off = true,
                    "authenticate" => off = false,
                    _ => {}
                }
            }
        }
    }
    off
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::sudo_policy::of;

    #[test]
    fn the_last_rule_decides() {
        let groups = vec![("deploy".to_owned(), Some(1000)), ("sudo".to_owned(), Some(27))];
        let subject = Subject { name: "deploy".to_owned(), uid: Some(1000), groups };
        for (text, want) in [
            ("root ALL=(ALL:ALL) ALL\n", Sudo::Nothing),
            ("%sudo ALL=(ALL:ALL) ALL\n", Sudo::WithPassword),
            ("deploy ALL=(ALL:ALL) NOPASSWD: ALL\n%sudo ALL=(ALL:ALL) ALL\n", Sudo::WithPassword),
            ("%sudo ALL=(ALL:ALL) ALL\ndeploy ALL=(ALL:ALL) NOPASSWD: ALL\n", Sudo::WithoutPassword),
            ("deploy ALL=(root) NOPASSWD: /bin/ls\n", Sudo::Some),
            ("deploy ALL=(postgres) ALL\n", Sudo::Some),
            ("%sudo ALL=(ALL:ALL) ALL\ndeploy ALL=(ALL) !ALL\n", Sudo::Nothing),
            ("+admins ALL=(ALL:ALL) ALL\n", Sudo::Unknown),
        ] {
            assert_eq!(judge(&of(&[("/etc/sudoers", text)]), &subject), want, "{text}");
        }
        let mut policy = of(&[("/etc/sudoers", "Defaults:%sudo !authenticate\n")]);
        assert!(never_asks(&policy, &subject));
        policy.rewrite = true;
        assert!(!never_asks(&policy, &subject), "sudo-rs asks all the same");
    }
}
