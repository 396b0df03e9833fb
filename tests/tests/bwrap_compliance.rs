//! The same command lines through Debian's bubblewrap and through ours: exit code, output
//! and what is left on the host must be the same.

mod bwrap;

use bwrap::{Case, World};

/// Hand-written command lines; the file says how to read it.
const CASES: &str = include_str!("bwrap/cases.txt");

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut next = Case::default();
    for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(known) = line.strip_prefix('!') {
            let (what, reason) = known.split_once(' ').expect("a reason");
            assert!(!reason.is_empty());
            next.differs.push(what.to_owned());
            continue;
        }
        next.script = line.to_owned();
        cases.push(std::mem::take(&mut next));
    }
    cases
}

#[track_caller]
fn all_the_same(cases: &[Case]) {
    let world = World::new();
    let reports: Vec<_> = cases.iter().filter_map(|case| world.compare(case)).collect();
    let count = reports.len();
    assert!(reports.is_empty(), "{count} of {}:\n{}", cases.len(), reports.join("\n"));
}

/// The cases under one heading, so that tests run beside each other.
fn under(part: usize, parts: usize) -> Vec<Case> {
    cases().into_iter().enumerate().filter(|(i, _)| i % parts == part).map(|(_, c)| c).collect()
}

#[test]
fn command_lines_give_the_same_1() {
    all_the_same(&under(0, 4));
}

#[test]
fn command_lines_give_the_same_2() {
    all_the_same(&under(1, 4));
}

#[test]
fn command_lines_give_the_same_3() {
    all_the_same(&under(2, 4));
}

#[test]
fn command_lines_give_the_same_4() {
    all_the_same(&under(3, 4));
}
