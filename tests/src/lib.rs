//! The harness of the whole-system tests: real daemons, real files, real writers.
//!
//! It owns the life of daemons and writers as processes, and the comparison of the files that they leave. It knows the
//! commands, the configuration, the log and the HTTP answers of `sync-engine`, and nothing of its insides: no crate of
//! the workspace is linked here but `replication`, whose messages peers speak that do not keep to the protocol, and no writer
//! shares a process with a daemon.
//!
//! A test is a [`scenario`]: it gets a [`Scene`], the folder in which everything happens, makes [`Node`]s in it, lets
//! Python and the `sqlite3` shell write, and awaits conditions with [`Scene::eventually`].

mod binary;
mod browser;
mod cluster;
mod compare;
mod crash;
mod failure;
mod follower;
mod guide;
mod hostile;
mod http;
mod machine;
mod message_proxy;
mod node;
mod node_config;
mod node_log;
mod process;
mod proxy;
mod scene;
mod writer;

pub use binary::sync_engine;
pub use browser::Browser;
pub use cluster::{Cluster, Topology};
pub use compare::{
    Cell, Contents, check_integrity, contents, differences, log_is_drained, query, query_text, same_contents,
};
pub use crash::{Crash, Crasher, fail_points};
pub use failure::{Failure, Result};
pub use follower::{ChangeLog, Follower};
pub use guide::{Machines, Step, is_as_shown, steps};
pub use hostile::{HostilePeer, claim, hello};
pub use http::{HttpAnswer, ask_showing, get, get_as, post, post_as, post_json};
pub use machine::{DiskFault, Machine};
pub use message_proxy::MessageProxy;
pub use node::{Node, free_port};
pub use node_log::logged;
pub use process::{Finished, Running, Signal, run_to_end};
pub use proxy::Proxy;
pub use scene::{DEADLINE, Scene, scenario};
pub use writer::{data_file, python, python_code, python_script, python_with, shell, while_locked};
