//! A login of the proof comes from an address that no rule names. Where sshd or the firewall lets an account in from some
//! places only, its refusal there says nothing: it is unknown, and somebody who comes from such a place has to show it.

use std::collections::BTreeSet;

use crate::facts::Facts;
use crate::host::Probe;
use crate::outcome::{Evidence, Proven};
use crate::resource::AccessCheck;

/// Turns the refused logins of such accounts into unknown ones; gives back what they were called.
pub fn mark(evidence: &mut [Evidence], access: &dyn AccessCheck, probe: &dyn Probe) -> BTreeSet<String> {
    let mut marked = BTreeSet::new();
    let refused = evidence.iter_mut().filter(|piece| piece.proven == Proven::No);
    let refused: Vec<(String, &mut Evidence)> =
        refused.filter_map(|piece| Some((piece.login_of()?.to_owned(), piece))).collect();
    if refused.is_empty() {
        return marked;
    }
    let Ok(facts) = Facts::gather(probe) else { return marked };
    for (user, piece) in refused {
        if let Some(from) = access.limited(&user, &facts, probe) {
            piece.proven = Proven::Unknown;
            piece.seen = format!("{}; it is let in from some addresses only: {from}", piece.seen);
            marked.insert(piece.what.clone());
        }
    }
    marked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Note, Promise};
    use crate::error::Result;
    use crate::host::memory::{MemoryHost, World};
    use crate::outcome::Reach;

    struct Only(&'static str);

    impl AccessCheck for Only {
        fn check(&self, _: &[Promise], _: &[Change], _: &Facts, _: &dyn Probe) -> Result<Vec<Note>> {
            Ok(Vec::new())
        }

        fn limited(&self, user: &str, _: &Facts, _: &dyn Probe) -> Option<String> {
            (user == self.0).then(|| "10.0.0.0/8".to_owned())
        }
    }

    #[test]
    fn only_a_refused_login_of_a_limited_account_is_unknown() {
        let piece = |what: &str, proven| {
            let (what, seen) = (what.to_owned(), "refused".to_owned());
            Evidence { what, proven, reach: Reach::L2, seen, millis: 0 }
        };
        let mut all = vec![
            piece("login as ops and sudo, port 22, IPv4", Proven::No),
            piece("old door: login as ops, port 22, IPv4", Proven::No),
            piece("login as opsy, port 22, IPv4", Proven::No),
            piece("login as ops is refused, port 22, IPv4", Proven::No),
            piece("login as ops, port 22, IPv6", Proven::Yes),
        ];
        let host = MemoryHost::new(World::default());
        let marked = mark(&mut all, &Only("ops"), &host);
        let proven: Vec<_> = all.iter().map(|piece| piece.proven).collect();
        assert_eq!(proven, [Proven::Unknown, Proven::Unknown, Proven::No, Proven::No, Proven::Yes]);
        assert_eq!(marked.len(), 2);
        assert!(all[0].seen.contains("10.0.0.0/8"), "{}", all[0].seen);
    }
}
