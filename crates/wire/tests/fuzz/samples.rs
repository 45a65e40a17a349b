//! A message of every variant, each a seed of the corpus.
//!
//! The names are exhaustive matches, so that a new variant does not compile until it is named here; a
//! sample whose file is missing or old is written by its test, which fails once.

use std::path::Path;

use moe2_model::{
    Bytes, DeviceInfo, DeviceKind, DispatchId, EnergySource, ExpertName, ExpertOffer, ExpertState,
    Figure, FinishReason, GpuInfo, Joules, Message, Prompt, Role, Roofline, Sampling, Seconds,
    Task, Usage, Watts,
};
use moe2_wire::{
    EnrolError, EnrolReply, EnrolRequest, FailureKind, FromAgent, FromExpert, FromWorker,
    PROTOCOL_VERSION, RefusedAgent, ToAgent, ToExpert, ToWorker, codec, encode_frame,
};
use serde::Serialize;

/// The target that reads it, what it is called, its bytes.
pub(crate) type Sample = (&'static str, &'static str, Vec<u8>);

pub(crate) fn all() -> Vec<Sample> {
    let mut all = Vec::new();
    all.extend(
        from_agent()
            .iter()
            .map(|m| sample("control", named_from_agent(m), m)),
    );
    all.extend(
        to_agent()
            .iter()
            .map(|m| sample("control", named_to_agent(m), m)),
    );
    all.extend(
        to_expert()
            .iter()
            .map(|m| sample("work", named_to_expert(m), m)),
    );
    all.extend(
        from_expert()
            .iter()
            .map(|m| sample("work", named_from_expert(m), m)),
    );
    all.extend(
        to_worker()
            .iter()
            .map(|m| sample("worker", named_to_worker(m), m)),
    );
    all.extend(
        from_worker()
            .iter()
            .map(|m| sample("worker", named_from_worker(m), m)),
    );
    all.push(sample("enrol", "request", &request()));
    all.extend(replies().iter().map(|m| sample("enrol", named_reply(m), m)));
    all
}

/// For the target that cuts a stream: into pieces of three bytes, two frames and the begin of one.
fn stream() -> Sample {
    let mut bytes = vec![3];
    for message in &from_expert()[..2] {
        bytes.extend(encode_frame(message).expect("it fits"));
    }
    bytes.extend([9, 0, 0, 0, 1]);
    ("stream", "two-frames", bytes)
}

fn sample(target: &'static str, name: &'static str, message: &impl Serialize) -> Sample {
    let mut bytes = Vec::new();
    codec::encode_into(message, &mut bytes).expect("it can be written");
    (target, name, bytes)
}

fn named_from_agent(message: &FromAgent) -> &'static str {
    match message {
        FromAgent::Hello { .. } => "hello",
        FromAgent::Heartbeat { .. } => "heartbeat",
        FromAgent::Expert { .. } => "expert",
        FromAgent::Draining => "draining",
        FromAgent::Loaded { .. } => "loaded",
    }
}

fn from_agent() -> Vec<FromAgent> {
    let (device, offer) = (device(), offer());
    let failed = ExpertState::Failed {
        reason: "no such file".into(),
    };
    let hello = FromAgent::Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        software: "moe2-agent 0.1.0".into(),
        device,
        experts: vec![(offer, ExpertState::Loading)],
    };
    let heartbeat = FromAgent::Heartbeat {
        sequence: 300,
        standing: Figure {
            joules: Joules::saturating(2.5),
            error: Joules::saturating(0.5),
            source: EnergySource::Rapl,
        },
        clock: Some(1_700_000_000_000_000),
    };
    let state = FromAgent::Expert {
        name: expert(),
        state: failed,
    };
    let loaded = FromAgent::Loaded {
        name: expert(),
        took: Seconds::saturating(1.5),
    };
    vec![hello, heartbeat, state, FromAgent::Draining, loaded]
}

