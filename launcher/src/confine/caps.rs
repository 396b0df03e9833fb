//! Capabilities: all of them away, or all but a few.

use super::ConfineError;
use rustix::io::Errno;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// What the broker needs: to change mounts (`SYS_ADMIN`), to see which files other
/// processes hold open (`SYS_PTRACE`), and to enter a mount namespace (`SYS_CHROOT`).
pub const BROKER_CAPABILITIES: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_PTRACE).union(CapabilitySet::SYS_CHROOT);

/// What it needs besides in a user namespace of its own: to raise the limit of mount
/// namespaces for the moment in which it puts a mount back.
pub const BROKER_CAPABILITIES_IN_USER_NAMESPACE: CapabilitySet = CapabilitySet::SYS_RESOURCE;

/// The bounding set of this process is empty, and so is that of every process it forks.
/// A user namespace that is made later fills the set again: make none.
#[derive(Debug, Clone, Copy)]
pub struct EmptyBoundingSet(());

/// Drops every capability from the bounding set of the calling thread, so that no
/// program it executes can gain one. What the thread has it keeps.
///
/// It takes a system call for each capability, most of the cost of all confinement:
/// once, before the process forks, is enough.
///
/// # Errors
/// [`ConfineError::Bounding`] with `EPERM` if the set is not empty and may not be
/// emptied: the caller is neither root nor in a user namespace of its own.
pub fn empty_bounding_set() -> Result<EmptyBoundingSet, ConfineError> {
    for capability in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << capability);
        match thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first that the running kernel does not know (cap_last_cap); it may know
            // more than this program was built with.
            Err(Errno::INVAL) => break,
            // Without CAP_SETPCAP; no matter if there is nothing to drop.
            Err(Errno::PERM) => match thread::capability_is_in_bounding_set(one) {
                Ok(false) => {}
                Err(Errno::INVAL) => break,
                Ok(true) => return Err(ConfineError::Bounding { capability, source: Errno::PERM }),
                Err(source) => return Err(ConfineError::Bounding { capability, source }),
            },
            Err(source) => return Err(ConfineError::Bounding { capability, source }),
        }
    }
    Ok(EmptyBoundingSet(()))
}

/// Leaves the calling thread no capability in any of the five sets.
///
/// # Errors
/// [`ConfineError::Capabilities`], as `capset(2)`.
pub fn drop_capabilities(_: EmptyBoundingSet) -> Result<(), ConfineError> {
    leave(CapabilitySet::empty())
}

/// Leaves the calling thread the capabilities `keep`, permitted and effective, and sets
/// `no_new_privs`. The bounding set stays: it matters to what a process executes, and
/// who keeps capabilities here executes nothing.
///
/// # Errors
/// [`ConfineError::Capabilities`] with `EPERM` if `keep` is more than it has;
/// [`ConfineError::NoNewPrivileges`].
pub fn reduce_capabilities(keep: CapabilitySet) -> Result<(), ConfineError> {
    leave(keep)?;
    thread::set_no_new_privs(true).map_err(ConfineError::NoNewPrivileges)
}

fn leave(keep: CapabilitySet) -> Result<(), ConfineError> {
    // The ambient set is cut to what is inheritable as well (capset, kernel/capability.c).
    let inheritable = CapabilitySet::empty();
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable };
    thread::set_capabilities(None, sets).map_err(ConfineError::Capabilities)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_thread, may_drop, privileged};
    use super::*;

    fn sets() -> (CapabilitySets, usize) {
        let bounding = (0..u64::BITS)
            .map(|n| CapabilitySet::from_bits_retain(1 << n))
            .map_while(|c| thread::capability_is_in_bounding_set(c).ok());
        let bounding = bounding.filter(|there| *there).count();
        (thread::capabilities(None).unwrap(), bounding)
    }

    #[test]
    fn nothing_is_left() {
        if !privileged("confine::caps::tests::nothing_is_left") {
            return;
        }
        in_thread(|| {
            let (before, bounding) = sets();
            assert!(before.effective.contains(CapabilitySet::SETPCAP) && bounding > 30);
            // An ambient capability, as a caller may have left it.
            let raised = CapabilitySets { inheritable: before.permitted, ..before };
            thread::set_capabilities(None, raised).unwrap();
            let chown = CapabilitySet::CHOWN;
            thread::configure_capability_in_ambient_set(chown, true).unwrap();
            drop_capabilities(empty_bounding_set().unwrap()).unwrap();
            assert!(!thread::capability_is_in_ambient_set(chown).unwrap());
            let (after, bounding) = sets();
            assert_eq!((after.effective | after.permitted | after.inheritable).bits(), 0);
            assert_eq!(bounding, 0);
            // And again, now without CAP_SETPCAP: there is nothing to drop.
            empty_bounding_set().unwrap();
        });
    }

    #[test]
    fn the_broker_keeps_what_it_needs_and_gains_nothing() {
        if !privileged("confine::caps::tests::the_broker_keeps_what_it_needs_and_gains_nothing") {
            return;
        }
        in_thread(|| {
            assert!(!thread::no_new_privs().unwrap());
            reduce_capabilities(BROKER_CAPABILITIES).unwrap();
            let (after, _) = sets();
            assert_eq!(
                (after.effective, after.permitted),
                (BROKER_CAPABILITIES, BROKER_CAPABILITIES)
            );
            assert_eq!(after.inheritable.bits(), 0);
            assert!(thread::no_new_privs().unwrap());
        });
    }

    #[test]
    fn a_bounding_set_that_must_stay_is_an_error() {
        in_thread(|| {
            if may_drop() {
                let none = CapabilitySet::empty();
                let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
                thread::set_capabilities(None, sets).unwrap();
            }
            let error = empty_bounding_set().unwrap_err();
            assert!(
                matches!(error, ConfineError::Bounding { capability: 0, source: Errno::PERM }),
                "{error:?}"
            );
        });
    }
}
