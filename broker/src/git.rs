//! What is read of a repository's configuration. Git is never run: its configuration could make
//! it execute anything.

/// Whether git's configuration says one of these of `[extensions]`, which git reads from the
/// repository's own file only: without blanks and in small letters, as `objectformat=sha256`.
#[must_use]
pub fn extensions_say(config: &str, settings: &[&str]) -> bool {
    config.lines().any(|line| {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let line: String = line.chars().filter(|it| !it.is_whitespace() && *it != '"').collect();
        let line = line.to_ascii_lowercase();
        settings.contains(&line.trim_start_matches("[extensions]"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_however_they_are_written() {
        for (config, is) in [
            ("[extensions]\n\tobjectformat = sha256\n", true),
            ("[extensions]objectFormat=\"SHA256\" ; x\n", true),
            ("[extensions]\n# objectformat = sha256\n", false),
            ("[extensions]\n\tobjectformat = sha1\n", false),
            ("[core]\n\tbare = false\n", false),
        ] {
            assert_eq!(extensions_say(config, &["objectformat=sha256"]), is, "{config}");
        }
    }
}
