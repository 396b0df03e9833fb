//! What was typed. Nothing here opens a file or asks the host anything.

use clap::{ArgMatches, Args as _, Command, FromArgMatches, Parser};
use remount_broker::escape::Escaped;
use remount_broker::name::{Authority, TargetName};
use std::ffi::OsString;
use std::path::PathBuf;

/// The command line of `remount-run`, as typed.
#[derive(Debug, Default, Parser)]
#[command(
    name = "remount-run",
    version,
    about = "Start an agent in a sandbox whose directories can be switched between read-only and read-write",
    override_usage = "remount-run [OPTIONS] [--] [COMMAND [ARG]...]",
    after_help = "Options with SRC, DEST, PATH, NAME or VAR can be repeated. Without COMMAND, your\n\
                  shell is started. Inside, `remountctl ro workspace` makes the project read-only\n\
                  and `remountctl rw workspace` writable again.\n\
                  Under the name `bwrap`, or with --bwrap as the first word, it takes all of bubblewrap's\n\
                  options (--args, --argv0, --as-pid-1, --perms, --seccomp, ...): 'remount-run --bwrap --help'.\n\
                  Exit status: the command's own; 128+N if signal N ended it; 125 if remount-run\n\
                  failed, 126 if COMMAND cannot be executed, 127 if it is not found."
)]
pub struct Args {
    /// Use this profile, not the one for COMMAND
    #[arg(long = "profile", value_name = "NAME|PATH")]
    pub profiles: Vec<OsString>,

    /// Let `remountctl` switch what is mounted at DEST
    #[arg(long, num_args = 2, value_names = ["NAME", "DEST"])]
    toggle: Vec<OsString>,

    /// Bind mount the host path SRC on DEST, writable
    #[arg(long, num_args = 2, value_names = ["SRC", "DEST"])]
    bind: Vec<OsString>,

    /// Same, if SRC exists
    #[arg(long, num_args = 2, value_names = ["SRC", "DEST"])]
    bind_try: Vec<OsString>,

    /// Bind mount the host path SRC read-only on DEST
    #[arg(long, num_args = 2, value_names = ["SRC", "DEST"])]
    ro_bind: Vec<OsString>,

    /// Same, if SRC exists
    #[arg(long, num_args = 2, value_names = ["SRC", "DEST"])]
    ro_bind_try: Vec<OsString>,

    /// Bind mount the host path SRC on DEST, writable, with devices
    #[arg(long, num_args = 2, value_names = ["SRC", "DEST"])]
    dev_bind: Vec<OsString>,

    /// Mount new tmpfs on DEST
    #[arg(long, value_name = "DEST")]
    tmpfs: Vec<OsString>,

    /// Size of the next --tmpfs, else of /tmp; K, M and G are known
    #[arg(long, value_name = "BYTES")]
    size: Vec<String>,

    /// Hide PATH behind an empty file or directory
    #[arg(long, value_name = "PATH")]
    pub mask: Vec<OsString>,

    /// Hide nothing of what the profile hides
    #[arg(long)]
    pub no_mask: bool,

    /// Keep PATH read-only in a writable directory
    #[arg(long, value_name = "PATH")]
    pub protect: Vec<OsString>,

    /// Set an environment variable
    #[arg(long, num_args = 2, value_names = ["VAR", "VALUE"], allow_hyphen_values = true)]
    setenv: Vec<OsString>,

    /// Unset an environment variable
    #[arg(long, value_name = "VAR")]
    unsetenv: Vec<OsString>,

    /// Unset all environment variables
    #[arg(long)]
    clearenv: bool,

    /// Change directory to DIR
    #[arg(long, value_name = "DIR")]
    pub chdir: Option<PathBuf>,

    /// Add the shims of FILE, or of *.toml in DIR
    #[arg(long, value_name = "DIR|FILE")]
    pub shims: Vec<PathBuf>,

    /// No shims, whatever the profile says
    #[arg(long)]
    pub no_shims: bool,

    /// New network, with nothing but loopback
    #[arg(long)]
    pub unshare_net: bool,

    /// Custom host name in the sandbox
    #[arg(long, value_name = "HOST")]
    pub hostname: Option<String>,

    /// New terminal session, without job control
    #[arg(long)]
    pub new_session: bool,

    /// Who may make targets writable [default: self]
    #[arg(long, value_name = "self|confirm|host", value_parser = parse_authority)]
    pub authority: Option<Authority>,

    /// Refuse to start with less than the whole sandbox
    #[arg(long)]
    pub require: bool,

