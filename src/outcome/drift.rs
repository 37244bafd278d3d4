//! What moved between two audits of a host, as data.

use serde::{Deserialize, Serialize};

use super::audit::{Audit, Finding, Grade, Ruling, Severity};

/// What moved on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Its name: the inventory's where there is one, else its own.
    pub host: String,
    /// When it was judged before, RFC 3339.
    pub before: String,
    /// And after.
    pub after: String,
    /// Points and grade before.
    pub was: (u32, Grade),
    /// And after.
    pub is: (u32, Grade),
    /// What is worse, the worst first.
    pub worse: Vec<Move>,
    /// What is better.
    pub better: Vec<Move>,
    /// Findings that failed or could not be told before, and still do so.
    pub same: usize,
}

/// A finding that moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The check.
    pub check: String,
    /// The account, port or file; empty for the host.
    pub about: String,
    /// How much it matters.
    pub severity: Severity,
    /// How it ended before; `None`: it was not found.
    pub was: Option<Ruling>,
    /// How it ended after; `None`: it is not found any more.
    pub is: Option<Ruling>,
    /// What was seen, and why: after, where it is found there.
    pub saw: String,
    /// `file:line` of what decides.
    pub place: String,
    /// The command that mends it.
    pub fix: String,
}

/// The better, the less. What does not apply, or is not found, is no fault.
const fn rank(ruling: Option<Ruling>) -> u8 {
    match ruling {
        None | Some(Ruling::Pass | Ruling::NotApplicable) => 0,
        Some(Ruling::Waived) => 1,
        Some(Ruling::Unknown) => 2,
        Some(Ruling::Fail) => 3,
    }
}

impl Move {
    fn of(one: &Finding, was: Option<Ruling>, is: Option<Ruling>) -> Self {
        let told: Vec<&str> = [one.saw.as_str(), &one.why].into_iter().filter(|text| !text.is_empty()).collect();
        Self {
            check: one.check.clone(),
            about: one.about.clone(),
            severity: one.severity,
            was,
            is,
            saw: told.join("; "),
            place: one.place.clone(),
            fix: one.fix.clone(),
        }
    }
}

impl Drift {
    /// Between two audits of a host of this name. A check that was not made in one of them has not moved.
    pub fn between(host: &str, before: &Audit, after: &Audit) -> Self {
        let made = |audit: &Audit, check: &str| audit.findings.iter().any(|one| one.check == check);
        let in_both = |one: &&Finding| made(before, &one.check) && made(after, &one.check);
        // All that a check says of an object, the worst ruling first.
        let find = |audit: &Audit, one: &Finding| {
            let same = audit.findings.iter().filter(|other| (&other.check, &other.about) == (&one.check, &one.about));
            let worst = same.clone().map(|other| other.ruling).max_by_key(|ruling| rank(Some(*ruling)));
            let said: Vec<String> = same.map(|other| format!("{}; {}", other.saw, other.why)).collect();
            (worst, said)
        };
        let (mut worse, mut better, mut same) = (Vec::new(), Vec::new(), 0);
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for one in after.findings.iter().chain(&before.findings).filter(in_both) {
            if seen.contains(&(&one.check, &one.about)) {
                continue;
            }
            seen.push((&one.check, &one.about));
            let ((was, old), (is, new)) = (find(before, one), find(after, one));
            let is_new = |text: &String| !old.contains(text);
            // What failed and cannot be told any more is no better; and what is said beside it may be another fault.
            let is_lost = was == Some(Ruling::Fail) && is == Some(Ruling::Unknown)
                || was == Some(Ruling::Pass) && is == Some(Ruling::NotApplicable);
            match rank(was).cmp(&rank(is)) {
                _ if is_lost => worse.push(Move::of(one, was, is)),
                std::cmp::Ordering::Less => worse.push(Move::of(one, was, is)),
                std::cmp::Ordering::Greater => better.push(Move::of(one, was, is)),
                std::cmp::Ordering::Equal if rank(is) > 1 && new.iter().any(is_new) => {
                    worse.push(Move::of(one, was, is))
                }
                std::cmp::Ordering::Equal => same += usize::from(rank(is) > 1),
            }
        }
        worse.sort_by_key(|one: &Move| std::cmp::Reverse((rank(one.is), one.severity)));
        better.sort_by_key(|one: &Move| std::cmp::Reverse((rank(one.was), one.severity)));
        let score = |audit: &Audit| (audit.score.points, audit.score.grade);
        Self {
            host: host.to_owned(),
            before: before.at.clone(),
            after: after.at.clone(),
            was: score(before),
            is: score(after),
            worse,
            better,
            same,
        }
    }

