//! Which group is whose child: order, depth, and all parents of each. Without recursion, so that no nesting is too deep to
//! be refused. Must not know hosts.

use std::collections::HashMap;

use super::draft::GroupDraft;
use super::notes::{Mark, Notes};
use crate::playbook::shown;

/// Longest chain of groups.
const MAX_DEPTH: usize = 64;
/// Most parents of all groups together, parents of parents included.
const MAX_PARENTS: usize = 1_000_000;

/// What follows from the parents of groups; by their index. Empty where they could not be ranked.
#[derive(Default)]
pub(super) struct Ranks {
    /// 1 without parents, else one more than the deepest parent.
    pub depth: Vec<usize>,
    /// Parents and their parents, sorted, each once; `all` left out.
    pub parents: Vec<Vec<usize>>,
}

/// Ranks `groups`. `None` with a fault noted for every circle, and where groups are nested too deep.
pub(super) fn rank(groups: &[GroupDraft], notes: &mut Notes) -> Option<Ranks> {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); groups.len()];
    let mut waits: Vec<usize> = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        waits.push(group.parents.len());
        for (parent, _) in &group.parents {
            children.get_mut(*parent)?.push(index);
        }
    }
    let mut ranks = Ranks { depth: vec![1; groups.len()], parents: vec![Vec::new(); groups.len()] };
    let mut ready: Vec<usize> = (0..groups.len()).filter(|index| waits.get(*index) == Some(&0)).collect();
    let (mut done, mut count) = (0, 0);
    while let Some(index) = ready.pop() {
        done += 1;
        let group = groups.get(index)?;
        let mut all = Vec::new();
        for (parent, _) in &group.parents {
            all.push(*parent);
            all.extend(ranks.parents.get(*parent)?);
            if all.len() > MAX_PARENTS {
                break;
            }
        }
        all.sort_unstable();
        all.dedup();
        count += all.len();
        let depth =
            group.parents.iter().filter_map(|(parent, _)| ranks.depth.get(*parent)).max().map_or(1, |deep| deep + 1);
        if depth > MAX_DEPTH || count > MAX_PARENTS {
            let what = if depth > MAX_DEPTH {
                format!("groups are nested deeper than {MAX_DEPTH}")
            } else {
                format!("groups have more than {MAX_PARENTS} parents in all")
            };
            notes.fault(group.at, what, "flatten the groups");
            return None;
        }
        *ranks.depth.get_mut(index)? = depth;
        *ranks.parents.get_mut(index)? = all;
        for child in children.get(index)? {
            let left = waits.get_mut(*child)?;
            *left -= 1;
            if *left == 0 {
                ready.push(*child);
            }
        }
    }
    if done < groups.len() {
        circles(groups, &waits, notes);
        return None;
    }
    Some(ranks)
}

/// Notes the circles among the groups that still wait; each of them has a parent that waits as well.
fn circles(groups: &[GroupDraft], waits: &[usize], notes: &mut Notes) {
    let stuck = |index: usize| waits.get(index).is_some_and(|left| *left > 0);
    let mut walk_of: HashMap<usize, usize> = HashMap::new();
    for start in (0..groups.len()).filter(|index| stuck(*index)) {
        let (mut at, mut path): (usize, Vec<(usize, Mark)>) = (start, Vec::new());
        while !walk_of.contains_key(&at) {
            walk_of.insert(at, start);
            let up = groups.get(at).and_then(|group| group.parents.iter().find(|(parent, _)| stuck(*parent)));
            let Some((parent, mark)) = up else { break };
            path.push((at, *mark));
            at = *parent;
        }
        let first = path.iter().position(|(index, _)| *index == at).filter(|_| walk_of.get(&at) == Some(&start));
        let Some((_, mark)) = first.and_then(|first| path.get(first)) else { continue };
        let round = path.iter().skip(first.unwrap_or(0)).map(|(index, _)| *index).chain([at]);
        let names: Vec<String> = round.filter_map(|index| groups.get(index)).map(|group| shown(&group.name)).collect();
        let names = if names.len() > 8 { format!("{} groups", names.len() - 1) } else { names.join(" in ") };
        notes.fault(
            *mark,
            format!("groups go in a circle: {names}"),
            "remove one of them from the children of another",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups numbered by their place, each with its parents; the marks are of line child+1.
    fn ranked(parents: &[&[usize]]) -> Result<Ranks, Vec<String>> {
        let mut notes = Notes::default();
        let source = notes.open("hosts", 0).unwrap();
        let groups: Vec<GroupDraft> = parents
            .iter()
            .enumerate()
            .map(|(index, parents)| GroupDraft {
                name: format!("g{index}"),
                parents: parents.iter().map(|parent| (*parent, source.to(index + 1, 1))).collect(),
                ..GroupDraft::default()
            })
            .collect();
        rank(&groups, &mut notes).ok_or_else(|| notes.into_faults().into_iter().map(|f| f.line()).collect())
    }

    #[test]
    fn depth_is_that_of_the_longest_chain() {
        let ranks = ranked(&[&[], &[0], &[1], &[0, 2, 2], &[]]).ok().unwrap();
        assert_eq!(ranks.depth, [1, 2, 3, 4, 1]);
        assert_eq!(ranks.parents[3], [0, 1, 2]);
        assert_eq!(ranks.parents[4], [0_usize; 0]);
    }

    #[test]
    fn every_circle_is_a_fault_and_what_hangs_below_is_none() {
        let found = ranked(&[&[2], &[0], &[1], &[0], &[4], &[], &[7], &[6, 5]]).err().unwrap();
        assert_eq!(
            found,
            [
                "hosts:1:1: groups go in a circle: g0 in g2 in g1 in g0",
                "hosts:5:1: groups go in a circle: g4 in g4",
                "hosts:7:1: groups go in a circle: g6 in g7 in g6",
            ]
        );
    }

    #[test]
    fn chains_and_layers_are_bounded() {
        let chain: Vec<Vec<usize>> = (0..5_000_usize).map(|index| index.checked_sub(1).into_iter().collect()).collect();
        let chain: Vec<&[usize]> = chain.iter().map(Vec::as_slice).collect();
        assert_eq!(ranked(&chain).err().unwrap(), ["hosts: groups are nested deeper than 64"]);
        assert!(ranked(&chain[..64]).is_ok());
        let ring: Vec<Vec<usize>> = (0..5_000_usize).map(|index| vec![(index + 1) % 5_000]).collect();
        let ring: Vec<&[usize]> = ring.iter().map(Vec::as_slice).collect();
        assert_eq!(ranked(&ring).err().unwrap(), ["hosts:1:1: groups go in a circle: 5000 groups"]);
    }
}
