//! Patterns that pick hosts: `web`, `all`, `db*`, `web[1-3].example`, `web:!canary`, `web,&staging` (Ansible docs: "Patterns:
//! targeting hosts and groups"). What is picked by position (`web[0]`) or by a regular expression (`~...`) is refused, as
//! is whatever matches nothing: a slip must not mean fewer hosts, and still less all of them.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv6Addr;

use super::Inventory;
use crate::error::{Failure, Result};
use crate::playbook::{nearest, shown};

/// How a term changes the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Add,
    Within,
    Without,
}

impl Inventory {
    /// The hosts that `pattern` picks, by their index, in the order of the inventory. A term is the name of a host or group
    /// (the group, if both have it), `all`, or a name with `*`, `?` and `[a-c]`; `!term` takes hosts out and `&term` keeps
    /// only those, both after everything else wherever they stand. A pattern of such terms only begins with all hosts.
    ///
    /// Terms are separated by `,`, or, where there is no comma, by `:`. A pattern without a comma that is an IPv6 address,
    /// with or without brackets, or the whole name of a host, is one term: with such names separate by commas.
    ///
    /// # Errors
    /// When a term, or all of them together, match nothing.
    pub fn limit(&self, pattern: &str) -> Result<Vec<usize>> {
        let index = Index::new(self);
        let bad = |what: String, hint: String| Failure::input(shown(pattern), what).hint(hint);
        let terms = terms(pattern, &index);
        if terms.is_empty() {
            return Err(bad("an empty pattern".to_owned(), "name hosts or groups, or all".to_owned()));
        }
        let mut picked = vec![terms.iter().all(|(sign, _)| *sign != Sign::Add); self.hosts.len()];
        for wanted in [Sign::Add, Sign::Within, Sign::Without] {
            for (sign, term) in terms.iter().filter(|(sign, _)| *sign == wanted) {
                let found = index.find(term).map_err(|(what, hint)| bad(what, hint))?;
                match sign {
                    Sign::Add => found.iter().for_each(|host| set(&mut picked, *host, true)),
                    Sign::Without => found.iter().for_each(|host| set(&mut picked, *host, false)),
                    Sign::Within => {
                        let mut both = vec![false; picked.len()];
                        let kept = found.into_iter().filter(|host| picked.get(*host) == Some(&true));
                        kept.for_each(|host| set(&mut both, host, true));
                        picked = both;
                    }
                }
            }
        }
        let hosts: Vec<usize> = picked.iter().enumerate().filter_map(|(host, picked)| picked.then_some(host)).collect();
        if hosts.is_empty() {
            let hint = "each part matches something, but nothing is left of all of them".to_owned();
            return Err(bad("no host is left".to_owned(), hint));
        }
        Ok(hosts)
    }
}

fn set(picked: &mut [bool], host: usize, value: bool) {
    if let Some(slot) = picked.get_mut(host) {
        *slot = value;
    }
}

/// Hosts and groups by name.
struct Index<'i> {
    hosts: HashMap<&'i str, usize>,
    groups: BTreeMap<&'i str, Vec<usize>>,
    inventory: &'i Inventory,
}

