//! What a node's log comes to say.

use crate::{Node, Result, Scene, fail};

/// Awaits a line of a node's log that holds all of some words.
///
/// # Errors
/// None comes.
#[track_caller]
pub fn logged(scene: &Scene, node: &Node, words: &[&str]) -> Result {
    scene.eventually("the log says so", || {
        let log = node.log();
        let found = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        if found { Ok(()) } else { fail!("no line of {} with {words:?}", node.name()) }
    })
}
