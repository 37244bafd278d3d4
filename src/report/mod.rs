//! Renderings of events: for people, and as JSON lines. Pure text; opens nothing and prints nothing.

pub mod access;
pub mod audit;
pub mod drift;
pub mod escape;
pub mod html;
pub mod json;
pub mod junit;
pub mod plan;
mod run;
pub mod sarif;
pub mod style;

use crate::outcome::{Event, Exit};

use plan::Detail;
use style::Style;

/// Which stream a text belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Results: standard output.
    Result,
    /// Progress and errors: standard error.
    Progress,
}

/// Turns events into text.
#[derive(Debug, Clone)]
pub enum Report {
    /// For people.
    Human {
        /// Colour or not.
        style: Style,
        /// How much of a plan is shown.
        detail: Detail,
        /// True while the last result is a plan, whose first line was the verdict.
        plan_was_last: bool,
    },
    /// One JSON object a line.
    Json,
}

impl Report {
    /// A report for people.
    pub const fn human(style: Style, detail: Detail) -> Self {
        Self::Human { style, detail, plan_was_last: false }
    }

    /// Text and stream of one event; the text may be empty.
    pub fn event(&mut self, event: &Event) -> (Channel, String) {
        match self {
            Self::Json => (Channel::Result, json::line(event)),
            Self::Human { style, detail, plan_was_last } => {
                let after_plan = *plan_was_last;
                *plan_was_last = match event {
                    Event::Planned { .. } | Event::Access { .. } | Event::Audited { .. } => true,
                    Event::Note { .. } => after_plan,
                    _ => false,
                };
                match event {
                    Event::Planned { plan } => (Channel::Result, plan::plan(plan, *detail, *style)),
                    Event::Access { now, after } => (Channel::Result, access::text(now, after.as_ref(), *style)),
                    Event::Audited { audit } => (Channel::Result, audit::text(audit, *style)),
                    Event::Drifted { drift } => (Channel::Result, drift::text(drift, *style)),
                    Event::Finished { exit: Exit::AsAsked | Exit::Differs, next, .. } if after_plan => {
                        let next = escape::line(next);
                        (Channel::Result, if next.is_empty() { String::new() } else { format!("\nnext: {next}\n") })
                    }
                    other => (channel(other), run::event(other, *style)),
                }
            }
        }
    }
}

const fn channel(event: &Event) -> Channel {
    match event {
        Event::Hello { .. }
        | Event::Asked { .. }
        | Event::Armed { .. }
        | Event::Opened { .. }
        | Event::Started { .. }
        | Event::Stage { .. }
        | Event::Gate { .. }
        | Event::Changed { .. }
        | Event::RollingBack { .. }
        | Event::Undone { .. }
        | Event::Failed { .. } => Channel::Progress,
        Event::Planned { .. }
        | Event::Access { .. }
        | Event::Audited { .. }
        | Event::Drifted { .. }
        | Event::Proof { .. }
        | Event::Decided { .. }
        | Event::Text { .. }
        | Event::Run { .. }
        | Event::Host { .. }
        | Event::HostEnded { .. }
        | Event::Note { .. }
        | Event::Finished { .. } => Channel::Result,
    }
}
