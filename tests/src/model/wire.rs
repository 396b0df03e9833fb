//! The four interfaces of models: what a conversation says, and how a step is told.

use super::Said;
use super::http::Answer;
use serde_json::{Value, json};

/// An interface, by the path that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// Anthropic: `POST /v1/messages`.
    Messages,
    /// OpenAI: `POST /v1/responses`.
    Responses,
    /// OpenAI and many others: `POST /v1/chat/completions`.
    Chat,
    /// Gemini: `POST /v1beta/models/NAME:generateContent`, `:streamGenerateContent`.
    Generate,
}

impl Api {
    pub fn of(path: &str) -> Option<Api> {
        let path = path.split('?').next().unwrap_or(path);
        if path.ends_with("/messages") {
            Some(Api::Messages)
        } else if path.ends_with("/responses") {
            Some(Api::Responses)
        } else if path.ends_with("/chat/completions") {
            Some(Api::Chat)
        } else if path.ends_with("enerateContent") {
            Some(Api::Generate)
        } else {
            None
        }
    }

    /// The messages of the conversation, oldest first.
    fn turns(self, body: &Value) -> &[Value] {
        let list = match self {
            Api::Messages | Api::Chat => &body["messages"],
            Api::Responses => &body["input"],
            Api::Generate => &body["contents"],
        };
        list.as_array().map_or(&[], Vec::as_slice)
    }

    /// Whether the model said this. Copilot puts calls into its mouth, to tell it that a job in
    /// the background has ended; the model's own are named in [`Api::answer`].
    fn is_answer(self, turn: &Value) -> bool {
        let calls = turn["tool_calls"].as_array().map_or(&[][..], Vec::as_slice);
        let own = |call: &Value| call["id"].as_str().is_some_and(|id| id.starts_with("call_"));
        if !calls.iter().all(own) {
            return false;
        }
        let kind = turn["type"].as_str().unwrap_or_default();
        match turn["role"].as_str() {
            Some(role) => matches!(role, "assistant" | "model"),
            None => matches!(kind, "function_call" | "custom_tool_call" | "reasoning"),
        }
    }

    /// The script that the first prompt with a name of one names, and which prompt it is.
    fn named(self, body: &Value) -> Option<(usize, String)> {
        self.turns(body).iter().enumerate().find_map(|(at, turn)| {
            let text = turn.to_string();
            let (_, name) = text.split_once("SCRIPT:").filter(|_| !self.is_answer(turn))?;
            let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
            Some((at, name[..end].to_owned()))
        })
    }

    /// Its name; empty if there is none.
    pub fn script(self, body: &Value) -> String {
        self.named(body).map(|(_, name)| name).unwrap_or_default()
    }

    /// How often the model answered since it was named: some agents put an answer of their
    /// own invention before it.
    pub fn answers(self, body: &Value) -> usize {
        let from = self.named(body).map_or(0, |(at, _)| at);
        let turns = &self.turns(body)[from..];
        let begins = |at: &usize| *at == 0 || !self.is_answer(&turns[at - 1]);
        (0..turns.len()).filter(|at| self.is_answer(&turns[*at])).filter(begins).count()
    }

    /// Whether the model is offered tools.
    pub fn has_tools(self, body: &Value) -> bool {
        body["tools"].as_array().is_some_and(|tools| !tools.is_empty())
    }

    /// What the tools answered, as JSON text.
    pub fn results(self, body: &Value) -> Vec<String> {
        let mut results = Vec::new();
        for turn in self.turns(body) {
            let parts = match self {
                Api::Messages => &turn["content"],
                Api::Generate => &turn["parts"],
                Api::Responses | Api::Chat => &Value::Null,
            };
            for part in parts.as_array().map_or(&[][..], Vec::as_slice) {
                if part["type"] == "tool_result" || !part["functionResponse"].is_null() {
                    results.push(part.to_string());
                }
            }
            let kind = turn["type"].as_str().unwrap_or_default();
            if turn["role"] == "tool" || kind.ends_with("_call_output") {
                results.push(turn.to_string());
            }
        }
        results
    }

    /// A step, as this interface tells it.
    pub fn answer(self, path: &str, body: &Value, step: &Said) -> Answer {
        let streamed = body["stream"] == true || path.contains("stream");
        let id = format!("call_{}", self.answers(body));
        match self {
            Api::Messages => messages(step, &id, streamed),
            Api::Responses => responses(step, &id, streamed),
            Api::Chat => chat(step, &id, streamed),
            Api::Generate => generate(step, &id, streamed),
        }
    }
}

fn event(value: &Value) -> String {
    match value["type"].as_str() {
        Some(kind) => format!("event: {kind}\ndata: {value}\n\n"),
        None => format!("data: {value}\n\n"),
    }
}