fn named_to_agent(message: &ToAgent) -> &'static str {
    match message {
        ToAgent::Welcome { .. } => "welcome",
        ToAgent::Refused(RefusedAgent::Version { .. }) => "refused-version",
        ToAgent::Refused(RefusedAgent::BadHello(_)) => "refused-bad-hello",
        ToAgent::Keep { .. } => "keep",
    }
}

fn to_agent() -> Vec<ToAgent> {
    let welcome = ToAgent::Welcome {
        version: PROTOCOL_VERSION,
        heartbeat_ms: 500,
    };
    let version = RefusedAgent::Version { min: 3, max: 3 };
    let bad = RefusedAgent::BadHello("too many experts".into());
    let keep = ToAgent::Keep {
        experts: vec![expert()],
    };
    let refused = [version, bad].map(ToAgent::Refused);
    [vec![welcome], refused.into(), vec![keep]].concat()
}

fn named_to_expert(message: &ToExpert) -> &'static str {
    match message {
        ToExpert::Work {
            task: Task::Generate(_),
            ..
        } => "work-generate",
        ToExpert::Work {
            task: Task::Choice { .. },
            ..
        } => "work-choice",
        ToExpert::Cancel => "cancel",
    }
}

fn to_expert() -> Vec<ToExpert> {
    let generate = work(Task::Generate(sampling(vec!["\n".into()])));
    vec![generate, work(choice()), ToExpert::Cancel]
}

/// Work as in the example of the protocol.
pub(crate) fn work(task: Task) -> ToExpert {
    ToExpert::Work {
        dispatch: DispatchId(9),
        expert: expert(),
        prompt: chat(),
        task,
        deadline_ms: 300_000,
    }
}

fn named_from_expert(message: &FromExpert) -> &'static str {
    match message {
        FromExpert::Text(_) => "text",
        FromExpert::Options(_) => "options",
        FromExpert::Done { .. } => "done",
        FromExpert::Failed {
            kind: FailureKind::ContextTooLong { .. },
            ..
        } => "failed-context",
        FromExpert::Failed {
            kind:
                FailureKind::Busy
                | FailureKind::Unavailable
                | FailureKind::WorkerLost
                | FailureKind::Deadline
                | FailureKind::Rejected,
            ..
        } => "failed",
    }
}

fn from_expert() -> Vec<FromExpert> {
    let usage = Usage {
        prompt_tokens: 40,
        cached_tokens: 32,
        output_tokens: 300,
        queue: Seconds::saturating(0.25),
        prefill: Seconds::saturating(0.5),
        decode: Seconds::saturating(3.0),
        energy: Joules::saturating(42.0),
        energy_source: EnergySource::Modelled,
        energy_error: Joules::saturating(21.0),
    };
    let failed = |kind, usage| FromExpert::Failed {
        kind,
        message: "why".into(),
        usage,
    };
    let finish = FinishReason::Length;
    vec![
        FromExpert::Text("Grüße".into()),
        FromExpert::Options(vec![-0.25, -1.5]),
        FromExpert::Done { finish, usage },
        failed(too_long(), None),
        failed(FailureKind::Deadline, Some(usage)),
    ]
}

fn named_to_worker(message: &ToWorker) -> &'static str {
    match message {
        ToWorker::Start { .. } => "start",
        ToWorker::Cancel { .. } => "cancel",
    }
}

fn to_worker() -> Vec<ToWorker> {
    let start = ToWorker::Start {
        dispatch: DispatchId(9),
        prompt: Prompt::Raw("Once upon a time".into()),
        task: choice(),
    };
    let cancel = ToWorker::Cancel {
        dispatch: DispatchId(1 << 40),
    };
    vec![start, cancel]
}

fn named_from_worker(message: &FromWorker) -> &'static str {
    match message {
        FromWorker::Ready { .. } => "ready",
        FromWorker::LoadFailed { .. } => "load-failed",
        FromWorker::Text { .. } => "text",
        FromWorker::Options { .. } => "options",
        FromWorker::Finished { .. } => "finished",
        FromWorker::Failed { .. } => "failed",
    }
}

