//! Places: every source found, every destination followed, every conflict named.

mod checks;
mod configuration;
mod cover;
mod overlay;
mod read_only;
mod record;
mod repository;
mod sockets;
mod taken;

use super::git::{self, GitDir};
use super::view::{Area, Place, View, Way};
use super::{Asker, Entry, SpecError, Toggle, What};
use crate::cli::{Args, Step};
use crate::host::{Found, Host, Mount};
use crate::paths::is_in;
use crate::plan::{Shape, SocketPlan};
use crate::profile::{GitPolicy, Missing, PathText, Profile, Size, Variables};
use remount_broker::name::{Authority, Mode, TargetName};
use remount_broker::placeholder::Wanted;
use rustix::io::Errno;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// What is mounted where, symlinks followed; not yet in order.
pub(super) struct Layout<'h> {
    pub entries: Vec<Entry>,
    pub host_directories: Vec<PathBuf>,
    /// What will stand where protected paths do not exist, parents first.
    placeholders: Vec<Wanted>,
    /// Variables that point a tool to a private directory, for caches that are missing.
    pub cache_variables: Vec<(String, PathBuf)>,
    /// What the filter of sockets serves.
    pub sockets: Vec<SocketPlan>,
    pub view: View<'h>,
    /// The host as it is, for sources.
    sources: View<'h>,
    /// Every source of a bind as it was asked for, and by whom.
    asked: Vec<(PathBuf, Asker)>,
    /// Binds of a directory at another place than its own: source and destination.
    moved: Vec<(PathBuf, PathBuf)>,
    /// Whether mounts of the host are shown writable although no entry here says so.
    shows_mounts: bool,
    /// The host's `/run`, where that is seen.
    pub run: Option<Found>,
    host: &'h Host,
    default_authority: Authority,
    /// Nothing of the host is writable at the start but what the command line says.
    read_only: bool,
}

/// Something asked for, before its paths are followed.
struct Wish {
    dest: PathBuf,
    origin: Asker,
    what: WishKind,
}

enum WishKind {
    Bind {
        source: PathBuf,
        mode: Mode,
        devices: bool,
        follow: bool,
        missing: Missing,
        target: Option<Toggle>,
    },
    Tmpfs {
        size: Option<u64>,
        permissions: u32,
    },
    Cache {
        variable: Option<String>,
    },
    Overlay {
        source: PathBuf,
        changes: Option<PathBuf>,
    },
}

impl<'h> Layout<'h> {
    /// Nothing but what `view` shows.
    fn new(host: &'h Host, view: View<'h>, default_authority: Authority) -> Self {
        Self {
            entries: Vec::new(),
            host_directories: Vec::new(),
            placeholders: Vec::new(),
            cache_variables: Vec::new(),
            sockets: Vec::new(),
            view,
            sources: View::of_host(host.files.as_ref()),
            asked: Vec::new(),
            moved: Vec::new(),
            shows_mounts: false,
            run: None,
            host,
            default_authority,
            read_only: false,
        }
    }

    pub fn build(
        args: &Args,
        profile: &Profile,
        host: &'h Host,
        variables: &Variables,
        authority: Authority,
    ) -> Result<Self, SpecError> {
        let read_only = profile.sandbox.read_only.value;
        let run = read_only.then(|| host.files.find(Path::new("/run")).ok()).flatten();
        let view = View::new(host.files.as_ref(), run.as_ref());
        let mut layout = Self { run, read_only, ..Self::new(host, view, authority) };
        let git = git::Repository::find(&variables.workspace, host.files.as_ref());
        let mut wishes = layout.wishes_of_profile(profile, variables, git.dir.as_ref())?;
        if read_only {
            wishes = read_only::wishes(wishes, authority);
        }
        resize_tmp(&mut wishes, args)?;
        wishes.extend(wishes_of_command_line(args)?);
        // Parents first, so that a destination is followed through what stands there
        // by then. The sort is stable: at one destination the later wish wins.
        wishes.sort_by_cached_key(|wish| wish.dest.components().count());
        for wish in wishes {
            layout.place(wish)?;
        }
        for step in &args.steps {
            if let Step::Toggle { name, dest } = step {
                layout.toggle(name, dest)?;
            }
        }
        layout.protect_repository(&variables.workspace, git, profile.workspace.git.value)?;
        layout.protect_configuration(args, variables)?;
        layout.protect_all(args, profile, variables)?;
        layout.mask_all(args, profile, variables)?;
        layout.place_sockets(profile, variables)?;
        layout.hide_state()?;
        layout.refuse_planted_links()?;
        layout.refuse_open_changes()?;
        layout.refuse_aliases()?;
        layout.refuse_equal_names()?;
        layout.refuse_read_only_targets()?;
        Ok(layout)
    }

