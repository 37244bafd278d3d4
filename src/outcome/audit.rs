//! What an audit found, as data: what `keyward audit` prints, and what its reports are made of.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Proven;

/// Layout of [`Audit`]; a change of meaning counts it up, new fields do not.
pub const VERSION: u32 = 1;

/// One audit of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// [`VERSION`]
    pub version: u32,
    /// Name of the host.
    pub host: String,
    /// The playbook; empty where only the checks were made.
    pub playbook: String,
    /// When, RFC 3339.
    pub at: String,
    /// Points of 100, see [`Score`].
    pub score: Score,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// How one check ended for one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ruling {
    /// It does not hold.
    Fail,
    /// It could not be told; never a pass.
    Unknown,
    /// It does not hold, and the playbook says for how long that is borne.
    Waived,
    /// It holds.
    Pass,
    /// There is nothing here that it could be about.
    NotApplicable,
}

/// How much a failed check matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to have.
    Low,
    /// It makes an attack easier.
    Medium,
    /// It is a way in, or as good as one, for somebody who knows or guesses something.
    High,
    /// It is a way in for anybody.
    Critical,
}

/// An identifier of a public catalogue: a cross-reference, no claim that the check is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The catalogue, such as `CIS Debian 12`.
    pub source: String,
    /// The identifier there.
    pub id: String,
}

/// What a check found at one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check, such as `ssh-root-login`.
    pub check: String,
    /// What has to hold, in words.
    pub title: String,
    /// How much it matters.
    pub severity: Severity,
    /// The account, port or file; empty for the host.
    pub about: String,
    /// How it ended.
    pub ruling: Ruling,
    /// Why it does not apply, could not be told, or is borne.
    pub why: String,
    /// What was seen.
    pub saw: String,
    /// `file:line` of what decides, where there is one.
    pub place: String,
    /// Whether it holds of what runs now.
    pub now: Proven,
    /// Whether it will hold after a reboot.
    pub after_reboot: Proven,
    /// The command that mends it, or empty.
    pub fix: String,
    /// Where public catalogues have the like.
    pub references: Vec<Reference>,
}

/// Points and grade.
///
/// Each check counts once, with its worst finding: low 1, medium 3, high 9, critical 27 points. What does not apply and
/// what is waived counts neither for nor against. Points are 100 times the points of the checks that passed, through those
/// of all that count, rounded down; a check that could not be told has not passed. A needs 95 and nothing high or critical
/// that has not passed, B 85 and nothing critical, C 70, D 50; all else is E.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Of 100.
    pub points: u32,
    /// In a letter.
    pub grade: Grade,
}

/// The better, the greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    /// E
    E,
    /// D
    D,
    /// C
    C,
    /// B
    B,
    /// A
    A,
}

impl Severity {
    /// What a check of this severity counts.
    pub const fn weight(self) -> u32 {
        match self {
            Self::Low => 1,
            Self::Medium => 3,
            Self::High => 9,
            Self::Critical => 27,
        }
    }

    /// As a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl Ruling {
    /// As words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Unknown => "unknown",
            Self::Waived => "waived",
            Self::Pass => "pass",
            Self::NotApplicable => "not applicable",
        }
    }
}

impl Score {
    /// Of these findings.
    pub fn of(findings: &[Finding]) -> Self {
        let mut checks: Vec<(&str, Severity, Ruling)> = Vec::new();
        for one in findings.iter().filter(|one| !matches!(one.ruling, Ruling::NotApplicable | Ruling::Waived)) {
            match checks.iter_mut().find(|(check, ..)| *check == one.check) {
                Some((_, severity, ruling)) => {
                    (*severity, *ruling) = ((*severity).max(one.severity), (*ruling).min(one.ruling));
                }
                None => checks.push((&one.check, one.severity, one.ruling)),
            }
        }
        let weight = |only_passed: bool| -> u32 {
            let counted = checks.iter().filter(|(.., ruling)| !only_passed || *ruling == Ruling::Pass);
            counted.map(|(_, severity, _)| severity.weight()).sum()
        };
        let (passed, all) = (weight(true), weight(false));
        // Where nothing could be judged, nothing has passed.
        let points = passed.saturating_mul(100).checked_div(all).unwrap_or(0);
        let open = checks.iter().filter(|(.., ruling)| *ruling != Ruling::Pass).map(|(_, severity, _)| *severity).max();
        let grade = match points {
            95.. if open < Some(Severity::High) => Grade::A,
            85.. if open < Some(Severity::Critical) => Grade::B,
            70.. => Grade::C,
            50.. => Grade::D,
            _ => Grade::E,
        };
        Self { points, grade }
    }
}

