//! Who watches a fleet at work: a line a host that runs and one for all of them on a terminal, plain lines elsewhere, one
//! event a line for programs; and the logs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::fleet::schedule::Schedule;
use crate::fleet::store::{Record, Writer};
use crate::fleet::table;
use crate::outcome::{Event, Sink as _};
use crate::report::plan::Detail;
use crate::report::style::Style;
use crate::report::{Report, escape};

use super::super::terminal::{self, Terminal};
use super::crew::Watcher;
use super::kept::Kept;
use super::told::Told;

/// Between two pictures.
const FRAME: Duration = Duration::from_millis(200);
/// Longest text that is kept of a host, in bytes: what a hostile one says must fill neither this side's disk nor its memory.
const LONGEST: usize = 1 << 20;
/// What stands where more was said.
const CUT: &str = "(cut: it said more)\n";
/// Most hosts that are shown at once.
const LINES: usize = 12;

/// The display, the store and the logs.
pub struct Board<'a> {
    terminal: &'a mut Terminal,
    names: Vec<String>,
    store: Option<Writer<Kept>>,
    /// Where logs go, as long as the rollout is kept.
    logs: BTreeMap<usize, (File, usize)>,
    log: Box<dyn Fn(usize) -> Option<File>>,
    is_watched: bool,
    is_json: bool,
    width: usize,
    began: Instant,
    drawn: usize,
    last: Option<Instant>,
    /// What hosts say is the result, and shown when each is over.
    pub shows: bool,
    texts: BTreeMap<usize, String>,
}

impl<'a> Board<'a> {
    /// For these hosts; with a store for a rollout.
    pub fn new(
        terminal: &'a mut Terminal,
        names: Vec<String>,
        store: Option<Writer<Kept>>,
        log: Box<dyn Fn(usize) -> Option<File>>,
    ) -> Self {
        let is_json = terminal.is_json();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(4).clamp(4, 32);
        let is_watched = !is_json && terminal::is_watched();
        Self {
            terminal,
            names,
            store,
            logs: BTreeMap::new(),
            log,
            is_watched,
            is_json,
            width,
            began: Instant::now(),
            drawn: 0,
            last: None,
            shows: false,
            texts: BTreeMap::new(),
        }
    }

    /// Takes the picture away and gives the store back.
    pub fn done(mut self) -> Option<Writer<Kept>> {
        self.wipe();
        self.store
    }

    fn wipe(&mut self) {
        if self.drawn > 0 {
            terminal::progress(&format!("\u{1b}[{}A\u{1b}[J", self.drawn));
            self.drawn = 0;
        }
    }

    fn name(&self, host: usize) -> &str {
        self.names.get(host).map_or("", String::as_str)
    }
}

impl Watcher for Board<'_> {
    fn record(&mut self, record: &Record) -> Result<()> {
        self.store.as_mut().map_or(Ok(()), |store| store.write(record))
    }

    fn heard(&mut self, host: usize, event: Event) {
        if !self.logs.contains_key(&host)
            && let Some(mut file) = (self.log)(host)
        {
            let _ = writeln!(file, "{}", escape::line(self.name(host)));
            self.logs.insert(host, (file, 0));
        }
        if let Some((file, written)) = self.logs.get_mut(&host).filter(|(_, written)| *written < LONGEST) {
            let text = Report::human(Style::Plain, Detail::Full).event(&event).1;
            *written = written.saturating_add(text.len());
            let cut = if *written < LONGEST { "" } else { CUT };
            let _ = file.write_all(text.as_bytes()).and_then(|()| file.write_all(cut.as_bytes()));
        }
        if self.shows && !self.is_json && !matches!(event, Event::Finished { .. }) {
            // Indented, so that no host can write what looks like another one's.
            let text = Report::human(Style::Plain, Detail::Fitting).event(&event).1;
            let texts = self.texts.entry(host).or_default();
            if texts.len() < LONGEST {
                text.lines().for_each(|line| texts.push_str(&format!("  {line}\n")));
                texts.push_str(if texts.len() < LONGEST { "" } else { CUT });
            }
        }
        if self.is_json {
            let host = self.name(host).to_owned();
            self.terminal.event(Event::Host { host, said: Box::new(event) });
        }
    }

    fn over(&mut self, host: usize, told: &Told) {
        self.logs.remove(&host);
        let row = told.row(self.name(host));
        if self.is_json {
            let end = Event::HostEnded {
                host: row.host.clone(),
                result: row.result().to_owned(),
                exit: row.exit,
                evidence: row.reach,
                changes: row.changes,
                millis: row.millis,
                run: row.run.clone(),
                verdict: row.text.clone(),
                next: row.next.clone(),
            };
            self.terminal.event(end);
            return;
        }
        self.wipe();
        if let Some(text) = self.texts.remove(&host) {
            terminal::result(&format!("{}:\n{text}\n", escape::line(&row.host)));
        }
        let mut text = table::line(&row, self.width, Style::Plain);
        if row.verdict.is_some_and(crate::fleet::schedule::Verdict::is_failure) {
            text.push_str(&format!("  {}\n", escape::line(&super::bounded(&row.text))));
        }
        terminal::progress(&text);
        self.last = None;
    }

    fn turn(&mut self, told: &[Told], schedule: &Schedule) {
        if !self.is_watched || self.last.is_some_and(|last| last.elapsed() < FRAME) {
            return;
        }
        self.last = Some(Instant::now());
        let running: Vec<(usize, &Told)> =
            told.iter().enumerate().filter(|(_, told)| told.began.is_some() && told.end.is_none()).collect();
        let mut lines: Vec<String> = running
            .iter()
            .take(LINES)
            .map(|(host, told)| {
                let time = told.began.map_or(0, |began| u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
                let name = escape::line(self.name(*host));
                table::cut(&format!(
                    "  {name:<width$}  {:<12} {}",
                    told.phase,
                    table::seconds(time),
                    width = self.width
                ))
            })
            .collect();
        if running.len() > LINES {
            lines.push(format!("  and {} more", running.len() - LINES));
        }
        lines.push(table::cut(&table::whole(
            &schedule.summary(),
            schedule.wave(),
            running.len(),
            self.began.elapsed(),
        )));
        self.wipe();
        self.drawn = lines.len();
        lines.push(String::new());
        terminal::progress(&lines.join("\n"));
    }
}
