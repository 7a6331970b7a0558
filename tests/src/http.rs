//! One HTTP request at a time, without a client library.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Failure, Result};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a server answered.
#[derive(Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The header lines.
    pub head: String,
    /// The content.
    pub body: String,
}

impl HttpAnswer {
    /// The content as JSON.
    ///
    /// # Errors
    /// The status is not 200, or it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        if self.status != 200 {
            return Err(Failure::new(format!("HTTP {}: {}", self.status, self.body)));
        }
        serde_json::from_str(&self.body).map_err(|error| Failure::new(format!("{error}: {}", self.body)))
    }
}

/// Gets a path from a loopback port.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn get(port: u16, path: &str) -> Result<HttpAnswer> {
    get_as(port, path, &format!("127.0.0.1:{port}"))
}

/// Gets a path from a loopback port, calling the server by a name.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn get_as(port: u16, path: &str, host: &str) -> Result<HttpAnswer> {
    request(port, ("GET", path, ""), host)
}

/// Posts nothing to a path of a loopback port.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn post(port: u16, path: &str) -> Result<HttpAnswer> {
    post_as(port, path, &format!("127.0.0.1:{port}"))
}

/// Posts nothing to a path of a loopback port, calling the server by a name.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn post_as(port: u16, path: &str, host: &str) -> Result<HttpAnswer> {
    request(port, ("POST", path, ""), host)
}

/// Posts JSON to a path of a loopback port.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn post_json(port: u16, path: &str, json: &str) -> Result<HttpAnswer> {
    request(port, ("POST", path, json), &format!("127.0.0.1:{port}"))
}

/// Asks for a path of a loopback port with a method, and shows a token.
///
/// # Errors
/// Nobody listens, or the answer is not HTTP.
pub fn ask_showing(port: u16, method: &str, path: &str, token: &str) -> Result<HttpAnswer> {
    let host = format!("127.0.0.1:{port}\r\nAuthorization: Bearer {token}");
    request(port, (method, path, ""), &host)
}

fn request(port: u16, (method, path, json): (&str, &str, &str), host: &str) -> Result<HttpAnswer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0, so that the answer is neither chunked nor kept open.
    let content = match json.len() {
        0 => String::new(),
        length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
    };
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{content}Connection: close\r\n\r\n{json}")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| Failure::new(format!("no HTTP answer: {answer:?}")))?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| Failure::new(format!("no HTTP status: {head:?}")))?;
    Ok(HttpAnswer { status, head: head.to_owned(), body: body.to_owned() })
}
