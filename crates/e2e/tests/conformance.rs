//! The official Python client and plain curl against a live system with real weights.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use moe2_e2e::{Ended, System, alone, run, stub};

const SCRIPT_WITHIN: Duration = Duration::from_secs(240);
const INSTALL_WITHIN: Duration = Duration::from_secs(180);
/// The major versions that the script is written for.
const CLIENT: &str = "openai>=2,<4";

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The Python of a virtual environment with the client, kept between runs.
fn python() -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-venv");
    let python = environment.join("bin").join("python");
    let has_client = |python: &Path| {
        let mut command = Command::new(python);
        python.exists() && run(command.args(["-c", "import openai"]), SCRIPT_WITHIN).code == Some(0)
    };
    if !has_client(&python) {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&environment);
        succeeds(&run(&mut make, INSTALL_WITHIN));
        let mut install = Command::new(&python);
        install.args(["-m", "pip", "install", "--quiet", CLIENT]);
        succeeds(&run(&mut install, INSTALL_WITHIN));
    }
    python
}

fn succeeds(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}

#[test]
fn the_official_python_client_finds_nothing_missing() {
    let _alone = alone();
    let python = python();
    let system = System::real();
    let mut command = Command::new(python);
    command
        .arg(script("python/conformance.py"))
        .arg(format!("{}/v1", system.api().base()))
        .arg(system.api().key())
        .env("MOE2_ADMIN_KEY", system.coordinator.admin.key());
    succeeds(&run(&mut command, SCRIPT_WITHIN));
}

#[test]
fn the_official_python_client_honours_waits_and_does_not_retry_an_exhausted_window() {
    let _alone = alone();
    let python = python();
    let mut system = System::empty();
    system.join_all(&[stub("edge-1")]);
    let tenant = |name: &str, settings: serde_json::Value| {
        let asked = serde_json::json!({"name": name, "settings": settings});
        let made = system.coordinator.admin.post("/admin/v1/tenants", &asked);
        assert_eq!(made.status, 201, "{:?}", made.json);
        made.json["key"].as_str().expect("a key").to_owned()
    };
    let window = serde_json::json!({"energy_windows": [{"joules": 1e-6, "per": "day"}]});
    let mut command = Command::new(python);
    command
        .arg(script("python/quota.py"))
        .arg(format!("{}/v1", system.api().base()))
        .arg(tenant("exhausted", window))
        .arg(tenant(
            "once",
            serde_json::json!({"requests_per_minute": 1}),
        ));
    succeeds(&run(&mut command, SCRIPT_WITHIN));
}

#[test]
fn plain_curl_finds_nothing_missing() {
    let _alone = alone();
    let system = System::real();
    let mut command = Command::new("sh");
    command
        .arg(script("curl/conformance.sh"))
        .arg(format!("{}/v1", system.api().base()))
        .env("MOE2_API_KEY", system.api().key());
    succeeds(&run(&mut command, SCRIPT_WITHIN));
}
