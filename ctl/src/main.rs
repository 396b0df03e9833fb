//! `remountctl`: switches targets of a sandbox between read-only and read-write.

#![no_main]

fn run() -> u8 {
    remount_ctl::main(std::env::args_os())
}

remount_broker::entry!(run);
