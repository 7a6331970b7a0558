//! What is to be done: which files there are, which of them are pairs, and which pairs cannot begin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use sync_engine::config::Policy;

use super::files::{self, PairFile};
use super::naming;
use super::summary::Summary;
use crate::cli::Pair;
use crate::commands::{Misuse, code, complain, message};

/// A pair that cannot begin.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) summary: Summary,
    /// The exit code that its error stands for.
    pub(super) code: u8,
}

/// What is to be done.
#[derive(Debug)]
pub(super) struct Plan {
    /// The places of two files each.
    pub(super) pairs: Vec<[usize; 2]>,
    /// The files as they were named, and where they are.
    files: Vec<(PathBuf, PathBuf)>,
    pub(super) policy: Policy,
    root: PathBuf,
    pub(super) refused: Vec<Refused>,
}

impl Plan {
    /// Looks which files are meant.
    ///
    /// # Errors
    /// The command line cannot be followed. A file that is missing is none: its pairs are refused.
    pub(super) fn of(arguments: &Pair) -> anyhow::Result<Self> {
        let root = files::state_root(arguments.state_dir.as_deref())?;
        let (pairs, files, refused) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Self { pairs, files, policy: Policy::default(), root, refused };
        let mut known = BTreeMap::new();
        for text in &arguments.pairs {
            let named = naming::files(text).map_err(Misuse)?;
            let shown = named.each_ref().map(|path| path.display().to_string());
            let found = named.each_ref().map(|path| files::find(path));
            let mut places = Vec::new();
            for (path, found) in named.into_iter().zip(found) {
                match found {
                    Ok((real, identity)) => {
                        let place = *known.entry((identity.device, identity.inode)).or_insert(plan.files.len());
                        if place == plan.files.len() {
                            plan.files.push((path, real));
                        }
                        places.push(place);
                    }
                    Err(error) => plan.refuse(&shown, &error),
                }
            }
            let [first, second] = &shown;
            match places.as_slice() {
                [here, there] if here == there => {
                    return Err(Misuse(format!("{first} and {second} are the same file; name two")).into());
                }
                [here, there] if plan.pairs.contains(&[*here, *there]) || plan.pairs.contains(&[*there, *here]) => {
                    return Err(Misuse(format!("{first} and {second} are a pair already; name it once")).into());
                }
                [here, there] => plan.pairs.push([*here, *there]),
                _ => {}
            }
        }
        let nodes: Vec<String> = plan.files.iter().map(|(_, real)| files::node(real)).collect();
        let policy = Policy::of_database(&arguments.policy, &nodes, arguments.timestamp_column.as_deref());
        plan.policy = policy.map_err(Misuse)?;
        Ok(plan)
    }

    /// Takes the files of all pairs. Pairs with a file that cannot be had are refused.
    pub(super) fn take(&mut self) -> BTreeMap<usize, PairFile> {
        let mut taken = BTreeMap::new();
        for place in 0..self.files.len() {
            let (shown, real) = &self.files[place];
            match files::take(shown, real, &self.root) {
                Ok(file) => drop(taken.insert(place, file)),
                Err(error) => self.give_up(place, &error),
            }
        }
        taken.retain(|place, _| self.is_needed(*place));
        taken
    }

    /// Whether a pair is left that has the file.
    pub(super) fn is_needed(&self, place: usize) -> bool {
        self.pairs.iter().any(|pair| pair.contains(&place))
    }

    /// The pairs of a file cannot be kept in step.
    pub(super) fn give_up(&mut self, place: usize, error: &anyhow::Error) {
        let mut told = false;
        for pair in self.pairs.extract_if(.., |pair| pair.contains(&place)).collect::<Vec<_>>() {
            let shown = self.shown(pair);
            // Once is enough, however many pairs the file is in.
            let error = if told { &anyhow!("{}", message(error)) } else { error };
            if !told {
                complain(error);
            }
            told = true;
            self.refused.push(Refused { summary: Summary::failed(shown, message(error)), code: code(error) });
        }
    }

    fn refuse(&mut self, shown: &[String; 2], error: &anyhow::Error) {
        complain(error);
        self.refused.push(Refused { summary: Summary::failed(shown.clone(), message(error)), code: code(error) });
    }

    /// The files of a pair as they were named.
    pub(super) fn shown(&self, pair: [usize; 2]) -> [String; 2] {
        pair.map(|place| self.files[place].0.display().to_string())
    }
}
