//! Putting hooks into an agent's configuration, and taking them out.

use super::agents::{Agent, Place, ending};
use super::settings::Settings;
use remount_broker::escape::Escaped;
use remount_broker::reason::IoReason;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What could not be done, and why.
type Error = String;

/// The configuration to add, and where.
pub(crate) fn print(agent: Agent) -> Result<String, Error> {
    Ok(match agent.place()? {
        Place::None => NO_PLACE.to_owned(),
        Place::Plugin(path, text) => format!("{}:\n{text}", Escaped::path(&path)),
        Place::Settings(path, groups) => {
            let mut settings = Settings::parse("").map_err(|error| error.to_string())?;
            for (event, group) in &groups {
                settings.add(event, group).map_err(|error| error.to_string())?;
            }
            let text = settings.to_text().map_err(|error| error.to_string())?;
            format!("{}:\n{text}", Escaped::path(&path))
        }
    })
}

const NO_PLACE: &str = "Let your agent run, whenever its mode changes and before each tool:\n\
    remountctl hook generic --mode plan      # or: --mode default\n\
    Exit code 2 says that the project could not be made read-only.\n";

/// Adds the hooks; what to tell about it.
pub(crate) fn install(agent: Agent) -> Result<String, Error> {
    let (path, text) = match agent.place()? {
        Place::None => return Err("there is no file to add this to: see --print".to_owned()),
        Place::Plugin(path, text) => (path, text.to_owned()),
        Place::Settings(path, groups) => {
            let before = read(&path)?.unwrap_or_default();
            let mut settings = parse(&path, &before)?;
            let add = |settings: &mut Settings| {
                settings.remove(&ending(agent))?;
                groups.iter().try_for_each(|(event, group)| settings.add(event, group))?;
                settings.to_text()
            };
            let text = add(&mut settings).map_err(|error| not_understood(&path, &error))?;
            (path, text)
        }
    };
    let mut told = write(&path, Some(&text))?;
    if let Some(note) = agent.note() {
        told.push_str(&format!("note: {note}\n"));
    }
    Ok(told)
}

/// Takes the hooks out; what to tell about it.
pub(crate) fn uninstall(agent: Agent) -> Result<String, Error> {
    match agent.place()? {
        Place::None => Ok("nothing to remove\n".to_owned()),
        Place::Plugin(path, text) => match read(&path)? {
            None => Ok("nothing to remove\n".to_owned()),
            // Written by this program, in this or another version.
            Some(old) if old.lines().next() == text.lines().next() => write(&path, None),
            Some(_) => {
                Err(format!("remove {}: it is not what was installed", Escaped::path(&path)))
            }
        },
        Place::Settings(path, _) => {
            let Some(before) = read(&path)? else { return Ok("nothing to remove\n".to_owned()) };
            let mut settings = parse(&path, &before)?;
            let removed = settings.remove(&ending(agent));
            if !removed.map_err(|error| not_understood(&path, &error))? {
                return Ok("nothing to remove\n".to_owned());
            }
            let text = settings.to_text().map_err(|error| not_understood(&path, &error))?;
            write(&path, Some(&text))
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Settings, Error> {
    Settings::parse(text).map_err(|error| not_understood(path, &error))
}

/// Comments, for one: the agent may read such a file, but nobody could write it back.
fn not_understood(path: &Path, error: &serde_json::Error) -> Error {
    format!(
        "change {}: it is not plain JSON with hooks: {error}; it was left as it is, --print \
         shows what to add by hand",
        Escaped::path(path)
    )
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path, &error)),
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    format!("{what} {}: {}", Escaped::path(path), IoReason(error))
}

/// Puts `text` in the file's place, or removes it: at every moment the file is the old or
/// the new one, and the old one is kept beside it. A symbolic link stays one.
fn write(path: &Path, text: Option<&str>) -> Result<String, Error> {
    let path = match fs::canonicalize(path) {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(failed("find", path, &error)),
    };
    let before = read(&path)?;
    if before.as_deref() == text {
        return Ok(format!("{}: nothing to change\n", Escaped::path(&path)));
    }
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir).map_err(|e| failed("make", dir, &e))?;
    let mut told = String::new();
    let mut mode = 0o600;
    if before.is_some() {
        let backup = beside(&path, ".before-remount");
        mode = fs::metadata(&path).map_err(|e| failed("look at", &path, &e))?.permissions().mode();
        replace(&backup, before.as_deref().unwrap_or_default(), mode)?;
        told = format!("{}: what was there before\n", Escaped::path(&backup));
    }
    match text {
        Some(text) => replace(&path, text, mode)?,
        None => fs::remove_file(&path).map_err(|error| failed("remove", &path, &error))?,
    }
    let done = if text.is_some() { "written" } else { "removed" };
    Ok(format!("{}: {done}\n{told}", Escaped::path(&path)))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn replace(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let new = beside(path, &format!(".{}", std::process::id()));
    let fill = || -> io::Result<()> {
        let mut file: File =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    fill().map_err(|error| {
        // It is ours, and if it is not there, just as well.
        drop(fs::remove_file(&new));
        failed("write", path, &error)
    })
}
