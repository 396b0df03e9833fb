//! The kernel's own account of this process, checked before exec.

use super::ConfineError;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::SecureComputingMode;

/// Where the kernel tells the state of this process.
const STATUS: &str = "/proc/self/status";

/// `SECCOMP_MODE_FILTER` as `Seccomp:` shows it (proc_pid_status(5)).
const SECCOMP_MODE_FILTER: u64 = 2;

/// Checks that the calling process has no capability, `no_new_privs`, and one seccomp
/// filter more than the `filters_before` that [`filters_in_force`] counted; `None`: the
/// plan has no filter, and none is looked for.
///
/// It is the last step, with the filter in force, and asks the kernel rather than the
/// steps: a step that was left out, or undone by another, shows here.
///
/// # Errors
/// [`ConfineError::NotConfined`] with the field that is wrong or missing;
/// [`ConfineError::ReadStatus`] if `/proc` is not a proc filesystem that shows this process.
pub fn verify(filters_before: Option<u64>) -> Result<(), ConfineError> {
    read(STATUS)?.confined(filters_before)
}

/// The same where the bounding set could not be emptied: without new privileges no program
/// gains what is in it.
///
/// # Errors
/// As [`verify`].
pub fn verify_but_bounding(filters_before: u64) -> Result<(), ConfineError> {
    let mut status = read(STATUS)?;
    status.0[Field::CapBnd as usize] = Some(0);
    status.confined(filters_before)
}

/// How many seccomp filters the calling process has: 0 in most places, more in a
/// container. Kernels before 5.9 do not tell; there it is 0.
///
/// # Errors
/// [`ConfineError::ReadStatus`] if there is a filter and `/proc` does not tell how many.
pub fn filters_in_force() -> Result<u64, ConfineError> {
    match rustix::thread::secure_computing_mode() {
        Ok(SecureComputingMode::Disabled) => Ok(0),
        _ => Ok(read(STATUS)?.get(Field::SeccompFilters).unwrap_or(0)),
    }
}

/// The fields that matter, in the order of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    CapInh,
    CapPrm,
    CapEff,
    CapBnd,
    CapAmb,
    NoNewPrivs,
    Seccomp,
    SeccompFilters,
}

impl Field {
    const ALL: [Self; 8] = [
        Self::CapInh,
        Self::CapPrm,
        Self::CapEff,
        Self::CapBnd,
        Self::CapAmb,
        Self::NoNewPrivs,
        Self::Seccomp,
        Self::SeccompFilters,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::CapInh => "CapInh",
            Self::CapPrm => "CapPrm",
            Self::CapEff => "CapEff",
            Self::CapBnd => "CapBnd",
            Self::CapAmb => "CapAmb",
            Self::NoNewPrivs => "NoNewPrivs",
            Self::Seccomp => "Seccomp",
            Self::SeccompFilters => "Seccomp_filters",
        }
    }

    const fn radix(self) -> u32 {
        match self {
            Self::CapInh | Self::CapPrm | Self::CapEff | Self::CapBnd | Self::CapAmb => 16,
            Self::NoNewPrivs | Self::Seccomp | Self::SeccompFilters => 10,
        }
    }
}

/// The values of the fields; `None` for one that is missing or no number.
#[derive(Debug, Default)]
struct Status([Option<u64>; Field::ALL.len()]);

impl Status {
    fn get(&self, field: Field) -> Option<u64> {
        self.0[field as usize]
    }

    fn confined(&self, filters_before: impl Into<Option<u64>>) -> Result<(), ConfineError> {
        let filters_before = filters_before.into();
        for field in Field::ALL {
            let value = self.get(field);
            let right = match field {
                Field::NoNewPrivs => value == Some(1),
                Field::Seccomp | Field::SeccompFilters if filters_before.is_none() => true,
                Field::Seccomp => value == Some(SECCOMP_MODE_FILTER),
                // Missing before Linux 5.9.
                Field::SeccompFilters => value.is_none_or(|now| Some(now) > filters_before),
                _ => value == Some(0),
            };
            if !right {
                let found = match (value, field.radix()) {
                    (None, _) => "missing".to_owned(),
                    (Some(value), 16) => format!("{value:016x}"),
                    (Some(value), _) => value.to_string(),
                };
                return Err(ConfineError::NotConfined { field: field.name(), found });
            }
        }
        Ok(())
    }

    /// Takes note of one line of the file, without its end.
    fn line(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return };
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let Some(field) = Field::ALL.into_iter().find(|f| f.name().as_bytes() == name) else {
            return;
        };
        let value = str::from_utf8(value).map(str::trim_ascii).unwrap_or_default();
        // A repeated field has no one value: an attacker-made file, not the kernel's.
        self.0[field as usize] = match self.get(field) {
            None => u64::from_str_radix(value, field.radix()).ok(),
            Some(_) => None,
        };
    }
}

fn read(path: &'static str) -> Result<Status, ConfineError> {
    read_status(path).map_err(|source| ConfineError::ReadStatus { path, source })
}

fn read_status(path: &str) -> Result<Status, Errno> {
    let file = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstatfs(&file)?.f_type != rustix::fs::PROC_SUPER_MAGIC {
        return Err(Errno::NODEV);
    }
    parse(|buffer| rustix::io::read(&file, buffer))
}

