//! Which host is touched when, and what stops a rollout. Must not wait, look at a clock, or reach a host: the executor
//! asks what to do, does it, and tells what happened and at what time, in milliseconds that never go back.
//!
//! After each thing that it tells, and after each step, the executor asks for the [`Schedule::next`] step, until that is
//! to wait or the end. A step costs O(log n), spread over all: the beginning of a wave looks at every lane once.

mod host;
mod lanes;
mod policy;
mod step;
mod verdict;

pub use policy::{Policy, Size};
pub use step::{End, Known, Step, Stopped, Summary};
pub use verdict::Verdict;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

use crate::error::{Failure, Result};

use host::{ASIDE, Host, Running, State};
use lanes::Lanes;

/// A rollout in the making.
#[derive(Debug)]
pub struct Schedule {
    policy: Policy,
    hosts: Vec<Host>,
    lanes: Lanes,
    /// Where each wave ends, and how many of its hosts have not ended.
    waves: Vec<(usize, usize)>,
    wave: usize,
    /// How long the wave went on before `since`, which is `None` while its clock stands.
    spent: u64,
    since: Option<u64>,
    now: u64,
    running: BTreeMap<usize, Running>,
    /// How many of them hold no place.
    aside: usize,
    limits: BTreeSet<(u64, usize)>,
    cancels: VecDeque<usize>,
    retries: BinaryHeap<Reverse<(u64, usize)>>,
    /// Hosts whose outcome is still to be asked, those that are being asked left out.
    unasked: usize,
    counts: BTreeMap<Verdict, usize>,
    started: usize,
    ended: usize,
    failures: usize,
    is_paused: bool,
    stopped: Option<Stopped>,
}

impl Schedule {
    /// A rollout over one host for each of `lanes`, which names the bastion that the host shares with others, if any.
    ///
    /// # Errors
    /// Input as [`Policy::check`], or when `known` tells of a host that there is not.
    pub fn new(lanes: &[Option<u32>], policy: Policy, known: &[(usize, Known)]) -> Result<Self> {
        policy.check()?;
        let earlier: BTreeMap<usize, Known> = known.iter().copied().collect();
        if let Some((host, _)) = earlier.iter().find(|(host, _)| **host >= lanes.len()) {
            return Err(Failure::input(format!("host {host}"), format!("there are {} hosts", lanes.len())));
        }
        let (lanes, of) = Lanes::new(lanes, policy.per_lane, |host| !earlier.contains_key(&host));
        let hosts: Vec<Host> = of.into_iter().map(|lane| Host { lane, tries: 0, state: State::Fresh }).collect();
        let ends = policy.ends(hosts.len());
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let waves: Vec<(usize, usize)> = starts.zip(&ends).map(|(start, end)| (*end, end - start)).collect();
        let mut schedule = Self {
            policy,
            hosts,
            lanes,
            waves,
            wave: 0,
            spent: 0,
            since: None,
            now: 0,
            running: BTreeMap::new(),
            aside: 0,
            limits: BTreeSet::new(),
            cancels: VecDeque::new(),
            retries: BinaryHeap::new(),
            unasked: 0,
            counts: BTreeMap::new(),
            started: 0,
            ended: 0,
            failures: 0,
            is_paused: false,
            stopped: None,
        };
        schedule.lanes.reach(schedule.reach());
        for (host, known) in earlier {
            schedule.started += 1;
            match known {
                Known::Ended(verdict) => {
                    schedule.end(host, verdict);
                }
                Known::Begun => {
                    schedule.set(host, State::Begun);
                    schedule.unasked += 1;
                    schedule.lanes.ask(host, schedule.lane(host));
                }
            }
        }
        Ok(schedule)
    }

    /// What to do at `now`.
    pub fn next(&mut self, now: u64) -> Step {
        self.now = self.now.max(now);
        self.wake();
        self.advance();
        self.watch_limits();
        while let Some(host) = self.cancels.pop_front() {
            if self.running.contains_key(&host) {
                return Step::Cancel(host);
            }
        }
        if self.is_over() {
            return Step::Done(self.summary());
        }
        self.give().unwrap_or_else(|| Step::Wait { until: self.until() })
    }

    /// Takes what came of a host. Gives back its verdict when it is over, which is what to record: a host that was tried
    /// too often is over, and one that was interrupted at its limit is no cancelled one. What is told of a host that does
    /// not run is left aside.
    pub fn ended(&mut self, host: usize, end: End, now: u64) -> Option<Verdict> {
        self.now = self.now.max(now);
        let running = self.running.remove(&host)?;
        self.aside -= usize::from(running.is_aside);
        if let Some(limit) = running.limit {
            self.limits.remove(&(limit, host));
        }
        self.lanes.release(self.lane(host));
        match end {
            End::Cancelled(_) if self.stopped.is_some() => Some(self.end(host, Verdict::Cancelled)),
            // At its limit: a change that hangs each host must not go over all of them without one failure.
            End::Cancelled(verdict) => Some(self.end(host, verdict)),
            End::Is(verdict) => Some(self.end(host, verdict)),
            End::NotBegun if running.is_asked => {
                self.started = self.started.saturating_sub(1);
                self.set(host, State::Fresh);
                if self.stopped.is_none() {
                    self.lanes.again(host, self.lane(host));
                }
                None
            }
            End::NotBegun => self.again(host, running, 0),
            End::Again { after_ms } => self.again(host, running, after_ms),
        }
    }

