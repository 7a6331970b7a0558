//! Pairs at work: one pass over all of them, and looking now and then for what has happened since.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sync_engine::SyncEngine;

use super::Ledger;
use super::hearing::Heard;
use super::summary::{News, Summary};
use crate::commands::in_step::{Couple, Standing};
use crate::commands::progress::Progress;
use crate::commands::signals::Signals;

/// How long nothing has to move until no more is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two words about progress.
const WORDS: Duration = Duration::from_millis(200);

/// The pause between two looks for something to tell.
const TELL: Duration = Duration::from_secs(1);

/// Looks after which it is told what has happened although more is on its way.
const UNTOLD: u32 = 10;

/// A pair at work.
struct Pair<'a> {
    files: [usize; 2],
    shown: [String; 2],
    couple: Couple<'a>,
}

/// All pairs.
pub(super) struct Keeper<'a> {
    engines: BTreeMap<usize, (&'a SyncEngine, Ledger)>,
    pairs: Vec<Pair<'a>>,
}

impl<'a> Keeper<'a> {
    pub(super) fn new(engines: BTreeMap<usize, &'a SyncEngine>) -> Self {
        let begin = |(place, engine)| (place, (engine, Ledger::begin()));
        Self { engines: engines.into_iter().map(begin).collect(), pairs: Vec::new() }
    }

    pub(super) fn add(&mut self, files: [usize; 2], shown: [String; 2], couple: Couple<'a>) {
        self.pairs.push(Pair { files, shown, couple });
    }

    /// Exchanges what was committed until now; what became of each pair.
    pub(super) async fn one_pass(&mut self, heard: &Heard, signals: &Signals) -> Vec<Summary> {
        let begun = Instant::now();
        let standings = tokio::select! {
            standings = self.settle() => standings,
            () = self.tell_progress() => Vec::new(),
            () = signals.stop() => {
                let interrupted = "interrupted; the next pass goes on from here";
                vec![Standing::Failed(interrupted.to_owned()); self.pairs.len()]
            }
        };
        let (news, mut errors) = self.news().await;
        let mut summaries = Vec::new();
        for (pair, standing) in self.pairs.iter().zip(standings) {
            let mut summary = self.summary(pair, &news, begun.elapsed());
            summary.first = heard.is_first(&pair.shown);
            summary.errors.append(&mut errors);
            match standing {
                Standing::Equal => summary.equal = Some(true),
                Standing::Written => {}
                Standing::Failed(reason) => summary.fail(reason),
                Standing::Stalled(reason) => {
                    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                    let patience = PATIENCE.as_secs();
                    summary.fail(format!(
                        "nothing has moved for {patience} s{reason}; another program may hold a lock: try again when it has let go"
                    ));
                }
            }
            summaries.push(summary);
        }
        summaries
    }

    /// Tells what has happened, each time that all are equal again or a while has passed, until somebody asks to stop.
    pub(super) async fn go_on(&mut self, heard: &Heard, signals: &Signals, tell: impl Fn(&Summary)) {
        let mut pending: BTreeMap<usize, News> = BTreeMap::new();
        let mut untold = 0;
        let mut stops = false;
        while !stops {
            tokio::select! {
                () = signals.stop() => stops = true,
                () = tokio::time::sleep(TELL) => {}
            }
            // What cannot be read now is read the next time.
            let (news, _) = self.news().await;
            news.into_iter().for_each(|(place, news)| pending.entry(place).or_default().add(news));
            if pending.values().all(News::is_empty) {
                continue;
            }
            let mut equal = Vec::new();
            for pair in &self.pairs {
                equal.push(pair.couple.is_equal().await);
            }
            untold += 1;
            if !stops && untold < UNTOLD && equal.contains(&false) {
                continue;
            }
            for (pair, equal) in self.pairs.iter().zip(equal) {
                let mut summary = self.summary(pair, &pending, TELL * untold);
                summary.equal = equal.then_some(true);
                summary.hear(heard);
                if summary.is_news() {
                    tell(&summary);
                }
            }
            heard.forget();
            (pending, untold) = Default::default();
        }
    }

    /// Waits until all are in step. What one file learns of another goes on to a third: so often as there are pairs that have files in
    /// common.
    async fn settle(&self) -> Vec<Standing> {
        let alone = |pair: &Pair<'_>| {
            let same = |other: &&Pair<'_>| pair.files.iter().any(|file| other.files.contains(file));
            self.pairs.iter().filter(same).count() == 1
        };
        let sweeps = 1 + self.pairs.iter().filter(|pair| !alone(pair)).count();
        let mut standings = Vec::new();
        for _ in 0..sweeps {
            standings = futures::future::join_all(self.pairs.iter().map(|pair| pair.couple.settle(PATIENCE))).await;
            if self.pairs.iter().all(alone) {
                break;
            }
        }
        standings
    }

    /// Never ends.
    async fn tell_progress(&self) {
        let mut progress = Progress::new();
        loop {
            tokio::time::sleep(WORDS).await;
            progress.tell(|| {
                let (mut behind, mut written) = (0, 0);
                for status in self.engines.values().map(|(engine, _)| engine.status()) {
                    behind += status.peers.iter().flat_map(|peer| &peer.databases).map(|one| one.behind).sum::<u64>();
                    let rows = status.databases.iter().map(|database| database.written);
                    written += rows.map(|rows| rows.inserted + rows.updated + rows.deleted).sum::<u64>();
                }
                format!("{behind} changes on their way, {written} rows written")
            });
        }
    }

    /// What is new of each file, and what keeps it from being read.
    async fn news(&mut self) -> (BTreeMap<usize, News>, Vec<String>) {
        let (mut news, mut errors) = (BTreeMap::new(), Vec::new());
        for (place, (engine, ledger)) in &mut self.engines {
            match ledger.news(engine).await {
                Ok(new) => drop(news.insert(*place, new)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        (news, errors)
    }

    fn summary(&self, pair: &Pair<'a>, news: &BTreeMap<usize, News>, took: Duration) -> Summary {
        let news = pair.files.map(|place| news.get(&place).cloned().unwrap_or_default());
        let mut summary = Summary::new(pair.shown.clone(), news, took);
        for place in pair.files {
            if let Some((engine, _)) = self.engines.get(&place) {
                summary.look_at(&engine.status());
            }
        }
        summary
    }
}
