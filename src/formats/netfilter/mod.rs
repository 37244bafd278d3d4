//! The text of iptables-save(8) and iptables-restore(8): a model of tables and chains, and what a text does to it.
//!
//! Rules are kept as text; [`walk`] reads what it needs of them. Must not run programs.

pub mod walk;

use std::collections::BTreeMap;

/// All tables of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// By name, such as `filter`.
    pub tables: BTreeMap<String, Table>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// By name, such as `INPUT`.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chain {
    /// `ACCEPT` or `DROP` for a built-in chain.
    pub policy: Option<String>,
    /// In order, without `-A CHAIN`.
    pub rules: Vec<String>,
}

impl Ruleset {
    /// Reads the output of iptables-save.
    ///
    /// # Errors
    /// The line that makes no sense.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ruleset = Self::default();
        ruleset.restore(text)?;
        Ok(ruleset)
    }

    /// Does what `iptables-restore --noflush` would do with `text`.
    ///
    /// # Errors
    /// The line that makes no sense or would fail.
    pub fn restore(&mut self, text: &str) -> Result<(), String> {
        let mut table = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('*') {
                name.clone_into(&mut table);
                self.tables.entry(table.clone()).or_default();
            } else if line.is_empty() || line.starts_with('#') || line == "COMMIT" {
            } else {
                let Some(target) = self.tables.get_mut(&table) else { return Err(line.to_owned()) };
                target.line(line).ok_or_else(|| line.to_owned())?;
            }
        }
        Ok(())
    }

    /// The filter table, when there is one.
    pub fn filter(&self) -> Option<&Table> {
        self.tables.get("filter")
    }
}

impl Table {
    /// One line within a table; `None` when it makes no sense or would fail.
    fn line(&mut self, line: &str) -> Option<()> {
        if let Some(rest) = line.strip_prefix(':') {
            let mut parts = rest.split_whitespace();
            let (name, policy) = (parts.next()?, parts.next().unwrap_or("-"));
            let chain = self.chains.entry(name.to_owned()).or_default();
            if policy == "-" {
                chain.rules.clear();
            } else {
                chain.policy = Some(policy.to_owned());
            }
            return Some(());
        }
        // Counters may stand before a rule.
        let line = if line.starts_with('[') { line.split_once(']')?.1.trim_start() } else { line };
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, rule) = rest.trim_start().split_once(' ').unwrap_or((rest, ""));
        let rule = rule.trim();
        match command {
            "-A" => self.chains.entry(name.to_owned()).or_default().rules.push(rule.to_owned()),
            "-I" => {
                let (at, rule) = match rule.split_once(' ') {
                    Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                        (number.parse::<usize>().ok()?.saturating_sub(1), rest)
                    }
                    _ => (0, rule),
                };
                let rules = &mut self.chains.entry(name.to_owned()).or_default().rules;
                rules.insert(at.min(rules.len()), rule.to_owned());
            }
            "-D" => {
                let rules = &mut self.chains.get_mut(name)?.rules;
                let at = rules.iter().position(|have| canonical(have) == canonical(rule))?;
                rules.remove(at);
            }
            "-F" => self.chains.get_mut(name)?.rules.clear(),
            "-X" => self.chains.remove(name).map(|_| ())?,
            "-N" => self.chains.entry(name.to_owned()).or_default().rules.clear(),
            "-P" => self.chains.entry(name.to_owned()).or_default().policy = Some(rule.to_owned()),
            _ => return None,
        }
        Some(())
    }

    /// True when `chain` has exactly this rule.
    pub fn has(&self, chain: &str, rule: &str) -> bool {
        self.chains.get(chain).is_some_and(|chain| chain.rules.iter().any(|have| have == rule))
    }

    /// The rules of a chain; none when it is not there.
    pub fn rules(&self, chain: &str) -> &[String] {
        self.chains.get(chain).map_or(&[], |chain| &chain.rules)
    }

    /// The policy of a built-in chain; an absent one accepts.
    pub fn policy(&self, chain: &str) -> &str {
        self.chains.get(chain).and_then(|chain| chain.policy.as_deref()).unwrap_or("ACCEPT")
    }
}

/// The words of a rule; quotes are taken away.
pub fn words(rule: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    let mut chars = rule.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some('"') | None, '\\') => word.extend(chars.next()),
            (None, '"' | '\'') => (quote, open) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (_, c) => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

/// One option of a rule: name, whether negated, values.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Term {
    /// Such as `-p` or `--dport`.
    pub name: String,
    /// True after `!`.
    pub not: bool,
    /// Joined by spaces.
    pub value: String,
}

