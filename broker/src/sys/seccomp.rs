//! Loading a seccomp filter.

use super::mount::last_errno;
use rustix::io::{Errno, Result};

/// One instruction of a classic BPF program.
pub type Instruction = libc::sock_filter;

/// Whether this kernel can filter system calls, as [`load`] does.
///
/// # Errors
/// As `seccomp(2)`: `ENOSYS` on a kernel without seccomp, `EINVAL` on one without filters.
pub fn available() -> Result<()> {
    let action = libc::SECCOMP_RET_ERRNO;
    // SAFETY: the kernel reads four bytes at the pointer, which `action` has.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Filters every system call of the calling thread, and of all it starts, through
/// `program`. Needs `no_new_privs`.
///
/// # Errors
/// As `seccomp(2)`: `EINVAL` for a program the kernel does not accept, `EACCES`
/// without `no_new_privs`, `ENOSYS` on a kernel without seccomp filters.
pub fn load(program: &[Instruction]) -> Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let prog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    // SAFETY: `prog` and the instructions it points to (`len` of them, from the
    // slice's own length) outlive the call, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog)
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

#[cfg(test)]
mod tests;
