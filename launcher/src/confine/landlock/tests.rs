use super::super::testing::in_thread;
use super::*;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

const NEWEST: u32 = ABI::V9 as u32;

#[test]
fn an_abi_grants_only_what_it_handles() {
    for abi in (1..=NEWEST).map(|n| ABI::from(n as i32)) {
        let all = AccessFs::from_all(abi);
        for access in [
            Access::ReadExecute,
            Access::WriteExisting,
            Access::Device,
            Access::Full,
            Access::Socket,
        ] {
            let (dir, file) = (access.rights(abi, true), access.rights(abi, false));
            assert!(all.contains(dir) && AccessFs::from_file(abi).contains(file));
            assert!(!dir.is_empty() && !file.is_empty() && dir.contains(file));
        }
        let full = Access::Full.rights(abi, true);
        assert_eq!(full.contains(AccessFs::Refer), abi >= ABI::V2);
        assert_eq!(full.contains(AccessFs::Truncate), abi >= ABI::V3);
        assert!(full.contains(AccessFs::MakeSym) && !full.contains(AccessFs::MakeChar));
        let device = Access::Device.rights(abi, true);
        assert_eq!(device.contains(AccessFs::IoctlDev), abi >= ABI::V5);
        let socket = Access::Socket.rights(abi, false);
        assert_eq!(socket.contains(AccessFs::ResolveUnix), abi >= ABI::V9);
    }
}

#[test]
fn what_an_older_kernel_lacks_is_named() {
    assert_eq!(missing_below(1).len(), 5);
    assert_eq!(missing_below(2).len(), 4);
    assert!(missing_below(2)[0].contains("truncating"));
    assert_eq!(missing_below(7).len(), 1);
    assert!(missing_below(NEWEST).is_empty());
}

#[test]
fn an_abi_that_the_kernel_lacks_is_an_error() {
    let abi = detect().unwrap();
    assert!((1..=NEWEST).contains(&abi));
    for newer in abi + 1..=NEWEST {
        // Levels 4, 7 and 8 have nothing that a ruleset of ours would use.
        if AccessFs::from_all(ABI::from(newer as i32)) != AccessFs::from_all(ABI::from(abi as i32))
        {
            let error = in_domain(move || restrict(newer, &[])).unwrap_err();
            assert!(
                matches!(error, ConfineError::LandlockRuleset { abi, .. } if abi == newer),
                "{error:?}"
            );
        }
    }
}

fn in_domain<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(act).join().unwrap()
}

/// A directory with `full/{a,b}/`, `read/file`, `existing/file`, `single`, `other`, that
/// is removed in the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let name = format!("remount-test-landlock-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        for dir in ["full/a", "full/b", "read", "existing"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for file in ["full/a/file", "read/file", "existing/file", "single", "other"] {
            fs::write(root.join(file), "text").unwrap();
        }
        Self(root)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Restricts the calling thread to `rules`, by path.
fn restrict_to(rules: &[(&Path, Access)]) {
    let opened: Vec<_> = rules.iter().map(|&(path, access)| (path, open(path), access)).collect();
    let rules: Vec<_> = opened
        .iter()
        .map(|(path, fd, access)| Rule { path, at: fd.as_fd(), access: *access })
        .collect();
    restrict(detect().unwrap(), &rules).unwrap();
}

#[track_caller]
fn denied<T: std::fmt::Debug>(result: io::Result<T>) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES));
}

fn append(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().append(true).open(path)
}

#[test]
fn each_access_allows_what_it_says() {
    let tree = Tree::new("access");
    let root = tree.0.clone();
    in_thread(move || {
        let (full, read) = (root.join("full"), root.join("read"));
        let (existing, single) = (root.join("existing"), root.join("single"));
        // The positive half of each denial below.
        for dir in [&read, &existing] {
            fs::write(dir.join("new"), "").unwrap();
            fs::remove_file(dir.join("new")).unwrap();
        }
        append(&read.join("file")).unwrap();
        append(&root.join("other")).unwrap();
        restrict_to(&[
            (&full, Access::Full),
            (&read, Access::ReadExecute),
            (&existing, Access::WriteExisting),
            (&single, Access::Full),
        ]);

        assert_eq!(fs::read(read.join("file")).unwrap(), b"text");
        assert_eq!(fs::read_dir(&read).unwrap().count(), 1);
        denied(append(&read.join("file")));
        denied(fs::write(read.join("new"), ""));
        denied(fs::remove_file(read.join("file")));

        append(&existing.join("file")).unwrap();
        fs::write(existing.join("file"), "truncated").unwrap();
        denied(fs::write(existing.join("new"), ""));
        denied(fs::remove_file(existing.join("file")));

        fs::write(full.join("a/new"), "").unwrap();
        std::os::unix::fs::symlink("x", full.join("a/link")).unwrap();
        fs::create_dir(full.join("a/dir")).unwrap();
        fs::remove_dir(full.join("a/dir")).unwrap();
        if detect().unwrap() >= 2 {
            fs::rename(full.join("a/file"), full.join("b/file")).unwrap();
        }

        fs::write(&single, "a single file").unwrap();
        denied(fs::rename(&single, root.join("renamed")));
        denied(fs::read(root.join("other")));
        denied(append(&root.join("other")));
    });
}

#[test]
fn truncation_needs_a_write_rule() {
    if detect().unwrap() < 3 {
        return;
    }
    let tree = Tree::new("truncate");
    let root = tree.0.clone();
    in_thread(move || {
        let path = root.join("read/file");
        let truncate = move || nix::unistd::truncate(&path, 0);
        truncate().unwrap();
        restrict_to(&[(&root, Access::ReadExecute)]);
        assert_eq!(truncate().unwrap_err(), nix::errno::Errno::EACCES);
    });
}

#[test]
fn ioctl_needs_a_device_rule() {
    if detect().unwrap() < 5 {
        return;
    }
    let window_size = |rule: Access| {
        in_domain(move || {
            restrict_to(&[("/dev".as_ref(), rule)]);
            let pty = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx").unwrap();
            rustix::termios::tcgetwinsize(pty).map(|_| ())
        })
    };
    assert_eq!(window_size(Access::Device), Ok(()));
    assert_eq!(window_size(Access::WriteExisting), Err(Errno::ACCESS));
}

#[test]
fn scopes_end_at_the_domain() {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    if detect().unwrap() < 6 {
        return;
    }
    let mut outside = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&outside);
    let name = format!("remount-test-landlock-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let outcome = in_domain(move || {
        UnixStream::connect_addr(&address).unwrap();
        rustix::process::test_kill_process(pid).unwrap();
        restrict_to(&[("/".as_ref(), Access::ReadExecute)]);
        let connected = UnixStream::connect_addr(&address).map(|_| ());
        (connected.map_err(|e| e.raw_os_error()), rustix::process::test_kill_process(pid))
    });
    outside.kill().unwrap();
    outside.wait().unwrap();
    drop(listener);
    assert_eq!(outcome, (Err(Some(libc::EPERM)), Err(Errno::PERM)));
}

#[test]
fn the_path_of_a_failed_rule_is_named() {
    let error = in_domain(|| {
        // Landlock takes no rule for what is not in a filesystem.
        let (pipe, _other) = rustix::pipe::pipe().unwrap();
        let rule = Rule { path: "/inside".as_ref(), at: pipe.as_fd(), access: Access::Full };
        restrict(detect().unwrap(), &[rule]).unwrap_err()
    });
    assert!(error.to_string().starts_with("grant /inside in Landlock: "), "{error}");
}
