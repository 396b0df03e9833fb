//! What is known of the sandbox's file tree: a node for each path that was looked at.

use super::Place;
use super::names::{NameFilter, name_hash};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Which node of a [`Tree`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NodeId(usize);

/// One name of the tree.
pub(super) struct Node {
    parent: NodeId,
    place: Rc<Place>,
    /// Where it points, if it is a symlink.
    link: Option<Rc<Path>>,
    children: Children,
}

/// What is known of the names in a directory.
#[derive(Default)]
pub(super) struct Children {
    /// Those that were looked for, by the hash of the name: comparing numbers in a row is
    /// faster than any map for the dozens that there are.
    found: Vec<(u32, NodeId)>,
    /// How many were looked for on the host, one by one.
    pub asked: u32,
    /// All of them, once many were looked for.
    pub names: Option<Box<NameFilter>>,
}

impl Node {
    /// What is at `place`, existing or not, and where it points if it is a symlink.
    pub fn new(place: Place, link: Option<PathBuf>) -> Self {
        let (place, link) = (Rc::new(place), link.map(Rc::from));
        Self { parent: Tree::ROOT, place, link, children: Children::default() }
    }
}

/// Nodes by number, the root first.
pub(super) struct Tree(Vec<Node>);

impl Tree {
    pub const ROOT: NodeId = NodeId(0);

    pub fn new(root: Place) -> Self {
        let mut nodes = Vec::with_capacity(512);
        nodes.push(Node::new(root, None));
        Self(nodes)
    }

    pub fn parent(&self, node: NodeId) -> NodeId {
        self.0[node.0].parent
    }

    pub fn place(&self, node: NodeId) -> &Rc<Place> {
        &self.0[node.0].place
    }

    pub fn link(&self, node: NodeId) -> Option<Rc<Path>> {
        self.0[node.0].link.clone()
    }

    pub fn children_mut(&mut self, node: NodeId) -> &mut Children {
        &mut self.0[node.0].children
    }

    /// The node of `name` in `dir`, if it was looked at.
    pub fn child(&self, dir: NodeId, name: &OsStr) -> Option<NodeId> {
        let hash = name_hash(name);
        let found = &self.0[dir.0].children.found;
        let alike = found.iter().filter(|(other, _)| *other == hash);
        alike.map(|(_, node)| *node).find(|node| is_named(&self.place(*node).path, name))
    }

    /// Adds `node` as `name` in `dir`.
    pub fn add(&mut self, dir: NodeId, name: &OsStr, node: Node) -> NodeId {
        let id = NodeId(self.0.len());
        self.0.push(Node { parent: dir, ..node });
        self.0[dir.0].children.found.push((name_hash(name), id));
        id
    }

    /// Puts something else at `node`; what was known below it no longer holds. Whether
    /// anything was.
    pub fn replace(&mut self, node: NodeId, place: Place) -> bool {
        let new = Node { parent: self.parent(node), ..Node::new(place, None) };
        let old = std::mem::replace(&mut self.0[node.0], new);
        !old.children.found.is_empty()
    }
}

/// Whether `name` is the last component of `path`, which has no slash at its end.
fn is_named(path: &Path, name: &OsStr) -> bool {
    let before = path.as_os_str().as_bytes().strip_suffix(name.as_bytes());
    before.is_some_and(|before| before.ends_with(b"/"))
}