fn messages(step: &Said, id: &str, streamed: bool) -> Answer {
    let (block, delta, stop) = match step {
        Said::Say(text) => (
            json!({ "type": "text", "text": text }),
            json!({ "type": "text_delta", "text": text }),
            "end_turn",
        ),
        Said::Call(name, input) => (
            json!({ "type": "tool_use", "id": id, "name": name, "input": input }),
            json!({ "type": "input_json_delta", "partial_json": input.to_string() }),
            "tool_use",
        ),
    };
    let usage = json!({ "input_tokens": 10, "output_tokens": 10 });
    let mut message = json!({
        "id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": "script",
        "content": [block], "stop_reason": stop, "stop_sequence": null, "usage": usage,
    });
    if !streamed {
        return Answer::json(&message);
    }
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    let empty = match step {
        Said::Say(_) => json!({ "type": "text", "text": "" }),
        Said::Call(name, _) => json!({ "type": "tool_use", "id": id, "name": name, "input": {} }),
    };
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": empty }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta", "usage": usage,
                "delta": { "stop_reason": stop, "stop_sequence": null } }),
        json!({ "type": "message_stop" }),
    ];
    Answer::events(events.iter().map(event).collect())
}

fn responses(step: &Said, id: &str, streamed: bool) -> Answer {
    let item = match step {
        Said::Say(text) => json!({
            "type": "message", "role": "assistant", "id": format!("msg_{id}"),
            "status": "completed",
            "content": [{ "type": "output_text", "text": text, "annotations": [] }],
        }),
        Said::Call(name, Value::String(text)) => json!({
            "type": "custom_tool_call", "id": format!("ctc_{id}"), "call_id": id,
            "status": "completed", "name": name, "input": text,
        }),
        Said::Call(name, input) => {
            let (space, name) = name.split_once('/').unwrap_or(("", name));
            let mut call = json!({
                "type": "function_call", "id": format!("fc_{id}"), "call_id": id,
                "status": "completed", "name": name, "arguments": input.to_string(),
            });
            if !space.is_empty() {
                call["namespace"] = json!(space);
            }
            call
        }
    };
    let response = json!({
        "id": format!("resp_{id}"), "object": "response", "status": "completed",
        "model": "script", "output": [item],
        "usage": { "input_tokens": 10, "output_tokens": 10, "total_tokens": 20,
                   "input_tokens_details": { "cached_tokens": 0 },
                   "output_tokens_details": { "reasoning_tokens": 0 } },
    });
    if !streamed {
        return Answer::json(&response);
    }
    let mut created = response.clone();
    created["status"] = json!("in_progress");
    created["output"] = json!([]);
    let events = [
        json!({ "type": "response.created", "response": created }),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item }),
        json!({ "type": "response.output_item.done", "output_index": 0, "item": item }),
        json!({ "type": "response.completed", "response": response }),
    ];
    Answer::events(events.iter().map(event).collect())
}

fn chat(step: &Said, id: &str, streamed: bool) -> Answer {
    let (mut message, finish) = match step {
        Said::Say(text) => (json!({ "role": "assistant", "content": text }), "stop"),
        Said::Call(name, input) => {
            let function = json!({ "name": name, "arguments": input.to_string() });
            let call = json!({ "index": 0, "id": id, "type": "function", "function": function });
            let message = json!({ "role": "assistant", "content": null, "tool_calls": [call] });
            (message, "tool_calls")
        }
    };
    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20 });
    let envelope = |object: &str, choice: Value| {
        json!({ "id": format!("chat_{id}"), "object": object, "created": 0, "model": "script",
                "choices": [choice], "usage": usage })
    };
    if !streamed {
        let choice = json!({ "index": 0, "message": message, "finish_reason": finish });
        return Answer::json(&envelope("chat.completion", choice));
    }
    let kind = "chat.completion.chunk";
    let message = std::mem::take(&mut message);
    let parts = [
        event(&envelope(kind, json!({ "index": 0, "delta": message, "finish_reason": null }))),
        event(&envelope(kind, json!({ "index": 0, "delta": {}, "finish_reason": finish }))),
        "data: [DONE]\n\n".to_owned(),
    ];
    Answer::events(parts.to_vec())
}

fn generate(step: &Said, id: &str, streamed: bool) -> Answer {
    let part = match step {
        Said::Say(text) => json!({ "text": text }),
        Said::Call(name, input) => {
            json!({ "functionCall": { "id": id, "name": name, "args": input } })
        }
    };
    let answer = json!({
        "candidates": [{ "index": 0, "finishReason": "STOP",
                         "content": { "role": "model", "parts": [part] } }],
        "usageMetadata": { "promptTokenCount": 10, "candidatesTokenCount": 10,
                           "totalTokenCount": 20 },
        "modelVersion": "script",
    });
    if streamed { Answer::events(vec![event(&answer)]) } else { Answer::json(&answer) }
}
