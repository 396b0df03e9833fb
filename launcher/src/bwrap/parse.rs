//! From a command line to a [`Request`], in bubblewrap's order and words.

use super::caps::Requested;
use super::environment::Environment;
use super::error::{self, Die, OrDie, Result, bytes};
use super::fds::{Named, Registry};
use super::options::{self, Name, OptionRow};
use super::request::{Access, Kind, Op, Request, Source, Store, Unshare};
use super::seccomp::Program;
use super::toggle::Toggle;
use crate::plan::Identity;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The most words that a command line may have, with those of `--args`.
const MOST_WORDS: usize = 9000;

/// What a command line turns out to be.
pub(super) enum Parsed {
    /// Options and a command; without a command there is nothing in it.
    Request(Box<Request>),
    /// Help is asked for.
    Help,
    /// The version is asked for.
    Version,
}

/// Reads the words after the program's name.
pub(super) fn parse(words: Vec<OsString>, caller: Identity) -> Result<Parsed> {
    let mut parser = Parser::new(words.len(), caller)?;
    let mut words = Words::new(words);
    if let Some(asked) = parser.read(&mut words, false)? {
        return Ok(asked);
    }
    if !parser.layers.is_empty() {
        return Err(lonely_layer());
    }
    parser.request.command = words.rest();
    Ok(Parsed::Request(Box::new(parser.request)))
}

/// Words that are taken one after another.
struct Words(std::vec::IntoIter<OsString>);

impl Words {
    fn new(words: Vec<OsString>) -> Self {
        Self(words.into_iter())
    }

    fn peek(&self) -> Option<&OsStr> {
        self.0.as_slice().first().map(OsString::as_os_str)
    }

    fn rest(self) -> Vec<OsString> {
        self.0.collect()
    }
}

struct Parser {
    request: Request,
    /// How many words there were, in the command line and in what `--args` read.
    count: usize,
    /// `--perms`, `--size` and `--overlay-src` wait for the option they belong to.
    permissions: Option<u32>,
    size: Option<u64>,
    layers: Vec<OsString>,
}

fn lonely_layer() -> Die {
    Die::new(
        "--overlay-src must be followed by another --overlay-src or one of --overlay, \
         --tmp-overlay, or --ro-overlay",
    )
}

fn too_many() -> Die {
    Die::new(format!("Exceeded maximum number of arguments {MOST_WORDS}"))
}

/// Notes a value of which only the last counts.
fn set_last<T>(place: &mut Option<T>, value: T, option: &str) {
    if place.replace(value).is_some() {
        error::warn(&format!("Only the last {option} option will take effect"));
    }
}

impl Parser {
    fn new(count: usize, caller: Identity) -> Result<Self> {
        let request = Request {
            caller,
            registry: Registry::default(),
            unshare: Unshare::default(),
            userns: None,
            userns2: None,
            pidns: None,
            disable_userns: false,
            assert_userns_disabled: false,
            uid: None,
            gid: None,
            hostname: None,
            argv0: None,
            chdir: None,
            environment: Environment::inherited(),
            lock_files: Vec::new(),
            sync_fd: None,
            block_fd: None,
            userns_block_fd: None,
            info_fd: None,
            json_status_fd: None,
            seccomp_fd: None,
            filters: Vec::new(),
            exec_label: None,
            file_label: None,
            new_session: false,
            die_with_parent: false,
            as_pid_1: false,
            capabilities: Requested::of_caller(caller.uid == 0)?,
            ops: Vec::new(),
            hold: None,
            profiles: Vec::new(),
            narrowing: None,
            toggles: Vec::new(),
            targets: None,
            command: Vec::new(),
        };
        Ok(Self { request, count, permissions: None, size: None, layers: Vec::new() })
    }

