//! An audit for a tired reader: the verdict first, then what failed, the worst first, each with what mends it.

use crate::outcome::Proven;
use crate::outcome::audit::{Audit, Finding, Ruling};

use super::escape;
use super::style::{Style, Tone, count, wrap};

/// The whole answer.
pub fn text(audit: &Audit, style: Style) -> String {
    let against = if audit.playbook.is_empty() { String::new() } else { format!(", held against {}", audit.playbook) };
    let mut lines = vec![style.paint(Tone::Strong, &verdict(audit))];
    lines.extend(wrap("", &escape::line(&format!("{}{against}", audit.host))));
    for one in &audit.findings {
        match one.ruling {
            Ruling::Fail | Ruling::Unknown | Ruling::Waived => lines.extend(finding(one, style)),
            Ruling::Pass | Ruling::NotApplicable => {}
        }
    }
    for (ruling, words) in [(Ruling::Pass, "pass"), (Ruling::NotApplicable, "not applicable")] {
        let mut names: Vec<&str> =
            audit.findings.iter().filter(|one| one.ruling == ruling).map(|one| one.check.as_str()).collect();
        names.dedup();
        if !names.is_empty() {
            let lead = format!("{words}: ");
            lines.extend(
                wrap(&lead, &escape::line(&names.join(", "))).into_iter().map(|line| style.paint(Tone::Faint, &line)),
            );
        }
    }
    lines.join("\n") + "\n"
}

/// One line: the grade, and how many findings ended how.
pub fn verdict(audit: &Audit) -> String {
    let score = audit.score;
    let mut text =
        format!("{}, {} of 100 points: {}", score.grade, score.points, count(audit.count(Ruling::Fail), "failure"));
    for (ruling, word) in [(Ruling::Unknown, "unknown"), (Ruling::Waived, "waived")] {
        let found = audit.count(ruling);
        if found > 0 || ruling == Ruling::Unknown {
            text.push_str(&format!(", {found} {word}"));
        }
    }
    text.push_str(&format!(", {} passed", audit.count(Ruling::Pass)));
    text
}

fn finding(one: &Finding, style: Style) -> Vec<String> {
    let (word, tone) = match one.ruling {
        Ruling::Fail => ("FAIL   ", Tone::Bad),
        Ruling::Unknown => ("UNKNOWN", Tone::Warn),
        Ruling::Waived | Ruling::Pass | Ruling::NotApplicable => ("waived ", Tone::Faint),
    };
    let about = if one.about.is_empty() { String::new() } else { format!("{}: ", one.about) };
    let what = [one.saw.as_str(), one.why.as_str()].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>();
    let when = match (one.ruling, one.now, one.after_reboot) {
        (Ruling::Fail, Proven::Yes, _) => " [after a reboot]",
        (Ruling::Fail, Proven::No, Proven::Yes) => " [until a reboot]",
        _ => "",
    };
    let head = format!("{} {}{when}", one.severity.word(), one.check);
    let mut lines = vec![format!("{} {}", style.paint(tone, word), escape::line(&head))];
    lines.extend(wrap("        ", &escape::line(&format!("{about}{}", what.join("; ")))));
    if !one.place.is_empty() {
        lines.extend(wrap("        at ", &escape::line(&one.place)));
    }
    if !one.fix.is_empty() {
        lines.extend(wrap("        fix: ", &escape::line(&one.fix)));
    }
    lines
}
