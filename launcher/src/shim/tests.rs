//! The built-in tables, row by row; and that nothing else passes.

use super::rules::{Place, Rules, Table, write};
use crate::profile::{Loader, Profile, Shim, ShimName};
use proptest::prelude::*;

fn profile() -> Profile {
    Loader { config_dirs: Vec::new(), uid: 0 }.load(&["shims".into()]).unwrap()
}

fn table(profile: &Profile) -> String {
    let mut table = String::new();
    for (name, shim) in &profile.shims {
        write(&mut table, name, &shim.value).unwrap();
        table.push_str(&format!(
            "path\t/usr/bin/{0}\t{0}\t/real/{0}\t/usr/bin/{0}\n",
            name.as_str()
        ));
    }
    table
}

fn judge(rules: &Rules<'_>, args: &[&str]) -> Result<(), String> {
    let args: Vec<&[u8]> = args.iter().map(|word| word.as_bytes()).collect();
    rules.judge(&args).map_err(|shown| String::from_utf8(shown.join(&b' ')).unwrap())
}

/// Command lines that a row allows, one for each of its alternatives.
fn examples(row: &str) -> Vec<Vec<String>> {
    let words = row.split(' ').filter(|word| *word != "$" && !word.starts_with('!'));
    let mut lines = vec![Vec::new()];
    for word in words {
        let longer = |line: &Vec<String>| {
            let alternatives = word.split('|').map(|one| one.replace('*', "x"));
            alternatives.map(|one| [&line[..], &[one]].concat()).collect::<Vec<_>>()
        };
        lines = lines.iter().flat_map(longer).collect();
    }
    lines
}

fn flags_of(row: &str) -> impl Iterator<Item = &str> {
    row.split(' ').filter_map(|word| word.strip_prefix('!'))
}

#[test]
fn each_row_of_the_tables_is_allowed_and_not_with_its_flags() {
    let profile = profile();
    let text = table(&profile);
    assert!(profile.shims.len() >= 20);
    for (name, shim) in &profile.shims {
        let (name, shim) = (name.as_str(), &shim.value);
        let rules = Table(text.as_bytes()).rules(name.as_bytes()).unwrap();
        let mut before: Vec<Vec<&str>> = vec![vec![]];
        before.extend(shim.flags.iter().map(|flag| vec![flag.as_str()]));
        before.extend(shim.flags_with_value.iter().map(|flag| vec![flag.as_str(), "delete"]));
        for row in shim.allow.iter().map(|row| row.as_str()) {
            for line in examples(row) {
                let line: Vec<&str> = line.iter().map(String::as_str).collect();
                for flags in &before {
                    let all = [&flags[..], &line[..]].concat();
                    assert_eq!(judge(&rules, &all), Ok(()), "{name} {all:?}");
                }
                let closed = row.split(' ').any(|word| word == "$");
                let longer = [&line[..], &["y"]].concat();
                let others =
                    shim.allow.iter().filter(|other| !other.as_str().contains('$')).count();
                if closed && others == 0 {
                    assert!(judge(&rules, &longer).is_err(), "{name} {longer:?}");
                }
                for flag in flags_of(row).chain(shim.deny_flags.iter().map(|flag| flag.as_str())) {
                    let all = [&line[..], &[flag]].concat();
                    assert!(judge(&rules, &all).is_err(), "{name} {all:?}");
                }
            }
        }
        for row in shim.deny.iter().map(|row| row.as_str()) {
            for line in examples(row) {
                let line: Vec<&str> = line.iter().map(String::as_str).collect();
                assert!(judge(&rules, &line).is_err(), "{name} {line:?}");
            }
        }
    }
}

