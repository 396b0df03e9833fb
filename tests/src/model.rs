//! A model that plays a script: no key, no network, the same every time.
//!
//! A small HTTP server on loopback that speaks what the agents speak: Anthropic's
//! Messages, OpenAI's Responses and chat completions, Gemini's generateContent, streamed
//! or not. What it answers depends on the conversation alone, so that agents may retry,
//! and have several conversations at once: a prompt names its script (`SCRIPT:main`), and
//! the answer to a conversation with N answers in it is step N of that script.

mod http;
mod wire;

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What the model says next.
#[derive(Debug, Clone)]
enum Said {
    /// It calls one tool, which may be in a namespace (`SPACE/TOOL`, Responses only); a text as
    /// the input is given as it is (free-form tools).
    Call(String, Value),
    /// It says something, which ends its turn.
    Say(String),
}

/// A step of a script: what the model says, and what the test does before.
#[derive(Clone)]
pub struct Step {
    said: Said,
    act: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// A step that calls a tool.
pub fn call(tool: &str, input: Value) -> Step {
    Step { said: Said::Call(tool.to_owned(), input), act: None }
}

/// A step that ends the turn.
pub fn say(text: &str) -> Step {
    Step { said: Said::Say(text.to_owned()), act: None }
}

impl Step {
    /// This step, after `act`, for which the agent waits; done again if it asks again.
    pub fn after(self, act: impl Fn() + Send + Sync + 'static) -> Step {
        Step { act: Some(Arc::new(act)), ..self }
    }
}

/// What an agent asked: the path and the body.
#[derive(Debug, Clone)]
pub struct Asked {
    pub path: String,
    pub body: Value,
}

#[derive(Default)]
struct Shared {
    scripts: Mutex<BTreeMap<String, Vec<Step>>>,
    asked: Mutex<Vec<Asked>>,
    ended: AtomicBool,
}

/// A running server; it ends when dropped.
pub struct Model {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Model {
    /// Starts to serve.
    #[track_caller]
    pub fn start() -> Model {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen on loopback");
        let address = listener.local_addr().expect("a port");
        let shared = Arc::new(Shared::default());
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if server.ended.load(Ordering::Relaxed) {
                    break;
                }
                let shared = Arc::clone(&server);
                // A client may hang up at any time.
                let serve = move |stream: TcpStream| drop(http::serve(&stream, &shared));
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(stream));
                }
            }
        });
        Model { address, shared }
    }

    /// Sets the steps of a script.
    pub fn script(&self, name: &str, steps: impl IntoIterator<Item = Step>) {
        let steps = steps.into_iter().collect();
        self.shared.scripts.lock().expect("a lock").insert(name.to_owned(), steps);
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("a lock").clone()
    }

    /// What the tools answered in the longest conversation of a script, in order, as text.
    pub fn results(&self, script: &str) -> Vec<String> {
        let conversations = self.asked();
        let of_script = conversations.iter().filter(|asked| {
            wire::Api::of(&asked.path).is_some_and(|api| api.script(&asked.body) == script)
        });
        let results = of_script.map(|asked| match wire::Api::of(&asked.path) {
            Some(api) => api.results(&asked.body),
            None => Vec::new(),
        });
        results.max_by_key(Vec::len).unwrap_or_default()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the listener. If it has gone already, just as well.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    /// What is said next in the conversation in a request.
    fn next(&self, api: wire::Api, body: &Value) -> Said {
        let script = api.script(body);
        // Titles, summaries and the like are asked for without tools.
        if script.is_empty() || !api.has_tools(body) {
            return say("fine").said;
        }
        let steps = self.scripts.lock().expect("a lock").get(&script).cloned();
        let steps = steps.unwrap_or_else(|| vec![say("there is no such script")]);
        let step = steps.get(api.answers(body)).cloned().unwrap_or_else(|| say("the end"));
        if let Some(act) = step.act {
            act();
        }
        step.said
    }
}
