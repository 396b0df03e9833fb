//! Acts on paths. None changes the contents of a file that it did not make, except
//! `append`, `write` and `write-loop`, which say so.

use crate::{Answer, Args, checked, errno, usage};
use nix::errno::Errno;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Timestamps};
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::time::{Duration, Instant};

pub(crate) fn act(name: &str, args: &Args) -> Option<Answer> {
    let done = |result: std::io::Result<()>| result.map(|()| String::new()).map_err(errno);
    let rustix = |result: rustix::io::Result<()>| {
        result.map(|()| String::new()).map_err(|error| Errno::from_raw(error.raw_os_error()))
    };
    let path = || args.at(0);
    Some(match name {
        // Opens for reading, reads nothing.
        "open-read" => done(OpenOptions::new().read(true).open(path()).map(drop)),
        // Opens an existing file for writing, writes nothing: safe on precious files.
        "open-write" => done(OpenOptions::new().write(true).open(path()).map(drop)),
        "open-rw" => done(OpenOptions::new().read(true).write(true).open(path()).map(drop)),
        "open-path" => {
            done(OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path()).map(drop))
        }
        // `append PATH [TEXT]`: writes to an existing file.
        "append" => done(
            OpenOptions::new()
                .append(true)
                .open(path())
                .and_then(|mut file| file.write_all(args.get(1).unwrap_or("x").as_bytes())),
        ),
        // `write PATH TEXT`: creates or replaces the contents.
        "write" => done(std::fs::write(path(), args.text(1))),
        "read" => std::fs::read(path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(errno),
        "list" => list(path()),
        "stat" => stat(path()),
        "readlink" => std::fs::read_link(path())
            .map(|target| target.to_string_lossy().into_owned())
            .map_err(errno),
        "exists" => done(std::fs::symlink_metadata(path()).map(drop)),
        // Makes a new file; EEXIST if there is one.
        "create" => done(OpenOptions::new().write(true).create_new(true).open(path()).map(drop)),
        "create-tmpfile" => done(
            OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(path()).map(drop),
        ),
        "mkdir" => done(std::fs::create_dir(path())),
        "rmdir" => done(std::fs::remove_dir(path())),
        "unlink" => done(std::fs::remove_file(path())),
        "rename" => done(std::fs::rename(path(), args.at(1))),
        "rename-exchange" => {
            rustix(rustix::fs::renameat_with(CWD, path(), CWD, args.at(1), RenameFlags::EXCHANGE))
        }
        "link" => done(std::fs::hard_link(path(), args.at(1))),
        "symlink" => done(std::os::unix::fs::symlink(path(), args.at(1))),
        // `chmod PATH [MODE]`: without a mode, to the one it has.
        "chmod" => chmod(path(), args.get(1)),
        // To the owner it has.
        "chown" => done(std::fs::symlink_metadata(path()).and_then(|meta| {
            std::os::unix::fs::lchown(path(), Some(meta.uid()), Some(meta.gid()))
        })),
        "utime" => rustix(rustix::fs::utimensat(
            CWD,
            path(),
            &Timestamps { last_access: now(), last_modification: now() },
            AtFlags::empty(),
        )),
        "setxattr" => rustix(rustix::fs::setxattr(
            path(),
            c"user.remount",
            b"1",
            rustix::fs::XattrFlags::empty(),
        )),
        // To the length it has.
        "truncate" => truncate(path()),
        // Sets the inode flags (chattr) that it has.
        "set-flags" => set_flags(path()),
        "mkfifo" => rustix(rustix::fs::mknodat(
            CWD,
            path(),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )),
        // A character device like /dev/null.
        "mknod" => rustix(rustix::fs::mknodat(
            CWD,
            path(),
            rustix::fs::FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            rustix::fs::makedev(1, 3),
        )),
        // Opens a FIFO for writing, without waiting: ENXIO if nobody reads.
        "fifo-write" => done(
            OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path())
                .and_then(|mut fifo| fifo.write_all(b"x")),
        ),
        // `dirfd-create DIR NAME`: through a descriptor of the directory.
        "dirfd-create" => rustix(
            rustix::fs::open(path(), OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())
                .and_then(|dir| {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY;
                    rustix::fs::openat(dir, args.at(1), flags, Mode::from_raw_mode(0o644))
                })
                .map(drop),
        ),
        // `write-loop PATH [SECONDS]`
        "write-loop" => write_loop(path(), args.get(1).map(crate::parse_number)),
        // `hammer DIR FILE COUNTER`
        "hammer" => hammer(path(), args.at(1), args.at(2)),
        // `attack SECONDS PATH…`
        "attack" => Ok(attack(args.number(0), args.rest(1))),
        // plant DIR NAME TEXT
        "plant" => plant(path().as_ref(), args.text(1), args.text(2)),
        "churn" => churn(path(), args.get(1).map(crate::parse_number)),
        "getdents-count" => {
            std::fs::read_dir(path()).map(|entries| entries.count().to_string()).map_err(errno)
        }
        "access" => access(path(), args.text(1)),
        _ => return None,
    })
}

fn now() -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW }
}

