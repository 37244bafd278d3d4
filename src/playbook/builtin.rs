//! Playbooks that come with keyward, for `extends: [ builtin:NAME ]`.

/// Name and text.
pub const BUILTINS: &[(&str, &str)] = &[
    ("baseline", include_str!("../../playbooks/baseline.yml")),
    ("strict", include_str!("../../playbooks/strict.yml")),
];

/// The text of `builtin:NAME`.
pub fn builtin(name: &str) -> Option<&'static str> {
    let name = name.strip_prefix("builtin:")?;
    BUILTINS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}
