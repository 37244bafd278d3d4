//! What moved between two audits, for a tired reader: what is worse first.

use crate::outcome::audit::Ruling;
use crate::outcome::drift::{Drift, Move};

use super::escape;
use super::style::{Style, Tone, wrap};

/// The whole answer for one host.
pub fn text(drift: &Drift, style: Style) -> String {
    let mut lines = vec![style.paint(Tone::Strong, &escape::line(&format!("{}: {}", drift.host, verdict(drift))))];
    lines.extend(wrap("", &escape::line(&format!("judged {}, and before at {}", drift.after, drift.before))));
    for (moves, word, tone) in [(&drift.worse, "WORSE ", Tone::Bad), (&drift.better, "better", Tone::Good)] {
        lines.extend(moves.iter().flat_map(|one| moved(one, word, tone, style)));
    }
    lines.join("\n") + "\n"
}

/// One line.
pub fn verdict(drift: &Drift) -> String {
    let ((was, old), (is, new)) = (drift.was, drift.is);
    let score = if (was, old) == (is, new) { format!("{new} {is}") } else { format!("{old} {was} -> {new} {is}") };
    let still = if drift.same > 0 { format!(", {} as bad as before", drift.same) } else { String::new() };
    if drift.is_none() {
        return format!("nothing moved ({score}){still}");
    }
    format!("{} worse, {} better{still} ({score})", drift.worse.len(), drift.better.len())
}

fn moved(one: &Move, word: &str, tone: Tone, style: Style) -> Vec<String> {
    let ruled = |ruling: Option<Ruling>| ruling.map_or("not found", Ruling::word);
    let head = format!("{} {}: {} -> {}", one.severity.word(), one.check, ruled(one.was), ruled(one.is));
    let mut lines = vec![format!("{}  {}", style.paint(tone, word), escape::line(&head))];
    let about = if one.about.is_empty() { String::new() } else { format!("{}: ", one.about) };
    if !one.saw.is_empty() && tone == Tone::Bad {
        lines.extend(wrap("        ", &escape::line(&format!("{about}{}", one.saw))));
    } else if !one.about.is_empty() {
        lines.extend(wrap("        ", &escape::line(&one.about)));
    }
    for (lead, text) in [("        at ", &one.place), ("        fix: ", &one.fix)] {
        if !text.is_empty() && tone == Tone::Bad {
            lines.extend(wrap(lead, &escape::line(text)));
        }
    }
    lines
}
