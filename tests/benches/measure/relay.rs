//! The least that could bring a row from one file to another: told of a commit, it sends the row over TCP and commits it there.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use rusqlite::params;
use system_tests::{Failure, Result, fail};

use crate::application;

/// Both ends of a relay: a process that is told and sends, and one that receives and writes.
pub(crate) struct Relay {
    sender: Child,
    told: Option<ChildStdin>,
    receiver: Child,
}

impl Relay {
    /// Starts one that writes to `file`.
    pub(crate) fn start(file: &Path) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut receiver =
            Command::new(&program).args(["relay", "receive"]).arg(file).stdout(Stdio::piped()).spawn()?;
        let mut port = String::new();
        let Some(output) = receiver.stdout.take() else { fail!("no output") };
        BufReader::new(output).read_line(&mut port)?;
        let mut sender = Command::new(&program).args(["relay", "send", port.trim()]).stdin(Stdio::piped()).spawn()?;
        let told = sender.stdin.take();
        Ok(Self { sender, told, receiver })
    }

    /// Tells it of a committed row.
    pub(crate) fn tell(&mut self, id: u64) -> Result {
        let Some(told) = &mut self.told else { fail!("it was stopped") };
        Ok(told.write_all(&id.to_be_bytes())?)
    }

    /// Ends both.
    pub(crate) fn stop(mut self) -> Result {
        self.told = None;
        for child in [&mut self.sender, &mut self.receiver] {
            if !child.wait()?.success() {
                return Err(Failure::new("the relay failed"));
            }
        }
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        for child in [&mut self.sender, &mut self.receiver] {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The processes: `relay receive FILE` and `relay send PORT`.
pub(crate) fn serve(arguments: &[String]) -> Result {
    match arguments {
        [role, file] if role == "receive" => receive(Path::new(file)),
        [role, port] if role == "send" => send(port.parse()?),
        _ => fail!("relay receive FILE, or relay send PORT"),
    }
}

/// The row of a key is made here, which takes less than reading it.
fn send(port: u16) -> Result {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    let mut input = std::io::stdin().lock();
    let mut id = [0; 8];
    while input.read_exact(&mut id).is_ok() {
        let (name, qty, price, note) = application::row(u64::from_be_bytes(id));
        let mut message = id.to_vec();
        message.extend(qty.to_be_bytes());
        message.extend(price.to_be_bytes());
        for text in [name, note] {
            message.extend(u32::try_from(text.len())?.to_be_bytes());
            message.extend(text.as_bytes());
        }
        stream.write_all(&message)?;
    }
    Ok(())
}

fn receive(file: &Path) -> Result {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?.port());
    let conn = application::open(file)?;
    let (stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut insert = conn.prepare("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut number = [0; 8];
    while stream.read_exact(&mut number).is_ok() {
        let id = i64::from_be_bytes(number);
        stream.read_exact(&mut number)?;
        let qty = i64::from_be_bytes(number);
        stream.read_exact(&mut number)?;
        let price = f64::from_be_bytes(number);
        let mut texts = Vec::new();
        for _ in 0..2 {
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let mut text = vec![0; usize::try_from(u32::from_be_bytes(length))?];
            stream.read_exact(&mut text)?;
            texts.push(String::from_utf8(text)?);
        }
        insert.execute(params![id, texts[0], qty, price, texts[1]])?;
    }
    Ok(())
}