fn list(path: &OsStr) -> Answer {
    let mut names = std::fs::read_dir(path)
        .map_err(errno)?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(errno)?;
    names.sort();
    Ok(names.join("\n"))
}

/// `KIND MODE UID GID SIZE NLINK DEV INO MOUNT`, MOUNT being `root` at a mount's root.
fn stat(path: &OsStr) -> Answer {
    let meta = std::fs::symlink_metadata(path).map_err(errno)?;
    let kind = match meta.mode() & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "dir",
        libc::S_IFLNK => "link",
        libc::S_IFIFO => "fifo",
        libc::S_IFSOCK => "socket",
        libc::S_IFCHR => "char",
        libc::S_IFBLK => "block",
        _ => "unknown",
    };
    let statx = rustix::fs::statx(
        CWD,
        path,
        AtFlags::SYMLINK_NOFOLLOW,
        rustix::fs::StatxFlags::BASIC_STATS,
    )
    .map_err(|error| Errno::from_raw(error.raw_os_error()))?;
    let root = statx.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT);
    let mount = if root { "root" } else { "below" };
    Ok(format!(
        "{kind} {:04o} {} {} {} {} {} {} {mount}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.size(),
        meta.nlink(),
        meta.dev(),
        meta.ino()
    ))
}

fn chmod(path: &OsStr, mode: Option<&str>) -> Answer {
    let mode = match mode {
        Some(text) => u32::from_str_radix(text, 8).unwrap_or_else(|_| usage("not an octal mode")),
        None => std::fs::metadata(path).map_err(errno)?.mode() & 0o7777,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(errno)?;
    Ok(String::new())
}

fn truncate(path: &OsStr) -> Answer {
    let size = std::fs::metadata(path).map_err(errno)?.size();
    let path = CString::new(path.as_bytes()).unwrap_or_else(|_| usage("NUL in a path"));
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    checked(unsafe { libc::truncate(path.as_ptr(), size) }.into())?;
    Ok(String::new())
}

fn set_flags(path: &OsStr) -> Answer {
    let file = OpenOptions::new().read(true).open(path).map_err(errno)?;
    let to_errno = |error: rustix::io::Errno| Errno::from_raw(error.raw_os_error());
    let flags = rustix::fs::ioctl_getflags(&file).map_err(to_errno)?;
    rustix::fs::ioctl_setflags(&file, flags).map_err(to_errno)?;
    Ok(String::new())
}

fn access(path: &OsStr, mode: &str) -> Answer {
    let mut access = rustix::fs::Access::EXISTS;
    for letter in mode.chars() {
        access |= match letter {
            'r' => rustix::fs::Access::READ_OK,
            'w' => rustix::fs::Access::WRITE_OK,
            'x' => rustix::fs::Access::EXEC_OK,
            _ => usage("access PATH [rwx]"),
        };
    }
    rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS)
        .map(|()| String::new())
        .map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// Opens, writes eight bytes, closes, until the time is up or it is killed. Prints
/// `was STATE COUNT` each time the answer changes (`STATE`: `ok` or an errno name;
/// `COUNT`: how many writes gave it), `now STATE` after it, and the totals at the end.
fn write_loop(path: &OsStr, seconds: Option<i64>) -> Answer {
    let end = deadline(seconds);
    let (mut state, mut run, mut good, mut bad) = (None, 0u64, 0u64, 0u64);
    while Instant::now() < end {
        let result = OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(b"written\n"))
            .map_err(errno);
        *if result.is_ok() { &mut good } else { &mut bad } += 1;
        let text = result.map_or_else(|errno| format!("{errno:?}"), |()| "ok".to_owned());
        if state.as_ref() != Some(&text) {
            let mut line = String::new();
            if let Some(before) = &state {
                let _ = writeln!(line, "was {before} {run}");
            }
            crate::say(&format!("{line}now {text}"));
            state = Some(text);
            run = 0;
        }
        run += 1;
    }
    Ok(format!("{good} written {bad} refused"))
}

