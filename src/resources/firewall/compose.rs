//! The texts for iptables-restore: what ufw's init script builds in some thirty steps, as one commit a family, and the
//! way back to what the kernel held before.
//!
//! The order within each chain is that of ufw-init-functions, so that a boot gives the same firewall.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::change::Action;
use crate::formats::netfilter::Table;
use crate::formats::ufw::{Family, Policies, Policy};
use crate::host::Command;

/// Built-in chain and its word in ufw's chains.
const WAYS: [(&str, &str); 3] = [("INPUT", "input"), ("OUTPUT", "output"), ("FORWARD", "forward")];
/// ufw's chains that are hooked into a built-in one, in order.
const HOOKED: [&str; 6] = ["before-logging", "before", "after", "after-logging", "reject", "track"];

/// What the kernel is to hold in one family.
pub struct Sources<'a> {
    /// Which family.
    pub family: Family,
    /// Defaults.
    pub policies: Policies,
    /// before.rules.
    pub before: &'a str,
    /// after.rules.
    pub after: &'a str,
    /// user.rules.
    pub user: &'a str,
}

/// The lines of one rules file by table.
struct Sections<'a> {
    filter: Vec<&'a str>,
    others: Vec<(&'a str, Vec<&'a str>)>,
}

/// Splits a rules file; `Err` is a line outside of a table.
fn sections(text: &str) -> Result<Sections<'_>, String> {
    let mut found = Sections { filter: Vec::new(), others: Vec::new() };
    let mut table = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
            if name != "filter" {
                found.others.push((name, Vec::new()));
            }
        } else if line == "COMMIT" {
            table = "";
        } else if line.is_empty() || line.starts_with('#') {
        } else if table == "filter" {
            found.filter.push(line);
        } else if let Some((_, lines)) = found.others.last_mut().filter(|_| !table.is_empty()) {
            lines.push(line);
        } else {
            return Err(line.to_owned());
        }
    }
    Ok(found)
}

/// The rules of one family as a model and as texts.
pub struct Composed {
    family: Family,
    /// Everything but the hooks, as one commit; may be loaded again at any time.
    pub content: String,
    /// Rules for other tables (`*nat` in before.rules), loaded once with the hooks.
    others: String,
    /// The way back from `others`.
    others_back: String,
    /// All chains that `content` declares.
    pub chains: BTreeSet<String>,
}

impl Composed {
    /// Puts the files together.
    ///
    /// # Errors
    /// The line of a rules file that stands outside of a table.
    pub fn new(sources: &Sources<'_>) -> Result<Self, String> {
        let prefix = sources.family.prefix();
        let policies = [sources.policies.input, sources.policies.output, sources.policies.forward];
        let mut text = String::from("*filter\n");
        let mut chains = BTreeSet::new();
        for name in own_chains(prefix) {
            let _ = writeln!(text, ":{name} - [0:0]");
            chains.insert(name);
        }
        for ((_, way), policy) in WAYS.iter().zip(policies) {
            match policy {
                Policy::Reject => drop(writeln!(text, "-A {prefix}-reject-{way} -j REJECT")),
                Policy::Accept => {
                    for proto in ["tcp", "udp"] {
                        let _ =
                            writeln!(text, "-A {prefix}-track-{way} -p {proto} -m conntrack --ctstate NEW -j ACCEPT");
                    }
                }
                Policy::Drop => {}
            }
            let _ = writeln!(text, "-A {prefix}-skip-to-policy-{way} -j {}", policy.as_str());
        }
        let (mut others, mut others_back) = (String::new(), String::new());
        for file in [sources.before, sources.after, sources.user] {
            let file = sections(file)?;
            for line in file.filter {
                match declared(line) {
                    // A second declaration would only flush what is empty.
                    Some(name) if !chains.insert(name.to_owned()) => {}
                    _ => drop(writeln!(text, "{line}")),
                }
            }
            for (table, lines) in file.others {
                other_table(table, &lines, &mut others, &mut others_back);
            }
        }
        for (_, way) in WAYS {
            let _ = writeln!(text, "-A {prefix}-before-{way} -j {prefix}-user-{way}");
        }
        for ((builtin, _), policy) in WAYS.iter().zip(policies) {
            let _ = writeln!(text, ":{builtin} {} [0:0]", target(policy));
        }
        text.push_str("COMMIT\n");
        Ok(Self { family: sources.family, content: text, others, others_back, chains })
    }

