//! An agent that says what is not true.
//!
//! Its engine is the real one; what it says is changed on the way out, as far as the wire can carry it. What
//! a stream of its own or its certificate makes impossible (another node's name, another session's work) is
//! not tried.

use moe2_model::{
    Bytes, DispatchId, ExpertOffer, ExpertState, Figure, FinishReason, Joules, Rng, Roofline,
    Seconds, Time, Usage, Watts,
};
use moe2_wire::{FailureKind, FromAgent, FromExpert};

use crate::network::Up;
use crate::world::World;

/// What is said in the place of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// A machine beyond all measure, or none at all.
    Hello,
    /// A hello within a session.
    SecondHello,
    /// States of experts that it has and has not, all the time.
    States,
    /// Heartbeats without end, with energy beyond all measure.
    Beats,
    /// More text than tokens hold, and text where none was asked for.
    Text,
    /// Token counts.
    Tokens,
    /// Times.
    Seconds,
    /// Joules, too many.
    Joules,
    /// Joules, none.
    NoJoules,
    /// Scores that are no log-probabilities.
    Options,
    /// Failures with reasons beyond all measure.
    Failures,
    /// An end before the answer, or a cancel that nobody asked for.
    EarlyEnd,
    /// No last frame.
    Silence,
    /// Frames after the last, and of work that nobody has.
    AfterTheLast,
}

impl Lie {
    const ALL: [Self; 14] = [
        Self::Hello,
        Self::SecondHello,
        Self::States,
        Self::Beats,
        Self::Text,
        Self::Tokens,
        Self::Seconds,
        Self::Joules,
        Self::NoJoules,
        Self::Options,
        Self::Failures,
        Self::EarlyEnd,
        Self::Silence,
        Self::AfterTheLast,
    ];
}

/// What one agent lies about, and until when.
#[derive(Debug)]
pub(crate) struct Liar {
    lie: Lie,
    until: Time,
    rng: Rng,
}

impl World<'_> {
    /// An agent begins to lie.
    pub(crate) fn lie(&mut self, node: usize, until: Time, mut rng: Rng) {
        let lie = *rng.pick(&Lie::ALL);
        if let Some(session) = self.hosts[node].link {
            match lie {
                // It has to say hello again to say another one.
                Lie::Hello => self.cut(session),
                Lie::SecondHello => {
                    let hello = self.hosts[node].hello();
                    self.send_up(session, Up::Control(hello));
                }
                Lie::States => {
                    for message in states(&self.hosts[node].config.experts, &mut rng) {
                        self.send_up(session, Up::Control(message));
                    }
                }
                Lie::Beats => {
                    for _ in 0..20 {
                        let beat = FromAgent::Heartbeat {
                            sequence: rng.bits(),
                            standing: Figure {
                                joules: Joules::saturating(f64::MAX),
                                error: Joules::saturating(f64::MAX),
                                ..Figure::NONE
                            },
                            clock: Some(rng.bits()),
                        };
                        self.send_up(session, Up::Control(beat));
                    }
                }
                _ => {}
            }
        }
        self.hosts[node].liar = Some(Liar { lie, until, rng });
    }

    fn liar(&mut self, node: usize) -> Option<(Lie, Rng)> {
        let now = self.now;
        let liar = self.hosts[node].liar.as_mut().filter(|l| l.until > now)?;
        Some((liar.lie, Rng::new(liar.rng.bits())))
    }

    /// What an agent says on its control stream, if it is a liar.
    pub(crate) fn control_of(&mut self, node: usize, message: FromAgent) -> FromAgent {
        match (self.liar(node), message) {
            (Some((Lie::Hello, mut rng)), hello @ FromAgent::Hello { .. }) => {
                absurd(hello, &mut rng)
            }
            (_, message) => message,
        }
    }

    /// What an agent says of a dispatch in the place of a frame.
    pub(crate) fn frames_of(
        &mut self,
        node: usize,
        dispatch: DispatchId,
        frame: FromExpert,
    ) -> Vec<(DispatchId, FromExpert)> {
        let truth = |frame| vec![(dispatch, frame)];
        let Some((lie, mut rng)) = self.liar(node) else {
            return truth(frame);
        };
        if !rng.chance(0.5) {
            return truth(frame);
        }
        self.judge.lied_about(dispatch);
        match (lie, frame) {
            (Lie::Text, FromExpert::Text(text)) => {
                let length = [0, 1, 600, 40_000][rng.below(4)];
                vec![
                    (dispatch, FromExpert::Text(text)),
                    (dispatch, FromExpert::Text("x".repeat(length))),
                ]
            }
            (Lie::Text, FromExpert::Options(logprobs)) => vec![
                (dispatch, FromExpert::Text("x".repeat(900))),
                (dispatch, FromExpert::Options(logprobs)),
            ],
            (Lie::Options, FromExpert::Options(logprobs)) => {
                truth(FromExpert::Options(scores(logprobs, &mut rng)))
            }
            (Lie::EarlyEnd, FromExpert::Text(text)) => {
                let finish = *rng.pick(&[FinishReason::Stop, FinishReason::Cancelled]);
                let usage = nothing();
                vec![
                    (dispatch, FromExpert::Done { finish, usage }),
                    (dispatch, FromExpert::Text(text)),
                ]
            }
            (Lie::Failures, FromExpert::Done { usage, .. }) => {
                let kinds = [
                    FailureKind::ContextTooLong {
                        prompt_tokens: u32::MAX,
                        context_tokens: rng.between(0, u32::MAX),
                    },
                    FailureKind::Rejected,
                    FailureKind::Deadline,
                    FailureKind::Busy,
                ];
                let kind = *rng.pick(&kinds);
                let message = "because ".repeat(rng.below(2_000));
                let usage = rng.chance(0.5).then_some(usage);
                truth(FromExpert::Failed {
                    kind,
                    message,
                    usage,
                })
            }
            (Lie::Silence, frame) if frame.is_terminal() => Vec::new(),
            (Lie::AfterTheLast, frame) if frame.is_terminal() => vec![
                (dispatch, frame.clone()),
                (dispatch, frame.clone()),
                (dispatch, FromExpert::Text("more".to_owned())),
                (DispatchId(rng.bits()), frame.clone()),
                (DispatchId(rng.bits()), FromExpert::Options(vec![0.0])),
                (dispatch, frame),
            ],
            (lie, FromExpert::Done { finish, usage }) => {
                let usage = said(lie, usage, &mut rng);
                truth(FromExpert::Done { finish, usage })
            }
            (_, frame) => truth(frame),
        }
    }
}