/// The options of a rule in order; `-m` itself is left out.
pub fn terms(rule: &str) -> Vec<Term> {
    let mut terms = Vec::<Term>::new();
    let mut not = false;
    for word in words(rule) {
        if word == "!" {
            not = true;
        } else if word.starts_with('-') && word.len() > 1 && !word.starts_with("-1") {
            terms.push(Term { name: word, not: std::mem::take(&mut not), value: String::new() });
        } else if let Some(term) = terms.last_mut() {
            if !term.value.is_empty() {
                term.value.push(' ');
            }
            term.value.push_str(&word);
        }
    }
    terms.retain(|term| !matches!(term.name.as_str(), "-m" | "--match"));
    terms
}

/// A form in which a rule as written and the same rule as iptables-save prints it are equal, for the rules that ufw
/// makes for users: order, implied matches, host masks and defaults do not count.
pub fn canonical(rule: &str) -> String {
    let mut terms: Vec<String> = terms(rule)
        .into_iter()
        .filter_map(|term| {
            let value = match (term.name.as_str(), term.value.as_str()) {
                ("-p", "all") | ("-s" | "-d", "0.0.0.0/0" | "::/0") | ("--name", "DEFAULT") => return None,
                ("--mask" | "--rsource", _) | ("--limit-burst", "5") => return None,
                ("--reject-with", "icmp-port-unreachable" | "icmp6-port-unreachable") => return None,
                ("-s" | "-d", address) => {
                    address.strip_suffix("/32").or(address.strip_suffix("/128")).unwrap_or(address).to_owned()
                }
                ("-p", protocol) => numbered(protocol).to_owned(),
                // iptables-restore 1.8.7 takes single quotes for a part of the comment.
                ("--comment", comment) => comment.replace('\'', ""),
                ("--limit", rate) => rate.replace("/minute", "/min"),
                (_, value) => value.trim_end().to_owned(),
            };
            Some(format!("{}{} {value}", if term.not { "! " } else { "" }, term.name))
        })
        .collect();
    terms.sort();
    terms.join(" ")
}

/// A protocol as iptables-save prints it where /etc/protocols is missing.
fn numbered(protocol: &str) -> &str {
    match protocol {
        "icmpv6" => "ipv6-icmp",
        "2" => "igmp",
        "41" => "ipv6",
        "47" => "gre",
        "50" => "esp",
        "51" => "ah",
        "112" => "vrrp",
        other => other,
    }
}

/// Tables of nftables that are not those of iptables and have a chain on the input hook, with its policy.
pub fn foreign_chains(text: &str) -> Vec<(String, String)> {
    chains_of(text, "type filter hook input", &["filter", "mangle", "security"])
}

/// Such tables that may hand connections on to somewhere else.
pub fn foreign_nat(text: &str) -> Vec<String> {
    chains_of(text, "type nat hook prerouting", &["nat"]).into_iter().map(|(table, _)| table).collect()
}

