//! Is this host what it should be, in effect? Checks read the host through [`Scene`], one look for all of them, and say
//! what they saw, where that is decided, whether it holds now and after a reboot, and what mends it. Changes nothing, and
//! knows no resource: what a playbook says is judged by its own plan.

mod checks;
mod scene;

use crate::error::Result;
use crate::outcome::Proven;
use crate::outcome::audit::{Finding, Reference, Ruling, Severity};

pub use checks::CHECKS;
pub use scene::{Scene, Stale, hides_rules};

/// Why rules that are hidden are nobody's fault in there.
pub const HIDDEN_RULES: &str =
    "without CAP_NET_ADMIN no rules can be made or seen in here: who gets through to it is decided outside";

/// One thing that should hold of every server.
pub struct Check {
    /// Its name, which waivers and reports use; it never changes its meaning.
    pub id: &'static str,
    /// What has to hold, in words.
    pub title: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// How far it sees.
    pub depth: Depth,
    /// Catalogue and identifier of the like; see [`SOURCES`].
    pub references: &'static [(&'static str, &'static str)],
    /// Looks.
    pub judge: fn(&Scene<'_>) -> Result<Vec<Seen>>,
}

/// How far a check sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is in effect: the daemon's own word per account and origin, the kernel's rules, the sockets.
    Deep,
    /// Files only.
    Shallow,
}

/// The CIS benchmark as ComplianceAsCode maps it.
pub const CIS: &str = "CIS Debian 12";
/// DISA's guide for Ubuntu, since there is none for Debian.
pub const STIG: &str = "DISA STIG Ubuntu 24.04";
/// ANSSI's recommendations for GNU/Linux.
pub const ANSSI: &str = "ANSSI BP-028";
/// NIST's controls.
pub const NIST: &str = "NIST 800-53";

/// Where identifiers come from: nothing else is a source.
pub const SOURCES: [(&str, &str); 4] = [
    (CIS, "ComplianceAsCode/content, controls/cis_debian12.yml"),
    (STIG, "ComplianceAsCode/content, controls/stig_ubuntu2404.yml"),
    (ANSSI, "ComplianceAsCode/content, controls/anssi.yml"),
    (NIST, "ComplianceAsCode/content, the rule.yml of the rules that those name"),
];

/// What a check saw at one object.
#[derive(Debug, Clone)]
pub struct Seen {
    about: String,
    ruling: Ruling,
    why: String,
    saw: String,
    place: String,
    now: Proven,
    after_reboot: Proven,
    fix: String,
}

impl Seen {
    fn new(ruling: Ruling, now: Proven, saw: impl Into<String>) -> Self {
        let text = String::new;
        Self { about: text(), ruling, why: text(), saw: saw.into(), place: text(), now, after_reboot: now, fix: text() }
    }

    /// It holds.
    pub fn pass(saw: impl Into<String>) -> Self {
        Self::new(Ruling::Pass, Proven::Yes, saw)
    }

    /// It does not.
    pub fn fail(saw: impl Into<String>) -> Self {
        Self::new(Ruling::Fail, Proven::No, saw)
    }

    /// It could not be told.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::new(Ruling::Unknown, Proven::Unknown, "") }
    }

    /// There is nothing here that it could be about.
    pub fn not_applicable(why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::new(Ruling::NotApplicable, Proven::Unknown, "") }
    }

    /// By what is known.
    pub fn by(holds: Proven, saw: impl Into<String>) -> Self {
        match holds {
            Proven::Yes => Self::pass(saw),
            Proven::No => Self::fail(saw),
            Proven::Unknown => Self::unknown(saw),
        }
    }

    /// What makes two of them one: what was seen at the same place.
    fn key(&self) -> String {
        format!("{:?} {} {} {}", self.ruling, self.place, self.saw, self.why)
    }

    /// The account, port or file.
    #[must_use]
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// `file:line` of what decides.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = place.into();
        self
    }

    /// The command that mends it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        if self.ruling == Ruling::Fail {
            self.fix = fix.into();
        }
        self
    }

    /// It would hold, but that was not shown of what runs.
    #[must_use]
    fn not_proven(mut self, why: &str) -> Self {
        self.now = Proven::Unknown;
        if self.ruling == Ruling::Pass {
            self.ruling = Ruling::Unknown;
            why.clone_into(&mut self.why);
        }
        self
    }

    /// It is about what does not run now.
    #[must_use]
    fn once_it_runs(mut self) -> Self {
        if matches!(self.ruling, Ruling::Pass | Ruling::Fail) {
            self.saw = format!("once sshd runs: {}", self.saw);
            self.now = Proven::Yes;
        }
        self
    }

    /// Whether it will hold after a reboot; what does not is a failure, and what cannot be told is unknown.
    #[must_use]
    pub fn after_reboot(mut self, holds: Proven, why: &str) -> Self {
        self.after_reboot = holds;
        if self.ruling == Ruling::Pass && holds != Proven::Yes {
            self.ruling = if holds == Proven::No { Ruling::Fail } else { Ruling::Unknown };
            why.clone_into(&mut self.why);
        }
        self
    }
}

/// All checks, in the order of the registry. One that cannot look has one finding, which is unknown.
pub fn judge(scene: &Scene<'_>) -> Vec<Finding> {
    let one = |check: &Check| {
        let seen = (check.judge)(scene).unwrap_or_else(|failure| vec![Seen::unknown(failure.line())]);
        seen.into_iter().map(|seen| finding(check, seen)).collect::<Vec<_>>()
    };
    CHECKS.iter().flat_map(one).collect()
}

fn finding(check: &Check, seen: Seen) -> Finding {
    let Seen { about, ruling, why, saw, place, now, after_reboot, fix } = seen;
    let reference = |(source, id): &(&str, &str)| Reference { source: (*source).to_owned(), id: (*id).to_owned() };
    Finding {
        check: check.id.to_owned(),
        title: check.title.to_owned(),
        severity: check.severity,
        about,
        ruling,
        why,
        saw,
        place,
        now,
        after_reboot,
        fix,
        references: check.references.iter().map(reference).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_has_a_name_of_its_own_and_names_its_sources() {
        let mut names: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        for check in CHECKS {
            assert!(
                check.id.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'),
                "{}",
                check.id
            );
            let known = |source: &str| SOURCES.iter().any(|(name, _)| *name == source);
            assert!(check.references.iter().all(|(source, id)| known(source) && !id.is_empty()), "{}", check.id);
        }
    }

    #[test]
    fn what_will_not_hold_after_a_reboot_has_not_passed() {
        assert_eq!(Seen::pass("x").after_reboot(Proven::No, "why").ruling, Ruling::Fail);
        assert_eq!(Seen::pass("x").after_reboot(Proven::Unknown, "why").ruling, Ruling::Unknown);
        assert_eq!(Seen::fail("x").after_reboot(Proven::Yes, "why").ruling, Ruling::Fail);
        assert_eq!(Seen::pass("x").after_reboot(Proven::Yes, "why").ruling, Ruling::Pass);
    }
}
