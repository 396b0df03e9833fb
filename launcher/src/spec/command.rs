//! The command: which file is executed, and where.

use super::SpecError;
use super::layout::Layout;
use crate::cli::Args;
use crate::host::Host;
use crate::plan::Exec;
use crate::profile::Profile;
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The command's words; without any, the user's shell.
pub(super) fn words(args: &Args, host: &Host) -> Vec<OsString> {
    if args.command.is_empty() {
        vec![host.shell.clone().into_os_string()]
    } else {
        args.command.clone()
    }
}

/// Makes `words`, the user's shell, what an ssh server was asked for that starts this program
/// instead of it (`ForceCommand`, sshd_config(5)): the command that the client sent, or the
/// program of the subsystem. Whether it is the shell itself, as at a login.
pub(super) fn of_ssh(words: &mut Vec<OsString>, host: &Host) -> bool {
    match host.variable("SSH_ORIGINAL_COMMAND") {
        Some(command) => {
            words.extend(["-c".into(), command.to_owned()]);
            false
        }
        None => host.variable("SSH_CONNECTION").is_some(),
    }
}

/// Makes the shell one of a login, by its first argument (login(1)).
pub(super) fn log_in(exec: &mut Exec) {
    let name = exec.program.file_name().unwrap_or_default();
    let mut first = OsString::from("-");
    first.push(name);
    exec.arguments[0] = first;
}

/// Puts the arguments that the profile has for a command of this name before the others.
pub(super) fn add_arguments(words: &mut Vec<OsString>, profile: &Profile) {
    if profile.arguments.is_empty() {
        return;
    }
    let name = words.first().and_then(|word| Path::new(word).file_name()?.to_str());
    if let Some(arguments) = name.and_then(|name| profile.arguments.get(name)) {
        words.splice(1..1, arguments.value.iter().map(OsString::from));
    }
}

/// Finds the command's file, as it will be seen inside.
pub(super) fn resolve(
    args: &Args,
    words: &[OsString],
    host: &Host,
    layout: &Layout<'_>,
    environment: Vec<(OsString, OsString)>,
    new_session: bool,
) -> Result<Exec, SpecError> {
    let cwd = working_directory(args, host, layout)?;
    let name = words.first().cloned().unwrap_or_default();
    let program = find(&name, &cwd, &environment, host, layout)?;
    Ok(Exec { program, arguments: words.to_vec(), environment, cwd, new_session })
}

fn working_directory(args: &Args, host: &Host, layout: &Layout<'_>) -> Result<PathBuf, SpecError> {
    let (path, origin) = match (&args.chdir, &host.cwd) {
        (Some(dir), _) if !dir.is_absolute() => {
            return Err(SpecError::Relative { path: dir.clone(), origin: "--chdir".to_owned() });
        }
        (Some(dir), _) => (dir.clone(), "--chdir"),
        (None, Some(cwd)) => (cwd.clone(), "working directory"),
        (None, None) => return Err(SpecError::NoCwd),
    };
    let fault = |errno| SpecError::Find { path: path.clone(), origin: origin.to_owned(), errno };
    let place = layout.view.locate(&path).map_err(fault)?;
    match place.found() {
        Some(found) if !found.stat.is_dir() => Err(fault(Errno::NOTDIR)),
        // In private memory nothing exists before the sandbox does, but what is
        // mounted there may: chdir itself will tell.
        Some(_) => Ok(place.path.clone()),
        None if place.is_fresh() => Ok(place.path.clone()),
        None => Err(fault(Errno::NOENT)),
    }
}

fn find(
    name: &OsStr,
    cwd: &Path,
    environment: &[(OsString, OsString)],
    host: &Host,
    layout: &Layout<'_>,
) -> Result<PathBuf, SpecError> {
    if name.is_empty() {
        return Err(SpecError::CommandNotFound(name.to_owned()));
    }
    let candidates: Vec<PathBuf> = if Path::new(name).components().count() > 1 {
        vec![cwd.join(name)]
    } else {
        let path = environment.iter().find(|(key, _)| key == "PATH");
        let path = path.map_or(OsStr::new("/usr/local/bin:/usr/bin:/bin"), |(_, value)| value);
        std::env::split_paths(path).map(|dir| cwd.join(dir).join(name)).collect()
    };
    let mut refusal = None;
    for candidate in &candidates {
        match look(candidate, host, layout) {
            Ok(()) => return Ok(candidate.clone()),
            Err(None) => {}
            Err(Some(error)) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.unwrap_or_else(|| SpecError::CommandNotFound(name.to_owned())))
}

/// Whether the file at `path` inside can be executed; `None` if there is none.
fn look(path: &Path, host: &Host, layout: &Layout<'_>) -> Result<(), Option<SpecError>> {
    let fault = |errno| Some(SpecError::CommandNotExecutable { path: path.to_owned(), errno });
    if path.starts_with(crate::plan::CONTROL_DIR) {
        return if path.ends_with("bin/remountctl") { Ok(()) } else { Err(None) };
    }
    let place = layout.view.locate(path).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => None,
        errno => fault(errno),
    })?;
    match place.found() {
        Some(found) if found.stat.is_dir() => Err(fault(Errno::ISDIR)),
        Some(found) => host.files.executable(&found.path).map_err(fault),
        None if place.is_fresh() && host.files.find(path).is_ok() => {
            Err(Some(SpecError::CommandHidden(path.to_owned())))
        }
        None => Err(None),
    }
}
