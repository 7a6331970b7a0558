//! Who sees the page, what happens when the daemon is away, and what the page's answers say to browsers.

use system_tests::{Cluster, Result, Scene, Topology, ask_showing, check, check_equal, scenario, shell};

use crate::{SCHEMA, in_conflict, shows, visit};

const WRITES: [&str; 2] =
    ["UPDATE stock SET qty = 10 WHERE sku = 'A-1'", "UPDATE stock SET qty = 20 WHERE sku = 'A-1'"];

fn token(scene: &Scene, name: &str) -> Result<(String, String)> {
    let (path, secret) = (scene.path(format!("{name}.token")), format!("{name}-0123456789abcdef"));
    std::fs::write(&path, &secret)?;
    Ok((format!("{path:?}"), secret))
}

#[test]
fn a_token_is_asked_for_kept_and_forgotten_and_a_reader_changes_nothing() {
    scenario(|scene| {
        let ((all, secret), (reader, readers)) = (token(scene, "common")?, token(scene, "reader")?);
        let peer = format!("auth.peer = [{{ name = \"reports\", token_file = {reader}, role = \"read\" }}]");
        let (cluster, index) = in_conflict(scene, &[&format!("auth.token_file = {all}"), &peer], WRITES)?;
        let node = &cluster.nodes[index];
        let told = || node.log().lines().filter(|line| line.contains("kind=auth")).count();
        let before = told();
        let browser = visit(scene, node)?;
        shows(scene, &browser, "This node asks for a token")?;
        // Nothing is asked for without one, and nothing is told of the node.
        check!(!browser.requests()?.iter().any(|url| url.contains("/v1/")), "it asked without a token");
        check_equal!(told(), before);
        check!(!browser.text()?.contains("shop"), "{}", browser.text()?);
        let enter = |text: &str| -> Result {
            browser.run("const field = document.getElementById('token'); field.focus(); field.select()")?;
            browser.press(text)?;
            browser.press("\u{e007}")
        };
        enter("wrong")?;
        shows(scene, &browser, "Not let in: the token is none that this node knows")?;
        check_equal!(browser.run("return document.activeElement.id")?, "token");
        browser.picture("token")?;
        enter("wröng")?;
        shows(scene, &browser, "Not let in: a token holds letters")?;
        enter(&readers)?;
        shows(scene, &browser, "Restore the discarded side")?;
        check_equal!(browser.run("return [document.cookie, localStorage.length].join()")?, ",0");
        browser.click("Restore the discarded side")?;
        browser.click("Restore")?;
        shows(scene, &browser, "Not done: this token or certificate may read, and change nothing")?;
        // It is kept for the tab.
        browser.open(node.port())?;
        shows(scene, &browser, "Restore the discarded side")?;
        browser.click("Forget the token")?;
        shows(scene, &browser, "This node asks for a token")?;
        check_equal!(browser.run("return sessionStorage.length")?, 0);
        check!(!browser.text()?.contains("shop"), "{}", browser.text()?);
        enter(&secret)?;
        shows(scene, &browser, "Restore the discarded side")?;
        browser.click("Restore the discarded side")?;
        browser.click("Restore")?;
        shows(scene, &browser, "Restored: the discarded side is written back")?;
        check!(!node.log().contains(&readers), "the token is in the log");
        cluster.settled().map(drop)
    });
}

#[test]
fn the_page_tells_when_the_daemon_is_away_and_comes_back_by_itself() {
    scenario(|scene| {
        let (mut cluster, index) = in_conflict(scene, &[], WRITES)?;
        let browser = visit(scene, &cluster.nodes[index])?;
        shows(scene, &browser, "Restore the discarded side")?;
        browser.run("window.same = true")?;
        cluster.nodes[1 - index].stop()?;
        shows(scene, &browser, "0 of 1")?;
        cluster.nodes[index].stop()?;
        shows(scene, &browser, "The daemon does not answer")?;
        browser.shows("Restore the discarded side")?;
        browser.picture("away")?;
        cluster.start()?;
        cluster.settled()?;
        scene.eventually("the page is itself again", || {
            check!(!browser.text()?.contains("does not answer"), "{}", browser.text()?);
            browser.shows("equal")
        })?;
        check_equal!(browser.run("return window.same")?, true);
        // The events of the daemon that was started anew follow those that were known.
        scene.eventually("the page tells both starts", || {
            let starts = browser.run(
                "return [...document.querySelectorAll('.events li')].filter((line) => /sync_start[^]*databases=/.test(line.innerText)).length",
            )?;
            check_equal!(starts, 2);
            Ok(())
        })
    });
}

