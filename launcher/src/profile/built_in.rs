//! The profiles that are part of the program.

/// A profile of the program's own.
pub(super) struct BuiltIn {
    pub name: &'static str,
    pub text: &'static str,
    /// What `commands` in the text says, so that choosing a profile parses nothing.
    pub commands: &'static [&'static str],
}

macro_rules! built_in {
    ($name:literal, $commands:expr) => {
        BuiltIn {
            name: $name,
            text: include_str!(concat!("../../../profiles/", $name, ".toml")),
            commands: &$commands,
        }
    };
}

/// All of them, by name. A test compares this table to the files.
pub(super) static BUILT_IN: [BuiltIn; 9] = [
    built_in!("claude", ["claude"]),
    built_in!("codex", ["codex"]),
    built_in!("default", []),
    built_in!("gemini", ["gemini"]),
    built_in!("opencode", ["opencode"]),
    built_in!("toolchain/go", []),
    built_in!("toolchain/node", []),
    built_in!("toolchain/python", []),
    built_in!("toolchain/rust", []),
];

/// The built-in profile of this name, and its place in the table.
pub(super) fn find(name: &str) -> Option<(usize, &'static BuiltIn)> {
    BUILT_IN.iter().enumerate().find(|(_, profile)| profile.name == name)
}
