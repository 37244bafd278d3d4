//! Gates: the staged candidate is judged by the real program before anything live changes.

use std::collections::BTreeSet;

use crate::change::{Change, Expect, Gate};
use crate::error::{Failure, Result};
use crate::host::{Output, Probe};
use crate::outcome::{Event, Sink};

/// Runs the gates of all changes.
///
/// # Errors
/// The first, in the order of the changes: refused when the candidate does not pass; unknown when the program could not
/// judge.
pub fn pass_all(changes: &[Change], probe: &dyn Probe, sink: &mut dyn Sink) -> Result<()> {
    let gates: Vec<(&Change, &Gate)> =
        changes.iter().flat_map(|change| change.gates.iter().map(move |gate| (change, gate))).collect();
    let questions: Vec<_> = gates.iter().map(|(_, gate)| (gate.staged.as_slice(), &gate.command)).collect();
    for ((change, gate), (output, millis)) in gates.into_iter().zip(probe.ask_all_staged(&questions)) {
        judge(gate, &output?).map_err(|why| {
            Failure::refused(&change.key, format!("the candidate does not pass: {}", gate.what)).why(why)
        })?;
        sink.event(Event::Gate { change: change.key.clone(), what: gate.what.clone(), millis });
    }
    Ok(())
}

fn judge(gate: &Gate, output: &Output) -> std::result::Result<(), String> {
    if !output.ok() {
        return Err(format!("{} says: {}", gate.command.program(), output.last_line()));
    }
    let Expect::Lines(wanted) = &gate.expect else { return Ok(()) };
    for (keyword, values) in wanted {
        let seen = values_of(keyword, &output.stdout);
        let wanted: BTreeSet<String> = values.iter().map(|value| value.to_lowercase()).collect();
        let right = match seen.len() {
            0 => false,
            1 => seen.is_subset(&wanted),
            _ => seen == wanted,
        };
        if !right {
            let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
            let seen = if seen.is_empty() { "nothing".to_owned() } else { list(&seen) };
            return Err(format!("{keyword} would be {seen}, wanted {}", list(&wanted)));
        }
    }
    Ok(())
}

fn values_of(keyword: &str, text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.trim().split_once(char::is_whitespace))
        .filter(|(name, _)| name.eq_ignore_ascii_case(keyword))
        .map(|(_, value)| value.trim().to_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Command;

    fn gate(values: &[&str]) -> Gate {
        Gate {
            what: String::new(),
            staged: Vec::new(),
            command: Command::new(["/usr/sbin/sshd"]),
            expect: Expect::Lines(vec![("Port".into(), values.iter().map(|v| (*v).to_owned()).collect())]),
        }
    }

    fn said(code: i32, stdout: &str) -> Output {
        Output { code, stdout: stdout.into(), stderr: String::new() }
    }

    #[test]
    fn lines_are_compared_without_case_and_as_a_set() {
        assert!(judge(&gate(&["22", "2222"]), &said(0, "port 2222\nport 22\n")).is_ok());
        assert!(judge(&gate(&["NO"]), &said(0, "PORT no\n")).is_ok());
        assert!(judge(&gate(&["22", "2222"]), &said(0, "port 2222\nport 22\nport 23\n")).is_err());
        assert!(judge(&gate(&["22"]), &said(0, "")).is_err());
        assert!(judge(&gate(&["22"]), &said(255, "port 22\n")).is_err());
    }
}
