//! What a file in the project may say: only what takes away.
//!
//! The agent can write there. Whatever such a file could allow, the agent would have at
//! its next start.

use super::error::ProfileError;
use super::source::{Excerpt, Source};
use std::ops::Range;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The agent could write the file, so it cannot be what decides on this.
const GRANTS: &str = "the agent can write this file, so it may only take rights away";
/// For `remove` of things that hide or protect.
const UNCOVERS: &str =
    "taking this away would open what it covers, and the agent can write this file";

/// For a file that is read for shims.
const SHIMS_ONLY: &str =
    "`--shims` takes `[shims.TOOL]` and `[remove] shims`; write it to a profile";

/// Checks that nothing in `source` can widen a profile.
pub(super) fn check(source: &Arc<Source>) -> Result<(), ProfileError> {
    let table = DeTable::parse(&source.text).map_err(|e| ProfileError::parse(source, &e))?;
    for (key, value) in table.get_ref() {
        let name: &str = key.get_ref();
        match name {
            // Which of them narrow depends on what is inherited: the merge looks.
            "protect" | "mask" | "shims" => {}
            "remove" => each(source, name, value, |key, _| match key {
                "bind" | "cache" => Ok(()),
                _ => Err(UNCOVERS),
            })?,
            "workspace" => each(source, name, value, |key, value| match (key, value) {
                ("mode", DeValue::String(mode)) if mode == "ro" => Ok(()),
                ("mode", _) => Err("only `mode = \"ro\"` takes rights away"),
                _ => Err(GRANTS),
            })?,
            "sandbox" => each(source, name, value, |key, value| match (key, value) {
                ("network", DeValue::String(network)) if network == "none" => Ok(()),
                ("network", _) => Err("only `network = \"none\"` takes rights away"),
                _ => Err(GRANTS),
            })?,
            _ => return Err(widens(source, &key.span(), name.to_owned(), GRANTS)),
        }
    }
    Ok(())
}

/// Checks that a file that `--shims` names says nothing else.
pub(super) fn check_shims(source: &Arc<Source>) -> Result<(), ProfileError> {
    let table = DeTable::parse(&source.text).map_err(|e| ProfileError::parse(source, &e))?;
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "description" | "shims" => {}
            "remove" => each(source, "remove", value, |key, _| match key {
                "shims" => Ok(()),
                _ => Err(SHIMS_ONLY),
            })?,
            name => return Err(widens(source, &key.span(), name.to_owned(), SHIMS_ONLY)),
        }
    }
    Ok(())
}

/// Judges every key of a table.
fn each(
    source: &Arc<Source>,
    table: &str,
    value: &Spanned<DeValue<'_>>,
    judge: impl Fn(&str, &DeValue<'_>) -> Result<(), &'static str>,
) -> Result<(), ProfileError> {
    let DeValue::Table(entries) = value.get_ref() else {
        let reason = format!("`{table}` must be a table");
        return Err(ProfileError::invalid(source, &value.span(), reason, None));
    };
    for (key, value) in entries {
        let name: &str = key.get_ref();
        if let Err(why) = judge(name, value.get_ref()) {
            return Err(widens(source, &key.span(), format!("{table}.{name}"), why));
        }
    }
    Ok(())
}

fn widens(
    source: &Arc<Source>,
    span: &Range<usize>,
    key: String,
    why: &'static str,
) -> ProfileError {
    let key = super::text::Escaped(&key).to_string();
    ProfileError::Widens { excerpt: Box::new(Excerpt::new(source, span)), key, why }
}
