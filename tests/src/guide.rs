//! The operator's guide, as a sequence of commands with the output that it shows.
//!
//! Commands stand in blocks that are fenced as `console`: a line `berlin# …` is typed by root on the machine berlin, `berlin$ …` by
//! anybody, and what follows up to the next such line is what it prints. `…` stands for anything. A block fenced as `console system`
//! needs a system with systemd: `tests/packaging` runs it, and all others too. One fenced as `console if-NAME` is for a program
//! that has the command of that name.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, Result, Scene, run_to_end, sync_engine};

/// A command of the guide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The machine that it is typed on.
    pub machine: String,
    /// What is typed; several lines where a text is given to the command.
    pub command: String,
    /// What it prints, as the guide shows it.
    pub shown: Vec<String>,
    /// The line of the guide, from 1.
    pub line: usize,
    /// What it needs besides a program: `system`, or `if-NAME`; empty where that is nothing.
    pub needs: String,
}

/// The commands of a guide, in order.
///
/// # Errors
/// A block does not begin with a command.
pub fn steps(text: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    // Whether a block is open, and of which kind; whether it has had a command; what ends the text that is given to a command.
    let (mut block, mut begun, mut until) = (None::<String>, false, None);
    for (index, line) in text.lines().enumerate() {
        let Some(needs) = &block else {
            if let Some(kind) = line.strip_prefix("```console") {
                (block, begun) = (Some(kind.trim().to_owned()), false);
            }
            continue;
        };
        if line == "```" {
            block = None;
            continue;
        }
        if let (Some(end), Some(step)) = (&until, steps.last_mut()) {
            step.command.push('\n');
            step.command.push_str(line);
            if line == end {
                until = None;
            }
            continue;
        }
        if let Some((machine, command)) = prompt(line) {
            until =
                command.split_once("<<'").and_then(|(_, rest)| rest.split_once('\'')).map(|(end, _)| end.to_owned());
            let (machine, command) = (machine.to_owned(), command.to_owned());
            steps.push(Step { machine, command, shown: Vec::new(), line: index + 1, needs: needs.clone() });
            begun = true;
        } else if begun && let Some(step) = steps.last_mut() {
            step.shown.push(line.to_owned());
        } else {
            return Err(Failure::new(format!("line {}: a block begins with no command: {line}", index + 1)));
        }
    }
    Ok(steps)
}

/// A line's machine and command, if it begins as one that is typed.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let end = line.find(|character: char| !character.is_ascii_lowercase()).filter(|end| *end > 0)?;
    let (machine, rest) = line.split_at(end);
    let command = rest.strip_prefix("# ").or_else(|| rest.strip_prefix("$ "))?;
    Some((machine, command))
}

/// Folders of a machine that lie in the scene instead.
const FOLDERS: [&str; 5] =
    ["/etc/sync-engine", "/var/lib/sync-engine", "/var/log/sync-engine", "/var/backups/sync-engine", "/srv/shop"];

/// The machines of the guide, played by folders and ports of this one.
pub struct Machines {
    folder: PathBuf,
    programs: PathBuf,
    /// The ports in the guide and those in their place.
    ports: Vec<(u16, u16)>,
    machines: Vec<String>,
}

impl Machines {
    /// The machines that steps are typed on, with the ports that they name.
    ///
    /// # Errors
    /// The binary cannot be built, or a folder cannot be made.
    pub fn new(scene: &Scene, steps: &[Step], ports: &[(u16, u16)]) -> Result<Self> {
        let (folder, programs) = (scene.path("machines"), scene.path("programs"));
        std::fs::create_dir_all(&programs)?;
        std::os::unix::fs::symlink(sync_engine()?, programs.join("sync-engine"))?;
        for program in ["systemctl", "runuser"] {
            std::os::unix::fs::symlink(crate::data_file("guide").join(program), programs.join(program))?;
        }
        let mut machines: Vec<String> = steps.iter().map(|step| step.machine.clone()).collect();
        machines.sort();
        machines.dedup();
        for (machine, path) in machines.iter().flat_map(|machine| FOLDERS.map(|path| (machine, path))) {
            std::fs::create_dir_all(folder.join(machine).join(&path[1..]))?;
        }
        Ok(Self { folder, programs, ports: ports.to_vec(), machines })
    }

