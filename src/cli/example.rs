//! The key beside the example playbook belongs to nobody: whoever applies it unchanged could never log in.

use crate::change::Note;
use crate::error::{Failure, Result};

use super::job::Job;

const EXAMPLE: &str = include_str!("../../playbooks/first-login.pub");
const WHAT: &str = "this is the example's public key, and nobody has its private half";
const WHY: &str = "with it alone you would be locked out";

/// The file of this playbook that holds the example's key.
fn file(job: &Job) -> Option<&str> {
    let blob = EXAMPLE.split_whitespace().nth(1)?;
    job.sources.iter().find(|file| file.text.contains(blob)).map(|file| file.name.as_str())
}

/// For verbs that change nothing here: trying the example is what it is for.
pub fn warning(job: &Job) -> Option<Note> {
    file(job).map(|name| Note::warning(name, format!("{WHAT}: {WHY}")))
}

/// Refuses to apply it.
///
/// # Errors
/// Refused when the playbook holds the example's key.
pub fn refuse(job: &Job) -> Result<()> {
    match file(job) {
        None => Ok(()),
        Some(name) => Err(Failure::refused(name, WHAT)
            .why(WHY)
            .hint("put your own public key there, such as ~/.ssh/id_ed25519.pub; or let keyward write a playbook: keyward init")),
    }
}
