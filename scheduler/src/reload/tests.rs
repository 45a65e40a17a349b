//! A file that changes under a running engine, asked through the HTTP API; a look is called, not waited for.

mod bench;

use std::time::Duration;

use super::*;
use crate::books::TenantError;
use crate::config::Settings;
use crate::state;
use bench::{Bench, Log, PAST, line, named, tenant};

#[tokio::test]
async fn a_faulty_file_leaves_everything_as_it_is_and_all_its_faults_are_logged() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    let (log, _guard) = Log::start();
    let faulty = tenant("b", "sk-b", "weight = -1") + "[limits]\nqueries = 0\n";
    assert_eq!(bench.reload(&faulty).await, Some(Reload::Refused));
    for key in ["tenant b.weight", "limits.queries"] {
        assert!(log.text().contains(key), "{}", log.text());
    }
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-b").await),
        (503, 401)
    );
    assert!(bench.counted("refused", 1) && bench.counted("applied", 0));
    // It is told once, and whenever somebody asks.
    assert_eq!((bench.look().await, bench.look().await), (None, None));
    assert_eq!(bench.reload(&faulty).await, Some(Reload::Refused));
    std::fs::remove_file(&bench.file.path).expect("the file is removed");
    assert_eq!(
        (bench.look().await, bench.look().await),
        (None, Some(Reload::Refused))
    );
    assert_eq!(bench.ask("sk-a").await, 503);
    assert_eq!(bench.audit(), []);
    let mended = tenant("b", "sk-b", "");
    assert_eq!(bench.reload(&mended).await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-b").await),
        (401, 503)
    );
}

#[tokio::test]
async fn a_changed_budget_holds_for_the_next_request_and_is_in_the_audit() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "requests_per_minute = 5")).await;
    assert_eq!(bench.ask("sk-a").await, 503);
    let tighter = tenant("a", "sk-a", "requests_per_minute = 1") + "[prices]\nper_joule = 0.5\n";
    assert_eq!(bench.reload(&tighter).await, Some(Reload::Applied));
    assert_eq!(bench.ask("sk-a").await, 429, "one was asked before");
    let changed = r#"{"requests_per_minute":{"from":5,"to":1}}"#;
    let prices = r#"{"prices.per_joule":{"from":0.001,"to":0.5}}"#;
    assert_eq!(
        bench.audit(),
        [line("set", "a", changed), line("set", "", prices)]
    );
    assert!(bench.counted("applied", 1));
}

#[tokio::test]
async fn a_tenant_that_vanishes_is_refused_at_once_and_finds_its_window_as_it_was() {
    let a = tenant(
        "a",
        "sk-a",
        "energy_windows = [{ joules = 100, per = \"month\" }]",
    );
    let b = tenant("b", "sk-b", "");
    let mut bench = Bench::new(&(a.clone() + &b)).await;
    assert_eq!(bench.reload(&b).await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-b").await),
        (401, 503)
    );
    assert!(
        bench.room("a").await.windows.is_empty(),
        "it has no budgets"
    );
    assert_eq!(bench.reload(&(a + &b)).await, Some(Reload::Applied));
    assert_eq!(bench.ask("sk-a").await, 503);
    let room = bench.room("a").await;
    assert_eq!(room.windows[0].1.left, 100.0 - PAST, "what it used counts");
    let audit = bench.audit();
    assert_eq!(audit[0], line("remove", "a", ""));
    assert_eq!((&audit[1].0[..], &audit[1].1[..]), ("add", "a"));
    let settings = serde_json::from_str::<Settings>(&audit[1].2).expect("its settings");
    let window = settings.energy_windows[0];
    assert_eq!(window.joules.get(), 100.0);
}

#[tokio::test]
async fn another_key_is_good_at_once_and_the_old_one_is_not() {
    let mut bench = Bench::new(&tenant("a", "sk-old", "")).await;
    let rotated = tenant("a", "sk-new", "");
    assert_eq!(bench.reload(&rotated).await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-old").await, bench.ask("sk-new").await),
        (401, 503)
    );
    assert_eq!(bench.audit(), [line("rotate-key", "a", "key changed")]);
}

