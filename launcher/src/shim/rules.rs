//! What is allowed of a tool: the table, and the judgement on a command line.

use crate::profile::{Shim, ShimName};
use std::fmt::Write;

/// The whole table, as init writes it and a shim reads it: lines of a key and values that
/// tabs separate. `tool NAME` begins a tool's rules, `path …` is a [`Place`].
pub(crate) struct Table<'t>(pub &'t [u8]);

/// A path at which a tool's shim is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Place<'t> {
    pub tool: &'t [u8],
    /// Where the tool is that is executed; empty if there is none.
    pub real: &'t [u8],
    /// What it is called.
    pub name: &'t [u8],
}

/// The lines of the table that a tool has.
pub(crate) fn write(table: &mut String, name: &ShimName, shim: &Shim) -> std::fmt::Result {
    writeln!(table, "tool\t{}", name.as_str())?;
    if let Some(condition) = &shim.when {
        writeln!(table, "when\t{}", condition.target())?;
    }
    if shim.flags_anywhere {
        writeln!(table, "anywhere")?;
    }
    let flags =
        [("flag", &shim.flags), ("value", &shim.flags_with_value), ("deny-flag", &shim.deny_flags)];
    for (key, flags) in flags {
        flags.iter().try_for_each(|flag| writeln!(table, "{key}\t{}", flag.as_str()))?;
    }
    for (key, rows) in [("allow", &shim.allow), ("deny", &shim.deny)] {
        rows.iter().try_for_each(|row| writeln!(table, "{key}\t{}", row.as_str()))?;
    }
    Ok(())
}

impl<'t> Table<'t> {
    fn lines(&self) -> impl Iterator<Item = (&'t [u8], &'t [u8])> + use<'t> {
        let lines = self.0.split(|byte| *byte == b'\n');
        lines.map(|line| match line.iter().position(|byte| *byte == b'\t') {
            Some(tab) => (&line[..tab], &line[tab + 1..]),
            None => (line, &b""[..]),
        })
    }

    /// The tool whose shim is at `path`.
    pub fn place(&self, path: &[u8]) -> Option<Place<'t>> {
        self.lines().filter(|(key, _)| *key == b"path").find_map(|(_, line)| {
            let mut fields = line.split(|byte| *byte == b'\t');
            let at = fields.next()?;
            let (tool, real, name) = (fields.next()?, fields.next()?, fields.next()?);
            (at == path).then_some(Place { tool, real, name })
        })
    }

    /// The tool that is itself at `path`, in the place that only its shim leads to.
    pub fn tool_at(&self, path: &[u8]) -> Option<&'t [u8]> {
        self.lines().filter(|(key, _)| *key == b"path").find_map(|(_, line)| {
            let mut fields = line.split(|byte| *byte == b'\t').skip(1);
            let (tool, real, called) = (fields.next()?, fields.next()?, fields.next()?);
            // Where its own path is not covered, no shim leads there alone.
            (real == path && real != called).then_some(tool)
        })
    }

    /// What is allowed of a tool.
    pub fn rules(&self, tool: &[u8]) -> Option<Rules<'t>> {
        let mut lines = self.lines().skip_while(|line| *line != (b"tool", tool));
        lines.next()?;
        let mut rules = Rules::default();
        for (key, value) in lines {
            let text = std::str::from_utf8(value).ok()?;
            match key {
                b"allow" => rules.allow.push(Row::parse(text)),
                b"deny" => rules.deny.push(Row::parse(text)),
                b"flag" => rules.flags.push(text),
                b"value" => rules.flags_with_value.push(text),
                b"deny-flag" => rules.deny_flags.push(text),
                b"anywhere" => rules.anywhere = true,
                b"when" => rules.when = Some(text),
                b"tool" | b"path" | b"" => break,
                _ => return None,
            }
        }
        Some(rules)
    }
}

/// What is allowed of one tool.
#[derive(Debug, Default)]
pub(crate) struct Rules<'t> {
    allow: Vec<Row<'t>>,
    deny: Vec<Row<'t>>,
    flags: Vec<&'t str>,
    flags_with_value: Vec<&'t str>,
    anywhere: bool,
    deny_flags: Vec<&'t str>,
    /// The target that must be read-only for all this to hold.
    pub when: Option<&'t str>,
}

/// A row of a table, as `ShimRow` describes it.
#[derive(Debug)]
struct Row<'t> {
    words: Vec<&'t str>,
    /// Whether no word may follow.
    is_closed: bool,
    /// Flags that it must not have.
    without: Vec<&'t str>,
}

impl<'t> Row<'t> {
    fn parse(text: &'t str) -> Self {
        let (without, words): (Vec<_>, Vec<_>) =
            text.split(' ').partition(|word| word.starts_with('!'));
        let is_closed = words.last() == Some(&"$");
        let words = words.into_iter().filter(|word| *word != "$").collect();
        let without = without.into_iter().map(|flag| &flag[1..]).collect();
        Self { words, is_closed, without }
    }

    /// How many of its words, from the first, the command has.
    fn matching(&self, command: &[&[u8]]) -> usize {
        let pairs = self.words.iter().zip(command);
        pairs.take_while(|(pattern, word)| is_like(pattern, word)).count()
    }

