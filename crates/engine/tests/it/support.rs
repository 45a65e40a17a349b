//! A coordinator on a bench: a clock that is moved by hand, and what it said sorted by kind.

use std::time::Duration;

use moe2_engine::coordinator::{
    Answer, Config, Engine, Input, NodeState, Output, PlanLimits, PlanRequest, Refusal, Reply,
};
use moe2_gate::Gate;
use moe2_model::{
    Budgets, Bytes, DeviceInfo, DeviceKind, DispatchId, EnergySource, ExpertName, ExpertOffer,
    ExpertState, FinishReason, Joules, Message, Mode, NodeId, Prompt, Query, QueryId, Role,
    Sampling, Seconds, SessionId, Target, Task, TenantId, Time, Usage, Watts,
};
use moe2_solve::{Limits, check, solver};
use moe2_wire::{FailureKind, FromAgent, FromExpert, FromWorker, PROTOCOL_VERSION, ToExpert};

pub(crate) const SMOL: &str = "smollm2-135m-instruct";
pub(crate) const GEMMA: &str = "gemma-3-270m";
pub(crate) const QWEN: &str = "qwen2.5-coder-0.5b-instruct";

pub(crate) fn device() -> DeviceInfo {
    DeviceInfo {
        kind: DeviceKind::Cpu,
        model: "test".to_owned(),
        threads: 2,
        parallel: 1,
        memory: Bytes(8 << 30),
        gpus: Vec::new(),
        cpu: None,
        gpu: None,
        energy_source: EnergySource::Modelled,
        idle_power: Watts::saturating(5.0),
        busy_power: Watts::saturating(20.0),
    }
}

pub(crate) fn offer(name: &str) -> ExpertOffer {
    ExpertOffer {
        name: ExpertName::new(name).expect("a valid name"),
        family: "test".to_owned(),
        quantisation: "Q4_0".to_owned(),
        parameters: 200_000_000,
        weights: Bytes(150 << 20),
        kv_per_token: Bytes(12_288),
        context_tokens: 2_048,
        slots: 1,
        load: None,
    }
}

pub(crate) fn question(text: &str) -> Query {
    Query {
        tenant: tenant(),
        prompt: Prompt::Chat(vec![Message {
            role: Role::User,
            content: text.to_owned(),
        }]),
        task: Task::Generate(Sampling {
            max_tokens: 20,
            temperature: 0.0,
            top_p: 1.0,
            seed: 0,
            stop: Vec::new(),
        }),
        target: Target::Auto,
        budgets: Budgets::default(),
        max_experts: 1,
        mode: Mode::Auto,
        stream: false,
    }
}

pub(crate) fn streamed(text: &str) -> Query {
    Query {
        stream: true,
        ..question(text)
    }
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("acme").expect("a valid name")
}

pub(crate) fn usage(joules: f64) -> Usage {
    Usage {
        prompt_tokens: 12,
        cached_tokens: 0,
        output_tokens: 20,
        queue: Seconds::ZERO,
        prefill: Seconds::saturating(0.12),
        decode: Seconds::saturating(1.0),
        energy: Joules::saturating(joules),
        energy_source: EnergySource::Modelled,
        energy_error: Joules::saturating(joules),
    }
}

/// A worker has loaded.
pub(crate) fn worker_ready() -> FromWorker {
    FromWorker::Ready {
        context_tokens: 2_048,
        kv_per_token: Bytes(12_288),
        load: Seconds::saturating(1.0),
    }
}

pub(crate) fn done(joules: f64) -> FromExpert {
    FromExpert::Done {
        finish: FinishReason::Stop,
        usage: usage(joules),
    }
}

pub(crate) fn failed(kind: FailureKind) -> FromExpert {
    FromExpert::Failed {
        kind,
        message: "for the test".to_owned(),
        usage: None,
    }
}

/// A dispatch as the bench saw it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) dispatch: DispatchId,
    pub(crate) session: SessionId,
    pub(crate) expert: String,
}

pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) now: Time,
    pub(crate) outputs: Vec<Output>,
    queries: u64,
}

