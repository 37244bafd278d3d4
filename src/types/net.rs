//! Ports, protocols and address ranges.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Invalid, Word, word_serde};

/// A TCP or UDP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

/// A transport protocol that ufw(8) rules name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// An address or a range with its prefix length, host bits zero, such as `10.0.0.0/8` or `2001:db8::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Port {
    /// The SSH port of RFC 4253.
    pub const SSH: Self = Self(22);

    /// A port from its number.
    ///
    /// # Errors
    /// For 0.
    pub fn new(number: u16) -> Result<Self, Invalid> {
        if number == 0 { Err(Invalid::new("port 0", "write a port from 1 to 65535")) } else { Ok(Self(number)) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Port {
    type Error = String;
    fn try_from(number: u16) -> Result<Self, String> {
        Self::new(number).map_err(|invalid| invalid.why)
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.0
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl schemars::JsonSchema for Port {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "integer", "minimum": 1, "maximum": 65535 })
    }
    fn inline_schema() -> bool {
        true
    }
}

impl Proto {
    /// The name as in services(5).
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Cidr {
    /// The first address of the range.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// True for IPv6.
    pub const fn is_v6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// True when `address` is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 4),
            IpAddr::V6(v6) => (u128::from(v6), 6),
        };
        let ((mine, family), (other, other_family)) = (bits(self.address), bits(address));
        family == other_family && (self.prefix == 0 || (mine ^ other) >> (128 - u32::from(self.prefix)) == 0)
    }
}

impl Word for Cidr {
    const FORMAT: &'static str = "cidr";
    const PATTERN: &'static str = "^[0-9a-fA-F:.]+(/[0-9]{1,3})?$";
    const ABOUT: &'static str = "an address or a range such as 198.51.100.0/24 or 2001:db8::/32";

    fn parse(text: &str) -> Result<Self, Invalid> {
        let hint = "write an address or a range such as 198.51.100.0/24 or 2001:db8::/32";
        let (head, tail) = text.split_once('/').map_or((text, None), |(head, tail)| (head, Some(tail)));
        let address: IpAddr = head.parse().map_err(|_| Invalid::new("not an IP address", hint))?;
        let most: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match tail {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits
                .parse::<u8>()
                .ok()
                .filter(|length| *length <= most)
                .ok_or_else(|| Invalid::new(format!("prefix length over {most}"), hint))?,
            Some(_) => return Err(Invalid::new("the prefix length is not a number", hint)),
        };
        let range = Self { address, prefix };
        let masked = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
        };
        if masked == address {
            return Ok(range);
        }
        Err(Invalid::new(
            "host bits are set beyond the prefix length",
            format!("write {masked}/{prefix} or a single address"),
        ))
    }

    fn text(&self) -> String {
        let single = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == single { self.address.to_string() } else { format!("{}/{}", self.address, self.prefix) }
    }
}

word_serde!(Cidr);

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for bad in ["", "x", "10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0.0/ 8", "10.0.0.0/+8"] {
            assert!(Cidr::parse(bad).is_err(), "{bad:?}");
        }
        let ten = Cidr::parse("10.0.0.0/8").unwrap();
        assert!(ten.contains("10.2.3.4".parse().unwrap()));
        assert!(!ten.contains("11.2.3.4".parse().unwrap()));
        assert!(!ten.contains("::1".parse().unwrap()));
        assert!(Cidr::parse("0.0.0.0/0").unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!(Cidr::parse("::/0").unwrap().contains("2001:db8::1".parse().unwrap()));
        assert_eq!(Cidr::parse("2001:db8::1").unwrap().text(), "2001:db8::1");
    }
}
