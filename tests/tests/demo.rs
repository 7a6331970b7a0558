//! The demonstration shows changes arriving and stops on Ctrl-C.

use std::path::{Path, PathBuf};

use system_tests::{Failure, Node, Result, Running, Signal, check, check_equal, contents, differences, get, scenario};

/// The SQLite files below a folder that hold rows.
fn databases(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(databases(&path));
        } else if contents(&path).is_ok_and(|contents| contents.rows() > 0) {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn two_nodes_keep_their_files_in_step_until_interrupted() {
    scenario(|scene| {
        let node = Node::new(scene, "demo")?;
        let folder = node.path("files");
        let mut command = node.command()?;
        command.args(["demo", "--dir"]).arg(&folder).arg("--listen").arg(format!("127.0.0.1:{}", node.port()));
        let mut demo = Running::start(&mut command, &node.path("demo"))?;
        scene.eventually("the demonstration tells where to look and what arrives", || {
            if let Some(status) = demo.ended()? {
                return Err(Failure::new(format!("it ended with {status}: {}", demo.complaints())));
            }
            let output = demo.output();
            check!(output.contains(&format!("http://127.0.0.1:{}", node.port())), "no link in {output:?}");
            check!(output.lines().filter(|line| arrival(line)).count() >= 2, "nothing arrives in {output:?}");
            Ok(())
        })?;
        check_equal!(get(node.port(), "/healthz")?.status, 200);
        check_equal!(get(node.port(), "/")?.status, 200);
        check!(databases(&folder).len() >= 2, "no two files in {}", folder.display());
        let finished = demo.end_with(Signal::Interrupt)?;
        check_equal!(finished.code, Some(0), "{}", finished.stderr);
        in_step(&folder)
    });
}

/// Whether a line of the demonstration tells of a change.
fn arrival(line: &str) -> bool {
    ["insert", "update", "delete"].iter().any(|operation| line.contains(operation))
}

/// After a clean stop at most the last changes of either side are still to be sent.
fn in_step(folder: &Path) -> Result {
    let files = databases(folder);
    let (first, second) = (contents(&files[0])?, contents(&files[1])?);
    let apart = differences(&first, &second).len();
    check!(apart <= first.rows() / 2, "{apart} differences in {} rows", first.rows());
    Ok(())
}
