//! A browser without a window: Debian's Chromium, driven by its own driver over WebDriver.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value as Json, json};

use crate::{Failure, Result, Running, Scene, check, fail};

/// How long the browser may take for one thing, on a machine that does much else.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where screenshots go, for who wants to look at them; without it none are taken.
const SCREENSHOTS: &str = "SYNC_ENGINE_SCREENSHOTS";

/// A browser with one page; it ends when it is dropped.
pub struct Browser {
    /// Owns the browser's process.
    _driver: Running,
    port: u16,
    session: String,
}

impl Browser {
    /// Starts a browser that keeps nothing, and reaches nothing but this machine.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(scene: &Scene) -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let folder = scene.path(format!("browser-{}", STARTED.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&folder)?;
        let mut command = Command::new("chromedriver");
        command.arg("--port=0").env("TMPDIR", &folder);
        let driver = Running::start(&mut command, &folder.join("driver"))
            .map_err(|failure| Failure::new(format!("{failure}; install chromium and chromium-driver")))?;
        let port = scene.eventually("the driver tells its port", || {
            let output = driver.output();
            let port = output.lines().find_map(|line| line.split_once("successfully on port "));
            port.and_then(|(_, port)| port.trim_end_matches('.').parse().ok()).ok_or_else(|| Failure::new(output))
        })?;
        let mut browser = Self { _driver: driver, port, session: String::new() };
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--window-size=1280,900",
            &profile,
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let session = browser.ask("POST", "", &wanted)?;
        browser.session = format!("/{}", session["sessionId"].as_str().unwrap_or_default());
        Ok(browser)
    }

    /// Opens a page of this machine.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn open(&self, port: u16) -> Result {
        self.ask("POST", "/url", &json!({ "url": format!("http://127.0.0.1:{port}/") })).map(drop)
    }

    /// Runs the body of a function in the page, and returns what it returns.
    ///
    /// # Errors
    /// It throws.
    #[track_caller]
    pub fn run(&self, code: &str) -> Result<Json> {
        self.ask("POST", "/execute/sync", &json!({ "script": code, "args": [] }))
    }

    /// What a person reads on the page.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn text(&self) -> Result<String> {
        Ok(self.run("return document.body.innerText")?.as_str().unwrap_or_default().to_owned())
    }

    /// Checks that a person can read something on the page.
    ///
    /// # Errors
    /// It is not there; what is there is told.
    #[track_caller]
    pub fn shows(&self, text: &str) -> Result {
        let all = self.text()?;
        check!(all.contains(text), "no {text:?} on the page:\n{all}");
        Ok(())
    }

    /// Clicks the first button that begins with a text; while a dialog is open there are only those in it.
    ///
    /// # Errors
    /// There is none that can be seen.
    #[track_caller]
    pub fn click(&self, button: &str) -> Result {
        let found = self.run(&format!(
            "const all = [...(document.querySelector('dialog[open]') ?? document).querySelectorAll('button')];
             const found = all.find((button) => button.checkVisibility() && button.innerText.startsWith({button:?}));
             found?.click(); return found !== undefined"
        ))?;
        check!(found == true, "no button {button:?}:\n{}", self.text()?);
        Ok(())
    }

    /// Types text, or keys by their WebDriver codes, into what has the focus.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn press(&self, keys: &str) -> Result {
        let strokes: Vec<Json> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|stroke| json!({ "type": stroke, "value": key.to_string() })))
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keyboard", "actions": strokes }] });
        self.ask("POST", "/actions", &actions).map(drop)
    }

    /// Gives the page a width and a height, and what a person prefers: `light` or `dark`.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn prefer(&self, width: u32, height: u32, scheme: &str) -> Result {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.command("Emulation.setDeviceMetricsOverride", &size)?;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.command("Emulation.setEmulatedMedia", &json!({ "features": features }))
    }

    fn command(&self, name: &str, parameters: &Json) -> Result {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": name, "params": parameters })).map(drop)
    }

    /// Takes a picture, where somebody wants to have them.
    ///
    /// # Errors
    /// The browser does not answer, or the picture cannot be written.
    pub fn picture(&self, name: &str) -> Result {
        let Some(folder) = std::env::var_os(SCREENSHOTS).map(PathBuf::from) else { return Ok(()) };
        let picture = self.ask("GET", "/screenshot", &Json::Null)?;
        let bytes = BASE64_STANDARD.decode(picture.as_str().unwrap_or_default())?;
        Ok(std::fs::write(folder.join(format!("{name}.png")), bytes)?)
    }

    /// What the page has complained to its console, that was not told before.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.ask("POST", "/se/log", &json!({ "type": "browser" }))?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let complaints = entries.iter().map(|entry| format!("{} {}", entry["level"], entry["message"]));
        Ok(complaints.collect())
    }

    /// The URLs that the page has asked for, that were not told before.
    ///
    /// # Errors
    /// The browser does not answer.
    pub fn requests(&self) -> Result<Vec<String>> {
        let entries = self.ask("POST", "/se/log", &json!({ "type": "performance" }))?;
        let mut requests = Vec::new();
        for entry in entries.as_array().into_iter().flatten() {
            let told: Json = serde_json::from_str(entry["message"].as_str().unwrap_or_default())?;
            let sent = &told["message"]["params"];
            // The browser begins with a page of its own, and with what is in the frames of that.
            let is_own = |page: &str| page.starts_with("chrome:") || page.starts_with("chrome-untrusted:");
            let own = sent["documentURL"].as_str().is_some_and(is_own);
            if told["message"]["method"] == "Network.requestWillBeSent" && !own {
                requests.extend(sent["request"]["url"].as_str().map(str::to_owned));
            }
        }
        Ok(requests)
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, content: &Json) -> Result<Json> {
        let answer = exchange(self.port, method, &format!("/session{}{path}", self.session), content)?;
        let value = answer["value"].clone();
        match value["error"].as_str() {
            Some(error) => fail!("{method} {path}: {error}: {}", value["message"]),
            None => Ok(value),
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver would leave its browser behind.
        let _ = self.ask("DELETE", "", &Json::Null);
    }
}

/// One request to the driver, which speaks HTTP/1.1 alone.
fn exchange(port: u16, method: &str, path: &str, content: &Json) -> Result<Json> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let content = if content.is_null() { String::new() } else { content.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{content}",
        content.len()
    )?;
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}
