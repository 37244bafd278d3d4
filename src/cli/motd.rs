//! What the next login reads: that a run waits for its confirmation, or that one was rolled back and why. A file of
//! pam_motd(8) in /run, so that no reboot leaves it behind.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::engine::guard;
use crate::host::shelf::Shelf;
use crate::outcome::Exit;

const DIRECTORY: &str = "/run/motd.d";
const NOTICE: &str = "/run/motd.d/keyward";

/// Puts the notice there; a host without motd goes without.
pub fn tell(text: &str) {
    let written = std::fs::create_dir_all(DIRECTORY)
        .and_then(|()| std::fs::set_permissions(DIRECTORY, std::fs::Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::write(NOTICE, format!("\n{text}\n\n")))
        .and_then(|()| std::fs::set_permissions(NOTICE, std::fs::Permissions::from_mode(0o644)));
    // The run does not depend on who reads of it.
    drop(written);
}

/// Tells how `run` ended when it did not end well; otherwise takes the notice away.
pub fn ended(shelf: &dyn Shelf, run: &str) {
    match guard::ending(shelf, run) {
        Ok(Some((Exit::RolledBack | Exit::RollbackIncomplete, verdict))) => {
            let verdict = crate::report::escape::line(&verdict);
            tell(&format!("keyward: run {run}: {verdict}\n  see: sudo {} show {run}", super::state::there_to_type()));
        }
        Ok(Some(_)) => forget(),
        Ok(None) | Err(_) => {}
    }
}

/// Takes the notice away, and its directory if nothing else is in it.
pub fn forget() {
    let _ = std::fs::remove_file(NOTICE);
    let _ = std::fs::remove_dir(Path::new(DIRECTORY));
}
