//! The hosts at work: a thread for each one that runs, which says what it hears. This side of it decides nothing but what
//! the schedule says, and records what the store must remember.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::error::{Failure, Kind, Result};
use crate::fleet::schedule::{End, Schedule, Step, Summary, Verdict};
use crate::fleet::store::{Ended, Record};
use crate::outcome::{Event, Exit, Sink};
use crate::target::ssh::Setback;

use super::super::Ending;
use super::super::args::Verb;
use super::super::far::{self, Early, Errand, Interrupt, Shelf, Wish};
use super::super::signals::Signals;
use super::ask;
use super::gather::Shared;
use super::told::{Over, Told};

/// Between two looks at the clock, the keyboard and the display.
const TURN: Duration = Duration::from_millis(100);
/// A host that has not let us in for so long gives its place to another one.
const UNREACHED: Duration = Duration::from_secs(5);
/// And one that did, and has said nothing since. Not sooner: hosts that are slow because they share a machine would be slower
/// still with more of them at work.
const SILENT: Duration = Duration::from_secs(30);
/// Most words that wait to be heard; a host that says more waits itself.
const WAITING: usize = 1024;
/// A host's thread waits most of the time; its stack holds a plan and a few lines.
const STACK: usize = 1 << 20;

/// What a host's thread says.
enum Said {
    Heard(usize, Box<Event>),
    Over(usize, Box<std::result::Result<Ending, Setback>>),
    Asked(usize, Box<ask::Answer>),
}

/// Says what one host says.
struct Mouth {
    host: usize,
    to: SyncSender<Said>,
}

impl Sink for Mouth {
    fn event(&mut self, event: Event) {
        let _ = self.to.send(Said::Heard(self.host, Box::new(event)));
    }
}

/// Who wants to know how it goes.
pub trait Watcher {
    /// Something is about to be remembered before it happens.
    ///
    /// # Errors
    /// When it cannot be; the host is then not started.
    fn record(&mut self, record: &Record) -> Result<()>;
    /// A host said something.
    fn heard(&mut self, host: usize, event: Event);
    /// A host is over, for good.
    fn over(&mut self, host: usize, told: &Told);
    /// Time went by.
    fn turn(&mut self, told: &[Told], schedule: &Schedule);
}

/// A verb on many hosts.
pub struct Job<'a> {
    /// The hosts.
    pub crew: &'a Shared,
    /// What is done on each.
    pub verb: Arc<Verb>,
    /// Digests of the plans that were agreed to, by host; `None`: each plan is taken as it is.
    pub agreed: Option<BTreeMap<usize, String>>,
    /// Ids of runs that an earlier controller began: what a host is asked about, or what is rolled back.
    pub runs: BTreeMap<usize, String>,
    /// Within which a run is undone that nobody confirms.
    pub window: Duration,
    /// Mounts that a copy does without.
    pub leave_out: Arc<Vec<crate::types::AbsPath>>,
}

/// What came of all of them.
pub struct Came {
    /// By host.
    pub told: Vec<Told>,
    /// In numbers.
    pub summary: Summary,
    /// Why something could not be remembered, where it could not; the work was stopped then.
    pub broken: Option<Failure>,
}

/// Runs a schedule to its end.
pub fn work(job: &Job<'_>, schedule: &mut Schedule, watcher: &mut dyn Watcher) -> Came {
    let (to, from) = sync_channel(WAITING);
    let told = job.crew.hosts.iter().map(|_| Told::default()).collect();
    let (wishes, tries, shelf) = (BTreeMap::new(), BTreeMap::new(), Shelf::default());
    let mut work = Work {
        job,
        schedule,
        watcher,
        told,
        wishes,
        tries,
        shelf,
        to,
        begun: Instant::now(),
        broken: None,
        asked: BTreeSet::new(),
    };
    let signals = Signals::hold_rollout().ok();
    let summary = work.go(&from, signals.as_ref());
    if let Some(signals) = signals {
        // Whoever is asked something afterwards can leave by them.
        signals.let_all_go();
    }
    Came { told: work.told, summary, broken: work.broken }
}