    /// Reads options up to the first word that is none. `in_file`: the words are those
    /// of `--args`.
    fn read(&mut self, words: &mut Words, in_file: bool) -> Result<Option<Parsed>> {
        if self.count > MOST_WORDS {
            return Err(too_many());
        }
        while let Some(word) = words.peek().map(OsStr::as_bytes) {
            if word == b"--" {
                drop(words.0.next());
                break;
            }
            let Some(row) = OptionRow::find(word) else {
                if word.starts_with(b"-") {
                    return Err(Die::new([b"Unknown option ", word].concat()));
                }
                break;
            };
            drop(words.0.next());
            match row.name {
                Name::Help => return Ok(Some(Parsed::Help)),
                Name::Version => return Ok(Some(Parsed::Version)),
                Name::Args if in_file => {
                    return Err(Die::new("--args not supported in arguments file"));
                }
                _ => {}
            }
            let values = self.values(row, words)?;
            if row.name == Name::Args {
                if let Some(asked) = self.read_file(&values[0])? {
                    return Ok(Some(asked));
                }
            } else {
                self.apply(row, values)?;
            }
            self.check_modifiers(row.name)?;
        }
        Ok(None)
    }

    fn values(&self, row: &OptionRow, words: &mut Words) -> Result<Vec<OsString>> {
        let values: Vec<_> = words.0.by_ref().take(row.arity()).collect();
        if values.len() < row.arity() {
            // Bubblewrap does not look whether a directory follows this one.
            let layer = row.name == Name::OverlaySrc;
            return Err(if layer { lonely_layer() } else { row.too_few() });
        }
        Ok(values)
    }

    /// `--args`: more words, each ended by a NUL byte.
    fn read_file(&mut self, number: &OsStr) -> Result<Option<Parsed>> {
        let from = self.descriptor(number)?;
        let mut data = from.read_to_end().or_die(|| "Can't read --args data")?;
        from.close();
        if data.last() == Some(&0) {
            data.pop();
        } else if data.is_empty() {
            return self.read(&mut Words::new(Vec::new()), true);
        }
        let words: Vec<_> =
            data.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect();
        self.count += words.len();
        self.read(&mut Words::new(words), true)
    }

    /// What waits for another option must be followed by it.
    fn check_modifiers(&self, name: Name) -> Result<()> {
        let modifier = matches!(name, Name::Perms | Name::Size);
        if !modifier && self.permissions.is_some() {
            return Err(Die::new("--perms must be followed by an option that creates a file"));
        }
        if !modifier && self.size.is_some() {
            return Err(Die::new("--size must be followed by --tmpfs"));
        }
        if name != Name::OverlaySrc && !self.layers.is_empty() {
            return Err(lonely_layer());
        }
        Ok(())
    }

    fn descriptor(&mut self, word: &OsStr) -> Result<Named> {
        Ok(self.request.registry.name(options::descriptor(word.as_bytes())?))
    }

    fn apply(&mut self, row: &OptionRow, values: Vec<OsString>) -> Result<()> {
        let mut values = values.into_iter();
        let mut next = || values.next().unwrap_or_default();
        match row.arity() {
            0 => self.apply_flag(row.name),
            1 => {
                let value = next();
                self.apply_setting(row, value)
            }
            _ => {
                let (first, second, third) = (next(), next(), next());
                self.apply_pair(row, first, second, third)
            }
        }
    }

    fn apply_flag(&mut self, name: Name) -> Result<()> {
        let request = &mut self.request;
        let unshare = &mut request.unshare;
        match name {
            Name::LevelPrefix => error::prefix_levels(),
            Name::UnshareAll => {
                *unshare = Unshare {
                    user_try: true,
                    ipc: true,
                    pid: true,
                    net: true,
                    uts: true,
                    cgroup_try: true,
                    ..*unshare
                }
            }
            Name::ShareNet => unshare.net = false,
            Name::UnshareUser => unshare.user = true,
            Name::UnshareUserTry => unshare.user_try = true,
            Name::UnshareIpc => unshare.ipc = true,
            Name::UnsharePid => unshare.pid = true,
            Name::UnshareNet => unshare.net = true,
            Name::UnshareUts => unshare.uts = true,
            Name::UnshareCgroup => unshare.cgroup = true,
            Name::UnshareCgroupTry => unshare.cgroup_try = true,
            Name::DisableUserns => request.disable_userns = true,
            Name::AssertUsernsDisabled => request.assert_userns_disabled = true,
            Name::Clearenv => request.environment.clear(),
            Name::NewSession => request.new_session = true,
            Name::DieWithParent => request.die_with_parent = true,
            Name::AsPid1 => request.as_pid_1 = true,
            _ => {}
        }
        Ok(())
    }

