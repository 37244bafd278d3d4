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

/// A line: its number, whether it lets in, users, origins.
struct Rule<'a> {
    line: usize,
    grants: bool,
    users: Vec<&'a str>,
    origins: Vec<&'a str>,
}

/// The rules that name the account. Lists are split as pam_access does by default.
fn rules<'a>(text: &'a str, name: &'a str, groups: &'a [&'a str]) -> impl Iterator<Item = Rule<'a>> {
    let words = |text: &'a str| text.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect::<Vec<_>>();
    let all = text.lines().enumerate().filter_map(move |(at, line)| {
        let mut fields = line.trim().splitn(3, ':').map(str::trim);
        let (Some(sign @ ("+" | "-")), Some(users), Some(origins)) = (fields.next(), fields.next(), fields.next())
        else {
            return None;
        };
        Some(Rule { line: at + 1, grants: sign == "+", users: words(users), origins: words(origins) })
    });
    all.filter(|rule| names(&rule.users, name, groups))
}

/// pam_access compares words and names by strcasecmp(3); only groups have case.
const fn is(word: &str, other: &str) -> bool {
    word.eq_ignore_ascii_case(other)
}

/// `A B EXCEPT C`: what stands before the first EXCEPT, and what behind it.
fn except<'a, 'b>(words: &'b [&'a str]) -> (&'b [&'a str], Option<&'b [&'a str]>) {
    let at = words.iter().position(|word| is(word, "EXCEPT"));
    let head = at.map_or(Some(words), |at| words.get(..at));
    (head.unwrap_or_default(), at.map(|at| words.get(at + 1..).unwrap_or_default()))
}

/// The first rule that names the account decides; without one it is let in.
pub fn judge(text: &str, name: &str, groups: &[&str]) -> Verdict {
    for rule in rules(text, name, groups) {
        // LOCAL and ttys are no place that sshd's clients come from.
        let everywhere = matches!(rule.origins.as_slice(), [origin] if is(origin, "ALL"));
        let local = rule.origins.iter().all(|origin| is(origin, "LOCAL") || origin.starts_with("tty"));
        match (rule.grants, everywhere) {
            _ if local => {}
            (true, true) => return Verdict::Open,
            (false, true) => return Verdict::Refused(rule.line),
            // `-:x:ALL EXCEPT ...` and single addresses.
            _ => return Verdict::Depends(rule.line),
        }
    }
    Verdict::Open
}

/// Whether a user list names the account. A netgroup is taken to name it: better one question too many.
fn names(users: &[&str], name: &str, groups: &[&str]) -> bool {
    let (head, exceptions) = except(users);
    let word = |word: &&str| {
        let group = word.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
        is(word, "ALL")
            || is(word, name)
            || word.starts_with('@')
            || groups.iter().any(|own| own == word || Some(*own) == group)
    };
    head.iter().any(word) && !exceptions.is_some_and(|rest| names(rest, name, groups))
}

/// The same for somebody who comes from `from`; `None`: at a terminal of the host.
pub fn judge_from(text: &str, name: &str, groups: &[&str], from: Option<IpAddr>) -> Verdict {
    for rule in rules(text, name, groups) {
        match (comes_from(&rule.origins, from), rule.grants) {
            (Some(false), _) => {}
            (Some(true), true) => return Verdict::Open,
            (Some(true), false) => return Verdict::Refused(rule.line),
            (None, _) => return Verdict::Depends(rule.line),
        }
    }
    Verdict::Open
}

/// Whether a list of origins names a place; `None` when it depends on a name of a host.
fn comes_from(origins: &[&str], from: Option<IpAddr>) -> Option<bool> {
    let (head, exceptions) = except(origins);
    let mut named = Some(false);
    for word in head {
        match origin(word, from) {
            Some(true) => {
                named = Some(true);
                break;
            }
            Some(false) => {}
            None => named = None,
        }
    }
    match (named, exceptions.map(|rest| comes_from(rest, from))) {
        (Some(false), _) | (_, Some(Some(true))) => Some(false),
        (_, Some(None)) => None,
        (named, _) => named,
    }
}

fn origin(word: &str, from: Option<IpAddr>) -> Option<bool> {
    let lower = word.to_ascii_lowercase();
    let starts = word.contains(':') || word.starts_with(|c: char| c.is_ascii_digit());
    let numeric = starts && word.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/'));
    match (lower.as_str(), from) {
        ("all", _) => Some(true),
        ("local", from) => Some(from.is_none()),
        ("none", _) => Some(false),
        (word, Some(from)) if numeric => {
            let prefix = word.ends_with('.') && from.to_string().starts_with(word);
            Some(prefix || address_in(word, &from.to_string()))
        }
        (word, Some(_)) if word.starts_with("tty") => Some(false),
        (_, None) if numeric => Some(false),
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
        // pam_access compares words and names without case, groups as they are written, and splits at commas too.
        assert_eq!(says("-:all:all"), Verdict::Refused(1));
        assert_eq!(says("-:All except root:ALL"), Verdict::Refused(1));
        assert_eq!(says("-:ALL Except Deploy:ALL"), Verdict::Open);
        assert_eq!(says("-:ALL EXCEPT (Sudo):ALL"), Verdict::Refused(1));
        assert_eq!(says("-:root,deploy:ALL"), Verdict::Refused(1));
        assert_eq!(says("-:deploy:local"), Verdict::Open);
        assert_eq!(says("+:EXCEPTIONAL:ALL\n-:ALL:ALL"), Verdict::Refused(2));
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
        assert_eq!(says("-:deploy:all except local", "10.1.1.1"), Verdict::Refused(1));
        assert_eq!(says("-:deploy:all except local", "(a terminal)"), Verdict::Open);
        assert_eq!(says("+:deploy:10.0.0.0/8,192.168.\n-:all:all", "192.168.3.4"), Verdict::Open);
        assert_eq!(says("+:deploy:2001:DB8::/32\n-:all:all", "2001:db8::1"), Verdict::Open);
    }
}