#[tokio::test]
async fn keys_that_wait_for_a_restart_are_named_and_the_rest_is_applied() {
    let before = tenant("a", "sk-a", "");
    let overrides = Overrides {
        http: Some(([127, 0, 0, 1], 1).into()),
        ..Overrides::default()
    };
    let mut bench = Bench::with(&before, overrides).await;
    let (log, _guard) = Log::start();
    let top = "http = \"127.0.0.1:2\"\nquic = \"127.0.0.1:3\"\nlimits.body_bytes = 5\n";
    let only = format!("{top}{before}");
    assert_eq!(bench.reload(&only).await, Some(Reload::Unchanged));
    let warned = |key: &str| {
        let text = log.text();
        let lines = text.lines();
        lines
            .filter(|l| l.contains("WARN") && l.contains(&format!("key=\"{key}\"")))
            .count()
    };
    assert_eq!(
        (warned("quic"), warned("limits.body_bytes")),
        (1, 1),
        "{}",
        log.text()
    );
    assert_eq!(warned("http"), 0, "the command line has it");
    let rest = format!("{top}{}", tenant("a", "sk-a", "requests_per_minute = 1"));
    assert_eq!(bench.reload(&rest).await, Some(Reload::Applied));
    assert_eq!(warned("quic"), 2, "it still waits");
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-a").await),
        (503, 429)
    );
    assert_eq!(bench.reload(&before).await, Some(Reload::Applied));
    assert_eq!(warned("quic"), 2, "it is as it was at the start");
    assert_eq!(
        bench.audit().len(),
        2,
        "what does not hold is not in the audit"
    );
}

#[tokio::test]
async fn only_another_content_counts_and_only_one_that_stays() {
    let text = tenant("a", "sk-a", "");
    let mut bench = Bench::new(&text).await;
    bench.write(&text);
    assert_eq!(
        (bench.look().await, bench.look().await),
        (None, None),
        "touched"
    );
    assert_eq!(
        bench.reload(&text).await,
        Some(Reload::Unchanged),
        "asked to"
    );
    let commented = format!("# A word.\n{text}");
    bench.write(&commented);
    assert_eq!(
        (bench.look().await, bench.look().await),
        (None, Some(Reload::Unchanged))
    );
    // Caught while it is written.
    bench.write("");
    assert_eq!(bench.look().await, None);
    bench.write(&(text + &tenant("b", "sk-b", "")));
    assert_eq!(bench.look().await, None);
    assert_eq!(bench.ask("sk-a").await, 503);
    assert_eq!(
        (bench.look().await, bench.look().await),
        (Some(Reload::Applied), None)
    );
    assert_eq!(bench.audit().len(), 1);
    assert!(bench.counted("unchanged", 2) && bench.counted("applied", 1));
}

#[tokio::test]
async fn a_key_is_one_tenants_wherever_tenants_are_made() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    bench.made("m", "sk-m");
    let clash = tenant("a", "sk-m", "");
    let (log, _guard) = Log::start();
    assert_eq!(bench.reload(&clash).await, Some(Reload::Refused));
    let text = log.text();
    assert!(
        text.contains("tenant a.key_sha256") && text.contains("tenant m"),
        "{text}"
    );
    // At the start.
    let fixed = read::parse(&clash).expect("sound alone").tenant;
    let roster = Roster::new(fixed, bench.tenants().clone());
    let error = roster.err().expect("refused").to_string();
    assert!(error.contains("tenant a.key_sha256"), "{error}");
    // When one is made.
    let roster = &bench.file.around.roster;
    let taken = roster.may_change(&named("x"), Some(state::hash("sk-a")));
    assert!(matches!(taken, Err(TenantError::KeyTaken)));
    let fixed = roster.may_change(&named("a"), None);
    assert!(matches!(fixed, Err(TenantError::Fixed(_))));
    roster.may_change(&named("x"), Some([0; 32])).expect("free");
    // A tenant that moves into the file keeps its key.
    let moved = tenant("m", "sk-m", "");
    assert_eq!(bench.reload(&moved).await, Some(Reload::Applied));
    assert_eq!(bench.ask("sk-m").await, 503);
}

#[tokio::test]
async fn what_stands_in_a_files_way_is_told_once_and_it_is_taken_when_that_is_gone() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    bench.made("m", "sk-m");
    bench.write(&tenant("a", "sk-m", ""));
    let looks = [
        bench.look().await,
        bench.look().await,
        bench.look().await,
        bench.look().await,
    ];
    assert_eq!(looks, [None, Some(Reload::Refused), None, None]);
    assert!(bench.counted("refused", 1));
    assert_eq!(bench.ask("sk-a").await, 503);
    let removed = bench.tenants().remove(&named("m"), "config", 2);
    removed.expect("removed");
    assert_eq!(bench.look().await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-m").await),
        (401, 503)
    );
}

#[tokio::test]
async fn a_file_that_has_lost_all_its_tenants_is_taken_only_if_somebody_says_so() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    bench.write("");
    let looks = [bench.look().await, bench.look().await, bench.look().await];
    assert_eq!(looks, [None, Some(Reload::Refused), None]);
    assert_eq!(bench.ask("sk-a").await, 503);
    assert_eq!(bench.reload("").await, Some(Reload::Applied));
    assert_eq!(bench.ask("sk-a").await, 401);
}

#[tokio::test]
async fn what_is_no_regular_file_is_read_only_at_the_start() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    bench.file.path = bench.dir.path().to_owned();
    let (log, _guard) = Log::start();
    assert_eq!(
        (bench.look().await, bench.look().await),
        (None, Some(Reload::Refused))
    );
    assert!(log.text().contains("no regular file"), "{}", log.text());
    assert_eq!(bench.ask("sk-a").await, 503);
}

