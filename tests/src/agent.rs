//! Real agents in sandboxes, with a scripted model.

use crate::model::{Model, Step, call};
use crate::{Cmd, PATH, Running, Sandbox, Snapshot, agents, uid};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A git repository, a home, and an agent that knows where its model is.
pub struct World {
    pub sandbox: Sandbox,
    pub agent: &'static str,
    /// Its settings, which nothing may change.
    settings: Vec<(PathBuf, Vec<u8>)>,
}

impl World {
    pub fn new(agent: &'static str, model: &Model) -> World {
        let sandbox = Sandbox::git();
        let (file, mut text) = settings(agent, &model.url());
        let project = sandbox.project();
        match agent {
            // As after the questions of a first start.
            "codex" => {
                text.push_str(ASKED_BY_CODEX);
                text.push_str(&format!("[projects.{project:?}]\ntrust_level = \"trusted\"\n"))
            }
            "claude" => drop(
                sandbox.file(
                    "home/.claude/.claude.json",
                    json!({ "hasCompletedOnboarding": true, "theme": "dark",
                        "customApiKeyResponses": { "approved": ["sk-ant-script"] },
                        "projects": { project.to_str().expect("UTF-8"): {
                            "hasTrustDialogAccepted": true } } })
                    .to_string(),
                ),
            ),
            "opencode" => packages_of_opencode(&sandbox),
            _ => {}
        }
        let file = sandbox.file(format!("home/{file}"), text);
        for secret in SECRETS {
            sandbox.file(format!("home/{secret}"), format!("{SECRET}{secret}"));
        }
        // Copilot does not tell its mode in time.
        if agent != "copilot" {
            sandbox.ctl().command(["hook", agent, "--install"]).run().success();
        }
        // Codex has its hooks in another file.
        let hooks = sandbox.home().join(".codex/hooks.json");
        let files = [file, hooks].into_iter().filter(|file| file.exists());
        let settings = files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect();
        World { sandbox, agent, settings }
    }

    /// The same with a home in which there is nothing yet; what has to be said is said elsewhere.
    pub fn fresh(agent: &'static str, model: &Model) -> World {
        let sandbox = Sandbox::git();
        if agent == "opencode" {
            sandbox.file("project/opencode.json", settings(agent, &model.url()).1);
        }
        World { sandbox, agent, settings: Vec::new() }
    }

    /// The agent in its sandbox, its profile chosen by its name.
    pub fn start(&self, model: &Model) -> Cmd {
        self.surround(self.sandbox.remount().arg(self.agent), model)
    }

    /// A shell in the agent's sandbox, which can start it.
    pub fn shell(&self, model: &Model, script: &str) -> Cmd {
        let run = self.sandbox.remount().option("--profile").option(self.agent).sh(script);
        self.surround(run, model)
    }

    fn surround(&self, run: Cmd, model: &Model) -> Cmd {
        let path = format!("{}:{PATH}", agents().display());
        // Node asks for the name of whoever runs it, and this user may have none.
        let user = format!("tester:x:{0}:{0}::/home:/bin/sh\n", uid());
        let passwd = self.sandbox.file("outside/passwd", user);
        let run = run.option("--ro-bind").option(passwd).option("/etc/passwd").env("PATH", path);
        // Their state is where it is if nobody says anything.
        let run = run.unset("XDG_STATE_HOME").timeout(LONG);
        let (url, v1) = (model.url(), format!("{}/v1", model.url()));
        let environment = match self.agent {
            "claude" => vec![
                ("ANTHROPIC_BASE_URL", &*url),
                ("ANTHROPIC_API_KEY", "sk-ant-script"),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ],
            // Without settings it knows no other way to a model of one's own.
            "gemini" if self.settings.is_empty() => vec![
                ("GOOGLE_GENAI_USE_VERTEXAI", "true"),
                ("GOOGLE_VERTEX_BASE_URL", &*url),
                ("GOOGLE_API_KEY", "script"),
            ],
            "gemini" => vec![("GOOGLE_GEMINI_BASE_URL", &*url), ("GEMINI_API_KEY", "script")],
            "qwen" => vec![
                ("OPENAI_BASE_URL", &*v1),
                ("OPENAI_API_KEY", "script"),
                ("OPENAI_MODEL", "script"),
            ],
            "opencode" => vec![("OPENCODE_DISABLE_MODELS_FETCH", "1")],
            "copilot" => vec![
                ("COPILOT_PROVIDER_BASE_URL", &*v1),
                ("COPILOT_MODEL", "script"),
                ("COPILOT_OFFLINE", "true"),
            ],
            _ => Vec::new(),
        };
        environment.into_iter().fold(run, |run, (name, value)| run.env(name, value))
    }

