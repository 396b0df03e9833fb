//! Finding profiles, and following what they extend.

use super::built_in;
use super::error::ProfileError;
use super::merge::Merge;
use super::model::Profile;
use super::project;
use super::schema::File;
use super::source::{self, Excerpt, FileId, Origin, Source, SourceName};
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many profiles may extend one another in a chain.
const MAX_DEPTH: usize = 32;

/// Finds profiles by name: in the configuration directories, then in the program.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Where profiles are looked for, the first match wins: usually
    /// `$XDG_CONFIG_HOME/remount/profiles` and `/etc/remount/profiles`.
    pub config_dirs: Vec<PathBuf>,
    /// Who starts the sandbox: profiles must belong to this user or to root.
    pub uid: u32,
}

/// A profile that could be chosen.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where it is from.
    pub source: SourceName,
    /// Its own description.
    pub description: Option<String>,
    /// The commands that choose it.
    pub commands: Vec<String>,
    /// Why it cannot be used, if so.
    pub problem: Option<ProfileError>,
}

/// A profile's file, found and read.
struct Found {
    id: Identity,
    source: Arc<Source>,
    /// Where paths that it extends begin.
    base: PathBuf,
    /// Its name, if it was found by name, and the number of the directory.
    place: Option<(String, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identity {
    BuiltIn(usize),
    File(FileId),
}

impl Loader {
    /// Loads and merges profiles, as if a profile without a name extended them all.
    ///
    /// A word is a path if it begins with `/`, `./` or `../`, or ends in `.toml`; paths in
    /// `extends` are relative to the file they are in. Any other word is a name. A
    /// profile that extends its own name means the one that it hides: so `claude.toml`
    /// of a user can add to the built-in `claude`.
    pub fn load(&self, names: &[OsString]) -> Result<Profile, ProfileError> {
        let merged = match names {
            [name] => self.merged(name),
            _ => None,
        };
        merged.map_or_else(|| self.merge(names), Ok)
    }

    /// A built-in profile as it was merged when the program was built: what
    /// [`Loader::merge`] returns as long as no file hides any part of it.
    fn merged(&self, name: &OsStr) -> Option<Profile> {
        let (_, profile) = built_in::find(name.to_str()?)?;
        // Whatever is there, readable or not, is for the merge to judge.
        let is_hidden = |part: &&str| {
            let mut paths = self.config_dirs.iter().map(|dir| file_in(dir, part));
            paths.any(|path| !matches!(rustix::fs::stat(&path), Err(Errno::NOENT | Errno::NOTDIR)))
        };
        if profile.parts.iter().any(is_hidden) { None } else { profile.merged() }
    }

    /// [`Loader::load`] by finding and merging every file.
    pub(super) fn merge(&self, names: &[OsString]) -> Result<Profile, ProfileError> {
        let mut run =
            Run { loader: self, merge: Merge::new()?, done: Vec::new(), open: Vec::new() };
        for name in names {
            let found = self.find(name, Path::new(""), None, None)?;
            run.visit(found, None)?;
        }
        run.merge.finish()
    }

    /// Merges a project's file, which can only narrow: see [`super`].
    pub fn narrow(
        &self,
        profile: Profile,
        project_file: &Path,
        text: &[u8],
    ) -> Result<Profile, ProfileError> {
        let text = source::utf8(project_file, text.to_vec())?;
        let name = SourceName::File(project_file.into());
        let source = Arc::new(Source { name, text: text.into() });
        project::check(&source)?;
        let mut merge = Merge::from(profile);
        merge.narrow(parse(&source)?, &source)?;
        merge.finish()
    }

    /// Adds what a file has of `[shims.TOOL]`, or the files that end in `.toml` in a directory.
    pub fn shims(&self, profile: Profile, path: &Path) -> Result<Profile, ProfileError> {
        let files = if path.is_dir() {
            let metadata = std::fs::metadata(path)
                .map_err(|source| ProfileError::Read { path: path.into(), source })?;
            source::check_owner(path, &metadata, self.uid)?;
            profiles_in(path)?.into_values().collect()
        } else {
            vec![path.to_owned()]
        };
        let mut merge = Merge::from(profile);
        for path in files {
            let source = self.open(path)?.source;
            project::check_shims(&source)?;
            merge.shims_of(parse(&source)?, &source)?;
        }
        merge.finish()
    }

    /// The bytes of a project's file for [`Loader::narrow`], if there is one.
    ///
    /// It must be a regular file of at most 1 MiB, and no symlink; whose it is does not matter.
    pub fn read_project_file(&self, path: &Path) -> Result<Option<Vec<u8>>, ProfileError> {
        source::read_project(path)
    }

    /// The profile for a command: the one whose `commands` has its last component, else
    /// `default`.
    ///
    /// Of the files in the configuration directories, only those are parsed in which the
    /// command's name occurs; of the built-in ones, none.
    pub fn choose(&self, command: &OsStr) -> Result<String, ProfileError> {
        let name = Path::new(command).file_name().and_then(OsStr::to_str);
        let Some(command) = name else { return Ok("default".to_owned()) };
        for dir in &self.config_dirs {
            if let Some(chosen) = self.choose_in(dir, command)? {
                return Ok(chosen);
            }
        }
        let known = built_in::all().iter().find(|profile| profile.commands.contains(&command));
        Ok(known.map_or("default", |profile| profile.name).to_owned())
    }

    fn choose_in(&self, dir: &Path, command: &str) -> Result<Option<String>, ProfileError> {
        let mut chosen: Option<String> = None;
        for (name, path) in profiles_in(dir)? {
            let (text, _) = self.read(dir, &path)?;
            if !text.contains(command) {
                continue;
            }
            let source = Arc::new(Source { name: SourceName::File(path), text: text.into() });
            let file = parse(&source)?;
            if !file.commands.iter().any(|it| it.get_ref() == command) {
                continue;
            }
            if let Some(first) = chosen {
                let command = command.to_owned();
                return Err(ProfileError::Ambiguous { command, first, second: name });
            }
            chosen = Some(name);
        }
        Ok(chosen)
    }

    /// All profiles that have a name, in its order; one that hides another stands for both.
    pub fn list(&self) -> Result<Vec<Listed>, ProfileError> {
        let mut listed = Vec::new();
        for (name, place) in self.names()? {
            let source = match place {
                Some(path) => SourceName::File(path),
                None => match built_in::find(&name) {
                    Some((_, profile)) => SourceName::BuiltIn(profile.name),
                    None => continue,
                },
            };
            let file = self
                .find(OsStr::new(&name), Path::new(""), None, None)
                .and_then(|found| parse(&found.source));
            listed.push(match file {
                Ok(file) => Listed {
                    name,
                    source,
                    description: file.description,
                    commands: file.commands.into_iter().map(|it| it.into_inner()).collect(),
                    problem: None,
                },
                Err(problem) => Listed {
                    name,
                    source,
                    description: None,
                    commands: Vec::new(),
                    problem: Some(problem),
                },
            });
        }
        Ok(listed)
    }

    /// Every name, and the file that it stands for unless it is built in.
    fn names(&self) -> Result<BTreeMap<String, Option<PathBuf>>, ProfileError> {
        let built_in = built_in::all().iter().map(|profile| (profile.name.to_owned(), None));
        let mut names: BTreeMap<_, _> = built_in.collect();
        for dir in self.config_dirs.iter().rev() {
            for (name, path) in profiles_in(dir)? {
                names.insert(name, Some(path));
            }
            for (part, below) in directories_in(dir)? {
                for (name, path) in profiles_in(&below)? {
                    names.insert(format!("{part}/{name}"), Some(path));
                }
            }
        }
        Ok(names)
    }

    /// Finds what `word` means in a file whose paths begin at `base`. With `inside`, a
    /// name and the number of a directory, the search for that name begins after it.
    fn find(
        &self,
        word: &OsStr,
        base: &Path,
        inside: Option<&(String, usize)>,
        wanted_by: Option<Origin>,
    ) -> Result<Found, ProfileError> {
        if is_path(word) {
            return self.open(base.join(word));
        }
        let lossy = || word.to_string_lossy().into_owned();
        let name = match word.to_str() {
            Some(name) if is_name(name) => name,
            _ => return Err(ProfileError::BadName { name: lossy(), wanted_by }),
        };
        let from = match inside {
            Some((own, directory)) if own == name => directory + 1,
            _ => 0,
        };
        for (number, dir) in self.config_dirs.iter().enumerate().skip(from) {
            let path = file_in(dir, name);
            match self.read(dir, &path) {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
                Ok((text, id)) => {
                    let place = Some((name.to_owned(), number));
                    return Ok(found(path, text, id, place));
                }
            }
        }
        let own_again = from > self.config_dirs.len();
        match built_in::find(name) {
            Some((number, profile)) if !own_again => Ok(Found {
                id: Identity::BuiltIn(number),
                source: Arc::new(Source {
                    name: SourceName::BuiltIn(profile.name),
                    text: Cow::Borrowed(profile.text),
                }),
                base: PathBuf::new(),
                place: Some((name.to_owned(), self.config_dirs.len())),
            }),
            _ => {
                let known = self.names()?.into_keys().collect();
                Err(ProfileError::Unknown { name: lossy(), wanted_by, known })
            }
        }
    }

    fn open(&self, path: PathBuf) -> Result<Found, ProfileError> {
        let (text, id) = source::read(&path, self.uid)?;
        Ok(found(path, text, id, None))
    }

    /// Reads a file of a configuration directory, in which nobody else may have put it.
    fn read(&self, dir: &Path, path: &Path) -> Result<(String, FileId), ProfileError> {
        let read = source::read(path, self.uid)?;
        for above in path.ancestors().skip(1).take_while(|above| above.starts_with(dir)) {
            let metadata = std::fs::metadata(above)
                .map_err(|source| ProfileError::Read { path: above.into(), source })?;
            source::check_owner(above, &metadata, self.uid)?;
        }
        Ok(read)
    }
}

/// The file in a configuration directory that a name stands for.
fn file_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.toml"))
}

fn found(path: PathBuf, text: String, id: FileId, place: Option<(String, usize)>) -> Found {
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let source = Arc::new(Source { name: SourceName::File(path), text: text.into() });
    Found { id: Identity::File(id), source, base, place }
}

/// One call of [`Loader::load`].
struct Run<'a> {
    loader: &'a Loader,
    merge: Merge,
    done: Vec<Identity>,
    open: Vec<(Identity, String)>,
}