/// What is blocked, and the words of it that are shown.
const BLOCKED: &[(&str, &[(&str, &str)])] = &[
    (
        "docker",
        &[
            ("", ""),
            ("run --rm -it alpine sh", "run"),
            ("exec c sh", "exec"),
            ("-H unix:///x run alpine", "run"),
            ("--context ps rm c", "rm"),
            ("--config ps ps", "--config"),
            ("--config=/tmp/x ps", "--config=/tmp/x"),
            ("-HX rm ps", "rm"),
            ("-Dx ps", "-Dx"),
            ("network rm n", "network rm"),
            ("network --x ls", "network --x"),
            ("system prune -af", "system prune"),
            ("compose up", "compose up"),
            ("compose config -o f", "compose config -o"),
            ("compose config --out f", "compose config --out"),
            ("image rm ls", "image rm"),
            ("buildx inspect --bootstrap", "buildx inspect --bootstrap"),
            ("--version ps", "--version ps"),
            ("-- run", "--"),
            ("PS", "PS"),
            ("p", "p"),
            ("psx", "psx"),
        ],
    ),
    ("podman", &[("run x", "run"), ("top c sh", "top"), ("--root /x ps", "--root")]),
    (
        "kubectl",
        &[
            ("apply -f x", "apply"),
            ("-n get delete pod p", "delete"),
            ("-nget delete pod p", "delete"),
            ("delete pod p -n get", "delete"),
            ("exec p -- sh", "exec"),
            ("rollout restart deploy/x", "rollout restart"),
            ("rollout -n ns undo status", "rollout undo"),
            ("config set-context x", "config set-context"),
            ("get pods --kubeconfig=/tmp/evil", "get --kubeconfig=/tmp/evil"),
            ("--kubeconfig /tmp/evil get pods", "--kubeconfig"),
            ("cluster-info dump --output-directory=/x", "cluster-info --output-directory=/x"),
            ("proxy", "proxy"),
        ],
    ),
    (
        "helm",
        &[
            ("install a b", "install"),
            ("template . --post-renderer x", "template"),
            ("repo add a b", "repo add"),
        ],
    ),
    (
        "systemctl",
        &[
            ("restart ssh", "restart"),
            ("--now enable ssh", "--now"),
            ("--user stop x", "stop"),
            ("-H host status", "-H"),
            ("status x --host=evil", "status --host=evil"),
            ("status x --hos=evil", "status --hos=evil"),
            ("-a x", "x"),
            ("daemon-reload", "daemon-reload"),
        ],
    ),
    (
        "journalctl",
        &[
            ("--vacuum-size=1M", "--vacuum-size=1M"),
            ("-u ssh --rotate", "--rotate"),
            ("--rot", "--rot"),
            ("-f --cursor-file=/x", "-f --cursor-file=/x"),
            ("-fM x", "-fM"),
        ],
    ),
    (
        "git",
        &[
            ("push", "push"),
            ("-C status push", "push"),
            ("-c alias.status=!sh status", "-c"),
            ("-ccore.pager=sh log", "-ccore.pager=sh"),
            ("--exec-path=/tmp status", "--exec-path=/tmp"),
            ("branch new", "branch new"),
            ("branch -C new", "branch -C"),
            ("branch -D main", "branch -D"),
            ("branch --sort=refname new", "branch --sort=refname new"),
            ("branch --format=x new", "branch --format=x new"),
            ("branch --list --no-list new", "branch --list --no-list"),
            ("branch --points-at HEAD --no-points new", "branch --points-at --no-points"),
            ("tag --sort=refname new", "tag --sort=refname new"),
            ("tag --format=x new", "tag --format=x new"),
            ("branch --list -D main", "branch --list -D"),
            ("branch --list -aD main", "branch --list -aD"),
            ("branch --list --delet main", "branch --list --delet"),
            ("tag v1", "tag v1"),
            ("tag -l --delete v1", "tag -l --delete"),
            ("stash", "stash"),
            ("stash pop", "stash pop"),
            ("remote add a b", "remote add"),
            ("config user.name x", "config user.name"),
            ("config --get a --unset", "config --get --unset"),
            ("diff --output=/x", "diff --output=/x"),
            ("diff --outp /x", "diff --outp"),
            ("log --ext-diff", "log --ext-diff"),
            ("ls-remote --upload-pack=sh x", "ls-remote --upload-pack=sh"),
            ("grep -Osh x", "grep -Osh"),
            ("archive -o x HEAD", "archive -o"),
            ("symbolic-ref HEAD refs/x", "symbolic-ref HEAD refs/x"),
            ("reflog expire --all", "reflog expire"),
            ("worktree add x", "worktree add"),
        ],
    ),
    (
        "gh",
        &[
            ("pr create", "pr create"),
            ("-R list pr merge 1", "pr merge"),
            ("pr -R o/r close 1", "pr close"),
            ("api -X POST x", "api -X"),
            ("api -XPOST x", "api -XPOST"),
            ("api x --method=DELETE", "api --method=DELETE"),
            ("api x -f a=b", "api -f"),
            ("api x --inp f", "api --inp"),
            ("pr view 1 --web", "pr view --web"),
            ("repo delete list", "repo delete"),
        ],
    ),
    (
        "terraform",
        &[
            ("apply", "apply"),
            ("-chdir=plan destroy", "destroy"),
            ("plan -out=x", "plan -out=x"),
            ("plan --out x", "plan --out"),
            ("fmt", "fmt"),
            ("fmt -check -write=true", "fmt -check -write=true"),
            ("providers lock", "providers lock"),
            ("state rm list", "state rm"),
        ],
    ),
    (
        "aws",
        &[
            ("ec2 terminate-instances --instance-ids describe-x", "ec2 terminate-instances"),
            ("--profile list-x s3 rm s3://b", "s3 rm"),
            ("s3 cp a b", "s3 cp"),
            ("s3 cp help s3://b", "s3 cp"),
            ("sts get-session-token", "sts get-session-token"),
            ("eks get-token", "eks get-token"),
            (
                "redshift get-cluster-credentials-with-iam",
                "redshift get-cluster-credentials-with-iam",
            ),
            ("ecr get-login-password", "ecr get-login-password"),
            ("configure set a b", "configure set"),
        ],
    ),
    (
        "gcloud",
        &[
            ("compute instances delete list", "compute instances delete"),
            ("compute ssh list", "compute ssh"),
            ("--project list projects delete p", "projects delete"),
            ("secrets versions access latest", "secrets versions access"),
            ("version --flags-file=x", "version --flags-file=x"),
        ],
    ),
    (
        "az",
        &[
            ("vm delete -n list", "vm delete"),
            ("group create list", "group create"),
            ("vm run-command invoke list", "vm run-command"),
            ("rest list", "rest"),
            ("config set list", "config set"),
            ("login", "login"),
        ],
    ),
    (
        "psql",
        &[
            ("", ""),
            ("-h db", ""),
            ("-c select", "-c"),
            ("-l -c drop", "-l -c"),
            ("-d x -l y", "-l y"),
            ("-f x", "-f"),
            ("mydb", "mydb"),
        ],
    ),
    ("mysql", &[("", ""), ("-e select", "-e"), ("-V -e x", "-V -e"), ("db", "db")]),
    (
        "redis-cli",
        &[
            ("", ""),
            ("set a b", "set"),
            ("-h get del a", "del"),
            ("FLUSHALL", "FLUSHALL"),
            ("config set a b", "config set"),
            ("--scan --pipe", "--scan --pipe"),
            ("--eval x", "--eval"),
            ("getdel a", "getdel"),
        ],
    ),
    (
        "npm",
        &[
            ("publish", "publish"),
            ("install x", "install"),
            ("version patch", "version patch"),
            ("audit fix", "audit fix"),
            ("--json audit fix", "audit fix"),
            ("config set a b", "config set"),
            ("run build", "run build"),
            ("--x ls", "--x"),
            ("-w ls publish", "publish"),
        ],
    ),
    (
        "pip",
        &[
            ("install x", "install"),
            ("list --log=/x", "list --log=/x"),
            ("--python sh list", "--python"),
        ],
    ),
    ("pip3", &[("uninstall x", "uninstall"), ("config set a b", "config set")]),
    (
        "apt",
        &[
            ("install x", "install"),
            ("list -o A=b", "list -o"),
            ("-c x list", "-c"),
            ("update", "update"),
        ],
    ),
    ("apt-get", &[("install x", "install"), ("-s install x", "-s"), ("source x", "source")]),
];

