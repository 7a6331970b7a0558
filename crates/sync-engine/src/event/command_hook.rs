//! The hook command: a program that is run for each event, with the event as one line of JSON on its standard input.
//! Runs on the hook's own thread; owns the child for as long as it lives.

use std::io::Write as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::event::Event;

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked whether the program has ended.
const CHECK: Duration = Duration::from_millis(5);

/// Runs the command for an event.
///
/// # Errors
/// It cannot be started, fails, or takes too long; why, for the log. The program is not left running then; what it started
/// itself is its own.
pub(super) fn run(command: &[String], event: &Event) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    let line = serde_json::to_string(event).map_err(|error| error.to_string())?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{program} cannot be started: {error}"))?;
    let input = child.stdin.take();
    // A program that does not read must not hold up this thread: it is waited for beside.
    let writing = std::thread::spawn(move || input.map_or(Ok(()), |mut input| writeln!(input, "{line}")));
    let status = wait(&mut child).map_err(|reason| format!("{program} {reason}"))?;
    if !status.success() {
        return Err(format!("{program} ended with {status}"));
    }
    // Something that the program started may hold its input open and not read it either.
    match writing.is_finished().then(|| writing.join()) {
        // A program that does not want to know the event and succeeds is content.
        Some(Ok(Err(error))) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("{program}: {error}")),
        _ => Ok(()),
    }
}

/// Waits for the program, and ends it when its time is over.
fn wait(child: &mut Child) -> Result<ExitStatus, String> {
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(status),
            Ok(None) if begun.elapsed() < LIMIT => std::thread::sleep(CHECK),
            ended => {
                // It may end just now; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(match ended {
                    Err(error) => format!("cannot be waited for: {error}"),
                    Ok(_) => format!("was ended after {} s", LIMIT.as_secs()),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::run;
    use crate::event::{Event, EventName};

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_event_is_one_line_on_standard_input() {
        let event = Event::new(EventName::PeerLost).field("node", "oslo");
        let read = r#"read line && case "$line" in *'"event":"peer_lost","node":"oslo"}') exit 0;; esac; exit 3"#;
        assert_eq!(run(&shell(read), &event), Ok(()));
        assert_eq!(run(&shell("exit 0"), &event), Ok(()));
        let large = Event::new(EventName::PeerLost).field("reason", "x".repeat(1 << 20));
        assert_eq!(run(&shell("exit 0"), &large), Ok(()));
        assert_eq!(run(&shell("cat > /dev/null"), &large), Ok(()));
    }

    #[test]
    fn failures_say_what_failed() {
        let event = Event::new(EventName::PeerLost);
        assert_eq!(run(&shell("exit 4"), &event), Err("sh ended with exit status: 4".to_owned()));
        let missing = run(&["/no/such/program".to_owned()], &event).unwrap_err();
        assert!(missing.starts_with("/no/such/program cannot be started"), "{missing}");
    }
}