    /// Whether there is a target of this name.
    pub fn has_target(&self, name: &TargetName) -> bool {
        let target = |entry: &Entry| match &entry.what {
            What::Bind { target: Some(target), .. } => target.name == *name,
            _ => false,
        };
        self.entries.iter().any(target)
    }

    /// Sets what a target's profile entry leaves open.
    pub fn limit_leases(&mut self, max: Option<Duration>) {
        for entry in &mut self.entries {
            if let What::Bind { target: Some(target), .. } = &mut entry.what {
                target.max_lease = target.max_lease.or(max);
            }
        }
    }

    /// The entries, and the directories and placeholders to make. The views are left to the end of the
    /// process: taking hundreds of remembered places apart helps nobody.
    pub fn into_parts(self) -> (Vec<Entry>, Vec<PathBuf>, Vec<Wanted>) {
        std::mem::forget((self.view, self.sources));
        (self.entries, self.host_directories, self.placeholders)
    }

    fn wishes_of_profile(
        &mut self,
        profile: &Profile,
        variables: &Variables,
        git: Option<&GitDir>,
    ) -> Result<Vec<Wish>, SpecError> {
        let mut wishes = Vec::new();
        for entry in &profile.tmpfs {
            let (value, origin) = (&entry.value, Asker::Profile(entry.origin.clone()));
            let dest = path_of(&value.path, variables, &origin)?;
            let what =
                WishKind::Tmpfs { size: value.size.map(|size| size.0), permissions: value.mode.0 };
            wishes.push(Wish { dest, origin, what });
        }
        for entry in &profile.caches {
            let origin = Asker::Profile(entry.origin.clone());
            // Who has moved the cache already has said where it is.
            let moved =
                entry.value.env.as_ref().and_then(|name| self.host.path_variable(name.as_str()));
            let dest = match moved {
                Some(path) => path,
                None => path_of(&entry.value.path, variables, &origin)?,
            };
            let variable = entry.value.env.as_ref().map(|name| name.as_str().to_owned());
            let what = WishKind::Cache { variable };
            wishes.push(Wish { dest, origin, what });
        }
        for entry in &profile.overlays {
            let (value, origin) = (&entry.value, Asker::Profile(entry.origin.clone()));
            let source = path_of(&value.path, variables, &origin)?;
            let dest = path_of(value.destination(), variables, &origin)?;
            let changes = value.changes.as_ref();
            let changes = changes.map(|path| path_of(path, variables, &origin)).transpose()?;
            wishes.push(Wish { dest, origin, what: WishKind::Overlay { source, changes } });
        }
        wishes.extend(self.workspace(profile, variables, git)?);
        for entry in &profile.binds {
            let (value, origin) = (&entry.value, Asker::Profile(entry.origin.clone()));
            let source = path_of(&value.path, variables, &origin)?;
            let dest = path_of(value.destination(), variables, &origin)?;
            let target = value.toggle.as_ref().map(|toggle| Toggle {
                name: toggle.name.clone(),
                authority: toggle.authority.unwrap_or(self.default_authority),
                max_lease: toggle.max_lease.map(|lease| lease.0),
            });
            let what = WishKind::Bind {
                source,
                mode: value.mode,
                devices: value.devices,
                follow: value.follow,
                missing: value.missing,
                target,
            };
            wishes.push(Wish { dest, origin, what });
        }
        Ok(wishes)
    }

