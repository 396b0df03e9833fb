//! Where things in a profile come from, and the files themselves.

use super::built_in::BuiltIn;
use super::error::ProfileError;
use super::text::Escaped;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The largest profile that is read, in bytes.
pub const MAX_PROFILE_SIZE: u64 = 1024 * 1024;

/// What a profile was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceName {
    /// Part of the program.
    BuiltIn(&'static str),
    /// A file of the user or the administrator.
    File(PathBuf),
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(name) => write!(f, "built-in {name}"),
            Self::File(path) => write!(f, "{}", Escaped(&path.to_string_lossy())),
        }
    }
}

/// A profile's text, kept so that places in it can be shown.
pub(super) struct Source {
    pub name: SourceName,
    pub text: std::borrow::Cow<'static, str>,
}

/// Line and column of a byte offset, both from 1, columns in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// Where something was said. Prints as `file:line:column`.
#[derive(Clone)]
pub struct Origin(Place);

#[derive(Clone)]
enum Place {
    Unsaid,
    CommandLine,
    At(Arc<Source>, usize),
    /// The same for a profile that was merged when the program was built.
    BuiltIn(&'static BuiltIn, usize),
}

impl Origin {
    /// Nobody said it: it is so unless someone says otherwise.
    pub const DEFAULT: Self = Self(Place::Unsaid);
    /// An option of this start.
    pub const COMMAND_LINE: Self = Self(Place::CommandLine);

    pub(super) fn at(source: &Arc<Source>, span: &Range<usize>) -> Self {
        Self(Place::At(Arc::clone(source), span.start))
    }

    pub(super) const fn built_in(profile: &'static BuiltIn, offset: usize) -> Self {
        Self(Place::BuiltIn(profile, offset))
    }

    /// The built-in profile that says it, and the place in its text.
    pub(super) fn in_built_in(&self) -> Option<(&'static str, usize)> {
        match &self.0 {
            Place::BuiltIn(profile, offset) => Some((profile.name, *offset)),
            Place::At(source, offset) => match source.name {
                SourceName::BuiltIn(name) => Some((name, *offset)),
                SourceName::File(_) => None,
            },
            Place::Unsaid | Place::CommandLine => None,
        }
    }

    /// Whether anybody said it.
    #[must_use]
    pub fn is_default(&self) -> bool {
        matches!(self.0, Place::Unsaid)
    }

    /// Whether it was said in a profile that is part of the program.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.in_built_in().is_some()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Unsaid => f.write_str("default"),
            Place::CommandLine => f.write_str("command line"),
            Place::At(source, offset) => {
                let (line, column) = position(&source.text, *offset);
                write!(f, "{}:{line}:{column}", source.name)
            }
            Place::BuiltIn(profile, offset) => {
                let (line, column) = position(profile.text, *offset);
                write!(f, "{}:{line}:{column}", SourceName::BuiltIn(profile.name))
            }
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A value, and where it was said.
#[derive(Debug, Clone)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Where it was said.
    pub origin: Origin,
}

impl<T> Located<T> {
    /// A value said at `origin`.
    pub const fn new(value: T, origin: Origin) -> Self {
        Self { value, origin }
    }

    /// Another value, said at the same place.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Located<U> {
        Located::new(change(self.value), self.origin)
    }

    /// What holds if nobody says otherwise.
    pub const fn default(value: T) -> Self {
        Self::new(value, Origin::DEFAULT)
    }
}

/// The line of a file that an error is about, fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// `file:line:column`.
    pub place: String,
    line_number: usize,
    line: String,
    caret: Range<usize>,
}

impl Excerpt {
    /// Characters of context before and after the place.
    const CONTEXT: usize = 60;

