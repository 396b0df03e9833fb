//! Another program's settings: hooks are put in and taken out, all else stays.
//!
//! Only the way to `hooks` is taken apart; every other value keeps its very text, so that
//! no number, order or key is changed that this program does not know.

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// An object with its keys in their order, also those that are there twice.
#[derive(Default)]
struct Object<T>(Vec<(String, T)>);

type Raw = Box<RawValue>;

/// Settings that were understood.
pub(super) struct Settings {
    root: Object<Raw>,
    /// By event, the groups of hooks.
    hooks: Object<Vec<Raw>>,
}

impl Settings {
    /// Parses a file; an empty one has nothing in it.
    ///
    /// # Errors
    /// It is not JSON, or not of the form that hooks have.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        if text.trim().is_empty() {
            return Ok(Self { root: Object::default(), hooks: Object::default() });
        }
        let root: Object<Raw> = serde_json::from_str(text)?;
        let hooks = match root.0.iter().rfind(|(key, _)| key == "hooks") {
            Some((_, hooks)) => serde_json::from_str(hooks.get())?,
            None => Object::default(),
        };
        Ok(Self { root, hooks })
    }

    /// Takes out what runs a command that ends so; whether there was any.
    pub fn remove(&mut self, ending: &str) -> Result<bool, serde_json::Error> {
        let mut removed = false;
        for (_, groups) in &mut self.hooks.0 {
            let mut kept = Vec::with_capacity(groups.len());
            for group in groups.drain(..) {
                match without(&group, ending)? {
                    Without::Untouched => kept.push(group),
                    Without::Less(rest) => {
                        kept.push(serde_json::value::to_raw_value(&rest)?);
                        removed = true;
                    }
                    Without::Nothing => removed = true,
                }
            }
            *groups = kept;
        }
        if removed {
            self.hooks.0.retain(|(_, groups)| !groups.is_empty());
        }
        Ok(removed)
    }

    /// Adds a group of hooks to an event's.
    pub fn add(&mut self, event: &str, group: &Value) -> Result<(), serde_json::Error> {
        let group = serde_json::value::to_raw_value(group)?;
        match self.hooks.0.iter_mut().find(|(name, _)| name == event) {
            Some((_, groups)) => groups.push(group),
            None => self.hooks.0.push((event.to_owned(), vec![group])),
        }
        Ok(())
    }

    /// As text, two blanks for each level.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let key = |key: &str| serde_json::to_string(key);
        let mut parts = Vec::new();
        let hooks = if self.hooks.0.is_empty() { None } else { Some(self.hooks_text()?) };
        let place = self.root.0.iter().rposition(|(name, _)| name == "hooks");
        for (at, (name, value)) in self.root.0.iter().enumerate() {
            if Some(at) != place {
                parts.push(format!("  {}: {}", key(name)?, value.get()));
            } else if let Some(hooks) = &hooks {
                parts.push(format!("  \"hooks\": {hooks}"));
            }
        }
        if let (Some(hooks), None) = (&hooks, place) {
            parts.push(format!("  \"hooks\": {hooks}"));
        }
        Ok(match parts.is_empty() {
            true => "{}\n".to_owned(),
            false => format!("{{\n{}\n}}\n", parts.join(",\n")),
        })
    }

    fn hooks_text(&self) -> Result<String, serde_json::Error> {
        let mut events = Vec::new();
        for (event, groups) in &self.hooks.0 {
            let groups: Vec<_> =
                groups.iter().map(|group| format!("      {}", group.get())).collect();
            let event = serde_json::to_string(event)?;
            events.push(match groups.is_empty() {
                true => format!("    {event}: []"),
                false => format!("    {event}: [\n{}\n    ]", groups.join(",\n")),
            });
        }
        Ok(format!("{{\n{}\n  }}", events.join(",\n")))
    }
}

/// A group of hooks without those that run such a command.
enum Without {
    Untouched,
    Less(Value),
    Nothing,
}