/// The work under way.
struct Work<'a> {
    job: &'a Job<'a>,
    schedule: &'a mut Schedule,
    watcher: &'a mut dyn Watcher,
    told: Vec<Told>,
    wishes: BTreeMap<usize, Arc<Wish>>,
    tries: BTreeMap<usize, u32>,
    shelf: Shelf,
    to: SyncSender<Said>,
    begun: Instant,
    broken: Option<Failure>,
    /// Hosts that an earlier controller had begun.
    asked: BTreeSet<usize>,
}

impl Work<'_> {
    fn go(&mut self, from: &Receiver<Said>, signals: Option<&Signals>) -> Summary {
        let mut is_paused = false;
        loop {
            let now = self.now();
            if let Some(signals) = signals.filter(|signals| signals.interrupted()) {
                signals.let_go();
                let why = "interrupted at the keyboard";
                self.schedule.stop(why, now);
                self.remember(&Record::Stopped { why: why.to_owned() });
            }
            let pause = signals.is_some_and(Signals::is_paused);
            if pause != std::mem::replace(&mut is_paused, pause) {
                self.remember(if pause { &Record::Paused } else { &Record::Resumed });
                if pause { self.schedule.pause(now) } else { self.schedule.resume(now) }
            }
            match self.schedule.next(now) {
                Step::Done(summary) => {
                    self.settle_rest();
                    return summary;
                }
                Step::Cancel(host) => {
                    if let Some(wish) = self.wishes.get(&host) {
                        wish.ask();
                    }
                }
                Step::Start(host) => self.start(host),
                Step::Ask(host) => self.ask(host),
                Step::Wait { until } => {
                    let left = until.map_or(TURN, |until| Duration::from_millis(until.saturating_sub(now)).min(TURN));
                    self.hear(from, left);
                    for (host, told) in self.told.iter().enumerate() {
                        let reached = self.wishes.get(&host).is_some_and(|wish| wish.is_reached());
                        let limit = if reached { SILENT } else { UNREACHED };
                        if told.end.is_none() && told.heard.is_some_and(|heard| heard.elapsed() > limit) {
                            self.schedule.set_aside(host);
                        }
                    }
                    self.watcher.turn(&self.told, self.schedule);
                }
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// False when it cannot be remembered: then nothing is begun any more, and what runs is interrupted. Nor is anything
    /// written any more: what a store tells without what came before would be no store.
    fn remember(&mut self, record: &Record) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let Err(failure) = self.watcher.record(record) else { return true };
        self.broken.get_or_insert(failure);
        self.schedule.stop("what happens cannot be remembered", self.now());
        false
    }

    fn start(&mut self, host: usize) {
        let count = self.tries.entry(host).or_insert(0);
        *count += 1;
        let record = Record::Started { host, tries: *count };
        if !self.remember(&record) {
            if let Some(verdict) = self.schedule.ended(host, End::Cancelled(Verdict::Refused), self.now()) {
                self.close(host, verdict);
            }
            return;
        }
        let wish = self.expect(host, "connecting");
        let (job, shelf, mouth, was_asked) =
            (self.job, self.shelf.clone(), self.to.clone(), self.asked.contains(&host));
        let window = job.window;
        let (crew, verb, leave_out) = (job.crew.clone(), job.verb.clone(), job.leave_out.clone());
        let agreed = job.agreed.as_ref().map(|agreed| agreed.get(&host).cloned().unwrap_or_default());
        let run = job.runs.get(&host).cloned();
        self.begin(host, move || {
            let verb = far::of_run(&verb, run);
            let one = One { crew: &crew, verb: &verb, leave_out: &leave_out, host, agreed, shelf: &shelf };
            let mut ended = one.go(wish.clone(), &mut Mouth { host, to: mouth.clone() });
            // Told to go on by a controller that died, it may have begun only after it was asked.
            if was_asked && ended.as_ref().is_ok_and(|ending| ending.exit == Exit::Busy) {
                let history = One { verb: &Verb::History, agreed: None, ..one };
                let look = || {
                    let mut events: Vec<Event> = Vec::new();
                    history.go(wish.clone(), &mut events).map(|_| events)
                };
                ended = match ask::outcome(None, window, &look, &|| wish.is_asked()) {
                    ask::Answer::Lost(setback) => Err(setback),
                    _ => one.go(wish.clone(), &mut Mouth { host, to: mouth.clone() }),
                };
            }
            let _ = mouth.send(Said::Over(host, Box::new(ended)));
        });
    }

    /// Asks a host what became of the run that an earlier controller began.
    fn ask(&mut self, host: usize) {
        let wish = self.expect(host, "asking");
        self.asked.insert(host);
        let (job, shelf, mouth) = (self.job, self.shelf.clone(), self.to.clone());
        let (crew, leave_out, window) = (job.crew.clone(), job.leave_out.clone(), job.window);
        let run = job.runs.get(&host).cloned();
        self.begin(host, move || {
            let verb = Verb::History;
            let look = || {
                let one = One { crew: &crew, verb: &verb, leave_out: &leave_out, host, agreed: None, shelf: &shelf };
                let mut events: Vec<Event> = Vec::new();
                one.go(wish.clone(), &mut events).map(|_| events)
            };
            let answer = ask::outcome(run.as_deref(), window, &look, &|| wish.is_asked());
            let _ = mouth.send(Said::Asked(host, Box::new(answer)));
        });
    }

    fn expect(&mut self, host: usize, phase: &'static str) -> Arc<Wish> {
        if let Some(told) = self.told.get_mut(host) {
            told.start();
            told.phase = phase;
        }
        let wish = Arc::new(Wish::default());
        self.wishes.insert(host, wish.clone());
        wish
    }

    fn begin(&mut self, host: usize, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = std::thread::Builder::new().stack_size(STACK).spawn(work) {
            let failure = Failure::new(Kind::Busy, "keyward", "no thread for another host");
            let setback = Setback::from(failure.why(error).hint("--parallel with a smaller number"));
            self.over(host, Err(setback));
        }
    }

    /// Takes what was said, waiting for the first word.
    fn hear(&mut self, from: &Receiver<Said>, limit: Duration) {
        let mut limit = limit;
        while let Ok(said) = from.recv_timeout(limit) {
            limit = Duration::ZERO;
            match said {
                Said::Heard(host, event) => self.heard(host, *event),
                Said::Over(host, ended) => self.over(host, *ended),
                Said::Asked(host, answer) => {
                    let end = self.told.get_mut(host).map(|told| told.answered(*answer));
                    self.settle(host, end);
                }
            }
        }
    }

    fn heard(&mut self, host: usize, event: Event) {
        let Some(told) = self.told.get_mut(host) else { return };
        let before = told.run.clone();
        told.hear(&event);
        if let Some(run) = told.run.clone().filter(|run| before.as_ref() != Some(run)) {
            self.remember(&Record::Run { host, run });
        }
        self.watcher.heard(host, event);
    }

    fn over(&mut self, host: usize, ended: std::result::Result<Ending, Setback>) {
        let looks = !matches!(*self.job.verb, Verb::Apply(_) | Verb::Rollback(_));
        let wish = self.wishes.get(&host).cloned().unwrap_or_default();
        let end = self.told.get_mut(host).map(|told| told.finish(ended, looks, &wish));
        self.settle(host, end);
    }

    fn settle(&mut self, host: usize, end: Option<End>) {
        let now = self.now();
        let Some(verdict) = end.and_then(|end| self.schedule.ended(host, end, now)) else { return };
        self.close(host, verdict);
    }

    fn close(&mut self, host: usize, verdict: Verdict) {
        let looks = matches!(*self.job.verb, Verb::Plan(_));
        let Some(told) = self.told.get_mut(host) else { return };
        let over =
            told.end.get_or_insert_with(|| Over { verdict, exit: None, text: String::new(), next: String::new() });
        over.verdict = verdict;
        let why = verdict.is_failure().then(|| super::bounded(&over.text));
        let evidence = told.reach.map(|reach| format!("{reach:?}"));
        let ended = Ended { verdict, evidence, changes: told.changes, millis: told.millis, why };
        if !looks {
            // Nobody shows it, and there may be many.
            told.plan = None;
        }
        self.remember(&Record::Ended { host, ended });
        if let Some(told) = self.told.get(host) {
            self.watcher.over(host, told);
        }
    }

    /// Hosts that waited for another try when it stopped.
    fn settle_rest(&mut self) {
        for host in 0..self.told.len() {
            let Some(verdict) = self.schedule.verdict(host) else { continue };
            let waits =
                |told: &Told| told.began.is_some() && told.end.as_ref().is_none_or(|end| end.verdict != verdict);
            if self.told.get(host).is_some_and(waits) {
                self.close(host, verdict);
            }
        }
    }
}

/// One host's part of the work.
struct One<'a> {
    crew: &'a Shared,
    verb: &'a Verb,
    leave_out: &'a [crate::types::AbsPath],
    host: usize,
    agreed: Option<String>,
    shelf: &'a Shelf,
}