    pub(super) fn new(source: &Arc<Source>, span: &Range<usize>) -> Self {
        let text = &source.text;
        let start = floor_boundary(text, span.start);
        let (line_number, column) = position(text, start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let in_line = (start - line_start).min(line.len());
        let end = floor_boundary(line, span.end.saturating_sub(line_start)).max(in_line);
        let (before, marked, after) = (&line[..in_line], &line[in_line..end], &line[end..]);

        let hidden = before.chars().count().saturating_sub(Self::CONTEXT);
        let left: String = before.chars().skip(hidden).collect();
        let marked: String = marked.chars().take(Self::CONTEXT).collect();
        let right: String = after.chars().take(Self::CONTEXT).collect();
        let left = format!("{}{}", if hidden > 0 { "…" } else { "" }, Escaped(&left));
        let marked = Escaped(&marked).to_string();
        let caret_start = left.chars().count();
        let caret = caret_start..caret_start + marked.chars().count().max(1);
        let line = format!("{left}{marked}{}", Escaped(&right)).trim_end().to_owned();
        Self { place: format!("{}:{line_number}:{column}", source.name), line_number, line, caret }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line_number.to_string();
        writeln!(f, "  {number} | {}", self.line)?;
        let marks = "^".repeat(self.caret.len());
        let (margin, indent) = (number.len(), self.caret.start);
        write!(f, "  {:margin$} | {:indent$}{marks}", "", "")
    }
}

fn floor_boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

/// Which file it is, however it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

/// Reads a profile of a user who wants only profiles of their own or of root.
///
/// Whoever can write a profile decides what the sandbox may do, so the file must
/// belong to `uid` or root, and be writable by its owner only. The file is checked
/// through the descriptor it is then read from.
pub(super) fn read(path: &Path, uid: u32) -> Result<(String, FileId), ProfileError> {
    let (mut file, metadata) = open(path, OFlags::empty())?;
    check_owner(path, &metadata, uid)?;
    let id = FileId { device: metadata.dev(), inode: metadata.ino() };
    let bytes = read_limited(path, &mut file)?;
    Ok((utf8(path, bytes)?, id))
}

/// Reads a project's file: anyone may own it, since all it can do is narrow. `None`
/// if there is none. A symlink is refused, as it could name any file of the user's, whose
/// lines an error would then show.
pub(super) fn read_project(path: &Path) -> Result<Option<Vec<u8>>, ProfileError> {
    match open(path, OFlags::NOFOLLOW) {
        Err(error) if error.is_not_found() => Ok(None),
        Err(ProfileError::Read { path, source })
            if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) =>
        {
            Err(ProfileError::NotAFile { path, kind: "a symlink" })
        }
        Err(error) => Err(error),
        Ok((mut file, _)) => read_limited(path, &mut file).map(Some),
    }
}

pub(super) fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String, ProfileError> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        ProfileError::NotUtf8 { path: path.into(), line, column }
    })
}

/// Opens a regular file; a FIFO or a device does not make it wait.
fn open(path: &Path, more: OFlags) -> Result<(File, std::fs::Metadata), ProfileError> {
    let failed = |source| ProfileError::Read { path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY | more;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(ProfileError::NotAFile { path: path.into(), kind: "a directory" });
    }
    if !metadata.is_file() {
        return Err(ProfileError::NotAFile { path: path.into(), kind: "not a regular file" });
    }
    Ok((file, metadata))
}

/// What `metadata` describes can be changed by `uid` and root only.
pub(super) fn check_owner(
    path: &Path,
    metadata: &std::fs::Metadata,
    uid: u32,
) -> Result<(), ProfileError> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != uid && owner != 0 {
        return Err(ProfileError::ForeignOwner { path: path.into(), owner, uid });
    }
    if mode & 0o022 != 0 {
        return Err(ProfileError::OthersCanWrite { path: path.into(), mode: mode & 0o7777 });
    }
    Ok(())
}

fn read_limited(path: &Path, file: &mut File) -> Result<Vec<u8>, ProfileError> {
    let mut bytes = Vec::new();
    let failed = |source| ProfileError::Read { path: path.into(), source };
    file.take(MAX_PROFILE_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_PROFILE_SIZE {
        return Err(ProfileError::TooLarge { path: path.into() });
    }
    Ok(bytes)
}
