//! `moe2 gate eval`: what a gate is worth on questions it was not trained on.

use std::path::PathBuf;

use anyhow::Context;
use moe2_gate::{
    Against, Figure, Forecasts, Judgement, Reference, Routed, baselines, cross_fitted, judge,
    reread,
};

use super::held::{Held, HeldOut};
use crate::table::Table;
use crate::{BadInput, out};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  moe2 gate eval --gate gate.json --data held-out.jsonl\n  moe2 gate eval --gate gate.json --data held-out.jsonl --experts a,b,c --json\n\nThe best single expert is the one with the best mean on the gate's training data. Simpler gates are\ntrained on --train, or on the other folds of the data itself where that is not given. Intervals are\n95 % bootstrap intervals over groups of near-duplicate questions."
)]
pub(crate) struct Args {
    #[command(flatten)]
    held: HeldOut,
    /// Outcomes to train the simpler gates on.
    #[arg(long, value_name = "FILE")]
    train: Vec<PathBuf>,
    /// Decides the resamples.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let Held { gate, items } = args.held.read()?;
    let trained = gate.trained().context("the gate was trained")?;
    let forecasts: Vec<Forecasts> = items.iter().map(|item| trained.forecasts(item)).collect();
    let in_data = |e: &&moe2_model::ExpertName| items.iter().any(|i| i.outcomes.contains_key(*e));
    let means = trained.heads.iter().filter(|(e, _)| in_data(e));
    let reference = Reference {
        means: means.map(|(e, head)| (e.clone(), head.mean)).collect(),
    };
    let others = if args.train.is_empty() {
        cross_fitted(&items, args.seed)
    } else {
        let (mut train, _) = args.held.data.instead(&args.train).read()?;
        reread(&mut train, |expert| Some(gate.option_rule(expert)));
        let trained = baselines(&train);
        let each = trained.iter();
        each.map(|b| (b.name(), items.iter().map(|i| b.forecast(i)).collect()))
            .collect()
    };
    let against = Against {
        reference: &reference,
        others: &others,
    };
    let rule = |expert: &_| gate.option_rule(expert);
    let judged = judge(&items, &forecasts, &against, rule, args.seed);
    let Some(judged) = judged else {
        let why = "no question has an outcome of an expert that the gate has a head for";
        return Err(BadInput(why.to_owned()).into());
    };
    if args.json {
        return out::json(&judged);
    }
    out::data(&table(&judged));
    Ok(())
}

fn table(judged: &Judgement) -> String {
    let mut table = Table::new(&["", "VALUE", "95 % INTERVAL"]);
    let figures = &judged.figures;
    let mut row = |name: &str, figure: Option<Figure>| {
        if let Some(f) = figure {
            let interval = format!("{:.4} to {:.4}", f.low, f.high);
            table.row([name.to_owned(), format!("{:.4}", f.value), interval]);
        }
    };
    row("random expert", Some(figures.random));
    row(
        &format!("best single ({})", judged.best_single_expert),
        Some(figures.best_single),
    );
    row("majority", figures.majority);
    row("three best, weighted vote", figures.static_vote_k3);
    let mut routed = |name: &str, r: &Routed| {
        row(&format!("{name}: top 1"), Some(r.top1));
        row(&format!("{name}: gain over best single"), Some(r.top1_gain));
        row(&format!("{name}: vote of 3"), r.vote_k3);
        row(&format!("{name}: gain over best single"), r.vote_k3_gain);
    };
    for (name, r) in &judged.baselines {
        routed(name, r);
    }
    routed("gate", &figures.gate);
    row("gate: mixture of 3", figures.mixture_k3);
    row("gate: gain over best single", figures.mixture_k3_gain);
    row("oracle", Some(figures.oracle));
    row("calibration error", figures.ece);
    row("Brier score", figures.brier);
    row("AUC", figures.auc);
    let mut experts = Table::new(&["EXPERT", "N", "MEAN", "CALIBRATION ERROR", "BRIER", "AUC"]);
    let number = |f: Option<Figure>| f.map_or_else(String::new, |f| format!("{:.4}", f.value));
    for (expert, e) in &judged.experts {
        let mean = format!("{:.4}", e.mean);
        let (ece, brier, auc) = (number(e.ece), number(e.brier), number(e.auc));
        experts.row([expert.to_string(), e.n.to_string(), mean, ece, brier, auc]);
    }
    format!("{table}\n\n{experts}\n\n{} questions", judged.n)
}
