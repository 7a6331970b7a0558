//! Where events go: the log, and the hook on a thread of its own. Owns the hook's queue and thread; must not know what events
//! mean.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use sqlite_store::RowOperation;
use tracing::Level;

use crate::change_event::ChangeEvent;
use crate::event::recent::{Numbered, Recent};
use crate::event::{Event, EventName, TARGET, command_hook};
use crate::metrics::Metrics;

/// Events that may wait for the hook.
const HOOK_QUEUE: usize = 1024;

/// How long closing waits for the hook to see what is queued.
const HOOK_GRACE: Duration = Duration::from_secs(2);

/// How often closing looks whether it has.
const HOOK_CHECK: Duration = Duration::from_millis(5);

/// A function that sees every event.
pub type LogHook = dyn Fn(&Event) + Send + Sync;

/// What sees the events beside the log.
enum Target {
    Function(Arc<LogHook>),
    Command(Vec<String>),
}

impl Target {
    /// Shows it an event; what went wrong, if something did.
    fn call(&self, event: &Event) -> Result<(), String> {
        match self {
            Self::Function(hook) => {
                catch_unwind(AssertUnwindSafe(|| hook(event))).map_err(|_| "the hook panicked".to_owned())
            }
            Self::Command(command) => command_hook::run(command, event),
        }
    }
}

/// Where events go: the log, and the hook if there is one. Clones are the same sink.
#[derive(Clone, Default)]
pub struct EventSink {
    metrics: Arc<Metrics>,
    hook: Arc<RwLock<Option<Arc<Hook>>>>,
    recent: Arc<Recent>,
}

impl fmt::Debug for EventSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventSink").field("hook", &self.hook().is_some()).finish()
    }
}

/// The hook's thread and its queue: a slow hook holds up nobody.
struct Hook {
    queue: Mutex<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Events in the queue.
    waiting: Arc<AtomicUsize>,
    /// Whether it sees single rows whatever the log's level: a process for each would be too much.
    sees_rows: bool,
}

/// The way to the hook.
struct Queue {
    sender: Option<SyncSender<Event>>,
    /// Events that the hook missed since it last kept up.
    missed: u64,
}

impl EventSink {
    /// A sink with a hook. Without a thread for it the hook is never called, which the log says.
    pub fn with_hook(hook: Arc<LogHook>) -> Self {
        Self::of(Hook::start(Target::Function(hook), true))
    }

    /// A sink with a hook that sees single rows only where the log does.
    pub fn with_event_hook(hook: Arc<LogHook>) -> Self {
        Self::of(Hook::start(Target::Function(hook), false))
    }

    /// A sink that runs a command for each event, with the event as a line of JSON on its standard input. It sees single rows
    /// only where the log does.
    pub fn with_command(command: Vec<String>) -> Self {
        Self::of(Hook::start(Target::Command(command), false))
    }