impl<'i> Index<'i> {
    fn new(inventory: &'i Inventory) -> Self {
        let mut groups: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, host) in inventory.hosts.iter().enumerate() {
            for group in &host.groups {
                groups.entry(group).or_default().push(index);
            }
        }
        let hosts = inventory.hosts.iter().enumerate().map(|(index, host)| (host.name.as_str(), index)).collect();
        Self { hosts, groups, inventory }
    }

    /// The hosts of one term, in any order, some perhaps twice; or what is wrong, and the fix.
    fn find(&self, term: &str) -> std::result::Result<Vec<usize>, (String, String)> {
        if term.starts_with(['~', '@']) {
            let what = if term.starts_with('~') { "a regular expression" } else { "a file of hosts" };
            return Err((format!("'{}': {what} is no pattern here", shown(term)), "use names, * and ?".to_owned()));
        }
        if by_position(term) {
            let what = format!("'{}': hosts are not picked by position", shown(term));
            return Err((what, "name the hosts, or write ? for one character of a name".to_owned()));
        }
        if term == "all" {
            return Ok(self.hosts.values().copied().collect());
        }
        let bare = term.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|inner| is_address(inner));
        let name = bare.unwrap_or(term);
        if let Some(hosts) = self.groups.get(name) {
            return Ok(hosts.clone());
        }
        if let Some(host) = self.hosts.get(name) {
            return Ok(vec![*host]);
        }
        let mut found = Vec::new();
        if bare.is_none() && term.contains(['*', '?', '[']) {
            let glob = glob(term);
            found.extend(self.hosts.iter().filter(|(name, _)| matches(&glob, name)).map(|(_, host)| *host));
            found.extend(self.groups.iter().filter(|(name, _)| matches(&glob, name)).flat_map(|(_, hosts)| hosts));
        }
        if found.is_empty() {
            return Err((format!("'{}' matches no host", shown(term)), self.hint(term)));
        }
        Ok(found)
    }

    fn hint(&self, term: &str) -> String {
        let known = self.groups.keys().copied().chain(self.inventory.hosts.iter().map(|host| host.name.as_str()));
        match nearest(term, known) {
            Some(near) => format!("did you mean '{}'?", shown(near)),
            None if term.contains(':') => {
                "with commas in a pattern, or an IPv6 address, separate by commas only".to_owned()
            }
            None => "name a host or a group that has hosts".to_owned(),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.split('%').next().unwrap_or_default().parse::<Ipv6Addr>().is_ok()
}

/// `web[0]`, `web[-1]`, `web[0:5]`: positions to Ansible, and characters to a shell.
fn by_position(term: &str) -> bool {
    let inner = term.strip_suffix(']').and_then(|rest| rest.rsplit_once('['));
    inner.is_some_and(|(before, inner)| {
        !before.is_empty() && !inner.is_empty() && inner.chars().all(|c| c.is_ascii_digit() || matches!(c, '-' | ':'))
    })
}

fn terms<'p>(pattern: &'p str, index: &Index<'_>) -> Vec<(Sign, &'p str)> {
    let pattern = pattern.trim();
    let bare = pattern.trim_start_matches(['!', '&']);
    let inner = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bare);
    let parts: Vec<&str> = if pattern.contains(',') {
        pattern.split(',').collect()
    } else if is_address(inner) || index.hosts.contains_key(bare) {
        vec![pattern]
    } else {
        let mut depth = 0_usize;
        let outside = |c: char| {
            match c {
                '[' => depth += 1,
                ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ':' && depth == 0
        };
        pattern.split(outside).collect()
    };
    let sign = |part: &'p str| match (part.strip_prefix('!'), part.strip_prefix('&')) {
        (Some(rest), _) => (Sign::Without, rest.trim()),
        (_, Some(rest)) => (Sign::Within, rest.trim()),
        _ => (Sign::Add, part),
    };
    parts.into_iter().map(str::trim).filter(|part| !part.is_empty()).map(sign).collect()
}

/// One step of a glob.
enum Step {
    Many,
    One,
    Is(char),
    /// One of these ranges; or none of them, after `!`.
    Class(bool, Vec<(char, char)>),
}

/// The steps of `text`; a bracket that is not closed stands for itself.
fn glob(text: &str) -> Vec<Step> {
    let (mut steps, mut chars) = (Vec::new(), text.chars());
    while let Some(c) = chars.next() {
        steps.push(match c {
            '*' => Step::Many,
            '?' => Step::One,
            '[' => match chars.as_str().split_once(']').filter(|(inner, _)| !inner.is_empty()) {
                Some((inner, rest)) => {
                    chars = rest.chars();
                    class(inner)
                }
                None => Step::Is(c),
            },
            c => Step::Is(c),
        });
    }
    steps
}

fn class(inner: &str) -> Step {
    let (body, not) = inner.strip_prefix('!').map_or((inner, false), |body| (body, true));
    let (mut ranges, mut chars) = (Vec::new(), body.chars());
    while let Some(from) = chars.next() {
        let to = chars.as_str().strip_prefix('-').and_then(|rest| rest.chars().next());
        if to.is_some() {
            chars.nth(1);
        }
        ranges.push((from, to.unwrap_or(from)));
    }
    Step::Class(not, ranges)
}