    /// True when nothing is worse or better.
    pub const fn is_none(&self) -> bool {
        self.worse.is_empty() && self.better.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Proven;
    use super::super::audit::{Score, VERSION};
    use super::*;

    fn audit(findings: &[(&str, &str, Ruling)]) -> Audit {
        let text = String::new;
        let findings: Vec<Finding> = findings
            .iter()
            .map(|(check, about, ruling)| Finding {
                check: (*check).to_owned(),
                title: text(),
                severity: if *check == "root" { Severity::High } else { Severity::Low },
                about: (*about).to_owned(),
                ruling: *ruling,
                why: text(),
                saw: text(),
                place: text(),
                now: Proven::Unknown,
                after_reboot: Proven::Unknown,
                fix: text(),
                references: Vec::new(),
            })
            .collect();
        let score = Score::of(&findings);
        Audit { version: VERSION, host: text(), playbook: text(), at: text(), score, findings }
    }

    fn moved(before: &[(&str, &str, Ruling)], after: &[(&str, &str, Ruling)]) -> (Vec<String>, Vec<String>, usize) {
        let drift = Drift::between("h", &audit(before), &audit(after));
        let names = |moves: Vec<Move>| moves.into_iter().map(|one| format!("{} {}", one.check, one.about)).collect();
        (names(drift.worse), names(drift.better), drift.same)
    }

    #[test]
    fn what_failed_what_was_mended_and_what_stayed() {
        use Ruling::{Fail, NotApplicable, Pass, Unknown, Waived};
        let none: Vec<String> = Vec::new();
        let before = [("root", "", Pass), ("tries", "", Fail), ("mac", "a", Fail), ("mac", "b", Unknown)];
        assert_eq!(moved(&before, &before), (none.clone(), none.clone(), 3));
        // A pass of the whole host gives way to what fails of one account.
        let after = [("root", "bob", Fail), ("tries", "", Pass), ("mac", "b", Fail)];
        let (worse, better, same) = moved(&before, &after);
        assert_eq!(worse, ["root bob", "mac b"], "the worst first");
        assert_eq!((better, same), (vec!["tries ".to_owned(), "mac a".to_owned()], 0));
        assert_eq!(moved(&[("a", "", Pass)], &[("a", "", Unknown)]).0.len(), 1, "unknown is no pass");
        assert_eq!(moved(&[("a", "", Fail)], &[("a", "", Unknown)]).0.len(), 1, "nobody has seen it mended");
        assert_eq!(moved(&[("a", "", Pass)], &[("a", "", NotApplicable)]).0.len(), 1, "what was there is gone");
        let (mut old, mut new) = (audit(&[("a", "", Fail)]), audit(&[("a", "", Fail)]));
        old.findings[0].saw = "x is 1".to_owned();
        new.findings[0].saw = "x is 1; y is 2".to_owned();
        assert_eq!(Drift::between("h", &old, &new).worse.len(), 1, "another fault beside the old one");
        assert_eq!(moved(&[("a", "", Waived)], &[("a", "", Fail)]).0.len(), 1, "a waiver that is over");
        assert_eq!(moved(&[("a", "", NotApplicable)], &[("a", "", Pass)]), (none.clone(), none.clone(), 0));
        // A check that is new in keyward, or that a playbook brings, has not moved.
        assert_eq!(moved(&[("a", "", Pass)], &[("a", "", Pass), ("b", "", Fail)]), (none.clone(), none, 0));
    }
}