    /// The project, and its git directory as a target of its own.
    fn workspace(
        &mut self,
        profile: &Profile,
        variables: &Variables,
        git: Option<&GitDir>,
    ) -> Result<Vec<Wish>, SpecError> {
        let root = variables.workspace.clone();
        let origin = Asker::Profile(profile.workspace.path.origin.clone());
        if self.read_only && !self.can_be_opened(&root, profile, variables) {
            return Ok(Vec::new());
        }
        if self.host.home.starts_with(&root) {
            return Err(SpecError::ProjectTooLarge(root));
        }
        self.refuse_unsuitable(&root, profile, variables)?;
        let workspace = &profile.workspace;
        let authority = workspace.authority.as_ref().map_or(self.default_authority, |it| it.value);
        let max_lease = workspace.max_lease.as_ref().map(|lease| lease.value.0);
        let bind = |path: PathBuf, name: TargetName, mode| Wish {
            dest: path.clone(),
            origin: origin.clone(),
            what: WishKind::Bind {
                source: path,
                mode,
                devices: false,
                follow: false,
                missing: Missing::Error,
                target: Some(Toggle { name, authority, max_lease }),
            },
        };
        let mut wishes =
            vec![bind(root.clone(), workspace.name.value.clone(), workspace.mode.value)];
        let git = git.and_then(|git| git.target(&root));
        if let (Some(path), Ok(name)) = (git, "git".parse())
            && workspace.git.value != GitPolicy::Ro
        {
            wishes.push(bind(path.to_owned(), name, workspace.mode.value));
        }
        Ok(wishes)
    }

    /// The project is wherever the user happens to be. Where the profile puts a private
    /// directory, the host's sockets are; and the kernel's own files are no project.
    fn refuse_unsuitable(
        &self,
        root: &Path,
        profile: &Profile,
        variables: &Variables,
    ) -> Result<(), SpecError> {
        let unsuitable = |why| SpecError::ProjectUnsuitable { path: root.to_owned(), why };
        let is_kernels = self.host.mounts.of(root).is_some_and(Mount::is_kernels);
        if is_kernels || ["/proc", "/sys"].iter().any(|dir| root.starts_with(dir)) {
            return Err(unsuitable("it is the kernel's, and it would be writable"));
        }
        for entry in &profile.tmpfs {
            let origin = Asker::Profile(entry.origin.clone());
            let path = path_of(&entry.value.path, variables, &origin)?;
            // Without symlinks, as the project is: /var/run is /run.
            if self.sources.locate(&path).is_ok_and(|place| place.path.starts_with(root)) {
                return Err(unsuitable("a private directory takes its place, or one in it"));
            }
        }
        Ok(())
    }

    fn place(&mut self, wish: Wish) -> Result<(), SpecError> {
        let Wish { dest, origin, what } = wish;
        let place = self.locate(&dest, &origin)?;
        // Memory of one's own may stand in for the sandbox's.
        if !(place.path == Path::new("/run") && matches!(what, WishKind::Tmpfs { .. })) {
            refuse_reserved(&place.path, &origin)?;
        }
        let (what, area) = match what {
            WishKind::Tmpfs { size, permissions } => {
                self.check_mountpoint(&place, Shape::Directory, Path::new("tmpfs"), &origin)?;
                (What::Tmpfs { size, permissions }, Area::Fresh)
            }
            WishKind::Cache { variable } => match place.found() {
                Some(found) if found.stat.is_dir() => {
                    let area = Area::Host { source: found.path.clone(), writable: false };
                    (What::Overlay { lower: found, changes: None }, area)
                }
                _ => {
                    let name = dest.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let private = Path::new("/tmp/.cache").join(name.trim_start_matches('.'));
                    self.cache_variables.extend(variable.map(|variable| (variable, private)));
                    return Ok(());
                }
            },
            WishKind::Overlay { source, changes } => {
                let (lower, changes) = self.overlay(&source, changes, &origin)?;
                self.check_mountpoint(&place, Shape::Directory, &source, &origin)?;
                let area = Area::Host { source: lower.path.clone(), writable: false };
                (What::Overlay { lower, changes }, area)
            }
            WishKind::Bind { source, mode, devices, follow, missing, target } => {
                let Some((path, found)) = self.source(&source, missing, &origin)? else {
                    return Ok(());
                };
                let shape = found.as_ref().map_or(Shape::Directory, shape_of);
                if missing != Missing::Create || found.is_some() {
                    self.check_mountpoint(&place, shape, &source, &origin)?;
                }
                let writable = mode == Mode::Rw || target.is_some();
                let area = Area::Host { source: path.clone(), writable };
                let follow = follow && !devices && shape == Shape::File;
                (What::Bind { source: found, path, mode, devices, follow, target }, area)
            }
        };
        self.view.cover(&place.path, area);
        self.put(Entry { dest: place.path.clone(), what, origin });
        Ok(())
    }