/// Appends single bytes to a file in a directory for ever, each round by every way to
/// it: its path, the working directory, a descriptor of the directory and one of the
/// file from before, and a child. The number of the last whole round is in `counter`.
fn hammer(dir: &OsStr, name: &OsStr, counter: &OsStr) -> Answer {
    let path = std::path::Path::new(dir).join(name);
    std::env::set_current_dir(dir).map_err(errno)?;
    let held = std::fs::File::open(".").map_err(errno)?;
    let read = std::fs::File::open(&path).map_err(errno)?;
    let append = |path: &std::path::Path| {
        let file = OpenOptions::new().append(true).open(path);
        // Refused or not: the file's length tells.
        let _ = file.and_then(|mut file| file.write_all(b"x"));
    };
    let by_descriptor = |fd: i32| std::path::PathBuf::from(format!("/proc/self/fd/{fd}"));
    for round in 1u64.. {
        append(&path);
        append(std::path::Path::new(name));
        append(&by_descriptor(held.as_raw_fd()).join(name));
        append(&by_descriptor(read.as_raw_fd()));
        // SAFETY: the probe has one thread, so that the child may do anything.
        match unsafe { libc::fork() } {
            -1 => return Err(Errno::last()),
            0 => {
                append(&path);
                std::process::exit(0);
            }
            child => {
                // SAFETY: the status is not asked for; it is this process's own child.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }
        }
        // Replaced at once, so that no reader sees half a number.
        let new = std::path::Path::new(counter).with_extension("new");
        std::fs::write(&new, round.to_string()).map_err(errno)?;
        std::fs::rename(&new, counter).map_err(errno)?;
    }
    Ok(String::new())
}

/// What came of an attack on one path.
#[derive(Default)]
struct Attacked {
    /// What was there at the beginning.
    original: Option<(u64, u64)>,
    changes: u64,
    /// Of these, such of what was there at the beginning.
    of_original: u64,
    since: Option<Instant>,
    times: Vec<String>,
}

/// Tries to change each of the paths, round after round, for so long: writes to what is a
/// file, creates a file in what is a directory, makes what does not exist. Prints `attacking`
/// when it begins. Answers for each path, with `;` between them: rounds, changes that succeeded,
/// how many of these changed what was there at the beginning, and how long each time lasted in
/// which they did, in microseconds.
fn attack(seconds: i64, paths: &[std::ffi::OsString]) -> String {
    let start = |path: &std::ffi::OsString| Attacked {
        original: std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok(),
        ..Default::default()
    };
    let mut all: Vec<_> = paths.iter().map(start).collect();
    let (end, mut rounds) = (deadline(Some(seconds)), 0u64);
    crate::say("attacking");
    while Instant::now() < end {
        rounds += 1;
        for (path, it) in paths.iter().zip(&mut all) {
            if let Some(changed) = change(std::path::Path::new(path)) {
                it.changes += 1;
                it.of_original += u64::from(it.original == Some(changed));
                it.since.get_or_insert_with(Instant::now);
            } else if let Some(since) = it.since.take() {
                it.times.push(since.elapsed().as_micros().to_string());
            }
        }
    }
    let lines = all.iter().map(|Attacked { changes, of_original, since, times, .. }| {
        let last = if since.is_some() { " open" } else { "" };
        format!("{rounds} {changes} {of_original} {}{last}", times.join(","))
    });
    lines.collect::<Vec<_>>().join(";")
}

/// Spins on a directory until there is a file `stop`; whenever there is a new directory in it,
/// writes `text` to `name` in that, again and again until it is refused. Answers how often it
/// could.
fn plant(place: &std::path::Path, name: &str, text: &str) -> Result<String, Errno> {
    let mut known = std::collections::BTreeSet::new();
    let mut written = 0u64;
    crate::say("planting");
    while !std::path::Path::new("stop").exists() {
        let Ok(entries) = std::fs::read_dir(place) else { continue };
        for entry in entries.flatten() {
            if !known.insert(entry.file_name()) {
                continue;
            }
            let file = entry.path().join(name);
            // Git outside may have given up, and removed it.
            let until = Instant::now() + Duration::from_millis(20);
            while Instant::now() < until {
                match std::fs::write(&file, text) {
                    Ok(()) => written += 1,
                    Err(error) if error.raw_os_error() == Some(libc::EROFS) => break,
                    Err(_) => {}
                }
            }
        }
    }
    Ok(written.to_string())
}

/// Changes what is at a path, whatever it is. Answers which file or directory was changed.
fn change(path: &std::path::Path) -> Option<(u64, u64)> {
    let id = |file: &std::fs::File| file.metadata().map(|it| (it.dev(), it.ino())).ok();
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            // The one that it is created in, whatever is at the path by then.
            let dir = std::fs::File::open(path).ok()?;
            let new = std::path::Path::new("/proc/self/fd")
                .join(dir.as_raw_fd().to_string())
                .join("planted");
            OpenOptions::new().write(true).create_new(true).open(&new).ok()?;
            // Somebody outside may have done that.
            let _ = std::fs::remove_file(new);
            id(&dir)
        }
        Ok(_) => {
            let mut file = OpenOptions::new().append(true).open(path).ok()?;
            file.write_all(b"#").ok()?;
            id(&file)
        }
        Err(_) => {
            // Its parent may be one of the paths, and be there already.
            let _ = path.parent().map(std::fs::create_dir);
            std::fs::create_dir(path).ok()?;
            // It is new, whatever has taken its place by now.
            Some((0, 0))
        }
    }
}

/// Makes and removes directories as fast as it can, answering how many rounds.
fn churn(dir: &OsStr, seconds: Option<i64>) -> Answer {
    let end = deadline(seconds);
    let path = std::path::Path::new(dir).join(format!("churn.{}", std::process::id()));
    let mut rounds = 0u64;
    while Instant::now() < end {
        if std::fs::create_dir(&path).is_ok() {
            rounds += 1;
        }
        let _ = std::fs::remove_dir(&path);
    }
    Ok(rounds.to_string())
}

fn deadline(seconds: Option<i64>) -> Instant {
    let seconds = seconds.map_or(3600, |seconds| u64::try_from(seconds).unwrap_or(0));
    Instant::now() + Duration::from_secs(seconds)
}