/// True when `name` matches, in time that no pattern can blow up: the last `*` alone is tried again.
fn matches(glob: &[Step], name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    let (mut step, mut at, mut again) = (0, 0, None);
    loop {
        let fits = match (glob.get(step), name.get(at)) {
            (None, None) => return true,
            (Some(Step::Many), _) => {
                again = Some((step + 1, at));
                step += 1;
                continue;
            }
            (Some(Step::One), Some(_)) => true,
            (Some(Step::Is(want)), Some(c)) => want == c,
            (Some(Step::Class(not, ranges)), Some(c)) => {
                ranges.iter().any(|(from, to)| (from..=to).contains(&c)) != *not
            }
            _ => false,
        };
        if fits {
            (step, at) = (step + 1, at + 1);
            continue;
        }
        match again {
            Some((after, from)) if from < name.len() => {
                again = Some((after, from + 1));
                (step, at) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    fn inventory() -> Inventory {
        read(&[(
            "hosts",
            "lone\n[web]\nweb[1:3].x\n[db]\ndb1\n[dc:children]\nweb\ndb\n[canary]\nweb2.x\n[v6]\n2001:db8::1\n[empty]\n",
        )])
    }

    #[test]
    fn patterns_pick_hosts() {
        let inventory = inventory();
        for (pattern, want) in [
            ("all", "lone web1.x web2.x web3.x db1 2001:db8::1"),
            ("*", "lone web1.x web2.x web3.x db1 2001:db8::1"),
            ("db1,lone", "lone db1"),
            ("web:db", "web1.x web2.x web3.x db1"),
            ("dc:!canary", "web1.x web3.x db1"),
            ("!canary:dc", "web1.x web3.x db1"),
            ("&canary, web", "web2.x"),
            ("!dc", "lone 2001:db8::1"),
            ("&canary", "web2.x"),
            ("web:db:&dc:!web1.x:!db", "web2.x web3.x"),
            ("ungrouped", "lone"),
            ("web?.x", "web1.x web2.x web3.x"),
            ("web[1-2].x", "web1.x web2.x"),
            ("web[!1-2].x", "web3.x"),
            ("can*", "web2.x"),
            ("*1*", "web1.x db1 2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("!2001:db8::1", "lone web1.x web2.x web3.x db1"),
            ("db,2001:db8::1,!db", "2001:db8::1"),
            (" web , ", "web1.x web2.x web3.x"),
        ] {
            let picked = inventory.limit(pattern).unwrap_or_else(|failure| panic!("{pattern}: {failure}"));
            let names: Vec<&str> = picked.iter().map(|index| inventory.hosts[*index].name.as_str()).collect();
            assert_eq!(names.join(" "), want, "{pattern}");
        }
    }

    #[test]
    fn what_matches_nothing_is_never_silent() {
        let inventory = inventory();
        for (pattern, what, hint) in [
            ("", "an empty pattern", "all"),
            (",:", "':' matches no host", ""),
            ("wbe", "'wbe' matches no host", "did you mean 'web'?"),
            ("web:!canry", "'canry' matches no host", "did you mean 'canary'?"),
            ("web:&nothing", "'nothing' matches no host", ""),
            ("empty", "'empty' matches no host", ""),
            ("x*", "'x*' matches no host", ""),
            ("web:&db", "no host is left", ""),
            ("web:!all", "no host is left", ""),
            ("web[0]", "'web[0]': hosts are not picked by position", ""),
            ("web[0:1]", "'web[0:1]': hosts are not picked by position", ""),
            ("~web.*", "'~web.*': a regular expression is no pattern here", ""),
            ("@retry", "'@retry': a file of hosts is no pattern here", ""),
            ("2001:db8::1:web", "'2001' matches no host", ""),
            ("db,web:canary", "'web:canary' matches no host", "commas only"),
            ("w\u{1b}[2J", "'w?[2J' matches no host", ""),
            ("!", "'' matches no host", ""),
        ] {
            let failure = inventory.limit(pattern).expect_err(pattern);
            assert_eq!(failure.what, what, "{pattern}");
            assert!(failure.hint.contains(hint), "{pattern}: {}", failure.hint);
        }
    }

    #[test]
    fn no_glob_takes_long() {
        let name = "a".repeat(255);
        let start = std::time::Instant::now();
        for _ in 0..1_000 {
            assert!(!matches(&glob(&"*a".repeat(100)), &format!("{name}b")));
        }
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        assert!(matches(&glob("[x"), "[x") && matches(&glob("a[]"), "a[]") && !matches(&glob("a[b-a]"), "ab"));
    }
}