/// All that denoland/ronly says of its shims.
#[test]
fn what_ronly_allows_is_allowed() {
    let profile = profile();
    let table = table(&profile);
    for (tool, lines) in [
        (
            "docker",
            "ps,logs c,inspect c,stats,top c,images,info,version,events,diff c,network ls,\
             network inspect n,volume ls,volume inspect v",
        ),
        (
            "kubectl",
            "get pods,describe pod p,logs p,top pod,explain pods,version,cluster-info,api-resources,\
             api-versions,config view,config current-context,config get-contexts,auth can-i get pods,\
             auth whoami",
        ),
    ] {
        let rules = Table(table.as_bytes()).rules(tool.as_bytes()).unwrap();
        for line in lines.split(',') {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(judge(&rules, &words), Ok(()), "{tool} {line}");
        }
    }
}

#[test]
fn what_writes_is_blocked_and_named() {
    let profile = profile();
    let text = table(&profile);
    let named: Vec<&str> = BLOCKED.iter().map(|(name, _)| *name).collect();
    for name in profile.shims.keys() {
        assert!(named.contains(&name.as_str()), "no line for {name:?}");
    }
    for (name, lines) in BLOCKED {
        let rules = Table(text.as_bytes()).rules(name.as_bytes()).unwrap();
        for (line, shown) in *lines {
            let args: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
            assert_eq!(judge(&rules, &args), Err((*shown).to_owned()), "{name} {line}");
        }
    }
}

