//! Merged profiles as numbers and text: the build script writes them, a start reads them.
//!
//! [`Stored`] does both, so that the two cannot disagree: a type is read in the order in
//! which it is written. What is read was checked when it was built, and is not checked
//! again; texts and places stay where they are, in the program. There are no pointers in
//! it, which the start of a program at a random address would have to adjust.

use super::built_in;
use super::expand::{PathText, ValueText};
use super::model::{
    Bind, Cache, Environment, Overlay, Profile, Protect, Sandbox, Socket, Tmpfs, Toggle, Workspace,
};
use super::shims::{Condition, Flag, Shim, ShimName, ShimRow};
use super::source::{Located, Origin};
use super::types::{
    Busy, EnvironmentPattern, FileMode, GitPolicy, HookWord, Hostname, Missing, MissingProtect,
    Need, Network, Proc, Size, SocketAccess, Span, UserNamespace, VariableName,
};
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::proto::OnBusy;
use std::collections::BTreeMap;
use std::time::Duration;

/// Writes a merged profile: all its texts, one after the other, and everything else.
pub(super) fn write(profile: &Profile) -> (String, Vec<u32>) {
    let mut writer = Writer::default();
    profile.write(&mut writer);
    (writer.texts, writer.numbers)
}

/// Reads what [`write`] wrote; `None` if it wrote something else.
pub(super) fn read(texts: &'static str, numbers: &'static [u32]) -> Option<Profile> {
    let mut reader = Reader { texts, numbers };
    let profile = Profile::read(&mut reader)?;
    (reader.texts.is_empty() && reader.numbers.is_empty()).then_some(profile)
}

#[derive(Default)]
struct Writer {
    texts: String,
    numbers: Vec<u32>,
}

impl Writer {
    fn number(&mut self, number: usize) {
        // Nothing in a profile of at most 1 MiB is counted beyond this.
        self.numbers.push(u32::try_from(number).unwrap_or(u32::MAX));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len());
        self.texts.push_str(text);
    }
}

struct Reader {
    texts: &'static str,
    numbers: &'static [u32],
}

impl Reader {
    fn number(&mut self) -> Option<usize> {
        let (number, rest) = self.numbers.split_first()?;
        self.numbers = rest;
        Some(*number as usize)
    }

    fn text(&mut self) -> Option<&'static str> {
        let length = self.number()?;
        let (text, rest) = self.texts.split_at_checked(length)?;
        self.texts = rest;
        Some(text)
    }
}

/// Part of a merged profile.
trait Stored: Sized {
    fn write(&self, to: &mut Writer);
    fn read(from: &mut Reader) -> Option<Self>;
}

/// Structs: every field, in this order.
macro_rules! structs {
    ($($type:ident { $($field:ident),* })*) => {$(
        impl Stored for $type {
            fn write(&self, to: &mut Writer) {
                let Self { $($field),* } = self;
                $($field.write(to);)*
            }

            fn read(from: &mut Reader) -> Option<Self> {
                Some(Self { $($field: Stored::read(from)?),* })
            }
        }
    )*};
}

structs! {
    Profile {
        description, sources, arguments, sandbox, workspace, binds, tmpfs, caches, overlays,
        masks, protects, environment, hooks, shims, sockets, notes
    }
    Sandbox {
        network, hostname, authority, landlock, seccomp, new_session, user_namespace, read_only,
        proc, namespaces, on_busy, max_lease, confirm_command, confirm_timeout
    }
    Workspace { path, name, mode, authority, git, max_lease }
    Bind { path, dest, mode, devices, follow, chmod, missing, toggle }
    Toggle { name, authority, max_lease }
    Tmpfs { path, size, mode }
    Cache { path, env }
    Overlay { path, dest, changes }
    Protect { path, missing }
    Shim { allow, deny, flags, flags_with_value, flags_anywhere, deny_flags, when }
    Environment { set, unset, clear }
    Socket { access, paths, upstream }
}

/// Enums: the number of the variant.
macro_rules! enums {
    ($($type:ident { $($variant:ident),* })*) => {$(
        impl Stored for $type {
            fn write(&self, to: &mut Writer) {
                to.number(match self {
                    $(Self::$variant => Self::$variant as usize),*
                });
            }

            fn read(from: &mut Reader) -> Option<Self> {
                let number = from.number()?;
                [$(Self::$variant),*].into_iter().find(|variant| *variant as usize == number)
            }
        }
    )*};
}

enums! {
    Authority { Inside, Confirm, Host }
    GitPolicy { Hooks, Ro, Rw }
    Missing { Error, Skip, Create }
    MissingProtect { Skip, Guard, Error }
    Mode { Ro, Rw }
    Need { Required, Optional }
    Network { Host, None }
    Proc { Own, Host }
    SocketAccess { None, Read }
    UserNamespace { Auto, Always }
}

