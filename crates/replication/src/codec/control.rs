//! Control messages as tagged JSON: `{"from": …, "to": …, "type": "hello", …}`.

use serde::{Deserialize, Serialize};

use crate::codec::CodecError;
use crate::message::{Ack, Bye, Envelope, Hello, MAX_NAME, Message, Problem, Want, shortened, unfit_name};
use crate::origin::{MAX_ORIGINS, MAX_SEQUENCE};
use crate::version_vector::VersionVector;

/// Bytes of a problem's text that are read.
const MAX_PROBLEM: usize = 2_000;

#[derive(Serialize)]
struct Outgoing<'a> {
    from: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a str>,
    #[serde(flatten)]
    control: ControlRef<'a>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ControlRef<'a> {
    Hello(&'a Hello),
    Want(&'a Want),
    Ack(&'a Ack),
    Problem(&'a Problem),
    Bye(&'a Bye),
}

#[derive(Deserialize)]
struct Incoming {
    from: String,
    #[serde(default)]
    to: Option<String>,
    #[serde(flatten)]
    control: Control,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Control {
    Hello(Hello),
    Want(Want),
    Ack(Ack),
    Problem(Problem),
    Bye(Bye),
}

pub(super) fn encode(envelope: &Envelope) -> Result<String, CodecError> {
    let control = match &envelope.message {
        Message::Hello(hello) => ControlRef::Hello(hello),
        Message::Want(want) => ControlRef::Want(want),
        Message::Ack(ack) => ControlRef::Ack(ack),
        Message::Problem(problem) => ControlRef::Problem(problem),
        Message::Bye(bye) => ControlRef::Bye(bye),
        Message::Changes(_) | Message::Packed(_) | Message::Compare(_) | Message::Fingerprints(_) => {
            return Err(CodecError::Unencodable("rows and keys are not a control message"));
        }
    };
    let outgoing = Outgoing { from: &envelope.from, to: envelope.to.as_deref(), control };
    serde_json::to_string(&outgoing).map_err(|_| CodecError::Unencodable("a control message holds what JSON cannot"))
}

pub(super) fn decode(text: &str) -> Result<Envelope, CodecError> {
    let incoming: Incoming = serde_json::from_str(text).map_err(|error| CodecError::Control(error.to_string()))?;
    let message = match incoming.control {
        Control::Hello(hello) => {
            let origins = hello.databases.values().flat_map(|database| database.nodes.values());
            let known = hello.databases.values().flat_map(|database| database.known.iter().map(|(name, _)| name));
            let names = hello.databases.keys().chain(origins).chain([&hello.node]).map(String::as_str).chain(known);
            if names.into_iter().any(|name| unfit_name(name).is_some()) {
                return Err(CodecError::Invalid("a name is empty, too long, or holds a control character"));
            }
            for database in hello.databases.values() {
                check(&database.have)?;
                check(&database.dropped)?;
                database.known.iter().try_for_each(|(_, node)| check(&node.have))?;
                database.received.values().try_for_each(check)?;
            }
            let (version, cluster) = (shortened(&hello.version, MAX_NAME), shortened(&hello.cluster, MAX_NAME));
            Message::Hello(Hello { version, cluster, ..hello })
        }
        Control::Want(want) => {
            check(&want.have)?;
            want.received.iter().try_for_each(|received| check(&received.position))?;
            Message::Want(want)
        }
        Control::Ack(ack) => {
            check(&ack.have)?;
            check(&ack.dropped)?;
            ack.received.iter().try_for_each(|received| check(&received.position))?;
            if ack.clock.raw() < 0 {
                return Err(CodecError::Invalid("a timestamp is negative"));
            }
            Message::Ack(ack)
        }
        Control::Problem(problem) => {
            // It is told to people, and remembered.
            let table = problem.table.map(|table| shortened(&table, MAX_NAME));
            Message::Problem(Problem { text: shortened(&problem.text, MAX_PROBLEM), table, ..problem })
        }
        Control::Bye(bye) => Message::Bye(bye),
    };
    Ok(Envelope { from: incoming.from, to: incoming.to, message })
}

fn check(vector: &VersionVector) -> Result<(), CodecError> {
    if vector.len() > MAX_ORIGINS {
        return Err(CodecError::Invalid("a version vector names more origins than a database may know"));
    }
    if vector.iter().all(|(_, sequence)| sequence <= MAX_SEQUENCE) {
        Ok(())
    } else {
        Err(CodecError::Invalid("a sequence is larger than sequences can be"))
    }
}