#[test]
fn what_is_known_is_skipped_only_where_it_is_known() {
    let text = "tool\tt\nflag\t-a\nvalue\t-v\nvalue\t--value\nvalue\t-chdir\nallow\tls|show\nallow\tgroup *-x $\ndeny\tls no\n";
    let text = format!(
        "{text}path\t/a\tt\t/r\t/n\ntool\tu\nanywhere\nvalue\t-v\nallow\tgroup ls $\nwhen\tw\n"
    );
    let table = Table(text.as_bytes());
    let (t, u) = (table.rules(b"t").unwrap(), table.rules(b"u").unwrap());
    for args in [
        &["ls"][..],
        &["-a", "ls"],
        &["-v", "rm", "ls"],
        &["-vrm", "ls"],
        &["-v=rm", "ls"],
        &["--value=rm", "ls"],
        &["-chdir=rm", "ls"],
        &["group", "-x"],
        &["group", "a-x"],
        &["show", "-v"],
    ] {
        let expected = if args == ["group", "-x"] { Err("group -x".to_owned()) } else { Ok(()) };
        assert_eq!(judge(&t, args), expected, "{args:?}");
    }
    for args in [
        &[][..],
        &["-v"],
        &["-v", "ls"],
        &["--value", "ls"],
        &["--valu", "x", "ls"],
        &["group", "-v", "x", "a-x"],
        &["group", "a-x", "-a"],
        &["ls", "no"],
        &["-av", "x", "ls"],
    ] {
        assert!(judge(&t, args).is_err(), "{args:?}");
    }
    assert_eq!((t.when, u.when), (None, Some("w")));
    for args in
        [&["group", "-v", "x", "ls"][..], &["group", "ls", "-v", "x"], &["-vx", "group", "ls"]]
    {
        assert_eq!(judge(&u, args), Ok(()), "{args:?}");
    }
    // After `--` nothing is a flag.
    assert!(judge(&u, &["group", "ls", "--", "-v", "x"]).is_err());
}

#[test]
fn a_place_is_found_by_its_whole_path_and_damage_allows_nothing() {
    let profile = profile();
    let text = table(&profile);
    let table = Table(text.as_bytes());
    let expected = Place { tool: b"git", real: b"/real/git", name: b"/usr/bin/git" };
    assert_eq!(table.place(b"/usr/bin/git"), Some(expected));
    for path in ["/usr/bin/gi", "/usr/bin/gitx", "git", "", "/tmp/git"] {
        assert_eq!(table.place(path.as_bytes()), None, "{path}");
    }
    assert!(table.rules(b"nothing").is_none());
    assert!(Table(b"tool\tt\nodd\tx\nallow\t*\n").rules(b"t").is_none());
    assert!(Table(b"tool\tt\nallow\t\xff\n").rules(b"t").is_none());
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6}",
        "-[a-zA-Z]{1,2}",
        "--[a-z]{1,8}",
        "--[a-z]{1,5}=[a-z]{0,3}",
        Just("--".to_owned())
    ]
}

