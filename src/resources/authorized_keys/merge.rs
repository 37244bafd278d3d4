//! Which lines stay, come and go. Pure.
//!
//! The first line of a key that lets it in decides (sshd(8)), across all files in their order. A line whose options the
//! playbook does not speak of is somebody's decision: it is replaced only when the playbook owns all keys.

use std::collections::BTreeSet;

use crate::change::Difference;
use crate::error::{Failure, Result};
use crate::formats::authorized_keys::{Entry, Grant, KeyFile, Meaning};
use crate::types::AbsPath;

/// The files after the additive stage and after the subtractive one, in the order of the files.
#[derive(Debug, Default)]
pub struct Merged {
    pub opened: Vec<KeyFile>,
    pub closed: Vec<KeyFile>,
    pub added: Vec<Difference>,
    pub removed: Vec<Difference>,
    pub dead_first_line: bool,
}

/// A line with the key in question.
struct Hit {
    file: usize,
    line: usize,
    entry: Entry,
}

/// What happens to lines, by file and number.
#[derive(Default)]
struct Acts {
    widen: Vec<(usize, usize, String)>,
    narrow: Vec<(usize, usize, String)>,
    remove: BTreeSet<(usize, usize)>,
    append: Vec<String>,
}

pub fn merge(grants: &[Grant], files: &[(AbsPath, KeyFile)], exclusive: bool) -> Result<Merged> {
    let mut merged =
        Merged { dead_first_line: files.iter().any(|(_, f)| f.has_byte_order_mark()), ..Merged::default() };
    let mut acts = Acts::default();
    let mut seen = BTreeSet::new();
    for grant in grants.iter().filter(|grant| seen.insert(grant.key.blob().to_owned())) {
        place(grant, files, exclusive, &mut acts, &mut merged)?;
    }
    if exclusive {
        for (at, (path, file)) in files.iter().enumerate() {
            for (number, meaning) in file.meanings() {
                let stays = match &meaning {
                    Meaning::Nothing => true,
                    Meaning::Key(entry) => grants.iter().any(|g| entry.is_key(&g.key) && entry.has_options_of(g)),
                    // A newer sshd might read what this one passes over.
                    Meaning::Dead(_) => false,
                };
                let replaced = acts.widen.iter().chain(&acts.narrow).any(|(f, l, _)| (*f, *l) == (at, number));
                if !stays && !replaced && acts.remove.insert((at, number)) {
                    merged.removed.push(Difference::new(format!("{path}:{number}"), "absent", shown(&meaning)));
                }
            }
        }
    }
    merged.opened = files.iter().map(|(_, file)| file.clone()).collect();
    for (at, number, line) in &acts.widen {
        if let Some(file) = merged.opened.get_mut(*at) {
            file.replace(*number, line);
        }
    }
    if let Some(first) = merged.opened.first_mut() {
        for line in &acts.append {
            first.append(line);
        }
    }
    merged.closed = merged.opened.clone();
    for (at, file) in merged.closed.iter_mut().enumerate() {
        for (_, number, line) in acts.narrow.iter().filter(|(of, ..)| *of == at) {
            file.replace(*number, line);
        }
        file.retain(|number, _| !acts.remove.contains(&(at, number)));
    }
    Ok(merged)
}

/// Brings one key to what is asked.
fn place(
    grant: &Grant,
    files: &[(AbsPath, KeyFile)],
    exclusive: bool,
    acts: &mut Acts,
    merged: &mut Merged,
) -> Result<()> {
    let hits = hits(grant, files);
    let Some(first) = hits.first() else {
        acts.append.push(grant.line());
        merged.added.push(Difference::new("authorized_keys", named(grant), "absent"));
        return Ok(());
    };
    if grant.is_plain() && first.entry.has_options_of(grant) {
        return Ok(());
    }
    let others = || hits.iter().filter(|hit| !hit.entry.has_options_of(grant));
    let untold = others().map(|hit| (hit, hit.entry.options_beyond(grant))).find(|(_, beyond)| !beyond.is_empty());
    if let Some((hit, beyond)) = untold.filter(|_| !exclusive) {
        return Err(limited(grant, files, hit, &beyond));
    }
    let path = |hit: &Hit| files.get(hit.file).map_or_else(String::new, |(path, _)| format!("{path}:{}", hit.line));
    if grant.is_plain() {
        acts.widen.push((first.file, first.line, grant.line()));
        merged.added.push(Difference::new(path(first), named(grant), options(&first.entry)));
        return Ok(());
    }
    // A wider line for the same key would let in whom `from` keeps out, so it goes once the rest is proven.
    let exact = hits.iter().any(|hit| hit.entry.has_options_of(grant));
    for (at, hit) in others().enumerate() {
        merged.removed.push(Difference::new(path(hit), named(grant), options(&hit.entry)));
        if at == 0 && !exact {
            acts.narrow.push((hit.file, hit.line, grant.line()));
        } else {
            acts.remove.insert((hit.file, hit.line));
        }
    }
    Ok(())
}

fn hits(grant: &Grant, files: &[(AbsPath, KeyFile)]) -> Vec<Hit> {
    let mut hits = Vec::new();
    for (file, (_, keys)) in files.iter().enumerate() {
        for (line, meaning) in keys.meanings() {
            if let Meaning::Key(entry) = meaning
                && entry.is_key(&grant.key)
                && !entry.is_authority()
            {
                hits.push(Hit { file, line, entry });
            }
        }
    }
    hits
}

