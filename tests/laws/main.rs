//! The laws that every resource obeys, held on real hosts: in a copy of a lab tree, with the real sshd, ufw and sudo.
//!
//! For each playbook in `tests/laws/*.yml`: planning twice is equal; no secret text stands in plan or journal; failing at
//! each single act and rolling back leaves every byte as it was; applying leaves nothing to plan; applying again acts on
//! nothing; rolling back leaves every byte as it was.
//!
//! The outer test copies this very test program into the copy and runs `inner` there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]
#![allow(clippy::print_stderr)]

#[path = "../support/mod.rs"]
mod support;

mod failing;
mod tree;

use std::path::Path;

use keyward::change::{Change, Note, Plan, Promise};
use keyward::engine::{self, About, Apply, LaterEdits, Rollback};
use keyward::error::Result;
use keyward::facts::Facts;
use keyward::host::Probe;
use keyward::host::ledger::MemoryLedger;
use keyward::host::real::RealHost;
use keyward::host::shelf::{MemoryShelf, Shelf as _};
use keyward::outcome::{Event, Evidence, Exit, Moment, Proven, Reach};
use keyward::playbook;
use keyward::resource::{AccessCheck, Loader, Prover, Task, Unguarded};
use keyward::resources::REGISTRY;

use failing::FailingHost;

/// Stands in every secret that a case holds.
const CANARY: &str = "CANARY";
const PROGRAM: &str = "/usr/local/lib/laws";
const KEYWARD: &str = "/usr/local/lib/keyward";
const CASE: &str = "/usr/local/lib/case.yml";

/// Proof has its own tests; here every promise is taken as kept.
struct Believer;

impl Prover for Believer {
    fn scaffold(&mut self, _: &[Promise], _: &Facts, _: &dyn Probe) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
    fn prove(&mut self, _: Moment, _: &[Promise], _: &dyn Probe) -> Result<Vec<Evidence>> {
        let what = "believed".to_owned();
        Ok(vec![Evidence { what, proven: Proven::Yes, reach: Reach::L0, seen: String::new(), millis: 0 }])
    }
}

struct Anyone;

impl AccessCheck for Anyone {
    fn check(&self, _: &[Promise], _: &[Change], _: &Facts, _: &dyn Probe) -> Result<Vec<Note>> {
        Ok(Vec::new())
    }
}

/// Key files stand beside the case.
struct Beside;

impl Loader for Beside {
    fn load(&self, name: &str) -> Result<String> {
        let path = Path::new(CASE).parent().unwrap().join(name);
        Ok(std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}")))
    }
}

struct Law {
    tasks: Vec<Box<dyn Task>>,
    about: About,
}

impl Law {
    fn plan(&self, host: &RealHost) -> Plan {
        let facts = Facts::gather(host).unwrap();
        engine::assess(&self.tasks, &self.about, &facts, host, &Anyone).unwrap_or_else(|failures| {
            panic!("{}", failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })
    }

    /// One apply that fails at act number `fail_at`; gives back how it ended and how many acts there were.
    fn apply(
        &self,
        real: &RealHost,
        shelf: &MemoryShelf,
        fail_at: Option<usize>,
    ) -> (engine::Outcome, usize, Vec<Event>) {
        let host = FailingHost::new(real, fail_at);
        let facts = Facts::gather(real).unwrap();
        let (audit, mut events) = (MemoryLedger::default(), Vec::new());
        let request = Apply {
            host: &host,
            shelf,
            audit: &audit,
            tasks: &self.tasks,
            about: &self.about,
            facts: &facts,
            plan: self.plan(real),
            held: None,
            access: &Anyone,
            prover: Some(&mut Believer),
            prove: engine::Prove::Changes,
            guard: &mut Unguarded,
            approve: &mut |_| true,
        };
        let outcome = engine::apply(request, &mut events);
        assert!(!audit.log.borrow().contains(CANARY), "a secret in the audit log");
        (outcome, host.acts(), events)
    }
}

#[test]
#[ignore = "runs inside the copy, started by the outer test"]
fn inner() {
    let playbook = playbook::load("case.yml", REGISTRY, &Beside).unwrap_or_else(|faults| panic!("{faults:?}"));
    let law = Law { tasks: playbook.tasks, about: About { playbook: "case.yml".into(), digest: playbook.digest } };
    let host = RealHost::with_program(KEYWARD);
    support::mark(Path::new("/"));
    let before = tree::digest();

    let plan = law.plan(&host);
    assert!(!plan.changes.is_empty(), "the case changes nothing");
    assert_eq!(plan, law.plan(&host), "planning twice is equal");
    let shown = format!("{:?}", keyward::journal::without_contents(&plan));
    assert!(!shown.contains(CANARY), "a secret in the plan: {shown}");
    assert_eq!(tree::differences(&before, &tree::digest()), Vec::<String>::new(), "planning writes nothing");

    let mut failed = 0;
    let (outcome, acts) = loop {
        let shelf = MemoryShelf::default();
        let (outcome, acts, events) = law.apply(&host, &shelf, Some(failed + 1));
        if acts <= failed {
            rollback_law(&host, &shelf, &outcome);
            break (outcome, acts);
        }
        failed += 1;
        let told = events.iter().map(|event| format!("{event:?}")).collect::<Vec<_>>().join("\n");
        assert_eq!(outcome.exit, Exit::RolledBack, "failing at act {failed}: {outcome:?}\n{told}");
        let left = tree::differences(&before, &tree::digest());
        assert_eq!(left, Vec::<String>::new(), "failing at act {failed}, then rolled back: {told}");
    };
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?}");
    assert_eq!(tree::differences(&before, &tree::digest()), Vec::<String>::new(), "applied, then rolled back");

