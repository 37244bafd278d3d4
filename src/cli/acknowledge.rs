//! `keyward acknowledge`: sshd is mended; ends the one of last resort that an undo had to start.

use crate::audit;
use crate::engine::last_resort;
use crate::error::Result;
use crate::host::real::RealHost;
use crate::outcome::Exit;

use super::{Ending, state};

/// Ends it.
pub fn run() -> Result<Ending> {
    state::need_root("to end the sshd of last resort")?;
    let host = RealHost::new();
    if !last_resort::is_open(&host)? {
        return Ok(Ending::new(Exit::AsAsked, "nothing to acknowledge: no sshd of last resort runs", "keyward status"));
    }
    last_resort::acknowledge(&host)?;
    let told = "sshd serves again; the one of last resort was ended";
    audit::record(&state::ledger()?, "", "acknowledged", told)?;
    super::motd::forget();
    Ok(Ending::new(Exit::AsAsked, told, "keyward history"))
}