fn nothing() -> Usage {
    Usage {
        prompt_tokens: 0,
        cached_tokens: 0,
        output_tokens: 0,
        queue: Seconds::ZERO,
        prefill: Seconds::ZERO,
        decode: Seconds::ZERO,
        energy: Joules::ZERO,
        energy_source: Figure::NONE.source,
        energy_error: Joules::ZERO,
    }
}

fn said(lie: Lie, mut usage: Usage, rng: &mut Rng) -> Usage {
    match lie {
        Lie::Tokens => {
            usage.prompt_tokens = *rng.pick(&[0, 1, u32::MAX]);
            usage.cached_tokens = usage.prompt_tokens ^ 1;
            usage.output_tokens = *rng.pick(&[0, 1, u32::MAX]);
        }
        Lie::Seconds => {
            let seconds = [0.0, 1e-300, 1e12, f64::MAX].map(Seconds::saturating);
            usage.queue = *rng.pick(&seconds);
            usage.prefill = *rng.pick(&seconds);
            usage.decode = *rng.pick(&seconds);
        }
        Lie::Joules => {
            usage.energy = Joules::saturating(*rng.pick(&[1e3, 1e6, 1e9]));
            usage.energy_error = Joules::saturating(f64::MAX);
        }
        Lie::NoJoules => usage.energy = Joules::ZERO,
        _ => {}
    }
    usage
}

fn scores(mut logprobs: Vec<f64>, rng: &mut Rng) -> Vec<f64> {
    let wrong = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        1.0,
        -0.0,
        f64::MIN,
    ];
    match rng.below(3) {
        0 => logprobs.push(-1.0),
        1 => logprobs.clear(),
        _ => logprobs.iter_mut().for_each(|l| *l = *rng.pick(&wrong)),
    }
    logprobs
}

fn states(experts: &[ExpertOffer], rng: &mut Rng) -> Vec<FromAgent> {
    let state = |rng: &mut Rng| match rng.below(3) {
        0 => ExpertState::Loading,
        1 => ExpertState::Ready,
        _ => ExpertState::Failed {
            reason: "oh ".repeat(rng.below(5_000)),
        },
    };
    let mut said: Vec<FromAgent> = (0..12)
        .map(|_| FromAgent::Expert {
            name: rng.pick(experts).name.clone(),
            state: state(rng),
        })
        .collect();
    if let Ok(name) = "of-nobody".parse() {
        let state = state(rng);
        said.push(FromAgent::Expert { name, state });
    }
    // What is true is said last, or the agent would never be asked again.
    said.extend(experts.iter().map(|expert| FromAgent::Expert {
        name: expert.name.clone(),
        state: ExpertState::Ready,
    }));
    said
}

fn absurd(hello: FromAgent, rng: &mut Rng) -> FromAgent {
    let FromAgent::Hello {
        mut min_version,
        mut max_version,
        software,
        mut device,
        mut experts,
    } = hello
    else {
        return hello;
    };
    let sizes = [0, 1, u64::MAX];
    let counts = [0, 1, u32::MAX];
    let rates = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.0,
        -1.0,
        f64::MAX,
    ];
    let watts = [0.0, f64::MAX].map(Watts::saturating);
    match rng.below(8) {
        0 => (min_version, max_version) = (9, 3),
        1 => device.model = "m".repeat(rng.below(2_000)),
        2 => {
            for n in 0..70 {
                let mut offer = experts[0].0.clone();
                if let Ok(name) = format!("e{n}").parse() {
                    offer.name = name;
                }
                experts.push((offer, ExpertState::Ready));
            }
        }
        _ => {
            device.memory = Bytes(*rng.pick(&sizes));
            device.parallel = *rng.pick(&counts);
            device.threads = *rng.pick(&counts);
            let roofline = Roofline {
                bytes_per_s: *rng.pick(&rates),
                flop_per_s: *rng.pick(&rates),
            };
            device.cpu = Some(roofline);
            device.gpu = Some(roofline);
            device.idle_power = *rng.pick(&watts);
            device.busy_power = *rng.pick(&watts);
            for (offer, _) in &mut experts {
                offer.weights = Bytes(*rng.pick(&sizes));
                offer.kv_per_token = Bytes(*rng.pick(&sizes));
                offer.parameters = *rng.pick(&sizes);
                offer.context_tokens = *rng.pick(&counts);
                offer.slots = *rng.pick(&counts);
            }
        }
    }
    FromAgent::Hello {
        min_version,
        max_version,
        software,
        device,
        experts,
    }
}
