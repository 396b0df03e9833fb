//! Command lines that nobody wrote: options in random order and number, good ones and bad
//! ones, through Debian's bubblewrap and through ours.
//!
//! The numbers are pseudo-random from a seed that is printed when a line differs;
//! `REMOUNT_SEED` sets the first and `REMOUNT_LINES` how many each test runs.

mod bwrap;

use bwrap::{Case, World};

/// Each test's share, if nobody says otherwise.
const LINES: u64 = 60;

/// A sequence of numbers: SplitMix64 (Steele, Lea, Flood 2014).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("a small number")
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    /// In one of so many cases.
    fn rarely(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// What a word of an option stands for. Only what is the test's own is bound writable, and
/// the root never is: as root, and without a user namespace, later options would change the
/// host.
const FOREIGN: [&str; 2] = ["/usr", "/etc/hostname"];
const SOURCES: [&str; 9] =
    ["dir", "$PWD/dir", "data", "link", "absolute", "/usr", "dir/sub", "/etc/hostname", "/no/such"];
const PLACES: [&str; 14] = [
    "/mnt",
    "/mnt/a",
    "/mnt/a/b",
    "/mnt/c",
    "/tmp/x",
    "/tmp",
    "/run/x",
    "$PWD/dir",
    "/mnt/l/m",
    "/mnt/d/",
    "//mnt//e",
    "/mnt/f/../g",
    "/mnt/data",
    "/etc/hosts",
];
const MODES: [&str; 5] = ["0755", "0700", "0", "1777", "0644"];
const NAMESPACES: [&str; 9] = [
    "--unshare-user",
    "--unshare-user-try",
    "--unshare-ipc",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--unshare-all",
    "--share-net",
];
const SETTINGS: [&str; 14] = [
    "--new-session",
    "--die-with-parent",
    "--clearenv --setenv PATH /usr/bin:/bin",
    "--setenv A 1",
    "--setenv A 2",
    "--unsetenv A",
    "--unsetenv HOME",
    "--chdir /",
    "--chdir /usr",
    "--chdir /no/such",
    "--hostname other",
    "--as-pid-1",
    "--setenv PWD /odd",
    "--lock-file /etc/passwd",
];
const IDENTITIES: [&str; 12] = [
    "--uid 0",
    "--uid 1234",
    "--gid 0",
    "--gid 5678",
    "--cap-add ALL",
    "--cap-drop ALL",
    "--cap-add CAP_SYS_ADMIN",
    "--cap-add cap_net_raw",
    "--cap-drop CAP_CHOWN",
    "--disable-userns",
    "--assert-userns-disabled",
    "--unshare-user --uid 7 --gid 8",
];
/// What is wrong in itself, at the end or in between.
const WRONG: [&str; 26] = [
    "--bind",
    "--bind dir",
    "--no-such",
    "-x",
    "--perms 8",
    "--perms 0755",
    "--size 10",
    "--size x",
    "--symlink a",
    "--setenv '' x",
    "--setenv A=B c",
    "--uid x",
    "--uid -1",
    "--info-fd x",
    "--args 77",
    "--args x",
    "--seccomp 77",
    "--sync-fd x",
    "--cap-add CAP_NO",
    "--chmod 9 /mnt",
    "--file 77 /mnt/f",
    "--bind-data 77 /mnt/f",
    "--remount-ro /mnt/none",
    "--userns 77",
    "--perms 0700 --perms 0700 --dir /mnt/x",
    "--block-fd '' ",
];

/// One step at a place in the tree.
fn step(chance: &mut Chance) -> String {
    let (source, place) = (chance.one(&SOURCES), chance.one(&PLACES));
    let own = if FOREIGN.contains(&source) { "dir" } else { source };
    let mode = chance.one(&MODES);
    match chance.below(16) {
        0 | 1 => format!("--bind {own} {place}"),
        2 | 3 => format!("--ro-bind {source} {place}"),
        4 => format!("--bind-try {own} {place}"),
        5 => format!("--ro-bind-try {source} {place}"),
        6 => format!("--dev-bind {own} {place}"),
        7 => format!("--tmpfs {place}"),
        8 => format!("--perms {mode} --tmpfs {place}"),
        9 => format!("--perms {mode} --size 65536 --tmpfs {place}"),
        10 => format!("--dir {place}"),
        11 => format!("--perms {mode} --dir {place}"),
        12 => format!("--symlink a {place}"),
        13 => format!("--chmod {mode} {place}"),
        14 => format!("--remount-ro {place}"),
        // With processes of its own: the host's come and go, and what is changed of their
        // directory is changed for the host.
        _ => "--unshare-pid --proc /tmp".to_owned(),
    }
}

/// A step that reads what stands behind a descriptor, which can be done once.
fn data(chance: &mut Chance, number: usize) -> String {
    let place = chance.one(&PLACES);
    let option = chance.one(&["--file", "--bind-data", "--ro-bind-data", "--perms 0600 --file"]);
    format!("{option} {number} {place}")
}

/// A command line. The root and a place to mount in come first, most of the time.
fn line(seed: u64) -> String {
    let mut chance = Chance(seed);
    let root = chance.one(&["--ro-bind / /", "--ro-bind / / --dir /mnt", "--ro-bind-try / /"]);
    let mut words = vec![root.to_owned(), "--tmpfs /mnt".to_owned()];
    if chance.rarely(12) {
        words.clear();
    }
    for _ in 0..chance.below(4) {
        words.push(chance.one(&NAMESPACES).to_owned());
    }
    for _ in 0..chance.below(3) {
        words.push(chance.one(&SETTINGS).to_owned());
    }
    if chance.rarely(3) {
        words.push(chance.one(&IDENTITIES).to_owned());
    }
    for _ in 0..chance.below(8) {
        words.push(step(&mut chance));
    }
    let mut after = "";
    if chance.rarely(4) {
        words.push(data(&mut chance, 5));
        after = " 5<data";
    }
    if chance.rarely(5) {
        words.push("--dev /dev".to_owned());
    }
    if chance.rarely(4) {
        words.push("--unshare-pid --proc /proc".to_owned());
    }
    let wrong = chance.rarely(6);
    if wrong {
        let at = chance.below(words.len() + 1);
        words.insert(at, chance.one(&WRONG).to_owned());
    }
    // What comes from a file is no different.
    let words = words.join(" ");
    let command = chance.one(&["$look /mnt", "$look /mnt", "$look /mnt", "true", "no-such"]);
    if chance.rarely(5) && !wrong {
        return format!("printf '%s\\0' {words} >args; bwrap --args 6 {command} 6<args{after}");
    }
    format!("bwrap {words} {command}{after}")
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[track_caller]
fn generated(part: u64) {
    let (seed, lines) = (number("REMOUNT_SEED", 20_260_731), number("REMOUNT_LINES", LINES));
    let first = seed + part * lines;
    let case = |seed| (seed, Case { script: line(seed), ..Case::default() });
    let cases: Vec<_> = (first..first + lines).map(case).collect();
    let world = World::new();
    let reports: Vec<_> = cases
        .iter()
        .filter_map(|(seed, case)| Some(format!("seed {seed}: {}", world.compare(case)?)))
        .collect();
    let count = reports.len();
    assert!(reports.is_empty(), "{count} of {}:\n{}", cases.len(), reports.join("\n"));
}

#[test]
fn generated_lines_give_the_same_1() {
    generated(0);
}

#[test]
fn generated_lines_give_the_same_2() {
    generated(1);
}

#[test]
fn generated_lines_give_the_same_3() {
    generated(2);
}

/// The lines are what they are meant to be: most of them start a sandbox, many fail.
#[test]
fn lines_are_of_all_kinds() {
    let all: Vec<_> = (0..500).map(line).collect();
    for word in ["--bind ", "--tmpfs", "--args 6", "--unshare-pid", " 77", "--file", "--uid"] {
        let count = all.iter().filter(|line| line.contains(word)).count();
        assert!(count >= 5, "{word}: {count}");
    }
    let mut different = all.clone();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 490, "{}", different.len());
}
