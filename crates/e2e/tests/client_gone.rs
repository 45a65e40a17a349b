//! A client that leaves stops the work it asked for.

use std::time::Duration;

use moe2_e2e::{MODELS, Spec, System, alone, until};
use serde_json::json;

#[test]
fn a_client_that_disconnects_stops_generation() {
    let _alone = alone();
    let system = System::start(&[Spec::real("edge-1", MODELS[0])]);
    let body = json!({"max_tokens": 1900});
    let question = "Count from one to one thousand in words, one number on each line.";
    let mut stream = system.api().stream(question, &body);
    let _ = stream.first_text();
    assert_eq!(system.coordinator.in_flight("edge-1"), 1);
    drop(stream);
    until("nothing is in flight", Duration::from_secs(2), || {
        system.coordinator.in_flight("edge-1") == 0
    });
    let after = system.api().chat("Hello!", &json!({"max_tokens": 8}));
    assert_eq!(after.status, 200, "{:?}", after.json);
}
