//! What people and agents do all day works inside the default profile, in a real
//! repository and a fresh home.

use remount_tests::{Cmd, PATH, Sandbox, require, toolchain};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A shell script inside that stops at the first failure. Answers what it printed.
#[track_caller]
fn works(run: Cmd, script: &str) -> String {
    let outcome = run.command(["sh", "-ec", script]).timeout(Duration::from_secs(100)).run();
    outcome.success().stdout()
}

#[test]
fn git_in_the_project() {
    let sandbox = Sandbox::git();
    let script = "
        echo two >>README && git diff --stat && git commit -qam second
        echo three >new && git add new && git commit -qm third
        echo change >>README && git stash -q && git stash pop -q && git checkout -q README
        git checkout -qb topic HEAD~1 && echo topic >topic && git add . && git commit -qm topic
        git rebase -q main && git checkout -q main && git merge -q --ff-only topic
        git tag v1 && git worktree add -q -b side side && cd side
        echo side >side && git add side && git commit -qm side && cd ..
        git worktree list | wc -l && git worktree remove side && git branch -D side
        git gc -q && git fsck && git log --format=%s";
    let printed = works(sandbox.remount(), script);
    assert!(printed.contains("\n2\n"), "{printed}");
    assert!(printed.ends_with("topic\nthird\nsecond\nfirst\n"), "{printed}");
    // The same history is seen outside, and nothing is out of order there.
    let outside = sandbox.host(require("git")).command(["status", "--porcelain"]).run();
    assert_eq!(outside.success().stdout(), "");
}

#[test]
fn git_clone_of_a_local_repository() {
    let sandbox = Sandbox::git();
    let origin = sandbox.outside().join("origin");
    let git = || sandbox.host(require("git"));
    git().command(["clone", "-q", "--bare", "."]).arg(&origin).run().success();
    let script = "
        git clone -q \"$ORIGIN\" clone && cd clone && echo edit >>README
        git commit -qam edit && git fetch -q && git log --format=%s origin/main..
        git worktree add -q ../beside && git -C ../beside log -1 --format=%s";
    let printed = works(sandbox.remount().env("ORIGIN", &origin), script);
    assert_eq!(printed, "edit\nedit\n");
}

#[test]
fn git_in_a_linked_worktree() {
    let sandbox = Sandbox::git();
    let linked = sandbox.outside().join("linked");
    let git = || sandbox.host(require("git"));
    git().command(["worktree", "add", "-q", "-b", "side"]).arg(&linked).run().success();
    let script = "echo x >x && git add x && git commit -qm side && git log --format=%s";
    assert_eq!(works(sandbox.remount().cwd(&linked), script), "side\nfirst\n");
    let log = git().command(["log", "-1", "--format=%s", "side"]).run();
    assert_eq!(log.success().stdout(), "side\n");
}

/// A toolchain first in `PATH`.
fn with_rust(run: Cmd) -> Cmd {
    run.env("PATH", format!("{}:{PATH}", toolchain().join("bin").display()))
}

#[test]
fn heavy_cargo_builds_and_tests_offline() {
    let sandbox = Sandbox::git();
    sandbox.file(
        "project/Cargo.toml",
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [dependencies]\nitoa = \"=1.0.18\"\n",
    );
    sandbox.file(
        "project/src/main.rs",
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(42)); }\n\
         #[test] fn adds() { assert_eq!(1 + 1, 2); }\n",
    );
    // What a developer has: the dependency in ~/.cargo.
    let fetch = with_rust(sandbox.host(toolchain().join("bin/cargo")));
    fetch.command(["fetch", "-q"]).timeout(Duration::from_secs(100)).run().success();
    let fetched = remount_tests::Snapshot::of(sandbox.home());
    let printed = works(
        with_rust(sandbox.remount()).option("--unshare-net"),
        "cargo build -q --offline && cargo test --offline && cargo run -q --offline",
    );
    assert!(printed.contains("test adds ... ok") && printed.ends_with("42\n"), "{printed}");
    assert!(sandbox.project().join("target/debug/small").is_file());
    fetched.unchanged(sandbox.home());
}

