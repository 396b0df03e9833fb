use super::*;
use crate::host::fake::FakeFiles;
use proptest::prelude::*;

fn repository(files: FakeFiles, dir: &str) -> FakeFiles {
    files
        .file(&format!("{dir}/HEAD"), "ref: x")
        .dir(&format!("{dir}/objects"))
        .dir(&format!("{dir}/refs"))
}

fn worktree(back: &str) -> FakeFiles {
    repository(FakeFiles::new(), "/m/.git")
        .file("/w/.git", "gitdir: /m/.git/worktrees/w\n")
        .file("/m/.git/worktrees/w/gitdir", back)
        .file("/m/.git/worktrees/w/commondir", "../..\n")
}

fn found(root: &str, files: &FakeFiles) -> Option<GitDir> {
    Repository::find(Path::new(root), files).dir
}

fn has(found: &GitDir, path: &str) -> bool {
    let is_it = |rule: &Rule| rule.path == Path::new(path) && rule.what != RuleKind::Open;
    found.rules.iter().any(is_it)
}

fn open(found: &GitDir) -> Vec<&Path> {
    let is_open = |rule: &&Rule| rule.what == RuleKind::Open;
    found.rules.iter().filter(is_open).map(|rule| rule.path.as_path()).collect()
}

#[test]
fn a_linked_worktree_leads_to_the_main_repository() {
    let found = found("/w", &worktree("/w/.git\n")).unwrap();
    assert_eq!(found.common, Path::new("/m/.git"));
    assert!(has(&found, "/m/.git/hooks"));
    assert!(has(&found, "/m/.git/worktrees/w/commondir"));
    assert!(has(&found, "/m/.git/worktrees/w/modules"));
}

#[test]
fn a_pointer_to_what_does_not_point_back_is_not_believed() {
    assert_eq!(found("/w", &worktree("/elsewhere/.git\n")), None);
    let forged = FakeFiles::new().file("/w/.git", "gitdir: /home/u/.ssh\n").dir("/home/u/.ssh");
    assert_eq!(found("/w", &forged), None);
    // A repository, of somebody else's.
    let files = repository(FakeFiles::new(), "/home/u/other/.git");
    let other = "/home/u/other/.git";
    assert_eq!(found("/w", &files.clone().file("/w/.git", &format!("gitdir: {other}\n"))), None);
    assert_eq!(found("/w", &files.link("/w/.git", other)), None);
}

#[test]
fn a_plain_repository_has_its_directory() {
    let files = FakeFiles::new().file("/p/.git/modules/sub/HEAD", "ref: x");
    let found = found("/p", &files).unwrap();
    assert_eq!(found.common, Path::new("/p/.git"));
    assert!(has(&found, "/p/.git/modules/sub/hooks"));
    // No other name can appear there.
    assert!(has(&found, "/p/.git/modules"));
    assert_eq!(open(&found), [Path::new("/p/.git/modules/sub")]);
}

#[test]
fn submodules_have_names_with_slashes_and_submodules() {
    let files = FakeFiles::new()
        .file("/p/.git/modules/a/b/c/HEAD", "")
        .file("/p/.git/modules/a/b/c/modules/d/HEAD", "")
        .file("/p/.git/modules/e/HEAD", "")
        .file("/p/.git/modules/e/refs/heads/modules/x", "")
        .link("/p/.git/modules/link", "/home/u/other")
        .file("/home/u/other/HEAD", "")
        .file("/p/.git/worktrees/w/modules/f/HEAD", "");
    let found = found("/p", &files).unwrap();
    let modules = Path::new("/p/.git/modules");
    let expected = [
        modules.join("a/b/c"),
        modules.join("a/b/c/modules/d"),
        modules.join("e"),
        "/p/.git/worktrees/w/modules/f".into(),
    ];
    assert_eq!(open(&found), expected);
    for dir in &expected {
        assert!(has(&found, &format!("{}/hooks", dir.display())), "{}", dir.display());
    }
    assert!(has(&found, "/p/.git/modules/a/b/c/modules"));
    assert!(has(&found, "/p/.git/modules/e/modules"));
}

#[test]
fn too_many_of_them_are_read_only_as_a_whole() {
    let mut files = FakeFiles::new();
    for n in 0..=MOST_MODULES {
        files = files.dir(&format!("/p/.git/modules/{n}"));
    }
    let found = found("/p", &files.file("/p/.git/modules/0/HEAD", "")).unwrap();
    assert!(has(&found, "/p/.git/modules") && open(&found).is_empty());
}