/// Reads lines from `fill` until its end or the last field. The file has no bound (it
/// lists the supplementary groups): a line longer than the buffer is passed over.
fn parse(mut fill: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Status, Errno> {
    let mut status = Status::default();
    let mut buffer = [0; 4096];
    let (mut len, mut overlong) = (0, false);
    loop {
        let count = match fill(&mut buffer[len..]) {
            Ok(0) => return Ok(status),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        };
        len += count;
        let mut start = 0;
        while let Some(length) = buffer[start..len].iter().position(|&byte| byte == b'\n') {
            if !std::mem::take(&mut overlong) {
                status.line(&buffer[start..start + length]);
            }
            start += length + 1;
        }
        if status.get(Field::SeccompFilters).is_some() {
            return Ok(status);
        }
        if start == 0 && len == buffer.len() {
            overlong = true;
            start = len;
        }
        buffer.copy_within(start..len, 0);
        len -= start;
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{in_thread, privileged};
    use super::super::{drop_capabilities, empty_bounding_set, landlock};
    use super::*;

    /// As in `verify`, of a thread: tests have many.
    fn verify_thread() -> Result<(), ConfineError> {
        let before = filters_in_force().unwrap();
        read("/proc/thread-self/status")?.confined(before)
    }

    fn wrong_field() -> &'static str {
        match verify_thread().unwrap_err() {
            ConfineError::NotConfined { field, .. } => field,
            error => panic!("{error:?}"),
        }
    }

    #[test]
    fn each_step_that_is_missing_shows() {
        if !privileged("confine::status::tests::each_step_that_is_missing_shows") {
            return;
        }
        in_thread(|| {
            assert_eq!(wrong_field(), "CapPrm");
            let bounding = empty_bounding_set().unwrap();
            assert_eq!(wrong_field(), "CapPrm");
            drop_capabilities(bounding).unwrap();
            assert_eq!(wrong_field(), "NoNewPrivs");
            let root = rustix::fs::open("/", OFlags::PATH, Mode::empty()).unwrap();
            let rule = landlock::Rule {
                path: "/".as_ref(),
                at: std::os::fd::AsFd::as_fd(&root),
                access: landlock::Access::ReadExecute,
            };
            landlock::restrict(landlock::detect().unwrap(), &[rule]).unwrap();
            // The field is 2 already where the tests run under a container's filter.
            assert!(["Seccomp", "Seccomp_filters"].contains(&wrong_field()));
            let before = filters_in_force().unwrap();
            let program = remount_broker::filter::agent_filter().compile();
            remount_broker::sys::seccomp::load(&program).unwrap();
            read("/proc/thread-self/status").unwrap().confined(before).unwrap();
        });
    }

    fn parse_bytes(mut bytes: &[u8], piece: usize) -> Status {
        let fill = |buffer: &mut [u8]| {
            let count = buffer.len().min(bytes.len()).min(piece);
            let (now, later) = bytes.split_at(count);
            buffer[..count].copy_from_slice(now);
            bytes = later;
            Ok(count)
        };
        parse(fill).unwrap()
    }

    const CONFINED: &str = "Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n\
        NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\nMems_allowed:\t1\n";

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let groups = format!("Groups:\t{}\n{CONFINED}", "4294967294 ".repeat(1000));
        for piece in [1, 7, 100, 4095, 4096, usize::MAX] {
            for text in [CONFINED, &groups] {
                parse_bytes(text.as_bytes(), piece).confined(2).unwrap();
            }
        }
    }

    #[test]
    fn anything_but_a_confined_process_is_an_error() {
        let fails = |text: &str, before| match parse_bytes(text.as_bytes(), 4096)
            .confined(before)
            .unwrap_err()
        {
            ConfineError::NotConfined { field, found } => format!("{field} {found}"),
            error => panic!("{error:?}"),
        };
        for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let line = format!("{field}:\t0000000000000000");
            let some = CONFINED.replace(&line, &format!("{field}:\t0000000000200000"));
            assert_eq!(fails(&some, 2), format!("{field} 0000000000200000"));
            assert_eq!(fails(&CONFINED.replace(&line, ""), 2), format!("{field} missing"));
            let junk = CONFINED.replace(&line, &format!("{field}:\t0 0"));
            assert_eq!(fails(&junk, 2), format!("{field} missing"));
            let twice = CONFINED.replace(&line, &format!("{line}\n{line}"));
            assert_eq!(fails(&twice, 2), format!("{field} missing"));
        }
        assert_eq!(fails(&CONFINED.replace("Privs:\t1", "Privs:\t0"), 2), "NoNewPrivs 0");
        assert_eq!(fails(&CONFINED.replace("Seccomp:\t2", "Seccomp:\t1"), 2), "Seccomp 1");
        assert_eq!(fails(CONFINED, 3), "Seccomp_filters 3");
        assert_eq!(fails("", 0), "CapInh missing");
        let no_filter = CONFINED.replace("Seccomp:\t2", "Seccomp:\t0");
        parse_bytes(no_filter.as_bytes(), 4096).confined(None).unwrap();
        let old_kernel = CONFINED.replace("Seccomp_filters:\t3\n", "");
        parse_bytes(old_kernel.as_bytes(), 4096).confined(3).unwrap();
    }

    #[test]
    fn a_file_that_is_not_of_proc_is_refused() {
        read_status(STATUS).unwrap();
        assert_eq!(read_status("/etc/passwd").unwrap_err(), Errno::NODEV);
    }
}
