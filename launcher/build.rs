//! Parses the built-in profiles, so that no start of the program has to.
//!
//! What is embedded is the syntax only, as a static tree of values with their places; the
//! program reads that tree through the same serde types as a user's file, and merges it
//! with the same code. Parsing TOML took most of the time that loading a profile takes.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../profiles");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut names = Vec::new();
    collect(&root, "", &mut names)?;
    names.sort();
    let mut code = format!("pub(super) static BUILT_IN: [BuiltIn; {}] = [\n", names.len());
    for name in names {
        let text = std::fs::read_to_string(root.join(format!("{name}.toml")))?;
        let table = DeTable::parse(&text).map_err(|error| format!("{name}.toml: {error}"))?;
        let file = format!("/../profiles/{name}.toml");
        writeln!(code, "BuiltIn {{ name: {name:?},")?;
        writeln!(code, "text: include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {file:?})),")?;
        writeln!(code, "commands: &{:?},", commands(table.get_ref()))?;
        write!(code, "tree: ")?;
        node(&mut code, &Spanned::new(0..text.len(), DeValue::Table(table.into_inner())))?;
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
