//! How carefully a rollout goes: its waves, how many hosts at once, and how many failures are borne.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Failure, Result};
use crate::types::Invalid;

/// A number of hosts, or a share of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Size {
    /// So many hosts.
    Hosts(usize),
    /// So many of a hundred, at most all.
    Percent(u8),
}

impl Size {
    /// All hosts.
    pub const ALL: Self = Self::Percent(100);

    /// How many hosts of `total`, a part of a host being a whole one.
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Hosts(hosts) => hosts.min(total),
            // In 128 bits, which the product always fits.
            Self::Percent(share) => narrow((wide(total) * u128::from(share)).div_ceil(100)).min(total),
        }
    }

    /// The most hosts of `total` that do not exceed this: a part of a host is none.
    pub fn within(self, total: usize) -> usize {
        match self {
            Self::Hosts(hosts) => hosts,
            Self::Percent(share) => narrow(wide(total) * u128::from(share) / 100),
        }
    }

    /// True when this is fewer hosts than `other` whatever the total is; `None` where the total decides.
    fn is_below(self, other: Self) -> Option<bool> {
        match (self, other) {
            (Self::Hosts(this), Self::Hosts(that)) => Some(this < that),
            (Self::Percent(this), Self::Percent(that)) => Some(this < that),
            (Self::ALL, Self::Hosts(_)) => Some(false),
            _ => None,
        }
    }
}

fn wide(number: usize) -> u128 {
    u128::try_from(number).unwrap_or(u128::MAX)
}

