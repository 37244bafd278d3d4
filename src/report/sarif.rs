//! An audit as SARIF 2.1.0 (OASIS), for code scanning: a result for each finding that failed, could not be told or is
//! waived, at the file and line that decides.

use serde_json::{Value, json};

use crate::outcome::audit::{Audit, Finding, Ruling, Severity};

use super::escape;

/// The file.
pub fn text(audit: &Audit) -> String {
    let mut checks: Vec<&Finding> = Vec::new();
    for one in &audit.findings {
        if !checks.iter().any(|known| known.check == one.check) {
            checks.push(one);
        }
    }
    let rules: Vec<Value> = checks.iter().map(|one| rule(one)).collect();
    let open = |one: &&Finding| matches!(one.ruling, Ruling::Fail | Ruling::Unknown | Ruling::Waived);
    let results: Vec<Value> = audit.findings.iter().filter(open).map(|one| result(one, &audit.host)).collect();
    let log = json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "keyward",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "results": results,
        }],
    });
    escape::json(&serde_json::to_string_pretty(&log).unwrap_or_default()) + "\n"
}

fn rule(one: &Finding) -> Value {
    let tags: Vec<String> = one.references.iter().map(|of| format!("{} {}", of.source, of.id)).collect();
    json!({
        "id": one.check,
        "shortDescription": { "text": one.title },
        "properties": { "tags": tags, "security-severity": score(one.severity) },
    })
}

/// Of ten, as code scanning sorts by it.
const fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "3.0",
        Severity::Medium => "5.0",
        Severity::High => "8.0",
        Severity::Critical => "9.5",
    }
}

fn result(one: &Finding, host: &str) -> Value {
    let level = match (one.ruling, one.severity) {
        (Ruling::Unknown | Ruling::Waived, _) | (_, Severity::Low) => "note",
        (_, Severity::Medium) => "warning",
        _ => "error",
    };
    let parts = [&one.about, &one.saw, &one.why, &one.fix];
    let told: Vec<&str> = parts.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    let mut result = json!({
        "ruleId": one.check,
        "level": level,
        "message": { "text": format!("{host}: {}", told.join("; ")) },
        "properties": { "ruling": one.ruling },
    });
    let (file, line) = match one.place.rsplit_once(':') {
        Some((file, line)) => (file, line.parse::<u64>().ok()),
        None => (one.place.as_str(), None),
    };
    if let (true, Some(map)) = (file.starts_with('/'), result.as_object_mut()) {
        let mut place = json!({ "artifactLocation": { "uri": format!("file://{}", uri(file)) } });
        if let (Some(line), Some(place)) = (line.filter(|line| *line > 0), place.as_object_mut()) {
            place.insert("region".to_owned(), json!({ "startLine": line }));
        }
        map.insert("locations".to_owned(), json!([{ "physicalLocation": place }]));
    }
    if let (Ruling::Waived, Some(map)) = (one.ruling, result.as_object_mut()) {
        map.insert("suppressions".to_owned(), json!([{ "kind": "external", "justification": one.why }]));
    }
    result
}

/// A path in a URI (RFC 3986, 2.1).
fn uri(path: &str) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
