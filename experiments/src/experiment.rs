//! The table of experiments. A new one is a row, with a function here or a command of `moe2`.

use serde_json::Value;

use crate::Setting;
use crate::batching;
use crate::chaos;
use crate::fleet;
use crate::gate;
use crate::scale;
use crate::sim;
use crate::soak;
use crate::solver::{ablation, growth, real, routing, targets};
use crate::strangers;

/// How an experiment runs.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    /// Arguments of `moe2`; its output is one JSON object.
    Moe2(&'static [&'static str]),
    /// In this process.
    Measure(fn(&Setting) -> anyhow::Result<Value>),
}

/// What has to be there for an experiment beside its own program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// Recorded outcomes, device profiles or traces.
    Data,
    /// The programs of moe2, which it starts.
    Programs,
}

impl Needs {
    /// A word for tables.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "-",
            Self::Data => "data",
            Self::Programs => "programs",
        }
    }
}

/// One experiment.
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) needs: Needs,
    pub(crate) action: Action,
}

pub(crate) const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "solver-real",
        what: "every solver on selection instances from MMLU-Pro answers and device profiles",
        needs: Needs::Data,
        action: Action::Measure(real::measure),
    },
    Experiment {
        name: "solver-targets",
        what: "the exact solver on synthetic instances, ten seeds each, against stated speeds",
        needs: Needs::Nothing,
        action: Action::Measure(targets::measure),
    },
    Experiment {
        name: "solver-growth",
        what: "every solver as experts and rows grow, five synthetic families, k = 1 to 3",
        needs: Needs::Nothing,
        action: Action::Measure(growth::measure),
    },
    Experiment {
        name: "solver-ablation",
        what: "the exact solver with each part missing or alone",
        needs: Needs::Nothing,
        action: Action::Measure(ablation::measure),
    },
    Experiment {
        name: "routing-dominance",
        what: "priced routing on a grid of budgets, against worst cases and HiGHS",
        needs: Needs::Data,
        action: Action::Measure(routing::measure),
    },
    Experiment {
        name: "gate-mmlu-pro",
        what: "a trained gate on MMLU-Pro answers of 15 models up to 13B, five folds, beside simpler gates",
        needs: Needs::Data,
        action: Action::Measure(gate::mmlu_pro),
    },
    Experiment {
        name: "gate-demo-models",
        what: "a trained gate on recorded outcomes of the demo's three models, five folds",
        needs: Needs::Data,
        action: Action::Measure(gate::local),
    },
    Experiment {
        name: "gate-encoders",
        what: "the gate on every encoder that there are files for, on the same folds",
        needs: Needs::Data,
        action: Action::Measure(gate::encoders::measure),
    },
    Experiment {
        name: "gate-subsets",
        what: "a gate trained once against one trained anew, on every subset of experts",
        needs: Needs::Data,
        action: Action::Measure(gate::subsets::measure),
    },
    Experiment {
        name: "gate-cost",
        what: "microseconds of every encoder, and of the heads of 64 experts, for a prompt of about 100 tokens",
        needs: Needs::Nothing,
        action: Action::Measure(gate::cost::measure),
    },
    Experiment {
        name: "budgets-fleet",
        what: "budgets of 20 tenants on 50 drifting machines that come and go, 100,000 requests of production traces, against fixed selections",
        needs: Needs::Data,
        action: Action::Measure(fleet::measure),
    },
    Experiment {
        name: "residency",
        what: "15 models on each of eight machines that hold a few, three days of production traces: planned ahead against least recently used",
        needs: Needs::Data,
        action: Action::Measure(fleet::residency::measure),
    },
    Experiment {
        name: "chaos",
        what: "agents killed, stopped, cut off, delayed and lossy in turn, real processes and QUIC, scripted experts, under load",
        needs: Needs::Programs,
        action: Action::Measure(chaos::scripted),
    },
    Experiment {
        name: "chaos-models",
        what: "the same with three small models with real weights, one on each machine",
        needs: Needs::Programs,
        action: Action::Measure(chaos::with_models),
    },
    Experiment {
        name: "soak",
        what: "an hour of steady load on a coordinator and three agents with scripted experts: memory, descriptors, threads, databases",
        needs: Needs::Programs,
        action: Action::Measure(soak::measure),
    },
    Experiment {
        name: "scale-agents",
        what: "1,000 agents over real QUIC on one coordinator: until all are ready, at rest, and with queries",
        needs: Needs::Programs,
        action: Action::Measure(scale::measure),
    },
    Experiment {
        name: "strangers",
        what: "10,000 handshakes that never finish, twice, and 400 connections that say nothing, while agents join",
        needs: Needs::Programs,
        action: Action::Measure(strangers::measure),
    },
    Experiment {
        name: "sim-seeds",
        what: "a million simulated fleets in eleven scenarios of faults, every promise judged at every step",
        needs: Needs::Nothing,
        action: Action::Measure(sim::seeds),
    },
    Experiment {
        name: "sim-scale",
        what: "the real coordinator with 1,000 simulated machines and a million queries in virtual time",
        needs: Needs::Nothing,
        action: Action::Measure(sim::scale),
    },
    Experiment {
        name: "batching",
        what: "1, 2, 4 and 8 answers in one batch against one after the other, and the first token of a prompt with 500 tokens in the cache or not, two models, 2 threads",
        needs: Needs::Programs,
        action: Action::Measure(batching::measure),
    },
    Experiment {
        name: "overhead",
        what: "coordinator time per request at 500/s with stub experts",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "overhead",
            "--rate",
            "500",
            "--seconds",
            "20",
            "--json",
        ]),
    },
    Experiment {
        name: "admission",
        what: "microseconds of admission and ledger per request at 2000/s, books on disk, 3 experts",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "admission",
            "--rate",
            "2000",
            "--seconds",
            "30",
            "--json",
        ]),
    },
    Experiment {
        name: "admission-1000",
        what: "the same at 100/s with 1,000 experts, each on a node of its own",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "admission",
            "--experts",
            "1000",
            "--rate",
            "100",
            "--seconds",
            "30",
            "--json",
        ]),
    },
    Experiment {
        name: "throughput-smollm2",
        what: "tokens/s through the system against the engine alone, SmolLM2 135M, 2 threads",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "throughput",
            "--model",
            "smollm2-135m-instruct",
            "--json",
        ]),
    },
    Experiment {
        name: "throughput-smollm2-1-thread",
        what: "the same with 1 thread, which leaves a core of two to the rest of the system",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "throughput",
            "--model",
            "smollm2-135m-instruct",
            "--threads",
            "1",
            "--json",
        ]),
    },
    Experiment {
        name: "throughput-qwen",
        what: "tokens/s through the system against the engine alone, Qwen2.5-Coder 0.5B, 2 threads",
        needs: Needs::Programs,
        action: Action::Moe2(&[
            "bench",
            "throughput",
            "--model",
            "qwen2.5-coder-0.5b-instruct",
            "--json",
        ]),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_experiment_has_a_name_of_its_own_and_commands_ask_for_json() {
        for (n, experiment) in EXPERIMENTS.iter().enumerate() {
            if let Action::Moe2(arguments) = experiment.action {
                assert!(arguments.contains(&"--json"), "{}", experiment.name);
            }
            assert!(
                EXPERIMENTS[..n]
                    .iter()
                    .all(|other| other.name != experiment.name)
            );
        }
    }

    /// Small sizes, and moe2's programs where `make build` puts them.
    fn small() -> Setting {
        let own = std::env::current_exe().expect("tests have a file");
        Setting {
            data: crate::data(),
            encoders: None,
            bin: own.ancestors().nth(2).map(std::path::Path::to_owned),
            rounds: None,
            seed: 1,
            smoke: true,
            until: None,
            quiet: true,
        }
    }

    /// A test for each, named like it: what one takes is not taken from the time limit of the others.
    macro_rules! run_at_smoke_size {
        ($($test:ident)*) => {
            mod run_at_smoke_size {
                $(#[test]
                fn $test() {
                    super::runs_at_smoke_size(&stringify!($test).replace('_', "-"));
                })*
            }

            const RUN: &[&str] = &[$(stringify!($test)),*];
        };
    }

    run_at_smoke_size!(
        solver_real
        solver_targets
        solver_growth
        solver_ablation
        routing_dominance
        gate_mmlu_pro
        gate_demo_models
        gate_encoders
        gate_subsets
        gate_cost
        budgets_fleet
        residency
        sim_seeds
        sim_scale
    );

    fn runs_at_smoke_size(name: &str) {
        let experiment = EXPERIMENTS.iter().find(|e| e.name == name);
        let experiment = experiment.unwrap_or_else(|| panic!("{name} is no experiment"));
        let Action::Measure(measure) = experiment.action else {
            panic!("{name} is a command");
        };
        let setting = small();
        if experiment.needs == Needs::Data && setting.data.is_none() {
            println!("skipped: {name} needs data that is not here");
            return;
        }
        let result = measure(&setting).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert!(result.is_object());
    }

    /// Those that start programs have tests of their own, below and end to end.
    #[test]
    fn no_measurement_is_forgotten() {
        let measured =
            |e: &&Experiment| matches!(e.action, Action::Measure(_)) && e.needs != Needs::Programs;
        let names = EXPERIMENTS.iter().filter(measured);
        let names: Vec<_> = names.map(|e| e.name.replace('-', "_")).collect();
        assert_eq!(names, RUN);
    }

    /// The same, if the programs of a fleet have been built.
    fn small_with_a_fleet() -> Option<Setting> {
        let setting = small();
        for program in ["moe2-coordinator", "moe2-agent"] {
            if let Err(missing) = setting.program(program) {
                println!("skipped: {missing}");
                return None;
            }
        }
        Some(setting)
    }

    #[test]
    fn a_short_soak_samples_every_process_and_gets_answers_and_lets_clients_leave() {
        let Some(setting) = small_with_a_fleet() else {
            return;
        };
        let result = soak::measure(&setting).expect("it runs");
        for name in ["coordinator", "edge-1", "edge-2", "edge-3"] {
            let lines = result["samples"]["processes"].as_array().expect("a list");
            let of = lines.iter().filter(|line| line["process"] == name);
            let taken = of.filter(|line| line["anonymous"].as_u64() > Some(100_000));
            assert!(taken.count() > 5, "{name}");
        }
        let requests = &result["requests"];
        assert_eq!(requests["wrong"], 0, "{requests}");
        assert!(requests["answered"].as_u64() > Some(20), "{requests}");
        assert!(requests["left"].as_u64() > Some(0), "{requests}");
    }

    #[test]
    fn twenty_agents_are_borne_and_strangers_keep_none_out() {
        let Some(setting) = small_with_a_fleet() else {
            return;
        };
        for measure in [scale::measure, strangers::measure] {
            let result = measure(&setting).expect("it runs");
            assert_eq!(result["missed"], serde_json::json!([]), "{result}");
        }
    }

    #[test]
    fn two_rounds_of_chaos_are_survived() {
        let Some(setting) = small_with_a_fleet() else {
            return;
        };
        let result = chaos::scripted(&setting).expect("it runs");
        assert_eq!(result["all"]["rounds"], 2);
        assert_eq!(result["requests"]["lost"], 0, "{}", result["missed"]);
        assert_ne!(result["requests"]["answered"], 0);
    }
}
