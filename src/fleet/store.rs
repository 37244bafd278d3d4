//! What a controller must remember of a rollout so that another one can go on: records as data and as lines, in the form
//! of the journal. Must not read or write a file: lines go to a [`Store`], and text comes in whole.
//!
//! A record is durable before what it tells of happens, but for an end, which is recorded once it is known: if the machine
//! loses its power before it was written, the host is asked. So a host without [`Record::Started`] was never touched, and one
//! with it and without an end has to be asked.

use serde::{Deserialize, Serialize};

#[cfg(test)]
use super::schedule::Schedule;
use super::schedule::{Known, Policy, Verdict};
use crate::error::{Failure, Result};
use crate::journal::line;

/// Layout of the records written today.
pub const VERSION: u32 = 1;

/// Where the lines of one rollout are kept.
pub trait Store {
    /// Appends one line, which comes without its newline. Once it is synced, so are all before it.
    ///
    /// # Errors
    /// When it cannot be written, or synced where that was asked for; then nothing of it may stay.
    fn append(&mut self, line: &str, is_synced: bool) -> Result<()>;
}

impl<S: Store + ?Sized> Store for &mut S {
    fn append(&mut self, line: &str, is_synced: bool) -> Result<()> {
        (**self).append(line, is_synced)
    }
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn append(&mut self, line: &str, is_synced: bool) -> Result<()> {
        (**self).append(line, is_synced)
    }
}

/// What a rollout is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Layout; readers refuse others.
    pub version: u32,
    /// Its id.
    pub rollout: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// Digest of the inventory.
    pub inventory: String,
    /// The playbook.
    pub playbook: Playbook,
    /// All hosts, in order; other records name them by their place here. Names are data, and lead to no file.
    pub hosts: Vec<String>,
    /// How it goes.
    pub policy: Policy,
}

/// Which playbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Playbook {
    /// As the user named it.
    pub name: String,
    /// Digest of all that it is made of.
    pub digest: String,
}

/// How one host ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// How.
    pub verdict: Verdict,
    /// How far the proof reaches, and where it is to be found.
    pub evidence: Option<String>,
    /// Number of changes made.
    pub changes: usize,
    /// How long it took.
    pub millis: u64,
    /// Why it is no success; bounded and escaped by the one who records it.
    pub why: Option<String>,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "record")]
pub enum Record {
    /// First line: what this rollout is.
    Begin(Box<Begin>),
    /// A host is about to be started.
    Started {
        /// Which.
        host: usize,
        /// The first time is 1.
        tries: u32,
    },
    /// The host has begun a run.
    Run {
        /// Which host.
        host: usize,
        /// Id of the run there.
        run: String,
    },
    /// A host is over.
    Ended {
        /// Which.
        host: usize,
        /// How.
        #[serde(flatten)]
        ended: Ended,
    },
    /// No host is started for now.
    Paused,
    /// The pause is over.
    Resumed,
    /// No host is started any more.
    Stopped {
        /// Why.
        why: String,
    },
    /// Last line: no host runs, and none will.
    Closed,
}

/// Writes the records of one rollout.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    seq: u64,
}

impl<S: Store> Writer<S> {
    /// Begins a rollout in an empty store.
    ///
    /// # Errors
    /// When it cannot be made durable.
    pub fn begin(store: S, begin: Begin) -> Result<Self> {
        let mut writer = Self { store, seq: 0 };
        writer.write(&Record::Begin(Box::new(begin)))?;
        Ok(writer)
    }

    /// Goes on with what was read. The store must end after [`Remembered::bytes`]: a torn tail would glue itself to the
    /// next line.
    pub fn resume(store: S, remembered: &Remembered) -> Self {
        Self { store, seq: remembered.records }
    }

    /// Appends a record, durable on return unless it is the end of a host.
    ///
    /// # Errors
    /// When it is not written; it may be written again then.
    pub fn write(&mut self, record: &Record) -> Result<()> {
        let is_synced = !matches!(record, Record::Ended { .. });
        self.store.append(&line::write(self.seq, record)?, is_synced)?;
        self.seq += 1;
        Ok(())
    }
}

/// What is remembered of one host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostRecord {
    /// How often it was started; 0 for one that never was.
    pub tries: u32,
    /// Id of the run that its last start began there, where that was recorded.
    pub run: Option<String>,
    /// How it ended; `None` for one that has not ended since it was last started.
    pub ended: Option<Ended>,
}