    /// One prompt, nobody to ask, every tool allowed.
    pub fn prompt(&self, model: &Model, text: &str) -> Cmd {
        let words: &[&str] = match self.agent {
            "claude" => &["-p", text, "--permission-mode", "acceptEdits"],
            "codex" => &["exec", "--dangerously-bypass-hook-trust", text],
            "gemini" => &["-p", text, "--yolo", "--skip-trust", "-m", "gemini-2.5-pro"],
            "qwen" => &["-p", text, "--approval-mode", "yolo"],
            "opencode" => &["run", text],
            "copilot" => &["-p", text, "--allow-all"],
            other => panic!("{other}"),
        };
        // What is in its configuration else.
        let mut own = Vec::new();
        if self.agent == "codex" && self.settings.is_empty() {
            let provider = format!(
                "{{name=\"script\",base_url=\"{}/v1\",wire_api=\"responses\"}}",
                model.url()
            );
            for (name, value) in [
                ("model", "\"gpt-5.5\""),
                ("approval_policy", "\"never\""),
                ("model_provider", "\"script\""),
                ("model_providers.script", &provider),
            ] {
                own.extend(["-c".to_owned(), format!("{name}={value}")]);
            }
        }
        self.start(model).command(own.iter().map(String::as_str).chain(words.iter().copied()))
    }

    /// What the agent may make in the home directory.
    pub fn state(&self) -> &'static [&'static str] {
        match self.agent {
            "claude" => &[".claude"],
            "codex" => &[".codex"],
            "gemini" => &[".gemini"],
            "qwen" => &[".qwen"],
            "copilot" => &[".copilot"],
            _ => &[".config/opencode", ".local/share/opencode", ".local/state/opencode"],
        }
    }

    /// Nothing but the agent's own state is new in the home directory, it has `text` in it,
    /// and the settings are what they were.
    #[track_caller]
    pub fn left_only_its_state(&self, home: &Snapshot, text: &str) {
        for (file, before) in &self.settings {
            assert_eq!(&std::fs::read(file).unwrap(), before, "{file:?} was changed");
        }
        for difference in home.differences(&Snapshot::of(self.sandbox.home())) {
            let (path, _) = difference.split_once(':').expect("a path");
            // remount-run's own is a record of what to remove.
            let mut allowed = self.state().iter().chain(&[".local/state/remount"]);
            let its_own = allowed
                .any(|state| path.starts_with(state) || state.starts_with(&format!("{path}/")));
            assert!(its_own || path.is_empty(), "not {}'s to make: {difference}", self.agent);
        }
        let home = self.sandbox.home();
        let found = self.state().iter().any(|state| holds(&home.join(state), text.as_bytes()));
        assert!(found, "{}'s own record lacks {text:?}", self.agent);
    }
}

/// What Codex writes to its settings at its first start on a screen.
const ASKED_BY_CODEX: &str = "[tui]\nscreen_reader_detection_done = true\n\
    [tui.model_availability_nux]\n\"gpt-6.1-sol\" = 4\n\
    [notice.model_migrations]\n\"gpt-5.5\" = \"gpt-6-sol\"\n";

