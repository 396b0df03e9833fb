//! What shims decide, without asking them: by the table that they read, and by what is executed
//! afterwards in their place.

use super::process::Asked;
use crate::shim::rules::Table;
use remount_broker::escape::Escaped;

/// The table of shims of the sandbox; empty if there are none.
pub(super) struct Tools(pub String);

/// What becomes of a tool's command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The shim lets it through.
    Allowed,
    /// The shim refuses it.
    Blocked,
    /// The shim asks the broker for a target's mode.
    Asks,
    /// There are more arguments than were read.
    Unknown,
    /// The tool itself, from its shim.
    Passed,
    /// The tool itself, and no shim let that through.
    Bypassed,
}

impl Decision {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Blocked => "blocked",
            Self::Asks => "asks",
            Self::Unknown => "unknown",
            Self::Passed => "passed",
            Self::Bypassed => "bypassed",
        }
    }
}

/// A tool that is executed, or its shim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tool {
    pub name: String,
    pub decision: Decision,
}

impl Tools {
    /// What is executed, if it has to do with a shim. `file` is what the path leads to, as far
    /// as that is known; `before` is what the process executed before, if that had.
    pub fn look(&self, asked: &Asked, file: Option<&[u8]>, before: Option<&Tool>) -> Option<Tool> {
        let table = Table(self.0.as_bytes());
        let paths = [file, Some(&asked.path[..])];
        let mut paths = paths.into_iter().flatten();
        let name = |tool: &[u8]| Escaped::text(&String::from_utf8_lossy(tool)).to_string();
        let judged = |tool: &[u8]| -> Option<Decision> {
            let rules = table.rules(tool)?;
            let words: Vec<&[u8]> = asked.arguments.iter().skip(1).map(Vec::as_slice).collect();
            Some(match (asked.is_truncated, rules.judge(&words), rules.when) {
                (true, ..) => Decision::Unknown,
                (false, Ok(()), _) => Decision::Allowed,
                (false, Err(_), Some(_)) => Decision::Asks,
                (false, Err(_), None) => Decision::Blocked,
            })
        };
        if let Some(place) = paths.clone().find_map(|path| table.place(path)) {
            return Some(Tool { name: name(place.tool), decision: judged(place.tool)? });
        }
        let tool = paths.find_map(|path| table.tool_at(path))?;
        let name = name(tool);
        let from_shim = before.is_some_and(|before| {
            before.name == name
                && matches!(before.decision, Decision::Allowed | Decision::Asks | Decision::Unknown)
        });
        let decision = match from_shim && judged(tool)? != Decision::Blocked {
            true => Decision::Passed,
            false => Decision::Bypassed,
        };
        Some(Tool { name, decision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "tool\tdocker\nallow\tps\npath\t/run/remount/shims/docker\tdocker\t\
        /run/remount/real/usr/bin/docker\t/usr/bin/docker\n\
        tool\tgit\nwhen\tworkspace\nallow\tstatus\npath\t/usr/bin/git\tgit\t\
        /run/remount/real/usr/bin/git\t/usr/bin/git\n";

    fn asked(path: &str, words: &[&str]) -> Asked {
        Asked::of(path.into(), words.iter().map(|word| word.as_bytes().to_vec()))
    }

    #[test]
    fn what_a_shim_decides_is_known_without_it() {
        let tools = Tools(TABLE.to_owned());
        let look = |path: &str, words: &[&str], before: Option<&Tool>| {
            tools.look(&asked(path, words), None, before).map(|tool| tool.decision)
        };
        let shim = "/run/remount/shims/docker";
        let real = "/run/remount/real/usr/bin/docker";
        assert_eq!(look(shim, &["docker", "ps"], None), Some(Decision::Allowed));
        assert_eq!(look(shim, &["docker", "rm"], None), Some(Decision::Blocked));
        assert_eq!(look("/usr/bin/git", &["git", "push"], None), Some(Decision::Asks));
        assert_eq!(look("/bin/ls", &["ls"], None), None);
        // By another path that leads there.
        let by_link = tools.look(&asked("/tmp/link", &["x", "rm"]), Some(shim.as_bytes()), None);
        assert_eq!(by_link.unwrap().decision, Decision::Blocked);
        let before = |decision| Tool { name: "docker".to_owned(), decision };
        let words = &["docker", "ps"][..];
        assert_eq!(look(real, words, Some(&before(Decision::Allowed))), Some(Decision::Passed));
        assert_eq!(look(real, words, Some(&before(Decision::Blocked))), Some(Decision::Bypassed));
        assert_eq!(look(real, words, None), Some(Decision::Bypassed));
        // Who changes its arguments on the way.
        let other = look(real, &["docker", "rm"], Some(&before(Decision::Allowed)));
        assert_eq!(other, Some(Decision::Bypassed));
    }
}
