//! Shims: which paths of a tool are covered, and where the tool itself is then.
//!
//! A tool is covered at every path at which a search for it would find it, and stays where its
//! own directory is shown a second time, below `/run/remount/real`. What is beside that
//! directory is there too, as symlinks, since scripts look for what they need relative to
//! their own path. Where a link leads to a file of another name, the link itself is covered:
//! the file may be an interpreter, or a script of many names.

use super::layout::Layout;
use super::view::Place;
use super::{Asker, Entry, SpecError, What};
use crate::cli::Args;
use crate::host::Host;
use crate::plan::{CONTROL_DIR, ShimPlan};
use crate::profile::{Profile, ShimName};
use crate::shim::{self, rules};
use remount_broker::name::Mode;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where tools are looked for by who has no `PATH`, or another one.
const ALWAYS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is beside a directory with more names than this is not shown.
const MOST_BESIDE: usize = 512;

/// What is done about the profile's shims; nothing if it has none.
pub(super) fn resolve(
    args: &Args,
    profile: &Profile,
    host: &Host,
    environment: &mut [(OsString, OsString)],
    layout: &mut Layout<'_>,
) -> Result<ShimPlan, SpecError> {
    let mut plan = ShimPlan::default();
    if args.no_shims || profile.shims.is_empty() {
        return Ok(plan);
    }
    let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let mut covers = Covers { host, shown: BTreeSet::new(), covered: BTreeMap::new() };
    for (name, shim) in &profile.shims {
        if let Some(condition) = &shim.value.when
            && !layout.has_target(condition.target())
        {
            return Err(SpecError::ShimTarget {
                tool: name.as_str().to_owned(),
                target: condition.target().clone(),
                origin: shim.origin.to_string(),
            });
        }
        let origin = Asker::Profile(shim.origin.clone());
        let found = covers.cover_all(name, path.as_deref(), &origin, layout);
        // Writing to a string does not fail.
        rules::write(&mut plan.table, name, &shim.value).unwrap_or(());
        let own = Path::new(CONTROL_DIR).join(shim::DIRECTORY).join(name.as_str());
        let (real, called) = found.first().cloned().unwrap_or_default();
        plan.add_place(&own, name.as_str(), &real, &called);
        plan.names.push(name.as_str().to_owned());
    }
    for (path, covered) in &covers.covered {
        plan.add_place(path, covered.tool, &covered.real, &covered.called);
    }
    covers.show(&mut plan, layout);
    if let Some((_, path)) = environment.iter_mut().find(|(name, _)| name == "PATH") {
        let mut first = OsString::from(format!("{CONTROL_DIR}/{}:", shim::DIRECTORY));
        first.push(&path);
        *path = first;
    }
    Ok(plan)
}

impl ShimPlan {
    /// A path in the table. One that the table could not hold is not covered.
    fn add_place(&mut self, at: &Path, tool: &str, real: &Path, called: &Path) {
        let text = |path: &Path| path.to_str().map(str::to_owned);
        if let (Some(at), Some(real), Some(called)) = (text(at), text(real), text(called)) {
            self.table.push_str(&format!("path\t{at}\t{tool}\t{real}\t{called}\n"));
        }
    }
}

/// A path at which a tool is covered.
struct Covered<'p> {
    tool: &'p str,
    real: PathBuf,
    called: PathBuf,
}

struct Covers<'h, 'p> {
    host: &'h Host,
    /// The directories that are shown a second time.
    shown: BTreeSet<PathBuf>,
    covered: BTreeMap<PathBuf, Covered<'p>>,
}

