//! Why the coordinator refused what it need not have refused, in its own words.

use serde_json::Value;

use crate::live::api::{Api, End};
use crate::live::load::{Sample, Tenant};

/// Most explanations that are read: more of them are a defect that a few show as well.
const MOST: usize = 200;

/// Reads how refusals came that are not those of a budget, and marks those after which only experts were left
/// that the query's own budgets did not admit.
pub(super) fn read(admin: &Api, tenants: &[Tenant], samples: &mut [Sample]) -> Vec<Value> {
    let mut read = Vec::new();
    for sample in samples {
        let End::Refused { code, .. } = &sample.ended.end else {
            continue;
        };
        if tenants[sample.tenant].refusals.contains(&code.as_str()) || read.len() == MOST {
            continue;
        }
        let path = format!("/admin/v1/explanations/{}", sample.ended.id);
        // Those of which none was kept count as lost.
        if let Ok(explanation) = admin.get(&path) {
            sample.barred = is_barred(&explanation);
            read.push(explanation);
        }
    }
    read
}

/// Whether the last choice was among experts that all break a budget.
fn is_barred(explanation: &Value) -> bool {
    let decisions = explanation["record"]["decisions"].as_array();
    let last = decisions.and_then(|all| all.last());
    let candidates = last.and_then(|last| last["candidates"].as_array());
    let breaks = |c: &Value| c["verdict"] == "too_slow" || c["verdict"] == "too_costly";
    candidates.is_some_and(|all| !all.is_empty() && all.iter().all(breaks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_budgets_bar() {
        let with = |verdicts: &[&str]| {
            let all: Vec<Value> = verdicts.iter().map(|v| json!({"verdict": v})).collect();
            is_barred(&json!({"record": {"decisions": [{"candidates": []}, {"candidates": all}]}}))
        };
        assert!(with(&["too_slow", "too_costly"]));
        assert!(!with(&["too_slow", "left_alone"]));
        assert!(!with(&["excluded"]) && !with(&[]));
        assert!(!is_barred(&Value::Null));
    }
}
