//! The command line.

use clap::Parser;
use clap::error::ErrorKind;
use remount_broker::escape::told_by_clap;
use std::ffi::OsString;
use std::path::PathBuf;

/// Switch directories of sandboxes between read-only and read-write
#[derive(Debug, Parser, PartialEq, Eq)]
#[command(
    name = "remountd",
    version,
    after_help = "Without --user: /etc/remountd/config.toml, else config.yaml; socket\n\
                  /run/remountd/remountd.sock. With --user: $XDG_CONFIG_HOME/remount/remountd.toml,\n\
                  else remountd.yaml; socket $XDG_RUNTIME_DIR/remountd.sock. A listening socket that\n\
                  systemd passes is used instead. SIGHUP reads the configuration again"
)]
pub(crate) struct Args {
    /// The configuration, TOML or YAML by its name
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The socket to listen at
    #[arg(long, value_name = "PATH", conflicts_with = "inetd")]
    pub socket: Option<PathBuf>,
    /// Serve the one connection that standard input is
    #[arg(long)]
    pub inetd: bool,
    /// Show the targets of the configuration, and end
    #[arg(long)]
    pub list: bool,
    /// Serve the user that runs it, without any privilege
    #[arg(long)]
    pub user: bool,
}

/// What a command line comes to.
#[derive(Debug)]
pub(crate) enum Parsed {
    Run(Args),
    /// Help or version.
    Print(String),
    /// What is wrong with it, and what may have been meant, fit for a terminal.
    Wrong(String, Option<String>),
}

pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Parsed {
    match Args::try_parse_from(args) {
        Ok(args) => Parsed::Run(args),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Parsed::Print(error.to_string()),
            _ => {
                let (message, hint) = told_by_clap(&error.to_string());
                Parsed::Wrong(message, hint)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_usage_is_one_clean_line() {
        for line in
            [&["--x\u{1b}[2J"][..], &["a\nb"], &["--socket"], &["--inetd", "--socket", "/x"]]
        {
            let words = std::iter::once("remountd").chain(line.iter().copied()).map(OsString::from);
            let Parsed::Wrong(message, _) = parse(words) else { panic!("{line:?}") };
            assert!(!message.is_empty() && !message.contains(char::is_control), "{message:?}");
        }
    }
}