fn narrow(number: u128) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl FromStr for Size {
    type Err = Invalid;

    /// `3` is three hosts, `10%` a tenth of all.
    fn from_str(text: &str) -> std::result::Result<Self, Invalid> {
        let invalid = || Invalid::new("not a number of hosts or a share of them", "write it like 5, or 10%");
        let (digits, is_share) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        if !is_share {
            return digits.parse().map(Self::Hosts).map_err(|_| invalid());
        }
        match digits.parse() {
            Ok(share) if share <= 100 => Ok(Self::Percent(share)),
            _ => Err(Invalid::new("more than all hosts", "write 100% for all")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(hosts) => write!(f, "{hosts}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = Invalid;

    fn try_from(text: String) -> std::result::Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

/// How a rollout goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where each wave ends, counted from the first host; the last one at all hosts.
    pub waves: Vec<Size>,
    /// Most hosts at once.
    pub parallel: usize,
    /// Most hosts of one lane at once.
    pub per_lane: usize,
    /// Most failures that do not stop the rollout; a share is one of all hosts.
    pub max_fail: Size,
    /// How long one try of a host may take before it is interrupted.
    pub host_limit_ms: u64,
    /// How long a wave may take, pauses left out, before the rollout stops; `None` for as long as it takes.
    pub wave_limit_ms: Option<u64>,
    /// How often a host is tried that cannot be reached.
    pub tries: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            waves: vec![Size::Hosts(1), Size::Percent(10), Size::ALL],
            parallel: 20,
            per_lane: 8,
            max_fail: Size::Hosts(0),
            host_limit_ms: 30 * 60 * 1000,
            wave_limit_ms: None,
            tries: 3,
        }
    }
}

impl Policy {
    /// Reads waves such as `1,10%,100%`.
    ///
    /// # Errors
    /// Input when a part is no size, or as [`Policy::check`].
    pub fn waves_from(text: &str) -> Result<Vec<Size>> {
        let parse = |part: &str| {
            part.trim().parse::<Size>().map_err(|invalid| {
                Failure::input(format!("waves, {}", part.escape_debug()), invalid.why).hint(invalid.hint)
            })
        };
        let waves = text.split(',').map(parse).collect::<Result<Vec<_>>>()?;
        check_waves(&waves).map(|()| waves)
    }

    /// Looks for what no rollout can go by.
    ///
    /// # Errors
    /// Input that names the fault.
    pub fn check(&self) -> Result<()> {
        check_waves(&self.waves)?;
        let least = [
            ("parallel", self.parallel == 0),
            ("per_lane", self.per_lane == 0),
            ("host_limit_ms", self.host_limit_ms == 0),
            ("wave_limit_ms", self.wave_limit_ms == Some(0)),
            ("tries", self.tries == 0),
        ];
        match least.iter().find(|(_, is_none)| *is_none) {
            Some((name, _)) => Err(Failure::input(*name, "with 0 no host would ever end").hint("write 1 or more")),
            None => Ok(()),
        }
    }

    /// Where the waves of `total` hosts end. A wave that would add no host to the one before is none.
    pub(super) fn ends(&self, total: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = Vec::new();
        for wave in &self.waves {
            let end = wave.of(total);
            if ends.last().is_none_or(|last| *last < end) {
                ends.push(end);
            }
        }
        ends
    }
}

fn check_waves(waves: &[Size]) -> Result<()> {
    if waves.iter().any(|wave| matches!(wave, Size::Hosts(0) | Size::Percent(0))) {
        return Err(Failure::input("waves", "a wave of no hosts").hint("begin with 1: the first host alone"));
    }
    for (wave, next) in waves.iter().zip(waves.iter().skip(1)) {
        if wave.is_below(*next) == Some(false) {
            return Err(Failure::input("waves", format!("{next} does not grow after {wave}"))
                .hint("each wave counts from the first host, such as 1,10%,100%"));
        }
    }
    match waves.last() {
        Some(&Size::ALL) => Ok(()),
        _ => Err(Failure::input("waves", "do not reach all hosts").hint("end with 100%, such as 1,10%,100%")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, size) in
            [("0", Size::Hosts(0)), ("1", Size::Hosts(1)), ("10%", Size::Percent(10)), ("100%", Size::ALL)]
        {
            assert_eq!(text.parse(), Ok(size));
            assert_eq!(size.to_string(), text);
        }
        for text in ["", "%", "-1", "+1", "1.5%", "101%", "256%", "1 %", "x", "99999999999999999999999", "10%%"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn shares_round_up_for_waves_and_down_for_failures() {
        for (share, total, up, down) in
            [(10, 5, 1, 0), (10, 100, 10, 10), (1, 250, 3, 2), (100, 7, 7, 7), (2, 10, 1, 0), (1, 0, 0, 0)]
        {
            assert_eq!((Size::Percent(share).of(total), Size::Percent(share).within(total)), (up, down));
        }
        assert_eq!(Size::Hosts(9).of(4), 4);
        assert_eq!(Size::ALL.of(usize::MAX), usize::MAX);
    }

    #[test]
    fn waves_grow_to_all_hosts() {
        for good in ["1,10%,100%", "100%", "1, 5, 50%, 100%", "50%,100%", "5,10%,100%"] {
            assert!(Policy::waves_from(good).is_ok(), "{good}");
        }
        for (bad, says) in [
            ("", "not a number"),
            ("1,10%", "do not reach all"),
            ("5", "do not reach all"),
            ("10%,10%,100%", "does not grow"),
            ("5,3,100%", "does not grow"),
            ("100%,5", "does not grow"),
            ("1,100%,100%", "does not grow"),
            ("0,100%", "no hosts"),
            ("1,0%,100%", "no hosts"),
            ("1,,100%", "not a number"),
        ] {
            let failure = Policy::waves_from(bad).unwrap_err();
            assert!(failure.what.contains(says) && !failure.hint.is_empty(), "{bad}: {failure}");
        }
    }

    #[test]
    fn a_wave_that_adds_no_host_is_none() {
        let policy = Policy::default();
        assert_eq!(policy.ends(1000), [1, 100, 1000]);
        assert_eq!(policy.ends(5), [1, 5]);
        assert_eq!(policy.ends(1), [1]);
        let policy = Policy { waves: Policy::waves_from("50,10%,100%").unwrap(), ..policy };
        assert_eq!(policy.ends(100), [50, 100]);
    }

    #[test]
    fn a_policy_that_could_not_end_is_refused() {
        assert!(Policy::default().check().is_ok());
        let with = |change: &dyn Fn(&mut Policy)| {
            let mut policy = Policy::default();
            change(&mut policy);
            policy.check()
        };
        assert!(with(&|policy| policy.parallel = 0).is_err());
        assert!(with(&|policy| policy.per_lane = 0).is_err());
        assert!(with(&|policy| policy.tries = 0).is_err());
        assert!(with(&|policy| policy.host_limit_ms = 0).is_err());
        assert!(with(&|policy| policy.wave_limit_ms = Some(0)).is_err());
        assert!(with(&|policy| policy.waves.clear()).is_err());
    }
}