impl HostRecord {
    /// What a schedule is told of this host; `None` for one that was never started.
    pub fn known(&self) -> Option<Known> {
        let begun = (self.tries > 0).then_some(Known::Begun);
        self.ended.as_ref().map(|ended| Known::Ended(ended.verdict)).or(begun)
    }
}

/// What the store tells of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What it is.
    pub begin: Begin,
    /// Its hosts, in the order of [`Begin::hosts`].
    pub hosts: Vec<HostRecord>,
    /// True in a pause.
    pub is_paused: bool,
    /// Why no host is started any more.
    pub stopped: Option<String>,
    /// True once it is over.
    pub is_closed: bool,
    /// Number of whole records.
    pub records: u64,
    /// How many bytes they take; what follows is a torn tail, and is to be cut off before anything is appended.
    pub bytes: usize,
}

const STORE: &str = "rollout store";

impl Remembered {
    /// Reads a store, without its torn tail; `None` for a rollout that never began.
    ///
    /// # Errors
    /// Unknown, with the line, when one that is complete does not match its checksum or contradicts those before it.
    pub fn read(text: &str) -> Result<Option<Self>> {
        let whole = line::whole::<Record>(text);
        // A write that was cut off leaves no newline: a last line that has one was whole once.
        let is_torn = !text.ends_with('\n');
        let last = (whole.bytes < text.len() && !is_torn).then_some(whole.records.len() + 1);
        if let Some(number) = whole.broken.or(last) {
            return Err(line::broken(STORE, number).hint(HINT));
        }
        let (records, bytes) = (u64::try_from(whole.records.len()).unwrap_or(u64::MAX), whole.bytes);
        let mut lines = (1_usize..).zip(whole.records);
        let begin = match lines.next() {
            None => return Ok(None),
            Some((_, Record::Begin(begin))) if begin.version == VERSION => *begin,
            Some((_, Record::Begin(_))) => {
                return Err(Failure::unknown(STORE, "was written by another version of keyward")
                    .hint("resume it with the version that began it"));
            }
            Some((number, _)) => return Err(damaged(number, "does not say what the rollout is")),
        };
        let hosts = vec![HostRecord::default(); begin.hosts.len()];
        let mut read = Self { begin, hosts, is_paused: false, stopped: None, is_closed: false, records, bytes };
        for (number, record) in lines {
            read.take(record).map_err(|what| damaged(number, what))?;
        }
        Ok(Some(read))
    }

    /// What a schedule is told of the hosts that were started.
    pub fn known(&self) -> Vec<(usize, Known)> {
        self.hosts.iter().enumerate().filter_map(|(host, record)| Some((host, record.known()?))).collect()
    }

    /// The rollout as it stood: what was begun is to be asked, and a pause or a stop still holds. The lanes are those of
    /// the same inventory, see [`Remembered::may_resume`].
    ///
    /// # Errors
    /// As [`Schedule::new`], or when there is not one lane for each host.
    #[cfg(test)]
    fn schedule(&self, lanes: &[Option<u32>]) -> Result<Schedule> {
        if lanes.len() != self.hosts.len() {
            let what = format!("the rollout has {} hosts, the inventory {}", self.hosts.len(), lanes.len());
            return Err(Failure::refused(self.place(), what).hint("put the inventory back as it was"));
        }
        let mut schedule = Schedule::new(lanes, self.begin.policy.clone(), &self.known())?;
        if self.is_paused {
            schedule.pause(0);
        }
        if let Some(why) = &self.stopped {
            schedule.stop(why, 0);
        }
        Ok(schedule)
    }

    /// Whether the rollout may go on with this inventory and this playbook, given by their digests.
    ///
    /// # Errors
    /// Refused, when one is another than at its begin or when the rollout is over.
    pub fn may_resume(&self, inventory: &str, playbook: &str) -> Result<()> {
        let place = self.place();
        let changed = match (self.begin.inventory != inventory, self.begin.playbook.digest != playbook) {
            (false, false) if self.is_closed => {
                return Err(Failure::refused(place, "is over").hint("begin a new one"));
            }
            (false, false) => return Ok(()),
            (true, false) => "the inventory has",
            (false, true) => "the playbook has",
            (true, true) => "inventory and playbook have",
        };
        Err(Failure::refused(place, format!("{changed} changed since it began"))
            .why("its hosts would not all get the same")
            .hint("put back what was changed and resume; or begin a new rollout, which leaves what is as asked alone"))
    }

