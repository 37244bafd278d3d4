//! An audit as one page that needs nothing else: no network, no script. Light and dark, to be filtered and printed.

use crate::outcome::Proven;
use crate::outcome::audit::{Audit, Finding, Ruling};

use super::audit::verdict;
use super::escape::markup;

/// How it looks. What is filtered out is hidden by the state of the boxes alone.
const STYLE: &str = include_str!("html.css");
const RULINGS: [(Ruling, &str); 5] = [
    (Ruling::Fail, "fail"),
    (Ruling::Unknown, "unknown"),
    (Ruling::Waived, "waived"),
    (Ruling::Pass, "pass"),
    (Ruling::NotApplicable, "na"),
];

/// The page.
pub fn text(audit: &Audit) -> String {
    let title = format!("{}: {}", audit.host, verdict(audit));
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"generator\" content=\"keyward {}\">\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n",
        env!("CARGO_PKG_VERSION"),
        markup(&title)
    );
    let against = if audit.playbook.is_empty() {
        String::new()
    } else {
        format!(", held against <code>{}</code>", markup(&audit.playbook))
    };
    out.push_str(&format!(
        "<header>\n<p class=\"grade {0}\" aria-label=\"grade {0}\">{0}</p>\n<div>\n<h1>{1}</h1>\n<p>{2}</p>\n\
         <p class=\"faint\">judged {3}{against}</p>\n</div>\n</header>\n",
        audit.score.grade,
        markup(&audit.host),
        markup(&verdict(audit)),
        markup(&audit.at),
    ));
    out.push_str("<fieldset>\n<legend>Show</legend>\n");
    for (ruling, class) in RULINGS.iter().filter(|(ruling, _)| audit.count(*ruling) > 0) {
        let checked = if *ruling == Ruling::NotApplicable { "" } else { " checked" };
        out.push_str(&format!(
            "<label><input type=\"checkbox\" id=\"show-{class}\"{checked}> {} <b>{}</b></label>\n",
            ruling.word(),
            audit.count(*ruling)
        ));
    }
    out.push_str("</fieldset>\n<main>\n");
    audit.findings.iter().for_each(|one| out.push_str(&finding(one)));
    out.push_str(
        "</main>\n<footer><p>Identifiers of other catalogues are cross-references, and no claim that the checks are the \
         same.</p></footer>\n</body>\n</html>\n",
    );
    out
}

fn finding(one: &Finding) -> String {
    let class = RULINGS.iter().find(|(ruling, _)| *ruling == one.ruling).map_or("unknown", |(_, class)| class);
    let about = if one.about.is_empty() { String::new() } else { format!(" <b>{}</b>", markup(&one.about)) };
    let mut out = format!(
        "<article class=\"{class}\">\n<h2><span class=\"ruling\">{}</span> {}</h2>\n\
         <p class=\"faint\"><span class=\"severity {2}\">{2}</span> <code>{3}</code>{about}</p>\n",
        one.ruling.word(),
        markup(&one.title),
        one.severity.word(),
        markup(&one.check),
    );
    for text in [&one.saw, &one.why].into_iter().filter(|text| !text.is_empty()) {
        out.push_str(&format!("<p>{}</p>\n", markup(text)));
    }
    let holds = |proven: Proven| match proven {
        Proven::Yes => "holds",
        Proven::No => "does not hold",
        Proven::Unknown => "is not known",
    };
    if one.ruling != Ruling::NotApplicable {
        let reboot = holds(one.after_reboot);
        out.push_str(&format!("<p class=\"faint\">now: {}; after a reboot: {reboot}</p>\n", holds(one.now)));
    }
    if !one.place.is_empty() {
        out.push_str(&format!("<p>at <code>{}</code></p>\n", markup(&one.place)));
    }
    if !one.fix.is_empty() {
        out.push_str(&format!("<p>fix:</p>\n<pre>{}</pre>\n", markup(&one.fix)));
    }
    if !one.references.is_empty() {
        let ids: Vec<String> =
            one.references.iter().map(|of| format!("{} {}", markup(&of.source), markup(&of.id))).collect();
        out.push_str(&format!("<p class=\"faint\">see {}</p>\n", ids.join(", ")));
    }
    out.push_str("</article>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::audit::{Score, Severity, VERSION};

    #[test]
    fn what_a_host_says_stays_text() {
        let evil = "</pre><script>alert(1)</script>\u{202e}\u{1b}[2J";
        let text = || evil.to_owned();
        let one = Finding {
            check: text(),
            title: text(),
            severity: Severity::High,
            about: text(),
            ruling: Ruling::Fail,
            why: text(),
            saw: text(),
            place: text(),
            now: Proven::No,
            after_reboot: Proven::No,
            fix: text(),
            references: vec![crate::outcome::audit::Reference { source: text(), id: text() }],
        };
        let findings = vec![one];
        let score = Score::of(&findings);
        let page =
            super::text(&Audit { version: VERSION, host: text(), playbook: text(), at: text(), score, findings });
        assert!(!page.contains("<script") && !page.contains(['\u{202e}', '\u{1b}']), "{page}");
        assert_eq!(page.matches("&lt;script&gt;").count(), 13, "{page}");
    }
}
