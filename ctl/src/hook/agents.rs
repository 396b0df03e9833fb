//! The agents: how each tells its mode, and where its hooks are configured.

use super::event::{Event, Fields};
use super::rollout;
use super::state::State;
use serde_json::{Value, json};
use std::env;
use std::path::{Path, PathBuf};

/// An agent that can tell its mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Agent {
    Claude,
    Codex,
    Gemini,
    Opencode,
    Qwen,
    /// Any program that names the mode itself (`--mode`).
    Generic,
}

/// Agents that have a profile and whose hooks, if they have any, say nothing of a mode.
const SILENT: [&str; 6] = ["aider", "amp", "copilot", "crush", "cursor-agent", "goose"];

/// Where an agent's hooks are configured.
pub(super) enum Place {
    /// A file of JSON, in whose `hooks` these are to be, by event.
    Settings(PathBuf, Vec<(&'static str, Value)>),
    /// A file of our own with this text.
    Plugin(PathBuf, &'static str),
    /// Nowhere.
    None,
}

impl std::str::FromStr for Agent {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "claude" => Self::Claude,
            "codex" => Self::Codex,
            "gemini" => Self::Gemini,
            "opencode" => Self::Opencode,
            "qwen" => Self::Qwen,
            "generic" => Self::Generic,
            name if SILENT.contains(&name) => {
                return Err(format!(
                    "{name} does not tell its hooks when it plans: use `remountctl toggle \
                     workspace`, or bind a key to it"
                ));
            }
            _ => return Err("known are claude, codex, gemini, generic, opencode, qwen".to_owned()),
        })
    }
}

impl Agent {
    pub fn name(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
            Self::Gemini => "gemini",
            Self::Opencode => "opencode",
            Self::Qwen => "qwen",
            Self::Generic => "generic",
        }
    }

    /// Understands an event, as the agent's hook has it on standard input.
    pub(super) fn event(self, bytes: &[u8], state: &State) -> Result<Event, String> {
        let fields = Fields::parse(bytes)?;
        let mode = match self {
            Self::Claude | Self::Qwen => fields.permission_mode.as_deref().map(str::to_owned),
            Self::Codex => codex_mode(&fields)?,
            Self::Gemini => gemini_mode(&fields, bytes, state),
            Self::Opencode | Self::Generic => {
                return Err(format!("{} names its mode with --mode", self.name()));
            }
        };
        Ok(Event { mode, moment: fields.moment(), of_subagent: fields.agent_id.is_some() })
    }

    /// Where its hooks are configured, for the user that this process runs as.
    ///
    /// # Errors
    /// There is no home directory to look in.
    pub(super) fn place(self) -> Result<Place, String> {
        let of = |variable: &str, default: &str| {
            let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
            set.map_or_else(|| Ok(home()?.join(default)), Ok::<PathBuf, String>)
        };
        Ok(match self {
            Self::Claude => Place::Settings(
                of("CLAUDE_CONFIG_DIR", ".claude")?.join("settings.json"),
                claude_hooks(),
            ),
            Self::Codex => {
                Place::Settings(of("CODEX_HOME", ".codex")?.join("hooks.json"), codex_hooks())
            }
            Self::Gemini => {
                // The variable moves the home directory, not the one for settings.
                let home = of("GEMINI_CLI_HOME", "")?;
                Place::Settings(home.join(".gemini/settings.json"), gemini_hooks())
            }
            Self::Qwen => {
                Place::Settings(of("QWEN_HOME", ".qwen")?.join("settings.json"), qwen_hooks())
            }
            Self::Opencode => {
                let config = of("XDG_CONFIG_HOME", ".config")?;
                Place::Plugin(config.join("opencode/plugins/remount.js"), OPENCODE)
            }
            Self::Generic => Place::None,
        })
    }

    /// What a person has to know after installing.
    pub(super) fn note(self) -> Option<&'static str> {
        match self {
            Self::Codex => Some("codex asks once whether to trust it: allow it in /hooks"),
            Self::Gemini => Some(
                "gemini tells its hooks only when the model enters or leaves plan mode, not \
                 when you press the key: then use `remountctl toggle workspace`",
            ),
            _ => None,
        }
    }
}