impl Bench {
    pub(crate) fn empty() -> Self {
        Self::planning(PlanLimits::default())
    }

    /// An empty fleet under these limits.
    pub(crate) fn planning(plan: PlanLimits) -> Self {
        Self::configured(Config {
            plan,
            ..Config::default()
        })
    }

    /// An empty fleet under these settings.
    pub(crate) fn configured(config: Config) -> Self {
        Self {
            engine: Engine::new(config, Gate::builtin()),
            now: Time::ZERO,
            outputs: Vec::new(),
            queries: 0,
        }
    }

    /// Three nodes with one expert each, in sessions 1 to 3: `smol`, `gemma` and `qwen`.
    pub(crate) fn with_fleet() -> Self {
        Self::empty().joined()
    }

    /// The same three nodes.
    pub(crate) fn joined(mut self) -> Self {
        self.join(1, "smol", SMOL);
        self.join(2, "gemma", GEMMA);
        self.join(3, "qwen", QWEN);
        self.settle();
        self
    }

    /// Lets enough time pass for changes of the fleet to become a problem.
    pub(crate) fn settle(&mut self) {
        self.now = self.now + Duration::from_millis(100);
        self.feed(Input::Tick);
    }

    /// The newest problem since the last call, if any, once the fleet has settled.
    pub(crate) fn problem(&mut self) -> Option<PlanRequest> {
        self.settle();
        let mut newest = None;
        self.outputs.retain(|output| match output {
            Output::Plan(request) => {
                newest = Some(request.as_ref().clone());
                false
            }
            _ => true,
        });
        newest
    }

    /// Solves the newest problem, checks and hands back the answer.
    pub(crate) fn plan(&mut self) -> PlanRequest {
        let request = self.problem().expect("a plan was asked for");
        self.planned(&request);
        request
    }

    pub(crate) fn planned(&mut self, request: &PlanRequest) {
        let solver = solver("auto").expect("it is in the table");
        let solved = solver.solve(&request.problem, &mut Limits::default());
        let solution = solved.expect("it takes any problem");
        assert_eq!(check(&request.problem, &solution), Ok(()));
        self.feed(Input::Planned {
            request: Box::new(request.clone()),
            prices: request.price(&solution),
            solution: Box::new(solution),
            took: Seconds::saturating(0.001),
        });
    }

    /// Experts in the active set, by model.
    pub(crate) fn active(&self) -> Vec<String> {
        let view = self.engine.view(self.now);
        let experts = view.nodes.iter().flat_map(|node| &node.experts);
        experts
            .filter(|e| e.selected)
            .map(|e| e.id.name.to_string())
            .collect()
    }

    pub(crate) fn join(&mut self, session: u64, node: &str, expert: &str) {
        self.join_on(device(), session, node, expert);
    }

    pub(crate) fn join_on(&mut self, device: DeviceInfo, session: u64, node: &str, expert: &str) {
        self.hello((session, node), device, offer(expert));
    }