#[test]
fn npm_and_node() {
    let sandbox = Sandbox::git();
    let package = "{\"name\": \"lib\", \"version\": \"1.0.0\", \"main\": \"index.js\"}";
    sandbox.file("project/lib/package.json", package);
    sandbox.file("project/lib/index.js", "module.exports = 'from lib';\n");
    let package = "{\"name\": \"app\", \"version\": \"1.0.0\", \"scripts\": \
                   {\"hello\": \"node -e \\\"console.log(require('lib'))\\\"\"}}";
    sandbox.file("project/package.json", package);
    let script = "
        npm pack --silent ./lib
        npm install --silent --no-audit --no-fund ./lib-1.0.0.tgz
        node -e \"console.log(require('lib'))\"
        npm run --silent hello
        npm install --silent --no-audit --no-fund ./lib && npm ls lib";
    let printed = works(sandbox.remount(), script);
    assert!(printed.starts_with("lib-1.0.0.tgz\n"), "{printed}");
    assert_eq!(printed.matches("from lib").count(), 2, "{printed}");
    assert!(printed.contains("lib@1.0.0 -> ./lib"), "{printed}");
    let home: Vec<_> = std::fs::read_dir(sandbox.home()).unwrap().flatten().collect();
    assert_eq!(home.len(), 1, "more than .gitconfig: {home:?}");
}