    let shelf = MemoryShelf::default();
    let (outcome, _, _) = law.apply(&host, &shelf, None);
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?}");
    let settled = law.plan(&host);
    assert!(settled.is_converged(), "applied, yet: {:?}", settled.changes);
    assert_eq!(support::unmarked(Path::new("/")), Vec::<String>::new(), "what was put anew keeps its attributes");
    let put_anew = support::REPLACED.into_iter().filter(|path| before.get(*path) != tree::digest().get(*path));
    assert!(put_anew.count() >= 4, "the case puts too few of the marked files anew");
    let after = tree::digest();
    let (outcome, again, _) = law.apply(&host, &shelf, None);
    assert_eq!((outcome.exit, again), (Exit::AsAsked, 0), "applying again acts on nothing");
    assert_eq!(tree::differences(&after, &tree::digest()), Vec::<String>::new());
    println!("LAWS HOLD: {} changes, {acts} acts, {failed} failures rolled back", plan.changes.len());
}

/// Rolls the applied run back, and looks for secrets in what stays of it.
fn rollback_law(host: &RealHost, shelf: &MemoryShelf, applied: &engine::Outcome) {
    let run = applied.run.clone().expect("a run");
    let journal = shelf.read(&run).unwrap().unwrap();
    assert!(!journal.contains(CANARY), "a secret in a closed journal");
    let mut events = Vec::new();
    let request = Rollback {
        host,
        shelf,
        audit: &MemoryLedger::default(),
        run: Some(&run),
        later_edits: LaterEdits::Respect,
        machine: keyward::engine::Machine::Running,
        approve: &mut |_, _| true,
    };
    let outcome = engine::rollback(request, &mut events);
    assert_eq!(outcome.exit, Exit::AsAsked, "{outcome:?}\n{events:?}");
}

/// Runs `inner` in a fresh copy of `suite` for the case in `file`.
fn hold(suite: &str, file: &str) {
    let name = format!("laws::{file}::{suite}");
    let Some(bed) = support::Bed::new(&name, suite) else { return };
    let own = std::fs::read("/proc/self/exe").unwrap();
    bed.plant(PROGRAM, &own, 0o755, (0, 0));
    bed.plant(KEYWARD, &std::fs::read(support::KEYWARD).unwrap(), 0o755, (0, 0));
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/laws");
    bed.plant(CASE, &std::fs::read(cases.join(file)).unwrap(), 0o644, (0, 0));
    bed.plant("/usr/local/lib/ops.pub", &std::fs::read(cases.join("ops.pub")).unwrap(), 0o644, (0, 0));
    let done = bed.run(&[PROGRAM, "inner", "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    let held = done.stdout.lines().find(|line| line.contains("LAWS HOLD"));
    assert!(done.code == 0 && held.is_some(), "{name}:\n{}\n{}", done.stdout, done.stderr);
    println!("{name}: {}", held.unwrap());
}

#[test]
fn reference_job_on_bookworm() {
    hold("bookworm", "reference.yml");
}

#[test]
fn reference_job_on_bullseye() {
    hold("bullseye", "reference.yml");
}

#[test]
fn reference_job_on_sid() {
    hold("sid", "reference.yml");
}

#[test]
fn several_users_and_exclusive_lists() {
    hold("trixie", "several.yml");
}