    /// Print the whole plan and do nothing
    #[arg(long, value_name = "text|json", num_args = 0..=1, require_equals = true,
          default_missing_value = "text", value_parser = parse_format)]
    pub dry_run: Option<Format>,

    /// List the profiles there are
    #[arg(long, conflicts_with = "command")]
    pub list_profiles: bool,

    /// Write each command that is executed to FILE, as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,

    /// Say on standard error what is enforced
    #[arg(long, short)]
    pub verbose: bool,

    /// Command to run in the sandbox
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,

    /// The options whose order matters, in the order they were typed.
    #[arg(skip)]
    pub steps: Vec<Step>,
}

/// One option of the kind that can be given several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `--bind` and its relatives.
    Bind {
        /// What is bound.
        source: PathBuf,
        /// Where it appears.
        dest: PathBuf,
        /// Whether files can be changed through it.
        writable: bool,
        /// Whether devices work below it.
        devices: bool,
        /// Whether a missing source is skipped.
        optional: bool,
    },
    /// `--tmpfs`.
    Tmpfs {
        /// Where.
        dest: PathBuf,
        /// As typed after `--size`.
        size: Option<String>,
    },
    /// `--size` for the profile's `/tmp`, as typed.
    TmpSize(String),
    /// `--toggle`.
    Toggle {
        /// The target's name.
        name: TargetName,
        /// Where it is mounted.
        dest: PathBuf,
    },
    /// `--setenv`.
    Set(OsString, OsString),
    /// `--unsetenv`.
    Unset(OsString),
    /// `--clearenv`.
    Clear,
}

/// How `--dry-run` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    Text,
    /// For a program.
    Json,
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("must be text or json".to_owned()),
    }
}

fn parse_authority(text: &str) -> Result<Authority, String> {
    match text {
        "self" => Ok(Authority::Inside),
        "confirm" => Ok(Authority::Confirm),
        "host" => Ok(Authority::Host),
        _ => Err("must be self, confirm or host".to_owned()),
    }
}

impl Args {
    /// Nothing but these profiles.
    pub(crate) fn of_profiles(profiles: Vec<OsString>) -> Self {
        Self { profiles, ..Self::default() }
    }

    /// Reads a command line, program name first.
    ///
    /// # Errors
    /// Clap's error, which prints as usage, help or version.
    pub fn parse_from_os(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = args.into_iter().collect();
        // Nearly every start: nothing but a command, and no need to build a parser.
        if let [_, dashes, command @ ..] = words.as_slice()
            && dashes == "--"
        {
            return Ok(Self { command: command.to_vec(), ..Self::default() });
        }
        let command = Self::augment_args(Command::new("remount-run"));
        let matches = command.try_get_matches_from(&words)?;
        let mut args = Self::from_arg_matches(&matches)?;
        args.refuse_option_as_command(&words)?;
        args.steps = steps(&args, &matches)?;
        Ok(args)
    }
}

impl Args {
    /// What begins with a dash is a mistyped option, not the command, unless `--` stands
    /// before it: arguments of the command may begin with one, so clap lets this pass.
    fn refuse_option_as_command(&self, words: &[OsString]) -> Result<(), clap::Error> {
        let Some(first) = self.command.first() else { return Ok(()) };
        let before = words.len().checked_sub(self.command.len() + 1).and_then(|i| words.get(i));
        if !first.as_encoded_bytes().starts_with(b"-") || before.is_some_and(|word| word == "--") {
            return Ok(());
        }
        let option = Escaped::os(first);
        let text = format!("unexpected option {option}: 'remount-run --help' lists them\n");
        Err(clap::Error::raw(clap::error::ErrorKind::UnknownArgument, text))
    }
}

