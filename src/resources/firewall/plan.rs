//! From what is to what should be: one additive change that opens and loads, one subtractive change that closes.
//!
//! Every plan is tried on a model of the kernel first: an SSH port that would not be let in is a refusal.

use std::collections::BTreeSet;

use crate::change::{Action, Change, Difference, Expect, Gate, Inverse, Note, Promise, Risk, Stage, Step, TextDiff};
use crate::error::{Failure, Result};
use crate::facts::Facts;
use crate::formats::ufw::{Family, Policy, Tuple, setting};
use crate::host::{Actor, Command, Node};
use crate::resource::Planned;
use crate::types::{AbsPath, Port, Proto};

use super::desired::Desired;
use super::family::{FamilyPlan, SshPorts};
use super::observe::{Boot, File, Found, Observed};
use super::settings::{Settings, word};
use super::survey::Sight;
use super::{CONF, DEFAULTS, compose, survey};

const NAME: &str = "firewall";

/// Plans the changes.
pub fn plan(desired: &Desired, _facts: &Facts, observed: &Observed) -> Result<Planned> {
    let Some(found) = &observed.0 else {
        return Ok(Planned { deferred: Some("package ufw".to_owned()), ..Planned::default() });
    };
    known_apps(desired, found)?;
    if found.boot == Boot::Masked {
        return Err(Failure::refused("ufw.service", "is masked, so no firewall would come up at boot")
            .hint("unmask it: systemctl unmask ufw.service"));
    }
    let settings = Settings::new(desired, found)?;
    let ports = SshPorts::new(desired, found);
    let mut notes = Vec::new();
    let mut families = Vec::new();
    for rules in &found.families {
        families.push(FamilyPlan::new(desired, found, &settings, &ports, rules, &mut notes)?);
    }
    let mut planned = Planned::default();
    planned.changes.extend(additive(found, &settings, &families)?);
    planned.changes.extend(subtractive(&families, &settings, &ports));
    let sights: Vec<Sight> = families.iter().map(|family| family.sight()).collect::<Result<_>>()?;
    let asked = |proto: Proto, port: u16| {
        proto == Proto::Tcp && ports.wanted.contains(&port) || families.iter().any(|family| family.asks(proto, port))
    };
    notes.extend(survey::notes(found, &sights, &asked, &ports.old));
    notes.extend(families.iter().flat_map(|family| [family.given_way(), family.others()].concat()));
    if settings.policies.output != Policy::Accept {
        notes.push(Note::warning(NAME, "outgoing: deny also stops DNS, time and package updates; only answers go out"));
    }
    notes.extend(boot_notes(found, &settings));
    planned.notes = notes;
    let mut singles = ports.wanted.clone();
    singles.extend(families.iter().flat_map(FamilyPlan::single_ports));
    let open = survey::open_ports(found, &sights, &singles);
    let open = open.into_iter().filter_map(|port| Port::new(port).ok()).collect();
    planned.promises.push(Promise::Firewall { open });
    Ok(planned)
}

/// What ufw does at boot besides its rules.
fn boot_notes(found: &Found, settings: &Settings) -> Vec<Note> {
    let value = |key: &str| setting(&found.defaults.text, key).unwrap_or_default();
    let mut notes = Vec::new();
    if value("MANAGE_BUILTINS").eq_ignore_ascii_case("yes") {
        notes.push(Note::warning(NAME, "MANAGE_BUILTINS=yes: at boot ufw flushes the rules of others"));
    }
    let modules = value("IPT_MODULES");
    if !modules.is_empty() {
        notes.push(Note::info(NAME, format!("ufw loads kernel modules at boot: {modules}")));
    }
    if !settings.was_enabled && !value("IPT_SYSCTL").is_empty() {
        notes.push(Note::info(NAME, format!("kernel settings of {} take effect at next boot", value("IPT_SYSCTL"))));
    }
    notes
}

