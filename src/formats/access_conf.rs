//! access.conf(5), as pam_access(8) reads it: the first rule that matches decides. Must not open files.

use std::net::IpAddr;

use super::sshd_match::address_in;

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

/// The same for somebody who comes from `from`; `None`: at a terminal of the host.
pub fn judge_from(rules: &str, name: &str, groups: &[&str], from: Option<IpAddr>) -> Verdict {
    for (at, line) in rules.lines().enumerate() {
        let mut fields = line.trim().splitn(3, ':').map(str::trim);
        let (Some(sign @ ("+" | "-")), Some(users), Some(origins)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if !names(users, name, groups) {
            continue;
        }
        match (comes_from(origins, from), sign) {
            (Some(false), _) => {}
            (Some(true), "+") => return Verdict::Open,
            (Some(true), _) => return Verdict::Refused(at + 1),
            (None, _) => return Verdict::Depends(at + 1),
        }
    }
    Verdict::Open
}

/// Whether a list of origins, `A B EXCEPT C`, names a place; `None` when it depends on a name of a host.
fn comes_from(origins: &str, from: Option<IpAddr>) -> Option<bool> {
    let mut parts = origins.splitn(2, "EXCEPT");
    let mut named = Some(false);
    for word in parts.next().unwrap_or_default().split_whitespace() {
        match origin(word, from) {
            Some(true) => {
                named = Some(true);
                break;
            }
            Some(false) => {}
            None => named = None,
        }
    }
    match (named, parts.next().map(|rest| comes_from(rest, from))) {
        (Some(false), _) | (_, Some(Some(true))) => Some(false),
        (_, Some(None)) => None,
        (named, _) => named,
    }
}

fn origin(word: &str, from: Option<IpAddr>) -> Option<bool> {
    let numeric = |word: &str| word.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'));
    match (word, from) {
        ("ALL", _) => Some(true),
        ("LOCAL", from) => Some(from.is_none()),
        ("NONE", _) => Some(false),
        (word, Some(from)) if numeric(word) => {
            let prefix = word.ends_with('.') && from.to_string().starts_with(word);
            Some(prefix || address_in(word, &from.to_string()))
        }
        (word, Some(_)) if word.starts_with("tty") => Some(false),
        (word, None) if numeric(word) => Some(false),
        _ => None,
    }
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

    #[test]
    fn by_origin() {
        let says = |rules: &str, from: &str| judge_from(rules, "deploy", &["deploy"], from.parse().ok());
        let rules = "+:deploy:10.0.0.0/8 192.168.\n-:ALL:ALL EXCEPT LOCAL";
        for (from, verdict) in [
            ("10.1.1.1", Verdict::Open),
            ("192.168.3.4", Verdict::Open),
            ("192.0.2.1", Verdict::Refused(2)),
            ("2001:db8::1", Verdict::Refused(2)),
            ("(a terminal)", Verdict::Open),
        ] {
            assert_eq!(says(rules, from), verdict, "{from}");
        }
        assert_eq!(says("+:ALL:laptop.example\n-:ALL:ALL", "10.1.1.1"), Verdict::Depends(1));
    }
}