    /// Gives the place of a host that says nothing to another one; it goes on, and still counts for its lane. One that hangs
    /// then slows nobody, until twice as many hang as may run.
    pub fn set_aside(&mut self, host: usize) {
        if let Some(running) = self.running.get_mut(&host)
            && !std::mem::replace(&mut running.is_aside, true)
        {
            self.aside += 1;
        }
    }

    /// Starts no host until [`Schedule::resume`]; those that run go on, and those that are to be asked are asked.
    pub fn pause(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.stop_clock();
        self.is_paused = true;
    }

    /// Ends a pause.
    pub fn resume(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.is_paused = false;
        if self.stopped.is_none() {
            self.since.get_or_insert(self.now);
        }
    }

    /// Starts no host any more and interrupts those that run; for good.
    pub fn stop(&mut self, why: &str, now: u64) {
        self.now = self.now.max(now);
        self.halt(Stopped::Asked(why.to_owned()));
    }

    /// How it stands.
    pub fn summary(&self) -> Summary {
        Summary {
            counts: self.counts.clone(),
            started: self.started,
            never_started: self.hosts.len().saturating_sub(self.started),
            stopped: self.stopped.clone(),
        }
    }

    /// How a host ended; `None` for one that did not. One that waited for its next try when the rollout stopped is
    /// cancelled, though [`Schedule::ended`] never said so.
    pub fn verdict(&self, host: usize) -> Option<Verdict> {
        match self.hosts.get(host)?.state {
            State::Ended(verdict) => Some(verdict),
            _ => None,
        }
    }

    /// Number of the wave, the first one being 1, and of how many.
    pub fn wave(&self) -> (usize, usize) {
        (self.wave + 1, self.waves.len())
    }

    /// Number of hosts that run or are asked.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Puts hosts whose time to wait is over where the next one is taken from.
    fn wake(&mut self) {
        while let Some(Reverse((at, host))) = self.retries.peek().copied() {
            if at > self.now {
                return;
            }
            self.retries.pop();
            self.queue(host);
        }
    }

    fn queue(&mut self, host: usize) {
        let lane = self.lane(host);
        if self.is_begun(host) { self.lanes.ask(host, lane) } else { self.lanes.again(host, lane) }
    }

    /// Goes on to the next wave when the present one is over.
    fn advance(&mut self) {
        if self.is_paused || self.stopped.is_some() {
            return;
        }
        while self.left() == 0 && self.wave + 1 < self.waves.len() {
            self.wave += 1;
            (self.spent, self.since) = (0, None);
            self.lanes.reach(self.reach());
        }
        self.since.get_or_insert(self.now);
    }

    /// Interrupts what takes too long.
    fn watch_limits(&mut self) {
        if self.left() > 0 && self.wave_limit().is_some_and(|limit| limit <= self.now) {
            self.halt(Stopped::Wave { wave: self.wave + 1 });
        }
        while let Some((limit, host)) = self.limits.first().copied() {
            if limit > self.now {
                return;
            }
            self.cancel(host);
        }
    }

    /// When the wave takes too long; `None` while its clock stands.
    fn wave_limit(&self) -> Option<u64> {
        let whole = self.policy.wave_limit_ms.filter(|_| self.stopped.is_none())?;
        Some(self.since?.saturating_add(whole.saturating_sub(self.spent)))
    }

    fn stop_clock(&mut self) {
        if let Some(since) = self.since.take() {
            self.spent = self.spent.saturating_add(self.now.saturating_sub(since));
        }
    }

    /// A host to ask or to start, when there is one and it has room.
    fn give(&mut self) -> Option<Step> {
        let most = self.policy.parallel;
        if self.running.len() - self.aside >= most || self.running.len() >= most.saturating_mul(ASIDE) {
            return None;
        }
        if let Some(host) = self.lanes.take_ask() {
            self.unasked = self.unasked.saturating_sub(1);
            self.run(host, true);
            return Some(Step::Ask(host));
        }
        if self.is_paused || self.stopped.is_some() {
            return None;
        }
        let host = self.lanes.take_start()?;
        if self.hosts.get(host).is_some_and(|host| host.state == State::Fresh) {
            self.started += 1;
            self.set(host, State::Tried);
        }
        self.run(host, false);
        Some(Step::Start(host))
    }

    fn run(&mut self, host: usize, is_asked: bool) {
        let limit = self.now.saturating_add(self.policy.host_limit_ms);
        if let Some(host) = self.hosts.get_mut(host) {
            host.tries = host.tries.saturating_add(1);
        }
        self.running.insert(host, Running { is_asked, limit: Some(limit), is_aside: false });
        self.limits.insert((limit, host));
    }

    /// Interrupts a host that runs, once.
    fn cancel(&mut self, host: usize) {
        let limit = self.running.get_mut(&host).and_then(|running| running.limit.take());
        if let Some(limit) = limit {
            self.limits.remove(&(limit, host));
            self.cancels.push_back(host);
        }
    }

