//! The thread of a database: there is one while the file is open. Who waits for a file that is [asleep](super::sleeping) needs none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Command, Worker};
use crate::database::DatabaseEvent;
use crate::error::StoreError;
use crate::pulse::Pulse;

/// How long a file that is asleep is looked at by the patrol alone.
const LOOK: Duration = Duration::from_secs(30);

/// The pause between tries to get a thread, where the system gives none.
const RETRY: Duration = Duration::from_secs(1);

/// What a database hears, and how it shows that it is alive.
pub(crate) struct Line {
    pub(crate) commands: flume::Receiver<Command>,
    pub(crate) pulse: Pulse,
}

/// What the thread of a database begins with.
struct Beginning {
    worker: Worker,
    line: Line,
    first: Option<Command>,
}

/// Starts the thread of a database.
///
/// # Errors
/// The system gives none.
pub(crate) fn start(worker: Worker, line: Line) -> Result<(), StoreError> {
    begin(Box::new(Beginning { worker, line, first: None })).map_err(|(_, source)| StoreError::Thread { source })
}

/// Starts it, or returns what it was to begin with.
fn begin(beginning: Box<Beginning>) -> Result<(), (Option<Box<Beginning>>, std::io::Error)> {
    let name = format!("db {}", beginning.worker.name);
    // What a thread that does not come about was given would be gone.
    let given = Arc::new(Mutex::new(Some(beginning)));
    let take = |given: &Mutex<Option<_>>| given.lock().unwrap_or_else(PoisonError::into_inner).take();
    let taken = Arc::clone(&given);
    let run = move || {
        let Some(mut beginning) = take(&taken) else { return };
        let first = beginning.first.take();
        beginning.worker.run(&beginning.line, first);
        if beginning.worker.is_asleep() {
            let runtime = beginning.worker.runtime.clone();
            runtime.spawn(sleep(beginning));
        }
    };
    match std::thread::Builder::new().name(name).spawn(run) {
        Ok(_) => Ok(()),
        Err(source) => Err((take(&given), source)),
    }
}

/// Waits until something happens, and starts the thread again then.
async fn sleep(mut beginning: Box<Beginning>) {
    if !something_happens(&mut beginning).await {
        return;
    }
    let mut told = false;
    while let Err((Some(back), source)) = begin(beginning) {
        beginning = back;
        if beginning.worker.is_closing() {
            return;
        }
        if !std::mem::replace(&mut told, true) {
            let error = StoreError::Thread { source };
            let (kind, reason, remedy) = (error.kind(), error.to_string(), error.remedy());
            let event = DatabaseEvent::Failed { kind, reason, remedy, retry_in: RETRY };
            let (events, name) = (beginning.worker.events.clone(), Arc::clone(&beginning.worker.name));
            // If nobody listens, there is nobody to tell.
            let _ = events.send((name, event)).await;
        }
        tokio::time::sleep(RETRY).await;
        beginning.line.pulse.beat();
    }
}

/// Waits until there is something to do; false if there will not be.
async fn something_happens(beginning: &mut Beginning) -> bool {
    let Beginning { worker, line, first } = beginning;
    loop {
        let heard = tokio::time::timeout(LOOK, line.commands.recv_async()).await;
        line.pulse.beat();
        // Before the look: what is written after that raises it again.
        worker.wake.take();
        match heard {
            Ok(Err(flume::RecvError::Disconnected) | Ok(Command::Close)) => return false,
            _ if worker.is_closing() => return false,
            Ok(Ok(command)) if worker.is_news(&command) => {
                *first = Some(command);
                return true;
            }
            _ if worker.sleeps_on() => {}
            _ => return true,
        }
    }
}