impl One<'_> {
    fn go(&self, wish: Arc<Wish>, sink: &mut dyn Sink) -> std::result::Result<Ending, Setback> {
        let gone = || Setback::from(Failure::unknown("keyward", "lost a host of its own list"));
        let own = self.crew.hosts.get(self.host).ok_or_else(gone)?;
        let job = self.crew.job(self.host)?;
        let errand = Errand {
            verb: self.verb,
            leave_out: self.leave_out,
            login: &own.login,
            destination: &own.place,
            job: job.as_deref(),
            agreed: self.agreed.as_deref(),
            interrupt: Interrupt::Flag(wish),
        };
        errand.run(Early::shared(self.shelf.clone()), sink)
    }
}

#[cfg(test)]
mod tests {
    use super::super::gather::Crew;
    use super::*;
    use crate::fleet::schedule::{Policy, Size};

    /// A store that takes so many records.
    struct Store {
        left: usize,
        asked: usize,
        over: Vec<usize>,
    }

    impl Watcher for Store {
        fn record(&mut self, _: &Record) -> Result<()> {
            self.asked += 1;
            let full = || Failure::refused("store", "the disk is full");
            self.left = self.left.checked_sub(1).ok_or_else(full)?;
            Ok(())
        }

        fn heard(&mut self, _: usize, _: Event) {}

