//! Telling how far long work is: over and over in one line of a terminal, else in a line now and then.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The pause between two lines, where there is no terminal.
const LINES: Duration = Duration::from_secs(5);

/// The pause between two states of the line of a terminal.
const FRAMES: Duration = Duration::from_millis(100);

/// The cells of a bar.
const CELLS: u64 = 24;

/// Tells on standard error how far it is.
#[derive(Debug)]
pub(super) struct Progress {
    terminal: bool,
    last: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: Instant::now() }
    }

    /// Tells it if the last time is long enough ago.
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if self.last.elapsed() >= if self.terminal { FRAMES } else { LINES } {
            self.last = Instant::now();
            self.write(&line());
        }
    }

    /// The same with a bar, where there is a terminal.
    pub(super) fn tell_share(&mut self, done: u64, total: u64, line: impl FnOnce() -> String) {
        let terminal = self.terminal;
        self.tell(|| if terminal { format!("[{}] {}", bar(done, total), line()) } else { line() });
    }

    fn write(&self, line: &str) {
        // Where standard error is gone there is nobody to tell.
        let _ = if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{line}\r")
        } else {
            writeln!(std::io::stderr(), "{line}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let full = (u128::from(done) * u128::from(CELLS)).checked_div(u128::from(total)).unwrap_or(0);
    (0..CELLS).map(|cell| if u128::from(cell) < full { '#' } else { ' ' }).collect()
}

#[cfg(test)]
mod tests {
    use super::{CELLS, bar};

    #[test]
    fn a_bar_is_as_full_as_the_share_that_is_done() {
        let full = |done, total| bar(done, total).matches('#').count() as u64;
        assert_eq!(full(0, 0), 0);
        assert_eq!(full(0, 7), 0);
        assert_eq!(full(7, 7), CELLS);
        assert_eq!(full(u64::MAX / 2, u64::MAX), CELLS / 2 - 1);
        assert_eq!(bar(9, 7).len() as u64, CELLS);
    }
}