/// Profiles that the playbook names and the host does not have.
fn known_apps(desired: &Desired, found: &Found) -> Result<()> {
    for opening in desired.openings() {
        let Some(app) = opening.app() else { continue };
        if !found.profiles.iter().any(|profile| profile.name == app) {
            let known: BTreeSet<&str> = found.profiles.iter().map(|profile| profile.name.as_str()).collect();
            let list = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::refused(NAME, format!("ufw has no application profile '{app}'"))
                .why(format!("it knows: {list}"))
                .hint("install the package that brings the profile, or name the ports, such as 80,443/tcp"));
        }
    }
    Ok(())
}

fn put(path: &'static str, file: &File, text: &str) -> Step {
    let node = Node::File { content: text.as_bytes().to_vec(), mode: file.mode, owner: file.owner };
    Step::Put { path: AbsPath::fixed(path), actor: Actor::Root, node }
}

fn diff(path: &'static str, before: &str, after: &str) -> TextDiff {
    TextDiff { path: AbsPath::fixed(path), before: before.to_owned(), after: after.to_owned() }
}

/// Opens, switches on and loads.
fn additive(found: &Found, settings: &Settings, families: &[FamilyPlan<'_>]) -> Result<Option<Change>> {
    let told = |line: String| Failure::unknown(NAME, "the kernel's rules make no sense").why(line);
    let mut drifted = Vec::new();
    for family in families {
        if !compose::holds(&family.now, &family.rules.filter()).map_err(told)? {
            drifted.push(family.rules.family);
        }
    }
    let whole = !drifted.is_empty() || !settings.was_enabled || settings.defaults != found.defaults.text;
    let writes = families.iter().any(FamilyPlan::changes_file)
        || settings.defaults != found.defaults.text
        || settings.conf != found.conf.text;
    if !whole && !writes && found.boot == Boot::Fine {
        return Ok(None);
    }
    let risk = if whole { Risk::Access } else { Risk::Service };
    let mut change = Change::new(NAME, "firewall:open", summary(settings, families, &drifted), Stage::Additive, risk);
    change.differences = differences(settings, families, &drifted, found.boot);
    for family in families.iter().filter(|family| family.changes_file()) {
        change.steps.push(put(family.path, &family.rules.file, &family.opened_text));
        change.diffs.push(diff(family.path, &family.rules.file.text, &family.opened_text));
    }
    for (path, file, text) in [(DEFAULTS, &found.defaults, &settings.defaults), (CONF, &found.conf, &settings.conf)] {
        if *text != file.text {
            change.steps.push(put(path, file, text));
            change.diffs.push(diff(path, &file.text, text));
        }
    }
    if found.boot == Boot::Off {
        let command = Command::new(["/usr/bin/systemctl", "enable", "ufw.service"]);
        let inverse = Inverse::Command(Command::new(["/usr/bin/systemctl", "disable", "ufw.service"]));
        change.steps.push(Step::Run { command, inverse });
    }
    for family in families.iter().filter(|family| whole || family.changes_file()) {
        load(&mut change, family, whole);
    }
    Ok(Some(change))
}

/// Gate and activation of one family: the whole of ufw's chains, or only those that user.rules fills.
fn load(change: &mut Change, family: &FamilyPlan<'_>, whole: bool) {
    let name = family.rules.family;
    let kernel = family.rules.filter();
    let text = if whole { family.then.loading(&kernel) } else { family.opened_text.clone() };
    change.gates.push(gate(name, &text));
    if whole {
        change.activation.forward.push(family.then.forward(&kernel));
        change.activation.backward.push(family.then.backward(&kernel));
    } else {
        change.activation.forward.push(compose::restore_file(name, family.path));
        change.activation.backward.push(compose::restore_file_back(name, family.path));
    }
}

fn gate(family: Family, text: &str) -> Gate {
    Gate {
        what: format!("iptables-restore --test of the {} rules", family.name()),
        staged: Vec::new(),
        command: compose::trial(family, text),
        expect: Expect::Success,
    }
}

fn summary(settings: &Settings, families: &[FamilyPlan<'_>], drifted: &[Family]) -> String {
    let added = grouped(families, FamilyPlan::added);
    let openings: Vec<&str> = added.iter().map(|(text, _)| text.strip_prefix("allow ").unwrap_or(text)).collect();
    let defaults = format!("incoming {}, outgoing {}", word(settings.policies.input), word(settings.policies.output));
    let mut parts = Vec::new();
    if !settings.was_enabled {
        parts.push(format!("enable the firewall ({defaults})"));
    } else if settings.had != settings.policies {
        parts.push(format!("set the firewall to {defaults}"));
    } else if !drifted.is_empty() {
        parts.push("load the firewall's rules into the kernel".to_owned());
    }
    if !openings.is_empty() {
        parts.push(format!("let in {}", openings.join(", ")));
    }
    if parts.is_empty() {
        parts.push("set up the firewall".to_owned());
    }
    parts.join(", ")
}

/// The tuples of all families, each with the families that have it.
fn grouped<'f, I>(families: &'f [FamilyPlan<'f>], tuples: impl Fn(&'f FamilyPlan<'f>) -> I) -> Vec<(String, String)>
where
    I: Iterator<Item = &'f Tuple>,
{
    let mut found = Vec::<(String, String)>::new();
    for family in families {
        for tuple in tuples(family) {
            let text = tuple.describe(family.rules.family);
            match found.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => {
                    names.push_str(" and ");
                    names.push_str(family.rules.family.name());
                }
                None => found.push((text, family.rules.family.name().to_owned())),
            }
        }
    }
    found
}

fn differences(settings: &Settings, families: &[FamilyPlan<'_>], drifted: &[Family], boot: Boot) -> Vec<Difference> {
    let mut list = settings.differences.clone();
    for (text, names) in grouped(families, FamilyPlan::added) {
        list.push(Difference::new("firewall.allow", format!("{text} ({names})"), "not there"));
    }
    if settings.was_enabled {
        for family in drifted {
            let path = format!("firewall.kernel.{}", family.name());
            list.push(Difference::new(path, "the rules of /etc/ufw", "other rules, or none"));
        }
    }
    if boot == Boot::Off {
        list.push(Difference::new("firewall.boot", "ufw.service enabled", "not enabled"));
    }
    if list.is_empty() {
        list.push(Difference::new("firewall.rules", "as ufw writes them", "in another form or order"));
    }
    list
}

/// Closes what the new way in made superfluous, and with `exclusive` the rules of others.
fn subtractive(families: &[FamilyPlan<'_>], settings: &Settings, ports: &SshPorts) -> Option<Change> {
    let removed = grouped(families, FamilyPlan::removed);
    if removed.is_empty() {
        return None;
    }
    let list = removed.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(", ");
    let mut change =
        Change::new(NAME, "firewall:close", format!("take away: {list}"), Stage::Subtractive, Risk::Access);
    for (text, names) in &removed {
        change.differences.push(Difference::new("firewall.allow", "not there", format!("{text} ({names})")));
    }
    let ports: Vec<Port> = ports.old.iter().filter_map(|port| Port::new(*port).ok()).collect();
    if !ports.is_empty() {
        change.activation.forward.push(Action::KeepSessions { ports });
    }
    for family in families.iter().filter(|family| family.closed != family.opened) {
        let name = family.rules.family;
        let text = family.closed.render(name, settings.level, settings.policies);
        change.gates.push(gate(name, &text));
        change.steps.push(put(family.path, &family.rules.file, &text));
        change.diffs.push(diff(family.path, &family.opened_text, &text));
        change.activation.forward.push(compose::restore_file(name, family.path));
        change.activation.backward.push(compose::restore_file_back(name, family.path));
    }
    Some(change)
}
