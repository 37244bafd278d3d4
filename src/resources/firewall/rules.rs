//! Changes the list of ufw's rules: what is wanted is let in, in a place where it counts; what goes, goes.

use crate::formats::ufw::{Entry, Family, Tuple, UserRules, Verb};

/// Puts `wanted` (an incoming allow) into the list so that the first rule that sees its packets lets them in. A rule
/// for the very same packets is replaced, as ufw does it. True when something changed.
pub fn allow(rules: &mut UserRules, family: Family, wanted: &Tuple) -> bool {
    let same = rules.entries.iter().position(|entry| entry.tuple.selects_same(wanted));
    let barrier = rules.entries.iter().position(|entry| bars(&entry.tuple, wanted));
    let commented = |entry: &Entry| wanted.comment.is_empty() || entry.tuple.comment == wanted.comment;
    if let Some(at) = same
        && let Some(entry) = rules.entries.get(at)
        && entry.tuple.verb == Verb::Allow
        && (entry.is_true_allow(family) || !entry.tuple.log.is_empty())
        && commented(entry)
        && barrier.is_none_or(|barrier| at < barrier)
    {
        return false;
    }
    let entry = Entry::allow(wanted.clone(), family);
    match (same, barrier) {
        (Some(at), barrier) => {
            rules.entries.remove(at);
            // The replaced rule may itself have been the barrier; another may stand behind or before it.
            let place = rules.entries.iter().position(|entry| bars(&entry.tuple, wanted)).unwrap_or(at).min(at);
            debug_assert!(barrier.is_none_or(|barrier| place <= barrier.max(at)));
            rules.entries.insert(place, entry);
        }
        (None, Some(barrier)) => rules.entries.insert(barrier, entry),
        (None, None) => rules.entries.push(entry),
    }
    true
}

/// True when every new connection to TCP `port` from anywhere is let in by a rule that nothing bars.
pub fn is_open(rules: &UserRules, family: Family, port: u16) -> bool {
    let wanted = Tuple::allow(family, "tcp", &port.to_string());
    for entry in &rules.entries {
        let tuple = &entry.tuple;
        if bars(tuple, &wanted) {
            return false;
        }
        if tuple.is_for_all(family) && tuple.verb == Verb::Allow && tuple.covers("tcp", port) {
            return entry.is_true_allow(family) || !tuple.log.is_empty();
        }
    }
    false
}

/// True when `tuple` stops (or, limiting, may stop) packets that `wanted` is to let in.
fn bars(tuple: &Tuple, wanted: &Tuple) -> bool {
    let any = |address: &str| matches!(address, "0.0.0.0/0" | "::/0");
    tuple.verb != Verb::Allow
        && tuple.way == "in"
        && !tuple.route
        && tuple.sport == "any"
        && (any(&tuple.src) || tuple.src == wanted.src)
        && (any(&tuple.dst) || tuple.dst == wanted.dst)
        && (tuple.proto == "any" || wanted.proto == "any" || tuple.proto == wanted.proto)
        && (tuple.dport == "any" || first_ports(&wanted.dport).any(|port| tuple.covers(&tuple.proto, port)))
}

/// The ports of a list; a range gives both of its ends.
fn first_ports(list: &str) -> impl Iterator<Item = u16> + '_ {
    list.split([',', ':']).filter_map(|port| port.parse().ok())
}

/// Takes out what opens TCP `port` alone and to everybody, unless `keep` says otherwise; gives back what went.
pub fn close(rules: &mut UserRules, family: Family, port: u16, keep: impl Fn(&Tuple) -> bool) -> Vec<Tuple> {
    drop_where(rules, |tuple| tuple.verb.opens() && tuple.is_for_all(family) && tuple.is_only(port) && !keep(tuple))
}

/// Takes out all entries for which `goes` holds; gives back their tuples.
pub fn drop_where(rules: &mut UserRules, goes: impl Fn(&Tuple) -> bool) -> Vec<Tuple> {
    let (gone, kept) = std::mem::take(&mut rules.entries).into_iter().partition(|entry: &Entry| goes(&entry.tuple));
    rules.entries = kept;
    let gone: Vec<Entry> = gone;
    gone.into_iter().map(|entry| entry.tuple).collect()
}
