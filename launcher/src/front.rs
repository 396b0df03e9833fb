//! From a command line to an exit code: the order of the stages.

use crate::cli::{Args, Format};
use crate::confine::landlock;
use crate::host::Host;
use crate::outside::{Missing, Outside};
use crate::plan::Plan;
use crate::profile::Loader;
use crate::report::Failure;
use crate::spec::{Spec, SpecError};
use crate::supervise;
use remount_broker::escape::Escaped;
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Whether this program was called by `name`.
pub fn is_called(args: &[OsString], name: &str) -> bool {
    args.first().is_some_and(|arg| Path::new(arg).file_name().is_some_and(|base| base == name))
}

/// Does what the command line says; returns the exit code.
///
/// # Errors
/// Everything that keeps the command from running.
pub fn run(args: Vec<OsString>) -> Result<u8, Failure> {
    let args = match Args::parse_from_os(args) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let host = Host::read().map_err(|error| Failure {
        code: 125,
        message: error.to_string(),
        hint: Some("mount the proc file system on /proc".to_owned()),
    })?;
    let loader = loader(&host);
    if args.list_profiles {
        return list_profiles(&loader);
    }
    let missing = if args.dry_run.is_some() { Missing::Leave } else { Missing::Create };
    let outside = Outside::open(&host, missing);
    let spec = Spec::resolve(&args, &host, &loader, &outside.hidden).map_err(failure)?;
    let plan = Plan::build(spec, &host.mounts);
    match args.dry_run {
        Some(Format::Text) => return print(&plan.to_string()),
        Some(Format::Json) => return print(&format!("{:#}\n", plan.to_json())),
        None => {}
    }
    for warning in &plan.warnings {
        eprintln!("remount-run: warning: {warning}");
    }
    if args.verbose {
        tell(&plan);
    }
    drop(host);
    supervise::run(&plan, outside)
}

fn usage(error: &clap::Error) -> Result<u8, Failure> {
    let text = error.render().to_string();
    if error.exit_code() == 0 {
        return print(&text);
    }
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
    Err(Failure { code: 125, message, hint: None })
}

fn failure(error: SpecError) -> Failure {
    Failure { code: error.exit_code(), message: error.to_string(), hint: error.hint() }
}

/// Where profiles are looked for.
fn loader(host: &Host) -> Loader {
    let user = host.path_variable("XDG_CONFIG_HOME").unwrap_or_else(|| host.home.join(".config"));
    let dirs = [user.join("remount/profiles"), PathBuf::from("/etc/remount/profiles")];
    // Asked once, instead of for every profile.
    let exists = |dir: &PathBuf| host.files.lstat(dir) != Err(Errno::NOENT);
    Loader { config_dirs: dirs.into_iter().filter(exists).collect(), uid: host.uid }
}

fn list_profiles(loader: &Loader) -> Result<u8, Failure> {
    let listed = loader.list().map_err(|error| failure(error.into()))?;
    let mut text = String::new();
    for profile in listed {
        let about = match (&profile.problem, &profile.description) {
            (Some(problem), _) => format!("cannot be used: {problem}"),
            (None, Some(description)) => description.clone(),
            (None, None) => String::new(),
        };
        let name = Escaped::text(&profile.name).to_string();
        text.push_str(&format!("{name:<18} {}  ({})\n", Escaped::text(&about), profile.source));
    }
    print(&text)
}

fn print(text: &str) -> Result<u8, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        // Whoever read the output has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => {
            Err(Failure { code: 125, message: format!("write to stdout: {error}"), hint: None })
        }
    }
}

/// What is enforced, and what this kernel cannot.
fn tell(plan: &Plan) {
    eprintln!("remount-run: profiles: {}", plan.profiles.join(", "));
    for target in &plan.mounts.targets {
        let (name, mode, authority) = (&target.name, target.mode, target.authority);
        eprintln!(
            "remount-run: target {name}: {} {mode}, rw by {authority}",
            Escaped::path(&target.dest)
        );
    }
    let Some(rules) = &plan.landlock else { return };
    eprintln!("remount-run: Landlock ABI {}, {} rules", rules.abi, rules.rules.len());
    for lost in landlock::missing_below(rules.abi) {
        eprintln!("remount-run: this kernel's Landlock: {lost}");
    }
}
