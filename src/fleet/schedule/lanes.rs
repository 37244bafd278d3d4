//! Which host is next, with room kept in each lane. Must not know of waves, but for the host where the reach ends.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::ops::Range;

/// Hosts of one lane that wait, lowest first.
#[derive(Debug)]
struct Lane {
    /// How many more may run.
    room: usize,
    /// Where its hosts that were never queued stand in [`Lanes::fresh`].
    fresh: Range<usize>,
    /// To be asked.
    asks: BinaryHeap<Reverse<usize>>,
    /// To be started that are no longer fresh.
    again: BinaryHeap<Reverse<usize>>,
    /// What [`Lanes::asks`] and [`Lanes::starts`] hold of this lane.
    filed: (Option<usize>, Option<usize>),
}

/// All lanes; the first one holds the hosts that are in none, and has room for all.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    /// Fresh hosts, lane by lane.
    fresh: Vec<usize>,
    /// Hosts from here on are not started yet.
    reach: usize,
    /// First host to ask of each lane that has room, with the lane.
    asks: BTreeSet<(usize, usize)>,
    /// First host to start of each lane that has room, with the lane.
    starts: BTreeSet<(usize, usize)>,
}

impl Lanes {
    /// Lanes of `per_lane` places for `hosts`; those that `is_fresh` wait to be started. Gives back the lane of each, too.
    pub(super) fn new(hosts: &[Option<u32>], per_lane: usize, is_fresh: impl Fn(usize) -> bool) -> (Self, Vec<usize>) {
        let names: BTreeSet<u32> = hosts.iter().copied().flatten().collect();
        let numbers: BTreeMap<u32, usize> = names.into_iter().zip(1..).collect();
        let number = |name: &Option<u32>| name.and_then(|name| numbers.get(&name).copied()).unwrap_or(0);
        let of: Vec<usize> = hosts.iter().map(number).collect();
        let mut sorted: Vec<(usize, usize)> = of.iter().copied().zip(0..).filter(|(_, host)| is_fresh(*host)).collect();
        sorted.sort_unstable();
        let lane = |number: usize| {
            let from = sorted.partition_point(|(lane, _)| *lane < number);
            let to = sorted.partition_point(|(lane, _)| *lane <= number);
            let room = if number == 0 { usize::MAX } else { per_lane };
            Lane { room, fresh: from..to, asks: BinaryHeap::new(), again: BinaryHeap::new(), filed: (None, None) }
        };
        let lanes: Vec<Lane> = (0..=numbers.len()).map(lane).collect();
        let fresh = sorted.iter().map(|(_, host)| *host).collect();
        (Self { lanes, fresh, reach: 0, asks: BTreeSet::new(), starts: BTreeSet::new() }, of)
    }

    /// From now on hosts before `reach` are started.
    pub(super) fn reach(&mut self, reach: usize) {
        self.reach = reach;
        for lane in 0..self.lanes.len() {
            self.file(lane);
        }
    }

    /// `host` waits to be asked.
    pub(super) fn ask(&mut self, host: usize, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.asks.push(Reverse(host));
        }
        self.file(lane);
    }

    /// `host` waits to be started again.
    pub(super) fn again(&mut self, host: usize, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.again.push(Reverse(host));
        }
        self.file(lane);
    }

    /// The next host to ask, which takes a place of its lane.
    pub(super) fn take_ask(&mut self) -> Option<usize> {
        let (host, number) = self.asks.first().copied()?;
        let lane = self.lanes.get_mut(number)?;
        lane.asks.pop();
        lane.room = lane.room.saturating_sub(1);
        self.file(number);
        Some(host)
    }

    /// The next host to start, which takes a place of its lane.
    pub(super) fn take_start(&mut self) -> Option<usize> {
        let (host, number) = self.starts.first().copied()?;
        let lane = self.lanes.get_mut(number)?;
        if lane.again.peek() == Some(&Reverse(host)) {
            lane.again.pop();
        } else {
            lane.fresh.start += 1;
        }
        lane.room = lane.room.saturating_sub(1);
        self.file(number);
        Some(host)
    }

    /// A place of `lane` is free again.
    pub(super) fn release(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.room = lane.room.saturating_add(1);
        }
        self.file(lane);
    }

    /// Takes all hosts out that wait to be started again.
    pub(super) fn drain_again(&mut self) -> Vec<usize> {
        let mut hosts = Vec::new();
        for number in 0..self.lanes.len() {
            if let Some(lane) = self.lanes.get_mut(number) {
                hosts.extend(lane.again.drain().map(|Reverse(host)| host));
            }
            self.file(number);
        }
        hosts
    }

    /// Brings [`Lanes::asks`] and [`Lanes::starts`] up to date for one lane.
    fn file(&mut self, number: usize) {
        let Some(lane) = self.lanes.get_mut(number) else { return };
        let (old_ask, old_start) = lane.filed;
        let lowest = |heap: &BinaryHeap<Reverse<usize>>| heap.peek().map(|Reverse(host)| *host);
        let fresh = self.fresh.get(lane.fresh.clone()).and_then(|hosts| hosts.first()).copied();
        let start = [fresh, lowest(&lane.again)].into_iter().flatten().min().filter(|host| *host < self.reach);
        let has_room = lane.room > 0;
        lane.filed = (lowest(&lane.asks).filter(|_| has_room), start.filter(|_| has_room));
        let (ask, start) = lane.filed;
        refile(&mut self.asks, number, old_ask, ask);
        refile(&mut self.starts, number, old_start, start);
    }

    /// Bytes on the heap, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let waiting = |lane: &Lane| (lane.asks.capacity() + lane.again.capacity()) * size_of::<usize>();
        self.lanes.capacity() * size_of::<Lane>()
            + self.lanes.iter().map(waiting).sum::<usize>()
            + self.fresh.capacity() * size_of::<usize>()
            + (self.asks.len() + self.starts.len()) * 2 * size_of::<(usize, usize)>()
    }
}

fn refile(set: &mut BTreeSet<(usize, usize)>, lane: usize, old: Option<usize>, new: Option<usize>) {
    if old == new {
        return;
    }
    if let Some(host) = old {
        set.remove(&(host, lane));
    }
    if let Some(host) = new {
        set.insert((host, lane));
    }
}
