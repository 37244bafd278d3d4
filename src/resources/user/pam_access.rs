//! pam_access(8): whether access.conf(5) keeps an administrator from sshd. Pure but for the reading at the top.

use crate::error::{Failure, Result};
use crate::host::{Actor, Probe};
use crate::types::AbsPath;

const RULES: &str = "/etc/security/access.conf";

/// What the rules say to an account that comes from anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing stands against it.
    Open,
    /// This line decides by where it comes from.
    Depends(usize),
    /// This line refuses it.
    Refused(usize),
}

/// Reads and judges, when sshd's stack asks pam_access at all; refuses with the line that shuts the account out.
/// Gives back a remark when it depends on the address.
pub fn check(probe: &dyn Probe, name: &str, groups: &[&str]) -> Result<Option<String>> {
    let text = |path: &'static str| -> Result<String> {
        let bytes = probe.read(&AbsPath::fixed(path), &Actor::Root)?.unwrap_or_default();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stacks = [text("/etc/pam.d/sshd")?, text("/etc/pam.d/common-account")?];
    let asks = |line: &str| !line.trim_start().starts_with('#') && line.contains("pam_access.so");
    let Some(line) = stacks.iter().flat_map(|stack| stack.lines()).find(|line| asks(line)) else { return Ok(None) };
    if line.contains("accessfile=") || line.contains("fieldsep=") {
        return Ok(Some("pam_access asks a file of its own choice; it may refuse this account".to_owned()));
    }
    match judge(&text(RULES)?, name, groups) {
        Verdict::Open => Ok(None),
        Verdict::Depends(at) => Ok(Some(format!("{RULES}:{at} lets it in from some places only"))),
        Verdict::Refused(at) => Err(Failure::refused(format!("{RULES}:{at}"), format!("pam_access keeps {name} out"))
            .why("the first rule that matches decides")
            .hint(format!("add before that line: +:{name}:ALL"))),
    }
}

/// The first rule that names the account decides; without one it is let in.
pub fn judge(rules: &str, name: &str, groups: &[&str]) -> Verdict {
    for (at, line) in rules.lines().enumerate() {
        let line = line.trim();
        let mut fields = line.splitn(3, ':').map(str::trim);
        let (Some(sign @ ("+" | "-")), Some(users), Some(origins)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !names(users, name, groups) {
            continue;
        }
        // LOCAL and ttys are no place that sshd's clients come from.
        let (everywhere, local) =
            (origins == "ALL", origins.split_whitespace().all(|origin| origin == "LOCAL" || origin.starts_with("tty")));
        match (sign, everywhere) {
            _ if local => {}
            ("+", true) => return Verdict::Open,
            ("-", true) => return Verdict::Refused(at + 1),
            // `-:x:ALL EXCEPT ...` and single addresses.
            _ => return Verdict::Depends(at + 1),
        }
    }
    Verdict::Open
}

/// Whether a user list, `A B EXCEPT C`, names the account. A netgroup is taken to name it: better one question too many.
fn names(users: &str, name: &str, groups: &[&str]) -> bool {
    let mut parts = users.splitn(2, "EXCEPT");
    let word = |word: &str| {
        let group = word.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        word == "ALL"
            || word == name
            || word.starts_with('@')
            || groups.iter().any(|own| *own == word || Some(*own) == group)
    };
    let named = parts.next().unwrap_or_default().split_whitespace().any(word);
    named && !parts.next().is_some_and(|rest| names(rest, name, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_decides() {
        let says = |rules: &str| judge(rules, "deploy", &["sudo", "deploy"]);
        assert_eq!(says("# -:ALL:ALL\n\n"), Verdict::Open);
        assert_eq!(says("-:ALL:ALL"), Verdict::Refused(1));
        assert_eq!(says("+:root:ALL\n-:ALL EXCEPT root:ALL"), Verdict::Refused(2));
        assert_eq!(says("+ : deploy : ALL\n- : ALL : ALL"), Verdict::Open);
        assert_eq!(says("+:(sudo):ALL\n-:ALL:ALL"), Verdict::Open);
        assert_eq!(says("-:ALL EXCEPT (sudo):ALL"), Verdict::Open);
        assert_eq!(says("+:deploy:10.0.0.0/8\n-:ALL:ALL"), Verdict::Depends(1));
        assert_eq!(says("-:deploy:LOCAL"), Verdict::Open);
        assert_eq!(says("-:ALL EXCEPT root deploy EXCEPT deploy:ALL"), Verdict::Refused(1));
    }
}
