//! A conflict is seen with both sides, and restored or dismissed from the page.

use serde_json::json;
use system_tests::{Browser, Cluster, Node, Result, Scene, check, check_equal, fail, scenario, shell};

use crate::{behaved, in_conflict, quantity, record, shows, visit};

const WRITES: [&str; 2] =
    ["UPDATE stock SET qty = 10 WHERE sku = 'A-1'", "UPDATE stock SET qty = 20 WHERE sku = 'A-1'"];

/// WebDriver's codes of keys.
const TAB: &str = "\u{e004}";
const ENTER: &str = "\u{e007}";
const ESCAPE: &str = "\u{e00c}";

#[test]
fn a_conflict_is_seen_with_both_sides_and_restored() {
    scenario(|scene| {
        let (cluster, index) = in_conflict(scene, &[], WRITES)?;
        let node = &cluster.nodes[index];
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        let (record, other) = (record(node)?, &cluster.nodes[1 - index]);
        let cells = browser.run(
            "const row = document.querySelector('.conflict tr.differs');
             return [...row.children].map((cell) => cell.innerText.trim())",
        )?;
        let side = |side: &str| record[side]["row"]["qty"].to_string();
        check!(cells[0].as_str().is_some_and(|cell| cell.ends_with("qty")), "{cells}");
        check_equal!((&cells[1], &cells[2]), (&json!(side("winner")), &json!(side("loser"))));
        check_equal!(browser.run("return document.querySelectorAll('.conflict tr.differs').length")?, 1);
        for text in ["Nodes and links", other.name(), "equal", "scratch", "1 table not synced", "conflict_", "open"] {
            shows(scene, &browser, text)?;
        }
        browser.picture("conflict")?;
        browser.click("Restore the discarded side")?;
        let plan = browser.run("return document.querySelector('dialog .plan').innerText")?;
        check_equal!(plan, format!("qty: {} → {}", side("winner"), side("loser")));
        browser.picture("confirm")?;
        browser.click("Restore")?;
        shows(scene, &browser, "Restored: the discarded side is written back")?;
        quantity(&cluster, &record["loser"]["row"]["qty"])?;
        check_equal!(crate::record(node)?["state"], "restored");
        scene.eventually("the page counts no open conflict", || {
            let tile = browser.run("return document.querySelector('.summary .tile:nth-child(3) b').innerText")?;
            check_equal!(tile, "0");
            Ok(())
        })?;
        shows(scene, &browser, "conflict_restore")?;
        behaved(&browser, node)
    });
}

#[test]
fn with_the_keyboard_alone_while_the_page_is_kept_up_to_date() {
    scenario(|scene| {
        let (cluster, index) = in_conflict(scene, &[], WRITES)?;
        let node = &cluster.nodes[index];
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        let focused = || browser.run("return document.activeElement.innerText");
        let reach = |button: &str| -> Result {
            for _ in 0..60 {
                if focused()?.as_str().is_some_and(|text| text.starts_with(button)) {
                    return Ok(());
                }
                browser.press(TAB)?;
            }
            fail!("{button:?} cannot be reached")
        };
        reach("Restore the discarded side")?;
        check!(
            browser.run("return getComputedStyle(document.activeElement).outlineStyle")? != "none",
            "no focus is seen"
        );
        // The focus and what is selected survive what changes.
        browser.run("getSelection().selectAllChildren(document.querySelector('.conflict h3'))")?;
        passes(scene, &browser)?;
        check!(focused()?.as_str().is_some_and(|text| text.starts_with("Restore the disc")), "the focus is lost");
        check_equal!(browser.run("return getSelection().toString().trim()")?, "stock \"A-1\"");
        browser.press(ENTER)?;
        browser.press(ESCAPE)?;
        check_equal!(browser.run("return document.querySelector('dialog').open")?, false);
        check!(
            focused()?.as_str().is_some_and(|text| text.starts_with("Restore the disc")),
            "the focus does not return"
        );
        check_equal!(record(node)?["state"], "open");
        browser.press(ENTER)?;
        check_equal!(focused()?, "Restore");
        browser.press(ENTER)?;
        shows(scene, &browser, "Restored: the discarded side is written back")?;
        scene.eventually("the outcome has the focus", || {
            check!(focused()?.as_str().is_some_and(|text| text.starts_with("Restored:")), "{}", focused()?);
            Ok(())
        })?;
        quantity(&cluster, &record(node)?["loser"]["row"]["qty"])?;
        behaved(&browser, node)
    });
}

/// Awaits that the page has taken in two more answers.
fn passes(scene: &Scene, browser: &Browser) -> Result {
    let asked =
        "return performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/v1/status')).length";
    let before = browser.run(asked)?.as_u64();
    scene.eventually("the page asks again", || {
        check!(browser.run(asked)?.as_u64() >= before.map(|count| count + 2), "it has not");
        Ok(())
    })
}