        fn over(&mut self, host: usize, _: &Told) {
            self.over.push(host);
        }

        fn turn(&mut self, _: &[Told], _: &Schedule) {}
    }

    fn with(records: usize) -> (Came, Store) {
        let crew: Shared = Arc::new(Crew::shut(3));
        let policy = Policy { waves: vec![Size::ALL], parallel: 1, max_fail: Size::ALL, ..Policy::default() };
        let mut schedule = Schedule::new(&crew.lanes, policy, &[]).unwrap();
        let mut store = Store { left: records, asked: 0, over: Vec::new() };
        let (window, leave_out) = (Duration::from_secs(1), Arc::default());
        let job =
            Job { crew: &crew, verb: Arc::new(Verb::Status), agreed: None, runs: BTreeMap::new(), window, leave_out };
        (work(&job, &mut schedule, &mut store), store)
    }

    #[test]
    fn each_host_is_written_down_before_it_is_begun_and_once_it_is_over() {
        let (came, store) = with(6);
        assert!(came.broken.is_none() && came.summary.count(Verdict::Unreachable) == 3, "{:?}", came.summary);
        assert_eq!((store.asked, store.over), (6, vec![0, 1, 2]));
    }

    #[test]
    fn what_cannot_be_written_down_is_not_begun_and_nothing_is_written_behind_it() {
        for (records, ended) in [(0, 0), (2, 1), (4, 2)] {
            let (came, store) = with(records);
            assert!(came.broken.is_some() && came.summary.stopped.is_some(), "{records}");
            assert_eq!(store.asked, records + 1, "a store that failed is left alone");
            assert_eq!(came.summary.count(Verdict::Unreachable), ended);
            assert!(came.told.get(ended).is_some_and(|told| told.began.is_none()), "{records}: it was begun");
        }
        // The end of a host could not be written down: it is known here, and asked about by whoever goes on.
        let (came, store) = with(1);
        assert_eq!((store.asked, came.summary.count(Verdict::Unreachable)), (2, 1));
    }
}