impl Run<'_> {
    /// Merges what a profile extends, then the profile itself, unless that was done before.
    /// `by` is the `extends` that wants it.
    fn visit(
        &mut self,
        found: Found,
        by: Option<(&Arc<Source>, Range<usize>)>,
    ) -> Result<(), ProfileError> {
        if self.done.contains(&found.id) {
            return Ok(());
        }
        let label = found.source.name.to_string();
        if let Some((source, span)) = by {
            let excerpt = || Box::new(Excerpt::new(source, &span));
            if let Some(start) = self.open.iter().position(|(id, _)| *id == found.id) {
                let names = self.open[start..].iter().map(|(_, name)| name.clone());
                let chain = names.chain([label]).collect();
                return Err(ProfileError::Cycle { excerpt: excerpt(), chain });
            }
            if self.open.len() >= MAX_DEPTH {
                return Err(ProfileError::TooDeep { excerpt: excerpt(), limit: MAX_DEPTH });
            }
        }
        self.open.push((found.id, label));
        let file = parse(&found.source)?;
        for word in &file.extends {
            let origin = Origin::at(&found.source, &word.span());
            let place = found.place.as_ref();
            let next =
                self.loader.find(OsStr::new(word.get_ref()), &found.base, place, Some(origin))?;
            self.visit(next, Some((&found.source, word.span())))?;
        }
        self.open.pop();
        self.done.push(found.id);
        self.merge.file(file, &found.source)
    }
}