#[test]
fn what_is_acted_on_elsewhere_is_told_and_a_dismissal_changes_nothing() {
    scenario(|scene| {
        let writes = [
            "UPDATE stock SET qty = 10; UPDATE stock SET note = 'a' WHERE sku = 'A-2'",
            "UPDATE stock SET qty = 20; UPDATE stock SET note = 'b' WHERE sku = 'A-2'",
        ];
        let (cluster, index) = in_conflict(scene, &[], writes)?;
        let node = &cluster.nodes[index];
        let ids = node.get("/v1/conflicts")?.json()?;
        let count = ids.as_array().map_or(0, Vec::len);
        check!(count >= 2, "{ids}");
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        let id = ids[0]["id"].as_str().unwrap_or_default();
        check_equal!(node.post(&format!("/v1/conflicts/{id}/dismiss"))?.status, 200);
        let states = || {
            browser
                .run("return [...document.querySelectorAll('.conflict header .badge')].map((badge) => badge.innerText)")
        };
        scene.eventually("the page tells that it is dismissed", || {
            let states = states()?;
            check_equal!(states[0], "dismissed", "{states}");
            Ok(())
        })?;
        browser.click("Dismiss …")?;
        browser.click("Dismiss")?;
        shows(scene, &browser, "Dismissed: everything stays as it is")?;
        check_equal!(states()?[1], "dismissed");
        // Its state is another one now: what is asked for anew does not list it.
        browser.run(
            "const state = document.querySelector('.filter select'); state.value = 'dismissed';
             state.dispatchEvent(new Event('change', { bubbles: true }))",
        )?;
        scene.eventually("the filter takes effect", || {
            check_equal!(states()?, json!(["dismissed", "dismissed"]));
            Ok(())
        })?;
        quantity(&cluster, &json!(20))?;
        behaved(&browser, node)
    });
}

#[test]
fn what_cannot_be_restored_says_why() {
    scenario(|scene| {
        let (cluster, index) = in_conflict(scene, &[], WRITES)?;
        let node = &cluster.nodes[index];
        let browser = visit(scene, node)?;
        shows(scene, &browser, "Restore the discarded side")?;
        browser.click("Restore the discarded side")?;
        // Another person is faster.
        let id = record(node)?["id"].as_str().unwrap_or_default().to_owned();
        check_equal!(node.post(&format!("/v1/conflicts/{id}/restore"))?.status, 200);
        browser.click("Restore")?;
        shows(scene, &browser, "Not done: conflict record")?;
        shell(cluster.file(0), "INSERT INTO stock VALUES ('A-9', 9, 'live')")?;
        cluster.settled().map(drop)
    });
}

/// Both sides insert the same keys with other values.
fn many(first: u32, last: u32, quantity: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})
         INSERT INTO stock SELECT 'M-' || i, {quantity}, 'x' FROM n"
    )
}

#[test]
fn long_lists_come_in_pages_and_what_is_new_is_offered() {
    scenario(|scene| {
        let (mut cluster, index) = in_conflict(scene, &[], [&many(1, 45, 1), &many(1, 45, 2)])?;
        let pages = [visit(scene, &cluster.nodes[0])?, visit(scene, &cluster.nodes[1])?];
        let counts = |cluster: &Cluster| -> Result<[usize; 2]> {
            Ok([open_records(&cluster.nodes[0])?, open_records(&cluster.nodes[1])?])
        };
        let before = counts(&cluster)?;
        check!(before[index] > 20, "{before:?} records");
        for (page, count) in pages.iter().zip(before) {
            listed(scene, page, count.min(20))?;
        }
        pages[index].click("Show 20 older")?;
        listed(scene, &pages[index], before[index].min(40))?;
        cluster.nodes[1 - index].stop()?;
        shell(cluster.file(0), &many(100, 102, 1))?;
        shell(cluster.file(1), &many(100, 102, 2))?;
        cluster.start()?;
        cluster.settled()?;
        let after = counts(&cluster)?;
        check!(after != before, "nobody decided anything");
        // Which of the two does is chance.
        for node in [0, 1].into_iter().filter(|node| after[*node] > before[*node]) {
            let (page, new) = (&pages[node], after[node] - before[node]);
            if before[node] > 0 {
                shows(scene, page, &format!("Show {new} newer"))?;
                // What is read stays where it is until then.
                listed(scene, page, before[node].min(if node == index { 40 } else { 20 }))?;
                page.click("Show")?;
            }
            listed(scene, page, after[node].min(20))?;
            page.shows("\"M-10")?;
        }
        behaved(&pages[index], &cluster.nodes[index])
    });
}

/// Awaits that a page lists so many records, none of them twice.
fn listed(scene: &Scene, page: &Browser, count: usize) -> Result {
    scene.eventually("so many are listed", || {
        let ids = page
            .run("return [...document.querySelectorAll('.conflict > article > p > code')].map((id) => id.innerText)")?;
        let ids: Vec<String> = serde_json::from_value(ids)?;
        check_equal!(ids.len(), count);
        check_equal!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), count);
        Ok(())
    })
}

fn open_records(node: &Node) -> Result<usize> {
    let count = node.database_status("shop")?["conflicts"].as_u64();
    Ok(usize::try_from(count.unwrap_or(0))?)
}
