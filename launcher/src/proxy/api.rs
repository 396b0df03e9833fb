//! Which requests of Docker's API only read (docs.docker.com/reference/api/engine, and
//! docs.podman.io for what begins with `libpod`).
//!
//! A list of what is let through, not of what is refused. Left out on purpose, though they
//! are `GET`: `containers/ID/attach/ws` (a terminal), `containers/ID/archive` and `export`,
//! `images/get` (any file), `swarm` and `swarm/unlockkey` (tokens and keys), `configs` and
//! `secrets` (contents), `images/search`, `distribution` and `plugins/privileges` (they make
//! the daemon talk to a host that the request names), `libpod` health checks (they execute).

/// A segment of a path.
enum Part {
    /// This word.
    Is(&'static str),
    /// One name or id.
    Any,
    /// An image's or plugin's name, which may have slashes in it.
    Name,
}

use Part::{Any, Is, Name};

/// Docker's, and below `libpod` Podman's.
const ALLOWED_OF_BOTH: &[&[Part]] = &[
    &[Is("_ping")],
    &[Is("version")],
    &[Is("info")],
    &[Is("events")],
    &[Is("system"), Is("df")],
    &[Is("containers"), Is("json")],
    &[Is("containers"), Any, Is("json")],
    &[Is("containers"), Any, Is("logs")],
    &[Is("containers"), Any, Is("stats")],
    &[Is("containers"), Any, Is("top")],
    &[Is("containers"), Any, Is("changes")],
    &[Is("images"), Is("json")],
    &[Is("images"), Name, Is("json")],
    &[Is("images"), Name, Is("history")],
];

/// Docker's alone.
const ALLOWED: &[&[Part]] = &[
    &[Is("networks")],
    &[Is("networks"), Any],
    &[Is("volumes")],
    &[Is("volumes"), Any],
    &[Is("plugins")],
    &[Is("plugins"), Name, Is("json")],
    &[Is("nodes")],
    &[Is("nodes"), Any],
    &[Is("services")],
    &[Is("services"), Any],
    &[Is("services"), Any, Is("logs")],
    &[Is("tasks")],
    &[Is("tasks"), Any],
    &[Is("tasks"), Any, Is("logs")],
];

/// What is below `libpod` alone.
const ALLOWED_LIBPOD: &[&[Part]] = &[
    &[Is("containers"), Is("stats")],
    &[Is("containers"), Any, Is("exists")],
    &[Is("images"), Name, Is("exists")],
    &[Is("images"), Name, Is("tree")],
    &[Is("networks"), Is("json")],
    &[Is("networks"), Any, Is("json")],
    &[Is("networks"), Any, Is("exists")],
    &[Is("pods"), Is("json")],
    &[Is("pods"), Is("stats")],
    &[Is("pods"), Any, Is("json")],
    &[Is("pods"), Any, Is("exists")],
    &[Is("pods"), Any, Is("top")],
    &[Is("volumes"), Is("json")],
    &[Is("volumes"), Any, Is("json")],
    &[Is("volumes"), Any, Is("exists")],
];

/// Whether a `GET` of `path` only reads. The path is one without empty segments, `.` and
/// `..`, and nothing in it is encoded.
pub(super) fn is_allowed(path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    let rest = match segments.as_slice() {
        [version, rest @ ..] if is_version(version) => rest,
        all => all,
    };
    let (own, rest) = match rest {
        ["libpod", rest @ ..] => (ALLOWED_LIBPOD, rest),
        rest => (ALLOWED, rest),
    };
    ALLOWED_OF_BOTH.iter().chain(own).any(|allowed| fits(allowed, rest))
}

/// The path without the version of the API, as people call it.
pub(super) fn without_version(path: &str) -> &str {
    let end = path.get(1..).and_then(|rest| rest.find('/')).map(|slash| slash + 1);
    match end {
        Some(end) if is_version(&path[1..end]) => &path[end..],
        _ => path,
    }
}

/// `v1.41`; Podman has three numbers.
fn is_version(segment: &str) -> bool {
    let Some(numbers) = segment.strip_prefix('v') else { return false };
    let is_number = |part: &str| {
        (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    numbers.split('.').all(is_number) && matches!(numbers.split('.').count(), 2 | 3)
}

fn fits(allowed: &[Part], segments: &[&str]) -> bool {
    match (allowed, segments) {
        ([], []) => true,
        ([Is(word), allowed @ ..], [segment, rest @ ..]) => word == segment && fits(allowed, rest),
        ([Any, allowed @ ..], [name, rest @ ..]) => !name.is_empty() && fits(allowed, rest),
        // The end decides: the daemon's routes take as much for a name as there is.
        ([Name, Is(word)], [_, .., last]) => word == last,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_reads_is_allowed_with_and_without_a_version() {
        for path in [
            "/_ping",
            "/containers/json",
            "/containers/a1/json",
            "/containers/a1/logs",
            "/images/json",
            "/images/nginx/json",
            "/images/registry:5000/a/b@sha256:00/history",
            "/networks",
            "/networks/n",
            "/volumes/v",
            "/system/df",
            "/services/s/logs",
            "/libpod/containers/json",
            "/libpod/images/a/b/exists",
        ] {
            assert!(is_allowed(path), "{path}");
            assert!(is_allowed(&format!("/v1.41{path}")), "{path}");
            assert!(is_allowed(&format!("/v5.0.0{path}")), "{path}");
            assert!(!is_allowed(&format!("/v1.41/v1.41{path}")), "{path}");
            assert!(!is_allowed(&format!("{path}/")), "{path}");
            assert!(!is_allowed(&format!("/x{path}")), "{path}");
        }
    }

    #[test]
    fn what_opens_executes_or_tells_secrets_is_not() {
        for path in [
            "",
            "/",
            "containers/json",
            "/v1.41",
            "/v1/containers/json",
            "/v1.x/containers/json",
            "/v1.99999/containers/json",
            "/containers/a1",
            "/containers/a1/b/json",
            "/containers/a1/archive",
            "/containers/a1/export",
            "/containers/a1/attach",
            "/containers/a1/attach/ws",
            "/images/get",
            "/images/a/get",
            "/images/search",
            "/exec/e1/json",
            "/session",
            "/grpc",
            "/swarm",
            "/swarm/unlockkey",
            "/secrets",
            "/secrets/s",
            "/configs",
            "/configs/c",
            "/distribution/a/json",
            "/plugins/privileges",
            "/libpod/containers/a/healthcheck",
            "/libpod/containers/a/export",
            "/libpod/images/a/get",
            "/libpod/secrets/json",
            "/libpod/generate/a/kube",
            "/libpod/manifests/a/json",
        ] {
            assert!(!is_allowed(path), "{path}");
            assert!(!is_allowed(&format!("/v1.41{path}")), "{path}");
        }
        assert_eq!(without_version("/v1.41/containers/json"), "/containers/json");
        assert_eq!(without_version("/containers/json"), "/containers/json");
        assert_eq!(without_version("/v1.41"), "/v1.41");
    }
}