fn home() -> Result<PathBuf, String> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    home.ok_or_else(|| "find the home directory: HOME is not set".to_owned())
}

/// Codex does not tell the mode, but names its record of the session, which does.
fn codex_mode(fields: &Fields<'_>) -> Result<Option<String>, String> {
    let (Some(record), Some(turn)) = (&fields.transcript_path, &fields.turn_id) else {
        return Ok(None);
    };
    rollout::mode_of(Path::new(&**record), turn)
        .map_err(|error| format!("read the session's record: {error}"))
}

/// Gemini tells of the tools by which the model enters and leaves plan mode. In between,
/// each event means that it still plans.
fn gemini_mode(fields: &Fields<'_>, bytes: &[u8], state: &State) -> Option<String> {
    let mode = match (&*fields.hook_event_name, fields.tool_name.as_deref()) {
        ("AfterTool", Some("enter_plan_mode")) if succeeded(bytes) => "plan",
        ("AfterTool", Some("exit_plan_mode")) if approved(bytes) => "default",
        _ if state.exists() => "plan",
        _ => return None,
    };
    Some(mode.to_owned())
}

fn response(bytes: &[u8]) -> Value {
    let event: Value = serde_json::from_slice(bytes).unwrap_or_default();
    event["tool_response"].clone()
}

fn succeeded(bytes: &[u8]) -> bool {
    response(bytes)["error"].is_null()
}

/// Whether the person approved the plan: if not, the tool succeeds as well.
fn approved(bytes: &[u8]) -> bool {
    let response = response(bytes);
    response["error"].is_null()
        && response["llmContent"].as_str().is_some_and(|text| text.starts_with("Plan approved"))
}

/// What a shell is to run. By its whole path: agents give their shells a `PATH` of their own,
/// and anybody could put another program in it. Outside of a sandbox it does nothing, at the
/// price of a shell. Codex trusts a hook by its text, so this does not change between versions.
fn command(agent: Agent) -> String {
    let ends_with = ending(agent);
    format!("test ! -e /run/remount/hooks || /run/remount/bin/{ends_with}")
}

/// What tells our hooks from others.
pub(super) fn ending(agent: Agent) -> String {
    format!("remountctl hook {}", agent.name())
}

/// Seconds that an agent waits for the hook.
const SECONDS: u32 = 20;

fn claude_hooks() -> Vec<(&'static str, Value)> {
    let hook = json!({ "type": "command", "command": command(Agent::Claude), "timeout": SECONDS });
    vec![
        ("UserPromptSubmit", json!({ "hooks": [hook] })),
        ("PreToolUse", json!({ "matcher": "*", "hooks": [hook] })),
        ("PostToolUse", json!({ "matcher": "EnterPlanMode|ExitPlanMode", "hooks": [hook] })),
    ]
}

fn codex_hooks() -> Vec<(&'static str, Value)> {
    let hook = json!({ "type": "command", "command": command(Agent::Codex), "timeout": SECONDS });
    vec![
        ("UserPromptSubmit", json!({ "hooks": [hook] })),
        ("PreToolUse", json!({ "hooks": [hook] })),
    ]
}

fn gemini_hooks() -> Vec<(&'static str, Value)> {
    let tools = "enter_plan_mode|exit_plan_mode";
    vec![
        ("BeforeTool", in_milliseconds(Agent::Gemini, "*")),
        ("AfterTool", in_milliseconds(Agent::Gemini, tools)),
    ]
}

fn qwen_hooks() -> Vec<(&'static str, Value)> {
    // After a tool too: it may have been the one that leaves plan mode.
    ["PreToolUse", "PostToolUse"].map(|event| (event, in_milliseconds(Agent::Qwen, "*"))).into()
}