    fn place(&self) -> String {
        format!("rollout {}", self.begin.rollout.escape_debug())
    }

    /// Takes one record after the first; says what is wrong with it.
    fn take(&mut self, record: Record) -> std::result::Result<(), &'static str> {
        if self.is_closed {
            return Err("follows the end of the rollout");
        }
        match record {
            Record::Begin(_) => return Err("begins the rollout a second time"),
            Record::Started { host, tries } => {
                *self.host(host)? = HostRecord { tries: tries.max(1), run: None, ended: None };
            }
            Record::Run { host, run } => self.started(host)?.run = Some(run),
            Record::Ended { host, ended } => self.started(host)?.ended = Some(ended),
            Record::Paused => self.is_paused = true,
            Record::Resumed => self.is_paused = false,
            Record::Stopped { why } => {
                self.stopped.get_or_insert(why);
            }
            Record::Closed => self.is_closed = true,
        }
        Ok(())
    }

    fn host(&mut self, host: usize) -> std::result::Result<&mut HostRecord, &'static str> {
        self.hosts.get_mut(host).ok_or("names a host that the rollout does not have")
    }

    fn started(&mut self, host: usize) -> std::result::Result<&mut HostRecord, &'static str> {
        let record = self.host(host)?;
        if record.tries == 0 { Err("tells of a host that was not started") } else { Ok(record) }
    }
}

const HINT: &str =
    "the file was edited or the disk is failing; begin a new rollout, which leaves what is as asked alone";