fn limited(grant: &Grant, files: &[(AbsPath, KeyFile)], hit: &Hit, beyond: &[String]) -> Failure {
    let place = files.get(hit.file).map_or_else(String::new, |(path, _)| format!("{path}:{}", hit.line));
    Failure::refused(place, format!("this line limits the same key by {}", beyond.join(", ")))
        .why(format!("the playbook does not speak of that for {}", grant.key.fingerprint()))
        .hint("take the options or the line out there, or let the playbook own all keys: exclusive_keys: true")
}

fn named(grant: &Grant) -> String {
    let mut text = format!("{} {}", grant.key.algorithm(), grant.key.fingerprint());
    if !grant.key.comment().is_empty() {
        text = format!("{text} ({})", grant.key.comment());
    }
    if !grant.from.is_empty() {
        let from: Vec<String> = grant.from.iter().map(ToString::to_string).collect();
        text = format!("{text} from {}", from.join(", "));
    }
    if grant.restrict {
        text.push_str(", restricted");
    }
    if grant.command.is_some() {
        text.push_str(", one command");
    }
    text
}

fn options(entry: &Entry) -> String {
    if entry.options.is_empty() {
        return "without limits".to_owned();
    }
    let names: Vec<&str> = entry.options.iter().map(|option| option.name.as_str()).collect();
    format!("limited by {}", names.join(", "))
}

fn shown(meaning: &Meaning) -> String {
    match meaning {
        Meaning::Key(entry) => {
            let tail: String = entry.blob.chars().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect();
            format!("{} ...{tail}", entry.algorithm)
        }
        Meaning::Dead(why) => format!("a line that sshd passes over ({why})"),
        Meaning::Nothing => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Cidr, PublicKey, Word};

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMVnF1RyJk2sVq1ZzNmL6xk0eHk9mQ8b0V6z1uJr0a1b";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEbGoj0q1yPqQ1Wq7yWQ5ooSTTbWXk7vN3Tz6cRzJZq9";

    fn grant(line: &str, from: &[&str]) -> Grant {
        let from = from.iter().map(|text| Cidr::parse(text).unwrap()).collect();
        Grant { key: PublicKey::parse(line).unwrap(), from, restrict: false, command: None }
    }

    fn run(grants: &[Grant], texts: &[&str], exclusive: bool) -> Result<(Vec<String>, Vec<String>)> {
        let names = ["/h/.ssh/authorized_keys", "/h/.ssh/authorized_keys2"];
        let files: Vec<(AbsPath, KeyFile)> =
            names.iter().zip(texts).map(|(n, t)| (AbsPath::parse(n).unwrap(), KeyFile::parse(t.as_bytes()))).collect();
        let merged = merge(grants, &files, exclusive)?;
        let text = |files: &[KeyFile]| files.iter().map(|f| String::from_utf8(f.render()).unwrap()).collect();
        Ok((text(&merged.opened), text(&merged.closed)))
    }

    #[test]
    fn a_new_key_is_added_and_nothing_else_moves() {
        let other = format!("# x\r\nodd\n{B} b");
        let (opened, closed) = run(&[grant(A, &[])], &[&other, ""], false).unwrap();
        assert_eq!(opened, [format!("{other}\n{A}\n"), String::new()]);
        assert_eq!(closed, opened);
        let (again, _) = run(&[grant(A, &[])], &[&opened[0], ""], false).unwrap();
        assert_eq!(again, opened);
    }

    #[test]
    fn somebodys_restriction_is_not_lifted_unasked() {
        let line = format!("command=\"backup\",from=\"10.0.0.1\" {A}\n");
        let failure = run(&[grant(A, &[])], &[&line], false).unwrap_err();
        assert!(
            failure.line().starts_with("/h/.ssh/authorized_keys:1: this line limits the same key by command, from")
        );
        assert!(run(&[grant(A, &["10.0.0.1"])], &[&line], false).is_err());
        let (opened, _) = run(&[grant(A, &[])], &[&line], true).unwrap();
        assert_eq!(opened, [format!("{A}\n")]);
        // The second file counts as well as the first.
        assert!(run(&[grant(A, &[])], &["", &line], false).is_err());
        // A plain line before it decides, so there is nothing to lift.
        assert!(run(&[grant(A, &[])], &[&format!("{A} a\n"), &line], false).is_ok());
    }

    #[test]
    fn a_key_gets_narrower_only_at_the_end() {
        let wide = format!("{A} old\n");
        let narrow = format!("from=\"10.0.0.0/8\" {A}\n");
        let (opened, closed) = run(&[grant(A, &["10.0.0.0/8"])], &[&wide, &wide], false).unwrap();
        assert_eq!(opened, [wide.clone(), wide.clone()]);
        assert_eq!(closed, [narrow.clone(), String::new()]);
        let (_, closed) = run(&[grant(A, &["10.1.0.0/16"])], &[&narrow], false).unwrap();
        assert_eq!(closed, [format!("from=\"10.1.0.0/16\" {A}\n")]);
        let (_, closed) = run(&[grant(A, &["10.0.0.0/8"])], &[&format!("{narrow}{wide}")], false).unwrap();
        assert_eq!(closed, [narrow]);
    }

    #[test]
    fn exclusive_clears_every_file_and_keeps_comments() {
        let first = format!("# note\n{B} b\n{A} a\nodd line\n");
        let second = format!("cert-authority {B}\n{A}\n");
        let (opened, closed) = run(&[grant(A, &[])], &[&first, &second], true).unwrap();
        assert_eq!(opened, [first, second]);
        assert_eq!(closed, [format!("# note\n{A} a\n"), format!("{A}\n")]);
    }

    #[test]
    fn a_certificate_authority_line_is_not_the_key() {
        let line = format!("cert-authority {A}\n");
        let (opened, _) = run(&[grant(A, &[])], &[&line], false).unwrap();
        assert_eq!(opened, [format!("{line}{A}\n")]);
    }
}
