//! From a command line to an exit code: the order of the stages.

use crate::audit;
use crate::cli::{Args, Format};
use crate::confine::landlock;
use crate::hold::Hold;
use crate::host::Host;
use crate::outside::Outside;
use crate::plan::Plan;
use crate::profile::{Loader, SourceName};
use crate::reduced;
use crate::report::{Failure, UNPERMITTED};
use crate::spec::{Spec, SpecError};
use crate::supervise;
use remount_broker::escape::{Escaped, told_by_clap};
use remount_broker::reason::{IoReason, Reason};
use remount_broker::scratch;
use remount_broker::sys::{process, start};
use rustix::io::Errno;
use std::ffi::OsString;
use std::io::Write;
use std::mem::ManuallyDrop;
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
    start::open_to_owner();
    process::close_inherited().map_err(|errno| Failure {
        code: 125,
        message: format!("close inherited descriptors: {:#}", Reason::from(errno)),
        hint: None,
    })?;
    let mut args = match Args::parse_from_os(args) {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    // This process ends with the sandbox: taking apart what it knew would only delay that.
    let host = ManuallyDrop::new(Host::read().map_err(|error| Failure {
        code: 125,
        message: error.to_string(),
        hint: Some(error.hint().to_owned()),
    })?);
    let loader = loader(&host);
    if args.list_profiles {
        return list_profiles(&loader);
    }
    let mut outside = Outside::find(&host);
    let mut spec = Spec::resolve(&args, &host, &loader, &outside.hidden).map_err(failure)?;
    let is_dry = args.dry_run.is_some();
    let made = !is_dry && outside.make();
    if made {
        outside = outside.found_again(&host);
    }
    let record = spec.audit.as_deref().filter(|_| !is_dry).map(open_record).transpose()?;
    // What was made by now has to be hidden.
    if made || record.as_ref().is_some_and(|record| record.is_new) {
        spec = Spec::resolve(&args, &host, &loader, &outside.hidden).map_err(failure)?;
    }
    let held = Hold::read(outside.state());
    let held = held.map_err(|errno| failure(SpecError::Held(outside.state().into(), errno)))?;
    spec.hold(held, host.files.as_ref());
    let plan = ManuallyDrop::new(Plan::build(spec, &host.mounts));
    match args.dry_run {
        Some(Format::Text) => return print(&plan.to_string()),
        Some(Format::Json) => return print(&format!("{:#}\n", plan.to_json())),
        None => {}
    }
    for warning in &plan.warnings {
        say(&format!("remount-run: warning: {warning}"));
    }
    if args.verbose {
        tell(&plan);
    }
    let record = record.map(|record| record.file);
    let result = supervise::run(&plan, &mut outside, record).inspect_err(|_| outside.unmake());
    match result {
        Err(failure) if failure.code == UNPERMITTED && plan.reducible => {
            // Shims are mounts.
            let had_shims = !std::mem::replace(&mut args.no_shims, true);
            let spec =
                Spec::resolve(&args, &host, &loader, &outside.hidden).map_err(self::failure)?;
            let record = spec.audit.as_deref().map(open_record).transpose()?;
            let plan = ManuallyDrop::new(Plan::build(spec, &host.mounts));
            let place = scratch::place(host.path_variable("TMPDIR"));
            let lost = reduced::Lost { had_shims, why: &failure, place };
            reduced::run(&plan, host.files.as_ref(), lost, record.map(|record| record.file))
        }
        Err(failure) if failure.code == UNPERMITTED => Err(Failure { code: 125, ..failure }),
        result => result,
    }
}

fn open_record(path: &Path) -> Result<audit::Record, Failure> {
    audit::open(path).map_err(|why| Failure {
        code: 125,
        message: format!("--audit: open {}: {why}", Escaped::path(path)),
        hint: Some("name an ordinary file of yours, or one that does not exist yet".to_owned()),
    })
}

fn usage(error: &clap::Error) -> Result<u8, Failure> {
    let text = error.render().to_string();
    if error.exit_code() == 0 {
        return print(&text);
    }
    let (message, hint) = told_by_clap(&text);
    let hint = hint.unwrap_or_else(|| "remount-run --help lists the options".to_owned());
    Err(Failure { code: 125, message, hint: Some(hint) })
}

fn failure(error: SpecError) -> Failure {
    Failure { code: error.exit_code(), message: error.to_string(), hint: error.hint() }
}

/// Where profiles are looked for.
pub(crate) fn loader(host: &Host) -> Loader {
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
        let source = match &profile.source {
            SourceName::BuiltIn(_) => "built in".to_owned(),
            file @ SourceName::File(_) => file.to_string(),
        };
        text.push_str(&format!("{name:<18} {}  ({source})\n", Escaped::text(&about)));
    }
    print(&text)
}

fn print(text: &str) -> Result<u8, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(0),
        // Whoever read the output has read enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Failure {
            code: 125,
            message: format!("write to stdout: {}", IoReason(&error)),
            hint: None,
        }),
    }
}

/// Writes a line to standard error. If nobody can read it, that is no reason to do
/// anything else than before: the exit code says the most important.
pub fn say(line: &str) {
    drop(std::io::stderr().write_all(format!("{line}\n").as_bytes()));
}

/// What is enforced, and what this kernel cannot.
fn tell(plan: &Plan) {
    say(&format!("remount-run: profiles: {}", plan.profiles.join(", ")));
    for target in &plan.mounts.targets {
        let (name, mode, authority) = (&target.name, target.mode, target.authority);
        say(&format!(
            "remount-run: target {name}: {} {mode}, rw by {authority}",
            Escaped::path(&target.dest)
        ));
    }
    let Some(rules) = &plan.landlock else { return };
    say(&format!("remount-run: Landlock ABI {}, {} rules", rules.abi, rules.rules.len()));
    for lost in landlock::missing_below(rules.abi) {
        say(&format!("remount-run: this kernel's Landlock: {lost}"));
    }
}
