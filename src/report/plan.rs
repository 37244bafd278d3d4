//! The plan as a tired reader sees it: the verdict first, what opens, what closes, who can get in, what cannot be
//! undone. As much detail as fits the height, and never less than every change and every warning.

use similar::{ChangeTag, TextDiff as Diff};

use crate::change::{Change, Level, Note, Plan, Risk, Stage, TextDiff};

use super::escape;
use super::style::{HEIGHT, Style, Tone, WIDTH, count, wrap};

/// Notes with this `about` say who can get in.
pub const ACCESS: &str = "access";

/// How much of a plan is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// The most that fits 24 rows.
    Fitting,
    /// Everything, with whole diffs.
    Full,
}

/// Steps of folding, most detailed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Fold {
    /// Differences and diffs.
    Open,
    /// Differences, and a count of lines for each file.
    Files,
    /// A line a change, and one count for all files.
    Changes,
    /// What stands as wanted already beside that count, and the console beside the other ways in.
    Tight,
    /// Without headings over the notes.
    Bare,
    /// Each change cut to one row.
    Cut,
}

/// The whole plan as text, ending with a line feed.
pub fn plan(plan: &Plan, detail: Detail, style: Style) -> String {
    if detail == Detail::Full {
        return joined(&lines(plan, Fold::Open, style));
    }
    // Rows are left for a warning about the playbook, which follows, for the blank line and for the next command.
    let room = HEIGHT - 4;
    let folds = [Fold::Open, Fold::Files, Fold::Changes, Fold::Tight, Fold::Bare];
    let chosen = folds.into_iter().map(|fold| lines(plan, fold, style)).find(|lines| lines.len() <= room);
    joined(&chosen.unwrap_or_else(|| lines(plan, Fold::Cut, style)))
}

/// The one line that says how host and playbook stand to each other.
pub fn verdict(plan: &Plan) -> String {
    let host = if plan.host.is_empty() { "this host" } else { &plan.host };
    let playbook = &plan.playbook;
    let text = if plan.is_converged() {
        format!("{host} is as {playbook} says: nothing to do")
    } else {
        let access = plan.changes.iter().filter(|change| change.risk == Risk::Access).count();
        let touch = if access == 0 { String::new() } else { format!(", {access} touching ways in") };
        format!("{host} differs from {playbook}: {}{touch}", count(plan.changes.len(), "change"))
    };
    escape::line(&text)
}