fn damaged(number: usize, what: &str) -> Failure {
    Failure::unknown(format!("{STORE}, line {number}"), what).hint(HINT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::schedule::{End, Size, Step, Stopped, Summary};
    use crate::fleet::tests::Dice;

    /// Lines in memory, and a controller that dies after so many of them, in the middle of the next one if wanted.
    #[derive(Debug, Clone, Default)]
    struct Lines {
        text: String,
        left: Option<usize>,
        is_torn: bool,
    }

    impl Store for Lines {
        fn append(&mut self, line: &str, _: bool) -> Result<()> {
            if self.left == Some(0) {
                let torn = line.get(..line.len() / 2).filter(|_| self.is_torn).unwrap_or_default();
                self.text.push_str(torn);
                return Err(Failure::failed("controller", "died"));
            }
            self.left = self.left.map(|left| left - 1);
            self.text.push_str(line);
            self.text.push('\n');
            Ok(())
        }
    }

    fn begin(hosts: usize) -> Begin {
        Begin {
            version: VERSION,
            rollout: "r-1".into(),
            at: "2026-01-02T03:04:05Z".into(),
            inventory: "in1".into(),
            playbook: Playbook { name: "../../etc/\"p\".yml".into(), digest: "pl1".into() },
            hosts: (0..hosts).map(|host| format!("../h{host}\n\u{202e}")).collect(),
            policy: Policy { parallel: 3, max_fail: Size::Percent(30), ..Policy::default() },
        }
    }

    fn ended(verdict: Verdict) -> Ended {
        Ended { verdict, evidence: Some("L3".into()), changes: 4, millis: 1234, why: None }
    }

    fn records() -> Vec<Record> {
        let why = Some("sshd: \"no\"\\n".to_owned());
        vec![
            Record::Begin(Box::new(begin(4))),
            Record::Started { host: 0, tries: 1 },
            Record::Run { host: 0, run: "20260102-a".into() },
            Record::Ended { host: 0, ended: ended(Verdict::Done) },
            Record::Started { host: 2, tries: 1 },
            Record::Run { host: 2, run: "20260102-c".into() },
            Record::Paused,
            Record::Started { host: 2, tries: 2 },
            Record::Started { host: 1, tries: 1 },
            Record::Run { host: 1, run: "20260102-b".into() },
            Record::Ended { host: 1, ended: Ended { why, evidence: None, ..ended(Verdict::Pending) } },
            Record::Resumed,
            Record::Paused,
            Record::Stopped { why: "Ctrl-C".into() },
            Record::Closed,
        ]
    }

    fn text_of(records: &[Record]) -> String {
        let line = |(seq, record): (u64, &Record)| line::write(seq, record).unwrap() + "\n";
        (0..).zip(records).map(line).collect()
    }

    /// What an honest reader knows after these records.
    fn plainly(records: &[Record]) -> Option<Remembered> {
        let Some(Record::Begin(begin)) = records.first() else { return None };
        let of = |record: &Record| match record {
            Record::Started { host, .. } | Record::Run { host, .. } | Record::Ended { host, .. } => Some(*host),
            _ => None,
        };
        let host = |host: usize| {
            let own: Vec<&Record> = records.iter().filter(|record| of(record) == Some(host)).collect();
            let start = own.iter().rposition(|record| matches!(record, Record::Started { .. }));
            let mut known = HostRecord::default();
            for record in &own[start.unwrap_or(0)..] {
                match record {
                    Record::Started { tries, .. } => known.tries = *tries,
                    Record::Run { run, .. } => known.run = Some(run.clone()),
                    Record::Ended { ended, .. } => known.ended = Some(ended.clone()),
                    _ => {}
                }
            }
            known
        };
        let last = records.iter().rfind(|record| matches!(record, Record::Paused | Record::Resumed));
        Some(Remembered {
            hosts: (0..begin.hosts.len()).map(host).collect(),
            begin: (**begin).clone(),
            is_paused: last == Some(&Record::Paused),
            stopped: records.iter().find_map(|record| match record {
                Record::Stopped { why } => Some(why.clone()),
                _ => None,
            }),
            is_closed: records.contains(&Record::Closed),
            records: records.len() as u64,
            bytes: text_of(records).len(),
        })
    }

    #[test]
    fn each_record_comes_back() {
        let records = records();
        let whole = line::whole::<Record>(&text_of(&records));
        assert_eq!(whole.records, records);
        let all = Verdict::ALL.map(|verdict| Record::Ended { host: 9, ended: ended(verdict) });
        assert_eq!(line::whole::<Record>(&text_of(&all)).records, all);
        let read = Remembered::read(&text_of(&records)).unwrap().unwrap();
        assert_eq!(Some(&read), plainly(&records).as_ref());
        let known = [(0, Known::Ended(Verdict::Done)), (1, Known::Ended(Verdict::Pending)), (2, Known::Begun)];
        assert_eq!(read.known(), known);
        assert_eq!(read.hosts[2].tries, 2);
        assert!(read.is_paused && read.is_closed && read.stopped.as_deref() == Some("Ctrl-C"));
    }

    #[test]
    fn cut_at_any_byte_it_reads_as_what_was_written_before() {
        let records = records();
        let text = text_of(&records);
        for cut in 0..=text.len() {
            let Some(kept) = text.get(..cut) else { continue };
            let whole = kept.matches('\n').count();
            let read = Remembered::read(kept).unwrap();
            assert_eq!(read, plainly(&records[..whole]), "cut at {cut}");
            assert!(read.is_none_or(|read| kept[..read.bytes].matches('\n').count() == whole));
        }
        // A cut in the middle of a character reads as one, too.
        for cut in 0..=text.len() {
            let kept = String::from_utf8_lossy(&text.as_bytes()[..cut]).into_owned();
            let whole = kept.matches('\n').count();
            assert_eq!(Remembered::read(&kept).unwrap(), plainly(&records[..whole]), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is() {
        let text = text_of(&records());
        for at in 0..text.len() {
            for bit in [0, 1, 4, 5, 7] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let flipped = String::from_utf8_lossy(&bytes).into_owned();
                let read = Remembered::read(&flipped);
                if at + 1 == text.len() {
                    // Without its newline the last line is torn.
                    assert_eq!(read.unwrap(), plainly(&records()[..records().len() - 1]));
                    continue;
                }
                let number = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
                let failure = read.unwrap_err();
                assert_eq!(failure.place, format!("rollout store, line {number}"), "bit {bit} of {at}");
                assert!(!failure.hint.is_empty());
                // Before a torn tail as well.
                let torn = flipped + "{\"seq\":15,\"su";
                assert_eq!(Remembered::read(&torn).unwrap_err().place, failure.place);
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_damaged_and_the_line_is_named() {
        let first = Record::Begin(Box::new(begin(2)));
        let run = |host| Record::Run { host, run: "x".into() };
        for (rest, number, says) in [
            (vec![Record::Started { host: 2, tries: 1 }], 2, "does not have"),
            (vec![run(usize::MAX)], 2, "does not have"),
            (
                vec![Record::Started { host: 0, tries: 1 }, Record::Ended { host: 1, ended: ended(Verdict::Done) }],
                3,
                "not started",
            ),
            (vec![Record::Paused, run(0)], 3, "not started"),
            (vec![Record::Paused, first.clone()], 3, "second time"),
            (vec![Record::Closed, Record::Resumed], 3, "follows the end"),
        ] {
            let all = std::iter::once(first.clone()).chain(rest).collect::<Vec<_>>();
            let failure = Remembered::read(&text_of(&all)).unwrap_err();
            assert_eq!(failure.place, format!("rollout store, line {number}"));
            assert!(failure.what.contains(says), "{failure}");
        }
        let failure = Remembered::read(&text_of(&[Record::Paused])).unwrap_err();
        assert!(failure.what.contains("does not say what"), "{failure}");
        let other = Record::Begin(Box::new(Begin { version: VERSION + 1, ..begin(2) }));
        let failure = Remembered::read(&text_of(&[other])).unwrap_err();
        assert!(failure.what.contains("another version"), "{failure}");
    }

    #[test]
    fn it_goes_on_only_with_the_same_inventory_and_playbook() {
        let read = |records: &[Record]| Remembered::read(&text_of(records)).unwrap().unwrap();
        let open = read(&records()[..3]);
        assert!(open.may_resume("in1", "pl1").is_ok());
        for (inventory, playbook, says) in [
            ("in2", "pl1", "the inventory has changed"),
            ("in1", "pl2", "the playbook has changed"),
            ("in2", "pl2", "inventory and playbook have changed"),
        ] {
            let failure = open.may_resume(inventory, playbook).unwrap_err();
            assert!(failure.what.contains(says) && !failure.hint.is_empty(), "{failure}");
        }
        assert!(read(&records()).may_resume("in1", "pl1").unwrap_err().what.contains("is over"));
    }

    #[test]
    fn a_pause_and_a_stop_still_hold() {
        let schedule = |records: &[Record]| {
            let read = Remembered::read(&text_of(records)).unwrap().unwrap();
            assert!(read.schedule(&[None; 3]).is_err());
            read.schedule(&[None; 4]).unwrap()
        };
        let records = records();
        assert_eq!(schedule(&records[..4]).next(0), Step::Start(1));
        let mut paused = schedule(&records[..7]);
        assert_eq!(paused.next(0), Step::Ask(2));
        assert!(matches!(paused.next(0), Step::Wait { .. }));
        paused.resume(1);
        assert_eq!(paused.next(1), Step::Start(1));
        let mut stopped = schedule(&records[..14]);
        assert_eq!(stopped.next(0), Step::Ask(2));
        stopped.ended(2, End::NotBegun, 1);
        let Step::Done(summary) = stopped.next(1) else { panic!() };
        assert_eq!((summary.stopped, summary.never_started), (Some(Stopped::Asked("Ctrl-C".into())), 2));
    }

    /// A host, which remembers what was applied to it, whoever asked for that.
    #[derive(Debug, Clone, Default)]
    struct Host {
        run: Option<String>,
        applied: usize,
        refusals: usize,
    }

    /// Where the controller dies, beside in the middle of a line.
    #[derive(Clone, Copy, PartialEq)]
    enum Death {
        /// Right after a record was durable.
        BeforeTheDeed,
        /// When it wants to write the next record.
        AfterTheDeed,
    }

    struct Controller<'a> {
        writer: Writer<&'a mut Lines>,
        death: Death,
    }

    impl Controller<'_> {
        fn write(&mut self, record: &Record) -> Result<()> {
            self.writer.write(record)?;
            if self.death == Death::BeforeTheDeed && self.writer.store.left == Some(0) {
                return Err(Failure::failed("controller", "died"));
            }
            Ok(())
        }

        /// Rolls out until the end or its death.
        fn run(&mut self, remembered: Option<&Remembered>, hosts: &mut [Host], dice: &mut Dice) -> Result<Summary> {
            let lanes = vec![Some(1); hosts.len()];
            let mut schedule = match remembered {
                Some(remembered) => remembered.schedule(&lanes)?,
                None => Schedule::new(&lanes, begin(hosts.len()).policy, &[])?,
            };
            let mut running: Vec<(usize, bool)> = Vec::new();
            let mut tries: Vec<u32> = vec![0; hosts.len()];
            let mut now = 0;
            loop {
                match schedule.next(now) {
                    Step::Start(host) => {
                        tries[host] += 1;
                        self.write(&Record::Started { host, tries: tries[host] })?;
                        running.push((host, false));
                        let there = &mut hosts[host];
                        if there.refusals == 0 {
                            there.applied += 1;
                            let run = format!("run-{host}");
                            there.run = Some(run.clone());
                            self.write(&Record::Run { host, run })?;
                        }
                    }
                    Step::Ask(host) => {
                        let remembered = remembered.unwrap();
                        assert!(remembered.hosts[host].run.is_none() || hosts[host].run == remembered.hosts[host].run);
                        running.push((host, true));
                    }
                    Step::Cancel(host) => panic!("{host} is cancelled"),
                    Step::Wait { until } if running.is_empty() => now = until.unwrap(),
                    Step::Wait { .. } => {
                        let (host, is_asked) = running.swap_remove(dice.index(running.len()));
                        let there = &mut hosts[host];
                        let end = match there.run {
                            Some(_) => End::Is(Verdict::Done),
                            None if is_asked => End::NotBegun,
                            None => End::Again { after_ms: 5 },
                        };
                        there.refusals = there.refusals.saturating_sub(1);
                        if let Some(verdict) = schedule.ended(host, end, now) {
                            self.write(&Record::Ended { host, ended: ended(verdict) })?;
                        }
                    }
                    Step::Done(summary) => {
                        self.write(&Record::Closed)?;
                        return Ok(summary);
                    }
                }
            }
        }
    }

    fn fresh_hosts() -> Vec<Host> {
        (0..12).map(|host| Host { refusals: usize::from(host % 4 == 1), ..Host::default() }).collect()
    }

    /// One controller after the other until the end; each dies after the number of records that `lives` gives it.
    fn roll_out(
        lives: &mut dyn FnMut() -> Option<usize>,
        is_torn: bool,
        death: Death,
        seed: u64,
    ) -> (Vec<Host>, String) {
        let (mut dice, mut hosts, mut lines) = (Dice(seed), fresh_hosts(), Lines::default());
        for _ in 0..1000 {
            (lines.left, lines.is_torn) = (lives(), is_torn);
            let remembered = Remembered::read(&lines.text).unwrap();
            lines.text.truncate(remembered.as_ref().map_or(0, |remembered| remembered.bytes));
            if remembered.as_ref().is_some_and(|remembered| remembered.is_closed) {
                return (hosts, lines.text);
            }
            let writer = match &remembered {
                Some(remembered) => Ok(Writer::resume(&mut lines, remembered)),
                None => Writer::begin(&mut lines, begin(hosts.len())),
            };
            let Ok(writer) = writer else { continue };
            let summary = Controller { writer, death }.run(remembered.as_ref(), &mut hosts, &mut dice);
            assert!(summary.is_ok_and(|summary| summary.count(Verdict::Done) == hosts.len()) || lines.left.is_some());
        }
        panic!("does not end");
    }

    fn assert_each_once(hosts: &[Host], text: &str) {
        assert!(hosts.iter().all(|host| host.applied == 1), "{hosts:?}");
        let read = Remembered::read(text).unwrap().unwrap();
        assert!(read.is_closed);
        assert_eq!(read.known(), (0..hosts.len()).map(|host| (host, Known::Ended(Verdict::Done))).collect::<Vec<_>>());
    }

    #[test]
    fn killed_at_any_record_it_goes_on_and_each_host_is_done_once() {
        let (hosts, text) = roll_out(&mut || None, false, Death::AfterTheDeed, 1);
        assert_each_once(&hosts, &text);
        let records = text.matches('\n').count();
        assert!(records > 3 * hosts.len());
        for death in [Death::BeforeTheDeed, Death::AfterTheDeed] {
            for is_torn in [false, true] {
                for kill in 0..=records {
                    let mut first = Some(kill);
                    let (hosts, text) = roll_out(&mut || first.take(), is_torn, death, 1);
                    assert_each_once(&hosts, &text);
                }
            }
        }
    }

    #[test]
    fn killed_again_and_again_it_still_ends() {
        for seed in 0..500 {
            let mut dice = Dice(seed);
            let death = if dice.once_in(2) { Death::BeforeTheDeed } else { Death::AfterTheDeed };
            let mut kills = 60;
            let mut lives = || {
                kills -= 1;
                (kills > 0).then(|| dice.index(6))
            };
            let (hosts, text) = roll_out(&mut lives, seed % 3 == 0, death, seed);
            assert_each_once(&hosts, &text);
        }
    }
}
