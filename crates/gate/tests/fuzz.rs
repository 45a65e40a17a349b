//! Any bytes as a gate file, as the content of one with the right checksum, and as outcomes to train on.
//!
//! The checksum would keep a fuzzer out of everything behind it, so a target of its own puts the right
//! one in front of whatever it is given. The targets are tests, which replay their corpus here;
//! `docs/security.md` says how to run them longer.

#[cfg(test)]
mod targets {
    use moe2_gate::{Gate, read_questions};
    use moe2_model::{
        Budgets, ExpertName, Message, Mode, Prompt, Query, Role, Sampling, Target, Task, TenantId,
    };
    use sha2::{Digest as _, Sha256};

    fn question() -> Query {
        Query {
            tenant: TenantId::new("t").expect("a valid name"),
            prompt: Prompt::Chat(vec![Message {
                role: Role::User,
                content: "Which is larger, 7 × 8 or 50?".into(),
            }]),
            task: Task::Generate(Sampling {
                max_tokens: 64,
                temperature: 1.0,
                top_p: 1.0,
                seed: 1,
                stop: Vec::new(),
            }),
            target: Target::Auto,
            budgets: Budgets::default(),
            max_experts: 1,
            mode: Mode::Auto,
            stream: false,
        }
    }

    fn judge(file: &[u8]) {
        let gate = match Gate::from_bytes(file) {
            Ok(gate) => gate,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                return;
            }
        };
        let experts = ["a", "smollm2-135m-instruct"];
        let experts = experts.map(|name| ExpertName::new(name).expect("a valid name"));
        for quality in gate.forecast(&gate.features(&question()), &experts) {
            assert!((0.0..=1.0).contains(&quality.probability), "{quality:?}");
            assert!(quality.uncertainty >= 0.0, "{quality:?}");
            assert!(quality.output_tokens >= 0.0, "{quality:?}");
        }
        assert_eq!(Gate::from_bytes(&gate.to_bytes()), Ok(gate));
    }

    #[test]
    fn gate_file() {
        bolero::check!(name = "gate_file").for_each(|bytes: &[u8]| judge(bytes));
    }

    #[test]
    fn gate_content() {
        bolero::check!(name = "gate_content").for_each(|content: &[u8]| {
            let sum: String = Sha256::digest(content)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let head = format!(r#"{{"format":"moe2-gate/1","sha256":"{sum}","gate":"#);
            judge(&[head.as_bytes(), content, b"}"].concat());
        });
    }

    #[test]
    fn outcomes() {
        bolero::check!(name = "outcomes").for_each(|bytes: &[u8]| {
            let items = match read_questions(bytes) {
                Ok(items) => items,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return;
                }
            };
            let mut written = Vec::new();
            for item in &items {
                serde_json::to_writer(&mut written, item).expect("it is JSON");
                written.push(b'\n');
            }
            assert_eq!(read_questions(&written[..]), Ok(items));
        });
    }
}
