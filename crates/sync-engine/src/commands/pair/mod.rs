//! `sync-engine pair`: keeps pairs of files on this machine in step, for as long as it runs or for one pass. An engine for each file, and
//! a link within the process for each pair.

mod files;
mod hearing;
mod keeping;
mod naming;
mod plan;
mod summary;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use sync_engine::config::LogSettings;
use sync_engine::{Database, SyncEngine, telemetry};

use crate::cli::Pair;
use crate::commands::in_step::Couple;
use crate::commands::signals::{HangUp, Signals};
use crate::commands::{IO, NO, complain, databases, say};
use files::PairFile;
use hearing::Heard;
use keeping::Keeper;
use plan::Plan;
use summary::Ledger;

/// What all call the database, and the cluster that engines of pairs are.
const NAME: &str = "pair";

/// How long a file may take to be opened. One whose lock another program holds goes on later.
const OPENING: Duration = Duration::from_secs(8);

/// The pause between two looks whether a file is open.
const LOOK: Duration = Duration::from_millis(5);

/// A file at work.
struct Running {
    file: PairFile,
    engine: SyncEngine,
}

/// Keeps pairs in step.
pub(crate) async fn run(arguments: Pair) -> anyhow::Result<ExitCode> {
    let signals = Signals::register(HangUp::Stops)?;
    let mut plan = Plan::of(&arguments)?;
    let settings = arguments.log_dir.as_ref().map(LogSettings::in_folder);
    // The log goes on until it is dropped, at the very end.
    let _log = settings.map(|settings| telemetry::start(&settings)).transpose()?;
    let heard = Heard::default();
    let mut running = BTreeMap::new();
    // The last first: of rows that differ before two files have met, those of the one that was attached later stand.
    for (place, file) in plan.take().into_iter().rev() {
        match start(file, &arguments, &plan, &heard, &signals).await {
            Ok(started) => drop(running.insert(place, started)),
            Err(error) => plan.give_up(place, &error),
        }
    }
    let kept = keep(&plan, &running, &arguments, &heard, &signals).await;
    // What is not exchanged yet is known of by what detaching takes out.
    let exchanged = kept.as_ref().is_ok_and(|summaries| {
        plan.refused.is_empty()
            && summaries.iter().all(|summary| summary.equal == Some(true) && summary.errors.is_empty())
    });
    let stopped = stop(running, arguments.detach && exchanged).await;
    let mut summaries = kept?;
    let mut good = true;
    for summary in &mut summaries {
        // By now all was heard.
        summary.hear(&heard);
        good &= summary.errors.is_empty();
        if arguments.once {
            summary.print(arguments.json, arguments.quiet);
        }
    }
    for refused in &plan.refused {
        if arguments.json {
            refused.summary.print(true, false);
        }
    }
    stopped?;
    if arguments.detach && !exchanged {
        complain(&anyhow::anyhow!(
            "no file is detached: not everything was exchanged; see the errors above and run it again"
        ));
        return Ok(NO.into());
    }
    let io = plan.refused.iter().all(|refused| refused.code == IO);
    Ok(match (plan.refused.is_empty(), plan.pairs.is_empty()) {
        (true, _) if good || !arguments.once => ExitCode::SUCCESS,
        (false, true) if io => IO.into(),
        _ => NO.into(),
    })
}

/// Starts the engine of a file, and waits until the file is open.
async fn start(
    file: PairFile,
    arguments: &Pair,
    plan: &Plan,
    heard: &Heard,
    signals: &Signals,
) -> anyhow::Result<Running> {
    let (heard, shown) = (heard.clone(), file.shown.clone());
    let database = Database::open(&file.real).name(NAME).configured_policy(&plan.policy);
    let engine = SyncEngine::builder()
        .node(file.node())
        .cluster(NAME)
        .state_dir(&file.state)
        .poll_interval(arguments.interval)
        .event_hook(move |event| heard.hear(&shown, event))
        .database(database)
        .build()
        .await?;
    let is_opening = || engine.status().databases.first().is_some_and(|database| database.state == "opening");
    let opened = async {
        while is_opening() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        // What stands in the way is told of the pair.
        _ = tokio::time::timeout(OPENING, opened) => {}
        () = signals.stop() => {}
    }
    Ok(Running { file, engine })
}

/// Links the pairs, and keeps them in step for one pass or until somebody asks to stop.
async fn keep(
    plan: &Plan,
    running: &BTreeMap<usize, Running>,
    arguments: &Pair,
    heard: &Heard,
    signals: &Signals,
) -> anyhow::Result<Vec<summary::Summary>> {
    let mut keeper = Keeper::new(running.iter().map(|(place, running)| (*place, &running.engine)).collect());
    for pair in &plan.pairs {
        let [Some(first), Some(second)] = pair.map(|place| running.get(&place)) else {
            bail!("a file of a pair was not started");
        };
        let couple = Couple::link([&first.engine, &second.engine], NAME)?;
        keeper.add(*pair, plan.shown(*pair), couple);
    }
    if !arguments.once && !arguments.quiet && !arguments.json {
        for pair in &plan.pairs {
            say(&format!("keeping {} in step; Ctrl-C stops it", plan.shown(*pair).join(" and ")));
        }
    }
    let mut summaries = keeper.one_pass(heard, signals).await;
    if !arguments.once {
        for summary in &mut summaries {
            summary.hear(heard);
            summary.print(arguments.json, arguments.quiet);
        }
        heard.forget();
        // They are told of, and what comes to be known of them later is another matter.
        summaries.clear();
        keeper.go_on(heard, signals, |summary| summary.print(arguments.json, arguments.quiet)).await;
    }
    Ok(summaries)
}

/// Stops all engines, and takes capture out of the files if that is wanted.
async fn stop(running: BTreeMap<usize, Running>, detach: bool) -> anyhow::Result<()> {
    let (files, engines): (Vec<PairFile>, Vec<SyncEngine>) =
        running.into_values().map(|running| (running.file, running.engine)).unzip();
    let stopped = futures::future::join_all(engines.into_iter().map(SyncEngine::stop_realtime_sync)).await;
    stopped.into_iter().collect::<Result<(), _>>()?;
    if detach {
        files.iter().try_for_each(|file| databases::detach_one(&file.real).map(drop))?;
    }
    Ok(())
}