    /// The hooks that `kernel` lacks.
    fn missing_hooks(&self, kernel: &Table) -> Vec<(&'static str, String)> {
        hooks(self.family.prefix()).filter(|(builtin, chain)| !kernel.has(builtin, &format!("-j {chain}"))).collect()
    }

    /// The text that brings a kernel which now holds `kernel` to these rules, missing hooks included, in one commit.
    pub fn loading(&self, kernel: &Table) -> String {
        let missing = self.missing_hooks(kernel);
        if missing.is_empty() {
            return self.content.clone();
        }
        let mut text = self.others.clone();
        text.push_str(self.content.strip_suffix("COMMIT\n").unwrap_or(&self.content));
        for (builtin, chain) in &missing {
            let _ = writeln!(text, "-A {builtin} -j {chain}");
        }
        text.push_str("COMMIT\n");
        text
    }

    /// The action for [`Composed::loading`]. Where hooks are missing it acts once: they are there with all the rest.
    pub fn forward(&self, kernel: &Table) -> Action {
        let run = restore(self.family, &self.loading(kernel));
        match self.missing_hooks(kernel).first() {
            None => Action::Run(run),
            // 1: not hooked. 2: the chain is not there either.
            Some((builtin, chain)) => {
                Action::When { check: hooked(self.family, builtin, chain), codes: vec![1, 2], run }
            }
        }
    }

    /// The actions that bring ufw's part of the kernel back to what it is in `kernel`: chains that were there get
    /// their rules, others go, hooks and policies as before. Rules of others are not touched.
    pub fn backward(&self, kernel: &Table) -> Action {
        let missing = self.missing_hooks(kernel);
        let mut text = String::from("*filter\n");
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for chain in &self.chains {
            for rule in kernel.rules(chain) {
                let _ = writeln!(text, "-A {chain} {rule}");
            }
        }
        for (builtin, chain) in &missing {
            let _ = writeln!(text, "-D {builtin} -j {chain}");
        }
        for chain in self.chains.iter().filter(|chain| !kernel.chains.contains_key(*chain)) {
            let _ = writeln!(text, "-X {chain}");
        }
        for (builtin, _) in WAYS {
            let _ = writeln!(text, ":{builtin} {} [0:0]", kernel.policy(builtin));
        }
        text.push_str("COMMIT\n");
        match missing.first() {
            None => Action::Run(restore(self.family, &text)),
            Some((builtin, chain)) => {
                text.push_str(&self.others_back);
                let run = restore(self.family, &text);
                Action::When { check: hooked(self.family, builtin, chain), codes: vec![0], run }
            }
        }
    }
}

/// Appends a table other than filter, and its way back.
fn other_table(table: &str, lines: &[&str], forward: &mut String, backward: &mut String) {
    let _ = writeln!(forward, "*{table}\n{}\nCOMMIT", lines.join("\n"));
    let _ = writeln!(backward, "*{table}");
    for line in lines.iter().rev() {
        if let Some(rest) = line.strip_prefix("-A ") {
            let _ = writeln!(backward, "-D {rest}");
        } else if let Some(rest) = line.strip_prefix("-I ") {
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            let rule = rule.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let _ = writeln!(backward, "-D {chain} {rule}");
        }
    }
    backward.push_str("COMMIT\n");
}

/// The chain that a line declares, when it is not a built-in one.
fn declared(line: &str) -> Option<&str> {
    let (name, rest) = line.strip_prefix(':')?.split_once(' ')?;
    rest.trim_start().starts_with('-').then_some(name)
}

/// Every chain that ufw itself has, whatever the rules files say.
fn own_chains(prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = hooks(prefix).map(|(_, chain)| chain).collect();
    for (_, way) in WAYS {
        names.push(format!("{prefix}-skip-to-policy-{way}"));
        names.push(format!("{prefix}-user-{way}"));
        names.push(format!("{prefix}-user-logging-{way}"));
    }
    for name in ["logging-deny", "logging-allow", "user-limit", "user-limit-accept"] {
        names.push(format!("{prefix}-{name}"));
    }
    names
}