/// A shim of the profile, and its rules as the table has them.
fn one_of<'p>(
    profile: &'p Profile,
    table: &'p str,
    which: prop::sample::Index,
) -> (&'p ShimName, &'p Shim, Rules<'p>) {
    let shims: Vec<_> = profile.shims.iter().collect();
    let (name, shim) = shims[which.index(shims.len())];
    let rules = Table(table.as_bytes()).rules(name.as_str().as_bytes()).unwrap();
    (name, &shim.value, rules)
}

proptest! {
    /// Whatever stands around them: a first word that no row begins with is never passed.
    #[test]
    fn a_subcommand_that_is_not_in_the_table_never_passes(
        which in any::<prop::sample::Index>(),
        flags in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), word()), 0..4),
        command in "[a-z]{1,4}-?q[a-z]{0,3}",
        rest in prop::collection::vec(word(), 0..5),
    ) {
        let profile = profile();
        let text = table(&profile);
        let (name, shim, rules) = one_of(&profile, &text, which);
        let first = |row: &str| row.split(' ').next().unwrap_or("").to_owned();
        // Of these any first word may be a service or a group; the second decides.
        let is_any = shim.allow.iter().any(|row| first(row.as_str()).contains('*'));
        let known = shim.allow.iter().any(|row| first(row.as_str()).split('|').any(|it| it == command));
        prop_assume!(!is_any && !known);
        let mut args: Vec<String> = Vec::new();
        for (index, with_value, value) in flags {
            let list = if with_value { &shim.flags_with_value } else { &shim.flags };
            if list.is_empty() { continue }
            args.push(list[index.index(list.len())].as_str().to_owned());
            if with_value { args.push(value) }
        }
        args.push(command);
        args.extend(rest);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        prop_assert!(judge(&rules, &args).is_err(), "{name:?} {args:?}");
    }

    /// What passes begins, flags aside, with the words of a row.
    #[test]
    fn what_passes_begins_with_a_row(
        which in any::<prop::sample::Index>(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), word()), 0..6),
    ) {
        let profile = profile();
        let text = table(&profile);
        let (name, shim, rules) = one_of(&profile, &text, which);
        let mut words: Vec<String> =
            shim.allow.iter().flat_map(|row| examples(row.as_str())).flatten().collect();
        let flags = shim.flags.iter().chain(&shim.flags_with_value).chain(&shim.deny_flags);
        words.extend(flags.map(|flag| flag.as_str().to_owned()));
        let args: Vec<String> = picks
            .into_iter()
            .map(|(index, own, other)| if own { words[index.index(words.len())].clone() } else { other })
            .collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if judge(&rules, &args).is_ok() {
            let begins = shim.allow.iter().any(|row| is_begun(row.as_str(), &args));
            prop_assert!(begins, "{name:?} {args:?}");
        }
    }

    #[test]
    fn arguments_of_any_bytes_do_no_harm(
        args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..5),
    ) {
        let profile = profile();
        let text = table(&profile);
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        for name in profile.shims.keys() {
            let rules = Table(text.as_bytes()).rules(name.as_str().as_bytes()).unwrap();
            drop(rules.judge(&args));
        }
    }
}

/// Whether the words of a row are all there, in this order: a weaker and simpler judgement.
fn is_begun(row: &str, args: &[&str]) -> bool {
    let mut args = args.iter();
    let mut words = row.split(' ').filter(|word| *word != "$" && !word.starts_with('!'));
    words.all(|word| {
        args.any(|arg| {
            word.split('|').any(|one| match one.split_once('*') {
                None => one == *arg,
                Some((first, _)) => arg.starts_with(first),
            })
        })
    })
}
