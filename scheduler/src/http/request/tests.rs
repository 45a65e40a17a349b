//! Tables of requests and what becomes of them.

use std::time::Duration;

use moe2_model::{Joules, Message, Mode, Role, Sampling, Seconds};
use serde_json::json;

use super::*;

const LIMITS: Limits = Limits {
    max_body: 1 << 20,
    max_output_tokens: 1_000,
    body_timeout: Duration::from_secs(30),
};

fn context() -> Context<'static> {
    Context {
        tenant: TenantId::new("alice").expect("a valid name"),
        limits: &LIMITS,
        seed: 77,
    }
}

fn chat(extra: &Value) -> Result<Parsed, ApiError> {
    let mut request = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi"}]});
    let map = request.as_object_mut().expect("an object");
    for (name, value) in extra.as_object().expect("an object") {
        map.insert(name.clone(), value.clone());
    }
    parse(Endpoint::Chat, request.to_string().as_bytes(), context())
}

fn text(prompt: &Value) -> Result<Parsed, ApiError> {
    let request = json!({"model": "auto", "prompt": prompt}).to_string();
    parse(Endpoint::Text, request.as_bytes(), context())
}

fn sampling(extra: &Value) -> Sampling {
    match chat(extra).expect("a valid request").query.task {
        Task::Generate(sampling) => sampling,
        Task::Choice { .. } => panic!("free text was asked for"),
    }
}

fn refused_param(extra: &Value) -> Option<String> {
    let error = chat(extra).expect_err("must be refused");
    assert_eq!(error.status, StatusCode::BAD_REQUEST, "{extra}");
    error.param
}

#[test]
fn a_minimal_chat_gets_the_defaults() {
    let parsed = chat(&json!({})).expect("a valid request");
    let expected = Query {
        tenant: TenantId::new("alice").expect("a valid name"),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: "Hi".to_owned(),
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 512,
            temperature: 1.0,
            top_p: 1.0,
            seed: 77,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: moe2_model::Budgets::default(),
        max_experts: 3,
        mode: Mode::Auto,
        stream: false,
    };
    assert_eq!(parsed.query, expected);
    assert!(!parsed.explain && !parsed.include_usage);
}

#[test]
fn wrong_messages_and_models_are_refused_by_name() {
    let image = json!([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]);
    let table = [
        (json!({"model": null}), "model"),
        (json!({"model": 3}), "model"),
        (json!({"messages": null}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": "Hi"}), "messages"),
        (json!({"messages": ["Hi"]}), "messages[0]"),
        (json!({"messages": [{"content": "a"}]}), "messages[0].role"),
        (
            json!({"messages": [{"role": "tool", "content": "a"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "king", "content": "a"}]}),
            "messages[0].role",
        ),
        (
            json!({"messages": [{"role": "user"}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": []}]}),
            "messages[0].content",
        ),
        (
            json!({"messages": [{"role": "user", "content": image}]}),
            "messages[0].content[1]",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0]",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]}),
            "messages[0].tool_calls",
        ),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (
            json!({"max_completion_tokens": 1001}),
            "max_completion_tokens",
        ),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 6}),
            "max_tokens",
        ),
    ];
    for (extra, param) in table {
        assert_eq!(refused_param(&extra).as_deref(), Some(param), "{extra}");
    }
}

#[test]
fn wrong_options_are_refused_by_name() {
    let table = [
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": u64::MAX}), "seed"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", 3]}), "stop"),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
        (json!({"stream": "yes"}), "stream"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
        ),
        (json!({"n": 2}), "n"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format",
        ),
        (
            json!({"structured_outputs": {"json": {}}}),
            "structured_outputs.json",
        ),
        (
            json!({"structured_outputs": {"choice": []}}),
            "structured_outputs.choice",
        ),
        (json!({"guided_choice": ["a", "a"]}), "guided_choice"),
        (json!({"guided_choice": [""]}), "guided_choice"),
        (
            json!({"guided_choice": ["a"], "structured_outputs": {"choice": ["a"]}}),
            "guided_choice",
        ),
        (json!({"moe2": []}), "moe2"),
        (
            json!({"moe2": {"delay_budget_ms": 0}}),
            "moe2.delay_budget_ms",
        ),
        (
            json!({"moe2": {"energy_budget_j": -1}}),
            "moe2.energy_budget_j",
        ),
        (json!({"moe2": {"max_experts": 9}}), "moe2.max_experts"),
        (json!({"moe2": {"mode": "cascades"}}), "moe2.mode"),
        (json!({"moe2": {"mode": "best"}}), "moe2.mode"),
        (json!({"moe2": {"explain": "yes"}}), "moe2.explain"),
    ];
    for (extra, param) in table {
        assert_eq!(refused_param(&extra).as_deref(), Some(param), "{extra}");
    }
}

