//! The profiles that are part of the program.
//!
//! `build.rs` embeds each of them three times, a start takes the first that will do:
//!
//! 1. Merged with all it extends ([`BuiltIn::merged`]): for a start with one profile, no
//!    part of which a file hides. That is nearly every start.
//! 2. As a static tree of the parsed TOML ([`BuiltIn::file`]), to be merged with files. The
//!    tree is a serde deserializer, so it becomes a [`File`] through the very types
//!    that a user's file does; only the parser is left out, which is slow.
//! 3. As text, for places in it.
//!
//! Tests compare each tree with its text, and each merged profile with what merging the
//! trees gives.

use super::model::Profile;
use super::schema::File;
use super::stored;
use serde::Deserialize;
use serde::de::value::{
    BorrowedStrDeserializer, Error, MapDeserializer, SeqDeserializer, StrDeserializer,
};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_spanned::de::{SpannedDeserializer, is_spanned};

/// A profile of the program's own.
pub(super) struct BuiltIn {
    pub name: &'static str,
    pub text: &'static str,
    /// What `commands` in the text says, so that choosing a profile looks at nothing else.
    pub commands: &'static [&'static str],
    /// The names of all the profiles that went into the merged one, its own too.
    pub parts: &'static [&'static str],
    merged: Merged,
    tree: Node,
}

/// What [`stored::write`] wrote.
struct Merged {
    texts: &'static str,
    numbers: &'static [u32],
}

impl BuiltIn {
    /// The profile with all it extends, as merging them would give it.
    pub(super) fn merged(&self) -> Option<Profile> {
        stored::read(self.merged.texts, self.merged.numbers)
    }

    /// The profile, as parsing its text would give it.
    pub(super) fn file(&'static self) -> Result<File, Error> {
        File::deserialize(&self.tree)
    }
}

/// A value in a profile, and which bytes of the text it is.
struct Node {
    start: u32,
    end: u32,
    value: Value,
}

enum Value {
    Text(&'static str),
    Flag(bool),
    List(&'static [Node]),
    Table(&'static [(&'static str, Node)]),
}

include!(concat!(env!("OUT_DIR"), "/built_in.rs"));

/// All of them, sorted by name.
pub(super) fn all() -> &'static [BuiltIn] {
    &BUILT_IN
}

/// The built-in profile of this name, and its place in the table.
pub(super) fn find(name: &str) -> Option<(usize, &'static BuiltIn)> {
    let place = BUILT_IN.binary_search_by_key(&name, |profile| profile.name).ok()?;
    Some((place, &BUILT_IN[place]))
}

impl IntoDeserializer<'_, Error> for &'static Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'static Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Flag(flag) => visitor.visit_bool(*flag),
            Value::List(list) => visitor.visit_seq(SeqDeserializer::new(list.iter())),
            Value::Table(table) => {
                let entries = table.iter().map(|(key, node)| (Key(key), node));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if is_spanned(name) {
            let span = self.start as usize..self.end as usize;
            return visitor.visit_map(SpannedDeserializer::new(self, span));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Text(text) => {
                StrDeserializer::new(text).deserialize_enum(name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// A key of a table, which lives as long as the program.
struct Key(&'static str);

impl<'de> IntoDeserializer<'de, Error> for Key {
    type Deserializer = BorrowedStrDeserializer<'de, Error>;

    fn into_deserializer(self) -> Self::Deserializer {
        BorrowedStrDeserializer::new(self.0)
    }
}