    /// Has a host tried once more, if it may be.
    fn again(&mut self, host: usize, running: Running, after_ms: u64) -> Option<Verdict> {
        let tries = self.hosts.get(host).map_or(u32::MAX, |host| host.tries);
        if tries >= self.policy.tries {
            // What an earlier controller began there nobody can tell.
            let verdict = if running.is_asked { Verdict::Unknown } else { Verdict::Unreachable };
            return Some(self.end(host, verdict));
        }
        if self.stopped.is_some() && !running.is_asked {
            return Some(self.end(host, Verdict::Cancelled));
        }
        self.unasked += usize::from(running.is_asked);
        let at = self.now.saturating_add(after_ms).saturating_add(jitter(host, tries, after_ms));
        self.retries.push(Reverse((at, host)));
        None
    }

    fn end(&mut self, host: usize, verdict: Verdict) -> Verdict {
        self.set(host, State::Ended(verdict));
        *self.counts.entry(verdict).or_default() += 1;
        self.ended += 1;
        let wave = self.waves.partition_point(|(end, _)| *end <= host);
        if let Some((_, left)) = self.waves.get_mut(wave) {
            *left = left.saturating_sub(1);
        }
        if verdict.is_failure() {
            self.failures += 1;
            // One wave for all has no canary.
            let is_canary = wave == 0 && self.waves.len() > 1;
            if is_canary || self.failures > self.policy.max_fail.within(self.hosts.len()) {
                self.halt(Stopped::Host { host, verdict });
            }
        }
        verdict
    }

    /// Nothing is started from here on. The first reason stays.
    fn halt(&mut self, why: Stopped) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(why);
        self.stop_clock();
        let running: Vec<usize> = self.running.keys().copied().collect();
        running.into_iter().for_each(|host| self.cancel(host));
        let retries = std::mem::take(&mut self.retries).into_iter();
        let (asks, starts) = retries.partition(|Reverse((_, host))| self.is_begun(*host));
        self.retries = asks;
        let waiting: BinaryHeap<Reverse<(u64, usize)>> = starts;
        let waiting = waiting.into_iter().map(|Reverse((_, host))| host).chain(self.lanes.drain_again());
        for host in waiting.collect::<Vec<_>>() {
            if self.hosts.get(host).is_some_and(|host| host.state == State::Tried) {
                self.end(host, Verdict::Cancelled);
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_quiet = self.running.is_empty() && self.unasked == 0;
        is_quiet && (self.stopped.is_some() || self.ended == self.hosts.len())
    }

    fn until(&self) -> Option<u64> {
        let has_retries = !self.is_paused || self.unasked > 0;
        let retry = self.retries.peek().filter(|_| has_retries).map(|Reverse((at, _))| *at);
        let host = self.limits.first().map(|(at, _)| *at);
        let wave = self.wave_limit().filter(|_| self.left() > 0);
        [retry, host, wave].into_iter().flatten().min()
    }

    fn left(&self) -> usize {
        self.waves.get(self.wave).map_or(0, |(_, left)| *left)
    }

    fn reach(&self) -> usize {
        self.waves.get(self.wave).map_or(0, |(end, _)| *end)
    }

    fn lane(&self, host: usize) -> usize {
        self.hosts.get(host).map_or(0, |host| host.lane)
    }

    fn is_begun(&self, host: usize) -> bool {
        self.hosts.get(host).is_some_and(|host| host.state == State::Begun)
    }

    /// A new state counts its tries anew.
    fn set(&mut self, host: usize, state: State) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.state = state;
            host.tries = 0;
        }
    }

    /// Bytes on the heap, about.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.hosts.capacity() * size_of::<Host>()
            + self.lanes.bytes()
            + self.retries.capacity() * size_of::<(u64, usize)>()
            + self.cancels.capacity() * size_of::<usize>()
            + self.running.len() * 2 * (size_of::<(usize, Running)>() + size_of::<(u64, usize)>())
    }
}