#[test]
fn everything_in_the_table_of_unsupported_fields_is_refused_by_name() {
    for name in unsupported::names() {
        let extra = json!({ name: {"some": "thing"} });
        assert_eq!(refused_param(&extra).as_deref(), Some(name));
        assert!(
            chat(&json!({ name: null })).is_ok(),
            "{name}: null is absent"
        );
    }
}

#[test]
fn values_that_change_nothing_pass() {
    let harmless = json!({
        "n": 1, "logprobs": false, "presence_penalty": 0, "frequency_penalty": 0.0,
        "logit_bias": {}, "tools": [], "tool_choice": "none", "function_call": "none",
        "modalities": ["text"], "store": false, "user": "u", "metadata": {"a": "b"},
        "service_tier": "auto", "response_format": {"type": "text"}, "brand_new_field": [1],
        "stop": null, "seed": null, "moe2": null, "stream_options": null,
    });
    assert_eq!(chat(&harmless), chat(&json!({})));
}

#[test]
fn a_model_names_anyone_a_model_or_one_deployment() {
    let target = |model: &str| chat(&json!({ "model": model })).map(|p| p.query.target);
    assert_eq!(target("auto"), Ok(Target::Auto));
    let name = "smollm2-135m".parse().expect("a valid name");
    assert_eq!(target("smollm2-135m"), Ok(Target::Model(name)));
    let id = "smollm2@orin-1".parse().expect("a valid id");
    assert_eq!(target("smollm2@orin-1"), Ok(Target::Expert(id)));
    for strange in ["", "a/b", "a@", "a@b@c", "gpt 4"] {
        let error = target(strange).expect_err("not a name");
        assert_eq!(error.status, StatusCode::NOT_FOUND, "{strange:?}");
        assert_eq!(error.code, Some("model_not_found"));
        assert_eq!(error.param.as_deref(), Some("model"));
    }
}