fn hooks(prefix: &str) -> impl Iterator<Item = (&'static str, String)> + '_ {
    WAYS.iter()
        .flat_map(move |(builtin, way)| HOOKED.iter().map(move |part| (*builtin, hooked_chain(prefix, part, way))))
}

/// `before-logging` and `input` make `ufw-before-logging-input`.
fn hooked_chain(prefix: &str, part: &str, way: &str) -> String {
    format!("{prefix}-{part}-{way}")
}

const fn target(policy: Policy) -> &'static str {
    match policy {
        Policy::Accept => "ACCEPT",
        Policy::Drop | Policy::Reject => "DROP",
    }
}

/// The directory of iptables on Debian and Ubuntu.
fn program(family: Family, tail: &str) -> String {
    let name = if family == Family::V6 { "ip6tables" } else { "iptables" };
    format!("/usr/sbin/{name}{tail}")
}

/// Seconds to wait for another program that holds the xtables lock.
const WAIT: &str = "10";

/// Loads a text in one commit a table, leaving alone what it does not name.
fn restore(family: Family, text: &str) -> Command {
    Command::new([&program(family, "-restore"), "-w", WAIT, "--noflush"]).stdin(text)
}

/// Loads a rules file that declares all chains it fills.
pub fn restore_file(family: Family, path: &str) -> Action {
    Action::Run(Command::new([&program(family, "-restore"), "-w", WAIT, "--noflush", path]))
}

/// [`restore_file`] for the way back, where ufw's chains may have gone by an earlier attempt: the file would make them
/// anew, with nothing that leads to them.
pub fn restore_file_back(family: Family, path: &str) -> Action {
    let run = Command::new([&program(family, "-restore"), "-w", WAIT, "--noflush", path]);
    match hooks(family.prefix()).next() {
        Some((builtin, chain)) => Action::When { check: hooked(family, builtin, &chain), codes: vec![0], run },
        None => Action::Run(run),
    }
}

/// Parses a text and changes nothing.
pub fn trial(family: Family, text: &str) -> Command {
    Command::new([&program(family, "-restore"), "-w", WAIT, "--noflush", "--test"]).stdin(text)
}

/// Prints all tables.
pub fn save(family: Family) -> Command {
    Command::new([program(family, "-save")])
}

fn hooked(family: Family, builtin: &str, chain: &str) -> Command {
    Command::new([&program(family, ""), "-w", WAIT, "-C", builtin, "-j", chain])
}

/// True when the kernel lets nothing through that the rules would stop: hooks, policies, ufw's own chains, and no fewer
/// rules in the chains that come from before.rules and after.rules (which iptables-save prints in other words).
pub fn holds(composed: &Composed, kernel: &Table) -> Result<bool, String> {
    use crate::formats::netfilter::{Ruleset, canonical};

    if !composed.missing_hooks(kernel).is_empty() {
        return Ok(false);
    }
    let mut wanted = Ruleset::default();
    wanted.tables.insert("filter".to_owned(), kernel.clone());
    wanted.restore(&composed.content)?;
    let Some(wanted) = wanted.filter() else { return Ok(false) };
    let prefix = composed.family.prefix();
    let from_files = |name: &str| {
        !own_chains(prefix).iter().any(|own| own == name)
            || WAYS
                .iter()
                .any(|(_, way)| ["before", "after"].iter().any(|part| hooked_chain(prefix, part, way) == name))
    };
    let same = |chain: &String| {
        let (have, want) = (kernel.rules(chain), wanted.rules(chain));
        if from_files(chain) {
            return kernel.chains.contains_key(chain) && have.len() >= want.len();
        }
        kernel.chains.contains_key(chain)
            && have.len() == want.len()
            && have.iter().zip(want).all(|(have, want)| canonical(have) == canonical(want))
    };
    let policies = WAYS.iter().all(|(builtin, _)| kernel.policy(builtin) == wanted.policy(builtin));
    Ok(policies && composed.chains.iter().all(same))
}
