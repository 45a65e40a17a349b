//! What three real models answer through the whole system.

use moe2_e2e::{MODELS, System, alone};
use serde_json::json;

#[test]
fn every_model_answers_simple_questions_and_says_the_same_again() {
    let _alone = alone();
    let system = System::real();
    // Questions that each model can answer; the base model continues text, so it is given some.
    let known = [
        (MODELS[0], "What is the capital of France?", "Paris"),
        (MODELS[1], "The capital of France is", "Paris"),
        (
            MODELS[2],
            "Write a Python function `add(a, b)` that returns the sum.",
            "def add(",
        ),
    ];
    for (model, question, word) in known {
        let body = json!({"model": model, "max_tokens": 32});
        let first = system.api().chat(question, &body);
        assert_eq!(first.status, 200, "{:?}", first.json);
        assert!(first.text().contains(word), "{model}: {:?}", first.text());
        assert!(first.model().starts_with(&format!("{model}@edge-")));
        let again = system.api().chat(question, &body);
        assert_eq!(first.text(), again.text(), "{model} at temperature 0");
    }
}

#[test]
fn a_fused_choice_weighs_three_experts() {
    let _alone = alone();
    let system = System::real();
    let options = ["Paris", "Berlin", "Rome"];
    let body = json!({
        "structured_outputs": {"choice": options},
        "moe2": {"mode": "fuse", "max_experts": 3, "explain": true},
    });
    let question = "What is the capital of France? Answer with one word.";
    let reply = system.api().chat(question, &body);
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    assert_eq!(reply.text(), "Paris");
    let own = &reply.json["moe2"];
    assert_eq!(own["fusion"], "mixture", "{own}");
    let experts = own["experts"].as_array().expect("a list of experts");
    assert_eq!(experts.len(), 3, "{own}");
    let weights: Vec<f64> = experts
        .iter()
        .filter_map(|e| e["weight"].as_f64())
        .collect();
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{own}");
    assert!(weights.iter().all(|w| *w > 0.0), "{own}");
    for expert in experts {
        let logprobs = expert["option_logprobs"].as_array().expect("asked for");
        assert_eq!(logprobs.len(), options.len(), "{expert}");
        assert!(
            expert["actual"]["energy_j"].as_f64() > Some(0.0),
            "{expert}"
        );
    }
}

#[test]
fn explain_shows_every_candidate_and_the_chosen_one_first() {
    let _alone = alone();
    let system = System::real();
    let body = json!({"max_tokens": 4, "moe2": {"explain": true}});
    let reply = system.api().chat("Write FizzBuzz in Rust.", &body);
    assert_eq!(reply.status, 200, "{:?}", reply.json);
    let own = &reply.json["moe2"];
    let candidates = own["candidates"].as_array().expect("a list of candidates");
    assert_eq!(candidates.len(), 3, "{own}");
    assert_eq!(candidates[0]["verdict"], "chosen", "{own}");
    assert_eq!(candidates[0]["expert"], reply.model(), "{own}");
    for candidate in candidates {
        assert!(candidate["score"].is_number(), "{candidate}");
        assert!(
            candidate["forecast"]["delay_s"].as_f64() > Some(0.0),
            "{candidate}"
        );
    }
}