    fn apply_setting(&mut self, row: &OptionRow, value: OsString) -> Result<()> {
        let option = row.word;
        if let Some(place) = descriptor_place(row.name) {
            let named = self.descriptor(&value)?;
            set_last(place(&mut self.request), named, option);
            return Ok(());
        }
        let request = &mut self.request;
        match row.name {
            Name::Argv0 if request.argv0.is_some() => {
                return Err(Die::new("--argv0 used multiple times"));
            }
            Name::Argv0 => request.argv0 = Some(value),
            Name::Uid => set_last(&mut request.uid, options::id(value.as_bytes(), "uid")?, option),
            Name::Gid => set_last(&mut request.gid, options::id(value.as_bytes(), "gid")?, option),
            Name::Chdir => set_last(&mut request.chdir, value, option),
            Name::Unsetenv => request.environment.unset(&value)?,
            Name::LockFile => request.lock_files.push(value),
            Name::Profile => request.profiles.push(value),
            Name::Seccomp | Name::AddSeccompFd => self.filter(row, &value)?,
            Name::ExecLabel => {
                super::labels::check(&value)?;
                set_last(&mut request.exec_label, value, option);
            }
            Name::FileLabel => {
                super::labels::check(&value)?;
                set_last(&mut request.file_label, value, option);
            }
            Name::CapAdd => request.capabilities.add(value.as_bytes())?,
            Name::CapDrop => request.capabilities.drop(value.as_bytes())?,
            Name::Perms => {
                if self.permissions.is_some() {
                    return Err(Die::new("--perms given twice for the same action"));
                }
                self.permissions = Some(options::permissions(value.as_bytes(), option)?);
            }
            Name::Size => {
                if self.size.is_some() {
                    return Err(Die::new("--size given twice for the same action"));
                }
                self.size = Some(options::size(value.as_bytes())?);
            }
            Name::OverlaySrc => self.layers.push(value),
            _ => self.add_op(row.name, value)?,
        }
        Ok(())
    }

    /// `--seccomp` is read when the sandbox is ready, `--add-seccomp-fd` now.
    fn filter(&mut self, row: &OptionRow, value: &OsStr) -> Result<()> {
        let one = row.name == Name::Seccomp;
        let other =
            if one { !self.request.filters.is_empty() } else { self.request.seccomp_fd.is_some() };
        if other {
            let (this, that) = if one {
                ("--seccomp", "--add-seccomp-fd")
            } else {
                ("--add-seccomp-fd", "--seccomp")
            };
            return Err(Die::new(format!("{this} cannot be combined with {that}")));
        }
        let from = self.descriptor(value)?;
        if one {
            set_last(&mut self.request.seccomp_fd, from, row.word);
        } else {
            self.request.filters.push(Program::read(&from)?);
        }
        Ok(())
    }

