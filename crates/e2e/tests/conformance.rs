//! The official clients for Python and Node and plain curl against a live system with real weights.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

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

/// A folder with the scripts for Node and the client that their lock file pins, kept between runs.
fn node() -> PathBuf {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("conformance-node");
    let (lock, from) = ("package-lock.json", script("node"));
    let read = |dir: &Path, name: &str| fs::read(dir.join(name)).ok();
    // npm writes this file last.
    let complete = read(&environment, "node_modules/.package-lock.json").is_some();
    let has_client = complete && read(&environment, lock) == read(&from, lock);
    fs::create_dir_all(&environment).expect("the target directory can be written");
    // Scripts look for what they import beside themselves.
    for file in fs::read_dir(from).expect("the scripts are there") {
        let file = file.expect("the scripts are there");
        let copied = fs::copy(file.path(), environment.join(file.file_name()));
        copied.expect("the target directory can be written");
    }
    if !has_client {
        let mut install = Command::new("npm");
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(&environment);
        succeeds(&run(&mut install, INSTALL_WITHIN));
    }
    environment
}

/// A tenant with these settings; its key.
fn tenant(system: &System, name: &str, settings: &Value) -> String {
    let asked = json!({"name": name, "settings": settings});
    let made = system.coordinator.admin.post("/admin/v1/tenants", &asked);
    assert_eq!(made.status, 201, "{:?}", made.json);
    made.json["key"].as_str().expect("a key").to_owned()
}

/// A window that holds no answer.
fn no_joules() -> Value {
    json!({"energy_windows": [{"joules": 1e-6, "per": "day"}]})
}

fn once_a_minute() -> Value {
    json!({"requests_per_minute": 1})
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
    let mut command = Command::new(python);
    command
        .arg(script("python/quota.py"))
        .arg(format!("{}/v1", system.api().base()))
        .arg(tenant(&system, "exhausted", &no_joules()))
        .arg(tenant(&system, "once", &once_a_minute()));
    succeeds(&run(&mut command, SCRIPT_WITHIN));
}

#[test]
fn the_official_node_client_finds_nothing_missing() {
    let _alone = alone();
    let node = node();
    let system = System::real();
    let mut command = Command::new("node");
    command
        .arg(node.join("conformance.mjs"))
        .arg(format!("{}/v1", system.api().base()))
        .arg(system.api().key());
    succeeds(&run(&mut command, SCRIPT_WITHIN));
}

#[test]
fn the_official_node_client_honours_waits_and_does_not_retry_an_exhausted_window() {
    let _alone = alone();
    let node = node();
    let nobody = System::empty();
    let mut system = System::empty();
    system.join_all(&[stub("edge-1")]);
    let way_in = |system: &System, key: &str| json!({"base": format!("{}/v1", system.api().base()), "key": key});
    let mut tenants = json!({"nobody": way_in(&nobody, nobody.api().key())});
    for (name, settings) in [
        ("exhausted", no_joules()),
        ("once", once_a_minute()),
        ("alone", json!({"parallel": 1})),
        ("barred", json!({"experts": ["another"]})),
        ("picky", json!({"least_quality": 1.0})),
    ] {
        tenants[name] = way_in(&system, &tenant(&system, name, &settings));
    }
    let mut command = Command::new("node");
    command.arg(node.join("quota.mjs")).arg(tenants.to_string());
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