#[tokio::test]
async fn a_tenant_that_a_name_in_the_file_covered_comes_back_in_the_audit_too() {
    let (a, m) = (tenant("a", "sk-a", ""), tenant("m", "sk-new", ""));
    let mut bench = Bench::new(&(a.clone() + &m)).await;
    bench.made("m", "sk-m");
    assert_eq!(bench.reload(&a).await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-m").await, bench.ask("sk-new").await),
        (503, 401)
    );
    let audit = bench.audit();
    let last = audit.last().expect("there are lines");
    assert_eq!((&last.0[..], &last.1[..]), ("add", "m"));
    assert!(last.2.contains("hold again"), "{}", last.2);
}

#[tokio::test]
async fn without_tenants_there_is_one_whose_key_is_kept() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    assert_eq!(bench.reload("").await, Some(Reload::Applied));
    let key = bench.dir.path().join("state").join("api.key");
    let key = std::fs::read_to_string(key).expect("a key was made");
    assert_eq!((bench.ask("sk-a").await, bench.ask(&key).await), (401, 503));
    assert_eq!(bench.reload("").await, Some(Reload::Unchanged));
}

#[tokio::test]
async fn a_change_holds_though_the_audit_cannot_be_written_and_is_noted_later() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    let database = bench.file.around.state.database();
    let database = rusqlite::Connection::open(database).expect("a database");
    let rename = |from: &str, to: &str| {
        let renamed = database.execute_batch(&format!("ALTER TABLE {from} RENAME TO {to}"));
        renamed.expect("the table is renamed");
    };
    rename("audit", "elsewhere");
    let (log, _guard) = Log::start();
    let other = tenant("b", "sk-b", "");
    assert_eq!(bench.reload(&other).await, Some(Reload::Applied));
    assert_eq!(
        (bench.ask("sk-a").await, bench.ask("sk-b").await),
        (401, 503)
    );
    assert!(
        log.text().contains("is not in the audit yet"),
        "{}",
        log.text()
    );
    rename("elsewhere", "audit");
    assert_eq!(bench.look().await, None);
    let noted: Vec<_> = bench
        .audit()
        .into_iter()
        .map(|(what, who, _)| (what, who))
        .collect();
    let of = |what: &str, who: &str| (what.to_owned(), who.to_owned());
    assert_eq!(noted, [of("remove", "a"), of("add", "b")]);
    assert_eq!(bench.look().await, None);
    assert_eq!(bench.audit().len(), 2, "once");
}

#[tokio::test]
async fn the_engine_is_told_before_a_key_is_good_and_nothing_holds_that_it_was_not_told() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    let (commands, mut inbox) = tokio::sync::mpsc::channel(1);
    let (_, view) = tokio::sync::watch::channel(Arc::default());
    let (_, plan) = tokio::sync::watch::channel(crate::handle::Planning::default());
    let engine = EngineHandle::new(1, commands, view, plan);
    // The channel is full: the change waits for the engine.
    engine.input(Input::Tick).await.expect("there is room");
    let roster = bench.file.around.roster.clone();
    let fixed = read::parse(&tenant("b", "sk-b", "")).expect("sound").tenant;
    let members = roster.with(fixed).expect("no two have one key");
    let told = Input::Tenants(members.limits());
    let mut put = std::pin::pin!(roster.put(&engine, told, members));
    tokio::select! {
        biased;
        _ = &mut put => panic!("it has to wait for the engine"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(roster.keys.tenant("sk-b"), None);
    assert_eq!(roster.keys.tenant("sk-a"), Some(named("a")));
    inbox.recv().await.expect("the first");
    put.await.expect("it is told");
    assert_eq!(roster.keys.tenant("sk-b"), Some(named("b")));
    assert_eq!(roster.keys.tenant("sk-a"), None);

    drop(inbox);
    bench.file.around.engine = engine.clone();
    bench.write(&tenant("c", "sk-c", ""));
    assert_eq!(bench.file.look(true).await, Err(ShuttingDown));
    assert_eq!(roster.keys.tenant("sk-c"), None);
    assert_eq!(bench.audit(), []);
}

/// Time stands still and goes on only when all that is left is to wait.
#[tokio::test(start_paused = true)]
async fn a_change_through_the_admin_api_that_is_under_way_is_waited_for() {
    let mut bench = Bench::new(&tenant("a", "sk-a", "")).await;
    let roster = bench.file.around.roster.clone();
    let changing = roster.changing.lock().await;
    bench.write(&tenant("b", "sk-b", ""));
    let mut look = Box::pin(bench.file.look(true));
    let waited = tokio::time::timeout(Duration::from_millis(10), &mut look).await;
    assert!(waited.is_err(), "it must not go ahead");
    assert_eq!(roster.keys.tenant("sk-b"), None);
    drop(changing);
    assert_eq!(look.await, Ok(Some(Reload::Applied)));
}