    fn of(hook: Option<Arc<Hook>>) -> Self {
        Self { hook: Arc::new(RwLock::new(hook)), ..Self::default() }
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Has another command, or none, take the place of the hook. The one before sees what is queued, for two seconds at most.
    pub(crate) async fn replace_command(&self, command: Vec<String>) {
        let next = if command.is_empty() { None } else { Hook::start(Target::Command(command), false) };
        let last = std::mem::replace(&mut *self.hook.write().unwrap_or_else(PoisonError::into_inner), next);
        if let Some(last) = last {
            last.close().await;
        }
    }

    fn hook(&self) -> Option<Arc<Hook>> {
        self.hook.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Logs an event and hands it to the hook. Never waits for the hook.
    pub fn emit(&self, event: Event) {
        log(&event);
        self.metrics.count(&event);
        self.recent.note(&event);
        if let Some(report) = self.hook().and_then(|hook| hook.hand_over(event, &self.metrics)) {
            log(&report);
            self.recent.note(&report);
        }
    }

    /// The latest events with larger numbers than this one, the oldest first.
    pub(crate) fn recent(&self, after: u64) -> Vec<Numbered> {
        self.recent.after(after)
    }

    /// Whether anybody wants to see single rows.
    pub(crate) fn wants_changes(&self) -> bool {
        self.hook().is_some_and(|hook| hook.sees_rows) || tracing::enabled!(target: TARGET, Level::DEBUG)
    }

    /// Logs a row that a peer's change wrote.
    pub(crate) fn change(&self, operation: RowOperation, change: &ChangeEvent) {
        if !self.wants_changes() {
            return;
        }
        self.emit(
            Event::new(crate::change_event::event_name(operation))
                .field("database", change.database.as_str())
                .field("table", change.table.as_str())
                .field("key", change.key.to_string())
                .field("node", change.node.as_str())
                .field("id", change.id.as_str()),
        );
    }

    /// Waits until the hook has seen what is queued, for two seconds at most. Nothing reaches it afterwards.
    pub async fn close(&self) {
        if let Some(hook) = self.hook() {
            hook.close().await;
        }
    }
}

impl Hook {
    /// Starts the hook's thread; without one there is no hook, which the log says.
    fn start(target: Target, sees_rows: bool) -> Option<Arc<Self>> {
        let (sender, receiver) = sync_channel(HOOK_QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let taken = Arc::clone(&waiting);
        let thread = std::thread::Builder::new()
            .name("log hook".to_owned())
            .spawn(move || call_hook(&target, &receiver, &taken));
        match thread {
            Ok(thread) => Some(Arc::new(Self {
                queue: Mutex::new(Queue { sender: Some(sender), missed: 0 }),
                thread: Mutex::new(Some(thread)),
                waiting,
                sees_rows,
            })),
            Err(error) => {
                log(&hook_error(&format!("no thread for the hook: {error}")));
                None
            }
        }
    }

    async fn close(&self) {
        let missed = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.sender = None;
            std::mem::take(&mut queue.missed)
        };
        if missed > 0 {
            log(&hook_error("the hook was too slow").field("missed", missed));
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // Asked instead of joined: a thread of the runtime that joined a hung hook would keep the runtime from ending.
        let finished = async {
            while !thread.is_finished() {
                tokio::time::sleep(HOOK_CHECK).await;
            }
        };
        if tokio::time::timeout(HOOK_GRACE, finished).await.is_err() {
            log(&hook_error("the hook did not finish in time"));
        }
    }

    /// Puts an event into the queue. Answers what there is to report: the first event of a burst that finds no room, and,
    /// once the hook has worked half of the queue off, how many they were.
    fn hand_over(&self, event: Event, metrics: &Metrics) -> Option<Event> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the hook's thread can take it.
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        match queue.sender.as_ref().map(|sender| sender.try_send(event)) {
            Some(Ok(())) => {
                if queue.missed == 0 || waiting >= HOOK_QUEUE / 2 {
                    return None;
                }
                let missed = std::mem::take(&mut queue.missed);
                Some(hook_error("the hook keeps up again").field("missed", missed))
            }
            failed => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                if !matches!(failed, Some(Err(TrySendError::Full(_)))) {
                    return None;
                }
                queue.missed += 1;
                metrics.hook_missed();
                (queue.missed == 1).then(|| hook_error("the hook is too slow, events pass it by"))
            }
        }
    }
}

fn call_hook(target: &Target, queue: &Receiver<Event>, waiting: &AtomicUsize) {
    while let Ok(event) = queue.recv() {
        waiting.fetch_sub(1, Ordering::Relaxed);
        if let Err(reason) = target.call(&event) {
            log(&hook_error(&reason).field("during", event.name.as_str()));
        }
    }
}

fn hook_error(reason: &str) -> Event {
    Event::new(EventName::LogHookError).field("reason", reason)
}

/// One line of the log. The fields travel as one JSON text, from which the log's format makes its own.
fn log(event: &Event) {
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: TARGET,
                $level,
                event = event.name.as_str(),
                fields = %serde_json::to_string(event).unwrap_or_default()
            )
        };
    }
    match event.name.level() {
        Level::ERROR => line!(Level::ERROR),
        Level::WARN => line!(Level::WARN),
        Level::INFO => line!(Level::INFO),
        _ => line!(Level::DEBUG),
    }
}

#[cfg(test)]
mod tests {
    use super::{EventSink, HOOK_QUEUE};
    use crate::event::{Event, EventName};
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn a_hook_that_panics_is_called_again() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        let sink = EventSink::with_hook(Arc::new(move |event: &Event| {
            noted.lock().unwrap().push(event.name);
            assert!(event.name != EventName::SyncStart, "on purpose");
        }));
        sink.emit(Event::new(EventName::SyncStart));
        sink.emit(Event::new(EventName::SyncComplete));
        sink.close().await;
        let seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        assert_eq!(*seen, [EventName::SyncStart, EventName::SyncComplete]);
    }

    #[test]
    fn a_burst_that_the_hook_misses_is_reported_at_its_begin_and_its_end() {
        let (step, steps) = std::sync::mpsc::channel::<()>();
        let steps = Mutex::new(steps);
        let sink = EventSink::with_hook(Arc::new(move |_: &Event| {
            let _ = steps.lock().unwrap().recv();
        }));
        let hook = sink.hook().unwrap();
        let mut reports = Vec::new();
        // One event is with the hook already, or not yet.
        for _ in 0..HOOK_QUEUE + 10 {
            reports.extend(hook.hand_over(Event::new(EventName::SyncRetry), sink.metrics()));
        }
        let reasons = |reports: &[Event]| reports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(reasons(&reports), ["log_hook_error reason=\"the hook is too slow, events pass it by\""]);
        for _ in 0..HOOK_QUEUE {
            step.send(()).unwrap();
        }
        while hook.waiting.load(Ordering::Relaxed) >= HOOK_QUEUE / 2 {
            std::thread::yield_now();
        }
        let missed = hook.queue.lock().unwrap().missed;
        assert!((9..=10).contains(&missed), "{missed}");
        let end = hook.hand_over(Event::new(EventName::SyncRetry), sink.metrics()).unwrap().to_string();
        assert_eq!(end, format!("log_hook_error reason=\"the hook keeps up again\" missed={missed}"));
        assert_eq!(hook.hand_over(Event::new(EventName::SyncRetry), sink.metrics()), None);
    }

    #[test]
    fn a_hook_that_hangs_holds_up_nobody() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let sink = EventSink::with_hook(Arc::new(move |_: &Event| {
            let _ = hold.lock().unwrap().recv();
        }));
        for _ in 0..3_000 {
            sink.emit(Event::new(EventName::SyncRetry));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(sink.close());
        // A runtime waits for what runs in its pool: this returns although the hook still hangs.
        drop(runtime);
        assert_eq!(release.send(()), Ok(()));
    }
}