/// As after opencode's first start with a plugin, for which it fetches packages and waits.
fn packages_of_opencode(sandbox: &Sandbox) {
    let dir = sandbox.dir("home/.config/opencode/node_modules");
    let package = json!({ "dependencies": { "@opencode-ai/plugin": "1.18.33" } });
    let lock = json!({ "packages": { "": package.clone() } });
    for (name, value) in [("package.json", package), ("package-lock.json", lock)] {
        std::fs::write(dir.with_file_name(name), value.to_string()).expect("write a test file");
    }
}

/// How long an agent may take beside a busy machine's other work, which decides nothing.
pub const LONG: Duration = Duration::from_secs(600);

/// What no agent is to read, below the home directory.
pub const SECRETS: [&str; 9] = [
    ".ssh/id_ed25519",
    ".aws/credentials",
    ".netrc",
    ".config/gh/hosts.yml",
    ".mozilla/firefox/x.default/logins.json",
    ".config/google-chrome/Default/Login Data",
    ".gnupg/private-keys-v1.d/x.key",
    ".bash_history",
    ".local/share/keyrings/login.keyring",
];

/// What each of them begins with.
pub const SECRET: &str = "SECRET-";

/// The agent's settings file and what is in it.
fn settings(agent: &str, url: &str) -> (&'static str, String) {
    match agent {
        // Shell commands need nobody's approval, in plan mode neither.
        "claude" => (
            ".claude/settings.json",
            json!({ "permissions": { "allow": ["Bash", "Edit", "Write", "Agent"],
                                     "disableAutoMode": "disable" },
                    "useAutoModeDuringPlan": false })
            .to_string(),
        ),
        "codex" => (
            ".codex/config.toml",
            format!(
                "model = \"gpt-5.5\"\nmodel_provider = \"script\"\napproval_policy = \"never\"\n\
                 [model_providers.script]\nname = \"script\"\nbase_url = \"{url}/v1\"\n\
                 wire_api = \"responses\"\n[features]\nmulti_agent_v2 = true\n"
            ),
        ),
        "gemini" => (
            ".gemini/settings.json",
            json!({ "security": { "auth": { "selectedType": "gemini-api-key" } },
                    "general": { "enableAutoUpdate": false } })
            .to_string(),
        ),
        "qwen" => (
            ".qwen/settings.json",
            json!({ "security": { "auth": { "selectedType": "openai" } },
                    "general": { "disableAutoUpdate": true } })
            .to_string(),
        ),
        "opencode" => (
            ".config/opencode/opencode.json",
            json!({ "model": "script/script", "share": "disabled", "permission": { "*": "allow" },
                    "provider": { "script": {
                "npm": "@ai-sdk/openai-compatible", "name": "script",
                "options": { "baseURL": format!("{url}/v1"), "apiKey": "x" },
                "models": { "script": { "name": "script" } } } } })
            .to_string(),
        ),
        "copilot" => (".copilot/settings.json", json!({ "banner": "never" }).to_string()),
        other => panic!("{other}"),
    }
}

/// Whether a file below `dir` has `text` in it.
fn holds(dir: &Path, text: &[u8]) -> bool {
    std::fs::read_dir(dir).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => holds(&path, text),
            Ok(kind) if kind.is_file() => std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text)),
            _ => false,
        }
    })
}

/// The agents' tools, by what they do.
pub struct Tools<'a> {
    pub agent: &'static str,
    pub project: &'a Path,
}

