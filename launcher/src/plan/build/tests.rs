//! Plans of an ordinary user in `/home/u/p`, on a host that exists only here.

use super::*;
use crate::cli::Args;
use crate::host::fake::{FakeFiles, host};
use crate::profile::Loader;
use remount_broker::placeholder::Kind;
use std::ffi::OsString;

fn files() -> FakeFiles {
    FakeFiles::new()
        .dir("/tmp")
        .dir("/run/user/7")
        .dir("/home/u/.ssh")
        .dir("/home/u/p/.git/hooks")
        .file("/home/u/p/.git/config", "")
        .file("/home/u/p/.vscode/tasks.json", "")
        .dir("/home/u/p/a/b/c")
        .dir("/data")
        .file("/data/f", "")
}

fn plan_on(files: FakeFiles, table: &str, words: &[&str]) -> Plan {
    let mut host = host(files);
    host.mounts = MountTable::parse(table.as_bytes());
    let words = ["remount-run"].iter().chain(words).chain(&["sh"]).map(OsString::from);
    let args = Args::parse_from_os(words).unwrap();
    let loader = Loader { config_dirs: Vec::new(), uid: 7 };
    let places = [PathBuf::from("/run/user/7/remount"), "/home/u/.local/state/remount".into()];
    let spec = Spec::resolve(&args, &host, &loader, &places).unwrap();
    Plan::build(spec, &host.mounts)
}

/// Each operation as `verb dest mode target`.
fn lines(plan: &Plan) -> Vec<String> {
    let json = plan.to_json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("-").to_owned();
    let ops = json["mounts"].as_array().unwrap();
    ops.iter()
        .map(|op| [&op["op"], &op["dest"], &op["mode"], &op["target"]].map(text).join(" "))
        .collect()
}

#[test]
fn the_default_profile_gives_this_plan() {
    assert_eq!(
        lines(&plan_on(files(), "", &[])),
        [
            "bind / ro -",
            "tmpfs /run rw -",
            "control /run/remount ro -",
            "dev /dev rw -",
            "mask /home/u/.local/state/remount ro -",
            "mask /home/u/.ssh ro -",
            "proc /proc ro -",
            "self-bind /proc/sys ro -",
            "self-bind /proc/sysrq-trigger ro -",
            "tmpfs /run/user/7 rw -",
            "tmpfs /tmp rw -",
            "bind /home/u/p rw workspace",
            "self-bind /home/u/p/.agents ro -",
            "self-bind /home/u/p/.amp ro -",
            "self-bind /home/u/p/.claude ro -",
            "self-bind /home/u/p/.codex ro -",
            "self-bind /home/u/p/.cursor ro -",
            "self-bind /home/u/p/.devcontainer ro -",
            "self-bind /home/u/p/.envrc ro -",
            "self-bind /home/u/p/.gemini ro -",
            "bind /home/u/p/.git rw git",
            "self-bind /home/u/p/.git/.git ro -",
            "self-bind /home/u/p/.git/branches ro -",
            "self-bind /home/u/p/.git/commondir ro -",
            "self-bind /home/u/p/.git/config ro -",
            "self-bind /home/u/p/.git/config.worktree ro -",
            "self-bind /home/u/p/.git/hooks ro -",
            "self-bind /home/u/p/.git/info rw git",
            "self-bind /home/u/p/.git/info/attributes ro -",
            "self-bind /home/u/p/.git/lazygit.yml ro -",
            "self-bind /home/u/p/.git/modules ro -",
            "self-bind /home/u/p/.git/remotes ro -",
            "self-bind /home/u/p/.git/worktrees rw git",
            "self-bind /home/u/p/.github rw workspace",
            "self-bind /home/u/p/.github/agents ro -",
            "self-bind /home/u/p/.github/copilot ro -",
            "self-bind /home/u/p/.github/extensions ro -",
            "self-bind /home/u/p/.github/hooks ro -",
            "self-bind /home/u/p/.github/lsp.json ro -",
            "self-bind /home/u/p/.github/mcp.json ro -",
            "self-bind /home/u/p/.github/skills ro -",
            "self-bind /home/u/p/.husky ro -",
            "self-bind /home/u/p/.idea ro -",
            "self-bind /home/u/p/.mcp.json ro -",
            "self-bind /home/u/p/.opencode ro -",
            "self-bind /home/u/p/.qwen ro -",
            "self-bind /home/u/p/.vscode ro -",
            "self-bind /home/u/p/.zed ro -",
        ]
    );
}

