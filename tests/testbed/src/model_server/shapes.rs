//! What model APIs answer, in their shapes: from a request's path and body to the body of the answer in parts, as a
//! real server would write them. Pure.

use serde_json::{Value, json};

/// The tokens that an answer reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub output: u64,
}

/// An API by its paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Anthropic,
    Gemini,
}

/// What is asked for.
pub(super) struct Asked {
    api: Api,
    model: String,
    stream: bool,
    /// Gemini's streams are server-sent events only if asked for, else one JSON array.
    events: bool,
    include_usage: bool,
    /// `None`: the answer says nothing about usage.
    pub(super) tokens: Option<Tokens>,
    /// How many parts the generated text has, one per event of a stream.
    pub(super) words: usize,
}

/// A body in the parts it is written in.
pub(super) struct Body {
    pub(super) content_type: &'static str,
    pub(super) parts: Vec<String>,
}

impl Asked {
    /// Reads a request; `None` if no API has such a path.
    pub(super) fn read(path_and_query: &str, body: &[u8]) -> Option<Self> {
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let api = match path {
            _ if path.ends_with("/chat/completions") => Api::Chat,
            _ if path.ends_with("/completions") => Api::Completions,
            _ if path.ends_with("/embeddings") => Api::Embeddings,
            _ if path.ends_with("/responses") => Api::Responses,
            _ if path.ends_with("/messages") => Api::Anthropic,
            _ if path.ends_with(":generateContent") || path.ends_with(":streamGenerateContent") => Api::Gemini,
            _ => return None,
        };
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let in_path = path.rsplit('/').next().and_then(|last| last.split(':').next()).filter(|_| api == Api::Gemini);
        let model = in_path.or(body["model"].as_str()).unwrap_or("qwen-max").to_owned();
        let stream = match api {
            Api::Gemini => path.ends_with(":streamGenerateContent"),
            _ => body["stream"] == true,
        };
        // Higress' ai-proxy asks for usage on behalf of its clients: only an explicit "no" leaves it out.
        let unwanted = body.pointer("/stream_options/include_usage") == Some(&json!(false)) && stream;
        let include_usage = body.pointer("/stream_options/include_usage") == Some(&json!(true));
        let tokens = (!unwanted).then_some(Tokens { input: 10, output: 20 });
        let events = query.split('&').any(|one| one == "alt=sse");
        Some(Self { api, model, stream, events, include_usage, tokens, words: 5 })
    }