    /// Adds an entry, in place of one with the same destination.
    fn put(&mut self, entry: Entry) {
        self.entries.retain(|other| other.dest != entry.dest);
        if let What::Bind { path, .. } = &entry.what
            && path.as_os_str() != entry.dest.as_os_str()
        {
            self.moved.push((path.clone(), entry.dest.clone()));
        }
        self.entries.push(entry);
    }

    /// The file to bind; `None` if there is none and none is wanted.
    fn source(
        &mut self,
        source: &Path,
        missing: Missing,
        origin: &Asker,
    ) -> Result<Option<(PathBuf, Option<Found>)>, SpecError> {
        let found = self.sources.locate(source).map(|place| (place.found(), place.path.clone()));
        match found {
            Ok((Some(found), _)) => {
                if found.path != source {
                    self.asked.push((source.to_owned(), origin.to_owned()));
                }
                let on_proc =
                    self.host.mounts.of(&found.path).is_some_and(|mount| mount.kind == "proc");
                let is_root = found.path == Path::new("/");
                if on_proc || is_root || found.path.starts_with("/proc") {
                    return Err(SpecError::ProcSource {
                        path: source.to_owned(),
                        origin: origin.to_string(),
                    });
                }
                Ok(Some((found.path.clone(), Some(found))))
            }
            Ok((None, path)) if missing == Missing::Create => {
                self.host_directories.push(path.clone());
                Ok(Some((path, None)))
            }
            Ok((None, _)) | Err(Errno::ACCESS) if missing == Missing::Skip => Ok(None),
            Ok((None, _)) => Err(find_error(source, origin, Errno::NOENT)),
            Err(errno) => Err(find_error(source, origin, errno)),
        }
    }

    fn locate(&self, path: &Path, origin: &Asker) -> Result<Rc<Place>, SpecError> {
        Ok(self.locate_way(path, origin)?.0)
    }

    /// Where a path leads, and the symlinks on the way.
    fn locate_way(&self, path: &Path, origin: &Asker) -> Result<Way, SpecError> {
        require_plain(path, origin)?;
        self.view.locate_way(path).map_err(|errno| find_error(path, origin, errno))
    }

    fn check_mountpoint(
        &self,
        place: &Place,
        shape: Shape,
        from: &Path,
        origin: &Asker,
    ) -> Result<(), SpecError> {
        match place.found() {
            Some(found) if shape_of(&found) == shape => Ok(()),
            Some(_) => Err(SpecError::Shape {
                from: from.to_owned(),
                path: place.path.clone(),
                origin: origin.to_string(),
            }),
            // In what is sealed later, places are made before.
            None if place.is_fresh() => Ok(()),
            None if self.run.is_some() && place.path.starts_with("/run") => Ok(()),
            None => Err(SpecError::NoMountpoint {
                path: place.path.clone(),
                origin: origin.to_string(),
            }),
        }
    }

    /// Makes what is at `dest` a target: the bind there, or what is seen there, bound
    /// on itself in the mode that it has.
    fn toggle(&mut self, name: &TargetName, dest: &Path) -> Result<(), SpecError> {
        let origin = Asker::Option("--toggle");
        let place = self.locate(dest, &origin)?;
        let authority = self.default_authority;
        let toggle = Toggle { name: name.clone(), authority, max_lease: None };
        let not_toggleable = |why| SpecError::NotToggleable {
            path: dest.to_owned(),
            why,
            origin: origin.to_string(),
        };
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.dest == place.path) {
            let What::Bind { target, path, .. } = &mut entry.what else {
                return Err(not_toggleable("it is private memory"));
            };
            *target = Some(toggle);
            let area = Area::Host { source: path.clone(), writable: true };
            self.view.cover(&place.path, area);
            return Ok(());
        }
        refuse_reserved(&place.path, &origin)?;
        let found = match place.found() {
            Some(found) => found,
            None if place.is_fresh() => return Err(not_toggleable("nothing of the host is there")),
            None => return Err(find_error(dest, &origin, Errno::NOENT)),
        };
        let mode = if place.is_writable() { Mode::Rw } else { Mode::Ro };
        let path = found.path.clone();
        self.view.cover(&place.path, Area::Host { source: path.clone(), writable: true });
        let follow = shape_of(&found) == Shape::File;
        let (source, target, devices) = (Some(found), Some(toggle), false);
        let what = What::Bind { source, path, mode, devices, follow, target };
        self.put(Entry { dest: place.path.clone(), what, origin });
        Ok(())
    }
}

