//! What was tried and what came of it, over all tests of this program.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

static POINTS: AtomicUsize = AtomicUsize::new(0);
static FAULTS: AtomicUsize = AtomicUsize::new(0);
static LOCK_OUTS: AtomicUsize = AtomicUsize::new(0);
static TORN: AtomicUsize = AtomicUsize::new(0);

/// True when all is to be tried and not a sample.
pub fn all() -> bool {
    std::env::var("KEYWARD_FAULTS").is_ok_and(|value| value == "all")
}

/// One more crash point was tried.
pub fn point() {
    POINTS.fetch_add(1, Ordering::Relaxed);
}

/// One more fault was tried.
pub fn fault() {
    FAULTS.fetch_add(1, Ordering::Relaxed);
}

/// Nobody could log in.
pub fn lock_out() {
    LOCK_OUTS.fetch_add(1, Ordering::Relaxed);
}

/// So many files were neither old nor new.
pub fn torn(files: usize) {
    TORN.fetch_add(files, Ordering::Relaxed);
}

/// Most findings of one case that are shown.
const SHOWN: usize = 6;

/// What went wrong in one test, told together at its end.
#[derive(Default)]
pub struct Findings(Vec<String>);

impl Findings {
    pub fn add(&mut self, case: &str, what: &[String]) {
        println!(
            "{case}: {}",
            if what.is_empty() { "holds".to_owned() } else { what[..what.len().min(SHOWN)].join("\n") }
        );
        self.0.extend(what.iter().take(SHOWN).map(|what| format!("{case}: {what}")));
    }

    /// Prints the count so far, over all tests; fails if anything went wrong in this one.
    #[track_caller]
    pub fn end(self) {
        let count = |which: &AtomicUsize| which.load(Ordering::Relaxed);
        // The test runner keeps back what is printed by the usual macros.
        let _ = writeln!(
            std::io::stdout(),
            "\n{} crash points, {} faults, {} lock-outs, {} torn files",
            count(&POINTS),
            count(&FAULTS),
            count(&LOCK_OUTS),
            count(&TORN)
        );
        assert!(self.0.is_empty(), "{} findings:\n{}", self.0.len(), self.0.join("\n"));
    }
}
