//! What an agent's hook says, as far as it matters here.

use serde::Deserialize;
use std::borrow::Cow;

/// When a hook was called: what an answer can do depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before a tool runs, which can be refused.
    BeforeTool,
    /// With a prompt or at a session's start: what is printed reaches the model.
    Prompt,
    /// Any other.
    Other,
    /// By a program that names the mode itself and looks at the exit code.
    Named,
}

/// An event, understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The agent's mode, in its own word, if it can be told.
    pub mode: Option<String>,
    pub moment: Moment,
    pub of_subagent: bool,
}

impl Event {
    pub fn of_mode(mode: &str) -> Self {
        Self { mode: Some(mode.to_owned()), moment: Moment::Named, of_subagent: false }
    }
}

/// The fields that are looked at, of the several agents. Others, which may be large, are
/// passed over.
#[derive(Debug, Deserialize)]
pub(super) struct Fields<'a> {
    #[serde(borrow)]
    pub hook_event_name: Cow<'a, str>,
    #[serde(borrow)]
    pub permission_mode: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub tool_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub agent_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub transcript_path: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub turn_id: Option<Cow<'a, str>>,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// What is wrong with the text, for a person.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("understand the event: {error}"))
    }

    pub fn moment(&self) -> Moment {
        match &*self.hook_event_name {
            "PreToolUse" | "BeforeTool" => Moment::BeforeTool,
            "UserPromptSubmit" => Moment::Prompt,
            _ => Moment::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_among_others() {
        let text = br#"{"session_id":"x","permission_mode":"plan","tool_input":{"permission_mode":
            "default","a":["}{\"",1e999,null]},"hook_event_name":"PreToolUse","tool_name":"B\u00e4sh"}"#;
        let fields = Fields::parse(text).unwrap();
        assert_eq!(fields.permission_mode.as_deref(), Some("plan"));
        assert_eq!(fields.tool_name.as_deref(), Some("Bäsh"));
        assert_eq!(fields.moment(), Moment::BeforeTool);
        assert_eq!(fields.agent_id, None);
    }

    #[test]
    fn what_is_no_event_is_an_error() {
        for text in [&b""[..], b"{}", b"[]", b"null", b"{\"hook_event_name\":1}", b"{", b"\xff"] {
            assert!(Fields::parse(text).is_err(), "{text:?}");
        }
        let null = br#"{"hook_event_name":"X","permission_mode":null,"transcript_path":null}"#;
        assert_eq!(Fields::parse(null).unwrap().permission_mode, None);
    }
}
