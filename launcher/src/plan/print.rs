//! A plan as text for a person and as JSON for a program.

use super::{LandlockPlan, MountOp, MountPlan, OpKind, Plan, Shape};
use crate::confine::landlock::Access;
use remount_broker::escape::Escaped;
use remount_broker::name::Mode;
use remount_broker::placeholder::{Kind, Wanted};
use remount_broker::proto::{Grant, Verdict};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "profiles: {}", self.profiles.join(", "))?;
        let command: Vec<String> =
            self.exec.arguments.iter().map(|word| quoted(&Escaped::os(word).to_string())).collect();
        writeln!(f, "command: {}", command.join(" "))?;
        writeln!(f, "executes: {}", path(&self.exec.program))?;
        writeln!(f, "in: {}", path(&self.exec.cwd))?;
        writeln!(f, "namespaces: {}", self.namespaces.names().join(", "))?;
        for dir in &self.host_directories {
            writeln!(f, "create on the host: {}", path(dir))?;
        }
        for wanted in &self.placeholders {
            let kind = kind_word(wanted);
            writeln!(f, "placeholder on the host, {kind}: {}", path(&wanted.path))?;
        }
        writeln!(f, "\nmounts, in order:")?;
        for op in &self.mounts.ops {
            writeln!(f, "  {:<10} {:<3} {}", op.verb(), op.mode_word(), self.line(op))?;
        }
        writeln!(f, "\ntargets:")?;
        for target in &self.mounts.targets {
            let (name, mode) = (target.name.as_str(), target.mode.to_string());
            let authority = target.authority;
            writeln!(f, "  {name:<10} {mode:<3} {} (rw: {authority})", path(&target.dest))?;
        }
        match &self.landlock {
            None => writeln!(f, "\nlandlock: not available")?,
            Some(landlock) => {
                writeln!(f, "\nlandlock, ABI {}:", landlock.abi)?;
                for (dest, access) in &landlock.rules {
                    writeln!(f, "  {:<13} {}", format!("{access:?}"), path(dest))?;
                }
            }
        }
        match &self.filter {
            None => writeln!(f, "\nseccomp: not available")?,
            Some(filter) => writeln!(f, "\nseccomp: {} instructions", filter.len())?,
        }
        if let Some(file) = &self.audit {
            writeln!(f, "audit: {}", path(file))?;
        }
        writeln!(f, "capabilities: none, no_new_privs")?;
        writeln!(f, "\nenvironment:")?;
        for (name, value) in &self.exec.environment {
            writeln!(f, "  {}={}", Escaped::os(name), Escaped::os(value))?;
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// What decides about a path inside, as the sandbox was planned.
    pub fn verdict(&self, of: &Path) -> Option<Verdict> {
        let landlock = self.landlock.as_ref().map(|plan| plan.grant(of));
        Some(Verdict { landlock, ..self.mounts.verdict(of)? })
    }
}

impl LandlockPlan {
    /// Rules add up: one that grants writing decides, else the nearest.
    fn grant(&self, path: &Path) -> Grant {
        let on = self.rules.iter().filter(|(beneath, _)| path.starts_with(beneath));
        let writes =
            |access: Access| !matches!(access, Access::ReadExecute | Access::List | Access::Socket);
        let best = on.max_by_key(|(beneath, access)| (writes(*access), beneath.as_os_str().len()));
        best.map_or(Grant { beneath: String::new(), write: false }, |(beneath, access)| Grant {
            beneath: Escaped::path(beneath).to_string(),
            write: writes(*access),
        })
    }
}

impl MountPlan {
    fn verdict(&self, of: &Path) -> Option<Verdict> {
        let on = |op: &&MountOp| of.starts_with(&op.dest);
        let op = self.ops.iter().filter(on).max_by_key(|op| op.dest.components().count())?;
        let mode = if op.kind.is_writable() { Mode::Rw } else { Mode::Ro };
        let target = op.member_of.and_then(|index| self.targets.get(index));
        Some(Verdict {
            mount: path(&op.dest),
            kind: op.verb().to_owned(),
            rule: op.origin.to_string(),
            mode: (!matches!(op.kind, OpKind::Mask(_))).then_some(mode),
            target: target.map(|target| target.name.clone()),
            landlock: None,
            lost: None,
            is_file: op.dest == of && op.is_file(),
        })
    }
}

impl Plan {
    /// The plan as JSON. Bytes that are not UTF-8 are shown as U+FFFD.
    pub fn to_json(&self) -> Value {
        let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let environment: serde_json::Map<String, Value> = self
            .exec
            .environment
            .iter()
            .map(|(name, value)| (text(name), text(value).into()))
            .collect();
        json!({
            "profiles": self.profiles,
            "command": self.exec.arguments.iter().map(|word| text(word)).collect::<Vec<_>>(),
            "program": self.exec.program.to_string_lossy(),
            "cwd": self.exec.cwd.to_string_lossy(),
            "new-session": self.exec.new_session,
            "namespaces": self.namespaces.names(),
            "hostname": self.namespaces.hostname,
            "audit": self.audit.as_ref().map(|path| path.to_string_lossy()),
            "create": self.host_directories.iter().map(|dir| dir.to_string_lossy()).collect::<Vec<_>>(),
            "placeholders": self.placeholders.iter().map(|wanted| json!({
                "path": wanted.path.to_string_lossy(),
                "kind": kind_word(wanted),
            })).collect::<Vec<_>>(),
            "mounts": self.mounts.ops.iter().map(|op| self.op_to_json(op)).collect::<Vec<_>>(),
            "targets": self.mounts.targets.iter().map(|target| json!({
                "name": target.name,
                "path": target.dest.to_string_lossy(),
                "mode": target.mode,
                "authority": target.authority,
                "max-lease": target.max_lease.map(|max| max.as_secs_f64()),
            })).collect::<Vec<_>>(),
            "landlock": self.landlock.as_ref().map(|landlock| json!({
                "abi": landlock.abi,
                "rules": landlock.rules.iter().map(|(dest, access)| json!({
                    "path": dest.to_string_lossy(),
                    "access": format!("{access:?}"),
                })).collect::<Vec<_>>(),
            })),
            "seccomp-instructions": self.filter.as_ref().map(Vec::len),
            "environment": environment,
            "warnings": self.warnings,
        })
    }