/// Up to a quarter of `after_ms`, another one for each host and try, so that a bastion is not hit by all at once.
fn jitter(host: usize, tries: u32, after_ms: u64) -> u64 {
    // The finisher of SplitMix64.
    let mut hash = u64::try_from(host).unwrap_or(u64::MAX).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(tries);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (hash ^ (hash >> 31)) % (after_ms / 4).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::tests::Dice;

    /// What will come of a host, and what did.
    #[derive(Debug, Clone)]
    struct Fate {
        /// How often it does not get through.
        refusals: u32,
        outcome: Verdict,
        lasts: u64,
        /// How often asking it does not get through.
        deaf: u32,
        began: bool,
        /// What the controllers' store says.
        was_started: bool,
        over: Option<Verdict>,
        /// Whether a start is in order.
        may_start: bool,
        /// Whether a question is in order.
        may_ask: bool,
    }

    impl Fate {
        fn new(outcome: Verdict, lasts: u64) -> Self {
            Self {
                refusals: 0,
                outcome,
                lasts,
                deaf: 0,
                began: false,
                was_started: false,
                over: None,
                may_start: true,
                may_ask: false,
            }
        }
    }

    struct Flight {
        lands: u64,
        end: End,
        is_asked: bool,
        since: u64,
        is_cancelled: bool,
    }

    /// Hosts, an executor, and a plain second reading of the rules.
    struct World {
        dice: Dice,
        now: u64,
        lanes: Vec<Option<u32>>,
        policy: Policy,
        ends: Vec<usize>,
        fates: Vec<Fate>,
        flights: BTreeMap<usize, Flight>,
        schedule: Schedule,
        is_paused: bool,
        is_stopped: bool,
        steps: usize,
        /// Once in so many steps; 0 for never.
        kills: u64,
        pauses: u64,
        stops: u64,
    }

    impl World {
        fn new(seed: u64, lanes: Vec<Option<u32>>, policy: Policy, fates: Vec<Fate>) -> Self {
            let schedule = Schedule::new(&lanes, policy.clone(), &[]).unwrap();
            let count = fates.len();
            let end = |wave: &Size| match *wave {
                Size::Hosts(hosts) => hosts.min(count),
                Size::Percent(share) => (count * usize::from(share)).div_ceil(100),
            };
            // One that ends before an earlier one adds nothing.
            let reached = |most: &mut usize, end: usize| {
                *most = end.max(*most);
                Some(*most)
            };
            let ends = policy.waves.iter().map(end).scan(0, reached).collect();
            Self {
                dice: Dice(seed),
                now: 0,
                lanes,
                policy,
                ends,
                fates,
                flights: BTreeMap::new(),
                schedule,
                is_paused: false,
                is_stopped: false,
                steps: 0,
                kills: 0,
                pauses: 0,
                stops: 0,
            }
        }

        fn run(&mut self) -> Summary {
            loop {
                self.steps += 1;
                assert!(self.steps < 2000 + 400 * self.fates.len(), "does not end");
                self.meddle();
                let step = self.schedule.next(self.now);
                let stopped = self.schedule.summary().stopped;
                if matches!(stopped, Some(Stopped::Wave { .. })) && !self.is_stopped {
                    assert!(self.policy.wave_limit_ms.is_some());
                    self.is_stopped = true;
                }
                assert_eq!(stopped.is_some(), self.is_stopped, "{stopped:?}");
                match step {
                    Step::Start(host) => self.start(host),
                    Step::Ask(host) => self.ask(host),
                    Step::Cancel(host) => self.cancel(host),
                    Step::Wait { until } => self.wait(until),
                    Step::Done(summary) => return self.finish(summary),
                }
                assert_eq!(self.schedule.running(), self.flights.len());
            }
        }

        fn once_in(&mut self, times: u64) -> bool {
            times > 0 && self.dice.once_in(times)
        }

        fn meddle(&mut self) {
            if self.once_in(self.pauses) {
                self.is_paused = !self.is_paused;
                if self.is_paused { self.schedule.pause(self.now) } else { self.schedule.resume(self.now) }
            }
            if self.once_in(self.stops) {
                self.is_stopped = true;
                self.schedule.stop("enough", self.now);
            }
            // It may die all the time, but not for ever.
            if self.steps < 1000 && self.once_in(self.kills) {
                self.kill();
            }
        }

        /// The controller dies, and another one goes on by what was recorded. What runs on a host runs on.
        fn kill(&mut self) {
            self.flights.clear();
            let mut known = Vec::new();
            for (host, fate) in self.fates.iter_mut().enumerate() {
                match fate.over {
                    Some(verdict) => known.push((host, Known::Ended(verdict))),
                    None if fate.was_started => known.push((host, Known::Begun)),
                    None => {}
                }
                fate.may_ask = fate.was_started && fate.over.is_none();
                fate.may_start = !fate.was_started;
                fate.deaf = self.dice.below(u64::from(self.policy.tries)).try_into().unwrap();
            }
            self.schedule = Schedule::new(&self.lanes, self.policy.clone(), &known).unwrap();
            assert_eq!(self.schedule.summary().stopped.is_some(), self.breaks_rule());
            self.is_paused = false;
            if self.is_stopped {
                self.schedule.stop("before", self.now);
            }
        }

        fn breaks_rule(&self) -> bool {
            let is_bad = |fate: &&Fate| fate.over.is_some_and(Verdict::is_failure);
            let bad = self.fates.iter().filter(is_bad).count();
            let most = match self.policy.max_fail {
                Size::Hosts(hosts) => hosts * 100,
                Size::Percent(share) => usize::from(share) * self.fates.len(),
            };
            bad * 100 > most
                || self.ends[0] < self.fates.len() && self.fates[..self.ends[0]].iter().any(|fate| is_bad(&fate))
        }

        fn fly(&mut self, host: usize, takes: u64, end: End, is_asked: bool) {
            let flight = Flight { lands: self.now + takes, end, is_asked, since: self.now, is_cancelled: false };
            assert!(self.flights.insert(host, flight).is_none(), "{host} runs already");
            assert!(self.flights.len() <= self.policy.parallel);
            if let Some(lane) = self.lanes[host] {
                let beside = self.flights.keys().filter(|host| self.lanes[**host] == Some(lane)).count();
                assert!(beside <= self.policy.per_lane);
            }
        }

        fn start(&mut self, host: usize) {
            assert!(!self.is_paused && !self.is_stopped);
            let before = self.ends.iter().copied().filter(|end| *end <= host).max().unwrap_or(0);
            assert!(self.fates[..before].iter().all(|fate| fate.over.is_some()), "{host} before its wave");
            let refused = self.dice.below(100);
            let fate = &mut self.fates[host];
            assert!(fate.may_start && fate.over.is_none() && !fate.began, "{host} is started twice");
            fate.may_start = false;
            fate.was_started = true;
            let (takes, end) = if fate.refusals > 0 {
                fate.refusals -= 1;
                (1, End::Again { after_ms: refused })
            } else {
                fate.began = true;
                (fate.lasts, End::Is(fate.outcome))
            };
            self.fly(host, takes, end, false);
        }

        fn ask(&mut self, host: usize) {
            let fate = &mut self.fates[host];
            assert!(fate.may_ask && fate.over.is_none());
            fate.may_ask = false;
            let (takes, end) = match fate {
                Fate { deaf: 1.., .. } => {
                    fate.deaf -= 1;
                    (1, End::Again { after_ms: 7 })
                }
                Fate { began: true, .. } => (fate.lasts, End::Is(fate.outcome)),
                Fate { .. } => (2, End::NotBegun),
            };
            self.fly(host, takes, end, true);
        }

        fn cancel(&mut self, host: usize) {
            let flight = self.flights.get_mut(&host).unwrap();
            assert!(!flight.is_cancelled, "{host} is cancelled twice");
            assert!(self.is_stopped || self.now >= flight.since + self.policy.host_limit_ms);
            flight.is_cancelled = true;
            if self.dice.once_in(2) {
                let fate = &mut self.fates[host];
                flight.lands = self.now + self.dice.below(20);
                let by_itself = self.dice.once_in(2);
                if fate.began {
                    fate.outcome = if by_itself { Verdict::RolledBack } else { Verdict::Cancelled };
                    flight.end =
                        if by_itself { End::Is(Verdict::RolledBack) } else { End::Cancelled(Verdict::RolledBack) };
                } else if !flight.is_asked {
                    flight.end = End::Cancelled(Verdict::Refused);
                }
            }
        }

        fn wait(&mut self, until: Option<u64>) {
            assert!(until.is_none_or(|until| until > self.now), "waits for what is over");
            let landing = self.flights.values().map(|flight| flight.lands).min();
            let Some(next) = [landing, until].into_iter().flatten().min() else {
                assert!(self.is_paused, "waits for nothing");
                self.is_paused = false;
                return self.schedule.resume(self.now);
            };
            self.now = self.now.max(next);
            let landed = self.flights.iter().find(|(_, flight)| flight.lands <= self.now).map(|(host, _)| *host);
            let Some(host) = landed else { return };
            let flight = self.flights.remove(&host).unwrap();
            let over = self.schedule.ended(host, flight.end, self.now);
            let fate = &mut self.fates[host];
            fate.over = over;
            match (flight.end, over) {
                (End::Cancelled(_), over) if self.is_stopped => assert_eq!(over, Some(Verdict::Cancelled)),
                (End::Cancelled(verdict), over) => assert_eq!(over, Some(verdict)),
                (End::Is(verdict), over) => assert_eq!(over, Some(verdict)),
                (End::NotBegun, over) => {
                    assert_eq!(over, None);
                    (fate.was_started, fate.may_start) = (false, true);
                }
                (End::Again { .. }, None) if flight.is_asked => fate.may_ask = true,
                (End::Again { .. }, None) => fate.may_start = true,
                (End::Again { .. }, Some(_)) => {}
            }
            self.is_stopped |= self.breaks_rule();
            assert_eq!(self.schedule.ended(host, flight.end, self.now), None, "it ends once");
        }

        fn finish(&mut self, summary: Summary) -> Summary {
            assert!(self.flights.is_empty());
            let all = self.fates.len();
            assert_eq!(summary.counts.values().sum::<usize>() + summary.never_started, all);
            assert_eq!(summary.started, self.fates.iter().filter(|fate| fate.was_started).count());
            for (host, fate) in self.fates.iter().enumerate() {
                assert!(fate.over.is_some() || self.is_stopped, "{host} is lost");
                // One that waited for its next try when all stopped has no end of its own.
                let waited = self.is_stopped && fate.was_started && fate.over.is_none();
                assert_eq!(self.schedule.verdict(host), if waited { Some(Verdict::Cancelled) } else { fate.over });
            }
            assert_eq!(self.schedule.next(self.now), Step::Done(summary.clone()), "it stays done");
            summary
        }
    }

    fn random_policy(dice: &mut Dice) -> Policy {
        let waves = ["100%", "1,100%", "1,10%,100%", "3,7,50%,100%", "20%,40%,60%,80%,100%"][dice.index(5)];
        let max_fail = ["0", "1", "3", "10%", "50%", "100%"][dice.index(6)];
        Policy {
            waves: Policy::waves_from(waves).unwrap(),
            parallel: 1 + dice.index(12),
            per_lane: 1 + dice.index(4),
            max_fail: max_fail.parse().unwrap(),
            host_limit_ms: 20 + dice.below(2000),
            wave_limit_ms: dice.once_in(4).then(|| 200 + dice.below(4000)),
            tries: 1 + u32::try_from(dice.below(4)).unwrap(),
        }
    }

    fn random_lanes(dice: &mut Dice, count: usize) -> Vec<Option<u32>> {
        let lanes = 1 + dice.below(5);
        (0..count).map(|_| (!dice.once_in(3)).then(|| u32::try_from(dice.below(lanes)).unwrap() * 1000)).collect()
    }

    #[test]
    fn the_rules_hold_in_any_history() {
        for seed in 0..4000 {
            let mut dice = Dice(seed);
            let policy = random_policy(&mut dice);
            let count = dice.index(60);
            let lanes = random_lanes(&mut dice, count);
            let odds = 1 + dice.below(20);
            let fates = (0..count).map(|_| {
                let outcome = if dice.once_in(odds) { Verdict::ALL[dice.index(11)] } else { Verdict::Done };
                let refusals = if dice.once_in(4) { u32::try_from(dice.below(6)).unwrap() } else { 0 };
                let lasts = if dice.once_in(10) { 3000 } else { 1 + dice.below(100) };
                Fate { refusals, ..Fate::new(outcome, lasts) }
            });
            let fates = fates.collect();
            let mut world = World::new(seed, lanes, policy, fates);
            world.kills = [0, 30, 200][dice.index(3)];
            world.pauses = [0, 20, 100][dice.index(3)];
            world.stops = [0, 0, 200][dice.index(3)];
            world.run();
        }
    }

    #[test]
    fn whatever_interrupts_it_each_host_ends_as_it_would_have() {
        for seed in 0..3000 {
            let mut dice = Dice(seed);
            let policy = random_policy(&mut dice);
            let policy = Policy { max_fail: Size::ALL, host_limit_ms: u64::MAX, wave_limit_ms: None, ..policy };
            let count = 1 + dice.index(50);
            let first = policy.ends(count)[0];
            let lanes = random_lanes(&mut dice, count);
            let fates = (0..count).map(|host| {
                // Cancelled is no end that a host has by itself.
                let outcome = if host < first { Verdict::Done } else { Verdict::ALL[dice.index(10)] };
                let refusals = u32::try_from(dice.below(u64::from(policy.tries))).unwrap();
                Fate { refusals, ..Fate::new(outcome, 1 + dice.below(300)) }
            });
            let fates: Vec<Fate> = fates.collect();
            let mut world = World::new(seed, lanes, policy, fates.clone());
            (world.kills, world.pauses) = (2 + dice.below(60), 40);
            let summary = world.run();
            assert_eq!(summary.stopped, None);
            for (now, then) in world.fates.iter().zip(&fates) {
                assert!(now.began);
                assert_eq!(now.over, Some(then.outcome));
            }
        }
    }

    fn plain(count: usize, policy: Policy) -> Schedule {
        Schedule::new(&vec![None; count], policy, &[]).unwrap()
    }

    fn of(waves: &str, max_fail: &str) -> Policy {
        let waves = Policy::waves_from(waves).unwrap();
        Policy { waves, max_fail: max_fail.parse().unwrap(), host_limit_ms: 1000, ..Policy::default() }
    }

    const WAIT: Step = Step::Wait { until: None };

    fn all_starts(schedule: &mut Schedule, now: u64) -> Vec<usize> {
        let mut hosts = Vec::new();
        while let Step::Start(host) = schedule.next(now) {
            hosts.push(host);
        }
        hosts
    }

    #[test]
    fn a_failure_of_the_first_wave_stops_whatever_is_borne() {
        let mut schedule = plain(50, of("1,10%,100%", "100%"));
        assert_eq!(all_starts(&mut schedule, 0), [0]);
        assert_eq!(schedule.ended(0, End::Is(Verdict::Pending), 5), Some(Verdict::Pending));
        let Step::Done(summary) = schedule.next(5) else { panic!() };
        assert_eq!(summary.stopped, Some(Stopped::Host { host: 0, verdict: Verdict::Pending }));
        assert_eq!((summary.started, summary.never_started, summary.count(Verdict::Pending)), (1, 49, 1));
    }

    #[test]
    fn one_wave_for_all_has_no_canary() {
        let mut schedule = plain(3, of("100%", "1"));
        assert_eq!(all_starts(&mut schedule, 0), [0, 1, 2]);
        schedule.ended(0, End::Is(Verdict::Unreachable), 1);
        assert_eq!(schedule.summary().stopped, None);
        schedule.ended(1, End::Is(Verdict::Unreachable), 2);
        assert_eq!(schedule.next(2), Step::Cancel(2), "two are too many");
    }

    #[test]
    fn the_failure_too_many_stops_and_each_host_is_interrupted_once() {
        let mut schedule = plain(100, of("1,100%", "2%"));
        assert_eq!(schedule.next(0), Step::Start(0));
        schedule.ended(0, End::Is(Verdict::Unchanged), 1);
        assert_eq!(all_starts(&mut schedule, 1), (1..21).collect::<Vec<_>>());
        for host in 1..3 {
            schedule.ended(host, End::Is(Verdict::RolledBack), 2);
        }
        assert_eq!(all_starts(&mut schedule, 2), [21, 22], "two are borne");
        schedule.ended(9, End::Is(Verdict::Unverified), 3);
        // It ends before anybody interrupts it.
        schedule.ended(22, End::Is(Verdict::Done), 3);
        let cancelled: Vec<Step> = (0..18).map(|_| schedule.next(3)).collect();
        let running = (3..22).filter(|host| *host != 9);
        assert_eq!(cancelled, running.clone().map(Step::Cancel).collect::<Vec<_>>());
        assert_eq!(schedule.next(5000), WAIT);
        running.for_each(|host| assert!(schedule.ended(host, End::Cancelled(Verdict::RolledBack), 6000).is_some()));
        let Step::Done(summary) = schedule.next(6000) else { panic!() };
        assert_eq!(summary.stopped, Some(Stopped::Host { host: 9, verdict: Verdict::Unverified }));
        assert_eq!((summary.started, summary.never_started, summary.count(Verdict::Cancelled)), (23, 77, 18));
    }

    #[test]
    fn a_slow_host_holds_its_own_place_and_its_wave_only() {
        let mut schedule = plain(10, Policy { parallel: 2, host_limit_ms: 900, ..of("5,100%", "0") });
        assert_eq!(all_starts(&mut schedule, 0), [0, 1]);
        for (ended, next) in [(1, 2), (2, 3), (3, 4)] {
            schedule.ended(ended, End::Is(Verdict::Done), 10);
            assert_eq!(all_starts(&mut schedule, 10), [next]);
        }
        schedule.ended(4, End::Is(Verdict::Done), 20);
        assert_eq!(schedule.next(20), Step::Wait { until: Some(900) }, "the next wave waits");
        assert_eq!(schedule.next(900), Step::Cancel(0));
        assert_eq!(schedule.next(2000), WAIT, "once");
        schedule.ended(0, End::Is(Verdict::Done), 2000);
        assert_eq!(all_starts(&mut schedule, 2000), [5, 6], "it was done after all");
    }

    #[test]
    fn one_that_says_nothing_holds_no_place() {
        let mut schedule = plain(30, Policy { parallel: 2, ..of("100%", "0") });
        assert_eq!(all_starts(&mut schedule, 0), [0, 1]);
        schedule.set_aside(0);
        schedule.set_aside(0);
        assert_eq!(all_starts(&mut schedule, 1), [2], "one place, once");
        schedule.ended(0, End::Is(Verdict::Done), 2);
        assert_eq!(all_starts(&mut schedule, 2), Vec::<usize>::new(), "it held none");
        // As many as may run beside each other, and no more.
        let mut started = vec![1, 2];
        while let Some(host) = started.pop() {
            schedule.set_aside(host);
            started.extend(all_starts(&mut schedule, 3));
        }
        assert_eq!(schedule.running(), 6);
    }

    #[test]
    fn one_that_is_interrupted_at_its_limit_fails() {
        let mut schedule = plain(3, of("100%", "0"));
        all_starts(&mut schedule, 0);
        assert_eq!(schedule.next(1000), Step::Cancel(0));
        assert_eq!(schedule.ended(0, End::Cancelled(Verdict::RolledBack), 1001), Some(Verdict::RolledBack));
        assert_eq!(schedule.summary().stopped, Some(Stopped::Host { host: 0, verdict: Verdict::RolledBack }));
    }

    #[test]
    fn a_retry_takes_no_place_while_it_waits_and_ends_after_its_tries() {
        let mut schedule = plain(3, Policy { parallel: 1, tries: 2, ..of("100%", "3") });
        assert_eq!(schedule.next(0), Step::Start(0));
        assert_eq!(schedule.ended(0, End::Again { after_ms: 400 }, 0), None);
        assert_eq!(schedule.next(0), Step::Start(1));
        assert_eq!(schedule.ended(1, End::Is(Verdict::Done), 1), Some(Verdict::Done));
        assert_eq!(schedule.next(1), Step::Start(2));
        assert_eq!(schedule.ended(2, End::Is(Verdict::Done), 2), Some(Verdict::Done));
        let until = 400 + jitter(0, 1, 400);
        assert!((401..=500).contains(&until), "{until}");
        assert_eq!(schedule.next(2), Step::Wait { until: Some(until) });
        assert_eq!(schedule.next(until), Step::Start(0));
        assert_eq!(schedule.ended(0, End::Again { after_ms: 400 }, until), Some(Verdict::Unreachable));
        assert!(matches!(schedule.next(until), Step::Done(_)));
    }

    #[test]
    fn retries_differ_from_host_to_host_by_a_quarter_at_most() {
        let all: BTreeSet<u64> = (0..1000).map(|host| jitter(host, 1, 40_000)).collect();
        assert!(all.len() > 900 && all.last() <= Some(&10_000) && all.last() > Some(&9_000));
        assert_eq!(jitter(5, 1, 0), 0);
        assert_ne!(jitter(5, 1, 40_000), jitter(5, 2, 40_000));
        assert!(jitter(usize::MAX, u32::MAX, u64::MAX) <= u64::MAX / 4);
    }

    #[test]
    fn a_pause_holds_back_starts_and_the_clock_of_the_wave() {
        let policy = Policy { wave_limit_ms: Some(500), parallel: 1, ..of("100%", "0") };
        let mut schedule = plain(3, policy);
        assert_eq!(schedule.next(0), Step::Start(0));
        schedule.pause(100);
        schedule.ended(0, End::Is(Verdict::Done), 200);
        assert_eq!(schedule.next(10_000), WAIT);
        schedule.resume(20_000);
        assert_eq!(schedule.next(20_050), Step::Start(1));
        assert_eq!(schedule.next(20_051), Step::Wait { until: Some(20_400) }, "100 were over");
        assert_eq!(schedule.next(20_400), Step::Cancel(1));
        assert_eq!(schedule.summary().stopped, Some(Stopped::Wave { wave: 1 }));
    }

    #[test]
    fn a_wave_whose_last_host_ends_when_its_time_does_is_through() {
        let mut schedule = plain(2, Policy { wave_limit_ms: Some(500), ..of("1,100%", "0") });
        for (host, begins, ends) in [(0, 0, 500), (1, 501, 1001)] {
            assert_eq!(schedule.next(begins), Step::Start(host));
            schedule.ended(host, End::Is(Verdict::Done), ends);
        }
        assert!(matches!(schedule.next(1001), Step::Done(Summary { stopped: None, .. })));
    }

    #[test]
    fn what_was_begun_is_asked_first_also_when_paused_or_stopped() {
        let known = [(0, Known::Ended(Verdict::Done)), (2, Known::Begun), (3, Known::Begun), (4, Known::Begun)];
        let policy = Policy { parallel: 2, tries: 2, ..of("1,100%", "9") };
        let begin = || Schedule::new(&[None; 6], policy.clone(), &known).unwrap();
        let mut schedule = begin();
        schedule.pause(0);
        assert_eq!((schedule.next(0), schedule.next(0)), (Step::Ask(2), Step::Ask(3)));
        assert_eq!(schedule.ended(2, End::NotBegun, 1), None);
        assert_eq!(schedule.next(1), Step::Ask(4));
        assert_eq!(schedule.ended(3, End::Again { after_ms: 0 }, 1), None);
        assert_eq!(schedule.next(1), Step::Ask(3), "not to be told is no leave to start");
        assert_eq!(schedule.ended(3, End::Again { after_ms: 0 }, 1), Some(Verdict::Unknown));
        schedule.resume(2);
        assert_eq!(schedule.next(2), Step::Start(1));
        assert_eq!(schedule.ended(4, End::Is(Verdict::Done), 3), Some(Verdict::Done));
        assert_eq!(schedule.next(3), Step::Start(2));

        let mut schedule = begin();
        schedule.stop("enough", 0);
        assert_eq!((schedule.next(0), schedule.next(0)), (Step::Ask(2), Step::Ask(3)));
        assert_eq!(schedule.next(0), Step::Wait { until: Some(1000) }, "asking is not interrupted");
        schedule.ended(2, End::NotBegun, 1);
        schedule.ended(3, End::Is(Verdict::Done), 1);
        assert_eq!(schedule.next(1), Step::Ask(4));
        assert_eq!(schedule.next(1001), Step::Cancel(4), "but at its limit");
        schedule.ended(4, End::Cancelled(Verdict::Unknown), 1002);
        let Step::Done(summary) = schedule.next(1002) else { panic!() };
        assert_eq!((summary.started, summary.never_started), (3, 3));
    }

    #[test]
    fn an_earlier_failure_stops_a_later_controller_too() {
        let known = [(0, Known::Ended(Verdict::RolledBack))];
        let mut schedule = Schedule::new(&[None; 4], of("1,100%", "100%"), &known).unwrap();
        assert!(matches!(schedule.next(0), Step::Done(Summary { stopped: Some(Stopped::Host { host: 0, .. }), .. })));
        assert!(Schedule::new(&[None; 4], Policy::default(), &[(4, Known::Begun)]).is_err());
    }

    #[test]
    fn no_hosts_are_done_at_once() {
        assert!(matches!(plain(0, Policy::default()).next(0), Step::Done(_)));
    }

    /// A fleet behind bastions: a tenth slow, a tenth refused at first, the last `bad` failing. How it ends, and its most
    /// bytes.
    fn fleet(count: usize, bad: usize) -> (Summary, usize) {
        let lanes: Vec<Option<u32>> = (0..count).map(|host| u32::try_from(host % 200).ok()).collect();
        let policy = Policy { parallel: 1000, max_fail: Size::Percent(2), ..Policy::default() };
        let mut schedule = Schedule::new(&lanes, policy, &[]).unwrap();
        let mut landings: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        let mut refused = vec![false; count];
        let (mut now, mut bytes) = (0, 0);
        loop {
            match schedule.next(now) {
                Step::Start(host) => {
                    let lasts = if host % 10 == 3 { 60_000 } else { 5_000 + (host as u64 * 7919) % 4_000 };
                    landings.push(Reverse((now + lasts, host)));
                }
                Step::Ask(_) => panic!("nothing was known"),
                Step::Cancel(_) => {}
                Step::Wait { until } => {
                    bytes = bytes.max(schedule.bytes());
                    let landing = landings.peek().map(|Reverse((at, _))| *at);
                    now = [until, landing].into_iter().flatten().min().unwrap();
                    if landing != Some(now) {
                        continue;
                    }
                    let Reverse((_, host)) = landings.pop().unwrap();
                    let end = match host {
                        _ if host % 10 == 7 && !std::mem::replace(&mut refused[host], true) => {
                            End::Again { after_ms: 2_000 }
                        }
                        _ if host >= count - bad => End::Is(Verdict::RolledBack),
                        _ => End::Is(Verdict::Done),
                    };
                    schedule.ended(host, end, now);
                }
                Step::Done(summary) => return (summary, bytes),
            }
        }
    }

    #[test]
    fn a_hundred_thousand_hosts() {
        for (count, bad) in [(10_000, 100), (100_000, 1_000)] {
            let begin = std::time::Instant::now();
            let (summary, bytes) = fleet(count, bad);
            let each = begin.elapsed() / u32::try_from(count).unwrap();
            println!("{count} hosts: {each:?} and {} bytes each, {bytes} bytes", bytes / count);
            assert_eq!(summary.stopped, None);
            assert_eq!((summary.count(Verdict::Done), summary.count(Verdict::RolledBack)), (count - bad, bad));
            assert_eq!((summary.started, summary.never_started), (count, 0));
        }
        let (summary, _) = fleet(100_000, 5_000);
        assert!(matches!(summary.stopped, Some(Stopped::Host { verdict: Verdict::RolledBack, .. })));
        assert!(summary.count(Verdict::RolledBack) > 2_000 && summary.never_started > 1_000);
    }
}
