//! The operator's guide in `deploy/`, typed command by command, with the output that it shows.
//!
//! `GUIDE=write` writes what the commands print into the guide, in place of what it shows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use system_tests::{
    DEADLINE, Machines, Result, Scene, Step, check, check_equal, free_port, is_as_shown, run_to_end, scenario, steps,
    sync_engine,
};

fn guide() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/README.md")
}

/// Commands that only look: they are typed again until they show what they will show.
const LOOKS: [&str; 8] = [
    "sync-engine status",
    "sync-engine conflicts list",
    "sync-engine conflicts show",
    "sync-engine verify",
    "sync-engine backup --list",
    "curl ",
    "grep ",
    "sqlite3 -readonly ",
];

fn only_looks(command: &str) -> bool {
    LOOKS.iter().any(|look| command.starts_with(look)) && !command.contains("--repair")
}

fn show(machines: &Machines, step: &Step) -> Result<String> {
    if !only_looks(&step.command) {
        return machines.run(step);
    }
    let writes = std::env::var_os("GUIDE").is_some();
    let deadline = if writes { Duration::from_secs(20) } else { DEADLINE };
    let shown = Scene::within(deadline, &format!("line {}: {}", step.line, step.command), || {
        let output = machines.run(step)?;
        check!(is_as_shown(&step.shown, &output), "shown:\n{}\nprinted:\n{output}", step.shown.join("\n"));
        Ok(output)
    });
    if writes { shown.or_else(|_| machines.run(step)) } else { shown }
}

#[test]
fn every_command_does_what_the_guide_shows() {
    scenario(|scene| {
        let text = std::fs::read_to_string(guide())?;
        let mut steps = steps(&text)?;
        check!(steps.len() > 20, "the guide has {} commands", steps.len());
        let help = run_to_end(Command::new(sync_engine()?).arg("--help"))?.success()?;
        let has = |name: &str| help.lines().any(|line| line.trim_start().starts_with(&format!("{name} ")));
        steps.retain(|step| match step.needs.strip_prefix("if-") {
            Some(name) => has(name),
            None => step.needs.is_empty(),
        });
        let ports = [(7420, free_port()?), (7421, free_port()?)];
        let machines = Machines::new(scene, &steps, &ports)?;
        let mut printed = Vec::new();
        for step in &steps {
            let output = show(&machines, step)?;
            if std::env::var_os("GUIDE").is_none() {
                check!(
                    is_as_shown(&step.shown, &output),
                    "line {}: {}\nshown:\n{}\nprinted:\n{output}",
                    step.line,
                    step.command,
                    step.shown.join("\n")
                );
            }
            printed.push(output);
        }
        if std::env::var_os("GUIDE").is_some() {
            std::fs::write(guide(), rewritten(&text, &steps, &printed))?;
        }
        Ok(())
    });
}

/// The guide with what was printed in place of what it shows.
fn rewritten(text: &str, steps: &[Step], printed: &[String]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (step, output) in steps.iter().zip(printed).rev() {
        let begin = step.line - 1 + step.command.lines().count();
        if !is_as_shown(&step.shown, output) {
            lines.splice(begin..begin + step.shown.len(), output.trim_end().lines().map(str::to_owned));
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn a_guide_is_read_as_commands_and_what_they_print() -> Result {
    let text = "Say:\n```console\nberlin# cat > file <<'EOF'\na # b\nEOF\nberlin$ cat file\na # b\n```\n```toml\nx$ y\n```\n\
                ```console system\noslo# reboot\n```\n";
    let step = |machine: &str, command: &str, shown: &[&str], line, needs: &str| Step {
        machine: machine.to_owned(),
        command: command.to_owned(),
        shown: shown.iter().map(ToString::to_string).collect(),
        line,
        needs: needs.to_owned(),
    };
    check_equal!(
        steps(text)?,
        [
            step("berlin", "cat > file <<'EOF'\na # b\nEOF", &[], 3, ""),
            step("berlin", "cat file", &["a # b"], 6, ""),
            step("oslo", "reboot", &[], 13, "system"),
        ]
    );
    check!(steps("```console\nno prompt\n```\n").is_err(), "it begins with no command");
    Ok(())
}

#[test]
fn what_differs_from_run_to_run_counts_as_the_same_and_nothing_else() {
    let same = |shown: &str, output: &str| is_as_shown(&shown.lines().map(str::to_owned).collect::<Vec<_>>(), output);
    assert!(same("up 41 s", "up 3 s\n"));
    assert!(!same("41 rows", "3 rows"));
    assert!(same("2026-11-29T02:00:00.000Z INFO x", "2027-01-01T02:00:00.123Z INFO x"));
    assert!(!same("2026-11-29T02:00:00.000Z INFO x", "2027-01-01T02:00:00.123Z INFO y"));
    assert!(same("01a2258b-b566-7455-82a7-c6bfbeb48c72:2", "01a2258b-9f48-77df-9450-d0a8d2e29130:2"));
    assert!(!same("01a2258b-b566-7455-82a7-c6bfbeb48c72:2", "01a2258b-9f48-77df-9450-d0a8d2e29130:3"));
    assert!(same("peer oslo (127.0.0.1:51544): in 12 B", "peer oslo (127.0.0.1:40000): in 7 B"));
    assert!(!same("at 127.0.0.1:7420", "at 127.0.0.1:7421"));
    assert!(same("a\n…\nd", "a\nb\nc\nd") && same("a … d", "a b c d") && !same("a\n…\nd", "a\nb"));
    assert!(!same("", "something"));
}