impl Tools<'_> {
    pub fn path(&self, name: &str) -> String {
        self.project.join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn shell(&self, script: &str) -> Step {
        let input = json!({ "command": script, "description": "a command" });
        match self.agent {
            "claude" => call("Bash", input),
            "codex" => call("exec_command", json!({ "cmd": script })),
            "opencode" | "copilot" => call("bash", input),
            _ => call("run_shell_command", input),
        }
    }

    pub fn write(&self, name: &str, text: &str) -> Step {
        let path = self.path(name);
        match self.agent {
            "claude" => call("Write", json!({ "file_path": path, "content": text })),
            "codex" => patch(&format!("*** Add File: {name}\n+{text}\n")),
            "opencode" => call("write", json!({ "filePath": path, "content": text })),
            "copilot" => call("create", json!({ "path": path, "file_text": text })),
            _ => call("write_file", json!({ "file_path": path, "content": text })),
        }
    }

    /// How the tools that write and edit tell the model that they could not.
    pub fn cannot_write(&self) -> &'static str {
        match self.agent {
            "codex" => "Failed to write file",
            "opencode" => "FileSystem.writeFile",
            _ => "ead-only",
        }
    }

    pub fn read(&self, name: &str) -> Step {
        let path = self.path(name);
        match self.agent {
            "claude" => call("Read", json!({ "file_path": path })),
            "codex" => self.shell(&format!("cat {name}")),
            "opencode" => call("read", json!({ "filePath": path })),
            "copilot" => call("view", json!({ "path": path })),
            _ => call("read_file", json!({ "file_path": path })),
        }
    }

    pub fn edit(&self, name: &str, old: &str, new: &str) -> Step {
        let path = self.path(name);
        let input = json!({ "file_path": path, "old_string": old, "new_string": new,
                            "instruction": "as told" });
        match self.agent {
            "claude" => call("Edit", without(input, "instruction")),
            "codex" => patch(&format!("*** Update File: {name}\n@@\n-{old}\n+{new}\n")),
            "gemini" => call("replace", input),
            "copilot" => call("edit", json!({ "path": path, "old_str": old, "new_str": new })),
            "opencode" => {
                call("edit", json!({ "filePath": path, "oldString": old, "newString": new }))
            }
            _ => call("edit", without(input, "instruction")),
        }
    }

    /// A command in the background, by the agent's own means; opencode has none.
    pub fn background(&self, script: &str) -> Option<Step> {
        let mut input = json!({ "command": script, "description": "a job" });
        Some(match self.agent {
            "claude" => {
                input["run_in_background"] = json!(true);
                call("Bash", input)
            }
            "codex" => call("exec_command", json!({ "cmd": script, "yield_time_ms": 250 })),
            "opencode" => return None,
            "copilot" => {
                input["mode"] = json!("async");
                call("bash", input)
            }
            _ => {
                input["is_background"] = json!(true);
                call("run_shell_command", input)
            }
        })
    }

    /// A subagent that plays another script.
    pub fn subagent(&self, script: &str) -> Vec<Step> {
        let prompt = format!("SCRIPT:{script} do it");
        let input =
            |kind: &str| json!({ "description": "do it", "prompt": prompt, "subagent_type": kind });
        let one = match self.agent {
            "claude" => {
                let mut input = input("general-purpose");
                input["run_in_background"] = json!(false);
                call("Agent", input)
            }
            "codex" => {
                let task = json!({ "task_name": script, "message": prompt, "fork_turns": "none" });
                let wait = json!({ "timeout_ms": 600_000 });
                let spawn = call("collaboration/spawn_agent", task);
                return vec![spawn, call("collaboration/wait_agent", wait)];
            }
            "gemini" => {
                call("invoke_agent", json!({ "agent_name": "generalist", "prompt": prompt }))
            }
            "opencode" => call("task", input("general")),
            "copilot" => call(
                "task",
                json!({ "description": "do it", "prompt": prompt, "agent_type": "general-purpose",
                        "name": "one", "mode": "sync" }),
            ),
            _ => call("agent", input("general-purpose")),
        };
        vec![one]
    }
}

fn patch(text: &str) -> Step {
    call("apply_patch", Value::String(format!("*** Begin Patch\n{text}*** End Patch\n")))
}

fn without(mut input: Value, key: &str) -> Value {
    input.as_object_mut().expect("an object").remove(key);
    input
}

/// Gemini hides the user's configuration of git from its shell.
pub const COMMIT: &str = "git add . && git -c user.name=t -c user.email=t@localhost commit -qm";

/// A child that writes all the time, whatever becomes of the shell that started it.
pub const CHILD: &str = "setsid sh -c 'while sleep 0.02; do { date >>child.log; } 2>>/tmp/child.err; \
                     done' >/dev/null 2>&1 & while ! test -s child.log; do sleep 0.01; done";