    /// Whether it wants a stream without its usage, as OpenAI's API understands it.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.api, Api::Chat | Api::Completions) && self.stream && !self.include_usage
    }

    /// A whole answer.
    pub(super) fn answer(&self) -> Body {
        match (self.api, self.stream) {
            (Api::Gemini, true) if !self.events => {
                Body { content_type: "application/json", parts: self.gemini_array() }
            }
            (_, true) if self.api != Api::Embeddings => {
                let parts = match self.api {
                    Api::Anthropic => self.anthropic_events(),
                    Api::Responses => self.responses_events(),
                    Api::Gemini => self.gemini_answers().iter().map(|one| format!("data: {one}\r\n\r\n")).collect(),
                    Api::Chat | Api::Completions | Api::Embeddings => self.openai_events(),
                };
                Body { content_type: "text/event-stream", parts }
            }
            _ => Body { content_type: "application/json", parts: vec![self.whole().to_string()] },
        }
    }

    /// An error as this API words it.
    pub(super) fn error(&self, status: u16) -> Body {
        let message = "made to fail by the test";
        let error = match self.api {
            Api::Anthropic => json!({"type": "error", "error": {"type": "api_error", "message": message}}),
            Api::Gemini => json!({"error": {"code": status, "message": message, "status": "INTERNAL"}}),
            _ => json!({"error": {"message": message, "type": "server_error", "param": null, "code": null}}),
        };
        Body { content_type: "application/json", parts: vec![error.to_string()] }
    }

    fn whole(&self) -> Value {
        let (model, text) = (&self.model, self.text().concat());
        let mut answer = match self.api {
            Api::Chat => json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1_760_000_000, "model": model,
                "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
            }),
            Api::Completions => json!({
                "id": "cmpl-1", "object": "text_completion", "created": 1_760_000_000, "model": model,
                "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": "stop"}],
            }),
            Api::Embeddings => json!({
                "object": "list", "model": model,
                "data": [{"object": "embedding", "index": 0, "embedding": vec![0.125; 64]}],
            }),
            Api::Responses => self.response("completed"),
            Api::Anthropic => json!({
                "id": "msg_1", "type": "message", "role": "assistant", "model": model,
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "stop_sequence": null,
            }),
            Api::Gemini => return self.gemini(&text, true),
        };
        // The Responses API's own answer has it already.
        if let (Some(tokens), true) = (self.tokens, answer.get("usage").is_none()) {
            answer["usage"] = self.usage(tokens);
        }
        answer
    }

    fn usage(&self, Tokens { input, output }: Tokens) -> Value {
        let total = input + output;
        match self.api {
            Api::Anthropic => json!({"input_tokens": input, "output_tokens": output}),
            Api::Embeddings => json!({"prompt_tokens": input, "total_tokens": input}),
            Api::Responses => json!({
                "input_tokens": input, "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": total,
            }),
            Api::Gemini => json!({
                "promptTokenCount": input, "candidatesTokenCount": output, "totalTokenCount": total,
            }),
            Api::Chat | Api::Completions => json!({
                "prompt_tokens": input, "completion_tokens": output, "total_tokens": total,
                "prompt_tokens_details": {"cached_tokens": 0},
            }),
        }
    }

    fn text(&self) -> Vec<String> {
        (0..self.words).map(|index| format!("word{index} ")).collect()
    }

    fn openai_events(&self) -> Vec<String> {
        let event = |choices: Value| {
            let (id, object) = match self.api {
                Api::Completions => ("cmpl-1", "text_completion"),
                _ => ("chatcmpl-1", "chat.completion.chunk"),
            };
            let created = 1_760_000_000;
            json!({"id": id, "object": object, "created": created, "model": self.model, "choices": choices, "usage": null})
        };
        let part = |delta: Value, finish: Value| match self.api {
            Api::Completions => event(json!([{"index": 0, "text": delta["content"], "finish_reason": finish}])),
            _ => event(json!([{"index": 0, "delta": delta, "finish_reason": finish}])),
        };
        let mut events = vec![part(json!({"role": "assistant", "content": ""}), Value::Null)];
        events.extend(self.text().into_iter().map(|word| part(json!({"content": word}), Value::Null)));
        events.push(part(json!({"content": ""}), json!("stop")));
        if let Some(tokens) = self.tokens {
            let mut last = event(json!([]));
            last["usage"] = self.usage(tokens);
            events.push(last);
        }
        let mut parts: Vec<String> = events.iter().map(|event| format!("data: {event}\n\n")).collect();
        parts.push("data: [DONE]\n\n".to_owned());
        parts
    }

    fn anthropic_events(&self) -> Vec<String> {
        let mut start = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null,
        });
        let mut end = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null}});
        if let Some(Tokens { input, output }) = self.tokens {
            start["usage"] = json!({"input_tokens": input, "output_tokens": 1});
            end["usage"] = json!({"output_tokens": output});
        }
        let mut events = vec![
            json!({"type": "message_start", "message": start}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "ping"}),
        ];
        events.extend(self.text().into_iter().map(
            |word| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}),
        ));
        events.push(json!({"type": "content_block_stop", "index": 0}));
        events.push(end);
        events.push(json!({"type": "message_stop"}));
        events.iter().map(named_event).collect()
    }

    fn response(&self, status: &str) -> Value {
        let done = status == "completed";
        let output = json!([{
            "id": "msg_1", "type": "message", "status": status, "role": "assistant",
            "content": [{"type": "output_text", "text": self.text().concat(), "annotations": []}],
        }]);
        let usage = self.tokens.filter(|_| done).map(|tokens| self.usage(tokens));
        json!({
            "id": "resp_1", "object": "response", "created_at": 1_760_000_000, "status": status, "model": self.model,
            "output": if done { output } else { json!([]) }, "usage": usage,
        })
    }

    fn responses_events(&self) -> Vec<String> {
        let started = self.response("in_progress");
        let mut events = vec![
            json!({"type": "response.created", "response": started}),
            json!({"type": "response.in_progress", "response": started}),
        ];
        events.extend(self.text().into_iter().map(|word| {
            json!({"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "content_index": 0,
                   "delta": word})
        }));
        events.push(json!({"type": "response.output_text.done", "item_id": "msg_1", "output_index": 0,
                           "content_index": 0, "text": self.text().concat()}));
        events.push(json!({"type": "response.completed", "response": self.response("completed")}));
        for (number, event) in events.iter_mut().enumerate() {
            event["sequence_number"] = json!(number);
        }
        events.iter().map(named_event).collect()
    }

    fn gemini(&self, text: &str, last: bool) -> Value {
        let mut candidate = json!({"content": {"parts": [{"text": text}], "role": "model"}, "index": 0});
        if last {
            candidate["finishReason"] = json!("STOP");
        }
        let mut answer = json!({"candidates": [candidate], "modelVersion": self.model});
        if let Some(tokens) = self.tokens {
            let Tokens { input, .. } = tokens;
            let so_far = json!({"promptTokenCount": input, "totalTokenCount": input});
            answer["usageMetadata"] = if last { self.usage(tokens) } else { so_far };
        }
        answer
    }

    fn gemini_answers(&self) -> Vec<Value> {
        let text = self.text();
        text.iter().enumerate().map(|(index, word)| self.gemini(word, index + 1 == text.len())).collect()
    }

    fn gemini_array(&self) -> Vec<String> {
        let answers = self.gemini_answers();
        let parts = answers.iter().enumerate().map(|(index, one)| match index {
            0 => format!("[{one}"),
            _ => format!(",\r\n{one}"),
        });
        parts.chain(["]".to_owned()]).collect()
    }
}

fn named_event(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
}
