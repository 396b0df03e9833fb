use super::*;
use crate::apply::tests::{FakeMounts, target};
use crate::proto::{Request, Wish, parse};

fn registry(targets: Vec<Target>) -> Registry {
    Registry::with_mounts(targets, Box::new(FakeMounts::default())).unwrap()
}

fn set(line: &str) -> SetRequest {
    match parse(line.as_bytes()).1 {
        Ok(Request::Set(set)) => set,
        other => panic!("{line}: {other:?}"),
    }
}

fn three() -> Registry {
    registry(vec![
        target("inside", Authority::Inside, &["/i"]),
        target("confirm", Authority::Confirm, &["/c"]),
        target("host", Authority::Host, &["/h"]),
    ])
}

/// The whole table: everything that is not listed as granted is refused.
#[test]
fn who_may_do_what() {
    let registry = three();
    for origin in [Origin::Inside, Origin::Outside] {
        for (name, mode) in ["inside", "confirm", "host"]
            .into_iter()
            .flat_map(|name| [(name, Mode::Ro), (name, Mode::Rw)])
        {
            let granted = origin == Origin::Outside || mode == Mode::Ro || name == "inside";
            let answer = registry.authorize(&set(&format!("{mode} {name}")), origin);
            match answer {
                Ok(right) => {
                    assert!(granted, "{origin:?} {mode} {name}");
                    let changes = right.into_changes();
                    assert_eq!(changes.len(), 1);
                    assert_eq!(changes[0].1, mode);
                }
                Err(fault) => {
                    assert!(!granted, "{origin:?} {mode} {name}");
                    assert!(matches!(fault, Fault::NotAuthorised { .. }));
                    assert!(fault.hint().unwrap().contains("outside"));
                }
            }
        }
    }
}

#[test]
fn one_target_that_may_not_be_opened_refuses_the_whole_request() {
    let registry = three();
    let all = |mode| set(&format!(r#"{{"op":"set","all":true,"mode":"{mode}"}}"#));
    assert!(registry.authorize(&all("rw"), Origin::Inside).is_err());
    assert_eq!(registry.authorize(&all("ro"), Origin::Inside).unwrap().into_changes().len(), 3);
    assert_eq!(registry.authorize(&all("rw"), Origin::Outside).unwrap().into_changes().len(), 3);
}

/// A toggle from inside may close what it may not open.
#[test]
fn a_toggle_is_judged_by_what_it_would_do() {
    let mounts = FakeMounts::default();
    let targets = vec![target("host", Authority::Host, &["/h", "/h/sub"])];
    let registry = Registry::with_mounts(targets, Box::new(mounts.clone())).unwrap();
    let toggle = SetRequest::new(Selection::All, Wish::Toggle);
    mounts.with("/h/sub", |mount| mount.mode = Mode::Rw);
    let right = registry.authorize(&toggle, Origin::Inside).unwrap();
    assert_eq!(right.into_changes(), [(0, Mode::Ro)], "one writable mount makes it writable");
    mounts.with("/h/sub", |mount| mount.mode = Mode::Ro);
    assert!(registry.authorize(&toggle, Origin::Inside).is_err());
}

#[test]
fn names_are_looked_up_exactly_and_once() {
    let registry = three();
    let unknown = registry.authorize(&set("ro insid"), Origin::Outside);
    assert!(matches!(unknown, Err(Fault::UnknownTarget(name)) if name.as_str() == "insid"));
    let elsewhere = registry.authorize(&set("ro inside /i/x"), Origin::Outside);
    assert!(matches!(elsewhere, Err(Fault::OtherPath { .. })));
    assert!(registry.authorize(&set("ro inside /i 99"), Origin::Outside).is_ok());
    let twice = set(r#"{"op":"set","targets":["host","inside","host"],"mode":"toggle"}"#);
    let changes = registry.authorize(&twice, Origin::Outside).unwrap().into_changes();
    assert_eq!(changes, [(2, Mode::Rw), (0, Mode::Rw)]);
}

#[test]
fn targets_need_a_name_of_their_own_and_a_mount() {
    let make = |targets| Registry::with_mounts(targets, Box::new(FakeMounts::default()));
    let one = || target("a", Authority::Inside, &["/a"]);
    assert!(matches!(make(vec![one(), one()]), Err(BadTargets::Twice(_))));
    let empty = target("a", Authority::Inside, &[]);
    assert!(matches!(make(vec![empty]), Err(BadTargets::Empty(_))));
}
