//! The drill itself: load, fault, restart, again and again, then the evidence for the verdict.
//!
//! For `drill kill` and `drill term`. Each round waits until the node has done a real share of the work and holds work
//! of others at this very moment, hits it, watches the survivors give it up, starts it again under the same id, and
//! waits until it works for others again. The load runs through all of it.
//! Invariants: every wait has a limit, and what did not come within it ends the drill with an error that says what.
//! Not here: what the evidence means (`judge`).

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::judge::{Evidence, Fault, Round, Setting, judge};
use super::judgement::show;
use super::watch::{LOOK_EVERY, forwards_to, not_at_rest, until_given_up};
use crate::cluster::{Cluster, describe_end};
use crate::http::Client;
use crate::load::{Doors, Load, LoadPlan, check_samples, hot_share, skewed};
use crate::options::{LoadOptions, NodeOptions, capacity_per_s, private_cluster_name};
use crate::report::{Progress, Report, remark};
use crate::stats::share;

/// Share of the capacity of the nodes that are left after the fault that the default rate asks for.
const DEFAULT_SHARE: f64 = 0.7;
/// The door that gets more than the others.
const HOT: usize = 0;
/// The share of all answers that the victim must have computed since it came (back), before it is hit.
const VICTIM_SHARE_MIN: f64 = 0.1;
/// Answers that such a share is taken of, at least.
const ANSWERS_MIN: u64 = 30;
/// Longest single wait within a round; a round has five.
const WAIT_LIMIT: Duration = Duration::from_secs(45);
/// How long a moment is looked for at which the victim holds work of others, before it is hit without.
const LOADED_LIMIT: Duration = Duration::from_secs(2);
/// How long counters may need to come to rest after the last answer.
const REST_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    nodes: NodeOptions,
    #[command(flatten)]
    load: LoadOptions,
    /// Shortest time under load, in seconds; it goes on until all rounds are done
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Rounds of fault and restart
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    kills: u32,
    /// Which node is hit: the one whose door gets most, or one whose door gets little
    #[arg(long, value_enum, default_value_t = Victim::Cold)]
    victim: Victim,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Victim {
    Cold,
    Hot,
}

/// # Errors
/// The shoal did not form, or a step of a round did not come within its limit.
pub(crate) async fn run(options: Options, fault: Fault) -> Result<ExitCode> {
    let nodes = options.nodes.nodes;
    ensure!(1 < nodes, "--nodes {nodes}: somebody must survive");
    let report = Report::new(options.nodes.json);
    let seconds = Duration::from_secs(options.seconds);
    let longest = seconds + WAIT_LIMIT * options.kills * 5;
    let rate_per_s = options.load.rate_per_s(nodes - 1, DEFAULT_SHARE, longest)?;
    let mut plan = options.nodes.plan(private_cluster_name(), 0, Some(options.load.engine.clone()))?;
    plan.model = options.load.model.clone();
    let mut cluster = Cluster::start(&plan)?;
    let mut progress = Progress::new();
    let formed = cluster.wait_until_formed(options.nodes.formed_limit(), &mut progress).await?;
    report.line(explain(&options, rate_per_s))?;

    let clients = cluster.api_addresses().into_iter().map(Client::new).collect();
    let doors = Arc::new(Doors::new(clients, cluster.node_ids().map(str::to_owned).collect()));
    let weights = skewed(doors.count(), HOT, options.load.skew);
    let load_plan = LoadPlan { rate_per_s, weights, seed: options.load.seed, duration_max: longest };
    let load = Load::start(Arc::clone(&doors), &load_plan)?;
    let victim = match options.victim {
        Victim::Hot => HOT,
        Victim::Cold => doors.count() - 1,
    };
    let mut hit = Hit { cluster: &mut cluster, load: &load, victim, fault };
    let rounds = hit.rounds(options.kills, seconds, &mut progress).await?;
    progress.show("until the end of the load".to_owned());
    tokio::time::sleep(seconds.saturating_sub(Duration::from_micros(load.now_us()))).await;
    let (records, samples) = load.finish().await?;
    progress.show("checking answers and counters".to_owned());
    let not_at_rest = not_at_rest(&cluster, REST_LIMIT).await;
    let checked = check_samples(&doors, options.load.seed, &samples).await;
    progress.clear();
    let stopped = cluster.stop(std::future::pending()).await?;

    let setting = Setting {
        fault,
        nodes,
        engine: options.load.engine.clone(),
        rate_per_s,
        skew: options.load.skew,
        seed: options.load.seed,
        victim,
        formed_ms: formed.formed_ms,
    };
    let judgement = judge(&Evidence { setting, records, rounds, checked, not_at_rest, ends: stopped.ends.clone() });
    show(report, &judgement)?;
    if judgement.is_passed() {
        stopped.remove_directory()?;
    } else {
        remark(format_args!("data and logs: {}", stopped.directory.display()));
    }
    Ok(judgement.exit_code())
}