/// Tables with a base chain like this one, but for those of iptables.
fn chains_of(text: &str, hook: &str, own: &[&str]) -> Vec<(String, String)> {
    let (mut table, mut found) = (String::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            name.trim_end_matches(['{', ' ']).clone_into(&mut table);
        } else if line.starts_with(hook) {
            let name = table.strip_prefix("ip ").or_else(|| table.strip_prefix("ip6 "));
            if name.is_some_and(|name| own.contains(&name)) {
                continue;
            }
            let policy = line.split("policy ").nth(1).unwrap_or("accept").trim_end_matches(';');
            found.push((table.clone(), policy.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::walk::{Fate, Packet, incoming};
    use super::*;

    fn filter(lines: &str) -> Table {
        Ruleset::parse(&format!("*filter\n{lines}\nCOMMIT\n")).unwrap().filter().unwrap().clone()
    }

    #[test]
    fn tables_of_nftables_own() {
        let text = "table ip nat {\n\tchain PREROUTING {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n\t}\n}\n\
                    table ip docker {\n\tchain pre {\n\t\ttype nat hook prerouting priority -100; policy accept;\n\t}\n}\n\
                    table inet own {\n\tchain in {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n";
        assert_eq!(foreign_nat(text), ["ip docker"]);
        assert_eq!(foreign_chains(text), [("inet own".to_owned(), "drop".to_owned())]);
    }

    #[test]
    fn restore_without_flush() {
        let mut rules = Ruleset::parse(
            "# x\n*filter\n:INPUT DROP [5:300]\n:a - [0:0]\n:b - [0:0]\n[1:2] -A INPUT -j a\n-A a -j ACCEPT\n-A b -j DROP\nCOMMIT\n",
        )
        .unwrap();
        rules
            .restore("*filter\n:INPUT ACCEPT [0:0]\n:a - [0:0]\n-A a -p tcp -j DROP\n-I a 1 -s 10.0.0.1 -j RETURN\n-I b -j LOG\n-D INPUT -j a\nCOMMIT\n*nat\n:P ACCEPT\nCOMMIT\n")
            .unwrap();
        let table = rules.filter().unwrap();
        assert_eq!(table.policy("INPUT"), "ACCEPT");
        assert_eq!(table.rules("a"), ["-s 10.0.0.1 -j RETURN", "-p tcp -j DROP"]);
        assert_eq!(table.rules("b"), ["-j LOG", "-j DROP"]);
        assert!(table.rules("INPUT").is_empty());
        assert_eq!(rules.restore("*filter\n-D INPUT -j a\n"), Err("-D INPUT -j a".to_owned()));
        assert_eq!(Ruleset::parse("-A INPUT -j ACCEPT\n"), Err("-A INPUT -j ACCEPT".to_owned()));
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(
            words(r#"-j LOG --log-prefix "[UFW \"x\"] " 'a b' """#),
            ["-j", "LOG", "--log-prefix", "[UFW \"x\"] ", "a b", ""]
        );
    }

    #[test]
    fn one_rule_in_two_spellings() {
        for (written, printed) in [
            ("-p tcp --dport 22 -s 10.0.0.1 -j ACCEPT", "-s 10.0.0.1/32 -p tcp -m tcp --dport 22 -j ACCEPT"),
            ("-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"),
            (
                "-m limit --limit 3/minute -j LOG --log-prefix \"[X] \"",
                "-m limit --limit 3/min -j LOG --log-prefix \"[X] \"",
            ),
            (
                "-p tcp -j ACCEPT -m comment --comment 'dapp_Nginx%20Full'",
                "-p tcp -m comment --comment \"\\'dapp_Nginx%20Full\\'\" -j ACCEPT",
            ),
            (
                "-m conntrack --ctstate NEW -m recent --set",
                "-m conntrack --ctstate NEW -m recent --set --name DEFAULT --mask 255.255.255.255 --rsource",
            ),
        ] {
            assert_eq!(canonical(written), canonical(printed));
        }
        assert_ne!(canonical("-p tcp --dport 22 -j ACCEPT"), canonical("-p tcp ! --dport 22 -j ACCEPT"));
        assert_ne!(canonical("-s 10.0.0.1 -j DROP"), canonical("-d 10.0.0.1 -j DROP"));
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let fate = |lines: &str| incoming(&filter(lines), Packet { proto: "tcp", port: 22, from: None });
        let (open, shut) = (Fate { in_: true, out: false }, Fate { in_: false, out: true });
        let both = Fate { in_: true, out: true };
        for (lines, want) in [
            ("", open),
            (":INPUT DROP [0:0]", shut),
            (":INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT", open),
            (":INPUT DROP [0:0]\n-A INPUT -p udp --dport 22 -j ACCEPT", shut),
            (":INPUT DROP [0:0]\n-A INPUT -p tcp --dport 20:25 -j a\n-A a -j b\n-A b -j RETURN\n-A a -j ACCEPT", open),
            ("-A INPUT -p tcp -m multiport --dports 80,22 -j DROP\n-A INPUT -j ACCEPT", shut),
            ("-A INPUT -s 192.0.2.1/32 -j DROP", open),
            ("-A INPUT ! -s 192.0.2.1/32 -j DROP", shut),
            ("-A INPUT ! -i lo -j DROP", shut),
            ("-A INPUT -i lo -j DROP", open),
            ("-A INPUT -i eth0 -j DROP", both),
            ("-A INPUT -m limit --limit 3/min -j DROP", both),
            (
                "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -j REJECT --reject-with tcp-reset",
                shut,
            ),
            ("-A INPUT -m conntrack --ctstate INVALID -j DROP", open),
            ("-A INPUT -m recent --set\n-A INPUT -g a\n-A INPUT -j DROP", shut),
            (":INPUT ACCEPT [0:0]\n-A INPUT -g a\n-A INPUT -j DROP\n:a - [0:0]\n-A a -j LOG --log-prefix \"x \"", open),
            ("-A INPUT -j a\n-A a -j INPUT", both),
        ] {
            assert_eq!(fate(lines), want, "{lines}");
        }
    }

    #[test]
    fn input_chains_that_are_not_those_of_iptables() {
        let text = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n}\n\
            table inet mine {\n\tchain in {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n\
            \tchain out {\n\t\ttype filter hook output priority 0; policy accept;\n\t}\n}\n\
            table ip6 other {\n\tchain x {\n\t\ttype filter hook input priority 5;\n\t}\n}\n";
        let found = foreign_chains(text);
        let want = [("inet mine", "drop"), ("ip6 other", "accept")];
        assert_eq!(found, want.map(|(table, policy)| (table.to_owned(), policy.to_owned())));
    }
}
