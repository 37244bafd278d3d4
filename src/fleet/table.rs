//! Many hosts, for people: the verdict first, then a line a host, then what failed and what to type next.

use super::schedule::{Stopped, Summary, Verdict};
use crate::outcome::{Exit, Reach};
use crate::report::escape;
use crate::report::style::{Style, Tone, WIDTH, count, wrap};

/// Widest name of a host in the table.
const NAME: usize = 32;
/// Most failures that are told in full; the rest stand in the table, and in the logs.
const TOLD: usize = 20;
/// Most lines of hosts that ended as asked.
const HOSTS: usize = 200;

/// One host of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub host: String,
    /// How it ended; `None` for one that was never started.
    pub verdict: Option<Verdict>,
    /// The code that the verb ended with there.
    pub exit: Option<Exit>,
    /// How far the proof of a login reached.
    pub reach: Option<Reach>,
    /// How many changes were made, or would be.
    pub changes: usize,
    /// How long it took.
    pub millis: u64,
    /// The run there.
    pub run: Option<String>,
    /// How it ended, in a line.
    pub text: String,
    /// What went wrong first.
    pub why: Option<String>,
    /// What to type next, or empty.
    pub next: String,
}

impl Row {
    /// The result in a word or two.
    pub fn result(&self) -> &'static str {
        match (self.verdict, self.exit) {
            (Some(Verdict::Done), Some(Exit::Differs)) => "differs",
            (Some(verdict), _) => word(verdict),
            (None, _) => "not started",
        }
    }

    fn tone(&self) -> Tone {
        match self.verdict {
            Some(Verdict::Done | Verdict::Unchanged) => Tone::Good,
            Some(verdict) if verdict.is_failure() => Tone::Bad,
            _ => Tone::Faint,
        }
    }
}

/// A verdict in a word or two.
pub const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Done => "as asked",
        Verdict::Unchanged => "unchanged",
        Verdict::Unverified => "unverified",
        Verdict::RolledBack => "rolled back",
        Verdict::Incomplete => "INCOMPLETE",
        Verdict::Refused => "refused",
        Verdict::Busy => "busy",
        Verdict::Unknown => "unknown",
        Verdict::Pending => "pending",
        Verdict::Unreachable => "not reached",
        Verdict::Cancelled => "cancelled",
    }
}

/// One line for all: what the reader wants to know first.
pub fn verdict(rows: &[Row], summary: &Summary) -> String {
    let mut parts = Vec::new();
    let differ = rows.iter().filter(|row| row.exit == Some(Exit::Differs)).count();
    for verdict in Verdict::ALL {
        let found =
            summary.count(verdict) - if verdict == Verdict::Done { differ.min(summary.count(verdict)) } else { 0 };
        if found > 0 {
            parts.push(format!("{found} {}", word(verdict)));
        }
    }
    if differ > 0 {
        parts.insert(0, format!("{differ} differ from the playbook"));
    }
    if summary.never_started > 0 {
        parts.push(format!("{} not started", summary.never_started));
    }
    let stopped = match &summary.stopped {
        None => String::new(),
        Some(Stopped::Host { host, verdict }) => {
            let name = rows.get(*host).map(|row| row.host.as_str()).unwrap_or_default();
            format!("stopped at {name} ({}): ", word(*verdict))
        }
        Some(Stopped::Wave { wave }) => format!("stopped: wave {wave} took too long: "),
        Some(Stopped::Asked(why)) => format!("stopped ({why}): "),
    };
    format!("{stopped}{}: {}", count(rows.len(), "host"), parts.join(", "))
}

/// The whole end: table and failures, without the verdict.
pub fn table(rows: &[Row], style: Style) -> String {
    let width = rows.iter().map(|row| escape::line(&row.host).chars().count()).max().unwrap_or(4).clamp(4, NAME);
    let mut out = style.paint(
        Tone::Strong,
        &format!("{:<width$}  {:<11}  {:<8}  {:>7}  {:>8}", "host", "result", "evidence", "changes", "time"),
    );
    out.push('\n');
    let fine = |row: &&Row| matches!(row.verdict, Some(Verdict::Done | Verdict::Unchanged));
    let (good, others): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(fine);
    let is_bad = |row: &&Row| row.verdict.is_some_and(Verdict::is_failure);
    let (bad, idle): (Vec<&Row>, Vec<&Row>) = others.into_iter().partition(is_bad);
    for row in bad.iter().chain(good.iter().take(HOSTS)).chain(idle.iter().take(HOSTS)) {
        out.push_str(&line(row, width, style));
    }
    if idle.len() > HOSTS {
        out.push_str(&format!("and {} more that were not started, or were interrupted\n", idle.len() - HOSTS));
    }
    if good.len() > HOSTS {
        out.push_str(&format!("and {} more that ended as asked\n", good.len() - HOSTS));
    }
    for row in bad.iter().take(TOLD) {
        out.push('\n');
        out.push_str(&failure(row, style));
    }
    if bad.len() > TOLD {
        out.push_str(&format!("\nand {} more that failed\n", bad.len() - TOLD));
    }
    out
}