fn joined(lines: &[String]) -> String {
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

fn lines(plan: &Plan, fold: Fold, style: Style) -> Vec<String> {
    let tone = if plan.is_converged() { Tone::Good } else { Tone::Strong };
    let mut out: Vec<String> = wrap("", &verdict(plan)).iter().map(|line| style.paint(tone, line)).collect();
    let mut number = 0;
    for (stage, title) in [
        (Stage::Packages, "Packages, first; these stay when everything else is undone"),
        (Stage::Additive, "Opens and adds; every old door stays open"),
        (Stage::Subtractive, "Closes and takes away, once the new door is proven"),
    ] {
        let changes: Vec<&Change> = plan.changes.iter().filter(|change| change.stage == stage).collect();
        if changes.is_empty() {
            continue;
        }
        out.push(style.paint(Tone::Strong, title));
        for change in changes {
            number += 1;
            out.extend(change_lines(change, number, fold, style));
        }
    }
    let mut met = as_wanted(plan);
    if fold >= Fold::Changes {
        let folded = folded_diffs(plan).map(|folded| match (&met, fold) {
            (Some(met), Fold::Tight | Fold::Bare | Fold::Cut) => format!("{folded}; as wanted: {met}"),
            _ => folded,
        });
        if folded.is_some() && fold >= Fold::Tight {
            met = None;
        }
        out.extend(folded.iter().flat_map(|text| wrap("", &escape::line(text))));
    }
    out.extend(notes(plan, fold, style));
    out.extend(rest(plan, style));
    out.extend(met.iter().flat_map(|met| wrap("", &escape::line(&format!("As wanted already: {met}")))));
    out
}

fn change_lines(change: &Change, number: usize, fold: Fold, style: Style) -> Vec<String> {
    let risk = match change.risk {
        Risk::None => "",
        Risk::Service => " [service]",
        Risk::Access => " [way in]",
    };
    let lead = format!("{number:>3} ");
    let mut summary = escape::line(&change.summary);
    let room = WIDTH - lead.len() - risk.len();
    if fold == Fold::Cut && summary.chars().count() > room {
        summary = summary.chars().take(room - 4).collect::<String>() + " ...";
    }
    let mut out = wrap(&lead, &format!("{summary}{risk}"));
    if let (Risk::Access, Some(last)) = (change.risk, out.last_mut()) {
        *last = last.replace("[way in]", &style.paint(Tone::Warn, "[way in]"));
    }
    if fold >= Fold::Changes {
        return out;
    }
    for difference in &change.differences {
        let text = format!("{}: {} -> {}", difference.path, shown(&difference.have), shown(&difference.want));
        out.extend(wrap("      ", &escape::line(&text)));
    }
    for diff in &change.diffs {
        match fold {
            Fold::Open => out.extend(unified(diff, style)),
            _ => out.push(format!("      {}", stat(diff))),
        }
    }
    out
}

fn shown(value: &str) -> &str {
    if value.is_empty() { "(none)" } else { value }
}

/// Lines added and removed.
fn moved(diff: &TextDiff) -> (usize, usize) {
    let lines = Diff::from_lines(diff.before.as_str(), diff.after.as_str());
    let tagged = |tag| lines.iter_all_changes().filter(|change| change.tag() == tag).count();
    (tagged(ChangeTag::Insert), tagged(ChangeTag::Delete))
}

fn stat(diff: &TextDiff) -> String {
    let (added, removed) = moved(diff);
    format!("{}: +{added} -{removed} lines", escape::line(diff.path.as_str()))
}

fn folded_diffs(plan: &Plan) -> Option<String> {
    let diffs: Vec<&TextDiff> = plan.changes.iter().flat_map(|change| &change.diffs).collect();
    if diffs.is_empty() {
        return None;
    }
    let (added, removed) = diffs.iter().map(|diff| moved(diff)).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let mut files: Vec<&str> = diffs.iter().map(|diff| diff.path.as_str()).collect();
    files.sort_unstable();
    files.dedup();
    Some(format!("Folded: {}, +{added} -{removed} lines; --diff shows them", count(files.len(), "file")))
}

/// A unified diff with two lines of context, indented below its change.
fn unified(diff: &TextDiff, style: Style) -> Vec<String> {
    let mut out = vec![style.paint(Tone::Faint, &format!("      {}", stat(diff)))];
    let lines = Diff::from_lines(diff.before.as_str(), diff.after.as_str());
    for (index, group) in lines.grouped_ops(2).iter().enumerate() {
        if index > 0 {
            out.push(style.paint(Tone::Faint, "        ..."));
        }
        for change in group.iter().flat_map(|op| lines.iter_changes(op)) {
            let text = escape::line(change.value().trim_end_matches('\n'));
            out.push(match change.tag() {
                ChangeTag::Insert => style.paint(Tone::Good, &format!("      + {text}")),
                ChangeTag::Delete => style.paint(Tone::Bad, &format!("      - {text}")),
                ChangeTag::Equal => format!("        {text}"),
            });
        }
    }
    out
}

fn notes(plan: &Plan, fold: Fold, style: Style) -> Vec<String> {
    let mut out = Vec::new();
    let headed = fold < Fold::Bare;
    let (mut access, others): (Vec<Note>, Vec<Note>) =
        plan.notes.iter().cloned().partition(|note| note.about == ACCESS);
    if fold >= Fold::Tight {
        beside(&mut access);
    }
    let (warnings, infos): (Vec<Note>, Vec<Note>) = others.into_iter().partition(|note| note.level == Level::Warning);
    if !access.is_empty() {
        out.extend(headed.then(|| style.paint(Tone::Strong, "Who can get in")));
        for entry in &access {
            out.extend(note(entry, "    ", style));
        }
    }
    if !(infos.is_empty() && warnings.is_empty()) {
        out.extend(headed.then(|| style.paint(Tone::Strong, "Worth knowing")));
        for entry in warnings.iter().chain(&infos) {
            out.extend(note(entry, "    ", style));
        }
    }
    out
}

/// Puts what is said of the console beside the note before it; a warning keeps its own row.
fn beside(notes: &mut Vec<Note>) {
    let plain = |note: &Note| note.level == Level::Info;
    let console = notes.iter().position(|note| plain(note) && note.text.starts_with("console "));
    let Some((at, before)) = console.and_then(|at| Some((at, at.checked_sub(1)?))) else { return };
    if notes.get(before).is_some_and(plain) {
        let console = notes.remove(at);
        if let Some(note) = notes.get_mut(before) {
            note.text = format!("{}; {}", note.text, console.text);
        }
    }
}

/// One note, wrapped; a warning is marked.
pub fn note(note: &Note, lead: &str, style: Style) -> Vec<String> {
    let about = if note.about.is_empty() || note.about == ACCESS { String::new() } else { format!("{}: ", note.about) };
    let text = escape::line(&format!("{about}{}", note.text));
    match note.level {
        Level::Info => wrap(lead, &text),
        Level::Warning => {
            let marked = format!("{}! ", lead.get(2..).unwrap_or_default());
            wrap(&marked, &text).iter().map(|line| style.paint(Tone::Warn, line)).collect()
        }
    }
}

fn rest(plan: &Plan, style: Style) -> Vec<String> {
    let mut out = Vec::new();
    let mut for_good: Vec<String> = plan
        .changes
        .iter()
        .filter_map(|change| Some(format!("{} ({})", change.summary, change.irreversible()?)))
        .collect();
    for_good.dedup();
    for what in for_good {
        let text = escape::line(&format!("Cannot be undone: {what}"));
        out.extend(wrap("", &text).iter().map(|line| style.paint(Tone::Warn, line)));
    }
    for (task, first) in &plan.deferred {
        out.extend(wrap("", &escape::line(&format!("Not judged yet: {task}, needs {first} first"))));
    }
    out
}

/// What needs no change.
fn as_wanted(plan: &Plan) -> Option<String> {
    let one = |(name, tasks): &(String, usize)| if *tasks > 1 { format!("{name} ({tasks})") } else { name.clone() };
    (!plan.met.is_empty()).then(|| plan.met.iter().map(one).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Difference;
    use crate::types::AbsPath;

    fn fits(text: &str) -> bool {
        text.lines().all(|line| line.chars().count() <= WIDTH)
    }

    fn sample(changes: usize, lines: usize) -> Plan {
        let make = |index: usize| {
            let stage = if index.is_multiple_of(2) { Stage::Additive } else { Stage::Subtractive };
            let mut change = Change::new("sshd", format!("sshd:{index}"), format!("do {index}"), stage, Risk::Access);
            change.differences.push(Difference::new("ssh.port", "2222", "22\u{1b}[2J"));
            change.diffs.push(TextDiff {
                path: AbsPath::fixed("/etc/ssh/sshd_config.d/00-keyward.conf"),
                before: String::new(),
                after: "Port 2222\n".repeat(lines),
            });
            change
        };
        Plan {
            version: Plan::VERSION,
            host: "web1".into(),
            playbook: "site.yml".into(),
            playbook_digest: String::new(),
            observation_digest: String::new(),
            changes: (0..changes).map(make).collect(),
            notes: vec![
                Note::info(ACCESS, "before: root by password"),
                Note::warning("firewall", "listening now, will be closed: 5432/tcp (postgres)"),
            ],
            deferred: vec![("firewall".into(), "package ufw".into())],
            promises: Vec::new(),
            met: vec![("user".into(), 2)],
        }
    }

    #[test]
    fn folds_until_it_fits_and_loses_no_change() {
        let small = plan(&sample(1, 2), Detail::Fitting, Style::Plain);
        assert!(small.contains("+ Port 2222"), "{small}");
        let middle = plan(&sample(3, 30), Detail::Fitting, Style::Plain);
        assert!(middle.contains("+30 -0 lines") && !middle.contains("+ Port 2222"), "{middle}");
        let large = plan(&sample(10, 30), Detail::Fitting, Style::Plain);
        assert!(large.contains("Folded: 1 file, +300 -0 lines; --diff"), "{large}");
        for text in [&small, &middle, &large] {
            assert!(text.lines().count() <= HEIGHT - 2 && fits(text), "{text}");
            assert!(text.starts_with("web1 differs from site.yml") && text.contains("will be closed: 5432/tcp"));
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
        assert_eq!((0..10).filter(|n| large.contains(&format!("do {n} [way in]"))).count(), 10);
        let full = plan(&sample(10, 30), Detail::Full, Style::Plain);
        assert_eq!(full.matches("+ Port 2222").count(), 300);
    }

    #[test]
    fn when_short_of_rows_no_change_and_no_warning_is_lost() {
        let mut long = sample(9, 30);
        let words = "let in 2222/tcp, 22/tcp, 80/tcp, 443/tcp, 8080/tcp, 8443/tcp, 5432/tcp and 9090/tcp";
        long.changes.iter_mut().for_each(|change| change.summary = format!("{}: {words}", change.summary));
        long.notes.push(Note::info(ACCESS, "console nobody, as before: no account has a password"));
        long.notes.swap(1, 2);
        let text = plan(&long, Detail::Fitting, Style::Plain);
        assert!(text.lines().count() <= HEIGHT - 4 && fits(&text), "{text}");
        let cut =
            |n: usize| text.lines().any(|line| line.contains(&format!("do {n}: ")) && line.ends_with(" ... [way in]"));
        assert!((0..9).all(cut), "{text}");
        assert!(text.contains("  ! firewall: listening now, will be closed: 5432/tcp (postgres)"), "{text}");
        assert!(text.contains("before: root by password; console nobody, as before"), "{text}");
        assert!(text.contains("--diff shows them; as wanted: user (2)"), "{text}");
        assert!(text.contains("Not judged yet: firewall, needs package ufw first"), "{text}");
    }

    #[test]
    fn a_converged_host_takes_two_lines() {
        let mut converged = sample(0, 0);
        converged.deferred.clear();
        converged.notes.clear();
        let text = plan(&converged, Detail::Fitting, Style::Plain);
        assert_eq!(text, "web1 is as site.yml says: nothing to do\nAs wanted already: user (2)\n");
    }

    #[test]
    fn colour_only_when_asked() {
        assert!(plan(&sample(2, 1), Detail::Full, Style::Colour).contains("\u{1b}[32m      + Port 2222\u{1b}[0m"));
    }
}