/// The repeatable options, each with the place where it was typed, in that order.
fn steps(args: &Args, matches: &ArgMatches) -> Result<Vec<Step>, clap::Error> {
    let mut placed: Vec<(usize, Step)> = Vec::new();
    let at = |id: &str| matches.indices_of(id).into_iter().flatten().collect::<Vec<_>>();
    let pairs = |id: &str, values: &[OsString]| -> Vec<(usize, OsString, OsString)> {
        let (pairs, _) = values.as_chunks::<2>();
        at(id).chunks(2).zip(pairs).map(|(i, [a, b])| (i[0], a.clone(), b.clone())).collect()
    };
    for (id, values, writable, devices, optional) in [
        ("bind", &args.bind, true, false, false),
        ("bind_try", &args.bind_try, true, false, true),
        ("ro_bind", &args.ro_bind, false, false, false),
        ("ro_bind_try", &args.ro_bind_try, false, false, true),
        ("dev_bind", &args.dev_bind, true, true, false),
    ] {
        for (index, source, dest) in pairs(id, values) {
            let (source, dest) = (source.into(), dest.into());
            placed.push((index, Step::Bind { source, dest, writable, devices, optional }));
        }
    }
    let mut sizes: Vec<(usize, &String)> = at("size").into_iter().zip(&args.size).collect();
    for (index, dest) in at("tmpfs").into_iter().zip(&args.tmpfs) {
        let before = sizes.iter().position(|(size_at, _)| *size_at < index);
        let size = before.map(|i| sizes.remove(i).1.clone());
        placed.push((index, Step::Tmpfs { dest: dest.into(), size }));
    }
    match sizes.as_slice() {
        [] => {}
        [(index, size)] if args.tmpfs.is_empty() => {
            placed.push((*index, Step::TmpSize((*size).clone())));
        }
        [(_, size), ..] => {
            let text = format!(
                "--size {size}: no --tmpfs follows it\n\n  tip: for example --size 64M --tmpfs /scratch\n"
            );
            return Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, text));
        }
    }
    for (index, name, dest) in pairs("toggle", &args.toggle) {
        let name = name.to_string_lossy().parse::<TargetName>().map_err(|error| {
            let text =
                format!("--toggle: {error}\n\n  tip: for example --toggle docs /home/me/docs\n");
            clap::Error::raw(clap::error::ErrorKind::InvalidValue, text)
        })?;
        placed.push((index, Step::Toggle { name, dest: dest.into() }));
    }
    placed.extend(pairs("setenv", &args.setenv).into_iter().map(|(i, k, v)| (i, Step::Set(k, v))));
    let unset = args.unsetenv.iter().map(|var| Step::Unset(var.clone()));
    placed.extend(at("unsetenv").into_iter().zip(unset));
    if args.clearenv {
        placed.extend(at("clearenv").into_iter().map(|i| (i, Step::Clear)));
    }
    placed.sort_by_key(|(index, _)| *index);
    Ok(placed.into_iter().map(|(_, step)| step).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Args::parse_from_os(
            std::iter::once("remount-run").chain(words.iter().copied()).map(OsString::from),
        )
    }

    #[test]
    fn options_after_the_command_belong_to_it() {
        let args = parse(&["--unshare-net", "ls", "-l", "--bind", "x"]).unwrap();
        assert!(args.unshare_net);
        assert_eq!(args.command, ["ls", "-l", "--bind", "x"]);
        assert_eq!(parse(&["--", "--odd"]).unwrap().command, ["--odd"]);
        assert!(parse(&[]).unwrap().command.is_empty());
        for mistyped in [&["--odd", "--", "ls"][..], &["--unshare-net", "-x"], &["--odd"]] {
            assert!(parse(mistyped).is_err(), "{mistyped:?}");
        }
        assert_eq!(parse(&["--setenv", "A", "--", "--", "-x"]).unwrap().command, ["-x"]);
    }

    #[test]
    fn a_misspelt_option_is_no_command() {
        for words in [&["--unshare-nte"][..], &["--bnid", "/a", "/b", "true"], &["-x", "true"]] {
            let error = parse(words).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::UnknownArgument, "{words:?}");
        }
    }

    #[test]
    fn a_command_alone_is_read_as_the_parser_would() {
        let words = ["remount-run", "--", "ls", "--bind", "-x", "--"];
        let matches = Args::augment_args(Command::new("remount-run")).get_matches_from(words);
        let parsed = Args::from_arg_matches(&matches).unwrap();
        let args = parse(&words[1..]).unwrap();
        assert_eq!(format!("{args:?}"), format!("{parsed:?}"));
    }

    #[test]
    fn repeated_options_keep_their_order() {
        let args = parse(&[
            "--ro-bind",
            "/a",
            "/b",
            "--size",
            "5",
            "--tmpfs",
            "/t",
            "--bind",
            "/c",
            "/d",
            "--tmpfs",
            "/u",
        ])
        .unwrap();
        let bind = |source: &str, dest: &str, writable| Step::Bind {
            source: source.into(),
            dest: dest.into(),
            writable,
            devices: false,
            optional: false,
        };
        assert_eq!(
            args.steps,
            [
                bind("/a", "/b", false),
                Step::Tmpfs { dest: "/t".into(), size: Some("5".into()) },
                bind("/c", "/d", true),
                Step::Tmpfs { dest: "/u".into(), size: None },
            ]
        );
    }

    #[test]
    fn a_size_without_any_tmpfs_is_that_of_tmp() {
        let args = parse(&["--size", "5M", "true"]).unwrap();
        assert_eq!(args.steps, [Step::TmpSize("5M".into())]);
    }

    #[test]
    fn a_bad_name_or_a_size_for_nothing_is_refused() {
        assert!(parse(&["--toggle", "A b", "/x"]).is_err());
        assert!(parse(&["--size", "5", "--size", "6"]).is_err());
        assert!(parse(&["--tmpfs", "/t", "--size", "5"]).is_err());
        assert!(parse(&["--bind", "/only-one"]).is_err());
        assert!(parse(&["--list-profiles"]).is_ok());
        assert!(parse(&["--list-profiles", "claude"]).is_err());
    }
}
