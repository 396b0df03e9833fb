//! Shims in profiles.

use super::*;

#[test]
fn shims_are_united_and_taken_back() {
    let config = Config::new(&[
        ("a.toml", "[shims.x]\nallow = ['ls']\nflags = ['-a']\n[shims.y]\nallow = ['ls']"),
        ("b.toml", "extends = ['a']\n[shims.x]\nallow = ['show', 'ls']\nwhen = 'ro:workspace'"),
        ("c.toml", "extends = ['b']\n[remove]\nshims = ['x', 'none']"),
        ("d.toml", "extends = ['c']\n[shims.x]\nallow = ['only']"),
    ]);
    let rows = |profile: &Profile, tool: &str| -> Option<Vec<String>> {
        let found = profile.shims.iter().find(|(name, _)| name.as_str() == tool);
        found.map(|(_, shim)| shim.value.allow.iter().map(|row| row.as_str().to_owned()).collect())
    };
    let b = config.load(&["b"]).unwrap();
    assert_eq!(rows(&b, "x").unwrap(), ["ls", "show"]);
    let when = b.shims.values().next().unwrap().value.when.clone();
    assert_eq!(when.unwrap().target().as_str(), "workspace");
    let c = config.load(&["c"]).unwrap();
    assert_eq!((rows(&c, "x"), rows(&c, "y").unwrap().len()), (None, 1));
    assert!(c.notes[0].value.contains("remove shims none"), "{:?}", c.notes);
    assert_eq!(rows(&config.load(&["d"]).unwrap(), "x").unwrap(), ["only"]);
}

#[test]
fn a_shim_is_checked_where_it_is_said() {
    for (text, place, why) in [
        ("[shims.'a/b']", "1:8", "must be 1 to 64"),
        ("[shims.bwrap]", "1:8", "another program"),
        ("[shims.x]\nallow = ['a', 'b  c']", "2:15", "one space"),
        ("[shims.x]\nflags = ['a']", "2:10", "such as"),
        ("[shims.x]\nwhen = 'rw:w'", "2:8", "ro:workspace"),
        ("[shims.x]\nalow = []", "2:1", "unknown key"),
    ] {
        let config = Config::new(&[("p.toml", text)]);
        let error = config.load(&["p"]).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(why), "{text}: {error}");
    }
}

#[test]
fn a_file_of_shims_says_nothing_else() {
    let config = Config::new(&[
        ("p.toml", "[shims.x]\nallow = ['ls']"),
        ("sub/a.toml", "description = 'd'\n[shims.x]\nallow = ['show']"),
        ("sub/b.toml", "[remove]\nshims = ['x']\n[shims.x]\nallow = ['b']"),
        ("bind.toml", "[[bind]]\npath = '/x'"),
        ("remove.toml", "[remove]\nmask = ['/x']"),
    ]);
    let add =
        |name: &str| config.loader.shims(config.load(&["p"]).unwrap(), &config.dir.join(name));
    assert_eq!(add("sub/a.toml").unwrap().shims.values().next().unwrap().value.allow.len(), 2);
    assert_eq!(add("sub").unwrap().shims.values().next().unwrap().value.allow.len(), 1);
    for name in ["bind.toml", "remove.toml", "none"] {
        assert!(add(name).is_err(), "{name}");
    }
}
