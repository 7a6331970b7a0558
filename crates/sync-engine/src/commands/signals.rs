//! The signals that the daemon minds, from the first moment on.

use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a second request to stop ends the process with, as shells know it for an interrupted command.
const INTERRUPTED: i32 = 130;

/// What SIGHUP asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HangUp {
    /// A terminal that goes away ends the program.
    Stops,
    /// A daemon reads its configuration again.
    Reloads,
}

/// What was asked for by signals.
pub(super) struct Signals {
    stop: CancellationToken,
    reload: Arc<Notify>,
}

impl Signals {
    /// Minds signals from now on: SIGTERM and SIGINT ask to stop, and a second one ends the process at once.
    pub(super) fn register(hang_up: HangUp) -> std::io::Result<Self> {
        let heard = Heard {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            meaning: hang_up,
        };
        let signals = Self { stop: CancellationToken::new(), reload: Arc::default() };
        tokio::spawn(heard.pass_on(signals.stop.clone(), Arc::clone(&signals.reload)));
        Ok(signals)
    }

    /// Waits until somebody asks to stop.
    pub(super) async fn stop(&self) {
        self.stop.cancelled().await;
    }

    /// Waits until somebody asks to read the configuration again. However often it is asked for meanwhile, it is asked for once.
    pub(super) async fn reload(&self) {
        self.reload.notified().await;
    }
}

struct Heard {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    meaning: HangUp,
}

impl Heard {
    async fn pass_on(mut self, stop: CancellationToken, reload: Arc<Notify>) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hang_up.recv() => if self.meaning == HangUp::Reloads {
                    reload.notify_one();
                    continue;
                },
            }
            if stop.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            stop.cancel();
        }
    }
}
