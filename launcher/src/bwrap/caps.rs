//! Capabilities, as bubblewrap leaves them to the command: none for an ordinary user,
//! what it has for root, and what `--cap-add` and `--cap-drop` say.

use super::error::{Die, OrDie, Result};
use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Names without `CAP_`, by number (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What the command is to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Requested {
    bits: u64,
    /// Whether `--cap-add` or `--cap-drop` was used.
    chosen: bool,
    /// Whether this program runs as root.
    root: bool,
}

impl Requested {
    /// Without any option: what root has, or nothing.
    pub(super) fn of_caller(root: bool) -> Result<Self> {
        let sets = thread::capabilities(None).or_die(|| "capget failed")?;
        if !root && !sets.permitted.is_empty() {
            // A program file with capabilities of its own, most likely.
            let text = "Unexpected capabilities but not setuid, old file caps config?";
            return Err(Die::new(text));
        }
        let bits = if root { sets.effective.bits() } else { 0 };
        Ok(Self { bits, chosen: false, root })
    }

    /// `--cap-add`.
    pub(super) fn add(&mut self, name: &[u8]) -> Result<()> {
        self.bits |= bits(name)?;
        self.chosen = true;
        Ok(())
    }

    /// `--cap-drop`.
    pub(super) fn drop(&mut self, name: &[u8]) -> Result<()> {
        self.bits &= !bits(name)?;
        self.chosen = true;
        Ok(())
    }

    /// Drops all others from the bounding set, which a new user namespace filled again.
    pub(super) fn bound(self) -> Result<()> {
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bits & one.bits() != 0 {
                continue;
            }
            match thread::remove_capability_from_bounding_set(one) {
                Ok(()) | Err(Errno::PERM) => {}
                // The first that this kernel does not know.
                Err(Errno::INVAL) => break,
                Err(errno) => {
                    let text = format!("Dropping capability {number} from bounds");
                    return Err(Die::errno(text, errno));
                }
            }
        }
        Ok(())
    }

    /// Gives this process what the command is to have. Root without an option keeps
    /// what it has: the call may be forbidden to it.
    pub(super) fn take(self) -> Result<()> {
        if self.root && !self.chosen {
            return Ok(());
        }
        self.set(CapabilitySet::from_bits_retain(self.bits))
    }

    /// Gives up all of them, for a process that only waits.
    pub(super) fn give_up(self) -> Result<()> {
        self.set(CapabilitySet::empty())
    }

    fn set(self, to: CapabilitySet) -> Result<()> {
        let sets = CapabilitySets { effective: to, permitted: to, inheritable: to };
        match thread::set_capabilities(None, sets) {
            Err(Errno::PERM) if self.root => Ok(()),
            result => result.or_die(|| "capset failed"),
        }
    }

    /// Makes them outlast the exec of a program without privileges.
    pub(super) fn make_ambient(self) -> Result<()> {
        let sets = thread::capabilities(None).or_die(|| "capget failed")?;
        // What is not in both the kernel refuses (capabilities(7)).
        let possible = sets.permitted & sets.inheritable;
        for number in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << number);
            if self.bits & one.bits() == 0 || !possible.contains(one) {
                continue;
            }
            match thread::configure_capability_in_ambient_set(one, true) {
                Ok(()) | Err(Errno::INVAL | Errno::PERM) => {}
                Err(errno) => {
                    return Err(Die::errno(format!("Adding ambient capability {number}"), errno));
                }
            }
        }
        Ok(())
    }
}

/// The bits of a capability's name, `CAP_SYS_ADMIN` in upper or lower case, of its
/// number, or of `ALL` (cap_from_name(3)).
fn bits(name: &[u8]) -> Result<u64> {
    if name.eq_ignore_ascii_case(b"ALL") {
        return Ok(u64::MAX);
    }
    let upper = name.to_ascii_uppercase();
    let known = upper
        .strip_prefix(b"CAP_")
        .and_then(|name| NAMES.iter().position(|known| known.as_bytes() == name));
    let number = known.or_else(|| std::str::from_utf8(name).ok()?.parse().ok());
    match number {
        Some(number) if number < 64 => Ok(1 << number),
        _ => Err(Die::new([b"unknown cap: ", name].concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        for (name, value) in
            [("CAP_CHOWN", 1), ("cap_sys_admin", 1 << 21), ("CAP_BPF", 1 << 39), ("all", u64::MAX)]
        {
            assert_eq!(bits(name.as_bytes()).unwrap(), value, "{name}");
        }
        for name in ["", "CHOWN", "CAP_", "CAP_NONE"] {
            assert!(bits(name.as_bytes()).is_err(), "{name}");
        }
    }
}