fn find_error(path: &Path, origin: &Asker, errno: Errno) -> SpecError {
    SpecError::Find { path: path.to_owned(), origin: origin.to_string(), errno }
}

fn wishes_of_command_line(args: &Args) -> Result<Vec<Wish>, SpecError> {
    let mut wishes = Vec::new();
    for step in &args.steps {
        match step {
            Step::Bind { source, dest, writable, devices, optional } => {
                let name = match (devices, writable, optional) {
                    (true, ..) => "--dev-bind",
                    (false, true, false) => "--bind",
                    (false, true, true) => "--bind-try",
                    (false, false, false) => "--ro-bind",
                    (false, false, true) => "--ro-bind-try",
                };
                require_plain(source, &Asker::Option(name))?;
                let mode = if *writable { Mode::Rw } else { Mode::Ro };
                let missing = if *optional { Missing::Skip } else { Missing::Error };
                let what = WishKind::Bind {
                    source: source.clone(),
                    mode,
                    devices: *devices,
                    follow: true,
                    missing,
                    target: None,
                };
                wishes.push(Wish { dest: dest.clone(), origin: Asker::Option(name), what });
            }
            Step::Tmpfs { dest, size } => {
                let origin = Asker::Option("--tmpfs");
                let size = size.as_deref().map(parse_size).transpose()?;
                let what = WishKind::Tmpfs { size, permissions: 0o755 };
                wishes.push(Wish { dest: dest.clone(), origin, what });
            }
            Step::Toggle { .. }
            | Step::TmpSize(_)
            | Step::Set(..)
            | Step::Unset(_)
            | Step::Clear => {}
        }
    }
    Ok(wishes)
}

fn parse_size(text: &str) -> Result<u64, SpecError> {
    Size::try_from(text.to_owned()).map(|size| size.0).map_err(SpecError::Size)
}

/// Gives the profile's `/tmp` the size that the command line says.
fn resize_tmp(wishes: &mut [Wish], args: &Args) -> Result<(), SpecError> {
    let sizes = args.steps.iter().filter_map(|step| match step {
        Step::TmpSize(text) => Some(text),
        _ => None,
    });
    for text in sizes {
        let bytes = parse_size(text)?;
        let tmp = wishes.iter_mut().find(|wish| wish.dest == Path::new("/tmp"));
        match tmp.map(|wish| &mut wish.what) {
            Some(WishKind::Tmpfs { size, .. }) => *size = Some(bytes),
            _ => return Err(SpecError::Size("the profile has no tmpfs on /tmp".to_owned())),
        }
    }
    Ok(())
}

fn path_of(text: &PathText, variables: &Variables, origin: &Asker) -> Result<PathBuf, SpecError> {
    text.expand(variables)
        .map_err(|error| SpecError::expand(&origin.to_string(), text.as_str(), error))
}

/// Absolute, and nothing that climbs.
fn require_plain(path: &Path, origin: &Asker) -> Result<(), SpecError> {
    if !path.is_absolute() {
        return Err(SpecError::Relative { path: path.to_owned(), origin: origin.to_string() });
    }
    if path.components().any(|component| component == Component::ParentDir) {
        return Err(SpecError::DotDot { path: path.to_owned(), origin: origin.to_string() });
    }
    Ok(())
}

/// The root, and what the sandbox makes itself, cannot be mounted over.
fn refuse_reserved(path: &Path, origin: &Asker) -> Result<(), SpecError> {
    let own = ["/dev", "/proc", crate::plan::CONTROL_DIR].map(Path::new);
    let taken = own.iter().any(|own| is_in(path, own) || is_in(own, path));
    // Device nodes and shared memory may be added below /dev.
    if taken && !(is_in(path, Path::new("/dev")) && path != Path::new("/dev")) {
        return Err(SpecError::Reserved { path: path.to_owned(), origin: origin.to_string() });
    }
    Ok(())
}

pub(super) fn shape_of(found: &Found) -> Shape {
    if found.stat.is_dir() { Shape::Directory } else { Shape::File }
}