impl Audit {
    /// How many findings ended so.
    pub fn count(&self, ruling: Ruling) -> usize {
        self.findings.iter().filter(|one| one.ruling == ruling).count()
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl FromStr for Grade {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::A, Self::B, Self::C, Self::D, Self::E]
            .into_iter()
            .find(|grade| grade.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| "not a grade: write A, B, C, D or E".to_owned())
    }
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Low, Self::Medium, Self::High, Self::Critical]
            .into_iter()
            .find(|severity| severity.word() == text)
            .ok_or_else(|| "not a severity: write low, medium, high or critical".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(check: &str, severity: Severity, ruling: Ruling) -> Finding {
        let text = String::new;
        Finding {
            check: check.to_owned(),
            title: text(),
            severity,
            about: text(),
            ruling,
            why: text(),
            saw: text(),
            place: text(),
            now: Proven::Unknown,
            after_reboot: Proven::Unknown,
            fix: text(),
            references: Vec::new(),
        }
    }

    fn score(findings: &[(&str, Severity, Ruling)]) -> (u32, Grade) {
        let findings: Vec<Finding> =
            findings.iter().map(|(check, severity, ruling)| finding(check, *severity, *ruling)).collect();
        let Score { points, grade } = Score::of(&findings);
        (points, grade)
    }

    #[test]
    fn points_by_the_published_formula() {
        use Ruling::{Fail, NotApplicable, Pass, Unknown, Waived};
        use Severity::{Critical, High, Low, Medium};
        assert_eq!(score(&[]), (0, Grade::E), "nothing judged is nothing passed");
        assert_eq!(score(&[("a", Low, NotApplicable)]), (0, Grade::E));
        assert_eq!(score(&[("a", Critical, Pass), ("b", High, Pass)]), (100, Grade::A));
        assert_eq!(score(&[("a", Critical, Pass), ("b", Low, Fail)]), (96, Grade::A));
        assert_eq!(score(&[("a", Critical, Pass), ("b", Low, Unknown)]), (96, Grade::A));
        assert_eq!(score(&[("a", Critical, Pass), ("b", Medium, Fail)]), (90, Grade::B));
        assert_eq!(score(&[("a", Critical, Pass), ("b", High, Unknown)]), (75, Grade::C));
        assert_eq!(score(&[("a", Critical, Fail), ("b", Critical, Pass)]), (50, Grade::D));
        assert_eq!(score(&[("a", Critical, Unknown), ("b", High, Pass)]), (25, Grade::E));
        // However many objects pass, a check counts once, with its worst.
        assert_eq!(score(&[("a", High, Pass), ("a", High, Pass), ("a", High, Fail), ("b", Low, Pass)]), (10, Grade::E));
        assert_eq!(score(&[("a", High, Waived), ("b", Low, Pass)]), (100, Grade::A), "neither for nor against");
        // Ninety-five of a hundred with something high that failed is no A, nor with something critical a B.
        let many: Vec<String> = (0..40).map(|n| format!("c{n}")).collect();
        let passed = || many.iter().map(|name| (name.as_str(), Critical, Pass));
        let with = |one| score(&passed().chain([one]).collect::<Vec<_>>());
        assert_eq!(with(("x", High, Fail)), (99, Grade::B));
        assert_eq!(with(("x", Critical, Fail)), (97, Grade::C));
    }

    #[test]
    fn words_are_read_back() {
        for severity in [Severity::Low, Severity::Medium, Severity::High, Severity::Critical] {
            assert_eq!(severity.word().parse(), Ok(severity));
        }
        assert_eq!("b".parse(), Ok(Grade::B));
        assert!("F".parse::<Grade>().is_err() && Grade::A > Grade::E);
    }
}