#[test]
fn messages_keep_their_order_roles_and_texts() {
    let parts = json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]);
    let parsed = chat(&json!({"messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": null},
    ]}));
    let Prompt::Chat(messages) = parsed.expect("a valid request").query.prompt else {
        panic!("a chat was asked");
    };
    let seen: Vec<_> = messages
        .iter()
        .map(|m| (m.role, m.content.as_str()))
        .collect();
    let expected = [
        (Role::System, "Be brief."),
        (Role::User, "one\ntwo"),
        (Role::Assistant, ""),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn sampling_is_taken_over() {
    let given = sampling(&json!({
        "max_completion_tokens": 9, "temperature": 0, "top_p": 0.5, "seed": 5, "stop": "\n",
    }));
    let expected = Sampling {
        max_tokens: 9,
        temperature: 0.0,
        top_p: 0.5,
        seed: 5,
        stop: vec!["\n".to_owned()],
    };
    assert_eq!(given, expected);
    assert_eq!(sampling(&json!({"max_tokens": 1_000})).max_tokens, 1_000);
    assert_eq!(sampling(&json!({"seed": i64::MIN})).seed, 1 << 31);
    assert!(sampling(&json!({"top_p": 1e-300})).top_p > 0.0);
}

#[test]
fn a_choice_is_asked_for_in_either_spelling() {
    let options = vec!["A".to_owned(), "B".to_owned()];
    for extra in [
        json!({"structured_outputs": {"choice": ["A", "B"], "json": null}}),
        json!({"guided_choice": ["A", "B"]}),
    ] {
        let task = chat(&extra).expect("a valid request").query.task;
        let options = options.clone();
        assert_eq!(task, Task::Choice { options }, "{extra}");
    }
}

#[test]
fn our_own_wishes_are_taken_over() {
    let parsed = chat(
        &json!({"stream": true, "stream_options": {"include_usage": true}, "moe2": {
            "delay_budget_ms": 1500, "energy_budget_j": 2.5, "mode": "fuse", "explain": true,
        }}),
    );
    let parsed = parsed.expect("a valid request");
    assert!(parsed.explain && parsed.include_usage && parsed.query.stream);
    assert_eq!(parsed.query.budgets.delay, Some(Seconds::saturating(1.5)));
    assert_eq!(parsed.query.budgets.energy, Some(Joules::saturating(2.5)));
    assert_eq!(
        (parsed.query.mode, parsed.query.max_experts),
        (Mode::Fuse, 3)
    );
    let cascade = chat(&json!({"moe2": {"mode": "cascade"}}));
    let cascade = cascade.expect("a valid request").query;
    assert_eq!((cascade.mode, cascade.max_experts), (Mode::Cascade, 3));
    let two = chat(&json!({"moe2": {"mode": "single", "max_experts": 2}}));
    let two = two.expect("a valid request").query;
    assert_eq!((two.mode, two.max_experts), (Mode::Single, 2));
}

#[test]
fn a_mistyped_wish_is_refused_with_the_nearest_known_one() {
    let error = chat(&json!({"moe2": {"delay_budget": 5}})).expect_err("not a key");
    assert_eq!(error.param.as_deref(), Some("moe2.delay_budget"));
    assert!(error.message.contains("`moe2.delay_budget_ms`"), "{error}");
}

#[test]
fn a_text_prompt_is_one_string() {
    for prompt in [json!("Once"), json!(["Once"])] {
        let parsed = text(&prompt).expect("a valid request");
        assert_eq!(parsed.query.prompt, Prompt::Raw("Once".to_owned()));
    }
    for prompt in [
        json!(null),
        json!(""),
        json!([]),
        json!(["a", "b"]),
        json!([1, 2]),
        json!([[1]]),
    ] {
        let error = text(&prompt).expect_err("not one prompt");
        assert_eq!(error.param.as_deref(), Some("prompt"), "{prompt}");
    }
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    for body in [
        &b"{\"model\": \"\xff\"}"[..],
        b"",
        b"{",
        b"[]",
        b"null",
        b"{\"top_p\": 1e999}",
    ] {
        let error = parse(Endpoint::Chat, body, context()).expect_err("not a request");
        assert_eq!(error.status, StatusCode::BAD_REQUEST);
        assert_eq!(error.param, None);
    }
    let deep = "[".repeat(100_000);
    assert!(parse(Endpoint::Chat, deep.as_bytes(), context()).is_err());
}

#[test]
fn a_long_key_is_repeated_in_part() {
    let long = "k".repeat(100_000);
    for field in ["moe2", "structured_outputs"] {
        let error = chat(&json!({ field: { &long: 1 } })).expect_err("no such key");
        let param = error.param.expect("it is named");
        assert!(
            param.starts_with(&format!("{field}.kkk")) && param.len() < 120,
            "{param}"
        );
        assert!(error.message.len() < 300, "{}", error.message);
    }
}

/// Characters of a refusal, at most: it quotes words in part and escaped, and never a whole request.
const REFUSAL: usize = 1_200;

#[test]
fn fuzz_request() {
    bolero::check!(name = "request").for_each(|body: &[u8]| {
        for endpoint in [Endpoint::Chat, Endpoint::Text] {
            match parse(endpoint, body, context()) {
                Err(error) => {
                    assert!(error.status.is_client_error() && !error.message.is_empty());
                    let parts = [Some(&error.message), error.param.as_ref()];
                    let quoted: usize = parts
                        .iter()
                        .flatten()
                        .map(|part| part.chars().count())
                        .sum();
                    assert!(quoted <= REFUSAL, "{} characters: {quoted}", error.message);
                }
                Ok(parsed) => {
                    let Query { prompt, task, .. } = parsed.query;
                    let work = moe2_wire::ToExpert::Work {
                        dispatch: moe2_model::DispatchId(1),
                        expert: moe2_model::ExpertName::new("m").expect("a valid name"),
                        prompt,
                        task,
                        deadline_ms: 0,
                    };
                    moe2_wire::encode_frame(&work).expect("what is taken fits a frame");
                }
            }
        }
    });
}