#[test]
fn a_submodule_is_believed_if_its_configuration_names_it() {
    let with = |config: &str| {
        repository(FakeFiles::new(), "/s/.git/modules/lib/x")
            .file("/s/lib/x/.git", "gitdir: ../../.git/modules/lib/x\n")
            .file("/s/.git/modules/lib/x/config", config)
    };
    let files = with("[core]\n\tbare = false\n\tworktree = ../../../../lib/x\n[remote \"o\"]\n");
    let found_there = found("/s/lib/x", &files).unwrap();
    assert_eq!(found_there.common, Path::new("/s/.git/modules/lib/x"));
    assert!(has(&found_there, "/s/.git/modules/lib/x/config"));
    assert!(!has(&found_there, "/s/.git/config"));
    for config in ["", "[core]\nworktree = ../../../../lib\n", "[other]\nworktree = /s/lib/x\n"] {
        assert_eq!(found("/s/lib/x", &with(config)), None, "{config:?}");
    }
    // As git writes it for a sparse checkout.
    let moved =
        with("").file("/s/.git/modules/lib/x/config.worktree", "[core]\n worktree=/s/lib/x");
    assert!(found("/s/lib/x", &moved).is_some());
}

#[test]
fn what_is_in_the_worktree_itself_is_protected_without_proof() {
    for files in [
        FakeFiles::new().link("/p/.git", "real"),
        FakeFiles::new().file("/p/.git", "gitdir: ./real\n"),
        FakeFiles::new().link("/p/.git", "file").file("/p/file", "gitdir: ./real\n"),
    ] {
        let found = found("/p", &repository(files, "/p/real")).unwrap();
        assert_eq!(found.common, Path::new("/p/real"));
        assert!(has(&found, "/p/real/hooks"));
    }
    let files = FakeFiles::new().file("/p/.git/commondir", "../real\n");
    assert!(has(&found("/p", &repository(files, "/p/real")).unwrap(), "/p/real/hooks"));
    // The worktree as its own git directory would be a target in a target.
    let files = repository(FakeFiles::new(), "/p").link("/p/.git", ".");
    let found = found("/p", &files).unwrap();
    assert_eq!(found.target(Path::new("/p")), None);
    assert!(has(&found, "/p/config") && !has(&found, "/p/.git"));
}

#[test]
fn a_git_directory_in_a_bare_one_hides_nothing() {
    let bare = || repository(FakeFiles::new(), "/p");
    // An empty one is none.
    let empty = found("/p", &bare().dir("/p/.git")).unwrap();
    assert_eq!(empty.common, Path::new("/p"));
    let both = found("/p", &repository(bare(), "/p/.git")).unwrap();
    assert_eq!(both.common, Path::new("/p/.git"));
    assert!(!has(&both, "/p/.git") && has(&both, "/p/.git/.git"));
    for found in [empty, both] {
        assert!(has(&found, "/p/config") && has(&found, "/p/hooks"));
    }
    let config = FakeFiles::new().file("/p/config", "[core]\n\trepositoryFormatVersion = 0\n");
    assert!(has(&found("/p", &config).unwrap(), "/p/hooks"));
    for other in [FakeFiles::new().file("/p/config", "x"), FakeFiles::new().file("/p/HEAD", "")] {
        assert_eq!(found("/p", &other.dir("/p/src")), None);
    }
}

#[test]
fn a_configuration_is_read_as_git_writes_it() {
    let read = |text: &str| pointer::core_worktree(text.as_bytes()).map(String::from_utf8);
    for (text, value) in [
        ("[core]\n\tworktree = ../x y\n", "../x y"),
        ("[CORE]\nWorkTree=a\n[core]\nworktree = b\n", "b"),
        ("[core]\n worktree = \" a#b\\\\c\\\"\"\r\n", " a#b\\c\""),
    ] {
        assert_eq!(read(text), Some(Ok(value.to_owned())), "{text:?}");
    }
    for text in [
        "",
        "worktree = x",
        "[core \"x\"]\nworktree = x",
        "[core]\nworktree = x # y",
        "[core]\nworktree = \"x",
    ] {
        assert_eq!(read(text), None, "{text:?}");
    }
}

proptest! {
    #[test]
    fn whatever_a_configuration_holds_is_no_harm(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        pointer::core_worktree(&text);
    }

    #[test]
    fn what_git_would_write_is_read_back(path in "[ -~]{1,40}") {
        let escaped = path.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("[core]\n\tbare = false\n\tworktree = \"{escaped}\"\n[x]\n");
        prop_assert_eq!(pointer::core_worktree(text.as_bytes()), Some(path.into_bytes()));
    }
}