    /// What a command prints, on standard output and standard error, told as on that machine.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn run(&self, step: &Step) -> Result<String> {
        let machine = self.folder.join(&step.machine);
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(format!("exec 2>&1; {}", self.here(&step.machine, &step.command)))
            .current_dir(&machine)
            .env("PATH", format!("{}:{path}", self.programs.display()))
            .env("MACHINE", &machine)
            .env("UNIT", Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/sync-engine.service"))
            .env("SYNC_ENGINE_CONFIG", machine.join("etc/sync-engine/sync-engine.toml"))
            .env("HOME", &machine);
        Ok(self.there(&step.machine, &run_to_end(&mut command)?.stdout))
    }

    fn here(&self, machine: &str, command: &str) -> String {
        let root = self.folder.join(machine).display().to_string();
        let command =
            FOLDERS.iter().fold(command.to_owned(), |text, path| text.replace(path, &format!("{root}{path}")));
        self.ports.iter().fold(command, |text, (there, here)| text.replace(&format!(":{there}"), &format!(":{here}")))
    }

    fn there(&self, machine: &str, output: &str) -> String {
        let text = output.replace(&self.folder.join(machine).display().to_string(), "");
        self.ports.iter().fold(text, |text, (there, here)| text.replace(&format!(":{here}"), &format!(":{there}")))
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for machine in &self.machines {
            if let Ok(pid) = std::fs::read_to_string(self.folder.join(machine).join("pid")) {
                let _ = Command::new("kill").args(["-KILL", pid.trim()]).status();
            }
        }
    }
}

/// Whether an output is what the guide shows: what differs from run to run counts as the same, and `…` stands for anything.
#[must_use]
pub fn is_as_shown(shown: &[String], output: &str) -> bool {
    let shown: Vec<String> = shown.iter().map(|line| lasting(line)).collect();
    let lines: Vec<String> = output.trim_end().lines().map(lasting).collect();
    matches_lines(&shown, &lines)
}

fn matches_lines(shown: &[String], lines: &[String]) -> bool {
    match shown.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "…" => {
            (0..=lines.len()).any(|skipped| matches_lines(rest, &lines[skipped..]))
        }
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, others)| matches_line(first, line) && matches_lines(rest, others))
        }
    }
}

fn matches_line(shown: &str, line: &str) -> bool {
    match shown.split_once('…') {
        None => shown == line,
        Some((before, after)) => line.strip_prefix(before).is_some_and(|rest| {
            let ends = (0..=rest.len()).filter(|end| rest.is_char_boundary(*end));
            ends.into_iter().any(|end| matches_line(after, &rest[end..]))
        }),
    }
}

/// A line with what differs from run to run taken out: times, how long something took, sizes, origins, and the ports of those who dial.
fn lasting(line: &str) -> String {
    // The columns of a table are as wide as what is in them.
    let indent = line.len() - line.trim_start().len();
    let words: Vec<String> = line.split_whitespace().map(lasting_word).collect();
    let kept = line[..indent].to_owned() + &words.join(" ");
    ["s", "ms", "B", "kB"].iter().fold(kept, |text, unit| without_numbers_of(&text, unit))
}

fn lasting_word(word: &str) -> String {
    let bare = word.trim_matches(|character: char| "(),;:\"".contains(character));
    let is_time = bare.len() >= 20 && bare.as_bytes().get(10) == Some(&b'T') && bare.ends_with('Z');
    let is_origin = |text: &&str| [8, 13, 18, 23].iter().all(|place| text.as_bytes()[*place] == b'-');
    if let Some(origin) = bare.get(..36).filter(is_origin) {
        return word.replace(origin, "*");
    }
    if let Some(moment) = compact_time(bare) {
        return word.replace(moment, "*");
    }
    let dials = bare.rsplit_once(':').is_some_and(|(host, port)| host.ends_with("127.0.0.1") && port.len() == 5);
    if is_time || dials { word.replace(bare, "*") } else { word.to_owned() }
}

/// A time as names of files have it: `20261129T054302Z`.
fn compact_time(text: &str) -> Option<&str> {
    let is_time = |part: &&str| {
        part.ends_with('Z')
            && part
                .bytes()
                .enumerate()
                .all(|(place, byte)| place == 15 || if place == 8 { byte == b'T' } else { byte.is_ascii_digit() })
    };
    (0..text.len()).filter_map(|begin| text.get(begin..begin + 16)).find(is_time)
}

/// A text without the numbers before a unit: `up 41 s`.
fn without_numbers_of(text: &str, unit: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_unit = |word: Option<&&str>| word.is_some_and(|word| word.trim_end_matches([',', ';']) == unit);
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let kept: Vec<&str> = words
        .iter()
        .enumerate()
        .map(|(index, word)| if is_number(word) && is_unit(words.get(index + 1)) { "*" } else { word })
        .collect();
    kept.join(" ")
}