/// For Gemini and what descends from it.
fn in_milliseconds(agent: Agent, matcher: &str) -> Value {
    json!({ "matcher": matcher, "hooks": [{
        "type": "command", "command": command(agent), "name": "remount",
        "timeout": SECONDS * 1000,
    }] })
}

/// A plugin: opencode has no hooks that are commands.
const OPENCODE: &str = include_str!("opencode.js");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hook::event::Moment;

    fn event(agent: Agent, text: &str) -> Event {
        let state = State::new(Path::new("/nonexistent/state"));
        agent.event(text.as_bytes(), &state).unwrap()
    }

    #[test]
    fn names_are_known_or_explained() {
        for name in ["claude", "codex", "gemini", "opencode", "qwen", "generic"] {
            assert_eq!(name.parse::<Agent>().unwrap().name(), name);
        }
        assert!("goose".parse::<Agent>().unwrap_err().contains("toggle"));
        assert!("vi".parse::<Agent>().unwrap_err().contains("known are"));
    }

    // Events as the agents sent them (claude 2.1.330, qwen 0.15.10, codex 0.169.0,
    // gemini 0.61.0), shortened.
    #[test]
    fn claude_and_qwen_say_their_mode() {
        let text = r#"{"session_id":"35","transcript_path":"/h/x.jsonl","cwd":"/p","prompt_id":"d",
            "permission_mode":"plan","effort":{"level":"medium"},"hook_event_name":"PreToolUse",
            "tool_name":"Bash","tool_input":{"command":"ls"},"tool_use_id":"call_0"}"#;
        let expected =
            Event { mode: Some("plan".to_owned()), moment: Moment::BeforeTool, of_subagent: false };
        assert_eq!(event(Agent::Claude, text), expected);
        assert_eq!(event(Agent::Qwen, text), expected);
        let text = r#"{"hook_event_name":"PreToolUse","permission_mode":"default",
            "agent_id":"a1d0","agent_type":"general-purpose"}"#;
        assert!(event(Agent::Claude, text).of_subagent);
        let text = r#"{"cwd":"/p","hook_event_name":"SessionStart","source":"startup"}"#;
        assert_eq!(event(Agent::Claude, text).mode, None);
    }

    #[test]
    fn codex_says_nothing_without_a_record() {
        let text = r#"{"session_id":"0","turn_id":null,"transcript_path":null,
            "hook_event_name":"PreToolUse","permission_mode":"bypassPermissions"}"#;
        assert_eq!(event(Agent::Codex, text).mode, None);
        let state = State::new(Path::new("/nonexistent/state"));
        let text = br#"{"turn_id":"1","transcript_path":"/nonexistent/r","hook_event_name":"X"}"#;
        assert!(
            Agent::Codex.event(text, &state).unwrap_err().contains("read the session's record")
        );
    }

    #[test]
    fn gemini_tells_of_the_tools_that_change_the_mode() {
        let after = |tool: &str, response: &str| {
            let text = format!(
                r#"{{"hook_event_name":"AfterTool","tool_name":"{tool}","tool_response":{response}}}"#
            );
            event(Agent::Gemini, &text).mode
        };
        let done = r#"{"llmContent":"Switching to Plan mode.","returnDisplay":"x"}"#;
        assert_eq!(after("enter_plan_mode", done).as_deref(), Some("plan"));
        assert_eq!(after("enter_plan_mode", r#"{"error":{"message":"no"}}"#), None);
        let approved = r#"{"llmContent":"Plan approved. The plan is stored"}"#;
        assert_eq!(after("exit_plan_mode", approved).as_deref(), Some("default"));
        let rejected = r#"{"llmContent":"Plan rejected. No feedback"}"#;
        assert_eq!(after("exit_plan_mode", rejected), None);
        assert_eq!(after("read_file", done), None);
    }
}
