//! Parses and merges the built-in profiles, so that no start of the program has to.
//!
//! [`profile`] is the program's own module, compiled into this script as well: the program
//! and its build merge with one code. Only the table of built-in profiles is replaced, as
//! here it is read from the files. `src/profile/built_in.rs` says what is embedded and why.

use profile::built_in::{self, BuiltIn};
use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The program's own module, but for its table of built-in profiles.
#[path = "src/profile"]
#[allow(dead_code, unused_imports, reason = "the script only loads built-in profiles")]
mod profile {
    mod error;
    mod expand;
    mod load;
    mod merge;
    mod model;
    mod project;
    mod schema;
    mod shims;
    mod source;
    mod stored;
    mod text;
    mod types;

    pub use error::ProfileError;
    pub use load::Loader;
    pub use source::MAX_PROFILE_SIZE;

    /// Stands in for `src/profile/built_in.rs`, which includes what this script writes.
    pub mod built_in {
        use super::model::Profile;
        use super::schema::File;
        use std::sync::OnceLock;

        pub struct BuiltIn {
            pub name: &'static str,
            pub text: &'static str,
            pub commands: &'static [&'static str],
            pub parts: &'static [&'static str],
        }

        impl BuiltIn {
            pub(super) fn merged(&self) -> Option<Profile> {
                None
            }

            pub(super) fn file(&self) -> Result<File, toml::de::Error> {
                toml::from_str(self.text)
            }
        }

        pub static TABLE: OnceLock<Vec<BuiltIn>> = OnceLock::new();

        pub fn all() -> &'static [BuiltIn] {
            TABLE.get().map_or(&[], Vec::as_slice)
        }

        pub fn find(name: &str) -> Option<(usize, &'static BuiltIn)> {
            let place = all().binary_search_by_key(&name, |profile| profile.name).ok()?;
            Some((place, &all()[place]))
        }
    }

    /// The names of a profile's parts, and the merged profile as the program reads it.
    pub fn merged(name: &str) -> Result<(Vec<String>, String, Vec<u32>), String> {
        let loader = Loader { config_dirs: Vec::new(), uid: 0 };
        let merged = loader.merge(&[name.into()]).map_err(|error| error.to_string())?;
        let part = |source: &String| source.strip_prefix("built-in ").map(str::to_owned);
        let parts: Option<Vec<String>> = merged.sources.iter().map(part).collect();
        let parts = parts.ok_or_else(|| format!("{name}: extends what is not built in"))?;
        let (texts, numbers) = stored::write(&merged);
        Ok((parts, texts, numbers))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../profiles");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut names = Vec::new();
    collect(&root, "", &mut names)?;
    names.sort();
    let mut table = Vec::new();
    for name in names {
        let text = std::fs::read_to_string(root.join(format!("{name}.toml")))?;
        table.push(BuiltIn { name: name.leak(), text: text.leak(), commands: &[], parts: &[] });
    }
    let table = built_in::TABLE.get_or_init(|| table);
    let mut code = format!("pub(super) static BUILT_IN: [BuiltIn; {}] = [\n", table.len());
    for BuiltIn { name, text, .. } in table {
        let tree = DeTable::parse(text).map_err(|error| format!("{name}.toml: {error}"))?;
        let file = format!("/../profiles/{name}.toml");
        let (parts, texts, numbers) = profile::merged(name)?;
        writeln!(code, "BuiltIn {{ name: {name:?},")?;
        writeln!(code, "text: include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {file:?})),")?;
        writeln!(code, "commands: &{:?}, parts: &{parts:?},", commands(tree.get_ref()))?;
        writeln!(code, "merged: Merged {{ texts: {texts:?}, numbers: &{numbers:?} }},")?;
        write!(code, "tree: ")?;
        node(&mut code, &Spanned::new(0..text.len(), DeValue::Table(tree.into_inner())))?;
        writeln!(code, "}},")?;
    }
    code.push_str("];\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR")?).join("built_in.rs"), code)?;
    Ok(())
}

/// The names of the profiles in a directory and the directories below.
fn collect(dir: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), Box<dyn Error>> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).ok_or("not UTF-8")?;
        if path.is_dir() {
            collect(&path, &format!("{prefix}{name}/"), names)?;
        } else if let Some(stem) = name.strip_suffix(".toml") {
            names.push(format!("{prefix}{stem}"));
        }
    }
    Ok(())
}

/// What `commands` says; its type is the schema's to check.
fn commands<'a>(table: &'a DeTable<'_>) -> Vec<&'a str> {
    let Some(DeValue::Array(list)) = table.get("commands").map(Spanned::get_ref) else {
        return Vec::new();
    };
    list.iter().filter_map(|command| command.get_ref().as_str()).collect()
}

/// Writes a value as an expression of type `Node`.
fn node(code: &mut String, value: &Spanned<DeValue<'_>>) -> Result<(), Box<dyn Error>> {
    let span = value.span();
    write!(code, "Node {{ start: {}, end: {}, value: ", span.start, span.end)?;
    match value.get_ref() {
        DeValue::String(text) => write!(code, "Value::Text({:?})", &**text)?,
        DeValue::Boolean(flag) => write!(code, "Value::Flag({flag})")?,
        DeValue::Array(list) => {
            code.push_str("Value::List(&[");
            for element in list.iter() {
                node(code, element)?;
                code.push(',');
            }
            code.push_str("])");
        }
        DeValue::Table(table) => {
            code.push_str("Value::Table(&[");
            for (key, value) in table.iter() {
                write!(code, "({:?}, ", &**key.get_ref())?;
                node(code, value)?;
                code.push_str("),");
            }
            code.push_str("])");
        }
        _ => return Err("built-in profiles hold text, booleans, lists and tables only".into()),
    }
    code.push('}');
    Ok(())
}
