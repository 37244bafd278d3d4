//! What happens during a run, line by line, for people.

use crate::change::{Note, Stage};
use crate::error::Failure;
use crate::outcome::{Event, Evidence, Exit, Proven};

use super::escape;
use super::plan::note as note_lines;
use super::style::{Style, Tone, count, wrap};

/// One event other than a plan as text, ending with a line feed; empty for events that people need not see.
pub fn event(event: &Event, style: Style) -> String {
    let lines = match event {
        Event::Planned { .. }
        | Event::Access { .. }
        | Event::Audited { .. }
        | Event::Drifted { .. }
        | Event::Hello { .. }
        | Event::Asked { .. }
        | Event::Host { .. }
        | Event::HostEnded { .. } => Vec::new(),
        Event::Armed { run, until, .. } => armed(run, until),
        Event::Opened { .. } => vec!["both doors are open".to_owned()],
        Event::Started { run } => vec![escape::line(&format!("run {run}"))],
        Event::Stage { stage, changes } => vec![style.paint(Tone::Strong, &stage_line(*stage, *changes))],
        Event::Gate { what, millis, .. } => step("checked", what, *millis, Tone::Faint, style),
        Event::Changed { summary, millis, .. } => step("done", summary, *millis, Tone::Good, style),
        Event::Proof { evidence } => proof(evidence, style),
        Event::Decided { because } => {
            wrap("", &style.paint(Tone::Strong, &escape::line(&format!("decided to close the old doors: {because}"))))
        }
        Event::RollingBack { reason } => {
            let text = escape::line(&format!("rolling back: {}", reason.line()));
            let mut lines = wrap("", &style.paint(Tone::Bad, &text));
            if !reason.hint.is_empty() {
                lines.push(format!("  help: {}", escape::line(&reason.hint)));
            }
            lines
        }
        Event::Undone { change, failure } => undone(change, failure.as_ref(), style),
        Event::Note { note } => plain_note(note, style),
        Event::Text { text, .. } => vec![escape::text(text.trim_end_matches('\n'))],
        Event::Run { run, began, playbook, changes, exit, verdict } => {
            history(run, began, &format!("{playbook}, {}", count(*changes, "change")), *exit, verdict, style)
        }
        Event::Failed { failure } => failed(failure, style),
        Event::Finished { exit, verdict, next, .. } => finished(*exit, verdict, next, style),
    };
    let mut text = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn armed(run: &str, until: &str) -> Vec<String> {
    let seconds = until.split_once('.').map_or_else(|| until.to_owned(), |(seconds, _)| format!("{seconds}Z"));
    wrap("", &escape::line(&format!("armed: run {run} is undone at {seconds} unless it is confirmed")))
}

fn stage_line(stage: Stage, changes: usize) -> String {
    let what = match stage {
        Stage::Packages => "packages",
        Stage::Additive => "opening and adding",
        Stage::Subtractive => "closing and taking away",
    };
    format!("{what}: {}", count(changes, "change"))
}

fn step(word: &str, what: &str, millis: u64, tone: Tone, style: Style) -> Vec<String> {
    let text = escape::line(&format!("{what} ({millis} ms)"));
    let mut lines = wrap(&format!("  {word:<9}"), &text);
    if let Some(first) = lines.first_mut() {
        *first = first.replacen(word, &style.paint(tone, word), 1);
    }
    lines
}

fn proof(evidence: &Evidence, style: Style) -> Vec<String> {
    let (word, tone) = match evidence.proven {
        Proven::Yes => ("proven", Tone::Good),
        Proven::No => ("REFUTED", Tone::Bad),
        Proven::Unknown => ("UNKNOWN", Tone::Warn),
    };
    let seen = if evidence.seen.is_empty() { String::new() } else { format!(": {}", evidence.seen) };
    step(word, &format!("{:?} {}{seen}", evidence.reach, evidence.what), evidence.millis, tone, style)
}

fn undone(change: &str, failure: Option<&Failure>, style: Style) -> Vec<String> {
    match failure {
        None => wrap("  undone   ", &escape::line(change)),
        Some(failure) => {
            let text = style.paint(Tone::Bad, &escape::line(&format!("NOT UNDONE {change}: {}", failure.line())));
            let mut lines = wrap("  ", &text);
            if !failure.hint.is_empty() {
                lines.push(format!("  help: {}", escape::line(&failure.hint)));
            }
            lines
        }
    }
}

fn plain_note(note: &Note, style: Style) -> Vec<String> {
    note_lines(note, "  ", style)
}

/// Two lines a run: what and when, then how it ended.
fn history(run: &str, began: &str, what: &str, exit: Option<Exit>, verdict: &str, style: Style) -> Vec<String> {
    // Nobody reads fractions of a second here; the event has them.
    let began = began.split_once('.').map_or_else(|| began.to_owned(), |(seconds, _)| format!("{seconds}Z"));
    let mut lines = wrap("", &escape::line(&format!("{run}  {began}  {what}")));
    let (text, tone) = match exit {
        Some(exit) => (format!("{verdict} (exit {})", exit.code()), tone(exit)),
        None => (
            "not closed: it runs, waits for its confirmation, or was interrupted; see: keyward status".to_owned(),
            Tone::Bad,
        ),
    };
    lines.extend(wrap("    ", &escape::line(&text)).iter().map(|line| style.paint(tone, line)));
    lines
}

/// `error: where: what: why`, then the help. Texts of several lines (a playbook fault with its caret) keep them.
fn failed(failure: &Failure, style: Style) -> Vec<String> {
    let mut text = escape::text(&failure.line());
    if !text.starts_with("error") {
        text = format!("{} {text}", style.paint(Tone::Bad, "error:"));
    }
    let mut lines = vec![text];
    if !failure.hint.is_empty() {
        lines.push(format!("  {} {}", style.paint(Tone::Strong, "help:"), escape::text(&failure.hint)));
    }
    lines
}

const fn tone(exit: Exit) -> Tone {
    match exit {
        Exit::AsAsked => Tone::Good,
        Exit::Differs | Exit::Pending | Exit::Unverified => Tone::Warn,
        _ => Tone::Bad,
    }
}

fn finished(exit: Exit, verdict: &str, next: &str, style: Style) -> Vec<String> {
    let tone = tone(exit);
    let mut lines = Vec::new();
    if !verdict.is_empty() {
        lines.extend(wrap("", &escape::line(verdict)).iter().map(|line| style.paint(tone, line)));
    }
    if !next.is_empty() {
        lines.push(format!("{} {}", style.paint(Tone::Strong, "next:"), escape::line(next)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Reach;

    #[test]
    fn evidence_tells_its_reach_and_never_passes_the_unknown() {
        let mut evidence = Evidence {
            what: "login as deploy on port 2222".into(),
            proven: Proven::Yes,
            reach: Reach::L2,
            seen: "uid=1000(deploy)\u{1b}[2J".into(),
            millis: 80,
        };
        let yes = event(&Event::Proof { evidence: evidence.clone() }, Style::Plain);
        assert_eq!(yes, "  proven   L2 login as deploy on port 2222: uid=1000(deploy)\\u{1b}[2J (80 ms)\n");
        evidence.proven = Proven::Unknown;
        let unknown = event(&Event::Proof { evidence }, Style::Plain);
        assert!(unknown.contains("UNKNOWN") && !unknown.contains("proven"), "{unknown}");
    }

    #[test]
    fn the_last_line_is_the_next_command() {
        let end = Event::Finished {
            code: 3,
            exit: Exit::RolledBack,
            verdict: "failed and rolled back".into(),
            next: "keyward show 1".into(),
            run: None,
            millis: 1,
        };
        assert_eq!(event(&end, Style::Plain), "failed and rolled back\nnext: keyward show 1\n");
    }
}
