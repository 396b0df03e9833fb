//! Users and groups by name, from `/etc/passwd` and `/etc/group` themselves: a static
//! program has no name service to ask, and should load none.

use anyhow::{Context, Result, bail};
use remount_broker::escape::Escaped;
use serde::Deserialize;

/// A user or group in a configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum Account {
    Number(u32),
    Name(String),
}

/// Where names of a kind are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    what: &'static str,
    file: &'static str,
}

pub(crate) const USER: Kind = Kind { what: "user", file: "/etc/passwd" };
pub(crate) const GROUP: Kind = Kind { what: "group", file: "/etc/group" };

/// The id of a name, if there is one: the third field of a line, for both files
/// (passwd(5), group(5)).
pub(crate) fn by_name(kind: Kind, name: &str) -> Result<Option<u32>> {
    let text = std::fs::read(kind.file).with_context(|| format!("read {}", kind.file))?;
    Ok(find(&String::from_utf8_lossy(&text), name))
}

fn find(text: &str, name: &str) -> Option<u32> {
    let mut lines = text.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let id = (fields.next() == Some(name)).then(|| fields.nth(1))??;
        id.parse().ok()
    })
}

/// The ids of a list.
pub(crate) fn ids(kind: Kind, accounts: &[Account]) -> Result<Vec<u32>> {
    let id = |account: &Account| match account {
        Account::Number(id) => Ok(*id),
        Account::Name(name) => match by_name(kind, name)? {
            Some(id) => Ok(id),
            None => bail!(
                "{} {}: not in {}\nhint: a number can be used instead",
                kind.what,
                Escaped::text(name),
                kind.file
            ),
        },
    };
    accounts.iter().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn an_id_is_the_third_field() {
        let text = "root:x:0:0:root:/root:/bin/sh\nbroken\nme:x:1000:7::/home/me:/bin/sh\n";
        assert_eq!((find(text, "root"), find(text, "me")), (Some(0), Some(1000)));
        assert_eq!((find(text, "broken"), find(text, "x"), find(text, "")), (None, None, None));
    }
}