#[test]
fn changes_are_followed_on_request_and_after_a_restart() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 2, Topology::Line)?;
        cluster.create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT)")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('before', 1, 'unseen')")?;
        cluster.settled()?;
        let browser = visit(scene, &cluster.nodes[0])?;
        shows(scene, &browser, "Follow changes")?;
        check!(!browser.requests()?.iter().any(|url| url.contains("/v1/changes")), "it follows without being asked");
        browser.click("Follow changes")?;
        shows(scene, &browser, "following")?;
        shell(cluster.file(1), "INSERT INTO stock VALUES ('there', 9007199254740993, '<i>there</i>')")?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('here', 2, 'here')")?;
        for text in [
            "stock \"there\"",
            "qty=9007199254740993",
            "note=\"<i>there</i>\"",
            "from b",
            "stock \"here\"",
            "written here",
        ] {
            shows(scene, &browser, text)?;
        }
        cluster.nodes[0].stop()?;
        shows(scene, &browser, "cut off, is tried again")?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('meanwhile', 3, 'x')")?;
        cluster.start()?;
        shows(scene, &browser, "stock \"meanwhile\"")?;
        let seen = browser.run("return document.querySelectorAll('.changes li').length")?;
        check_equal!(seen, 3, "{}", browser.text()?);
        browser.click("Stop")?;
        scene.eventually("it ends", || {
            check!(!browser.text()?.contains("following"), "it goes on");
            Ok(())
        })
    });
}

#[test]
fn answers_say_what_a_browser_may_do_with_them() {
    scenario(|scene| {
        let mut cluster = Cluster::new(scene, "shop", 1, Topology::Line)?;
        cluster.nodes[0].rename("a-name-of-its-own");
        cluster.create(SCHEMA)?;
        cluster.start()?;
        let node = &cluster.nodes[0];
        for path in ["/", "/v1/status", "/v1/events", "/v1/conflicts", "/v1/nothing", "/v1/conflicts?bogus=1"] {
            let head = node.get(path)?.head.to_lowercase();
            for line in ["cache-control: no-store", "x-content-type-options: nosniff", "referrer-policy: no-referrer"] {
                check!(head.contains(line), "{path} lacks {line}: {head}");
            }
        }
        let page = node.get("/")?;
        check!(page.body.len() < 80_000 && page.body.starts_with("<!doctype html>"), "{}", page.body.len());
        for rule in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for"]
        {
            check!(page.head.contains(rule), "{rule} is not in {}", page.head);
        }
        check!(!page.body.contains("shop") && !page.body.contains(node.name()), "the page itself holds data");
        cluster.stop()
    });
}

#[test]
fn the_latest_events_are_told_once() {
    scenario(|scene| {
        let (secret_file, secret) = token(scene, "common")?;
        let mut cluster = Cluster::new(scene, "shop", 1, Topology::Line)?;
        cluster.nodes[0].setting(&format!("auth.token_file = {secret_file}"));
        cluster.nodes[0].guarded();
        cluster.create("CREATE TABLE stock (sku TEXT PRIMARY KEY, qty INTEGER, note TEXT)")?;
        cluster.start()?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A-1', 1, 'old')")?;
        let node = &cluster.nodes[0];
        check_equal!(node.get("/v1/events")?.status, 401);
        let ask = |query: &str| ask_showing(node.port(), "GET", &format!("/v1/events{query}"), &secret);
        let events = ask("")?.json()?;
        let Some(events) = events.as_array().filter(|events| events.len() >= 2) else {
            system_tests::fail!("too few events: {events}")
        };
        check_equal!(events[0]["event"], "sync_start");
        let number = |event: &serde_json::Value| event["number"].as_u64();
        check!(events.windows(2).all(|pair| number(&pair[0]) < number(&pair[1])), "{events:?}");
        for event in events {
            check!(event["time"].is_string() && event["level"].is_string(), "{event}");
            let text = format!("{} ", event["event"].as_str().unwrap_or_default());
            // The log is written a moment later.
            scene.eventually("the log has the event", || {
                check!(node.log().contains(&text), "{event} is not in the log");
                Ok(())
            })?;
        }
        let later = ask(&format!("?after={}", events[0]["number"]))?.json()?;
        check_equal!(later[0]["number"], events[1]["number"]);
        for wrong in ["?after=x", "?after=-1", "?since=1"] {
            check_equal!(ask(wrong)?.status, 400, "{wrong}");
        }
        cluster.stop()
    });
}