fn without(group: &RawValue, ending: &str) -> Result<Without, serde_json::Error> {
    let mut group: Value = serde_json::from_str(group.get())?;
    let Some(hooks) = group["hooks"].as_array_mut() else { return Ok(Without::Untouched) };
    let before = hooks.len();
    hooks.retain(|hook| !words(hook).ends_with(ending));
    Ok(match hooks.len() {
        after if after == before => Without::Untouched,
        0 => Without::Nothing,
        _ => Without::Less(group),
    })
}

/// What a hook runs, its arguments with it.
fn words(hook: &Value) -> String {
    let arguments = hook["args"].as_array().map_or(&[][..], Vec::as_slice);
    let words = std::iter::once(&hook["command"]).chain(arguments);
    words.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Object(entries))
            }
        }
        deserializer.deserialize_map(Entries(std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COMMAND: &str = "remountctl hook claude";

    fn group() -> Value {
        json!({ "matcher": "*", "hooks": [
            { "type": "command", "command": "remountctl", "args": ["hook", "claude"] }
        ] })
    }

    fn added(text: &str) -> String {
        let mut settings = Settings::parse(text).unwrap();
        settings.remove(COMMAND).unwrap();
        settings.add("PreToolUse", &group()).unwrap();
        settings.to_text().unwrap()
    }

    fn removed(text: &str) -> String {
        let mut settings = Settings::parse(text).unwrap();
        assert!(settings.remove(COMMAND).unwrap(), "{text}");
        assert!(!settings.remove(COMMAND).unwrap(), "{text}");
        settings.to_text().unwrap()
    }

    #[test]
    fn what_is_not_ours_keeps_its_text() {
        let text = "{\n  \"z\": 1.0e+2,\n  \"a\": 12345678901234567890123,\n  \"s\": \"\\u00e4\\/\",\n  \
                    \"n\": {\n    \"deep\": [1,  2]\n  }\n}\n";
        let with = added(text);
        for part in ["1.0e+2", "12345678901234567890123", "\"\\u00e4\\/\"", "[1,  2]"] {
            assert!(with.contains(part), "{with}");
        }
        assert!(with.find("\"z\"") < with.find("\"a\""), "{with}");
        // Taken out again, it is the same to the byte.
        assert_eq!(removed(&with), text);
        // Once more adds nothing.
        assert_eq!(added(&with), with);
    }

    #[test]
    fn other_hooks_stay() {
        let text = json!({ "hooks": {
            "PreToolUse": [{ "matcher": "Bash", "hooks": [
                { "type": "command", "command": "lint" },
                { "type": "command", "command": "remountctl hook claude" },
            ] }],
            "Stop": [{ "hooks": [{ "type": "command", "command": "bell" }] }],
        } });
        let without: Value = serde_json::from_str(&removed(&text.to_string())).unwrap();
        assert_eq!(without["hooks"]["PreToolUse"][0]["hooks"].as_array().unwrap().len(), 1);
        assert_eq!(without["hooks"]["Stop"], text["hooks"]["Stop"]);
        let with: Value = serde_json::from_str(&added(&text.to_string())).unwrap();
        assert_eq!(with["hooks"]["PreToolUse"].as_array().unwrap().len(), 2);
        assert_eq!(with["hooks"]["PreToolUse"][1], group());
    }

    #[test]
    fn empty_files_and_objects_begin_anew() {
        for text in ["", " \n", "{}", "{\"hooks\": {}}"] {
            let with: Value = serde_json::from_str(&added(text)).unwrap();
            assert_eq!(with["hooks"]["PreToolUse"][0], group(), "{text}");
        }
        assert_eq!(removed(&added("")), "{}\n");
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "{ // a comment\n}",
            "[]",
            "null",
            "{\"a\":}",
            "{} x",
            "{\"hooks\": []}",
            "{\"hooks\": {\"Stop\": {}}}",
            "\u{feff}{}",
        ] {
            assert!(Settings::parse(text).is_err(), "{text}");
        }
    }
}