/// A host that has ended, in a line.
pub fn line(row: &Row, width: usize, style: Style) -> String {
    let name = escape::line(&row.host);
    let shown: String =
        if name.chars().count() > width { name.chars().take(width - 1).chain(['+']).collect() } else { name };
    let reach = row.reach.map_or_else(|| "-".to_owned(), |reach| format!("{reach:?}"));
    let result = style.paint(row.tone(), &format!("{:<11}", row.result()));
    let time = if row.verdict.is_some() { seconds(row.millis) } else { "-".to_owned() };
    format!("{shown:<width$}  {result}  {reach:<8}  {:>7}  {time:>8}\n", row.changes)
}

fn failure(row: &Row, style: Style) -> String {
    let mut text = row.text.clone();
    if let Some(why) = row.why.as_ref().filter(|why| !text.contains(why.as_str())) {
        text = if text.is_empty() { why.clone() } else { format!("{text}: {why}") };
    }
    let mut lines = wrap("", &format!("{}: {}", style.paint(Tone::Bad, &escape::line(&row.host)), escape::line(&text)));
    if !row.next.is_empty() {
        lines.extend(wrap("  next: ", &escape::line(&row.next)));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// `1.3 s`, `4 min 10 s`.
pub fn seconds(millis: u64) -> String {
    match millis {
        0..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        _ => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1000),
    }
}

/// Cut to the width of the terminal.
pub fn cut(text: &str) -> String {
    text.chars().take(WIDTH - 1).collect()
}

/// How all of them stand, in a line: done, failed, left, and the time that it may still take.
pub fn whole(summary: &Summary, wave: (usize, usize), running: usize, spent: std::time::Duration) -> String {
    let ended: usize = summary.counts.values().sum();
    let failed: usize = summary.counts.iter().filter(|(verdict, _)| verdict.is_failure()).map(|(_, count)| count).sum();
    let back = summary.count(Verdict::RolledBack);
    let left = summary.never_started + running;
    let spent = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
    let each = spent.checked_div(u64::try_from(ended).unwrap_or(u64::MAX));
    let to_go = each.map_or_else(String::new, |each| {
        format!(", about {} to go", seconds(each.saturating_mul(u64::try_from(left).unwrap_or(0))))
    });
    let wave = if wave.1 > 1 { format!("wave {} of {}: ", wave.0.min(wave.1), wave.1) } else { String::new() };
    format!("{wave}{} done, {failed} failed ({back} rolled back), {left} left{to_go}", ended - failed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row(host: &str, verdict: Option<Verdict>) -> Row {
        Row {
            host: host.to_owned(),
            verdict,
            exit: None,
            reach: Some(Reach::L3),
            changes: 8,
            millis: 61_250,
            run: None,
            text: "it ended".to_owned(),
            why: Some("because \u{1b}[31mred".to_owned()),
            next: "keyward --host a status".to_owned(),
        }
    }

    fn summary(rows: &[Row]) -> Summary {
        let mut counts = BTreeMap::new();
        for verdict in rows.iter().filter_map(|row| row.verdict) {
            *counts.entry(verdict).or_insert(0) += 1;
        }
        let started = rows.iter().filter(|row| row.verdict.is_some()).count();
        Summary { counts, started, never_started: rows.len() - started, stopped: None }
    }

    #[test]
    fn the_first_line_tells_all_of_them() {
        let mut rows = vec![row("a", Some(Verdict::Done)), row("b", Some(Verdict::RolledBack)), row("c", None)];
        let mut all = summary(&rows);
        assert_eq!(verdict(&rows, &all), "3 hosts: 1 as asked, 1 rolled back, 1 not started");
        all.stopped = Some(Stopped::Host { host: 1, verdict: Verdict::RolledBack });
        assert!(verdict(&rows, &all).starts_with("stopped at b (rolled back): 3 hosts: "));
        rows[0].exit = Some(Exit::Differs);
        assert!(verdict(&rows, &all).ends_with("1 differ from the playbook, 1 rolled back, 1 not started"));
    }

    #[test]
    fn failures_come_first_and_a_thousand_hosts_fit() {
        let mut rows: Vec<Row> = (0..1000).map(|n| row(&format!("h{n}"), Some(Verdict::Done))).collect();
        rows[700] = row("bad\u{1b}[2J", Some(Verdict::Unreachable));
        rows[800] = row("later", None);
        let text = table(&rows, Style::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("host ") && lines[1].contains("not reached"), "{text}");
        assert!(lines.len() < 215 && text.contains("and 798 more that ended as asked"), "{text}");
        assert!(
            text.contains("not started")
                && text.contains("because ")
                && text.contains("  next: keyward --host a status")
        );
        assert!(!text.contains('\u{1b}'), "escaped");
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(lines[1].ends_with("1 min 1 s"), "{}", lines[1]);
    }

    #[test]
    fn how_it_stands_while_it_goes_on() {
        let rows =
            vec![row("a", Some(Verdict::Done)), row("b", Some(Verdict::RolledBack)), row("c", None), row("d", None)];
        let line = whole(&summary(&rows), (2, 3), 1, std::time::Duration::from_secs(4));
        assert_eq!(line, "wave 2 of 3: 1 done, 1 failed (1 rolled back), 3 left, about 6.0 s to go");
    }
}