fn from_worker() -> Vec<FromWorker> {
    let dispatch = DispatchId(9);
    let message = "not a GGUF file".to_owned();
    vec![
        FromWorker::Ready {
            context_tokens: 2_048,
            kv_per_token: Bytes(23_040),
            load: Seconds::saturating(0.75),
        },
        FromWorker::LoadFailed {
            message: message.clone(),
        },
        FromWorker::Text {
            dispatch,
            text: "Hi".into(),
        },
        FromWorker::Options {
            dispatch,
            logprobs: vec![-0.5, f64::NEG_INFINITY],
        },
        FromWorker::Finished {
            dispatch,
            finish: FinishReason::Stop,
            prompt_tokens: 7,
            cached_tokens: 6,
            output_tokens: 1,
            prefill: Seconds::saturating(0.125),
            decode: Seconds::ZERO,
        },
        FromWorker::Failed {
            dispatch,
            kind: too_long(),
            message,
        },
    ]
}

fn request() -> EnrolRequest {
    EnrolRequest {
        token_id: "q1w2e3r4t5y6".into(),
        secret: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8".into(),
        node: "orin-1".into(),
        csr_der: vec![0x30, 0x82, 0x01, 0x02],
    }
}

fn named_reply(message: &EnrolReply) -> &'static str {
    match message {
        EnrolReply::Issued { .. } => "issued",
        EnrolReply::Refused(_) => "refused",
    }
}

fn replies() -> Vec<EnrolReply> {
    let issued = EnrolReply::Issued {
        certificate_der: vec![0x30; 9],
        ca_der: vec![0x31; 7],
    };
    vec![issued, EnrolReply::Refused(EnrolError::OtherNode)]
}

fn expert() -> ExpertName {
    ExpertName::new("m").expect("a valid name")
}

fn chat() -> Prompt {
    Prompt::Chat(vec![Message {
        role: Role::User,
        content: "hi".into(),
    }])
}

pub(crate) fn sampling(stop: Vec<String>) -> Sampling {
    Sampling {
        max_tokens: 7,
        temperature: 0.5,
        top_p: 0.9,
        seed: 3,
        stop,
    }
}

fn choice() -> Task {
    let options = vec!["yes".into(), "no".into()];
    Task::Choice { options }
}

fn too_long() -> FailureKind {
    FailureKind::ContextTooLong {
        prompt_tokens: 3_000,
        context_tokens: 2_048,
    }
}

fn device() -> DeviceInfo {
    let roofline = Roofline {
        bytes_per_s: 1.7e11,
        flop_per_s: 5e12,
    };
    DeviceInfo {
        kind: DeviceKind::Jetson,
        model: "Jetson AGX Orin".into(),
        threads: 12,
        parallel: 1,
        memory: Bytes(64 << 30),
        gpus: vec![GpuInfo {
            name: "Orin".into(),
            driver: "540.4".into(),
            software: false,
        }],
        cpu: Some(roofline),
        gpu: None,
        energy_source: EnergySource::Ina3221,
        idle_power: Watts::saturating(9.0),
        busy_power: Watts::saturating(40.0),
    }
}

fn offer() -> ExpertOffer {
    ExpertOffer {
        name: expert(),
        family: "qwen2".into(),
        quantisation: "Q4_K_M".into(),
        parameters: 494_000_000,
        weights: Bytes(398_000_000),
        kv_per_token: Bytes(12_288),
        context_tokens: 2_048,
        slots: 1,
        load: None,
    }
}

#[test]
fn every_sample_is_a_seed_of_the_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/__fuzz__");
    let mut written = Vec::new();
    for (target, name, bytes) in all().into_iter().chain([stream()]) {
        let path = root
            .join(target)
            .join("corpus")
            .join(format!("seed-{name}"));
        if std::fs::read(&path).ok().as_deref() != Some(&bytes) {
            std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
            std::fs::write(&path, &bytes).expect("written");
            written.push(path);
        }
    }
    assert!(
        written.is_empty(),
        "old or missing, and now written: {written:?}"
    );
}
