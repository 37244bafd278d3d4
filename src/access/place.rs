//! Places that logins come from: one address that no rule names for each family, and one for each range that some rule
//! does name, so that every rule is tried once and nothing is worked out by hand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::outcome::Proven;
use crate::outcome::ways::Places;

/// Somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// As the rule has it; `None`: anywhere else.
    pub label: Option<String>,
    /// An address there.
    pub address: IpAddr,
}

/// More ranges than this are not followed.
pub const MOST: usize = 48;

/// Addresses of which the first that no rule names stands for everywhere (RFC 5737, RFC 2544, RFC 3849).
const V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(203, 0, 113, 77),
    Ipv4Addr::new(198, 18, 77, 77),
    Ipv4Addr::new(100, 64, 77, 77),
];
const V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0x7777, 0, 0, 0, 0, 0x77),
    Ipv6Addr::new(0x2a0f, 0x7777, 0, 0, 0, 0, 0, 0x77),
];

/// The places that `named` tells apart, everywhere first; how many were left out.
pub fn places(named: impl IntoIterator<Item = String>) -> (Vec<Place>, usize) {
    let mut ranges: Vec<(String, Range)> = Vec::new();
    for text in named {
        let text = match text.split_once('/').and_then(|(head, bits)| Some((head, mask(bits)?))) {
            Some((head, bits)) => format!("{head}/{bits}"),
            None => text,
        };
        if let Some(range) = Range::parse(&text)
            && !ranges.iter().any(|(label, _)| *label == text)
        {
            ranges.push((text, range));
        }
    }
    let free = |address: &IpAddr| !ranges.iter().any(|(_, range)| range.holds(*address));
    let v4 = V4.map(IpAddr::V4).into_iter().find(free).unwrap_or(IpAddr::V4(V4[0]));
    let v6 = V6.map(IpAddr::V6).into_iter().find(free).unwrap_or(IpAddr::V6(V6[0]));
    let mut places: Vec<Place> = [v4, v6].map(|address| Place { label: None, address }).to_vec();
    let all: Vec<Range> = ranges.iter().map(|(_, range)| *range).collect();
    let mut left_out = ranges.len().saturating_sub(MOST);
    for (label, range) in ranges.into_iter().take(MOST) {
        match range.one(&all) {
            Some(address) => places.push(Place { label: Some(label), address }),
            None => left_out += 1,
        }
    }
    (places, left_out)
}

/// A range of addresses in any of the notations of sshd, iptables, pam_access and hosts.allow.
#[derive(Debug, Clone, Copy)]
struct Range {
    head: IpAddr,
    bits: u32,
}

impl Range {
    /// `None` for everything, for this host itself, and for names.
    fn parse(text: &str) -> Option<Self> {
        let (head, bits) = match text.split_once('/') {
            Some((head, bits)) => (head, bits.parse().ok()),
            None => (text, Some(128)),
        };
        let (head, bits) = match head.parse::<IpAddr>() {
            Ok(head) => (head, bits?),
            Err(_) => prefix(text)?,
        };
        let bits = bits.min(if head.is_ipv4() { 32 } else { 128 });
        (bits > 0 && !head.is_loopback()).then_some(Self { head, bits })
    }

    fn holds(self, address: IpAddr) -> bool {
        let number = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
            IpAddr::V6(v6) => u128::from(v6),
        };
        self.head.is_ipv4() == address.is_ipv4() && (number(self.head) ^ number(address)) >> (128 - self.bits) == 0
    }

    /// An address in it that no narrower one of `all` names too: one of the first after the network's own. `None` when
    /// those are all named, so that nothing stands for the rest.
    fn one(self, all: &[Self]) -> Option<IpAddr> {
        let nth = |number: u32| match self.head {
            IpAddr::V4(v4) if self.bits < 31 => IpAddr::V4(Ipv4Addr::from(u32::from(v4) | number)),
            IpAddr::V6(v6) if self.bits < 127 => IpAddr::V6(Ipv6Addr::from(u128::from(v6) | u128::from(number))),
            head => head,
        };
        let narrower: Vec<&Self> = all.iter().filter(|other| other.bits > self.bits).collect();
        (1..64).map(nth).find(|one| self.holds(*one) && !narrower.iter().any(|other| other.holds(*one)))
    }
}

/// 255.0.0.0
fn mask(text: &str) -> Option<u32> {
    text.parse::<Ipv4Addr>().ok().map(|mask| u32::from(mask).count_ones())
}

/// `10.`, `10.0.*` or `10.0.0.?`.
fn prefix(text: &str) -> Option<(IpAddr, u32)> {
    let plain = text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | '*' | '?'));
    let mut bytes: Vec<u8> = text.split('.').map_while(|part| part.parse().ok()).collect();
    let bits = u32::try_from(bytes.len() * 8).ok().filter(|bits| plain && *bits > 0 && *bits < 32)?;
    bytes.resize(4, 1);
    Some((IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?), bits))
}