/// Every way to write that comes to mind, each with the words of its refusal.
pub fn tries(tools: &Tools<'_>) -> Vec<(Step, &'static str)> {
    let refused = "Read-only file system";
    let mut tries = vec![
        (tools.shell("echo x >by-shell"), refused),
        (tools.shell("git commit --allow-empty -m no"), refused),
        (tools.shell("python3 -c 'open(\"by-python\", \"w\")'"), refused),
        (tools.shell("(sleep 0.1; echo x >by-job) 2>/tmp/job & wait; cat /tmp/job"), refused),
        (
            tools.shell("printf '%s\\n' '--- a/n' '+++ b/n' '@@ -0,0 +1 @@' '+x' | patch -p1"),
            "ead-only",
        ),
        (tools.shell("mv README gone"), refused),
        (tools.shell("rm README 2>&1; ls README"), "README"),
        (
            tools.shell("until grep ead-only /tmp/child.err; do sleep 0.02; done | tail -n 1"),
            refused,
        ),
        (tools.write("by-tool", "x"), tools.cannot_write()),
        (tools.edit("README", "edited", "broken"), tools.cannot_write()),
    ];
    let job = "sleep 0.5; { echo x >by-background; } 2>/tmp/error; mv /tmp/error /tmp/ended";
    if let Some(step) = tools.background(job) {
        let wait = "while ! test -e /tmp/ended; do sleep 0.05; done; cat /tmp/ended";
        tries.extend([(step, ""), (tools.shell(wait), refused)]);
    }
    tries.extend(tools.subagent("sub").into_iter().map(|step| (step, "")));
    tries
}

/// A snapshot of the project, taken when a step is reached.
#[derive(Clone)]
pub struct Taken {
    project: PathBuf,
    snapshot: Arc<Mutex<Option<Snapshot>>>,
}

impl Taken {
    pub fn of(project: PathBuf) -> Taken {
        Taken { project, snapshot: Arc::default() }
    }

    pub fn before(&self, step: Step) -> Step {
        let taken = self.clone();
        step.after(move || {
            let snapshot = Snapshot::of(&taken.project);
            taken.snapshot.lock().unwrap().get_or_insert(snapshot);
        })
    }

    pub fn get(&self) -> Snapshot {
        self.snapshot.lock().unwrap().take().expect("the step was reached")
    }
}

/// Claude Code, or Qwen Code, as an editor drives it: prompts and changes of the mode are
/// lines of JSON.
pub struct Driven {
    pub running: Running,
}

impl Driven {
    #[track_caller]
    pub fn start(world: &World, model: &Model, mode: &str) -> Driven {
        let words = ["--input-format", "stream-json", "--output-format", "stream-json"];
        let run = world.start(model).command(words);
        let run = match world.agent {
            "claude" => run.command(["-p", "--verbose", "--permission-mode", mode]),
            _ => run.command(["--approval-mode", mode]),
        };
        let mut driven = Driven { running: run.start_interactive() };
        driven.request("initialize", json!({ "subtype": "initialize" }));
        driven
    }

    /// Changes the mode, as Shift+Tab does.
    #[track_caller]
    pub fn mode(&mut self, mode: &str) {
        self.request(mode, json!({ "subtype": "set_permission_mode", "mode": mode }));
    }

    #[track_caller]
    fn request(&mut self, id: &str, request: Value) {
        self.send(&json!({ "type": "control_request", "request_id": id, "request": request }));
        let answer = self.running.line_with("\"control_response\"");
        assert!(answer.contains("\"success\""), "{answer}");
    }

    /// A prompt, and the agent's turn to its end.
    #[track_caller]
    pub fn prompt(&mut self, text: &str) {
        let message = json!({ "role": "user", "content": text });
        self.send(&json!({ "type": "user", "session_id": "", "parent_tool_use_id": null,
                           "message": message }));
        self.running.line_with("\"type\":\"result\"");
    }

    fn send(&mut self, line: &Value) {
        self.running.send(format!("{line}\n"));
    }
}
