//! `remountctl`: switches targets of a sandbox between read-only and read-write.

fn main() -> std::process::ExitCode {
    remount_ctl::main(std::env::args_os())
}
