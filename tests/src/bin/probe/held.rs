//! Acts of `probe serve` that keep something open from one line to the next.

use crate::{Answer, Args, errno, usage};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// What is kept: descriptors by number, and addresses of shared mappings of one page.
#[derive(Default)]
pub(crate) struct Held {
    files: BTreeMap<RawFd, File>,
    maps: Vec<*mut c_void>,
}

const PAGE: usize = 4096;

impl Held {
    /// `None` if the act is not one of these.
    pub(crate) fn act(&mut self, name: &[u8], args: &Args) -> Option<Answer> {
        Some(match name {
            // `hold read|write|append|dir|path PATH`: keeps it open, answers the number.
            b"hold" => self.hold(args),
            // `fd-write N [TEXT]`
            b"fd-write" => self.with(args, |mut file| {
                file.write_all(args.get(1).unwrap_or("x").as_bytes()).map_err(errno)
            }),
            // Opens `/proc/self/fd/N` for writing.
            b"fd-reopen" => self.with(args, |file| {
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                OpenOptions::new().write(true).open(path).map(drop).map_err(errno)
            }),
            // `dirfd-make N NAME`: makes a file in a held directory.
            b"dirfd-make" => self.with(args, |file| {
                let flags = rustix::fs::OFlags::CREATE
                    | rustix::fs::OFlags::EXCL
                    | rustix::fs::OFlags::WRONLY;
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::openat(file, args.at(1), flags, mode)
                    .map(drop)
                    .map_err(|error| Errno::from_raw(error.raw_os_error()))
            }),
            b"fd-chdir" => self.with(args, |file| {
                rustix::process::fchdir(file).map_err(|error| Errno::from_raw(error.raw_os_error()))
            }),
            b"close" => match self.files.remove(&number(args)) {
                Some(_) => Ok(String::new()),
                None => Err(Errno::EBADF),
            },
            // `map PATH`: maps its first page shared and writable, closes the descriptor.
            b"map" => self.map(args),
            // Writes a byte through the newest mapping.
            b"map-write" => match self.maps.last() {
                Some(address) => {
                    // SAFETY: the address is of a page that `map` made writable and
                    // that stays until `unmap`, which takes it off the list.
                    unsafe { address.cast::<u8>().write_volatile(b'm') };
                    Ok(String::new())
                }
                None => Err(Errno::EINVAL),
            },
            b"unmap" => {
                for address in self.maps.drain(..) {
                    // SAFETY: from `map`, of that length, and off the list from here on.
                    unsafe { libc::munmap(address, PAGE) };
                }
                Ok(String::new())
            }
            b"cd" => std::env::set_current_dir(args.at(0)).map(|()| String::new()).map_err(errno),
            b"hello" => Ok(std::process::id().to_string()),
            _ => return None,
        })
    }

    fn hold(&mut self, args: &Args) -> Answer {
        let mut options = OpenOptions::new();
        match args.text(0) {
            "read" => options.read(true),
            "write" => options.read(true).write(true),
            "append" => options.append(true),
            "dir" => options.read(true).custom_flags(libc::O_DIRECTORY),
            "path" => options.read(true).custom_flags(libc::O_PATH),
            _ => usage("hold read|write|append|dir|path PATH"),
        };
        let file = options.open(args.at(1)).map_err(errno)?;
        let number = file.as_raw_fd();
        self.files.insert(number, file);
        Ok(number.to_string())
    }

    fn with(&self, args: &Args, then: impl FnOnce(&File) -> Result<(), Errno>) -> Answer {
        let file = self.files.get(&number(args)).ok_or(Errno::EBADF)?;
        then(file).map(|()| String::new())
    }

    fn map(&mut self, args: &Args) -> Answer {
        let file = OpenOptions::new().read(true).write(true).open(args.at(0)).map_err(errno)?;
        // A page beyond the end of the file would be SIGBUS.
        let mut byte = [0];
        if file.read_at(&mut byte, 0).map_err(errno)? == 0 {
            usage("map: the file is empty");
        }
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice, over nothing.
        let address = unsafe {
            libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, file.as_raw_fd(), 0)
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        self.maps.push(address);
        Ok(String::new())
    }
}

fn number(args: &Args) -> RawFd {
    RawFd::try_from(args.number(0)).unwrap_or_else(|_| usage("not a descriptor"))
}
