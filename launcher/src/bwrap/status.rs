//! The documents that `--info-fd` and `--json-status-fd` get.

use super::error::{OrDie, Result};
use super::fds::{Named, write_all};
use super::request::Unshare;
use rustix::fs::{AtFlags, CWD};
use rustix::process::Pid;

/// A process and its new namespaces.
#[derive(Debug)]
pub(super) struct Started {
    pid: Pid,
    /// Names and inode numbers.
    namespaces: Vec<(&'static str, u64)>,
}

impl Started {
    /// Reads the numbers while nobody inside can hide them.
    pub(super) fn look(pid: Pid, unshare: &Unshare) -> Self {
        let wanted = [
            ("cgroup", unshare.cgroup),
            ("ipc", unshare.ipc),
            ("mnt", true),
            ("net", unshare.net),
            ("pid", unshare.pid),
            ("uts", unshare.uts),
        ];
        let namespaces = wanted
            .into_iter()
            .filter(|(_, wanted)| *wanted)
            .filter_map(|(name, _)| {
                let path = format!("/proc/{}/ns/{name}", pid.as_raw_nonzero());
                let stat = rustix::fs::statat(CWD, path, AtFlags::empty()).ok()?;
                Some((name, stat.st_ino))
            })
            .collect();
        Self { pid, namespaces }
    }

    /// One document; `separator` stands before each member but the first, `open` and
    /// `close` around all.
    fn document(&self, open: &str, separator: &str, close: &str) -> String {
        let mut text = format!("{open}\"child-pid\": {}", self.pid.as_raw_nonzero());
        for (name, inode) in &self.namespaces {
            text.push_str(&format!(",{separator}\"{name}-namespace\": {inode}"));
        }
        text + close
    }

    /// Tells those who asked.
    pub(super) fn tell(&self, info: Option<&Named>, status: Option<&Named>) -> Result<()> {
        let text = || "Write to info_fd";
        if let Some(info) = info {
            let document = self.document("{\n    ", "\n    ", "\n}\n");
            info.with(|fd| write_all(fd, document.as_bytes())).or_die(text)?;
            info.close();
        }
        if let Some(status) = status {
            let document = self.document("{ ", " ", " }\n");
            status.with(|fd| write_all(fd, document.as_bytes())).or_die(text)?;
        }
        Ok(())
    }
}

/// Tells how the command ended.
pub(super) fn tell_end(status: &Named, code: u8) {
    let document = format!("{{ \"exit-code\": {code} }}\n");
    // Whoever does not listen any more does not want to know.
    status.with(|fd| write_all(fd, document.as_bytes())).unwrap_or(());
}