impl<'p> Covers<'_, 'p> {
    /// Covers a tool wherever it is found; answers where it is then, and its own path, in the
    /// order of the search.
    fn cover_all(
        &mut self,
        name: &'p ShimName,
        path: Option<&OsStr>,
        origin: &Asker,
        layout: &mut Layout<'_>,
    ) -> Vec<(PathBuf, PathBuf)> {
        let dirs = path.into_iter().chain([OsStr::new(ALWAYS)]).flat_map(std::env::split_paths);
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for dir in dirs.filter(|dir| dir.is_absolute()) {
            if seen.insert(dir.clone())
                && let Some(real) = self.cover(name, &dir, origin, layout)
            {
                found.push((real, dir.join(name.as_str())));
            }
        }
        found
    }

    /// Covers the tool in one directory; answers where it is then.
    fn cover(
        &mut self,
        name: &'p ShimName,
        dir: &Path,
        origin: &Asker,
        layout: &mut Layout<'_>,
    ) -> Option<PathBuf> {
        let called = dir.join(name.as_str());
        if !is_plain(&called) {
            return None;
        }
        let (place, links) = layout.view.locate_way(&called).ok()?;
        let found = place.found().filter(|found| found.stat.is_file())?;
        self.host.files.executable(&found.path).ok()?;
        let is_named = |place: &Place| place.path.file_name() == Some(OsStr::new(name.as_str()));
        let mut places: Vec<_> = links.into_iter().filter(|link| is_named(link)).collect();
        if is_named(&place) {
            places.push(place);
        }
        places.retain(|place| self.can_cover(place, layout));
        // The last: of a file and the links to it, the file.
        let Some(last) = places.last() else { return Some(called) };
        let real = real_path(&last.path);
        for place in places {
            self.shown.extend(place.path.parent().map(Path::to_owned));
            let entry =
                Entry { dest: place.path.clone(), what: What::Shim, origin: origin.clone() };
            layout.entries.push(entry);
            let covered =
                Covered { tool: name.as_str(), real: real.clone(), called: called.clone() };
            self.covered.insert(place.path.clone(), covered);
        }
        Some(real)
    }

    /// Whether a path can be covered. Not where processes inside can put another program
    /// anyway, nor what somebody asked to be there, nor where the directory cannot be shown
    /// a second time: it holds the home directory, or something is mounted below it.
    fn can_cover(&self, place: &Place, layout: &Layout<'_>) -> bool {
        if self.covered.contains_key(&place.path) {
            return false;
        }
        let Some(dir) = place.path.parent().filter(|dir| !self.host.home.starts_with(dir)) else {
            return false;
        };
        let is_shown = layout.view.locate(dir).is_ok_and(|dir| dir.found().is_some());
        let mut below =
            layout.entries.iter().filter(|entry| entry.dest != dir && entry.dest.starts_with(dir));
        let is_known = |entry: &Entry| match entry.what {
            What::Mask(_) => entry.dest != place.path,
            _ => matches!(entry.what, What::Shim),
        };
        is_shown && is_plain(&place.path) && !place.is_writable() && below.all(is_known)
    }

    /// Shows the directories of tools a second time, with what is hidden in them hidden.
    fn show(&self, plan: &mut ShimPlan, layout: &mut Layout<'_>) {
        let is_in_another =
            |dir: &&PathBuf| dir.ancestors().skip(1).any(|above| self.shown.contains(above));
        let shown: Vec<&PathBuf> = self.shown.iter().filter(|dir| !is_in_another(dir)).collect();
        for dir in &shown {
            let Some(found) = layout.view.locate(dir).ok().and_then(|place| place.found()) else {
                continue;
            };
            let masks: Vec<Entry> = layout
                .entries
                .iter()
                .filter(|entry| entry.dest.starts_with(dir) && matches!(entry.what, What::Mask(_)))
                .map(|entry| Entry { dest: real_path(&entry.dest), ..entry.clone() })
                .collect();
            let path = found.path.clone();
            let what = What::Bind {
                source: Some(found),
                path,
                mode: Mode::Ro,
                devices: false,
                follow: false,
                target: None,
            };
            let dest = real_path(dir);
            layout.entries.push(Entry { dest, what, origin: Asker::Sandbox });
            layout.entries.extend(masks);
        }
        let mut dirs = BTreeSet::new();
        for dir in &shown {
            dirs.extend(dir.ancestors().map(Path::to_owned));
        }
        for dir in &dirs {
            plan.directories.push(real_path(dir));
            if !self.shown.contains(dir) {
                self.show_beside(dir, &dirs, plan, layout);
            }
        }
    }

    /// Symlinks to what is in a directory above.
    fn show_beside(
        &self,
        dir: &Path,
        dirs: &BTreeSet<PathBuf>,
        plan: &mut ShimPlan,
        layout: &Layout<'_>,
    ) {
        let Ok(place) = layout.view.locate(dir) else { return };
        let Some(on_host) = place.on_host() else { return };
        let before = plan.links.len();
        let read = self.host.files.names(&on_host, MOST_BESIDE, &mut |name| {
            let path = dir.join(name);
            if !dirs.contains(&path) {
                plan.links.push((real_path(&path), path));
            }
        });
        if read.is_err() {
            plan.links.truncate(before);
        }
    }
}

/// Whether the table can hold a path.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.contains(['\t', '\n']))
}

/// Where a path is shown a second time.
fn real_path(path: &Path) -> PathBuf {
    let below = path.strip_prefix("/").unwrap_or(path);
    // Joining nothing would end the path in a slash.
    let real = Path::new(CONTROL_DIR).join(shim::REAL);
    if below.as_os_str().as_bytes().is_empty() { real } else { real.join(below) }
}