fn parse(source: &Arc<Source>) -> Result<File, ProfileError> {
    let built_in = match source.name {
        SourceName::BuiltIn(name) => built_in::find(name),
        SourceName::File(_) => None,
    };
    let file: File = match built_in {
        Some((_, profile)) => profile
            .file()
            .map_err(|error| ProfileError::invalid(source, &(0..0), error.to_string(), None))?,
        None => {
            toml::from_str(&source.text).map_err(|error| ProfileError::parse(source, &error))?
        }
    };
    for command in &file.commands {
        let name = command.get_ref();
        if name.is_empty() || name.contains(['/', '\0']) {
            let reason = "a command is named by its last component, without '/'";
            return Err(ProfileError::invalid(source, &command.span(), reason, None));
        }
    }
    Ok(file)
}

fn is_path(word: &OsStr) -> bool {
    let word = word.as_bytes();
    let beginnings: [&[u8]; 3] = [b"/", b"./", b"../"];
    beginnings.iter().any(|it| word.starts_with(it)) || word.ends_with(b".toml")
}

fn is_name(word: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    word.split('/').all(|part| {
        (1..=64).contains(&part.len()) && part.bytes().all(fits) && !part.starts_with(['.', '-'])
    })
}

/// The profiles directly in a directory: name and file, by name.
fn profiles_in(dir: &Path) -> Result<BTreeMap<String, PathBuf>, ProfileError> {
    let entries = entries(dir)?.into_iter();
    let stem = |path: &PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
        is_name(name).then(|| name.to_owned())
    };
    Ok(entries.filter_map(|path| Some((stem(&path)?, path))).collect())
}

fn directories_in(dir: &Path) -> Result<BTreeMap<String, PathBuf>, ProfileError> {
    let directories = entries(dir)?.into_iter().filter(|path| path.is_dir());
    let name = |path: &PathBuf| path.file_name()?.to_str().map(str::to_owned);
    Ok(directories
        .filter_map(|path| Some((name(&path)?, path)))
        .filter(|(name, _)| is_name(name))
        .collect())
}

/// What is in a directory, nothing if there is no such directory.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, ProfileError> {
    let failed = |source| ProfileError::Read { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir).map_err(failed) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}