/// A Python package with a build backend of its own: no other has to be fetched.
fn python_package(sandbox: &Sandbox) {
    sandbox.file(
        "project/pkg/pyproject.toml",
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\
         [project]\nname = \"pkg\"\nversion = \"1.0\"\n",
    );
    sandbox.file(
        "project/pkg/backend.py",
        r#"
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "pkg-1.0-py3-none-any.whl"
    info = "pkg-1.0.dist-info/"
    files = {
        "pkg.py": "def answer():\n    return 42\n",
        info + "METADATA": "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n",
        info + "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, info + "RECORD"])
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(info + "RECORD", record)
    return name
"#,
    );
    let test = "import pkg\n\ndef test_answer():\n    assert pkg.answer() == 42\n";
    sandbox.file("project/test_pkg.py", test);
}

#[test]
fn python_venv_pip_and_pytest() {
    let sandbox = Sandbox::git();
    python_package(&sandbox);
    let script = "
        /usr/bin/python3 -m venv --system-site-packages venv
        venv/bin/pip install -q --no-index --disable-pip-version-check ./pkg
        venv/bin/python -m pytest -q test_pkg.py";
    let printed = works(sandbox.remount(), script);
    assert!(printed.contains("1 passed"), "{printed}");
}

#[test]
fn go_builds_if_it_is_there() {
    let go = PATH.split(':').map(|dir| Path::new(dir).join("go")).find(|path| path.is_file());
    let Some(go) = go else { return };
    let sandbox = Sandbox::git();
    sandbox.file("project/go.mod", "module small\n\ngo 1.19\n");
    sandbox.file("project/main.go", "package main\n\nfunc main() { println(\"built\") }\n");
    works(sandbox.remount().env("GO", go), "$GO build -o small . && ./small && $GO vet .");
}

/// A C program of several files.
fn c_project(sandbox: &Sandbox) -> PathBuf {
    let parts = ["one", "two", "three", "four"];
    for part in parts {
        sandbox.file(format!("project/{part}.c"), format!("int {part}(void) {{ return 1; }}\n"));
    }
    let declared = parts.map(|part| format!("int {part}(void);")).concat();
    let main =
        format!("{declared} int main(void) {{ return one() + two() - three() - four(); }}\n");
    sandbox.file("project/main.c", main);
    sandbox.file(
        "project/Makefile",
        "all: main\n\nmain: main.o one.o two.o three.o four.o\n\tgcc -o $@ $^\n\n\
         %.o: %.c\n\tgcc -g -c -o $@ $<\n",
    )
}

#[test]
fn make_with_two_jobs() {
    let sandbox = Sandbox::git();
    c_project(&sandbox);
    works(sandbox.remount(), "make -j2 && ./main && touch one.c && make -j2 | grep -q one.o");
}

#[test]
fn strace_and_gdb() {
    let sandbox = Sandbox::git();
    for tool in ["strace", "gdb", "gcc"] {
        require(tool);
    }
    let trace = "strace -f -e trace=execve sh -c 'true; /bin/true' 2>&1";
    let traced = works(sandbox.remount(), trace);
    assert!(traced.contains("execve(\"/bin/true\"") && traced.contains("+++ exited"), "{traced}");
    c_project(&sandbox);
    let debug = "make -s && gdb -batch -nx -ex 'break one' -ex run -ex bt -ex continue ./main 2>&1";
    let debugged = works(sandbox.remount(), debug);
    assert!(debugged.contains("in main () at main.c"), "{debugged}");
    assert!(debugged.contains("exited normally"), "{debugged}");
    // The same attached to what runs already.
    let attach = "sleep 30 & gdb -batch -nx -p $! -ex 'info inferiors' 2>&1; kill $!";
    let attached = works(sandbox.remount(), attach);
    assert!(attached.contains("process "), "{attached}");
}

#[test]
fn small_tools() {
    let sandbox = Sandbox::git();
    let printed = works(
        sandbox.remount().env("TZ", "Asia/Tokyo"),
        "test -w $(mktemp) && test -d $(mktemp -d)
         flock .lock flock -n .lock true && exit 9 || flock .lock echo locked
         ps -e -o pid= -o comm= | grep -q 'ps$' && ps aux >/dev/null && echo processes
         test -n \"$(cat /etc/resolv.conf)\" && cat /etc/hosts >/dev/null && echo names
         date -d @0 +%H && printf 'ä' | wc -m
         id -u >/dev/null && df . >/dev/null && stat -f . >/dev/null && nproc >/dev/null
         mkfifo f && (echo through >f &) && cat f
         echo shared >/dev/shm/x && cat /dev/shm/x && rm /dev/shm/x
         tar cf - README | tar xf - -C $(mktemp -d) && cp -a README copy && mv copy ../project/moved
         ln README hard && ln -s README soft && rm hard soft moved .lock f
         sleep 0.01 & wait && nice -n 5 true && timeout 5 true && nohup true >/dev/null
         python3 -c 'import multiprocessing as m; print(m.Pool(2).map(abs, [-1, -2]))'",
    );
    let lines: Vec<&str> = printed.lines().collect();
    let expected = ["locked", "processes", "names", "09", "1", "through", "shared", "[1, 2]"];
    assert_eq!(lines, expected);
    let status = sandbox.host(require("git")).command(["status", "--porcelain"]).run();
    assert_eq!(status.success().stdout(), "");
}

#[test]
fn vim_less_and_tmux_on_a_terminal() {
    let sandbox = Sandbox::git();
    let mut vim = sandbox.remount().command(["vim.tiny", "-u", "NONE", "new"]).pty(80, 24);
    vim.expect("new");
    vim.send("itext\x1b:wq\r");
    let (status, shown) = vim.wait();
    assert!(status.success(), "{shown}");
    assert_eq!(std::fs::read(sandbox.project().join("new")).unwrap(), b"text\n");

    let mut less = sandbox.remount().command(["less", "README"]).pty(80, 24);
    less.expect("a project");
    less.send("q");
    let (status, shown) = less.wait();
    assert!(status.success(), "{shown}");

    let mut tmux = sandbox.remount().command(["tmux", "new-session", "sh"]).pty(80, 24);
    tmux.expect("[0]");
    tmux.send("echo in$((40 + 2))tmux\r");
    tmux.expect("in42tmux");
    tmux.send("exit\r");
    tmux.expect("[exited]");
    let (status, shown) = tmux.wait();
    assert!(status.success(), "{shown}");
}
