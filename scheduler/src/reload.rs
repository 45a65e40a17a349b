//! Reads the configuration file again when it changes, and at SIGHUP.
//!
//! It is its content that counts, not its time: the file is small and read at every look. A new content is
//! taken once two looks in a row have found it, because a file caught while it is written may be empty, and
//! an empty one is sound and has no tenants; SIGHUP says that it is whole. A faulty one leaves everything as
//! it is. Of a sound one all that can hold now is put in force at once, budgets before keys
//! ([`Roster::put`]); keys that wait for a restart are named in the log each time.
//!
//! The audit is written after a change holds. If it cannot be written the change stays, as undoing it would
//! let a full disk decide on budgets; the log says so, and the lines are tried again at every look.

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use moe2_engine::coordinator::Input;
use moe2_metrics::{Metrics, Reload};
use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use crate::args::Overrides;
use crate::books;
use crate::config::change::{self, Holds, Line};
use crate::config::{Config, Faults, read};
use crate::handle::{EngineHandle, ShuttingDown};
use crate::roster::{self, Members, Roster};
use crate::state::StateDir;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(2);
/// Who changed what a line of the audit is about.
const WHO: &str = "config";

/// The file's text, or why there is none.
type Found = Result<String, Faults>;

/// What a configuration acts on.
pub(crate) struct Surroundings {
    pub(crate) roster: Arc<Roster>,
    pub(crate) state: StateDir,
    pub(crate) engine: EngineHandle,
    pub(crate) metrics: Metrics,
}

/// The file, and what of it is in force.
pub(crate) struct Reloader {
    path: PathBuf,
    overrides: Overrides,
    around: Surroundings,
    /// With what waits for a restart as it was at the start.
    in_force: Config,
    /// At the last look.
    seen: Found,
    /// What was last taken, or refused for what is in it.
    judged: Found,
    /// What was last refused for another reason, and the reason: it is tried again and not told again.
    told: Option<(Found, Faults)>,
    /// Lines that the audit lacks, with the time of their change.
    unwritten: Vec<(u64, Vec<Line>)>,
}

impl Reloader {
    /// One for a file whose `text` is in force as `config`.
    pub(crate) fn new(
        (path, text): (PathBuf, String),
        (config, overrides): (Config, Overrides),
        around: Surroundings,
    ) -> Self {
        Self {
            path,
            overrides,
            around,
            in_force: config,
            seen: Ok(text.clone()),
            judged: Ok(text),
            told: None,
            unwritten: Vec::new(),
        }
    }

