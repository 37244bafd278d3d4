//! What `sshd -T` prints: one `keyword value` a line. Names are compared without case (10.6 writes them in CamelCase,
//! 8.4 to 10.0 in lower case), numbers as numbers, and old names of values as their new ones. Must not run sshd.

/// The parsed output of `sshd -T`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    lines: Vec<(String, String)>,
}

impl Effective {
    /// Parses the output; lines without a value are kept with an empty one.
    pub fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { lines: text.lines().filter(|text| !text.trim().is_empty()).map(line).collect() }
    }

    /// From pairs, keywords in any case.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { lines: pairs.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect() }
    }

    /// The first value of `keyword`.
    pub fn get(&self, keyword: &str) -> Option<&str> {
        self.lines.iter().find(|(name, _)| name.eq_ignore_ascii_case(keyword)).map(|(_, value)| value.as_str())
    }

    /// All values of `keyword`, such as several `port` lines.
    pub fn all<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(keyword)).map(|(_, value)| value.as_str())
    }

    /// True when `keyword` has the value `want`, see [`same`].
    pub fn is(&self, keyword: &str, want: &str) -> bool {
        self.get(keyword).is_some_and(|have| same(have, want))
    }

    /// The output as text again.
    pub fn text(&self) -> String {
        self.lines.iter().map(|(name, value)| format!("{name} {value}\n")).collect()
    }

    /// The ports of `listenaddress` lines with their addresses, such as `("0.0.0.0", 22)` and `("::", 22)`.
    pub fn listens(&self) -> Vec<(String, u16)> {
        let address = |value: &str| {
            let value = value.split(' ').next().unwrap_or_default();
            let (host, port) = value.rsplit_once(':')?;
            Some((host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?))
        };
        self.all("listenaddress").filter_map(address).collect()
    }

    /// The ports that sshd would listen on, sorted, each once.
    pub fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.listens().into_iter().map(|(_, port)| port).collect();
        if ports.is_empty() {
            ports = self.all("port").filter_map(|value| value.parse().ok()).collect();
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// Compares two values as sshd means them: without case, numbers as numbers, `without-password` as
/// `prohibit-password`.
pub fn same(left: &str, right: &str) -> bool {
    let new_name = |value: &str| {
        if value.eq_ignore_ascii_case("without-password") {
            "prohibit-password".to_owned()
        } else {
            value.to_ascii_lowercase()
        }
    };
    match (left.parse::<f64>(), right.parse::<f64>()) {
        (Ok(left), Ok(right)) => (left - right).abs() < 1e-6,
        _ => new_name(left) == new_name(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_all_versions() {
        let old = Effective::parse("port 22\nport 2222\npermitrootlogin without-password\nlogingracetime 30\n");
        let new = Effective::parse("Port 22\nPort 2222\nPermitRootLogin prohibit-password\nLoginGraceTime 30.000000\n");
        for effective in [old, new] {
            assert!(effective.is("PermitRootLogin", "prohibit-password"));
            assert!(effective.is("permitrootlogin", "without-password"));
            assert!(effective.is("LoginGraceTime", "30"));
            assert!(!effective.is("LoginGraceTime", "31"));
            assert!(!effective.is("MaxAuthTries", "6"));
            assert_eq!(effective.ports(), [22, 2222]);
        }
    }

    #[test]
    fn addresses() {
        let effective = Effective::parse("port 22\nlistenaddress [::]:22\nlistenaddress 10.0.0.1:2022 rdomain x\n");
        assert_eq!(effective.listens(), [("::".to_owned(), 22), ("10.0.0.1".to_owned(), 2022)]);
        assert_eq!(effective.ports(), [22, 2022]);
        assert_eq!(Effective::parse("port 7\nPermitTTY\n").ports(), [7]);
    }
}