    /// An option that is a step at its value.
    fn add_op(&mut self, name: Name, dest: OsString) -> Result<()> {
        let kind = match name {
            Name::RemountRo => Kind::RemountRo,
            Name::Proc => Kind::Proc,
            Name::Dev => Kind::Dev,
            Name::Mqueue => Kind::Mqueue,
            Name::Tmpfs => {
                let permissions = self.permissions.take().unwrap_or(0o755);
                Kind::Tmpfs { permissions, size: self.size.take() }
            }
            Name::Dir => {
                let permissions = self.permissions.take().unwrap_or(0o755);
                Kind::Directory { permissions }
            }
            Name::Hostname => {
                set_last(&mut self.request.hostname, dest.clone(), "--hostname");
                Kind::Hostname
            }
            Name::TmpOverlay => {
                self.overlay(Store::Memory, 1, "--tmp-overlay requires at least one --overlay-src")?
            }
            Name::RoOverlay => {
                self.overlay(Store::Nowhere, 2, "--ro-overlay requires at least two --overlay-src")?
            }
            _ => return Ok(()),
        };
        self.request.ops.push(Op { dest, kind });
        Ok(())
    }

    fn overlay(&mut self, store: Store, least: usize, too_few: &str) -> Result<Kind> {
        if self.layers.len() < least {
            return Err(Die::new(too_few));
        }
        // The last one named is on top, which the kernel wants first.
        let mut layers = std::mem::take(&mut self.layers);
        layers.reverse();
        Ok(Kind::Overlay { store, layers })
    }

    fn apply_pair(
        &mut self,
        row: &OptionRow,
        first: OsString,
        second: OsString,
        third: OsString,
    ) -> Result<()> {
        let mut dest = second;
        let kind = match row.name {
            Name::Setenv => return self.request.environment.set(&first, &dest),
            Name::Toggle => {
                self.request.toggles.push(Toggle::new(&first, dest)?);
                return Ok(());
            }
            Name::Bind => bind(first, Access::Write, false),
            Name::BindTry => bind(first, Access::Write, true),
            Name::RoBind => bind(first, Access::ReadOnly, false),
            Name::RoBindTry => bind(first, Access::ReadOnly, true),
            Name::DevBind => bind(first, Access::Devices, false),
            Name::DevBindTry => bind(first, Access::Devices, true),
            Name::BindFd | Name::RoBindFd => {
                let access =
                    if row.name == Name::BindFd { Access::Write } else { Access::ReadOnly };
                let source = Source::Descriptor(self.descriptor(&first)?);
                Kind::Bind { source, access, optional: false }
            }
            Name::File => {
                let from = self.descriptor(&first)?;
                let permissions = self.permissions.take().unwrap_or(0o666);
                Kind::File { from, permissions }
            }
            Name::BindData | Name::RoBindData => {
                let access =
                    if row.name == Name::BindData { Access::Write } else { Access::ReadOnly };
                let from = self.descriptor(&first)?;
                let permissions = self.permissions.take().unwrap_or(0o600);
                Kind::BindData { from, permissions, access }
            }
            Name::Symlink => Kind::Symlink { target: first },
            Name::Chmod => {
                Kind::Chmod { permissions: options::permissions(first.as_bytes(), row.word)? }
            }
            Name::Overlay => {
                let store = Store::Host { upper: first, work: dest };
                dest = third;
                self.overlay(store, 1, "--overlay requires at least one --overlay-src")?
            }
            _ => return Err(Die::new(bytes!("Unknown option ", row.word))),
        };
        self.request.ops.push(Op { dest, kind });
        Ok(())
    }
}

fn bind(source: OsString, access: Access, optional: bool) -> Kind {
    Kind::Bind { source: Source::Path(source), access, optional }
}

type Place = fn(&mut Request) -> &mut Option<Named>;

/// Where a descriptor is noted of which the last one counts.
fn descriptor_place(name: Name) -> Option<Place> {
    Some(match name {
        Name::Userns => |request| &mut request.userns,
        Name::Userns2 => |request| &mut request.userns2,
        Name::Pidns => |request| &mut request.pidns,
        Name::SyncFd => |request| &mut request.sync_fd,
        Name::BlockFd => |request| &mut request.block_fd,
        Name::UsernsBlockFd => |request| &mut request.userns_block_fd,
        Name::InfoFd => |request| &mut request.info_fd,
        Name::JsonStatusFd => |request| &mut request.json_status_fd,
        _ => return None,
    })
}