    fn line(&self, op: &MountOp) -> String {
        let mut line = path(&op.dest);
        match &op.kind {
            OpKind::Bind { source, .. } if source.path != op.dest => {
                line.push_str(&format!(" from {}", path(&source.path)));
            }
            OpKind::Control { shims, .. } if !shims.names.is_empty() => {
                line.push_str(&format!(", shims of {}", shims.names.join(", ")));
            }
            OpKind::Tmpfs { size: Some(size), .. } => line.push_str(&format!(", {size} bytes")),
            OpKind::Socket(name) => {
                if let Some(socket) = self.sockets.iter().find(|socket| socket.name == *name) {
                    line.push_str(&format!(" filtered from {}", path(&socket.upstream)));
                }
            }
            _ => {}
        }
        for submount in op.submounts() {
            line.push_str(&format!(", with {}", path(submount)));
        }
        if let Some(target) = op.member_of.and_then(|index| self.mounts.targets.get(index)) {
            line.push_str(&format!(" [target {}]", target.name));
        }
        line.push_str(&format!("  ({})", op.origin));
        line
    }

    fn op_to_json(&self, op: &MountOp) -> Value {
        let mut value = json!({
            "op": op.verb(),
            "dest": op.dest.to_string_lossy(),
            "mode": op.mode_word(),
            "origin": op.origin.to_string(),
        });
        let Some(map) = value.as_object_mut() else { return value };
        let mut set = |key: &str, value: Value| map.insert(key.to_owned(), value);
        match &op.kind {
            OpKind::Bind { source, devices, follow, .. } => {
                set("source", source.path.to_string_lossy().into());
                set("devices", (*devices).into());
                if *follow {
                    set("follow", true.into());
                }
            }
            OpKind::Tmpfs { size, permissions } => {
                set("size", (*size).into());
                set("permissions", format!("{permissions:04o}").into());
            }
            OpKind::Overlay { lower, changes } => {
                set("source", lower.path.to_string_lossy().into());
                set("changes", changes.as_ref().map(|path| path.to_string_lossy()).into());
            }
            OpKind::Mask(shape) => {
                let shape = if *shape == Shape::Directory { "directory" } else { "file" };
                set("shape", shape.into());
            }
            OpKind::Socket(name) => {
                let socket = self.sockets.iter().find(|socket| socket.name == *name);
                set("upstream", socket.map(|it| it.upstream.to_string_lossy()).into());
            }
            OpKind::Control { hooks, shims, .. } => {
                if !hooks.is_empty() {
                    set("hooks", hooks.lines().collect::<Vec<_>>().into());
                }
                if !shims.names.is_empty() {
                    set("shims", shims.names.clone().into());
                }
            }
            OpKind::SelfBind { .. }
            | OpKind::Shim
            | OpKind::Dev { .. }
            | OpKind::Proc(_)
            | OpKind::HostProc
            | OpKind::Sealed(_) => {}
        }
        if !op.submounts().is_empty() {
            let submounts = op.submounts().iter().map(|path| path.to_string_lossy());
            set("submounts", submounts.collect::<Vec<_>>().into());
        }
        if let Some(target) = op.member_of.and_then(|index| self.mounts.targets.get(index)) {
            set("target", target.name.as_str().into());
        }
        value
    }
}

impl MountOp {
    fn verb(&self) -> &'static str {
        match self.kind {
            OpKind::Bind { .. } => "bind",
            OpKind::SelfBind { .. } => "self-bind",
            OpKind::Tmpfs { .. } => "tmpfs",
            OpKind::Overlay { .. } => "overlay",
            OpKind::Mask(_) => "mask",
            OpKind::Shim => "shim",
            OpKind::Socket(_) => "socket",
            OpKind::Dev { .. } => "dev",
            OpKind::Proc(_) => "proc",
            OpKind::HostProc => "host-proc",
            OpKind::Sealed(_) => "sealed",
            OpKind::Control { .. } => "control",
        }
    }

    /// Whether it is surely no directory.
    fn is_file(&self) -> bool {
        match &self.kind {
            OpKind::Bind { source, .. } => source.shape == Shape::File,
            OpKind::Mask(shape) => *shape == Shape::File,
            OpKind::Shim => true,
            OpKind::Socket(_) => true,
            _ => false,
        }
    }

    fn mode_word(&self) -> &'static str {
        if self.kind.is_writable() { "rw" } else { "ro" }
    }

    /// The host's mounts below it that follow its mode.
    pub fn submounts(&self) -> &[std::path::PathBuf] {
        match &self.kind {
            OpKind::Bind { submounts, .. } | OpKind::SelfBind { submounts, .. } => submounts,
            _ => &[],
        }
    }
}

fn kind_word(wanted: &Wanted) -> &'static str {
    if wanted.kind == Kind::Directory { "directory" } else { "file" }
}

/// A word of a command line: where one ends and the next begins can be seen.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn path(path: &Path) -> String {
    Escaped::path(path).to_string()
}
