use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering};

/// A store and a tree, removed at the end.
struct World(PathBuf);

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("remount-test-placeholder.{}.{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(root.join("tree/.git")).unwrap();
        // The directory for temporary files may be reached by a link.
        Self(root.canonicalize().unwrap())
    }

    fn tree(&self, path: &str) -> PathBuf {
        self.0.join("tree").join(path)
    }

    fn store(&self) -> Store {
        Store::create(&self.0.join("state/remount/placeholders")).unwrap()
    }

    fn wanted(&self) -> Vec<Wanted> {
        let file = |text: &str| Kind::File(text.into());
        [(".vscode", Kind::Directory), (".git/commondir", file(".\n")), ("empty", file(""))]
            .map(|(name, kind)| Wanted { path: self.tree(name), kind })
            .into()
    }

    fn names(&self) -> Vec<String> {
        let names = |dir: PathBuf| {
            let entries = std::fs::read_dir(dir).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let mut all: Vec<_> = names(self.tree("")).chain(names(self.tree(".git"))).collect();
        all.sort();
        all
    }

    /// As if the launcher had been killed: the lock is gone, the record is not.
    fn killed(&self, wanted: &[Wanted]) {
        drop(self.store().make(wanted).unwrap());
    }

    fn records(&self) -> usize {
        let all = std::fs::read_dir(self.0.join("state/remount/placeholders")).unwrap();
        all.filter(|entry| entry.as_ref().unwrap().file_name() != SPARE).count()
    }

    fn spares(&self) -> Vec<u64> {
        let all = std::fs::read_dir(self.0.join("state/remount/placeholders/spare")).unwrap();
        all.map(|entry| entry.unwrap().metadata().unwrap().ino()).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

const ALL: [&str; 4] = [".git", ".vscode", "commondir", "empty"];

#[test]
fn they_are_made_and_removed() {
    let world = World::new();
    let made = world.store().make(&world.wanted()).unwrap();
    assert_eq!(world.names(), ALL);
    assert_eq!(std::fs::read(world.tree(".git/commondir")).unwrap(), b".\n");
    assert_eq!(std::fs::metadata(world.tree(".git/commondir")).unwrap().nlink(), 1);
    let removed = made.remove().unwrap();
    assert_eq!((removed.removed.len(), removed.kept.len(), removed.failed.len()), (3, 0, 0));
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
}

#[test]
fn the_last_of_several_removes_them() {
    let world = World::new();
    let first = world.store().make(&world.wanted()).unwrap();
    let second = world.store().make(&world.wanted()).unwrap();
    let third = world.store().make(&world.wanted()[..1]).unwrap();
    first.remove().unwrap();
    assert_eq!(world.names(), ALL);
    second.remove().unwrap();
    assert_eq!(world.names(), [".git", ".vscode"]);
    third.remove().unwrap();
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
}

#[test]
fn what_the_dead_leave_is_removed_by_the_next_or_on_demand() {
    let world = World::new();
    world.killed(&world.wanted());
    assert_eq!(world.names(), ALL);
    assert_eq!(world.store().leftovers().unwrap().found.len(), 3);
    // Still wanted: left where it is, and removed at this one's end.
    let next = world.store().make(&world.wanted()[..1]).unwrap();
    assert_eq!(world.names(), [".git", ".vscode"]);
    assert_eq!(world.records(), 1);
    next.remove().unwrap();
    assert_eq!(world.names(), [".git"]);
    world.killed(&world.wanted());
    world.killed(&world.wanted());
    assert_eq!(world.store().clean().unwrap().removed.len(), 3);
    assert_eq!(world.store().leftovers().unwrap(), Leftovers::default());
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
}

/// The broker makes them again where the host has put another directory.
#[test]
fn those_in_a_directory_that_took_the_place_of_the_first_are_removed() {
    let world = World::new();
    for kill in [false, true] {
        let made = world.store().make(&world.wanted()).unwrap();
        let other = world.store().make(&world.wanted()).unwrap();
        std::fs::rename(world.tree(""), world.0.join("away")).unwrap();
        std::fs::create_dir_all(world.tree(".git")).unwrap();
        for Wanted { path, kind } in world.wanted() {
            let parent = std::fs::File::open(path.parent().unwrap()).unwrap();
            make_one(parent.as_fd(), path.file_name().unwrap(), &kind).unwrap();
        }
        std::fs::write(world.tree("own"), "").unwrap();
        drop(other);
        if kill {
            drop(made);
        } else {
            made.remove().unwrap();
        }
        world.store().clean().unwrap();
        assert_eq!(world.names(), [".git", "own"]);
        std::fs::remove_dir_all(world.tree("")).unwrap();
        std::fs::rename(world.0.join("away"), world.tree("")).unwrap();
        world.killed(&world.wanted());
        world.store().clean().unwrap();
        assert_eq!(world.names(), [".git"]);
    }
}

#[test]
fn one_without_a_record_is_known() {
    let world = World::new();
    world.killed(&world.wanted());
    let mut records = std::fs::read_dir(world.store().path).unwrap().map(Result::unwrap);
    let record = records.find(|entry| entry.file_name() != SPARE).unwrap();
    // As a power cut leaves what was never written to the disk.
    std::fs::write(record.path(), b"").unwrap();
    let uid = rustix::process::geteuid().as_raw();
    for wanted in world.wanted() {
        assert!(is_one(&mount::lstat_at(CWD, &wanted.path).unwrap(), uid));
    }
    let next = world.store().make(&world.wanted()).unwrap();
    next.remove().unwrap();
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
}

#[test]
fn what_others_made_of_them_is_left() {
    let world = World::new();
    for kill in [false, true] {
        let made = world.store().make(&world.wanted()).unwrap();
        std::fs::write(world.tree(".vscode/settings.json"), "{}").unwrap();
        std::fs::write(world.tree(".git/commondir"), "elsewhere").unwrap();
        std::fs::write(world.tree("new"), "").unwrap();
        std::fs::rename(world.tree("new"), world.tree("empty")).unwrap();
        let removed = if kill {
            drop(made);
            world.store().clean().unwrap()
        } else {
            made.remove().unwrap()
        };
        assert_eq!((removed.removed.len(), removed.kept.len()), (0, 2));
        assert_eq!((world.names(), world.records()), (ALL.map(str::to_owned).into(), 0));
        // With the permissions that anything has that is made here.
        for (name, like) in [(".vscode", ".git"), (".git/commondir", "empty")] {
            let mode = |name: &str| std::fs::metadata(world.tree(name)).unwrap().mode();
            assert_eq!(mode(name), mode(like), "{name}");
        }
        std::fs::remove_dir_all(world.tree("")).unwrap();
        std::fs::create_dir_all(world.tree(".git")).unwrap();
    }
}

#[test]
fn what_was_there_before_is_left() {
    let world = World::new();
    std::fs::create_dir(world.tree(".vscode")).unwrap();
    std::fs::write(world.tree(".git/commondir"), ".\n").unwrap();
    std::fs::set_permissions(world.tree(".vscode"), PermissionsExt::from_mode(0o1777)).unwrap();
    let made = world.store().make(&world.wanted()).unwrap();
    assert_eq!(made.remove().unwrap().removed, [world.tree("empty")]);
    assert_eq!(world.names(), [".git", ".vscode", "commondir"]);
    assert_eq!(std::fs::metadata(world.tree(".vscode")).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn a_tree_that_was_moved_is_cleaned_and_another_in_its_place_is_not() {
    let world = World::new();
    let made = world.store().make(&world.wanted()).unwrap();
    std::fs::rename(world.tree(""), world.0.join("moved")).unwrap();
    std::fs::create_dir_all(world.tree(".git")).unwrap();
    std::fs::create_dir(world.tree(".vscode")).unwrap();
    std::fs::set_permissions(world.tree(".vscode"), PermissionsExt::from_mode(0o1755)).unwrap();
    made.remove().unwrap();
    assert_eq!(world.names(), [".git", ".vscode"]);
    assert_eq!(std::fs::read_dir(world.0.join("moved")).unwrap().count(), 1);
}

/// The base is elsewhere, and another directory may be in its place, when others start.
#[test]
fn those_of_a_tree_that_comes_back_are_removed_then() {
    let world = World::new();
    let elsewhere = world.0.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for is_replaced in [false, true] {
        world.killed(&world.wanted());
        std::fs::rename(world.tree(""), world.0.join("away")).unwrap();
        if is_replaced {
            std::fs::create_dir_all(world.tree(".git")).unwrap();
        }
        let away = [Away { base: world.0.join("tree"), count: 4 }];
        for _ in 0..2 {
            let other = Wanted { path: elsewhere.join("x"), kind: Kind::Directory };
            world.store().make(&[other]).unwrap().remove().unwrap();
            let removed = world.store().clean().unwrap();
            assert!(removed.removed.is_empty() && removed.failed.is_empty(), "{removed:?}");
            assert_eq!(removed.away, away);
            let left = world.store().leftovers().unwrap();
            assert_eq!((left.found, left.away.as_slice()), (Vec::new(), away.as_slice()));
        }
        if is_replaced {
            assert_eq!(world.names(), [".git"]);
            std::fs::remove_dir_all(world.tree("")).unwrap();
        }
        std::fs::rename(world.0.join("away"), world.tree("")).unwrap();
        assert_eq!(world.names(), ALL);
        assert_eq!(world.store().leftovers().unwrap().found.len(), 3);
        assert_eq!(world.store().clean().unwrap().removed.len(), 3);
        assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
    }
}

#[test]
fn those_that_do_not_come_back_are_forgotten_after_a_while() {
    let world = World::new();
    let record = || {
        let all = std::fs::read_dir(world.0.join("state/remount/placeholders")).unwrap();
        let mut all = all.map(|entry| entry.unwrap().path());
        std::fs::File::open(all.find(|path| path.file_name() != Some(SPARE.as_ref())).unwrap())
    };
    for (age, records) in [(KEPT_FOR - Duration::from_secs(60), 1), (KEPT_FOR * 2, 0)] {
        world.killed(&world.wanted());
        std::fs::rename(world.tree(""), world.0.join("away")).unwrap();
        record().unwrap().set_modified(std::time::SystemTime::now() - age).unwrap();
        world.store().clean().unwrap();
        assert_eq!(world.records(), records);
        std::fs::rename(world.0.join("away"), world.tree("")).unwrap();
        world.store().clean().unwrap();
    }
    // Made one beside the other: each of them lives until all are.
    let made: Vec<_> = (0..40).map(|_| world.store().make(&world.wanted()).unwrap()).collect();
    drop(made);
    std::fs::rename(world.tree(""), world.0.join("away")).unwrap();
    world.store().clean().unwrap();
    assert_eq!(world.records(), 32);
    std::fs::rename(world.0.join("away"), world.tree("")).unwrap();
}

#[test]
fn where_there_is_no_space_the_hint_is_to_free_some() {
    for (step, errno, word) in [
        (step::MAKE, Errno::NOSPC, "missing = \"skip\""),
        (step::MAKE, Errno::DQUOT, "free some space"),
        (step::STORE, Errno::NOSPC, "free some space"),
    ] {
        let hint = failed(step, Path::new("/p"))(errno).hint().unwrap();
        assert!(hint.contains(word) && !hint.contains("create it"), "{hint}");
    }
    assert!(failed(step::MAKE, Path::new("/p"))(Errno::ROFS).hint().unwrap().contains("create it"));
}

#[test]
fn the_directories_on_the_way_are_placeholders_too() {
    let world = World::new();
    let wanted = ["a", "a/b", "a/b/c", "a/d"]
        .map(|name| Wanted { path: world.tree(name), kind: Kind::Directory });
    let made = world.store().make(&wanted).unwrap();
    let second = world.store().make(&wanted[..2]).unwrap();
    made.remove().unwrap();
    assert_eq!(std::fs::read_dir(world.tree("a")).unwrap().count(), 1);
    second.remove().unwrap();
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 0));
    // What somebody adds keeps those that it is in.
    world.killed(&wanted);
    std::fs::write(world.tree("a/file"), "").unwrap();
    let removed = world.store().clean().unwrap();
    assert_eq!((removed.removed.len(), removed.kept), (3, vec![world.tree("a")]));
    assert_eq!(std::fs::read_dir(world.tree("a")).unwrap().count(), 1);
}

/// A link that somebody puts on the way leads nowhere.
#[test]
fn links_are_not_followed() {
    let world = World::new();
    let wanted = ["a", "a/b"].map(|name| Wanted { path: world.tree(name), kind: Kind::Directory });
    let made = world.store().make(&wanted).unwrap();
    std::fs::rename(world.tree("a"), world.tree("moved")).unwrap();
    std::os::unix::fs::symlink("moved", world.tree("a")).unwrap();
    assert_eq!(made.remove().unwrap().removed, Vec::<PathBuf>::new());
    assert_eq!(std::fs::read_dir(world.tree("moved")).unwrap().count(), 1);
}

#[test]
fn a_failure_leaves_nothing() {
    let world = World::new();
    std::fs::write(world.tree("file"), "").unwrap();
    let mut wanted = world.wanted();
    wanted.push(Wanted { path: world.tree("file/x"), kind: Kind::Directory });
    // What is below a file cannot be made.
    let error = world.store().make(&wanted).unwrap_err();
    assert_eq!((error.step, error.errno), (step::MAKE, Errno::NOTDIR));
    // One that fails half-way: a name that is too long.
    let last = wanted.len() - 1;
    wanted[last].path = world.tree(&"x".repeat(256));
    let error = world.store().make(&wanted).unwrap_err();
    assert_eq!((error.step, error.errno), (step::MAKE, Errno::NAMETOOLONG));
    assert_eq!((world.names(), world.records()), (vec![".git".into(), "file".into()], 0));
}

#[test]
fn drafts_are_removed_too() {
    let world = World::new();
    let wanted = world.wanted();
    world.killed(&wanted);
    // As if it had been killed between writing and linking.
    std::fs::rename(world.tree(".git/commondir"), world.tree(".git/commondir.remount")).unwrap();
    world.store().clean().unwrap();
    assert_eq!(world.names(), [".git"]);
}

/// Names that are no records, and records that this user cannot read, stop nobody.
#[test]
fn foreign_files_in_the_store_are_left() {
    let world = World::new();
    let store = world.store();
    std::fs::create_dir(store.path.join("dir")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", store.path.join("link")).unwrap();
    store.make(&world.wanted()).unwrap().remove().unwrap();
    assert_eq!((world.names(), world.records()), (vec![".git".to_owned()], 2));
}

#[test]
fn an_empty_directory_is_kept_for_the_next_sandbox() {
    let world = World::new();
    let wanted = [Wanted { path: world.tree(".vscode"), kind: Kind::Directory }];
    world.store().make(&wanted).unwrap().remove().unwrap();
    let kept = world.spares();
    assert_eq!((kept.len(), world.names().len()), (1, 1));
    let made = world.store().make(&wanted).unwrap();
    assert_eq!(std::fs::metadata(world.tree(".vscode")).unwrap().ino(), kept[0]);
    assert_eq!(world.spares(), [0_u64; 0]);
    // Nothing that anybody uses is taken away for it.
    std::fs::write(world.tree(".vscode/mine"), "").unwrap();
    assert_eq!(made.remove().unwrap().kept, [world.tree(".vscode")]);
    assert_eq!(world.spares(), [0_u64; 0]);
    assert!(world.tree(".vscode/mine").exists());
    let mode = std::fs::metadata(world.tree(".vscode")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7700, 0o700);
}

#[test]
fn a_directory_that_inherits_its_group_is_made_in_its_place() {
    let world = World::new();
    let shared = std::fs::Permissions::from_mode(0o2755);
    std::fs::set_permissions(world.tree(""), shared).unwrap();
    let wanted = [Wanted { path: world.tree(".vscode"), kind: Kind::Directory }];
    for _ in 0..2 {
        let made = world.store().make(&wanted).unwrap();
        let mode = std::fs::metadata(world.tree(".vscode")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o3700);
        made.remove().unwrap();
        assert_eq!(world.spares(), [0_u64; 0]);
    }
}
