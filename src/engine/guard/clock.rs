//! The deadline of a run: a moment of this boot's own clock, which no wall-clock step moves and suspend does not stop.

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::host::{Actor, Probe};
use crate::types::AbsPath;

/// A moment of one boot, in milliseconds since it began (CLOCK_BOOTTIME, proc_uptime(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// Which boot (random(4), boot_id). In another boot the deadline has passed.
    pub boot: String,
    /// Milliseconds since that boot began.
    pub at_ms: u64,
    /// The same moment on the wall clock when it was set, RFC 3339; for the reader only.
    pub wall: String,
}

/// Now, on the boot's own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Which boot.
    pub boot: String,
    /// Milliseconds since it began.
    pub at_ms: u64,
}

impl Now {
    /// Reads the clock.
    ///
    /// # Errors
    /// When /proc does not tell.
    pub fn read(probe: &dyn Probe) -> Result<Self> {
        let boot = text(probe, "/proc/sys/kernel/random/boot_id")?;
        let uptime = text(probe, "/proc/uptime")?;
        let at_ms = parse_uptime(&uptime)
            .ok_or_else(|| Failure::unknown("/proc/uptime", "is not in the form that proc_uptime(5) describes"))?;
        Ok(Self { boot: boot.trim().to_owned(), at_ms })
    }
}

fn text(probe: &dyn Probe, path: &'static str) -> Result<String> {
    let bytes = probe.read(&AbsPath::fixed(path), &Actor::Root)?;
    let bytes = bytes.ok_or_else(|| Failure::unknown(path, "is not there: without it no deadline can be kept"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `12.34 5.67` to 12340.
fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, rest) = text.split_whitespace().next()?.split_once('.')?;
    let hundredths: u64 = rest.get(..2)?.parse().ok()?;
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(hundredths * 10)
}

impl Deadline {
    /// The deadline `window_ms` from now.
    pub fn after(now: &Now, window_ms: u64) -> Self {
        let wall = jiff::Timestamp::now() + std::time::Duration::from_millis(window_ms);
        Self { boot: now.boot.clone(), at_ms: now.at_ms.saturating_add(window_ms), wall: wall.to_string() }
    }

    /// Milliseconds left; 0 when it has passed, or when this is another boot.
    pub fn left_ms(&self, now: &Now) -> u64 {
        if self.boot == now.boot { self.at_ms.saturating_sub(now.at_ms) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime() {
        assert_eq!(parse_uptime("12.34 99.00\n"), Some(12_340));
        assert_eq!(parse_uptime("350735.47 1.0"), Some(350_735_470));
        for bad in ["", "12", "x.00", "1.x", "1."] {
            assert_eq!(parse_uptime(bad), None, "{bad}");
        }
    }

    #[test]
    fn another_boot_has_no_time_left() {
        let now = Now { boot: "a".into(), at_ms: 1000 };
        let deadline = Deadline::after(&now, 500);
        assert_eq!(deadline.left_ms(&Now { boot: "a".into(), at_ms: 1200 }), 300);
        assert_eq!(deadline.left_ms(&Now { boot: "a".into(), at_ms: 1600 }), 0);
        assert_eq!(deadline.left_ms(&Now { boot: "b".into(), at_ms: 0 }), 0);
    }
}