    /// Looks at the file every now and then, and takes it at each hangup, until the engine is gone.
    pub(crate) async fn watch(mut self, mut hangups: Signal) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let looked = tokio::select! {
                _ = every.tick() => self.look(false).await,
                hangup = hangups.recv() => match hangup {
                    Some(()) => self.look(true).await,
                    None => return,
                },
            };
            if looked.is_err() {
                return;
            }
        }
    }

    /// Looks at the file, and takes it if its content has changed, or in any case if `asked` to. What came of
    /// it, if it was judged.
    async fn look(&mut self, asked: bool) -> Result<Option<Reload>, ShuttingDown> {
        self.audit().await;
        let path = self.path.clone();
        let found = blocking(move || read::again(&path)).await;
        let settled = self.seen == found;
        self.seen.clone_from(&found);
        if !asked && (!settled || self.judged == found) {
            return Ok(None);
        }
        let outcome = self.judge(found, asked).await?;
        if let Some(outcome) = outcome {
            self.around.metrics.reloaded(outcome);
        }
        // Not under the lock of changes: a database that is held up would hold up the admin API.
        self.audit().await;
        Ok(outcome)
    }

    async fn judge(&mut self, found: Found, asked: bool) -> Result<Option<Reload>, ShuttingDown> {
        let roster = self.around.roster.clone();
        // Tenants made through the admin API change under the same lock.
        let _changing = roster.changing.lock().await;
        let parsed = found.clone();
        let ready = match parsed.and_then(|text| self.parsed(&text, asked)) {
            Ok(config) => self.ready(config).await,
            Err(faults) => {
                // It will be as faulty at the next look; what `ready` finds may be over by then.
                (self.judged, self.told) = (found.clone(), None);
                Err(faults)
            }
        };
        match ready {
            Ok((config, members)) => {
                (self.judged, self.told) = (found, None);
                self.apply(config, members).await.map(Some)
            }
            Err(faults) => Ok(self.refuse((found, faults), asked)),
        }
    }

    /// Says what is wrong, unless it is what was said before.
    fn refuse(&mut self, refused: (Found, Faults), asked: bool) -> Option<Reload> {
        if !asked && self.told.as_ref() == Some(&refused) {
            return None;
        }
        let path = self.path.display();
        for fault in &refused.1.0 {
            let (key, why) = (&fault.key, &fault.why);
            tracing::error!(%path, key, why, "the old configuration stays");
        }
        self.told = Some(refused);
        Some(Reload::Refused)
    }

    /// The file as a configuration. One that has lost all its tenants may be cut off by a full disk, and is
    /// taken only if somebody says that it is whole.
    fn parsed(&self, text: &str, asked: bool) -> Result<Config, Faults> {
        let config = read::parse(text)?;
        if config.tenant.is_empty() && !self.in_force.tenant.is_empty() && !asked {
            let why = "no tenant is left in it; if that is meant, send SIGHUP".to_owned();
            return Err(Faults::one(why));
        }
        Ok(config)
    }

    /// All that a configuration needs, read and checked.
    async fn ready(&self, config: Config) -> Result<(Config, Members), Faults> {
        let config = self.overrides.over(config);
        let (roster, state) = (self.around.roster.clone(), self.around.state.clone());
        blocking(move || {
            let fixed = roster::fixed(&config, &state);
            let fixed = fixed.map_err(|error| Faults::one(format!("{error:#}")))?;
            Ok((config, roster.with(fixed)?))
        })
        .await
    }

    async fn apply(&mut self, config: Config, members: Members) -> Result<Reload, ShuttingDown> {
        for key in change::settings(&self.in_force, &config, Holds::Restart).keys() {
            tracing::warn!(key, "changed in the file; it holds from the next start");
        }
        let settings = change::settings(&self.in_force, &config, Holds::Now);
        let before = self.around.roster.now().clone();
        let mut lines = change::tenants(before.fixed(), members.fixed());
        lines.extend(members.uncovered(&before).map(|name| Line {
            action: "add",
            tenant: name.to_string(),
            detail:
                "made with `moe2 tenant add` before; its key and settings hold again".to_owned(),
        }));
        if !settings.is_empty() {
            lines.push(Line {
                action: "set",
                tenant: String::new(),
                detail: settings.detail(),
            });
        }
        if lines.is_empty() {
            tracing::info!("nothing that can hold now has changed in the configuration");
            return Ok(Reload::Unchanged);
        }
        let live = Input::Settings(Box::new(config.live(members.limits())));
        let around = &self.around;
        around.roster.put(&around.engine, live, members).await?;
        self.in_force = self.in_force.clone().taking(config);
        for line in &lines {
            let (action, tenant, detail) = (line.action, &line.tenant, &line.detail);
            tracing::info!(action, tenant, detail, "the configuration changed");
        }
        self.unwritten.push((books::now().0, lines));
        Ok(Reload::Applied)
    }

    /// Writes what the audit lacks.
    async fn audit(&mut self) {
        while let Some((at, lines)) = self.unwritten.first().cloned() {
            let tenants = self.around.roster.tenants.clone();
            let write = move || tenants.note(&lines, WHO, at).map_err(|e| e.to_string());
            let written = tokio::task::spawn_blocking(write).await;
            if let Err(error) = written.unwrap_or_else(|ended| Err(ended.to_string())) {
                tracing::error!(
                    error,
                    "a change of the configuration holds and is not in the audit yet"
                );
                return;
            }
            self.unwritten.remove(0);
        }
    }
}

/// Files and the database are read outside the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Faults> + Send + 'static,
) -> Result<T, Faults> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|ended| Err(Faults::one(ended.to_string())))
}