fn explain(options: &Options, rate_per_s: f64) -> String {
    let nodes = options.nodes.nodes;
    let hot_per_s = rate_per_s * hot_share(usize::from(nodes), options.load.skew);
    let capacity = capacity_per_s(&options.load.engine).map_or_else(String::new, |capacity| {
        let left = 100.0 * rate_per_s / (capacity * f64::from(nodes - 1));
        let hot = 100.0 * hot_per_s / capacity;
        format!("; that is {hot:.0} % of what that node can do, and all is {left:.0} % of what {} nodes can", nodes - 1)
    });
    format!(
        "{nodes} nodes, engine {}: {rate_per_s:.1} requests/s, {hot_per_s:.1}/s of them at the first door{capacity}",
        options.load.engine
    )
}

/// One victim under one load.
struct Hit<'a> {
    cluster: &'a mut Cluster,
    load: &'a Load,
    victim: usize,
    fault: Fault,
}

impl Hit<'_> {
    /// `count` rounds. The faults are spread over `spread`, each in the middle of its part of it.
    async fn rounds(&mut self, count: u32, spread: Duration, progress: &mut Progress) -> Result<Vec<Round>> {
        let mut rounds = Vec::new();
        for number in 0..count {
            let name = format!("round {} of {count}", number + 1);
            progress.show(name.clone());
            let not_before = spread.mul_f64((f64::from(number) + 0.5) / f64::from(count));
            let round = self.round(not_before).await;
            rounds.push(round.with_context(|| format!("{name} (logs: {})", self.cluster.directory().display()))?);
        }
        Ok(rounds)
    }

    /// From waiting for the right moment until the node works again.
    async fn round(&mut self, not_before: Duration) -> Result<Round> {
        let share_before = self.until_it_works(not_before).await?;
        let before = self.until_it_holds_work().await?;
        let fault_us = self.load.now_us();
        let node = self.cluster.node_mut(self.victim);
        match self.fault {
            Fault::Kill => node.kill()?,
            Fault::Terminate => node.terminate()?,
        }
        let end = node.wait(WAIT_LIMIT).await?;
        let ended_us = self.load.now_us();
        let aftermath = until_given_up(self.cluster, self.victim, self.load, before, WAIT_LIMIT).await?;

        let worked_before = self.works_done();
        let restart_us = self.load.now_us();
        self.cluster.node_mut(self.victim).start_again()?;
        self.cluster.wait_until_seen(self.victim, WAIT_LIMIT).await?;
        let seen_us = self.load.now_us();
        self.until_it_works_again(worked_before).await?;
        Ok(Round {
            share_before,
            open_at_fault: before.open(),
            fault_us,
            end: describe_end(end),
            end_is_clean: end.success(),
            ended_us,
            last_offer_us: aftermath.last_offer_us,
            called_dead_us: aftermath.called_dead_us,
            offered_after: aftermath.forwards.offered.saturating_sub(before.offered),
            harmed: aftermath.forwards.harmed.since(before.harmed),
            restart_us,
            seen_us,
            works_us: self.load.now_us(),
        })
    }

    /// Waits for the time and until the victim has computed its share of the answers since now.
    async fn until_it_works(&mut self, not_before: Duration) -> Result<f64> {
        let at_first = self.load.ledger().served();
        let mut deadline = Instant::now() + WAIT_LIMIT;
        loop {
            let done: Vec<u64> =
                self.load.ledger().served().iter().zip(&at_first).map(|(now, before)| now - before).collect();
            let (all, own) = (done.iter().sum(), done[self.victim]);
            let early = Duration::from_micros(self.load.now_us()) < not_before;
            if !early && ANSWERS_MIN <= all && VICTIM_SHARE_MIN <= share(own, all) {
                return Ok(share(own, all));
            }
            if early {
                deadline = Instant::now() + WAIT_LIMIT;
            } else if deadline <= Instant::now() {
                bail!(
                    "{} computed {own} of {all} answers in {} s, less than {:.0} %: hitting it would prove nothing",
                    self.cluster.nodes()[self.victim].node_id(),
                    WAIT_LIMIT.as_secs(),
                    100.0 * VICTIM_SHARE_MIN
                );
            }
            self.cluster.ensure_all_run()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Looks for a moment at which the victim holds work of others, so that the fault hits something.
    async fn until_it_holds_work(&self) -> Result<super::watch::Forwards> {
        let deadline = Instant::now() + LOADED_LIMIT;
        loop {
            let forwards = forwards_to(self.cluster, self.victim).await?;
            if 0 < forwards.open() || deadline <= Instant::now() {
                return Ok(forwards);
            }
        }
    }

    /// Answers by which the victim shows that it is back: those for other doors, which nobody asked it for directly.
    /// The hot door has too much of its own to get work of others, so there any answer counts.
    fn works_done(&self) -> u64 {
        let ledger = self.load.ledger();
        if self.victim == HOT { ledger.served()[self.victim] } else { ledger.served_for_others(self.victim) }
    }

    async fn until_it_works_again(&mut self, worked_before: u64) -> Result<()> {
        let deadline = Instant::now() + WAIT_LIMIT;
        while self.works_done() <= worked_before {
            self.cluster.ensure_all_run()?;
            if deadline <= Instant::now() {
                let node_id = self.cluster.nodes()[self.victim].node_id();
                bail!("{node_id} is back for {} s and got no work", WAIT_LIMIT.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}