    pub(crate) fn hello(
        &mut self,
        (session, node): (u64, &str),
        device: DeviceInfo,
        offer: ExpertOffer,
    ) {
        let hello = FromAgent::Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            software: "test".to_owned(),
            device,
            experts: vec![(offer, ExpertState::Ready)],
        };
        self.agent(session, node, hello);
    }

    pub(crate) fn agent(&mut self, session: u64, node: &str, message: FromAgent) {
        self.feed(Input::Agent {
            session: SessionId(session),
            node: NodeId::new(node).expect("a valid name"),
            message,
        });
    }

    pub(crate) fn feed(&mut self, input: Input) {
        self.engine.handle(self.now, input);
        while let Some(output) = self.engine.poll_output() {
            self.outputs.push(output);
        }
    }

    pub(crate) fn ask(&mut self, query: Query) -> QueryId {
        self.queries += 1;
        let id = QueryId(self.queries);
        self.feed(Input::Submit {
            query: id,
            request: Box::new(query),
        });
        id
    }

    /// Asks, and expects exactly one dispatch.
    pub(crate) fn ask_one(&mut self, query: Query) -> Sent {
        self.ask(query);
        let mut sent = self.sent();
        assert_eq!(sent.len(), 1, "one expert is asked: {sent:?}");
        sent.remove(0)
    }

    pub(crate) fn says(&mut self, sent: &Sent, frame: FromExpert) {
        let dispatch = sent.dispatch;
        self.feed(Input::Work { dispatch, frame });
    }

    pub(crate) fn text(&mut self, sent: &Sent, text: &str) {
        self.says(sent, FromExpert::Text(text.to_owned()));
    }

    /// Lets time pass, with every timer on the way.
    pub(crate) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.feed(Input::Tick);
        }
        self.now = until;
    }

    /// Lets time pass while the first node shows that it is alive.
    pub(crate) fn live(&mut self, seconds: f64) {
        for sequence in 1..=10 {
            self.pass(Duration::from_secs_f64(seconds / 10.0));
            self.beat(sequence, (1, "smol"));
        }
    }

    /// A node shows that it is alive.
    pub(crate) fn beat(&mut self, sequence: u64, (session, node): (u64, &str)) {
        let standing = moe2_model::Figure::NONE;
        self.agent(
            session,
            node,
            FromAgent::Heartbeat {
                sequence,
                standing,
                clock: None,
            },
        );
    }

    /// Lets seconds pass while these nodes, in sessions from 1 on, show that they are alive.
    pub(crate) fn live_all(&mut self, seconds: u64, nodes: &[&str]) {
        for sequence in 1..=2 * seconds {
            self.pass(Duration::from_millis(500));
            for (session, node) in (1..).zip(nodes) {
                self.beat(sequence, (session, node));
            }
        }
    }

    /// What was dispatched since this was last called.
    pub(crate) fn sent(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        self.outputs.retain(|output| {
            let Output::Dispatch {
                dispatch,
                session,
                work,
            } = output
            else {
                return true;
            };
            if let ToExpert::Work { expert, .. } = work.as_ref() {
                sent.push(Sent {
                    dispatch: *dispatch,
                    session: *session,
                    expert: expert.to_string(),
                });
            }
            false
        });
        sent
    }

    /// What was said to clients since this was last called.
    pub(crate) fn replies(&mut self) -> Vec<Reply> {
        let mut replies = Vec::new();
        self.outputs.retain(|output| match output {
            Output::Reply { reply, .. } => {
                replies.push(reply.clone());
                false
            }
            _ => true,
        });
        replies
    }

    /// The one reply since the last call, an answer.
    pub(crate) fn answer(&mut self) -> Answer {
        match self.replies().as_slice() {
            [Reply::Finished(answer)] => *answer.clone(),
            other => unreachable!("expected one answer, got {other:?}"),
        }
    }

    /// The last reply since the last call, a refusal; the others come with it.
    /// What was answered last, streamed or not.
    pub(crate) fn finished(&mut self) -> Answer {
        match self.replies().pop() {
            Some(Reply::Finished(answer)) => *answer,
            other => unreachable!("expected the end of an answer, got {other:?}"),
        }
    }

    pub(crate) fn refusal(&mut self) -> (Vec<Reply>, Refusal) {
        let mut replies = self.replies();
        match replies.pop() {
            Some(Reply::Refused(refusal)) => (replies, *refusal),
            other => unreachable!("expected a refusal last, got {other:?}"),
        }
    }

    pub(crate) fn cancels(&self) -> Vec<DispatchId> {
        let cancels = self.outputs.iter().filter_map(|output| match output {
            Output::Cancel { dispatch } => Some(*dispatch),
            _ => None,
        });
        cancels.collect()
    }

    pub(crate) fn state_of(&self, node: &str) -> NodeState {
        let view = self.engine.view(self.now);
        let node = view.nodes.iter().find(|n| n.node.as_str() == node);
        node.expect("the node is in the view").state
    }

    /// Joules billed to the tenant; nothing may be reserved any more.
    pub(crate) fn settled(&self) -> f64 {
        assert_eq!(self.engine.open_dispatches(), 0, "no dispatch is open");
        let account = self.engine.account(&tenant());
        assert!(account.reserved.get() < 1e-9, "nothing stays reserved");
        account.spent.get()
    }
}
