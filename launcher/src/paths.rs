//! Questions about paths that are in order: absolute, and without `.`, `..` or doubled slashes.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Whether `path` is `dir` or something below it.
///
/// As [`Path::starts_with`], which takes both paths apart to compare them: hundreds of
/// times at a start.
pub(crate) fn is_in(path: &Path, dir: &Path) -> bool {
    let (path, dir) = (path.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    path.strip_prefix(dir).is_some_and(|below| below.is_empty() || below[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_means_below_by_whole_names() {
        for (path, dir) in [
            ("/", "/"),
            ("/a", "/"),
            ("/a", "/a"),
            ("/a/b", "/a"),
            ("/ab", "/a"),
            ("/a", "/a/b"),
            ("/", "/a"),
            ("/b/a", "/a"),
        ] {
            let (path, dir) = (Path::new(path), Path::new(dir));
            assert_eq!(is_in(path, dir), path.starts_with(dir), "{path:?} {dir:?}");
        }
    }
}