/// What is absent and protected, with what stands in for it, and the directories on the way.
#[test]
fn what_is_missing_gets_placeholders() {
    let plan = plan_on(files(), "", &[]);
    let kind = |path: &str| {
        plan.placeholders.iter().find(|it| it.path == Path::new(path)).map(|it| it.kind.clone())
    };
    for (path, expected) in [
        ("/home/u/p/.zed", Some(Kind::Directory)),
        ("/home/u/p/.mcp.json", Some(Kind::Directory)),
        ("/home/u/p/.github", Some(Kind::Directory)),
        ("/home/u/p/.github/hooks", Some(Kind::Directory)),
        ("/home/u/p/.git/commondir", Some(Kind::File(b".\n".to_vec()))),
        ("/home/u/p/.git/.git", Some(Kind::Directory)),
        ("/home/u/p/.git/config.worktree", Some(Kind::File(Vec::new()))),
        ("/home/u/p/.vscode", None),
        ("/home/u/p/.git/config", None),
        ("/home/u/p/opencode.json", None),
    ] {
        assert_eq!(kind(path), expected, "{path}");
    }
    let place = |path: &str| plan.placeholders.iter().position(|it| it.path == Path::new(path));
    assert!(place("/home/u/p/.github") < place("/home/u/p/.github/hooks"));
}

#[test]
fn equal_wishes_in_any_order_give_equal_plans() {
    let one = plan_on(files(), "", &["--ro-bind", "/data", "/home/u/p/a", "--mask", "/data/f"]);
    let other = plan_on(files(), "", &["--mask", "/data/f", "--ro-bind", "/data", "/home/u/p/a"]);
    assert_eq!(format!("{:?}", one.mounts), format!("{:?}", other.mounts));
}

#[test]
fn every_directory_on_the_way_to_a_protected_one_is_pinned() {
    let plan = plan_on(files(), "", &["--protect", "/home/u/p/a/b/c"]);
    let lines = lines(&plan);
    for pinned in ["/home/u/p/a", "/home/u/p/a/b"] {
        assert!(lines.contains(&format!("self-bind {pinned} rw workspace")), "{lines:#?}");
    }
    assert!(lines.contains(&"self-bind /home/u/p/a/b/c ro -".to_owned()));
}

#[test]
fn a_host_mount_below_a_target_is_its_member_unless_it_is_read_only_or_owned() {
    let table = "\
1 0 8:1 / / rw - ext4 x rw
2 1 0:9 / /home/u/p/a/b rw - tmpfs x rw
3 1 0:9 / /home/u/p/a/ro ro - tmpfs x rw
4 1 0:9 / /home/u/p/.git/objects rw - tmpfs x rw
";
    let plan = plan_on(files(), table, &["--protect", "/home/u/p/a/b/c"]);
    let of = |dest: &str| {
        let op = plan.mounts.ops.iter().find(|op| op.dest == Path::new(dest)).unwrap();
        op.submounts().to_vec()
    };
    assert!(of("/home/u/p").is_empty());
    assert!(of("/home/u/p/a").is_empty(), "the pin at the mount itself owns it");
    assert_eq!(of("/home/u/p/.git"), [Path::new("/home/u/p/.git/objects")]);
}

#[test]
fn landlock_grants_what_the_mounts_do() {
    let plan = plan_on(files(), "", &["--toggle", "data", "/data"]);
    let rules = plan.landlock.unwrap().rules;
    let access = |path: &str| {
        rules.iter().find(|(dest, _)| dest == Path::new(path)).map(|(_, access)| *access)
    };
    assert_eq!(access("/"), Some(Access::ReadExecute));
    assert_eq!(access("/home/u/p"), Some(Access::Full));
    // Read-only at the start, but a target: rules cannot be widened later.
    assert_eq!(access("/data"), Some(Access::Full));
    assert_eq!(access("/home/u/.ssh"), None);
    assert_eq!(access("/dev"), Some(Access::Device));
    // Semaphores and shared memory are files there (shm_open(3)).
    assert_eq!(access("/dev/shm"), Some(Access::Full));
}

