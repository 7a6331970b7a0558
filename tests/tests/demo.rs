//! The demonstration shows changes arriving and stops on Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::{
    Node, Result, Running, Signal, check, check_equal, check_integrity, contents, fail, get, run_to_end, scenario,
};

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
            if demo.ended()?.is_some() {
                return Ok(());
            }
            let output = demo.output();
            check!(output.contains(&format!("http://127.0.0.1:{}", node.port())), "no link in {output:?}");
            check!(output.lines().filter(|line| arrival(line)).count() >= 2, "nothing arrives in {output:?}");
            Ok(())
        })?;
        if let Some(status) = demo.ended()? {
            fail!("it ended with {status}: {}", demo.complaints());
        }
        check_equal!(get(node.port(), "/healthz")?.status, 200);
        check_equal!(get(node.port(), "/")?.status, 200);
        let files = databases(&folder);
        check!(files.len() >= 2, "no two files in {}", folder.display());
        follow_instructions(&demo.output())?;
        scene.eventually("what was written by hand arrives", || {
            let output = demo.output();
            check!(output.lines().any(|line| arrival(line) && line.contains("99")), "no 99 arrives in {output}");
            Ok(())
        })?;
        let finished = demo.end_with(Signal::Interrupt)?;
        check_equal!(finished.code, Some(0), "{}", finished.stderr);
        files.iter().try_for_each(|file| check_integrity(file))
    });
}

/// Runs the commands that the demonstration suggests, as it prints them.
fn follow_instructions(output: &str) -> Result {
    let commands: Vec<&str> = output.lines().map(str::trim).filter(|line| line.starts_with("sqlite3 ")).collect();
    check!(!commands.is_empty(), "it suggests nothing to write: {output}");
    for command in commands {
        run_to_end(Command::new("sh").args(["-c", command]))?.success()?;
    }
    Ok(())
}

/// Whether a line of the demonstration tells of a change.
fn arrival(line: &str) -> bool {
    ["insert", "update", "delete"].iter().any(|operation| line.contains(operation))
}
