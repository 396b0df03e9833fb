//! Where the program `remountctl` begins: `src/ahead.rs` says why.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        println!("cargo::rustc-link-arg-bin=remountctl=-Wl,--entry=remount_ahead_start");
    }
}