    fn fits(&self, command: &[&[u8]]) -> bool {
        self.matching(command) == self.words.len()
            && !(self.is_closed && command.len() > self.words.len())
    }
}

/// What a known flag takes along.
enum Known {
    Nothing,
    NextWord,
}

impl<'t> Rules<'t> {
    /// Whether the tool may be executed with these arguments. If not, the answer is the words
    /// of them that say why.
    pub fn judge<'a>(&self, args: &[&'a [u8]]) -> Result<(), Vec<&'a [u8]>> {
        let command = self.command(args);
        let has = |flags: &[&str]| {
            command.iter().position(|word| flags.iter().any(|flag| is_meant(flag, word)))
        };
        if let Some(row) = self.deny.iter().find(|row| row.fits(&command)) {
            return Err(command[..row.words.len()].to_vec());
        }
        let mut refused = None;
        for row in self.allow.iter().filter(|row| row.fits(&command)) {
            match has(&row.without).or_else(|| has(&self.deny_flags)) {
                None => return Ok(()),
                Some(flag) => refused = refused.or(Some((row.words.len(), flag))),
            }
        }
        if let Some((words, flag)) = refused {
            return Err([&command[..words.min(flag)], &[command[flag]]].concat());
        }
        // Of a row for any group, one word says more than all that it matches.
        let matching = |row: &Row<'_>| match row.words.first() {
            Some(word) if word.contains('*') => row.matching(&command).min(1),
            _ => row.matching(&command),
        };
        let known = self.allow.iter().map(matching).max().unwrap_or(0);
        Err(command[..command.len().min(known + 1)].to_vec())
    }

    /// The arguments without the flags that are known where they stand, and their values.
    fn command<'a>(&self, args: &[&'a [u8]]) -> Vec<&'a [u8]> {
        let mut command = Vec::new();
        let mut args = args.iter();
        while let Some(word) = args.next() {
            let may_be_known =
                command.is_empty() || self.anywhere && !command.contains(&&b"--"[..]);
            match self.known(word).filter(|_| may_be_known) {
                Some(Known::Nothing) => {}
                Some(Known::NextWord) => drop(args.next()),
                None => command.push(*word),
            }
        }
        command
    }

    fn known(&self, word: &[u8]) -> Option<Known> {
        let name = word.split(|byte| *byte == b'=').next().unwrap_or(word);
        let is = |flag: &&str| flag.as_bytes() == name;
        if self.flags_with_value.iter().any(is) {
            return Some(if name == word { Known::NextWord } else { Known::Nothing });
        }
        // `-nNAME`; of a name of several letters there is no such form.
        let begins = |flag: &&str| flag.len() == 2 && word.starts_with(flag.as_bytes());
        let is_short = !word.starts_with(b"--");
        if self.flags.iter().any(is) || is_short && self.flags_with_value.iter().any(begins) {
            return Some(Known::Nothing);
        }
        None
    }

    /// What may be done instead.
    pub fn hint(&self, tool: &[u8]) -> String {
        const SHOWN: usize = 12;
        let tool = String::from_utf8_lossy(tool);
        let plain =
            self.allow.iter().filter(|row| !row.words.iter().any(|word| word.contains('*')));
        let rows: Vec<String> = plain
            .filter(|row| row.words.first().is_some_and(|word| !word.starts_with('-')))
            .map(|row| row.words.join(" "))
            .collect();
        let words: Vec<&str> = rows.iter().flat_map(|row| alternatives(row)).take(SHOWN).collect();
        if words.is_empty() {
            return format!("the profile's [shims.{tool}] says what is allowed");
        }
        format!("allowed are {} …; the profile's [shims.{tool}] has all", words.join(", "))
    }
}

/// A row of one word is several commands, any other is shown as it is.
fn alternatives(row: &str) -> Vec<&str> {
    if row.contains(' ') { vec![row] } else { row.split('|').collect() }
}

/// Whether a word is what a pattern describes: one of its alternatives, in which `*` stands
/// for any characters. A flag is never what a pattern describes that does not begin as one.
fn is_like(pattern: &str, word: &[u8]) -> bool {
    pattern.split('|').any(|pattern| {
        let pattern = pattern.as_bytes();
        (word.first() != Some(&b'-') || pattern.first() == Some(&b'-')) && matches(pattern, word)
    })
}

fn matches(pattern: &[u8], word: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = word.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    // The earliest place of each leaves most to the others.
    for part in parts {
        let found = (0..=rest.len()).find(|at| rest[*at..].starts_with(part));
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

/// Whether an argument could be the flag: also one letter of several (`-avD`), and a
/// beginning of it, since many tools take those (`--outp`).
fn is_meant(flag: &str, word: &[u8]) -> bool {
    let name = word.split(|byte| *byte == b'=').next().unwrap_or(word);
    let typed = match name {
        [b'-', b'-', rest @ ..] | [b'-', rest @ ..] => rest,
        _ => return false,
    };
    let is_long = name.starts_with(b"--");
    let meant = flag.trim_start_matches('-').as_bytes();
    match (flag.len(), typed.is_empty()) {
        (_, true) => false,
        (2, _) => !is_long && typed.contains(&meant[0]),
        _ if is_long && flag.starts_with("--") => meant.starts_with(typed),
        _ => meant == typed,
    }
}
