//! A coordinator without sockets, and its log.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use moe2_engine::coordinator::{Engine, Input, Room};
use moe2_metrics::{Metrics, Reload};
use moe2_model::{ExpertState, NodeId, SessionId, TenantId};
use moe2_wire::{FromAgent, PROTOCOL_VERSION};
use tempfile::TempDir;
use tower::ServiceExt;

use super::super::{Reloader, Surroundings};
use crate::args::Overrides;
use crate::books::{self, Tenants};
use crate::config::{Settings, Tenant, read};
use crate::http::tests::{device, fleet, hello};
use crate::roster::{self, Roster};
use crate::state::StateDir;
use crate::{driver, http, state};

/// Joules that the tenant `a` was charged for before anything here.
pub(super) const PAST: f64 = 30.0;

/// A `[[tenant]]` with this key.
pub(super) fn tenant(name: &str, key: &str, more: &str) -> String {
    let hash = state::hex(&state::hash(key));
    format!("[[tenant]]\nname = \"{name}\"\nkey_sha256 = \"{hash}\"\n{more}\n")
}

pub(super) fn named(name: &str) -> TenantId {
    TenantId::new(name).expect("a valid name")
}

/// A coordinator without sockets: its engine, books, API and configuration file.
pub(super) struct Bench {
    pub(super) dir: TempDir,
    pub(super) file: Reloader,
    api: Router,
}

impl Bench {
    pub(super) async fn new(text: &str) -> Self {
        Self::with(text, Overrides::default()).await
    }

    pub(super) async fn with(text: &str, overrides: Overrides) -> Self {
        let dir = TempDir::new().expect("a temporary directory can be made");
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).expect("the file is written");
        let config = overrides.over(read::parse(text).expect("it is sound"));
        let state = StateDir::open(&dir.path().join("state")).expect("a state directory");
        let (now, keep) = (books::now(), config.keep_usage());
        drop(books::open(&state.database(), now, keep).expect("the books open"));
        let fixed = roster::fixed(&config, &state).expect("its tenants");
        let tenants = Tenants::new(&state.database());
        let roster = Arc::new(Roster::new(fixed, tenants).expect("no two have one key"));
        let mut settings = config.engine();
        settings.plan = config.live(roster.limits()).plan;
        settings.epoch = now.0 * 1_000_000;
        let charged = vec![(now, PAST)];
        settings.past.charges.insert(named("a"), charged);
        let engine = Engine::new(settings, moe2_gate::Gate::builtin());
        let metrics = Metrics::new().expect("all families are valid");
        let (engine, _) =
            driver::spawn(engine, (metrics.clone(), None), (1, None)).expect("an engine");
        // Without an expert nobody is counted; with one that only starts, all are, and are refused.
        let offer = fleet(ExpertState::Loading).nodes[0].experts[0]
            .offer
            .clone();
        let joined = Input::Agent {
            session: SessionId(1),
            node: NodeId::new("n").expect("a valid name"),
            message: FromAgent::Hello {
                min_version: PROTOCOL_VERSION,
                max_version: PROTOCOL_VERSION,
                software: "test".to_owned(),
                device: device(),
                experts: vec![(offer, ExpertState::Loading)],
            },
        };
        engine.input(joined).await.expect("the engine lives");
        let api = http::router(http::Api {
            engine: engine.clone(),
            keys: roster.keys.clone(),
            limits: http::Limits::default(),
            started: std::time::UNIX_EPOCH,
        });
        let around = Surroundings {
            roster,
            state,
            engine,
            metrics,
        };
        let file = Reloader::new((path, text.to_owned()), (config, overrides), around);
        Self { dir, file, api }
    }

    pub(super) fn write(&self, text: &str) {
        std::fs::write(&self.file.path, text).expect("the file is written");
    }

    /// Writes the file and says that it is whole.
    pub(super) async fn reload(&mut self, text: &str) -> Option<Reload> {
        self.write(text);
        self.file.look(true).await.expect("the engine lives")
    }

    /// One look that nobody asked for.
    pub(super) async fn look(&mut self) -> Option<Reload> {
        self.file.look(false).await.expect("the engine lives")
    }

    /// The status of a question with this key; 503 is for who is let in, as no expert is ready.
    pub(super) async fn ask(&self, key: &str) -> u16 {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Body::from(hello().to_string()))
            .expect("a valid request");
        let answered = self.api.clone().oneshot(request).await;
        answered.expect("routers do not fail").status().as_u16()
    }

    pub(super) async fn room(&self, name: &str) -> Room {
        let standing = self.file.around.engine.standing(named(name)).await;
        standing.expect("the engine lives").room
    }

    /// Makes a tenant as the admin API does, behind the coordinator's back.
    pub(super) fn made(&self, name: &str, key: &str) {
        let made = Tenant {
            name: named(name),
            key_sha256: state::hash(key),
            settings: Settings::default(),
        };
        self.tenants().add(&made, "config", 1).expect("added");
    }

    pub(super) fn tenants(&self) -> &Tenants {
        &self.file.around.roster.tenants
    }

    /// The audit from its first line on: what, of whom, in which words.
    pub(super) fn audit(&self) -> Vec<(String, String, String)> {
        let lines = self.tenants().audit(100).expect("the audit can be read");
        assert!(lines.iter().all(|line| line.who == "config"), "{lines:?}");
        let lines = lines.into_iter().rev();
        lines.map(|l| (l.action, l.tenant, l.detail)).collect()
    }

    pub(super) fn counted(&self, outcome: &str, times: u32) -> bool {
        let text = self.file.around.metrics.encode().expect("encodes");
        let line = format!("moe2_config_reloads_total{{outcome=\"{outcome}\"}} {times}\n");
        text.contains(&line)
    }
}

pub(super) fn line(action: &str, tenant: &str, detail: &str) -> (String, String, String) {
    (action.to_owned(), tenant.to_owned(), detail.to_owned())
}

/// What is logged on this thread while the guard lives.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(super) fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let logged = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(logged))
    }

    pub(super) fn text(&self) -> String {
        let bytes = self.0.lock().expect("nobody panicked");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