/// Puts together what holds at each place: everywhere, with exceptions, or some places only. `v6`: whether IPv6 counts at
/// all, because something listens there.
pub fn sum(held: &[(&Place, Proven)], v6: bool) -> Places {
    let everywhere = |is_v6: bool| {
        held.iter().find(|(p, _)| p.label.is_none() && p.address.is_ipv6() == is_v6).map(|(_, held)| *held)
    };
    let (four, six) = (everywhere(false).unwrap_or(Proven::No), everywhere(true).unwrap_or(Proven::No));
    let (most, family) = match (four, six) {
        (four, _) if !v6 => (four, None),
        (Proven::Yes, Proven::Yes) | (Proven::No, Proven::No) | (Proven::Unknown, Proven::Unknown) => (four, None),
        (Proven::Yes, _) => (four, Some("IPv4")),
        (_, Proven::Yes) => (six, Some("IPv6")),
        (Proven::Unknown, _) => (four, Some("IPv4")),
        (_, Proven::Unknown) => (six, Some("IPv6")),
    };
    let base = |place: &Place| if place.address.is_ipv6() { six } else { four };
    let labels = |chosen: &dyn Fn(&Place, Proven) -> bool| {
        held.iter().filter(|(place, held)| chosen(place, *held)).filter_map(|(place, _)| place.label.clone()).collect()
    };
    let range = |place: &Place| place.label.as_deref().and_then(Range::parse);
    let below_a_yes = |place: &Place| {
        held.iter()
            .filter(|(_, held)| *held == Proven::Yes)
            .filter_map(|(wide, _)| range(wide))
            .any(|wide| range(place).is_some_and(|narrow| narrow.bits > wide.bits && wide.holds(narrow.head)))
    };
    Places {
        everywhere: most,
        family: family.map(str::to_owned),
        only: labels(&|place, held| held == Proven::Yes && base(place) != Proven::Yes),
        but: labels(&|place, held| held == Proven::No && (base(place) == Proven::Yes || below_a_yes(place))),
        unsure: labels(&|place, held| held == Proven::Unknown && base(place) != Proven::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_all_notations() {
        for (text, one) in [
            ("10.0.0.0/8", "10.0.0.1"),
            ("10.", "10.1.1.1"),
            ("10.2.*", "10.2.1.1"),
            ("198.51.100.7", "198.51.100.7"),
            ("2001:db8::/32", "2001:db8::1"),
        ] {
            assert_eq!(Range::parse(text).unwrap().one(&[]).unwrap().to_string(), one, "{text}");
        }
        for text in ["0.0.0.0/0", "::/0", "127.0.0.1", "laptop", "*", "*.example", "any"] {
            assert!(Range::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_range_is_tried_where_no_narrower_one_counts() {
        let named = |list: &[&str]| places(list.iter().map(|text| (*text).to_owned()));
        let (found, left) = named(&["10.0.0.0/8", "10.0.0.1", "10.0.0.2/31"]);
        assert_eq!((found[2].address.to_string().as_str(), left), ("10.0.0.4", 0));
        let (found, left) = named(&["10.0.0.0/8", "10.0.0.0/16"]);
        assert_eq!((found.len(), left), (3, 1), "nothing tried stands for the rest of the wider one");
    }

    #[test]
    fn everywhere_is_an_address_that_no_rule_names() {
        let (places, left) = places(["192.0.2.0/24".to_owned(), "10.0.0.0/8".to_owned()]);
        assert_eq!(super::places(["10.0.0.0/255.0.0.0".to_owned()]).0[2].label.as_deref(), Some("10.0.0.0/8"));
        assert_eq!((places[0].address.to_string().as_str(), places.len(), left), ("203.0.113.77", 4, 0));
    }

    #[test]
    fn sums() {
        let place = |label: Option<&str>, address: &str| Place {
            label: label.map(str::to_owned),
            address: address.parse().unwrap(),
        };
        let (four, six, ten) = (place(None, "192.0.2.1"), place(None, "::2"), place(Some("10.0.0.0/8"), "10.0.0.1"));
        let all = |a, b, c| sum(&[(&four, a), (&six, b), (&ten, c)], true);
        use Proven::{No, Unknown, Yes};
        assert_eq!(all(No, No, Yes).only, ["10.0.0.0/8"]);
        assert_eq!(all(Yes, Yes, No).but, ["10.0.0.0/8"]);
        assert_eq!(all(Yes, Yes, Unknown).unsure, ["10.0.0.0/8"]);
        let one = place(Some("10.0.0.1"), "10.0.0.1");
        assert_eq!(sum(&[(&four, No), (&six, No), (&ten, Yes), (&one, No)], true).but, ["10.0.0.1"]);
        assert_eq!(all(Yes, No, Yes).family.as_deref(), Some("IPv4"));
        assert_eq!(all(Yes, Yes, Yes), Places { everywhere: Yes, ..Places::default() });
        assert_eq!(all(Unknown, No, No).everywhere, Unknown);
        assert!(all(No, No, No).nobody() && !all(No, No, Yes).nobody());
    }
}