#[test]
fn a_target_that_the_host_has_read_only_is_refused() {
    let resolve = |table: &str| {
        let mut host = host(files());
        host.mounts = MountTable::parse(table.as_bytes());
        let args = Args::parse_from_os(["remount-run", "sh"].map(OsString::from)).unwrap();
        let loader = Loader { config_dirs: Vec::new(), uid: 7 };
        Spec::resolve(&args, &host, &loader, &[]).map(drop)
    };
    let root = "27 1 254:0 / / rw - ext4 /dev/vda rw\n";
    let project = format!("{root}28 27 254:1 / /home/u/p ro - ext4 /dev/vdb rw\n");
    let inner = format!("{project}29 28 254:2 / /home/u/p/a rw - ext4 /dev/vdc rw\n");
    assert!(resolve(root).is_ok());
    let error = resolve(&project).unwrap_err().to_string();
    assert!(error.ends_with("make /home/u/p the target workspace: it is read-only on the host"));
    // The git directory is a target too, and read-only all the same.
    let error = resolve(&inner).unwrap_err().to_string();
    assert!(error.contains("the target git:"), "{error}");
}

#[test]
fn a_profile_with_hooks_hands_its_table_over_and_others_cost_nothing() {
    let hooks = |words: &[&str]| {
        let plan = plan_on(files(), "", words);
        let hooks = plan.mounts.ops.iter().find_map(|op| match &op.kind {
            OpKind::Control { hooks, .. } => Some(hooks.clone()),
            _ => None,
        });
        hooks.unwrap()
    };
    assert_eq!(hooks(&[]), "");
    let claude = hooks(&["--profile", "claude"]);
    assert!(claude.contains("claude plan ro\n") && claude.contains("claude default rw\n"));
    assert!(claude.contains("generic plan ro\n"), "{claude}");
}

#[test]
fn a_profiles_arguments_come_first_for_the_command_they_are_for() {
    let arguments = |words: &[&str]| {
        let files = files().dir("/home/u/.codex").file("/bin/codex", "");
        let mut host = host(files);
        host.mounts = MountTable::parse(b"");
        let words = ["remount-run", "--profile", "codex"].iter().chain(words).map(OsString::from);
        let args = Args::parse_from_os(words).unwrap();
        let loader = Loader { config_dirs: Vec::new(), uid: 7 };
        Plan::build(Spec::resolve(&args, &host, &loader, &[]).unwrap(), &host.mounts).exec.arguments
    };
    let own = ["-c", "sandbox_mode=danger-full-access"];
    assert_eq!(arguments(&["codex", "exec"])[1..3], own);
    assert_eq!(arguments(&["codex", "exec"])[3..], ["exec"]);
    assert_eq!(arguments(&["/bin/codex"])[1..], own);
    assert_eq!(arguments(&["sh", "-c", "true"]), ["sh", "-c", "true"]);
}

#[test]
fn where_sandboxes_are_controlled_from_is_hidden_everywhere() {
    let files = || files().dir("/run/user/7/remount").dir("/home/u/.local/state/remount/log");
    let plain = lines(&plan_on(files(), "", &[]));
    assert!(plain.contains(&"mask /home/u/.local/state/remount ro -".to_owned()), "{plain:#?}");
    assert!(!plain.iter().any(|line| line.contains("/run/user/7/remount")), "{plain:#?}");
    for (option, source, mask) in [
        ("--ro-bind", "/run/user", "/data/7/remount"),
        ("--bind", "/home/u/.local", "/data/state/remount"),
        ("--bind", "/home/u/.local", "/home/u/.local/state/remount"),
    ] {
        let bound = lines(&plan_on(files(), "", &[option, source, "/data"]));
        assert!(bound.contains(&format!("mask {mask} ro -")), "{mask}: {bound:#?}");
    }
}

#[test]
fn nothing_in_there_can_be_bound() {
    let files = files().dir("/run/user/7/remount").dir("/home/u/.local/state/remount/log");
    let mut host = host(files);
    host.mounts = MountTable::parse(b"");
    for source in ["/run/user/7/remount", "/home/u/.local/state/remount/log"] {
        let words = ["remount-run", "--ro-bind", source, "/data", "sh"].map(OsString::from);
        let args = Args::parse_from_os(words).unwrap();
        let loader = Loader { config_dirs: Vec::new(), uid: 7 };
        let places = ["/run/user/7/remount".into(), "/home/u/.local/state/remount".into()];
        let error = Spec::resolve(&args, &host, &loader, &places).unwrap_err();
        assert!(error.to_string().contains("controlled from there"), "{error}");
    }
}