/// Texts: those with many entries are taken as they are, the few others checked again.
macro_rules! texts {
    ($($type:ident: $read:expr),* $(,)?) => {$(
        impl Stored for $type {
            fn write(&self, to: &mut Writer) {
                to.text(self.as_str());
            }

            fn read(from: &mut Reader) -> Option<Self> {
                $read(from.text()?)
            }
        }
    )*};
}

fn checked<T: TryFrom<String>>(text: &str) -> Option<T> {
    text.to_owned().try_into().ok()
}

texts! {
    EnvironmentPattern: |text| Some(EnvironmentPattern::trusted(text)),
    Flag: |text| Some(Flag::trusted(text)),
    HookWord: checked,
    Hostname: checked,
    PathText: |text| Some(PathText::trusted(text)),
    ShimName: |text| Some(ShimName::trusted(text)),
    ShimRow: |text| Some(ShimRow::trusted(text)),
    String: checked,
    TargetName: checked,
    ValueText: checked,
    VariableName: checked,
}

impl Stored for Condition {
    fn write(&self, to: &mut Writer) {
        self.target().write(to);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(Self::from_target(TargetName::read(from)?))
    }
}

impl Stored for bool {
    fn write(&self, to: &mut Writer) {
        to.number(usize::from(*self));
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(from.number()? != 0)
    }
}

impl Stored for FileMode {
    fn write(&self, to: &mut Writer) {
        to.numbers.push(self.0);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        u32::try_from(from.number()?).ok().map(Self)
    }
}

impl Stored for Size {
    fn write(&self, to: &mut Writer) {
        to.text(&self.0.to_string());
    }

    fn read(from: &mut Reader) -> Option<Self> {
        from.text()?.parse().ok().map(Self)
    }
}

/// Seconds, of which a year has few enough, and milliseconds: no more can be written.
impl Stored for Span {
    fn write(&self, to: &mut Writer) {
        to.number(usize::try_from(self.0.as_secs()).unwrap_or(usize::MAX));
        to.numbers.push(self.0.subsec_millis());
    }

    fn read(from: &mut Reader) -> Option<Self> {
        let seconds = Duration::from_secs(from.number()?.try_into().ok()?);
        Some(Self(seconds + Duration::from_millis(from.number()?.try_into().ok()?)))
    }
}

impl Stored for Busy {
    fn write(&self, to: &mut Writer) {
        match self.0 {
            OnBusy::Fail => to.number(0),
            OnBusy::Kill { .. } => to.number(1),
            OnBusy::Wait(time) => {
                to.number(2);
                Span(time).write(to);
            }
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        match from.number()? {
            0 => Some(Self(OnBusy::Fail)),
            1 => Some(Self::KILL),
            2 => Span::read(from).map(|time| Self(OnBusy::Wait(time.0))),
            _ => None,
        }
    }
}

/// The number of the profile, from 1, and the place in it; 0 if nobody said it.
impl Stored for Origin {
    fn write(&self, to: &mut Writer) {
        let place = self.in_built_in();
        match place.and_then(|(name, offset)| Some((built_in::find(name)?.0, offset))) {
            None => to.number(0),
            Some((number, offset)) => {
                to.number(number + 1);
                to.number(offset);
            }
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        match from.number()?.checked_sub(1) {
            None => Some(Self::DEFAULT),
            Some(number) => Some(Self::built_in(built_in::all().get(number)?, from.number()?)),
        }
    }
}

impl<T: Stored> Stored for Located<T> {
    fn write(&self, to: &mut Writer) {
        self.value.write(to);
        self.origin.write(to);
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(Self::new(T::read(from)?, Origin::read(from)?))
    }
}

impl<T: Stored> Stored for Option<T> {
    fn write(&self, to: &mut Writer) {
        self.is_some().write(to);
        if let Some(value) = self {
            value.write(to);
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        Some(if bool::read(from)? { Some(T::read(from)?) } else { None })
    }
}

impl<T: Stored> Stored for Vec<T> {
    fn write(&self, to: &mut Writer) {
        to.number(self.len());
        for entry in self {
            entry.write(to);
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        let length = from.number()?;
        let mut entries = Self::with_capacity(length);
        for _ in 0..length {
            entries.push(T::read(from)?);
        }
        Some(entries)
    }
}

impl<K: Stored + Ord, V: Stored> Stored for BTreeMap<K, V> {
    fn write(&self, to: &mut Writer) {
        to.number(self.len());
        for (key, value) in self {
            key.write(to);
            value.write(to);
        }
    }

    fn read(from: &mut Reader) -> Option<Self> {
        let length = from.number()?;
        let mut entries = Self::new();
        for _ in 0..length {
            entries.insert(K::read(from)?, V::read(from)?);
        }
        Some(entries)
    }
}
